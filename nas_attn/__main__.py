"""`python -m nas_attn` is the command `nas-attn`."""

import os
import signal
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; Ctrl-C ends it also while its modules are loaded.

    Args:
        arguments: Those of the command; None takes those of this process, which then ends with its command.
    """
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))
    try:
        from nas_attn.cli.commands import main as run

        code = run(arguments)
        exec("")  # Python ends with the signal itself if Ctrl-C came in such a call, and forgets it in the next one
        if arguments is None:
            from nas_attn.cli.ending import end_without_waiting

            end_without_waiting(code)
        return code
    finally:
        signal.signal(signal.SIGINT, before)


if __name__ == "__main__":
    sys.exit(main())
