"""Optuna's dashboard of a run, read-only: otherwise its Delete button could remove the ledger of a running search."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from nas_attn.errors import ConfigError, RunError, nearest

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
    from optuna.storages import RDBStorage

LEDGER = "study.db"


class _Server(ThreadingMixIn, WSGIServer):
    """Answers each request in its own thread, so that a slow plot does not block the page."""

    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    """Logs no requests."""

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing."""


def serve(run: Path, *, host: str, port: int, announce: Callable[[str], Any]) -> None:
    """Serve the dashboard of `run` until Ctrl-C.

    Args:
        announce: Prints a line: the address once the server answers, and its end.

    Raises: RunError if the folder contains no ledger; ConfigError if the address is not available.
    """
    with make_dashboard(run, host=host, port=port) as server:
        shown = f"[{host}]" if ":" in host else host
        announce(f"Dashboard of {run} (read-only): http://{shown}:{server.server_port}/  Press Ctrl-C to stop it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("The dashboard has stopped; the run is not affected.")


def make_dashboard(run: Path, *, host: str, port: int) -> WSGIServer:
    """Return a server that listens on `host` and `port` but does not serve yet; port 0 finds a free one.

    Raises: RunError if the folder contains no ledger; ConfigError if the address is not available.
    """
    application = read_only(_optuna_dashboard(run))
    try:
        return make_server(host, port, application, server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"The dashboard needs a free address, but {host}:{port} is refused ({reason}): choose another --port, or "
            "--port 0 to find a free one."
        ) from error


def read_only(application: WSGIApplication) -> WSGIApplication:
    """Return `application`, but refuse every request that could change something with status 403."""

    def guarded(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if method in ("GET", "HEAD", "OPTIONS"):
            return application(environ, start_response)
        reason = f"This dashboard is read-only, because a search may be writing to the run: {method} is refused."
        body = json.dumps({"reason": reason}).encode()
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        start_response("403 Forbidden", headers)
        return [body]

    return guarded


def open_read_only(ledger: Path) -> RDBStorage:
    """Return Optuna's storage of a SQLite file that is opened read-only."""
    from optuna.storages import RDBStorage
    from sqlalchemy.pool import NullPool

    address = f"{ledger.resolve().as_uri()}?mode=ro"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(address, uri=True, timeout=10.0, check_same_thread=False)

    try:
        with closing(connect()) as connection:
            connection.execute("SELECT study_name FROM studies").fetchall()
    except sqlite3.Error as error:
        raise RunError(f"'{ledger}' must be a ledger that a search wrote, but it cannot be read: {error}.") from error
    return RDBStorage(
        "sqlite://",
        # Each query opens the file again: no connection outlives the file or blocks the driver's checkpoints.
        engine_kwargs={"creator": connect, "poolclass": NullPool},
        skip_compatibility_check=True,
        skip_table_creation=True,
    )


def _optuna_dashboard(run: Path) -> WSGIApplication:
    """Return Optuna's dashboard of all studies of a run."""
    ledger = run / LEDGER
    if not ledger.is_file():
        raise RunError(f"A run must contain {LEDGER}, but '{run}' has none{_nearest_run(run)}.")
    storage = open_read_only(ledger)
    from optuna_dashboard import wsgi

    application: WSGIApplication = wsgi(storage)
    return application


def _nearest_run(run: Path) -> str:
    """Return a hint that names the run folder with the most similar name, or an empty string."""
    for folder in (run.parent, Path("runs")):
        runs = {found.parent.name: found.parent for found in folder.glob(f"*/{LEDGER}")}
        close = nearest(run.name, runs)
        if close:
            return f": did you mean '{runs[close]}'?"
    return ""
