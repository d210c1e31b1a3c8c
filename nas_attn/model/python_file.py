"""Writes a trained network as one readable Python file, which needs torch and torchvision alone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from textwrap import indent
from types import ModuleType
from typing import Any

from nas_attn import __version__
from nas_attn.attention.catalog import attention_entry
from nas_attn.attention.options import context_at, resolve_options
from nas_attn.backbones.build import load_function
from nas_attn.backbones.catalog import BACKBONES, backbone_entry
from nas_attn.backbones.opening import Join, Opened
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.tracing import OPENINGS
from nas_attn.errors import FileError
from nas_attn.model.build import AttentionModel
from nas_attn.model.bundle import PACKAGE, Bundle
from nas_attn.model.description import ModelFile
from nas_attn.model.insert import Held, InputTap, Joined, SkippedNorm, Tap

LONGEST = 90
"""Length from which a call is written with an argument a line."""

_STANDALONE = "nas_attn.model.standalone"
_FREED = re.compile(r";(\s+\w+ =)+ None(?=\s*(#.*)?$)", re.MULTILINE)
"""What torch.fx writes at the end of a line to free variables that are not used again."""

PROBABILITIES: Mapping[str | None, str] = {
    "classes": "logits.softmax(1)",
    "second_class": "torch.cat([1 - logits.sigmoid(), logits.sigmoid()], 1)",
    "labels": "logits.sigmoid()",
}
"""How logits become one probability per class name, by the meaning of the logits."""

_FILE = '''"""{title}

Written by nas_attn {version}; it needs torch and torchvision alone, and the weights in {weights} beside it:

    network = load_network()
    logits = network(preprocess(images))  # a batch (N, {channels}, H, W): uint8, or floating in [0, 1]
"""

from __future__ import annotations

{imports}

WEIGHTS = Path(__file__).with_name("{weights}")
CLASS_NAMES = {class_names}
IMAGE_SIZE = {image_size}
MEAN = {mean!r}
STD = {std!r}


{body}


def make_network() -> Network:
    """Return the network with initial weights."""
{steps}


def load_network(weights: str | Path = WEIGHTS) -> Network:
    """Return the trained network, in evaluation mode."""
    network = make_network()
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def preprocess(images: Tensor) -> Tensor:
    """Resize and normalise a batch of images, uint8 or floating in [0, 1], as in the training."""
    images = images.float() / 255 if images.dtype == torch.uint8 else images
    if images.shape[2:] != (IMAGE_SIZE, IMAGE_SIZE):
        images = functional.interpolate(images, size=(IMAGE_SIZE, IMAGE_SIZE), mode="bilinear", antialias=True)
    return (images - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
'''

_PROBABILITIES = '''

def probabilities(logits: Tensor) -> Tensor:
    """Return one probability per name in CLASS_NAMES."""
    return {formula}
'''


def python_source(model: AttentionModel, described: ModelFile, weights: str) -> str:
    """Return the source of a Python file that builds the network; its weights are the model's state dict.

    The network's layers keep their names, and the file contains the source of the attentions that it uses.

    Args:
        weights: Name of the file of weights, `torch.save(model.state_dict(), ...)`, beside the Python file.
    Raises: FileError for a network that is not in the catalogue, or an attention of a plug-in.
    """
    bundle = Bundle()
    for module, name in (("torch", ""), ("torch", "Tensor"), ("torch", "nn"), ("torch.nn", "functional")):
        bundle.add_import(module, name)
    bundle.add_import("pathlib", "Path")
    bundle.add(_STANDALONE, "Network")
    opened = _OpenedBlocks()
    steps = [*_backbone_steps(model, bundle), *_block_steps(model, bundle, opened), *_site_steps(model, bundle)]
    body = "\n\n\n".join([bundle.body(), *opened.classes.values()])
    written = _FILE.format(
        title=f"{model.spec['name']!s} with {len(model.placement) or 'no'} attention module"
        f"{'s' * (len(model.placement) != 1)}{f', {described.arm!r}' if described.arm else ''}.",
        version=__version__,
        weights=weights,
        channels=model.in_channels,
        imports=bundle.header(),
        class_names=_literal(tuple(described.class_names)),
        image_size=described.image_size,
        mean=tuple(described.mean),
        std=tuple(described.std),
        body=body,
        steps="\n".join(f"    {line}" for step in steps for line in step.splitlines()),
    )
    formula = PROBABILITIES.get(described.logits_of)
    return written + (_PROBABILITIES.format(formula=formula) if formula else "")


def _backbone_steps(model: AttentionModel, bundle: Bundle) -> list[str]:
    """Return the statements that build the plain network. Raises: FileError unless it is one of the catalogue."""
    spec = model.spec
    if spec.get("name") not in BACKBONES.own:
        named = spec.get("name") or spec.get("import") or spec.get("own")
        raise FileError(
            f"A Python file can be written for the networks of the catalogue, but '{named}' is none of them: use "
            "--torch-export, which needs no source."
        )
    entry = backbone_entry(spec["name"])
    make = load_function(entry.build, "build function")
    options = {key: value for key, value in spec.items() if key not in ("name", "replace")}
    shape = {"num_classes": model.num_classes, "in_channels": model.in_channels}
    sizes = shape | ({"image_size": model.image_size} if entry.sized else {})
    bundle.add(make.__module__, make.__name__)
    steps = [f"net = {_call(make.__name__, {**entry.fixed, **sizes, **options})}"]
    if "replace" in spec:
        bundle.add("nas_attn.backbones.modules", "take_out_se")
        steps.append("take_out_se(net)")
    return steps


@dataclass
class _OpenedBlocks:
    """The forwards of opened blocks as classes: name -> source; equal ones appear once."""

    classes: dict[str, str] = field(default_factory=dict)

    def add(self, block: Opened, bundle: Bundle) -> str:
        """Return the name of the class with this block's forward."""
        code = block.graph.python_code("self")
        for name, value in code.globals.items():
            if re.search(rf"\b{name}\b", code.src):
                _import_value(name, value, bundle)
        forward = "\n".join(f"    {line}".rstrip() for line in _FREED.sub("", code.src).strip().splitlines())
        original = type(block).__name__
        text = (
            f'class {{name}}(nn.Module):\n    """{original} with a module at each place for attention."""\n\n{forward}'
        )
        for number in range(1, len(self.classes) + 2):
            name = f"Opened{original}{number if number > 1 else ''}"
            if self.classes.setdefault(name, text.replace("{name}", name)) == text.replace("{name}", name):
                break
        return name


def _import_value(name: str, value: Any, bundle: Bundle) -> None:
    """Import a global of a traced forward under the name that it has there."""
    if isinstance(value, ModuleType):
        bundle.add_import(value.__name__, "", name)
    elif hasattr(value, "__module__") and hasattr(value, "__name__"):
        module = {"_operator": "operator"}.get(value.__module__, value.__module__)
        bundle.add_import(module, value.__name__, name)


def _block_steps(model: AttentionModel, bundle: Bundle, opened: _OpenedBlocks) -> list[str]:
    """Return the statements that open residual blocks."""
    steps = []
    for path, block in model.backbone.named_modules():
        if not isinstance(block, Opened):
            continue
        bundle.add(_STANDALONE, "open_block")
        openings = {
            kind: f"Join({module.first!r})" if isinstance(module, Join) else "nn.Identity()"
            for kind, module in block.get_submodule(OPENINGS)._modules.items()
        }
        if "merge" in openings:
            bundle.add(Join.__module__, "Join")
        made = ", ".join(f"{kind}={module}" for kind, module in openings.items())
        steps.append(f"open_block(net, {_literal(path)}, {opened.add(block, bundle)}, {made})")
    return steps


def _site_steps(model: AttentionModel, bundle: Bundle) -> list[str]:
    """Return the statements that build the attentions and connect them, and the one that returns the network."""
    placed = "".join(f"{_literal(site)}: {_joined(model, site, bundle)},\n" for site in model.placement)
    rows = "\n" + indent(placed, "    ") if placed else ""
    steps = [f"placed: dict[str, nn.Module] = {{{rows}}}"]
    sites = {id(model.insert_at(site)): site for site in model.placement}
    words = ("hold", "skip_norm", "tap", "tap_input")  # a module that is replaced loses its hooks
    kinds: dict[str, list[str]] = {word: [] for word in words}
    for path, module in model.backbone.named_modules():
        if isinstance(module, Held):
            kinds["hold"].append(f"hold(net, {_literal(path)}, placed[{_literal(sites[id(module.held)])}])")
        if isinstance(module, SkippedNorm):
            kinds["skip_norm"].append(f"skip_norm(net, {_literal(path)})")
        for hook in module._forward_hooks.values():
            if isinstance(hook, Tap):
                copies = ", copies=True" if hook.copies else ""
                kinds["tap"].append(f"tap(net, {_literal(path)}, placed[{_literal(sites[id(hook.insert)])}]{copies})")
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, InputTap):
                inserted = f"placed[{_literal(sites[id(hook.insert)])}]"
                kinds["tap_input"].append(f"tap_input(net, {_literal(path)}, {inserted})")
    for kind, lines in kinds.items():
        if lines:
            bundle.add(_STANDALONE, kind)
            steps += lines
    return [*steps, "return Network(net, placed)"]


def _joined(model: AttentionModel, site: str, bundle: Bundle) -> str:
    """Return the expression that builds the attention of a site with its wiring. Raises: FileError for a plug-in's."""
    insert, attention = model.insert_at(site), model.placement[site]
    entry = attention_entry(attention.name)
    module, name = type(insert.attention).__module__, type(insert.attention).__name__
    if not module.startswith(PACKAGE):
        raise FileError(
            f"A Python file can be written for the attentions of the catalogue, but '{attention.name}' comes from "
            f"{module}: use --torch-export, which needs no source."
        )
    shape = {"num_classes": model.num_classes, "in_channels": model.in_channels, "image_size": model.image_size}
    place = site_table(model.spec, **shape).site(site)
    context = context_at(place, model.num_classes)
    usual = {option.name: option.default for option in entry.options} | {"wiring": "gate", "start": "own"}
    options: dict[str, Any] = resolve_options(entry, place.channels, attention.options, context)
    options = {option: value for option, value in options.items() if value != usual[option]}
    bundle.add(module, name)
    if entry.needs_context:
        bundle.add("nas_attn.attention.entry", "Context")
        options["context"] = context
        if place.replaced is not None:
            bundle.add("nas_attn.placement", "Convolution")
    bundle.add(Joined.__module__, "Joined")
    joining = {"wiring": insert.wiring, "start": insert.start}
    changed = {word: value for word, value in joining.items() if value != usual[word]}
    built = _call(name, options, place.channels)
    return _call("Joined", changed, insert.attention_name, _Code(built), place.channels)


class _Code(str):
    """Source of an expression."""


def _call(function: str, named: Mapping[str, Any], *arguments: Any) -> str:
    """Return the source of a call; a long one has an argument a line."""
    parts = [*map(_literal, arguments), *(f"{key}={_literal(value)}" for key, value in named.items())]
    line = f"{function}({', '.join(parts)})"
    if len(line) <= LONGEST and "\n" not in line:
        return line
    rows = indent("".join(f"{part},\n" for part in parts), "    ")
    return f"{function}(\n{rows})"


def _literal(value: Any) -> str:
    """Return the source of a value; text has double quotes."""
    if isinstance(value, str) and not isinstance(value, _Code):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, tuple) and value and all(isinstance(part, str) for part in value):
        return f"({', '.join(map(_literal, value))}{',' if len(value) == 1 else ''})"
    if is_dataclass(value) and not isinstance(value, type):
        stated = {part.name: getattr(value, part.name) for part in fields(value)}
        usual = {part.name: part.default for part in fields(value)}
        return _call(type(value).__name__, {name: found for name, found in stated.items() if found != usual[name]})
    return str(value) if isinstance(value, _Code) else repr(value)
