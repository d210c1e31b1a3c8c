"""One page for each attention of the catalogue, and a list of all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from generators.markdown import block, code, options_table, plain, sections, table, toml
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import SHAPE_KEEPING, Context, Entry, Option, all_effective, load_class
from nas_attn.attention.options import resolve_options
from nas_attn.cli.lists import value_range
from nas_attn.space.fit import Cost, entry_cost

MAPS = ((64, 56), (256, 14), (512, 7))
"""Channels and size of the example maps: those of the first, third and last stage of a ResNet-18 at 224 pixels."""

N_CLASSES = 10

_PATTERNS = {"conv": "conv3x3", "merge": "every block.merge", "head": "**"}
_BACKBONES = {"conv": "resnet50"}  # in whose blocks a ReLU follows each 3x3
_MOST_VALUES = 4


def pages() -> dict[str, str]:
    """Return the pages by their paths."""
    entries = [ATTENTIONS[name] for name in ATTENTIONS.own]
    return {"attentions/index.md": _index(entries)} | {path(entry.name): _page(entry) for entry in entries}


def path(name: str) -> str:
    """Return the path of an attention's page."""
    return f"attentions/{name}.md"


def _index(entries: list[Entry]) -> str:
    channels, size = MAPS[0]
    rows = [
        (f"[{entry.name}]({entry.name}.md)", plain(entry.summary), _kinds(entry), _count(_cost(entry, channels, size)))
        for entry in entries
    ]
    return "\n\n".join(
        [
            "# The attentions",
            f"The catalogue has {len(entries)} attention modules. Each computes what its authors' code computes, as "
            "far as that is known; its page names the source, and where it departs. The "
            f"parameters are those with default options, at {channels} channels.",
            table(("attention", "what it does", "kinds of site", "parameters"), rows),
            f"*Keeps the shape* stands for the kinds {', '.join(f'`{kind}`' for kind in SHAPE_KEEPING)}: one map "
            "enters, and one of the same shape leaves. The [glossary](../glossary.md#kind-of-site) explains the kinds. "
            "`nas-attn attentions` prints this list, `nas-attn attentions NAME` one entry.",
        ]
    )


def _page(entry: Entry) -> str:
    cls = load_class(entry.cls)
    documented = sections(cls)
    parts = [
        f"# {entry.name}",
        plain(entry.summary),
        block(entry.formula.replace("; ", "\n")),
        "`x` is the input and `y` the output of the module.",
        "## Source and departures",
        f"**Source:** {documented.get('Source', plain(entry.source))}",
        f"**Departs:** {documented.get('Departs', 'nothing is stated.')}",
        "## Where it fits",
        _where(entry),
        _under_torch(entry),
        "## Options",
        options_table(entry.options, value_range),
        "## Cost",
        _costs(entry),
        *([f"Per map: {documented['Cost']}"] if "Cost" in documented else []),
        *([] if entry.neutral else ["## In a space file", block(_space(entry), "toml")]),
        "## In Python",
        block(_python(entry), "python"),
    ]
    return "\n\n".join(parts)


def _kinds(entry: Entry) -> str:
    others = [kind for kind in entry.kinds if kind not in SHAPE_KEEPING]
    return ", ".join(["keeps the shape", *others] if set(SHAPE_KEEPING) <= set(entry.kinds) else entry.kinds)


def _where(entry: Entry) -> str:
    notes = {
        f"It takes {entry.n_inputs} maps: the branch, then the shortcut.": entry.n_inputs > 1,
        "In training it leaves auxiliary logits; `auxiliary_loss` collects their loss.": entry.auxiliary,
        "Before it is trained it returns its input: `y = x`, with default options.": entry.identity_start,
        "It takes the place of the batch norm behind the convolution too.": entry.replaces_norm,
        "It is what the network computes without attention: choosing it places nothing.": entry.neutral,
    }
    size = f"The smallest map is {entry.smallest_map}x{entry.smallest_map}."
    kinds = ", ".join(code(kind) for kind in entry.kinds)
    alike = _alike(entry)
    return " ".join([f"Kinds of site: {kinds}.", size, *(note for note, holds in notes.items() if holds), *alike])


def _alike(entry: Entry) -> list[str]:
    """Return the sentence on values that are one function on a small map, if there are such values."""
    if entry.effective is all_effective:
        return []
    return ["Values that are one function on the map are built, and counted, as one of them."]


def _under_torch(entry: Entry) -> str:
    """Return what torch can do with the module besides running it, and what it cannot."""
    words = {"trace": "torch.jit.trace", "fx": "torch.fx", "vmap": "torch.func.vmap", "second_derivative": "a second "
             "derivative (as in a gradient penalty)", "compile": "torch.compile", "export": "torch.export"}  # fmt: skip
    works = [word for check, word in words.items() if check not in entry.exceptions]
    cannot = [f"Not {word}: {entry.exceptions[check]}." for check, word in words.items() if check in entry.exceptions]
    return " ".join([f"It works with {', '.join(works)}, and with both ONNX exporters.", *map(plain, cannot)])


def _costs(entry: Entry) -> str:
    rows = []
    for channels, size in MAPS:
        cost = _cost(entry, channels, size)
        shape = f"{channels}x{size}x{size}"
        rows.append((shape, _count(cost), "" if cost is None else f"{cost.n_macs:,}"))
    intro = f"With default options, in a network of {N_CLASSES} classes; multiply-adds are those of one image."
    return intro + "\n\n" + table(("map (C, H, W)", "parameters", "multiply-adds"), rows)


def _cost(entry: Entry, channels: int, size: int) -> Cost | None:
    """Return the cost with default options, or None where those do not fit."""
    context = Context(num_classes=N_CLASSES, height=size, width=size)
    if entry.fits(channels, {option.name: option.default for option in entry.options}, context):
        return None
    return entry_cost(entry, channels, resolve_options(entry, channels, {}, context), context)


def _count(cost: Cost | None) -> str:
    return "does not fit" if cost is None else f"{cost.n_parameters:,}"


def _space(entry: Entry) -> str:
    """Return a whole space that searches up to two options of the attention."""
    kind = entry.kinds[0]
    lines = [
        f'title = "{entry.name} or nothing"',
        "",
        "[backbone]",
        f'name = "{_BACKBONES.get(kind, "resnet18")}"',
        "",
        "[[sites]]",
        f'match = ["{_PATTERNS.get(kind, "every block")}"]',
        'share = "stage"',
        f'attentions = ["{entry.name}"]',
    ]
    searched = dict(_searched(entry))
    if searched:
        lines += ["", f"[attentions.{entry.name}]", *(f"{name} = {toml(values)}" for name, values in searched.items())]
    return "\n".join(lines)


def _searched(entry: Entry) -> Iterator[tuple[str, list[Any]]]:
    """Yield up to two options with values that are worth a search: words to choose from, switches, whole numbers."""
    found = 0
    for option in entry.options:
        values = _neighbours(option)
        if len(values) > 1 and found < 2:
            found += 1
            yield option.name, values


def _neighbours(option: Option) -> list[Any]:
    if option.type == "bool":
        return [True, False]
    if option.choices:
        return list(option.choices[:_MOST_VALUES])
    if option.type != "int" or option.default is None:
        return []
    default = int(option.default)  # type: ignore[arg-type]
    other = abs(default - 2) if option.odd else default // 2
    return [] if (option.low is not None and other < option.low) or other == default else [other, default]


def _python(entry: Entry) -> str:
    more = f", context=Context(num_classes={N_CLASSES})" if entry.auxiliary else ""  # its logits are of the classes
    if entry.fits(64, {option.name: option.default for option in entry.options}, Context()):
        more = ", context=Context(height=14, width=14)"  # it is built for the size of a map
    maps = ", ".join(["torch.rand(2, 64, 14, 14)"] * entry.n_inputs)
    return "\n".join(
        [
            "import torch",
            f"from nas_attn import {'Context, ' if more else ''}create_attention",
            "",
            f'attention = create_attention("{entry.name}", channels=64{more})',
            f"y = attention({maps})",
        ]
    )
