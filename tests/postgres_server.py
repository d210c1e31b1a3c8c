"""A PostgreSQL server of a test's own: in a temporary folder, on 127.0.0.1 alone, with a password."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PASSWORD = "pass/w:rd@1"
"""Of the role `driver`; its signs must be quoted in an address."""

QUOTED = "pass%2Fw%3Ard%401"


def binaries() -> Path | None:
    """Return the folder of the server's programs: those of the system, or of the wheel `pgserver`."""
    found = [path.parent for path in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    on_path = shutil.which("initdb")
    if on_path:
        found.append(Path(on_path).resolve().parent)
    wheel = importlib.util.find_spec("pgserver")
    if wheel is not None and wheel.origin is not None:
        found.append(Path(wheel.origin).parent / "pginstall" / "bin")
    return next((folder for folder in found if (folder / "postgres").exists()), None)


def plain_user() -> str | None:
    """Return a user for the server, which refuses to run as root; None if this one will do."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


class Server:
    """A server that a test may kill and start again.

    Args:
        folder: Its folder, which its user owns.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs, self._folder, self._user = programs, folder, plain_user()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None

    def make(self) -> None:
        """Make the files of the server."""
        secret = self._folder / "secret"
        secret.write_text(PASSWORD)
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            for path in (self._folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run(
            "initdb", "-D", self.data, "-U", "driver", "-A", "scram-sha-256", f"--pwfile={secret}", "-N", "-E", "UTF8"
        )

    @property
    def data(self) -> str:
        """The folder of the server's data."""
        return str(self._folder / "data")

    def address(self, database: str, user: str = "driver", password: str = QUOTED) -> str:
        """Return the address of a database."""
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres", user: str = "driver") -> list[Any]:
        """Carry out one statement, and return its rows."""
        import psycopg

        known = {"host": "127.0.0.1", "port": self.port, "user": user, "password": PASSWORD, "dbname": database}
        with psycopg.connect(**known, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start the server, and wait until it answers; after a kill it may need several attempts."""
        self.kill()
        for _ in range(100):
            self._process = self._popen()
            while self._process.poll() is None:
                try:
                    self.execute("SELECT 1")
                    return
                except Exception:
                    time.sleep(0.1)
        raise AssertionError("the server must start")

    def kill(self) -> None:
        """End the server at once with all its processes, as a crash would: it has to recover when it starts."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()

    def _popen(self) -> subprocess.Popen[bytes]:
        words = [str(self._programs / "postgres"), "-D", self.data, "-p", str(self.port), "-h", "127.0.0.1", "-F"]
        return subprocess.Popen(
            [*words, "-k", ""], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **self._as_user()
        )

    def _run(self, program: str, *words: str) -> None:
        subprocess.run([str(self._programs / program), *words], check=True, capture_output=True, **self._as_user())

    def _as_user(self) -> dict[str, Any]:
        return (
            {"cwd": self._folder}
            if self._user is None
            else {"user": self._user, "group": pwd.getpwnam(self._user).pw_gid, "cwd": self._folder}
        )


@contextmanager
def running_server() -> Iterator[Server]:
    """Start a server; skip the test where none can be started."""
    pytest.importorskip("psycopg", reason="the PostgreSQL driver psycopg is not installed")
    programs = binaries()
    if programs is None:
        pytest.skip("no PostgreSQL server is installed: neither the system's package nor the wheel pgserver")
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder:
        Path(folder).chmod(0o755)
        server = Server(programs, Path(folder))
        server.make()
        server.start()
        try:
            yield server
        finally:
            server.kill()
