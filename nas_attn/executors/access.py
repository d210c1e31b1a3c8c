"""Who may enter a Ray session: a new one asks for a random token of its own; a cluster is joined with the user's."""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from nas_attn.errors import ConfigError, first_line
from nas_attn.executors.address import token_source

LOOPBACK = "127.0.0.1"

_REACH_SECONDS = 5.0
"""Seconds in which this machine must reach itself."""

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
"""Environment variables by which Ray's processes ask for a token, and know it."""


@contextmanager
def environment(changes: Mapping[str, str | None]) -> Iterator[None]:
    """Context manager: set environment variables, or remove those of None; afterwards they are as before."""
    before = {name: os.environ.get(name) for name in changes}
    _set(changes)
    try:
        yield
    finally:
        _set(before)


@contextmanager
def own_token() -> Iterator[None]:
    """Context manager: Ray processes started inside let only each other in, by a random token in their environment.

    No file holds the token, it is never printed, and the user's own token is left alone.
    """
    with _in_force({MODE: "token", TOKEN: secrets.token_hex(32), TOKEN_PATH: None}):
        yield


@contextmanager
def users_token() -> Iterator[None]:
    """Context manager: a cluster is joined with the user's token, also where only the token is stated, not the mode.

    A cluster that asks for none lets anybody in, with a token or without.
    """
    known = MODE in os.environ or token_source() is None
    with _in_force({} if known else {MODE: "token"}):
        yield


@contextmanager
def _in_force(changes: Mapping[str, str | None]) -> Iterator[None]:
    try:
        with environment(changes):
            _read_again()
            yield
    finally:
        _read_again()


def _read_again() -> None:
    """Let Ray read mode and token from the environment: it does so once, when it is imported or first used.

    The mode comes first: a connection that is being closed may still ask for the token while the mode demands one.
    """
    from ray._raylet import AuthenticationTokenLoader, Config  # type: ignore[attr-defined]  # native

    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def refuse_without_loopback() -> None:
    """Check that this machine reaches itself on 127.0.0.1: without it Ray tries for minutes. Raises: ConfigError."""
    try:
        with (
            socket.create_server((LOOPBACK, 0)) as server,
            socket.create_connection(server.getsockname(), timeout=_REACH_SECONDS),
        ):
            pass
    except OSError as error:
        raise ConfigError(
            f"The processes of Ray must reach each other on {LOOPBACK}, but this machine does not reach it "
            f"({first_line(error)}): bring the network interface 'lo' up, or use --executor local."
        ) from None


@contextmanager
def on_loopback() -> Iterator[None]:
    """Context manager: Ray processes started inside listen on 127.0.0.1 alone, as Ray has it on macOS and Windows.

    Elsewhere Ray replaces the loopback address by that of a network card, and its ports listen on all of them.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
