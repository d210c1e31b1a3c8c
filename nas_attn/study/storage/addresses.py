"""Addresses of databases in texts that are stored or shown."""

from __future__ import annotations

import re


def without_password(text: str) -> str:
    """Return a text in which no address holds a password.

    >>> without_password("search --storage postgresql+psycopg://me:secret@host/db?password=x --trials 3")
    'search --storage postgresql+psycopg://me@host/db?password=*** --trials 3'
    """
    text = re.sub(r"(postgres[a-z0-9+]*://[^\s:/@]*):[^\s/]*@", r"\1@", text)
    return re.sub(r"((?:ssl)?password=)[^\s&']+", r"\1***", text)
