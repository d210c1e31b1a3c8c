"""Options that a file leaves out, where an earlier version had another default: read from the stored weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from nas_attn.model.build import AttentionModel
from nas_attn.placement import Placement, Value

_Weights = Mapping[str, Tensor]
"""The stored weights of one attention."""


def _groups_of_sge(built: Any, stored: _Weights) -> int:
    return len(stored["weight"])


def _groups_of_shuffle(built: Any, stored: _Weights) -> int:
    return int(built.groups * len(built.channel.weight) // len(stored["channel.weight"]))


def _factor_of_ema(built: Any, stored: _Weights) -> int:
    return int(built.groups * len(built.norm.weight) // len(stored["norm.weight"]))


_STORED: Mapping[str, tuple[str, Callable[[Any, _Weights], int]]] = {
    "sge": ("groups", _groups_of_sge),
    "shuffle": ("groups", _groups_of_shuffle),
    "ema": ("factor", _factor_of_ema),
}
"""Attention -> the option whose default has changed, and its value by the built module and the stored weights."""


def with_stored_options(model: AttentionModel, state: Mapping[str, Tensor]) -> Placement:
    """Return a model's placement; an option that it leaves out is stated where the stored weights have another value.

    Args:
        model: Built from the file, with the defaults of today.
        state: The stored weights.
    """
    placed = dict(model.placement.attentions)
    for site, attention in placed.items():
        option, read = _STORED.get(attention.name, ("", None))
        if read is None or attention.options.get(option, "auto") not in ("auto", None):
            continue
        insert: Any = model.attention.get_submodule(site)
        start = f"attention.{site}.{insert.attention_name}."
        if all(start + key in state for key in insert.attention.state_dict()):
            value: Value = read(insert.attention, {key: state[start + key] for key in insert.attention.state_dict()})
            if value != insert.attention.groups:
                placed[site] = replace(attention, options={**attention.options, option: value})
    return Placement(placed)
