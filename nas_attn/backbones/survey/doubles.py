"""Finds modules that return the same tensor, so that each tensor is one site."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from nas_attn.backbones.passes import Passage, watched
from nas_attn.backbones.readers import Readers
from nas_attn.backbones.survey.first_passes import FirstPasses
from nas_attn.backbones.user_network import as_before, run


def find_doubles(
    net: nn.Module, known: Sequence[str], images: Tensor, first: FirstPasses, blocks: Collection[str]
) -> dict[str, str]:
    """Return the modules whose output is that of another one, with the path of that one.

    That one is a residual block, if there is one, otherwise the outermost module, or the first one in the data flow.

    A module that returns the output of a module inside it is one place with that one if no operator reads or writes the
    tensor in between, in any mode. An `nn.Identity` is one place with the module before it if nothing else reads that
    module's output.

    Args:
        known: Paths of the modules whose output is a map.
        blocks: Paths of the residual blocks.
    """

    def rank(path: str) -> tuple[bool, int, int]:
        return path not in blocks, path.count("."), first.passages[path].order

    owner = {path: path for path in known}
    for inner, outer in [*_passed_on(known, first), *_identities(net, known, images, first)]:
        one, other = (_top(owner, path) for path in (inner, outer))
        keep, drop = sorted((one, other), key=rank)
        owner[drop] = keep
    return {path: top for path in known if (top := _top(owner, path)) != path}


def _top(owner: Mapping[str, str], path: str) -> str:
    while owner[path] != path:
        path = owner[path]
    return path


def _passed_on(known: Sequence[str], first: FirstPasses) -> Iterator[tuple[str, str]]:
    """Yield the modules whose output a module around them returns, with that module."""
    modes = [mode for mode in (first.passages, first.trained) if mode]
    paths = set(known)
    for path in known:
        around = path.rpartition(".")[0]
        if around in paths and all(_is_passed_on(mode[path], mode[around]) for mode in modes):
            yield path, around


def _is_passed_on(inner: Passage, outer: Passage) -> bool:
    same = inner.tensor is not None and inner.tensor is outer.tensor
    return same and (inner.version, inner.reads) == (outer.version, outer.reads)


def _identities(net: nn.Module, known: Sequence[str], images: Tensor, first: FirstPasses) -> Iterator[tuple[str, str]]:
    """Yield the modules whose output only an `nn.Identity` reads, with that identity.

    In a pass of their own, identities return a view: only what reads the original tensor is then counted.
    """
    identities = [path for path in known if type(net.get_submodule(path)) is nn.Identity]
    made = {id(first.passages[path].tensor) for path in known if path not in identities}
    identities = [path for path in identities if id(first.passages[path].source) in made]
    if not identities:
        return
    with as_before(net), _viewing(net, identities), Readers() as readers, watched(net, known, readers=readers) as seen:
        run(net.eval(), images)
    for identity in identities:
        source = seen[identity].source
        before = [path for path in known if source is not None and seen[path].tensor is source]
        yield from ((path, identity) for path in before if readers.n_readers(seen[path].tensor) == seen[path].reads + 1)


@contextmanager
def _viewing(net: nn.Module, paths: Iterable[str]) -> Iterator[None]:
    """Context manager: the modules at these paths return a view of their output."""
    handles = [net.get_submodule(path).register_forward_hook(_view) for path in paths]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _view(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
    return output.view_as(output) if isinstance(output, Tensor) else output
