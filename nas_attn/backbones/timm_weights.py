"""Finds timm's pretrained weights by their tag: in the cache of the Hugging Face Hub, or fetched into it; no torch."""

from __future__ import annotations

from pathlib import Path

from nas_attn.backbones.entry import Spec
from nas_attn.backbones.timm_names import timm_name, timm_network
from nas_attn.errors import FileError, SpaceError, in_one_line, unknown

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
