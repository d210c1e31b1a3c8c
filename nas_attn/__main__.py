"""`python -m nas_attn` is the command `nas-attn`."""

import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; Ctrl-C ends it also while its modules are loaded."""
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        from nas_attn.cli.commands import main as run

        return run(arguments)
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
