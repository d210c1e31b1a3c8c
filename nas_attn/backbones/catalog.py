"""The table of backbones: facts only, complete at import, no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from nas_attn.errors import SpaceError, unknown

Spec = Mapping[str, Any]


@dataclass(frozen=True)
class BackboneOption:
    """One option of a backbone: its type, its range and its default.

    Args:
        type: What values are; `ints` is a list of whole numbers.
        low, high: Inclusive range of a number, or of each number of a list.
        longest: How many numbers an `ints` option may hold.
        choices: The words of a `str` option.
        auto: Gives the value that None stands for, from the other options; None where None is no value.
    """

    name: str
    default: Any
    type: Literal["int", "float", "str", "ints"]
    about: str
    low: float = 0
    high: float = 0
    longest: int = 1
    choices: tuple[str, ...] = ()
    auto: Callable[[Spec], Any] | None = None


@dataclass(frozen=True)
class Backbone:
    """One backbone of the catalogue.

    Args:
        build: Function that makes the network from its options, as "module:name".
        places: Function that names its sites, as "module:name".
        kinds: Kinds of site that it offers.
        smallest_image: Height and width of the smallest image that it takes, from its options.
        default_image: Height and width that smaller images are enlarged to, from its options.
        source: Authors, venue, arXiv.
    """

    name: str
    build: str
    places: str
    summary: str
    source: str
    options: tuple[BackboneOption, ...]
    kinds: tuple[str, ...]
    smallest_image: Callable[[Spec], int]
    default_image: Callable[[Spec], int]


def _smallest_densenet(spec: Spec) -> int:
    """A map of at least one pixel must be left after every transition (floor) and the stem (ceiling)."""
    last_halvings: int = 2 ** (len(spec.get("block_config", (6, 12, 24, 16))) - 1)
    return last_halvings if spec["stem"] == "small" else 4 * (last_halvings - 1) + 1


def _smallest_resnet(spec: Spec) -> int:
    """Every stride must still halve its map: the last stage's comes from two pixels or more."""
    return 5 if spec["stem"] == "small" else 17


def _default_image(spec: Spec) -> int:
    return 32 if spec["stem"] == "small" else 224


def _stem(default: str) -> BackboneOption:
    about = "3x3 at stride 1 without pooling (small), or 7x7 at stride 2 and a pooling (imagenet)"
    return BackboneOption("stem", default, "str", about, choices=("small", "imagenet"))


_DROP_RATE = BackboneOption("drop_rate", 0.0, "float", "dropout after each dense layer", low=0.0, high=0.9)

_DENSENET_SOURCE = "Huang et al., CVPR 2017, arXiv:1608.06993"
_RESNET_SOURCE = "He et al., CVPR 2016, arXiv:1512.03385"
_RESIDUAL_KINDS = ("output", "pre", "branch", "shortcut", "conv", "merge", "head")

_ENTRIES = (
    Backbone(
        name="densenet",
        build="nas_attn.backbones.build:densenet",
        places="nas_attn.backbones.sites:densenet_places",
        summary="DenseNet-BC of free width and depth, for small images (compression 0.5)",
        source=_DENSENET_SOURCE,
        options=(
            BackboneOption("growth_rate", 12, "int", "channels that each layer adds", low=1, high=256),
            BackboneOption("block_config", [6, 6, 6], "ints", "layers of each block", low=1, high=128, longest=8),
            BackboneOption(
                "num_init_features",
                None,
                "int",
                "channels of the stem; auto: twice the growth rate",
                low=1,
                high=2048,
                auto=lambda spec: 2 * spec["growth_rate"],
            ),
            BackboneOption("bn_size", 4, "int", "width of a layer's bottleneck, in growth rates", low=1, high=16),
            _DROP_RATE,
            _stem("small"),
        ),
        kinds=("output",),
        smallest_image=_smallest_densenet,
        default_image=_default_image,
    ),
    Backbone(
        name="densenet121",
        build="nas_attn.backbones.build:densenet121",
        places="nas_attn.backbones.sites:densenet_places",
        summary="DenseNet-121: 4 blocks of 6, 12, 24 and 16 layers, growth rate 32",
        source=_DENSENET_SOURCE,
        options=(_DROP_RATE, _stem("imagenet")),
        kinds=("output",),
        smallest_image=_smallest_densenet,
        default_image=_default_image,
    ),
    Backbone(
        name="resnet18",
        build="nas_attn.backbones.build:resnet18",
        places="nas_attn.backbones.sites:resnet_places",
        summary="ResNet-18: 4 stages of 2 basic blocks",
        source=_RESNET_SOURCE,
        options=(_stem("imagenet"),),
        kinds=_RESIDUAL_KINDS,
        smallest_image=_smallest_resnet,
        default_image=_default_image,
    ),
    Backbone(
        name="resnet50",
        build="nas_attn.backbones.build:resnet50",
        places="nas_attn.backbones.sites:resnet_places",
        summary="ResNet-50: 4 stages of 3, 4, 6 and 3 bottleneck blocks",
        source=_RESNET_SOURCE,
        options=(_stem("imagenet"),),
        kinds=_RESIDUAL_KINDS,
        smallest_image=_smallest_resnet,
        default_image=_default_image,
    ),
)


def _table(entries: tuple[Backbone, ...]) -> Mapping[str, Backbone]:
    table = {entry.name: entry for entry in entries}
    assert len(table) == len(entries), "two backbones have one name"
    return MappingProxyType(table)


BACKBONES: Mapping[str, Backbone] = _table(_ENTRIES)


def backbone_entry(name: str, where: str = "") -> Backbone:
    """Return the catalogue's entry. Raises: SpaceError that names the nearest backbone."""
    if name not in BACKBONES:
        raise SpaceError(unknown("backbone", name, BACKBONES, where))
    return BACKBONES[name]


def check_backbone(spec: str | Spec, where: str = "") -> dict[str, Any]:
    """Return `spec` with every option filled in, so that equal networks have equal specs.

    Args:
        spec: A name, or `{"name": ..., option: value}`, or `{"import": "module:function", ...}` for a network of the
            user's own; the latter's options are the function's business and pass unchecked.
        where: The file that it stands in, for the message.
    Raises: SpaceError that names the nearest backbone or option, or the range of a value.
    """
    record = {"name": spec} if isinstance(spec, str) else dict(spec)
    if "import" in record:
        return _check_import(record, where)
    name = record.pop("name", None)
    if not isinstance(name, str):
        raise SpaceError(f'A backbone must have a name{_in(where)}, but got {name!r}: write name = "densenet".')
    entry = backbone_entry(name, where)
    known = {option.name: option for option in entry.options}
    for key in record:
        if key not in known:
            raise SpaceError(unknown(f"option of backbone '{name}'", str(key), known, where))
    checked = {option.name: _check_value(entry, option, record.get(option.name), where) for option in entry.options}
    for option in entry.options:
        if checked[option.name] is None and option.auto is not None:
            checked[option.name] = option.auto(checked)
    return {"name": name, **checked}


def image_sizes(spec: str | Spec) -> tuple[int, int]:
    """Return height and width of the smallest image that a catalogue backbone takes, and of its default one."""
    checked = check_backbone(spec)
    entry = backbone_entry(checked["name"])
    return entry.smallest_image(checked), entry.default_image(checked)


def check_shape(spec: Spec, *, num_classes: int, in_channels: int, image_size: int | None) -> int:
    """Return the image size that is meant. Raises: SpaceError for one that a catalogue backbone does not take."""
    for name, count in (("num_classes", num_classes), ("in_channels", in_channels)):
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise SpaceError(f"{name} >= 1 must hold, but got {name}={count!r}.")
    if "import" in spec:
        return _own_size(image_size)
    entry = backbone_entry(spec["name"])
    if image_size is None:
        return entry.default_image(spec)
    smallest = entry.smallest_image(spec)
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < smallest:
        options = ", ".join(f"{key}={value}" for key, value in spec.items() if key in ("stem", "block_config"))
        raise SpaceError(
            f"Backbone '{entry.name}' with {options} takes images of {smallest}x{smallest} pixels or more, but got "
            f"image_size={image_size!r}: its default is {entry.default_image(spec)}."
        )
    return image_size


def _own_size(image_size: int | None) -> int:
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise SpaceError(f"A network of your own needs image_size >= 1, but got image_size={image_size!r}.")
    return image_size


def _check_import(record: Spec, where: str) -> dict[str, Any]:
    target = record["import"]
    if "name" in record:
        raise SpaceError(f"A backbone has either a name or an import{_in(where)}, but got both: leave one out.")
    module, _, function = target.partition(":") if isinstance(target, str) else ("", "", "")
    if not module or not function:
        raise SpaceError(f"A backbone's import must read 'module:function'{_in(where)}, but got {target!r}.")
    return dict(record)


def _check_value(entry: Backbone, option: BackboneOption, value: Any, where: str) -> Any:
    """Return a valid value in its JSON form; a value that is not given is the default."""
    if value is None or (value == "auto" and option.auto is not None):
        return option.default
    if option.type == "ints":
        given = value if isinstance(value, list | tuple) else [None]
        if 1 <= len(given) <= option.longest and all(_is_number(item, option, int) for item in given):
            return list(given)
    elif option.type == "str":
        if isinstance(value, str) and value in option.choices:
            return value
        if isinstance(value, str):
            raise SpaceError(unknown(f"{option.name} of backbone '{entry.name}'", value, option.choices, where))
    elif _is_number(value, option, int if option.type == "int" else float):
        return float(value) if option.type == "float" else value
    raise SpaceError(f"{_law(option)} must hold for backbone '{entry.name}'{_in(where)}, but got {value!r}.")


def _is_number(value: Any, option: BackboneOption, kind: type) -> bool:
    allowed = int if kind is int else int | float
    return isinstance(value, allowed) and not isinstance(value, bool) and option.low <= value <= option.high


def _law(option: BackboneOption) -> str:
    if option.type == "str":
        return f"{option.name} in {list(option.choices)}"
    if option.type == "ints":
        return f"{option.name}: a list of 1 to {option.longest} whole numbers from {option.low} to {option.high}"
    return f"{option.low} <= {option.name} <= {option.high}"


def _in(where: str) -> str:
    return f" in {where}" if where else ""
