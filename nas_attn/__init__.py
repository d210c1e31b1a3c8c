"""Find which attention module helps in a CNN, where, and with which options.

This module names the public API and imports the module of a name on its first use, so that importing the package is
quick. `nas_attn.search` is the function; its implementation is in `nas_attn.run.job`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:  # what editors and type checkers see
    from nas_attn.attention.catalog import ATTENTIONS, register_attention
    from nas_attn.attention.create import create_attention
    from nas_attn.attention.entry import Context, Entry, Option
    from nas_attn.backbones.catalog import BACKBONES, register_backbone
    from nas_attn.backbones.entry import Backbone, BackboneOption
    from nas_attn.backbones.sites import Place
    from nas_attn.data.arrays import ImageDataset, LabelledImages
    from nas_attn.data.catalog import DATA, register_data
    from nas_attn.data.entry import DataRequest, DataSource
    from nas_attn.errors import NasAttnError
    from nas_attn.model.build import build_model
    from nas_attn.model.file import load_model, save_model
    from nas_attn.placement import Attention, Placement, Site
    from nas_attn.run.folder import load_run
    from nas_attn.run.job import search
    from nas_attn.space.search_space import SearchSpace
    from nas_attn.study.samplers.placement_sampler import PlacementSampler
    from nas_attn.training.auxiliary import auxiliary_loss
    from nas_attn.training.trial import Run

__all__ = [
    "ATTENTIONS",
    "BACKBONES",
    "DATA",
    "Attention",
    "Backbone",
    "BackboneOption",
    "Context",
    "DataRequest",
    "DataSource",
    "Entry",
    "ImageDataset",
    "LabelledImages",
    "NasAttnError",
    "Option",
    "Place",
    "Placement",
    "PlacementSampler",
    "Run",
    "SearchSpace",
    "Site",
    "__version__",
    "auxiliary_loss",
    "build_model",
    "create_attention",
    "load_model",
    "load_run",
    "register_attention",
    "register_backbone",
    "register_data",
    "save_model",
    "search",
]

_HOMES = {
    "ATTENTIONS": "nas_attn.attention.catalog",
    "BACKBONES": "nas_attn.backbones.catalog",
    "DATA": "nas_attn.data.catalog",
    "Attention": "nas_attn.placement",
    "Backbone": "nas_attn.backbones.entry",
    "BackboneOption": "nas_attn.backbones.entry",
    "Context": "nas_attn.attention.entry",
    "DataRequest": "nas_attn.data.entry",
    "DataSource": "nas_attn.data.entry",
    "Entry": "nas_attn.attention.entry",
    "ImageDataset": "nas_attn.data.arrays",
    "LabelledImages": "nas_attn.data.arrays",
    "NasAttnError": "nas_attn.errors",
    "Option": "nas_attn.attention.entry",
    "Place": "nas_attn.backbones.sites",
    "Placement": "nas_attn.placement",
    "PlacementSampler": "nas_attn.study.samplers.placement_sampler",
    "Run": "nas_attn.training.trial",
    "SearchSpace": "nas_attn.space.search_space",
    "Site": "nas_attn.placement",
    "auxiliary_loss": "nas_attn.training.auxiliary",
    "build_model": "nas_attn.model.build",
    "create_attention": "nas_attn.attention.create",
    "load_model": "nas_attn.model.file",
    "load_run": "nas_attn.run.folder",
    "register_attention": "nas_attn.attention.catalog",
    "register_backbone": "nas_attn.backbones.catalog",
    "register_data": "nas_attn.data.catalog",
    "save_model": "nas_attn.model.file",
    "search": "nas_attn.run.job",
}


def __getattr__(name: str) -> Any:
    """Return a public name; import its module on first use (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the names of the public API, whether loaded or not."""
    return sorted({*globals(), *__all__})
