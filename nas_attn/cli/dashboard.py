"""Serves Optuna's dashboard of a run, alone or beside a search; it reads a copy of the ledger and changes nothing."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from nas_attn.cli.dashboard_guard import is_loopback
from nas_attn.errors import ConfigError, Interrupted, RunError, first_line, nearest

log = logging.getLogger(__name__)

LEDGER = "study.db"
LOCAL = "127.0.0.1"
NICENESS = 10
"""Of the process beside a search: the trials go first."""


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in its own thread, so that a slow plot does not block the page."""

    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Write a failed answer to the log: most often the browser went away before its end."""
        log.info("the dashboard could not answer %s: %r", client_address, sys.exception())


class _SilentHandler(WSGIRequestHandler):
    """Prints neither requests nor tracebacks."""

    def log_message(self, format: str, *args: Any) -> None:
        """Print nothing."""

    def get_stderr(self) -> Any:
        """Return where an application reports its errors."""
        return StringIO()


def serve(run: Path, *, host: str, port: int, announce: Callable[[str], Any]) -> None:
    """Serve the dashboard of `run` until Ctrl-C.

    Args:
        announce: Prints a line: the address once the server answers.

    Raises: RunError if the folder contains no ledger; ConfigError if the address is not available; Interrupted at the
    end.
    """
    if not is_loopback(host):
        announce(f"Whoever reaches {host} can read this run: only --host {LOCAL} keeps it to this machine.")
    with make_dashboard(run, host=host, port=port) as server:
        shown = f"[{host}]" if ":" in host else host
        announce(f"Dashboard of {run} (read-only): http://{shown}:{server.server_port}/  Press Ctrl-C to stop it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            raise Interrupted("The dashboard has stopped; the run is not affected.") from None


def make_dashboard(run: Path, *, host: str, port: int) -> WSGIServer:
    """Return a server that listens on `host` and `port` but does not serve yet; port 0 finds a free one.

    Raises: RunError if the folder contains no ledger; ConfigError if the address is not available.
    """
    _check_ledger(run)
    return _server(run, _listen(host, port), (host,))


@contextmanager
def beside(run: Path, announce: Callable[[str], Any]) -> Iterator[None]:
    """Context manager: serve the dashboard of `run`, which need not exist yet, in a process of its own.

    The process has a low priority, ends with the context, and ends with this process if that is killed. Nothing that
    happens to it affects the run.

    Args:
        announce: Prints the address, or why there is no dashboard.
    """
    try:
        process, port = _start(run)
    except (ConfigError, OSError) as error:
        announce(f"The run goes on without a dashboard, because none can be started: {first_line(error)}")
        yield
        return
    announce(f"Dashboard until the run ends (read-only): http://{LOCAL}:{port}/")
    try:
        yield
    finally:
        if process.poll() is not None:
            log.warning("the dashboard ended early with exit code %s; the run is not affected", process.returncode)
        process.terminate()
        process.communicate()


def _start(run: Path) -> tuple[subprocess.Popen[bytes], int]:
    """Return a new process that serves the dashboard of a run, and its port, which is open already."""
    with _listen(LOCAL, 0) as listening:
        code = f"from nas_attn.cli.dashboard import serve_socket; serve_socket({str(run)!r}, {listening.fileno()})"
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,  # its end is the end of this process
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for the run
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        return process, listening.getsockname()[1]


def serve_socket(run: str, descriptor: int) -> None:
    """Serve the dashboard of a run on an open socket, until the standard input ends: the process beside a search."""
    os.nice(NICENESS)
    threading.Thread(target=_end_with_input, daemon=True).start()
    with _server(Path(run), socket.socket(fileno=descriptor)) as server:
        server.serve_forever()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises: ConfigError if the address is not available."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = error.strerror or first_line(error)
        raise ConfigError(
            f"The dashboard needs a free address, but {host}:{port} is refused ({reason}): choose another --port, or "
            "--port 0 to find a free one."
        ) from error


def _server(run: Path, listening: socket.socket, names: tuple[str, ...] = ()) -> WSGIServer:
    """Return a server of a run on a socket that listens; `names` are further ones by which it may be asked."""
    from nas_attn.cli.dashboard_app import ReadOnlyDashboard

    host, port = listening.getsockname()[:2]
    server = _Server((host, port), _SilentHandler, bind_and_activate=False)
    server.socket.close()
    server.socket = listening
    server.server_name, server.server_port = host, port
    server.setup_environ()
    server.set_app(ReadOnlyDashboard(run, names))
    return server


def _check_ledger(run: Path) -> None:
    """Check that a folder contains a ledger. Raises: RunError that names the nearest run."""
    from nas_attn.run.folder import RunFolder
    from nas_attn.run.place import place_of_run
    from nas_attn.study.store import read_store

    config = RunFolder(run).begun()
    if not (run / LEDGER).is_file() and not (config or {}).get("storage"):
        raise RunError(f"A run must contain {LEDGER}, but '{run}' has none{_nearest_run(run)}.")
    read_store(place_of_run(run, config or {})).close()


def _nearest_run(run: Path) -> str:
    """Return a hint that names the run folder with the most similar name, or an empty string."""
    for folder in (run.parent, Path("runs")):
        runs = {found.parent.name: found.parent for found in folder.glob(f"*/{LEDGER}")}
        close = nearest(run.name, runs)
        if close:
            return f": did you mean '{runs[close]}'?"
    return ""
