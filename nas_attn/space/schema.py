"""The JSON schema of a space file, for editors: names, options and ranges come from the catalogues."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Option
from nas_attn.backbones.catalog import BACKBONES
from nas_attn.backbones.entry import BackboneOption
from nas_attn.backbones.timm_names import PREFIX
from nas_attn.space.file import TABLES, SpaceFile

_TYPES = {"int": "integer", "float": "number", "bool": "boolean", "str": "string"}
_ANY_BACKBONE: dict[str, Any] = {
    "weights": {
        "type": "string",
        "minLength": 1,
        "description": "Initial weights: a .safetensors, .pt or .pth file, or a name of torchvision or timm weights.",
    },
    "replace": {"const": "se", "description": "se: remove the network's own squeeze-and-excitation modules."},
    "download": {"type": "boolean", "description": "Whether to download missing weights. Default: false."},
}


def space_schema() -> dict[str, Any]:
    """Return the JSON schema of a space file."""
    schema = SpaceFile.model_json_schema() | {"$schema": "http://json-schema.org/draft-07/schema#"}
    properties = schema["properties"]
    properties["backbone"] = _backbone_schema() | {"description": properties["backbone"]["description"]}
    for name, table in TABLES.items():
        properties[name] = table.model_json_schema() | {"description": properties[name]["description"]}
    tables = {entry.name: _searched(entry.options) | {"description": entry.summary} for entry in ATTENTIONS.loadable()}
    properties["attentions"] |= {"additionalProperties": False, "properties": tables}
    schema["$defs"]["SiteRule"]["properties"]["attentions"]["items"] |= {
        "enum": [entry.name for entry in ATTENTIONS.loadable()]
    }
    return schema


def _backbone_schema() -> dict[str, Any]:
    """Return the schema of a backbone: a name, or a table with the options of that name."""
    backbones = BACKBONES.loadable()
    tables = [
        {
            "type": "object",
            "description": backbone.summary,
            "additionalProperties": False,
            "required": ["name"],
            "properties": {"name": {"const": backbone.name}}
            | {o.name: _backbone_value(o) for o in backbone.options}
            | _ANY_BACKBONE,
        }
        for backbone in backbones
    ]
    own = {
        "type": "object",
        "description": "A network of your own: the function that returns it, and its keyword arguments.",
        "required": ["import"],
        "properties": {"import": {"type": "string", "pattern": "^[^:]+:[^:]+$"}} | _ANY_BACKBONE,
    }
    timm_name = {"type": "string", "pattern": f"^{PREFIX}\\w+$"}
    timm = {
        "type": "object",
        "description": "A network of timm, and keyword arguments of timm.create_model.",
        "required": ["name"],
        "properties": {"name": timm_name} | _ANY_BACKBONE,
    }
    return {"anyOf": [{"enum": [backbone.name for backbone in backbones]}, timm_name, *tables, timm, own]}


def _backbone_value(option: BackboneOption) -> dict[str, Any]:
    """Return the schema of an option of a backbone."""
    default = "auto" if option.default is None else _shown(option.default)
    about = {"description": f"{option.about[:1].upper()}{option.about[1:]}. Default: {default}."}
    if option.choices:
        return about | {"enum": list(option.choices)}
    bounds = {"minimum": option.low, "maximum": option.high}
    number = {"type": _TYPES.get(option.type, "integer")} | _known(bounds)
    if option.type == "ints":
        return about | {"type": "array", "items": number, "minItems": 1, "maxItems": option.longest}
    return about | (number if option.auto is None else {"anyOf": [number, {"const": "auto"}]})


def _searched(options: Iterable[Option]) -> dict[str, Any]:
    """Return the schema of an attention's table: per option one value, or a list of values."""
    properties = {}
    for option in options:
        value = _value(option)
        listed = {"type": "array", "items": value, "minItems": 1, "uniqueItems": True}
        properties[option.name] = {"description": value["description"], "anyOf": [value, listed]}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _value(option: Option) -> dict[str, Any]:
    """Return the schema of one value of an option."""
    default = "auto" if option.default is None else option.default
    about = {"description": f"{option.about} Default: {_shown(default)}."}
    bounds = {"minimum": option.low, "maximum": option.high}
    rule: dict[str, Any] = {"enum": list(option.choices)} if option.choices else {"type": _TYPES[option.type]}
    rule |= _known(bounds)
    rule |= {"not": {"multipleOf": 2}} if option.odd else {}
    return about | ({"anyOf": [rule, {"const": "auto"}]} if option.optional else rule)


def _known(bounds: Mapping[str, float | None]) -> dict[str, Any]:
    return {name: bound for name, bound in bounds.items() if bound is not None}


def _shown(default: Any) -> str:
    return str(default).lower() if isinstance(default, bool) else str(default)
