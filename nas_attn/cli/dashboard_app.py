"""The dashboard as a WSGI application: Optuna's, over a copy of the ledger that follows its changes."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.cli.dashboard_guard import refusal
from nas_attn.cli.dashboard_notes import REPORT
from nas_attn.cli.dashboard_studies import Studies, copy_run, no_studies, shared_state
from nas_attn.errors import RunError

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

LEDGER = "study.db"
LEAST_SECONDS = 2.0
"""Between two looks at the ledger."""

SHARE = 0.1
"""Of the time that may be spent on copying the ledger: a large one is looked at less often."""

_STUDY = re.compile(r"/api/studies/(\d+)$")
_IMPORTANCE = re.compile(r"/api/studies/(\d+)/param_importances$")

HIDDEN = """<style>
/* The dashboard is read-only: what would be refused is not offered. */
button:has(svg[data-testid="EditIcon"]), button:has(svg[data-testid="DeleteIcon"]),
button:has(svg[data-testid="DriveFileRenameOutlineIcon"]), button:has(svg[data-testid="AddBoxIcon"]) {
  display: none !important;
}
/* Where means decide there is no best trial: neither an empty box for it nor a line of best values. */
.MuiGrid-item:has(> .MuiCard-root > .MuiCardContent-root > h6:only-child),
body:not(:has(a[href$="/studies/0/analytics"])) [id*="history"] .lines { display: none !important; }
.MuiGrid-item .MuiTableContainer-root > table { min-width: 0; } /* the study's attributes are not cut */
</style>"""


class ReadOnlyDashboard:
    """Answers the requests of the dashboard's page; every other request is refused with status 403.

    Args:
        run: The folder of a run. Before it has a ledger, the dashboard shows no study.
        names: Further names by which it may be asked; see `nas_attn.cli.dashboard_guard`.
    """

    def __init__(self, run: Path, names: tuple[str, ...] = ()) -> None:
        self._run, self._names = run, names
        self._lock = threading.Lock()
        self._seen: object = None
        self._next_look = 0.0
        self._studies = no_studies()
        self._application = _optuna(self._studies)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Answer one request."""
        stranger = refusal(environ, self._names)
        if stranger is not None:
            return _json(start_response, {"reason": stranger}, "403 Forbidden")
        method, path = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "").rstrip("/")
        if method not in ("GET", "HEAD", "OPTIONS"):
            reason = f"This dashboard is read-only, because a search may be writing to the run: {method} is refused."
            return _json(start_response, {"reason": reason}, "403 Forbidden")
        if path == REPORT:
            return self._report(start_response)
        studies, application = self._current()
        importance = _IMPORTANCE.match(path)
        if importance and int(importance[1]) in studies.importances:
            return _json(start_response, _importances(studies, int(importance[1])))
        edit = _edit_of(path)
        if edit is None or method != "GET":
            return application(environ, start_response)
        return _edited(application, environ, start_response, edit)

    def _current(self) -> tuple[Studies, WSGIApplication]:
        """Return the copy of the ledger and its application, made again if the ledger has changed."""
        with self._lock:
            begun = time.monotonic()
            if begun >= self._next_look:
                self._look()
                self._next_look = begun + max(LEAST_SECONDS, (time.monotonic() - begun) / SHARE)
            return self._studies, self._application

    def _look(self) -> None:
        """Copy the ledger if it has changed; while it cannot be read, what was shown stays."""
        try:
            state = _state_of(self._run)
            if state == self._seen:
                return
            studies = copy_run(self._run)
        except RunError as error:
            log.info("%s", error)
        else:
            self._studies, self._application, self._seen = studies, _optuna(studies), state

    def _report(self, start_response: StartResponse) -> Iterable[bytes]:
        """Return the report of the run."""
        try:
            body = (self._run / "report.html").read_bytes()
        except OSError:
            return _json(start_response, {"reason": "The report is written when the run ends."}, "404 Not Found")
        headers = [("Content-Type", "text/html; charset=utf-8"), ("Content-Length", str(len(body)))]
        start_response("200 OK", headers)
        return [body]


def _optuna(studies: Studies) -> WSGIApplication:
    from optuna_dashboard import wsgi

    application: WSGIApplication = wsgi(studies.storage)
    return application


def _state_of(run: Path) -> tuple[object, ...]:
    """Return what changes when something is written to a run: time and size of its files, rows of a shared database.

    Raises: RunError if a shared database does not answer.
    """
    found: list[object] = [shared_state(run)]
    for name in (LEDGER, f"{LEDGER}-wal", "report.html"):
        try:
            status = (run / name).stat()
        except OSError:
            found.append((0, 0))
        else:
            found.append((status.st_mtime_ns, status.st_size))
    return tuple(found)


def _importances(studies: Studies, study_id: int) -> dict[str, Any]:
    """Return the importances in the form that the dashboard's page reads."""
    bars = [
        {"name": name, "importance": share, "distribution": "CategoricalDistribution"}
        for name, share in studies.importances[study_id].items()
    ]
    return {"param_importances": [bars]}


def _edit_of(path: str) -> Callable[[bytes], bytes] | None:
    """Return what is changed in the answer to a path, or None."""
    if re.match(r"/dashboard(/|$)", path):
        return lambda body: body.replace(b"</head>", f"{HIDDEN}</head>".encode(), 1)
    study = _STUDY.match(path)
    if study and int(study[1]) > 0:  # confirm or retrain
        return _without_best
    return None


def _without_best(body: bytes) -> bytes:
    """Return the record of a study without its best trial."""
    record = json.loads(body)
    if "best_trials" in record:
        record["best_trials"] = []
    return json.dumps(record).encode()


def _edited(
    application: WSGIApplication,
    environ: WSGIEnvironment,
    start_response: StartResponse,
    edit: Callable[[bytes], bytes],
) -> Iterable[bytes]:
    """Return the answer of `application` with its body changed, where it succeeds; a browser does not store it."""
    environ = {name: value for name, value in environ.items() if name != "HTTP_IF_MODIFIED_SINCE"}
    started: list[Any] = []

    def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], object]:
        started[:] = [status, headers]
        return lambda _: None

    answer = application(environ, start)
    try:
        body = b"".join(answer)
    finally:
        close = getattr(answer, "close", None)
        if close is not None:
            close()
    status, headers = started
    body = edit(body) if status.startswith("200") else body
    kept = [(name, value) for name, value in headers if name.lower() not in ("content-length", "last-modified", "etag")]
    start_response(status, [*kept, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
    return [body]


def _json(start_response: StartResponse, content: object, status: str = "200 OK") -> Iterable[bytes]:
    """Answer with JSON."""
    body = json.dumps(content).encode()
    start_response(status, [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
    return [body]
