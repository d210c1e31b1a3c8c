"""The main job: `python run_search.py ARGS` is `nas-attn search ARGS`."""

import sys

from nas_attn.__main__ import main

if __name__ == "__main__":
    code = main(["search", *sys.argv[1:]])

    from nas_attn.cli.ending import end_without_waiting  # typer is loaded after Ctrl-C is taken

    end_without_waiting(code)
    sys.exit(code)
