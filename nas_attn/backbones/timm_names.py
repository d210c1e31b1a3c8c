"""What timm calls its networks, kept in the user's cache folder, so that a known name needs no import of timm."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from nas_attn.backbones.entry import Spec
from nas_attn.errors import FileError, SpaceError, in_one_line, placed, unknown
from nas_attn.files import cache_record, cached_record_path, read_cached_record

PREFIX = "timm:"

_WEIGHTS = "weights in [backbone] says what it starts from"
_NOT_OPTIONS = {
    "num_classes": "the data says it",
    "in_chans": "the data says it",
    "pretrained": _WEIGHTS,
    "pretrained_cfg": _WEIGHTS,
    "pretrained_cfg_overlay": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "cache_dir": _WEIGHTS,
    "features_only": "a network must give logits",
    "device": "--device says it",
}
"""Arguments of `timm.create_model` that are nobody's choice here: some of them would read files, or fetch them."""


@dataclass(frozen=True)
class TimmNetwork:
    """One network of timm's registry.

    Args:
        image_size: Height and width of the images that timm trained it on.
        weights: Where its pretrained weights lie, by their tags: a repository of the Hugging Face Hub, or a URL.
    """

    image_size: int
    weights: Mapping[str, str]


def is_timm(spec: Spec) -> bool:
    """Tell whether a spec names a network of timm's."""
    return str(spec.get("name", "")).startswith(PREFIX)


def timm_name(spec: Spec) -> str:
    """Return what timm calls the network of such a spec."""
    return str(spec["name"]).removeprefix(PREFIX)


def timm_network(name: str, where: str = "") -> TimmNetwork:
    """Return what timm says of the network called `timm:NAME`; no file but the cache's is read, and nothing fetched.

    Raises: SpaceError for what is no plain name, if timm is not installed, or that names the nearest network.
    """
    bare = name.removeprefix(PREFIX)
    if not (bare.isascii() and bare.isidentifier()):
        network, _, tag = bare.partition(".")
        hint = f": write weights = '{tag}'" if network.isidentifier() and tag else ""
        raise SpaceError(
            f"Backbone '{name}'{placed(where)} must be timm: and a name of timm's registry such as timm:resnet18, "
            f"without a place, a path or a tag{hint}."
        )
    known = _registry(timm_version(where))
    if bare not in known:
        raise SpaceError(unknown("network of timm", bare, known, where))
    return TimmNetwork(*known[bare])


def check_timm(spec: Spec, where: str = "") -> dict[str, Any]:
    """Return a spec `{"name": "timm:NAME", option: value}`, whose options `timm.create_model` gets as they are.

    Raises: SpaceError for an unknown network, and an option that is not timm's to have or that JSON cannot hold.
    """
    timm_network(spec["name"], where)
    for key, value in spec.items():
        if key in _NOT_OPTIONS:
            raise SpaceError(f"Backbone '{spec['name']}'{placed(where)} takes no '{key}': {_NOT_OPTIONS[key]}.")
        if not _is_plain(value):
            raise SpaceError(
                f"Option '{key}' of backbone '{spec['name']}'{placed(where)} must be a word, a number, or a list or "
                f"table of them, but got {value!r}."
            )
    return dict(spec)


def timm_version(where: str = "") -> str:
    """Return the version of timm. Raises: SpaceError if it is not installed."""
    try:
        return metadata.version("timm")
    except metadata.PackageNotFoundError:
        raise SpaceError(
            f"A backbone called timm:NAME{placed(where)} needs timm, which is not installed: pip install "
            "'nas_attn[timm]', or pip install timm."
        ) from None


def load_timm() -> Any:
    """Import timm. Raises: SpaceError that says what keeps it away."""
    version = timm_version()
    try:
        return import_module("timm")
    except Exception as error:  # a broken installation may raise anything
        raise SpaceError(f"timm {version} cannot be imported: {type(error).__name__}: {in_one_line(error)}.") from error


@lru_cache(maxsize=1)
def _registry(version: str) -> dict[str, tuple[int, dict[str, str]]]:
    """Return image size and weights of every network that timm brings, by name."""
    path = cached_record_path("timm", version, room="backbones")
    found = None if path is None else read_cached_record(path)
    if not isinstance(found, dict):
        found = _read_registry()
        if path is not None:
            cache_record(path, found)
    return found


def _read_registry() -> dict[str, tuple[int, dict[str, str]]]:
    """Read what `_registry` returns from timm itself; what others added to its registry is theirs to import."""
    timm = load_timm()
    weights: dict[str, dict[str, str]] = {}
    for tagged in timm.list_pretrained():
        name, _, tag = tagged.partition(".")
        described = timm.get_pretrained_cfg(tagged)
        if tag:
            weights.setdefault(name, {})[tag] = described.hf_hub_id or described.url
    names = [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("timm.")]
    return {name: (timm.get_pretrained_cfg(name).input_size[-1], weights.get(name, {})) for name in names}


def _is_plain(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return False
    return True


_FILE = "model.safetensors"


def timm_weights_file(spec: Spec, given: str, *, download: bool) -> Path:
    """Return the file of the weights that a tag names (`a1_in1k`, or in full `resnet50.a1_in1k`).

    Args:
        download: Whether it may be fetched.
    Raises: SpaceError that names the nearest tag of the network; FileError if the file is not on this machine and may
    not be fetched, or cannot be.
    """
    known = timm_network(spec["name"]).weights
    tag = given.removeprefix(f"{timm_name(spec)}.")
    if tag not in known:
        raise SpaceError(unknown(f"weights of backbone '{spec['name']}'", tag, known))
    if "://" in known[tag]:
        raise FileError(
            f"The weights {tag} lie only at {known[tag]}: fetch that file yourself, and name it as weights."
        )
    return _hub_file(known[tag], tag, download)


def _hub_file(repository: str, tag: str, download: bool) -> Path:
    """Return the file of a repository, fetched before if it may be."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # timm's own loader

    found = try_to_load_from_cache(repository, _FILE)
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise FileError(
            f"The weights {tag} are not on this machine ({repository} of the Hugging Face Hub), and may not be "
            "fetched: give --download, or download = true in [backbone], or a file."
        )
    try:
        return Path(hf_hub_download(repository, _FILE))
    except Exception as error:  # no network, no such file: the hub's client hands on errors of several libraries
        raise FileError(
            f"The weights {tag} cannot be fetched from {repository} of the Hugging Face Hub: {in_one_line(error)}."
        ) from error
