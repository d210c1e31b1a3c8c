"""Optuna's dashboard on a run, read-only: its Delete button would otherwise remove the ledger under a live search."""

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
    """Answers each request in a thread of its own, so that a slow plot does not hold up the page."""

    daemon_threads = True


class _SilentHandler(WSGIRequestHandler):
    """Writes no line for each request."""

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def serve(run: Path, *, host: str, port: int, announce: Callable[[str], Any]) -> None:
    """Serve the dashboard of `run` until Ctrl-C; `announce` is told the address once it answers.

    Raises: RunError if the folder holds no ledger; ConfigError if the address cannot be listened on.
    """
    with make_dashboard(run, host=host, port=port) as server:
        shown = f"[{host}]" if ":" in host else host
        announce(f"Dashboard of {run} (read-only): http://{shown}:{server.server_port}/  Ctrl-C ends it.")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            announce("The dashboard has ended; the run goes on untouched.")


def make_dashboard(run: Path, *, host: str, port: int) -> WSGIServer:
    """Return a server that listens on `host` and `port`, not yet serving; port 0 takes a free one.

    Raises: RunError if the folder holds no ledger; ConfigError if the address cannot be listened on.
    """
    application = read_only(_optuna_dashboard(run))
    try:
        return make_server(host, port, application, server_class=_Server, handler_class=_SilentHandler)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ConfigError(
            f"The dashboard must listen on a free address, but {host}:{port} is refused ({reason}): "
            "another --port works, and --port 0 finds a free one."
        ) from error


def read_only(application: WSGIApplication) -> WSGIApplication:
    """Return `application` with every request that could change something refused, status 403."""

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
    """Return Optuna's storage on a SQLite file that this process cannot change, whatever is asked of it."""
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
        # Each query opens the file anew: no connection outlives the file, or holds up the driver's checkpoints.
        engine_kwargs={"creator": connect, "poolclass": NullPool},
        skip_compatibility_check=True,
        skip_table_creation=True,
    )


def _optuna_dashboard(run: Path) -> WSGIApplication:
    """Return Optuna's dashboard over all studies of a run."""
    ledger = run / LEDGER
    if not ledger.is_file():
        raise RunError(f"A run must hold {LEDGER}, but '{run}' has none{_nearest_run(run)}.")
    storage = open_read_only(ledger)
    from optuna_dashboard import wsgi

    application: WSGIApplication = wsgi(storage)
    return application


def _nearest_run(run: Path) -> str:
    """Return a hint that names the run folder most like `run`, or nothing."""
    for folder in (run.parent, Path("runs")):
        runs = {found.parent.name: found.parent for found in folder.glob(f"*/{LEDGER}")}
        close = nearest(run.name, runs)
        if close:
            return f": did you mean '{runs[close]}'?"
    return ""
