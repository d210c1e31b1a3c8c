"""A network as a user writes it in one line, on the command line or in Python; no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.timm_names import PREFIX
from nas_attn.errors import SpaceError


def read_network(words: Sequence[str]) -> dict[str, Any]:
    """Return the checked spec of a network: its name, then KEY=VALUE for each of its options.

    Args:
        words: First a backbone's name, `timm:NAME`, or `module:function` for a user's own network.
    Raises: SpaceError that names the nearest backbone or option, or says how a network is written.
    """
    network, *options = words
    if network.endswith(".py"):
        module = network.removesuffix(".py").replace("/", ".")
        raise SpaceError(f"A network of your own is MODULE:FUNCTION, but got '{network}': write {module}:make_net.")
    own = ":" in network and not network.startswith(PREFIX)
    return check_backbone({"import" if own else "name": network, **read_options(options)})


def read_options(options: Sequence[str]) -> dict[str, Any]:
    """Return the options KEY=VALUE: values are numbers, true or false, text, or lists of these with commas.

    >>> read_options(["stem=small", "block_config=2,2", "width=0.5"])
    {'stem': 'small', 'block_config': [2, 2], 'width': 0.5}

    Raises: SpaceError for a word without key or "=".
    """
    return dict(_read(option) for option in options)


def _read(option: str) -> tuple[str, Any]:
    key, equals, text = option.partition("=")
    if not key or not equals:
        raise SpaceError(f"An option of a network must be KEY=VALUE, but got '{option}': write stem=small.")
    parts = [_number(part) for part in text.split(",")]
    return key, parts if len(parts) > 1 else parts[0]


def _number(text: str) -> int | float | bool | str:
    if text in ("true", "false"):
        return text == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
