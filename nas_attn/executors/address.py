"""The address of a Ray cluster, checked before anything is written: Ray itself would wait for a minute or longer."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from nas_attn.errors import ConfigError

ANSWER_SECONDS = 5.0
"""Longest time to wait for a server."""

_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04" + bytes(5)
"""The beginning of a gRPC connection: HTTP/2's preface, and a frame of settings without any."""

_SETTINGS_FRAME = 4
_USUAL = "~/.ray/auth_token"
_DOCS = "https://docs.ray.io/en/latest/ray-security/token-auth.html"


def refuse_other_address(address: str, seconds: float = ANSWER_SECONDS) -> None:
    """Check that a server which speaks gRPC, as Ray does, answers at a cluster's address.

    Raises: ConfigError if the address is malformed, nothing answers there, or something else does.
    """
    if address == "auto":  # Ray finds the cluster of this machine itself
        return
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise ConfigError(f"--address must be HOST:PORT of a running Ray cluster, or auto, but got '{address}'.")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=seconds)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"--address must be that of a running Ray cluster, but nothing answers at '{address}' "
            f"({reason}): start one there with `ray start --head`, or leave --address out."
        ) from None
    with closing(connection):
        if os.environ.get("RAY_USE_TLS") != "1" and not _speaks_grpc(connection):
            raise ConfigError(
                f"--address must be that of a running Ray cluster, but what answers at '{address}' is not Ray: state "
                "the address and port that `ray start --head` printed, usually port 6379."
            )


def _speaks_grpc(connection: socket.socket) -> bool:
    """Return whether a server begins as HTTP/2 does, with a frame of its settings: 3 bytes of length, then its kind."""
    try:
        connection.sendall(_HELLO)
        answer = b""
        while len(answer) < 4 and (more := connection.recv(64)):
            answer += more
    except OSError:
        return False
    return len(answer) >= 4 and answer[3] == _SETTINGS_FRAME


def refuse_without_token(address: str) -> None:
    """Check that the cluster lets this process in; the user's token must be in force (see `users_token`).

    Raises: ConfigError that says what is wrong with the token.
    """
    _refuse_unreadable_token()
    if address == "auto" or address.startswith("ray://"):
        return
    from ray._raylet import GcsClient  # type: ignore[attr-defined]  # native
    from ray.exceptions import AuthenticationError

    try:
        with _silent_stderr():
            GcsClient(address=address)
    except AuthenticationError:
        raise ConfigError(wrong_token(address)) from None
    except Exception as error:  # Ray's own class for anything else
        raise ConfigError(
            f"--address must be that of a running Ray cluster, but '{address}' answers with an error: "
            f"{' '.join(str(error).split())[:300]}."
        ) from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Context manager: nothing reaches the standard error, also none from native code."""
    with open(os.devnull, "wb") as nothing:
        try:
            kept = os.dup(2)
        except OSError:  # closed
            yield
            return
        try:
            os.dup2(nothing.fileno(), 2)
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def wrong_token(address: str) -> str:
    """Return the sentence on a cluster that asks for another token than the one at hand."""
    source, mode = token_source(), os.environ.get("RAY_AUTH_MODE", "token")
    found = "there is none" if source is None else f"that of {source} is not the cluster's"
    if source is not None and mode.lower() != "token":
        return (
            f"The Ray cluster at '{address}' asks for its token, but RAY_AUTH_MODE={mode} keeps that of {source} back: "
            "set RAY_AUTH_MODE=token."
        )
    return (
        f"The Ray cluster at '{address}' asks for its token, but {found}: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to "
        f"the token that the cluster was started with ({_DOCS})."
    )


def token_source() -> str | None:
    """Return where the user's token comes from, in Ray's own order, or None if there is none."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    if os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return "RAY_AUTH_TOKEN_PATH"
    return _USUAL if os.path.isfile(os.path.expanduser(_USUAL)) else None


def _refuse_unreadable_token() -> None:
    """Refuse a token's file that is missing or empty, and a mode without a token: Ray would end this process."""
    source = token_source()
    if source is None and os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
        raise ConfigError(
            "RAY_AUTH_MODE=token needs a token, but there is none: set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to that "
            f"of the cluster ({_DOCS})."
        )
    if source in (None, "RAY_AUTH_TOKEN"):
        return
    path = os.path.expanduser(_USUAL) if source == _USUAL else os.environ["RAY_AUTH_TOKEN_PATH"]
    try:
        content = Path(path).read_bytes().strip()
    except OSError as error:
        raise ConfigError(
            f"The file of Ray's token must be readable, but {source} ({path}) is not: {error.strerror}."
        ) from error
    if not content:
        raise ConfigError(f"The file of Ray's token must hold the token, but {source} ({path}) is empty.")
