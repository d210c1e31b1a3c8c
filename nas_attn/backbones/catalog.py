"""The table of backbones by name, and the check of a backbone's spec; no torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from typing import Any

from nas_attn.backbones.entries import ENTRIES
from nas_attn.backbones.entry import Backbone, BackboneOption, Spec
from nas_attn.backbones.timm_names import PREFIX, check_timm, is_timm, timm_network
from nas_attn.errors import SpaceError, placed, unknown
from nas_attn.placement import Shape
from nas_attn.registry import Catalogue

BACKBONES = Catalogue(*ENTRIES, group="nas_attn.backbones", noun="backbone", record=Backbone)
START_KEYS = ("weights", "download")
"""Keys of a spec that name the initial weights and do not change the network."""

_PLAIN = {"bool": (bool, "true or false"), "str": (str, "a word")}
"""Types of options without a range, and their values in words."""


def backbone_entry(name: str, where: str = "") -> Backbone:
    """Return the catalogue's entry. Raises: SpaceError that names the nearest backbone, or its broken package."""
    if name not in BACKBONES:
        raise SpaceError(unknown("backbone", name, [*BACKBONES, f"{PREFIX}NAME"], where))
    with blamed_on(name, where):
        return BACKBONES[name]


def register_backbone(entry: Backbone) -> None:
    """Add a backbone for this process and the workers of its searches, e.g. in a notebook.

    An installed package adds backbones through the entry-point group `nas_attn.backbones`.

    Raises: SpaceError for a name that is taken, or that cannot be a key in a space file.
    """
    BACKBONES.register(entry)


def plugged_entry(spec: Spec) -> Backbone | None:
    """Return the record of a backbone that was registered or is a plug-in; None for any other network."""
    name = spec.get("name")
    return None if name is None or name in BACKBONES.own or is_timm(spec) else backbone_entry(name)


def is_foreign(spec: Spec) -> bool:
    """Return whether neither this package nor timm builds the network: its survey is not cached on disk."""
    return "import" in spec or plugged_entry(spec) is not None


@contextmanager
def blamed_on(name: str, where: str = "") -> Iterator[None]:
    """Context manager: a SpaceError raised inside is prefixed by the name of the backbone."""
    try:
        yield
    except SpaceError as error:
        raise SpaceError(unusable(name, str(error), where)) from error


def unusable(name: str, why: str, where: str = "") -> str:
    """Return the message for a backbone that cannot be used."""
    return f"Backbone '{name}'{placed(where)} cannot be used: {why}"


def check_backbone(spec: str | Spec, where: str = "") -> dict[str, Any]:
    """Return `spec` with every option filled in, so that equal networks have equal specs.

    Besides its options, every backbone has `replace = "se"`, which removes its built-in squeeze-and-excitation;
    `weights`, its initial weights (a file, or a name of torchvision's or timm's); and `download`, whether these may be
    downloaded. An imported function never gets these keys.

    Args:
        spec: A name, or `{"name": ..., option: value}`, where `timm:NAME` is timm's network of that name; or
            `{"import": "module:function", ...}` for a user's own. The options of the last two are not checked.
        where: The file of the spec, for messages.
    Raises: SpaceError that names the nearest backbone or option, or the range of a value.
    """
    record = {"name": spec} if isinstance(spec, str) else dict(spec)
    start = _check_start({key: record.pop(key) for key in START_KEYS if key in record}, where)
    replace = record.pop("replace", None)
    if replace not in (None, "se"):
        raise SpaceError(
            f"replace of a backbone must be 'se', which removes its squeeze-and-excitation{_in(where)}, but got "
            f"{replace!r}."
        )
    return {**_check_network(record, where), **({"replace": replace} if replace else {}), **start}


def without_start(spec: Spec) -> dict[str, Any]:
    """Return a spec without the keys of its initial weights."""
    return {key: value for key, value in spec.items() if key not in START_KEYS}


def _check_start(record: Spec, where: str) -> dict[str, Any]:
    """Return the checked keys of the initial weights, without defaults."""
    weights, download = record.get("weights"), record.get("download", False)
    if weights is not None and (not isinstance(weights, str) or not weights):
        raise SpaceError(
            f"A backbone's weights must be a file or a name of torchvision's{_in(where)}, but got {weights!r}: write "
            'weights = "IMAGENET1K_V1".'
        )
    if not isinstance(download, bool):
        raise SpaceError(f"download of a backbone must be true or false{_in(where)}, but got {download!r}.")
    return ({"weights": weights} if weights else {}) | ({"download": True} if weights and download else {})


def _check_network(record: dict[str, Any], where: str) -> dict[str, Any]:
    if "import" in record:
        return _check_import(record, where)
    if is_timm(record):
        return check_timm(record, where)
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
    """Return the smallest and the default image size of a catalogue backbone."""
    checked = check_backbone(spec)
    return backbone_entry(checked["name"]).image_sizes(checked)


def check_shape(spec: Spec, *, num_classes: int, in_channels: int, image_size: int | None) -> Shape:
    """Return the shape of a network with these numbers.

    Args:
        spec: The checked spec of its backbone.
        num_classes: May be 0 for a network of the user's.
        image_size: None takes the backbone's default.
    Raises: SpaceError for a number that is no count, or an image size that the backbone does not take.
    """
    fewest = 0 if "import" in spec else 1
    for name, count, least in (("num_classes", num_classes, fewest), ("in_channels", in_channels, 1)):
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise SpaceError(f"{name} >= {least} must hold, but got {name}={count!r}.")
    return Shape(num_classes, in_channels, _image_size(spec, image_size))


def _image_size(spec: Spec, image_size: int | None) -> int:
    if "import" in spec:
        return _free_size(image_size, "A network of your own")
    if is_timm(spec):
        default = timm_network(spec["name"]).image_size
        return _free_size(default if image_size is None else image_size, f"Backbone '{spec['name']}'")
    entry = backbone_entry(spec["name"])
    smallest, default = entry.image_sizes(spec)
    if image_size is None:
        return default
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < smallest:
        options = ", ".join(f"{key}={value}" for key, value in spec.items() if key in ("stem", "block_config"))
        with_options = f" with {options}" if options else ""
        raise SpaceError(
            f"Backbone '{entry.name}'{with_options} takes images of {smallest}x{smallest} pixels or more, but got "
            f"image_size={image_size!r}: its default is {default}."
        )
    return image_size


def _free_size(image_size: int | None, network: str) -> int:
    """Check the image size of a network whose smallest one is unknown."""
    if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < 1:
        raise SpaceError(f"{network} needs image_size >= 1, but got image_size={image_size!r}.")
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
    """Return a valid value in its JSON form, the default for None."""
    if value is None or (value == "auto" and option.auto is not None):
        return option.default
    if option.type == "ints":
        items = value if isinstance(value, list | tuple) else [None]
        if 1 <= len(items) <= option.longest and all(_is_number(item, option, int) for item in items):
            return list(items)
    elif option.choices:
        if any(value == choice and type(value) is type(choice) for choice in option.choices):
            return value
        if isinstance(value, str):
            known = [str(choice) for choice in option.choices]
            raise SpaceError(unknown(f"{option.name} of backbone '{entry.name}'", value, known, where))
    elif option.type in _PLAIN:
        if isinstance(value, _PLAIN[option.type][0]):
            return value
    elif _is_number(value, option, int if option.type == "int" else float):
        return float(value) if option.type == "float" else value
    raise SpaceError(f"{_law(option)} must hold for backbone '{entry.name}'{_in(where)}, but got {value!r}.")


def _is_number(value: Any, option: BackboneOption, kind: type) -> bool:
    if isinstance(value, bool) or not isinstance(value, int if kind is int else int | float):
        return False
    above, below = (option.low is None or value >= option.low), (option.high is None or value <= option.high)
    return above and below and -inf < value < inf


def _law(option: BackboneOption) -> str:
    if option.choices:
        return f"{option.name} in {list(option.choices)}"
    if option.type in _PLAIN:
        return f"{option.name}: {_PLAIN[option.type][1]}"
    low = "" if option.low is None else f" from {option.low}"
    limits = low + ("" if option.high is None else f" to {option.high}")
    if option.type == "ints":
        return f"{option.name}: a list of 1 to {option.longest} whole numbers{limits}"
    if option.low is None or option.high is None:
        return f"{option.name}: a {'whole ' if option.type == 'int' else ''}number{limits}"
    return f"{option.low} <= {option.name} <= {option.high}"


def _in(where: str) -> str:
    return f" in {where}" if where else ""
