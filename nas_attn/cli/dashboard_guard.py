"""Who may ask the dashboard: pages of its own address alone, under a name that nobody else can point at it."""

from __future__ import annotations

import ipaddress
import socket
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


def is_loopback(host: str) -> bool:
    """Return whether an address or name is that of this machine alone.

    >>> is_loopback("127.0.0.1"), is_loopback("localhost"), is_loopback("0.0.0.0"), is_loopback("::1")
    (True, True, False, True)
    """
    address = _address(host)
    return host.lower() == "localhost" if address is None else address.is_loopback


def refusal(environ: WSGIEnvironment, own_names: tuple[str, ...] = ()) -> str | None:
    """Return why a request is refused, or None.

    A page of another site can let its own name point at this address (DNS rebinding), and is then allowed by a browser
    to read the answers: so the name in `Host` must be an address, or a name of this machine. `Origin` is the site of
    the page that asks: another one is refused. A client that states neither is no browser.

    Args:
        own_names: Further names by which the dashboard may be asked, such as the host that it listens on.
    """
    host = environ.get("HTTP_HOST")
    if host is None:
        return None
    name = _host_of(f"//{host}")
    known = {"localhost", socket.gethostname().lower(), *map(str.lower, own_names)}
    if name is None or (_address(name) is None and name not in known):
        return f"This dashboard answers under the address of its machine, but was asked as {host!r}."
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and _site_of(origin) != host.lower():
        return f"This dashboard answers its own pages, but was asked by a page of {origin!r}."
    return None


def _site_of(origin: str) -> str | None:
    """Return host and port of an origin, or None if it has none."""
    try:
        return urlsplit(origin).netloc.lower() or None
    except ValueError:
        return None


def _host_of(address: str) -> str | None:
    """Return the host of `//HOST:PORT` in lower case, or None if it is malformed."""
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
