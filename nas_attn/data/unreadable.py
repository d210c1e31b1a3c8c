"""Why a file is no picture, in words: what it is instead, what is wrong with it, and what reads it."""

from __future__ import annotations

import re

from nas_attn.errors import first_line

_HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")
_SIGNATURES: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\x76\x2f\x31\x01", "OpenEXR"),
    (0, b"#?RADIANCE", "Radiance HDR"),
    (0, b"%PDF", "a PDF"),
    (0, b"\x93NUMPY", "a numpy array"),
    (0, b"PK\x03\x04", "a ZIP archive or an .npz file"),
    (0, b"\x89HDF", "HDF5"),
    (0, b"MATLAB", "a MATLAB file"),
    (344, b"n+1\0", "NIfTI"),
    (344, b"ni1\0", "NIfTI"),
    (0, b"\x1f\x8b", "a gzip archive"),
    (0, b"RIFF", "an audio or video file"),
    (4, b"ftypavif", "truncated or damaged AVIF"),
    (4, b"ftyp", "a video file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
)
_TRUNCATED = re.compile(
    "truncat|broken data stream|unexpected end|unrecognized data|incomplete|not enough|smaller than requested|"
    "could not create decoder",
    re.I,
)


class Unreadable(Exception):
    """A file that is skipped; the message is the reason."""


def needs(what: str, package: str, extra: str) -> str:
    """Return the reason of a file whose package is not installed."""
    return f"{what}, which the package {package} reads: pip install 'nas_attn[{extra}]'"


def over_limit(n_pixels: int, max_pixels: int) -> str:
    """Return the reason of a file with too many pixels."""
    return f"{n_pixels:,} pixels, more than the limit of {max_pixels:,}: --max-pixels {n_pixels} reads it"


def is_heif(head: bytes) -> bool:
    """Return whether a file begins like HEIC or HEIF."""
    return head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS


def kind_of(head: bytes) -> str:
    """Return what a file is that Pillow does not know."""
    if not head:
        return "empty, 0 bytes"
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "a page of HTML"
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG, a drawing without pixels"
    return next((words for at, magic, words in _SIGNATURES if head[at : at + len(magic)] == magic), "no image")


def reason_of(error: Exception, max_pixels: int) -> str:
    """Return why a file could not be read, in a few words."""
    from PIL.Image import DecompressionBombError

    text = first_line(error)
    if isinstance(error, Unreadable):
        return text
    if isinstance(error, DecompressionBombError):
        found = re.search(r"\((\d+) pixels\)", text)
        n = int(found.group(1)) if found else 0
        return over_limit(n, max_pixels)
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError) or _TRUNCATED.search(text):
        return "truncated"
    return f"damaged: {type(error).__name__}: {text}"
