"""Writes a commented space file for a network, from a survey of its sites."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import Any

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.options import why_not
from nas_attn.backbones.catalog import is_foreign
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.timm_names import is_timm
from nas_attn.backbones.written import read_network
from nas_attn.errors import FileError
from nas_attn.files import write_text
from nas_attn.placement import SiteTable
from nas_attn.run.own_network import network_name
from nas_attn.space.default_space import DefaultSpace, SiteGroup, default_space
from nas_attn.space.search_space import SearchSpace

IMAGE_SIZE = 64
"""Height and width of the images that a network of the user's is surveyed with, if no size is stated."""

_WIDTH, _COLUMN = 120, 44


def write_space_file(
    words: Sequence[str], *, image_size: int | None, num_classes: int, in_channels: int, out: Path | None
) -> tuple[Path, DefaultSpace]:
    """Write a space file for a network, and return its path and the space.

    Args:
        words: The network and its options, as `read_network` takes them.
        image_size: None takes the default of the catalogue's or timm's network, and `IMAGE_SIZE` for any other.
        out: None is the name of the network, in the working folder.
    Raises: SpaceError if the network has no site; FileError if the file exists or cannot be written.
    """
    spec = read_network(words)
    path = Path(f"{network_name(spec)}.toml") if out is None else out
    if path.exists():
        raise FileError(f"A space file is never overwritten, but {path} exists: choose another --out, or remove it.")
    size = IMAGE_SIZE if image_size is None and is_foreign(spec) and not is_timm(spec) else image_size
    table = site_table(spec, num_classes=num_classes, in_channels=in_channels, image_size=size)
    made = default_space(table)
    text = space_text(made, spec, words, path)
    SearchSpace.from_dict(made.to_dict(spec), str(path)).bind(table)
    try:
        write_text(path, text)
    except OSError as error:
        raise FileError(f"The space file {path} cannot be written: {error.strerror or error}.") from error
    return path, made


def space_text(made: DefaultSpace, spec: Mapping[str, Any], words: Sequence[str], path: Path) -> str:
    """Return the text of a space file with comments.

    Args:
        words: The network and its options as they were written.
        path: Path of the file, for the commands in its comments.
    """
    table = made.table
    network = " ".join(words)
    record = made.to_dict(spec)
    lines = [
        *_comment(
            f"A search space for {network}: where attention may go, and which attentions. Written by nas-attn init "
            f"from a survey of the network, which has {table.n_parameters:,} parameters with {table.output}."
        ),
        "#",
        f"#     nas-attn search --space {path} --dry-run",
        f"#     nas-attn sites {network} --image-size {table.image_size}",
        "",
        f"title = {_toml(record['title'])}",
        "",
        "[backbone]",
        *(f"{key} = {_toml(value)}" for key, value in _written(spec, words).items()),
    ]
    others: list[str] = []
    for number, group in enumerate(made.groups):
        before, others = others, _other_attentions(group)
        lines += ["", *_group_lines(made, group, [] if others == before else others, is_first=number == 0)]
    for name, options in record["attentions"].items():
        lines += ["", f"[attentions.{name}]", *(f"{option} = {_toml(values)}" for option, values in options.items())]
    return "\n".join([*lines, "", *_setting_lines(table), ""])


def _group_lines(made: DefaultSpace, group: SiteGroup, others: Sequence[str], *, is_first: bool) -> Iterator[str]:
    """Yield a `[[sites]]` table with its comments; `others` are attentions to name."""
    yield from _comment(f"{group.in_words}.")
    if others:
        yield from _comment(f"Other attentions that fit: {', '.join(others)}.")
    yield "[[sites]]"
    yield from _wrapped("match", made.patterns(group))
    notes = {
        "share": f"share = {_toml(made.share)}",
        "attentions": f"attentions = {_toml(list(group.attentions))}",
    }
    meanings = {
        "share": 'one decision per "site", per "stage", or for "all" of this table',
        "attentions": '"none" is always a choice',
    }
    for key, text in notes.items():
        yield _explained(text, meanings[key] if is_first else "")


def _other_attentions(group: SiteGroup) -> list[str]:
    """Return the other attentions that fit every site of a group with their default options."""
    entries = [entry for entry in ATTENTIONS.loadable() if entry.keeps_shape and entry.name not in group.attentions]
    return [entry.name for entry in entries if all(why_not(entry, site, {}) is None for site in group.sites)]


def _setting_lines(table: SiteTable) -> list[str]:
    """Return the tables of settings: the size of the images that the sites belong to, the rest as comments."""
    explained = {
        "[data]": "",
        f"image_size = {table.image_size}": "the sites above were surveyed at this size",
        "# split = [0.7, 0.15, 0.15]": "shares of train, validation and test",
        "# augment = 'crop-flip'": "pads, crops at random, and mirrors left to right",
        "": "",
        "# [limits]": "",
        f"# max_params = {_rounded(table.n_parameters)}": "a fifth above the plain network",
        " ": "",
        "# [recipe]": "",
        "# epochs = 30": "",
        "# batch_size = 32": "",
        "# optimizer = 'sgd'": "or adamw, adam",
        "# lr = 0.1": "peak learning rate; 0.003 suits Adam",
        "# weight_decay = 0.0005": "",
    }
    return [_explained(text, meaning).strip() for text, meaning in explained.items()]


def _explained(text: str, meaning: str) -> str:
    """Return a line with its meaning as a comment in a column of its own."""
    return f"{text:<{_COLUMN}} # {meaning}" if meaning else text


def _rounded(n_parameters: int) -> str:
    """Return a limit a fifth above the plain network's parameters, with two digits."""
    digits = len(str(n_parameters)) - 2
    return f"{-(-int(1.2 * n_parameters) // 10 ** max(digits, 0)) * 10 ** max(digits, 0):_}"


def _written(spec: Mapping[str, Any], words: Sequence[str]) -> dict[str, Any]:
    """Return the keys of a spec that the user wrote; the others are defaults."""
    stated = {word.partition("=")[0] for word in words[1:]}
    return {key: value for key, value in spec.items() if key in ("name", "import") or key in stated}


def _comment(text: str) -> list[str]:
    return wrap(text, _WIDTH, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False)


def _wrapped(key: str, values: Sequence[str]) -> Iterator[str]:
    """Yield a list in one line, or one value in a line if it is long."""
    line = f"{key} = {_toml(list(values))}"
    if len(line) <= _WIDTH:
        yield line
        return
    yield f"{key} = ["
    yield from wrap(
        ", ".join(map(_toml, values)), _WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False
    )
    yield "]"


def _toml(value: Any) -> str:
    """Return a value as TOML writes it."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_toml, value))}]"
    if isinstance(value, bool | str):
        return json.dumps(value, ensure_ascii=False)
    return str(value)
