"""`python -m nas_attn` works as the command `nas-attn` does."""

import sys

from nas_attn.cli.commands import main

if __name__ == "__main__":
    sys.exit(main())
