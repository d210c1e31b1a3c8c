"""The main job: `python run_search.py ARGS` is `nas-attn search ARGS`."""

import sys

from nas_attn.__main__ import main

if __name__ == "__main__":
    sys.exit(main(["search", *sys.argv[1:]]))
