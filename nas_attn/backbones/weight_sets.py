"""Finds a network's weights in a file of anybody's: under the keys and prefixes that frameworks put around them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_attn.backbones.inert_pickle import StandIn, state_of
from nas_attn.errors import FileError

_PLAIN = ("", "state_dict", "model_state_dict", "model", "net", "network")
"""Keys of the weights in order of precedence, if a file has several sets of them: the file itself comes first."""
_AVERAGED = re.compile(r"ema|averag|swa|teacher|momentum|target", re.IGNORECASE)
"""Words in the names of weights that are no training's own result: they are used only if there are no others."""
_INNER = re.compile(r"(?:^|(?<=\.))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Parts of names that wrappers of torch's insert anywhere in a network."""
_OUTER = ("module.", "backbone.")
"""Of DataParallel, and of an AttentionModel: left out also of a network that does not fit, for the message."""
_COUNTS = (".total_ops", ".total_params")
"""Buffers that the package thop adds to every module."""
_DEPTH = 4


@dataclass(frozen=True)
class WeightSet:
    """Tensors that may be a network's.

    Args:
        key: Path of the keys under which they lie in the file; empty at its top.
        prefix: What precedes the network's own names.
        state: Tensors under the network's own names.
        others: Names of tensors beside them, without the prefix.
    """

    key: str
    prefix: str
    state: dict[str, Tensor]
    others: tuple[str, ...]

    @property
    def name(self) -> str:
        """The key and the prefix in one, for messages."""
        return ".".join(filter(None, (self.key, self.prefix.rstrip("."))))

    def fit(self, wanted: Mapping[str, Tensor]) -> tuple[int, int]:
        """Return the number of the network's tensors that are here with their shape, and by name alone."""
        known = [key for key in wanted if key in self.state]
        return sum(self.state[key].shape == wanted[key].shape for key in known), len(known)


def choose_weights(content: Any, wanted: Mapping[str, Tensor], file: Path) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors in a file's content that fit a network best, under its own names, and notes on the others.

    Raises: FileError if there are no tensors, or several sets fit equally and their names do not say which is meant.
    """
    sets = [WeightSet("", "", {}, ())] if not isinstance(content, dict) and state_of(content) is None else []
    sets += [found for key, tensors in _tensors(content) for found in _readings(key, tensors, wanted)]
    if not any(found.state for found in sets):
        raise FileError(
            f"The weights {file} must be a state dict of tensors, but are {_in_words(content)}; save the network's "
            "state_dict() by torch.save."
        )
    best = max(found.fit(wanted) for found in sets)
    fitting = sorted((found for found in sets if found.fit(wanted) == best), key=_precedence)
    first, *others = fitting
    others = [found for found in others if not _equal(found.state, first.state)]
    fits = best[1] > len(wanted) / 2  # fewer names may be equal by chance, as those of a block are in other networks
    if fits and others and _precedence(others[0]) == _precedence(first):
        raise FileError(
            f"The weights {file} must be of one network, but hold several that fit: "
            f"{', '.join(repr(found.name) for found in (first, *others))}: save the state dict of one of them."
        )
    return first.state, _notes(first, others if fits else [])


def refuse_not_finite(state: Mapping[str, Tensor], file: Path) -> None:
    """Refuse weights that are not numbers. Raises: FileError that names the first tensor."""
    for key, value in state.items():
        if not value.is_floating_point() or value.isfinite().all():
            continue
        kind = "NaN" if value.isnan().any() else "infinite"
        n_bad = int((~value.isfinite()).sum())
        raise FileError(
            f"The weights {file} must be finite, but '{key}' has {n_bad} {kind} of {value.numel()} values: take a "
            "checkpoint from before its training diverged."
        )


def _in_words(content: Any) -> str:
    """Return what a file without weights holds: its type, and the first thing in it."""
    mapping = state_of(content)
    found = f"of type {_type(content)}, without tensors"
    if not mapping:
        return found
    key, value = next(iter(mapping.items()))
    return f"{found}: '{key}' is of type {_type(value)}"


def _type(value: Any) -> str:
    """Return the name of an object's type, as the file states it where no code of it is executed."""
    return (value.path or "object") if isinstance(value, StandIn) else type(value).__name__


def _notes(chosen: WeightSet, others: list[WeightSet]) -> list[str]:
    notes = []
    if others:
        names = ", ".join(f"'{found.name}'" for found in others)
        notes.append(
            f"The file has several sets of weights that fit: '{chosen.name or 'its top'}' is used, not {names}."
        )
    if chosen.others:
        more = f" and {len(chosen.others) - 1} more" if len(chosen.others) > 1 else ""
        notes.append(f"Tensors beside the network's ('{chosen.prefix}') are left out: '{chosen.others[0]}'{more}.")
    return notes


def _precedence(found: WeightSet) -> tuple[bool, int]:
    """Return the rank of a set among those that fit equally: by its name."""
    known = _PLAIN.index(found.name) if found.name in _PLAIN else len(_PLAIN)
    return bool(_AVERAGED.search(found.name)), known


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[key]) for key, value in one.items())


def _tensors(content: Any, key: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield every mapping of names to tensors in a file's content, with the path of its keys."""
    mapping = state_of(content)
    if mapping is None or depth > _DEPTH:
        return
    found = {
        name: value.detach() for name, value in mapping.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if found:
        yield key, found
    for name, value in mapping.items():
        if isinstance(name, str):  # an optimizer's state lies under numbers
            yield from _tensors(value, f"{key}.{name}".lstrip("."), depth + 1)


def _readings(key: str, tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Iterator[WeightSet]:
    """Yield the tensors under each prefix after which names of the network follow, and without a prefix."""
    own = set(wanted)
    named = {_own_name(name, own): value for name, value in tensors.items()}
    named = {name: value for name, value in named.items() if name in own or not f".{name}".endswith(_COUNTS)}
    prefixes = _prefixes(named, own)
    if not prefixes:
        outer = next((prefix for prefix in _OUTER if all(name.startswith(prefix) for name in named)), "")
        yield WeightSet(key, outer, {name.removeprefix(outer): value for name, value in named.items()}, ())
    for prefix in prefixes:
        state = {name.removeprefix(prefix): value for name, value in named.items() if name.startswith(prefix)}
        others = [name for name in named if not name.startswith((prefix, "attention."))]
        yield WeightSet(key, prefix, state, tuple(others))


def _own_name(name: str, own: set[str]) -> str:
    """Return a name without what torch's wrappers insert, and in the words of new DenseNets of torchvision."""
    if name in own:
        return name
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", _INNER.sub("", name))


def _prefixes(names: Mapping[str, Tensor], own: set[str]) -> list[str]:
    """Return the prefixes under which at least half as many of the network's names lie as under the best one."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:k]) + "." * bool(k) for k in range(len(parts)) if ".".join(parts[k:]) in own)
    enough = max(counts.values(), default=0) / 2
    return [prefix for prefix, count in counts.items() if count >= enough]
