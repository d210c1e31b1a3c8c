"""Finds the file of a backbone's pretrained weights; needs torch only for torchvision's weights."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from nas_attn.backbones.catalog import backbone_entry, plugged_entry
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.timm_names import is_timm, timm_weights_file
from nas_attn.errors import FileError, SpaceError, unknown

SUFFIXES = (".safetensors", ".pt", ".pth", ".ckpt", ".bin", ".tar")
_SHARD = re.compile(r"-\d+-of-\d+\.|\.index\.json$")
"""Names of the parts of weights in several files, and of their index."""
_TORCHVISION = "torchvision.models"
_OTHER_NAMES = {"squeezenet": "squeezenet1_1", "shufflenet_v2": "shufflenet_v2_x1_0"}
"""torchvision's names of backbones that have another name here."""


def find_weights(spec: Spec, *, download: bool = False) -> Path | None:
    """Return the absolute path of the weights of a checked spec, or None if it has none.

    Args:
        download: Whether torchvision's or timm's weights may be downloaded; the spec's own `download` allows it too.
    Raises: FileError if the file is missing, has another suffix, or may not be downloaded; SpaceError if torchvision or
    timm has no such weights for the backbone.
    """
    name = spec.get("weights")
    if name is None:
        return None
    path = Path(name).expanduser()
    if _SHARD.search(path.name):
        raise FileError(
            f"The backbone's weights must be one file, but {name} belongs to several: join them, for instance by "
            "save_pretrained(PATH, max_shard_size='100GB')."
        )
    if path.suffix in SUFFIXES:
        if path.is_dir():
            raise FileError(f"The backbone's weights must be a file, but {name} is a folder: name a file in it.")
        if not path.is_file():
            raise FileError(f"The backbone's weights must be a file, but there is none at {name}.")
        return path.absolute()  # a link is not resolved: its target may have no suffix
    if is_timm(spec):
        return timm_weights_file(spec, name, download=download or bool(spec.get("download")))
    if not name.isidentifier():
        raise FileError(
            f"The backbone's weights must be a {', '.join(SUFFIXES)} file or a name of torchvision's such as "
            f"IMAGENET1K_V1, but got '{name}': save the network's state_dict() by torch.save."
        )
    return _torchvision_file(spec, name, download=download or bool(spec.get("download")))


def _torchvision_file(spec: Spec, name: str, *, download: bool) -> Path:
    """Return torchvision's file of these weights, downloaded if allowed."""
    from torch import hub

    url = _url(spec, name)
    path = Path(hub.get_dir(), "checkpoints", Path(urlsplit(url).path).name)
    if path.is_file():
        return path
    if not download:
        raise FileError(
            f"The weights {name} are not on this machine ({path}), and downloads are not allowed: use --download, or "
            "download = true in [backbone], or a file."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        hub.download_url_to_file(url, str(path), path.stem.rpartition("-")[2], progress=False)
    except (OSError, RuntimeError) as error:  # no network; a digest that does not match
        raise FileError(
            f"The weights {name} cannot be downloaded from {url}: {' '.join(str(error).split())}."
        ) from error
    return path


def _url(spec: Spec, name: str) -> str:
    """Return the URL of torchvision's weights. Raises: SpaceError that lists the known ones."""
    from torchvision import models

    network, ours = _torchvision_name(spec)
    if network not in models.list_models(models):
        raise SpaceError(
            f"torchvision has no weights for backbone '{ours}', but got weights = '{name}': set weights to a file."
        )
    known = models.get_model_weights(network).__members__
    if name not in known:
        raise SpaceError(unknown(f"weights of backbone '{ours}'", name, known))
    url: str = known[name].value.url
    return url


def _torchvision_name(spec: Spec) -> tuple[str, str]:
    """Return torchvision's name of the backbone ("" if it has none), and its name here."""
    plugged = plugged_entry(spec)
    path = spec.get("import") if plugged is None else plugged.build
    if path is not None:
        module, _, function = path.partition(":") if isinstance(path, str) else ("", "", "")
        return (function if module.startswith(_TORCHVISION) else ""), spec.get("name", path)
    entry = backbone_entry(spec["name"])
    return str(entry.fixed.get("arch") or _OTHER_NAMES.get(entry.name, entry.name)), entry.name
