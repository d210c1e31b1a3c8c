"""Reads a file that torch.save has written without executing anything that it names.

A pickle names functions and classes, and loading it calls them. Here only the functions that put a tensor together are
called. Anything else, such as an `argparse.Namespace` or a whole network, becomes a `StandIn`: it holds what the file
says about the object, and no code of the object's class runs.
"""

from __future__ import annotations

import pickle
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_attn.errors import FileError, first_line


def _parameter(data: Tensor, requires_grad: bool, hooks: Any, state: Any) -> nn.Parameter:
    """Return a parameter without the attributes that its author gave it."""
    return nn.Parameter(data, requires_grad)


_CALLED = {
    "collections.OrderedDict": OrderedDict,
    "builtins.set": set,
    "__builtin__.set": set,
    "torch.Size": torch.Size,
    "torch._utils._rebuild_tensor": torch._utils._rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": torch._utils._rebuild_tensor_v2,
    "torch._utils._rebuild_parameter": torch._utils._rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch.nn.parameter.Parameter": nn.Parameter,
    "torch.nn.parameter.Buffer": nn.Buffer,
}
"""All that is called. torch itself resolves the names of storages, and `torch.float16` is a value."""


_HEAD = 64
_STARTS = (
    (b"<", "a page of HTML: fetch the file itself"),
    (b"version https://git-lfs", "a pointer of Git LFS: `git lfs pull` fetches the file"),
)
"""First bytes of what is often stored in place of a file."""


class StandIn:
    """An object of a class that is not loaded.

    Args:
        path: Name of its class.
        entries: What the file stores under keys, if it is like a dict.
        state: What the file stores as its attributes.
    """

    path = ""
    entries: dict[Any, Any]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> StandIn:
        """Return an empty stand-in, whatever the arguments of the real class are."""
        made = super().__new__(cls)
        made.entries, made.state = {}, {}
        return made

    def __setitem__(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def append(self, item: Any) -> None:
        """Leave out an element of a list."""

    def extend(self, items: Any) -> None:
        """Leave out elements of a list."""


def read_torch_file(file: Path) -> Any:
    """Return the content of a file, with stand-ins for all objects that are neither tensors nor plain containers.

    Raises: FileError if it is not a file of torch.save, or damaged.
    """
    kind = _other_kind(file)
    if kind is not None:
        raise FileError(
            f"The weights {file} must be a state dict of tensors that torch.save has written, but are {kind}."
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's remarks on old formats, and on source code that changed
            return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_module())
    except Exception as error:  # a damaged pickle may raise anything
        raise FileError(
            f"The weights {file} must be a file that torch.save has written, but cannot be read ({first_line(error)}): "
            "fetch it again, or save the state dict by torch.save."
        ) from error


def state_of(content: Any) -> dict[Any, Any] | None:
    """Return an object as a mapping, if it is one: a dict, something like a dict, or a network as its state dict."""
    if isinstance(content, dict):
        return content
    if not isinstance(content, StandIn):
        return None
    if content.entries:
        return content.entries
    inside = content.state if isinstance(content.state, dict) else {}
    return dict(_tensors_of(content)) if "_modules" in inside else inside


def _tensors_of(network: StandIn, prefix: str = "") -> list[tuple[str, Tensor]]:
    """Return the parameters and buffers of a pickled network under the names of its state dict."""
    own = {**_part(network, "_parameters"), **_part(network, "_buffers")}
    unsaved = network.state.get("_non_persistent_buffers_set", ())
    found = [
        (f"{prefix}{name}", value) for name, value in own.items() if isinstance(value, Tensor) and name not in unsaved
    ]
    for name, child in _part(network, "_modules").items():
        if isinstance(child, StandIn) and isinstance(child.state, dict):
            found += _tensors_of(child, f"{prefix}{name}.")
    return found


def _part(network: StandIn, name: str) -> dict[Any, Any]:
    found = network.state.get(name)
    return found if isinstance(found, dict) else {}


def _other_kind(file: Path) -> str | None:
    """Return what the file is if torch.load would do more than read a pickle: run a TorchScript, or unpack a tar."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                return "a TorchScript archive, which holds code: save its state_dict()"
            return None
    if tarfile.is_tarfile(file):
        return "a tar archive: unpack it, or save its state_dict() anew"
    with file.open("rb") as opened:
        head = opened.read(_HEAD)
    if not head:
        return "an empty file: fetch it again"
    return next((kind for start, kind in _STARTS if head.lstrip().lower().startswith(start)), None)


class _Unpickler(pickle._Unpickler):  # in Python, so that its steps can be replaced
    """Calls what `_CALLED` lists and makes stand-ins of everything else."""

    stack: list[Any]
    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return a listed function, a type of numbers, or a stand-in."""
        path = f"{module}.{name}"
        if path in _CALLED:
            return _CALLED[path]
        kind = getattr(torch, name, None) if module == "torch" else None
        return kind if isinstance(kind, torch.dtype) else type("StandIn", (StandIn,), {"path": path})

    def get_extension(self, code: int) -> None:
        """Refuse a code of the registry of extensions, which would name a class."""
        raise pickle.UnpicklingError(f"it uses the extension code {code}")

    def load_reduce(self) -> None:
        """Call a listed function; anything else becomes a stand-in."""
        args = self.stack.pop()
        called = self.stack[-1]
        listed = any(called is function for function in _CALLED.values())
        kind = called if isinstance(called, type) and issubclass(called, StandIn) else StandIn
        self.stack[-1] = called(*args) if listed else kind()

    def load_build(self) -> None:
        """Store the state of a stand-in and of a dict; no class's own code takes it."""
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, StandIn):
            built.state = state
        elif isinstance(built, nn.Parameter | Tensor | OrderedDict):
            return  # the attributes of a tensor, or the versions of modules in a state dict
        else:
            raise pickle.UnpicklingError(f"it sets the state of a {type(built).__name__}")

    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.BUILD[0]] = load_build


def _module() -> ModuleType:
    """Return what torch.load takes for the module pickle."""
    module = ModuleType("inert_pickle")
    module.Unpickler = _Unpickler  # type: ignore[attr-defined]
    module.load = lambda file, **options: _Unpickler(file, **options).load()  # type: ignore[attr-defined]
    return module
