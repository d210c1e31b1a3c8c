"""Installed packages that bring a plug-in: one module and one entry point, laid on the path."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


def lay_package(
    folder: Path, patch: pytest.MonkeyPatch, package: str, *, group: str, point: str, value: str, code: str
) -> None:
    """Install a package below a folder: its module `PACKAGE_attn` holds the code, its entry point names a value."""
    home = folder / package
    info = home / f"{package}-1.0.dist-info"
    info.mkdir(parents=True)
    (home / f"{package}_attn.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{point} = {package}_attn:{value}\n")
    patch.syspath_prepend(str(home))
    patch.delitem(sys.modules, f"{package}_attn", raising=False)
