"""Names and weights of timm's networks, cached in the user's cache folder so that timm is imported only to build."""

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

_WEIGHTS = "use weights in [backbone]"
_NOT_OPTIONS = {
    "num_classes": "it follows from the data",
    "in_chans": "it follows from the data",
    "pretrained": _WEIGHTS,
    "pretrained_cfg": _WEIGHTS,
    "pretrained_cfg_overlay": _WEIGHTS,
    "checkpoint_path": _WEIGHTS,
    "cache_dir": _WEIGHTS,
    "features_only": "a network must return logits",
    "device": "use --device",
}
"""Arguments of `timm.create_model` that are not options of a backbone: some of them read or download files."""


@dataclass(frozen=True)
class TimmNetwork:
    """One network of timm's registry.

    Args:
        image_size: Height and width of timm's training images.
        weights: Tag -> location of pretrained weights: a repository of the Hugging Face Hub, or a URL.
    """

    image_size: int
    weights: Mapping[str, str]


def is_timm(spec: Spec) -> bool:
    """Return whether a spec names a network of timm's."""
    return str(spec.get("name", "")).startswith(PREFIX)


def timm_name(spec: Spec) -> str:
    """Return timm's own name of the network of such a spec."""
    return str(spec["name"]).removeprefix(PREFIX)


def timm_network(name: str, where: str = "") -> TimmNetwork:
    """Return the record of the network `timm:NAME`; reads no file but the cache, downloads nothing.

    Raises: SpaceError for an invalid or unknown name (with the nearest one), or if timm is not installed.
    """
    bare = name.removeprefix(PREFIX)
    if not (bare.isascii() and bare.isidentifier()):
        network, _, tag = bare.partition(".")
        hint = f": write weights = '{tag}'" if network.isidentifier() and tag else ""
        raise SpaceError(
            f"Backbone '{name}'{placed(where)} must be timm: and a name of timm's registry such as timm:resnet18, "
            f"without a source, a path or a tag{hint}."
        )
    known = _registry(timm_version(where))
    if bare not in known:
        raise SpaceError(unknown("network of timm", bare, known, where))
    return TimmNetwork(*known[bare])


def check_timm(spec: Spec, where: str = "") -> dict[str, Any]:
    """Return a checked spec `{"name": "timm:NAME", option: value}`; the options are passed to `timm.create_model`.

    Raises: SpaceError for an unknown network, and an option that is not allowed or has no JSON form.
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
    path = cached_record_path("timm", version, folder="backbones")
    found = None if path is None else read_cached_record(path)
    if not isinstance(found, dict):
        found = _read_registry()
        if path is not None:
            cache_record(path, found)
    return found


def _read_registry() -> dict[str, tuple[int, dict[str, str]]]:
    """Return the content of `_registry` from timm itself, without networks that other packages registered in timm."""
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


def timm_weights_file(spec: Spec, name: str, *, download: bool) -> Path:
    """Return the file of the weights with a tag (`a1_in1k`, or in full `resnet50.a1_in1k`).

    Args:
        download: Whether it may be downloaded.
    Raises: SpaceError with the nearest tag of the network; FileError if the file is not on this machine and may not, or
    cannot, be downloaded.
    """
    known = timm_network(spec["name"]).weights
    tag = name.removeprefix(f"{timm_name(spec)}.")
    if tag not in known:
        raise SpaceError(unknown(f"weights of backbone '{spec['name']}'", tag, known))
    if "://" in known[tag]:
        raise FileError(
            f"The weights {tag} are only available at {known[tag]}: download that file, and set weights to its path."
        )
    return _hub_file(known[tag], tag, download)


def _hub_file(repository: str, tag: str, download: bool) -> Path:
    """Return the file of a repository of the Hub, downloaded if allowed."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache  # timm's own loader

    found = try_to_load_from_cache(repository, _FILE)
    if isinstance(found, str):
        return Path(found)
    if not download:
        raise FileError(
            f"The weights {tag} are not on this machine ({repository} of the Hugging Face Hub), and downloads are not "
            "allowed: use --download, or download = true in [backbone], or a file."
        )
    try:
        return Path(hf_hub_download(repository, _FILE))
    except Exception as error:  # no network, no such file: the hub's client raises errors of several libraries
        raise FileError(
            f"The weights {tag} cannot be downloaded from {repository} of the Hugging Face Hub: {in_one_line(error)}."
        ) from error
