"""The imports that only the result of a run needs, made while its last trainings run."""

from __future__ import annotations

import threading
from contextlib import suppress
from importlib import import_module

from nas_attn.backbones.catalog import backbone_entry, is_foreign
from nas_attn.backbones.entry import Spec
from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.backbones.timm_names import is_timm

_MODULES = ("nas_attn.run.export", "nas_attn.report.page", "nas_attn.run.arm_costs")


class ResultImports:
    """A thread that imports torch, the backbone's module and matplotlib, which take seconds; nothing of the user's.

    An error is raised again by the import where the module is used.

    Args:
        backbone: The network that is exported.
    """

    def __init__(self, backbone: Spec | OwnNetwork) -> None:
        self._backbone = backbone
        self._thread = threading.Thread(target=self._import_all, daemon=True)

    def begin(self) -> None:
        """Begin the imports, if they have not begun."""
        if self._thread.ident is None:
            self._thread.start()

    def join(self) -> None:
        """Wait for the end of the imports, if they have begun."""
        if self._thread.ident is not None:
            self._thread.join()

    def _import_all(self) -> None:
        for name in (*_MODULES, *self._built_by()):
            with suppress(Exception):
                import_module(name)

    def _built_by(self) -> tuple[str, ...]:
        """Return the module that builds the backbone, if it is this package's."""
        backbone = self._backbone
        if isinstance(backbone, OwnNetwork) or is_foreign(backbone) or is_timm(backbone):
            return ()
        function = backbone_entry(backbone["name"]).build
        return (function.partition(":")[0],) if isinstance(function, str) else ()
