"""A network of the user's that is in memory: a function that returns it, or a module that every model copies."""

from __future__ import annotations

import hashlib
import inspect
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nas_attn.errors import SpaceError
from nas_attn.placement import Shape, SiteTable, Survey
from nas_attn.user_code.content import Content, content_of, content_of_classes

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, eq=False)
class OwnNetwork:
    """A network without a name that another process could import; it is pickled by value.

    Args:
        source: A function that returns a new network, or a module.
        token: Unlike that of every other network: its surveys are cached under it.
    """

    source: Any
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @property
    def is_module(self) -> bool:
        """Whether it is a module, whose weights are the initial weights of every trial."""
        from torch import nn

        return isinstance(self.source, nn.Module)

    @property
    def name(self) -> str:
        """The name of the function, or of the module's class."""
        if self.is_module:
            return type(self.source).__name__
        found = str(getattr(self.source, "__name__", type(self.source).__name__))
        return found if found.isidentifier() else "network"

    def make(self, shape: Shape) -> nn.Module:
        """Return a new network, or a copy of the module. Raises: SpaceError as `make_network` and `copy_network`."""
        from nas_attn.backbones.user_network import copy_network, make_network

        if self.is_module:
            return copy_network(self.source)
        return make_network(self.source, f"function '{self.name}'", {}, shape)

    def survey(self, net: nn.Module, shape: Shape) -> Survey:
        """Return the survey of a network that `make` returned, cached in this process. Raises: SpaceError."""
        from nas_attn.backbones.survey.survey import foreign_survey

        return foreign_survey({"own": self.token}, net, shape)

    def table(self, shape: Shape) -> SiteTable:
        """Return its sites. Raises: SpaceError if it cannot be made, run or trained with images of this shape."""
        from nas_attn.backbones.modules import seeded

        with seeded(0, "backbone"):
            net = self.make(shape)
        found = self.survey(net, shape)
        if found.untrainable is not None and shape.num_classes:
            raise SpaceError(found.untrainable)
        return found.table

    def identity(self, shape: Shape) -> dict[str, str]:
        """Return what the network is, in plain JSON: its name, and a digest of its structure.

        The digest covers the classes, plain attributes and parameters' shapes of all modules, and the weights of a
        module; `content` has the code.
        """
        return {"own": self.name, "sha256": self._structure(shape).hexdigest()}

    def former_identity(self, shape: Shape) -> dict[str, str]:
        """Return the identity of runs of version 0.1.0, which covers the source of a function as text."""
        digest = self._structure(shape)
        if not self.is_module:
            with suppress(OSError, TypeError):  # typed at a prompt, or no function but an object that can be called
                digest.update(inspect.getsource(self.source).encode())
        return {"own": self.name, "sha256": digest.hexdigest()}

    def content(self) -> Content:
        """Return the code of a function with all that it uses, or that of the classes of a module."""
        if not self.is_module:
            return content_of(self.source)
        return content_of_classes(dict.fromkeys(type(module) for module in self.source.modules()))

    def _structure(self, shape: Shape) -> Any:
        """Return a digest of the network's structure, and of the weights of a module."""
        from nas_attn.backbones.modules import seeded
        from nas_attn.backbones.survey.survey import anatomy

        with seeded(0, "backbone"):
            net = self.make(shape)
        digest = hashlib.sha256(repr(anatomy(net)).encode())
        if self.is_module:
            _add_weights(digest, net)
        return digest


def _add_weights(digest: Any, net: nn.Module) -> None:
    """Add the bytes of all parameters and buffers to a digest."""
    import torch

    for name, value in net.state_dict().items():
        digest.update(name.encode())
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
