"""`python -m nas_attn` is the command `nas-attn`."""

import sys

from nas_attn.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
