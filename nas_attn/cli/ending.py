"""The end of a command: its exit code, what it says about an error, and the signals that end it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType, ModuleType

import typer

from nas_attn.errors import MOST_SHOWN, Interrupted, NasAttnError, RunError, in_plain_words, nearest, of_system

INTERRUPTED = 130
"""Exit code after Ctrl-C (SIGINT), SIGTERM or SIGHUP, in every stage of every command."""

LEAVE_SECONDS = 5.0
"""Time for what a training left running to end, once its command has."""

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


@contextmanager
def interruptible() -> Iterator[None]:
    """Context manager: the first signal raises KeyboardInterrupt, the second ends the process at once.

    A run installs handlers of its own while its ledger is open. SIGHUP stays ignored under `nohup`. Python receives
    signals only in the main thread; in another thread this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    taken: list[int] = []

    def take(number: int, _: FrameType | None) -> None:
        if taken:
            os._exit(INTERRUPTED)
        taken.append(number)
        raise KeyboardInterrupt

    wanted = [name for name in SIGNALS if name is signal.SIGINT or signal.getsignal(name) is not signal.SIG_IGN]
    before = {name: signal.signal(name, take) for name in wanted}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def end_without_waiting(code: int, seconds: float = LEAVE_SECONDS) -> None:
    """Let this process end with its command although trainings left threads or processes for which Python would wait.

    They are given this time to end by themselves. Where none is left the process ends now, after Ctrl-C or if none of
    the user's modules was imported: Python takes one to two seconds to take the modules apart, whereby it completes the
    files that theirs left open.

    Args:
        code: Exit code of the process.
    """
    main = threading.main_thread()
    threads = [thread for thread in threading.enumerate() if thread is not main and not thread.daemon]
    processes = sys.modules["multiprocessing"].active_children() if "multiprocessing" in sys.modules else []
    if not threads and (code == INTERRUPTED or not (processes or _users_modules())):
        with suppress(Exception):
            atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError, AttributeError):  # closed, or none
                stream.flush()
        os._exit(code)
    if not threads and not [process for process in processes if not process.daemon]:
        return

    def end() -> None:
        time.sleep(seconds)
        for process in processes:
            process.kill()
        os._exit(code)

    threading.Thread(target=end, daemon=True).start()


def _users_modules() -> list[str]:
    """Return the names of the imported modules that belong to no installed package, nor to Python or this package."""
    installed = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    known = tuple(os.path.join(folder, "") for folder in (*installed, str(Path(__file__).resolve().parents[1])))
    modules = [module for module in [*sys.modules.values()] if isinstance(module, ModuleType)]
    files = {module.__name__: vars(module).get("__file__") for module in modules if module.__name__ != "__main__"}
    return [name for name, file in files.items() if isinstance(file, str) and not file.startswith(known)]


def working_folder() -> str:
    """Return the working folder. Raises: RunError if it was deleted."""
    try:
        return os.getcwd()
    except OSError as error:
        name = in_plain_words(os.environ.get("PWD", "it"))
        raise RunError(
            f"The working folder must exist, but {name} was deleted or cannot be read ({error.strerror}): change to "
            "another folder."
        ) from None


def print_error(error: BaseException, *, debug: bool) -> int:
    """Print what an error says in one sentence, and return the exit code of the command."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, KeyboardInterrupt):
        typer.echo("Interrupted.", err=True)
        return INTERRUPTED
    if isinstance(error, Interrupted):
        typer.echo(in_plain_words(error, MOST_SHOWN), err=True)
        return error.exit_code
    if isinstance(error, NasAttnError | typer.TyperException | typer.Abort):
        typer.echo(f"Error: {_sentence(error)}", err=True)
        return int(getattr(error, "exit_code", INTERRUPTED))
    if isinstance(error, OSError) and error.strerror:
        typer.echo(f"Error: {of_system(error)} (--debug shows the traceback.)", err=True)
        return 1
    typer.echo(
        f"Error: {type(error).__name__}: {in_plain_words(error, MOST_SHOWN)} (--debug shows the traceback.)", err=True
    )
    return 1


def _sentence(error: BaseException) -> str:
    """Return the sentence of an error; for an unknown option, with the nearest one."""
    possible = getattr(error, "possibilities", None)
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and possible:
        longer = [name for name in sorted(possible) if name.startswith(option)]
        close = longer[0] if longer else nearest(option, possible)
        return f"Unknown option '{option}': did you mean '{close}'?" if close else f"Unknown option '{option}'."
    if isinstance(error, typer.TyperException):
        return in_plain_words(error.format_message(), MOST_SHOWN)
    return in_plain_words(error, MOST_SHOWN)


def warn(sentence: str) -> None:
    """Print a sentence beside the output."""
    print(in_plain_words(sentence, MOST_SHOWN), file=sys.stderr)
