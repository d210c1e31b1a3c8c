"""A model as two files: its description (`best.json`) and its weights (`best.safetensors`), each checked when read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import safetensors.torch
from pydantic import Field
from safetensors import SafetensorError
from torch import Tensor, nn

from nas_attn.backbones.modules import seeded, take_out_se
from nas_attn.backbones.user_network import copy_network, make_network, takes
from nas_attn.backbones.weights import fill
from nas_attn.errors import FileError, SpaceError
from nas_attn.files import content_digest, write_whole
from nas_attn.model.build import AttentionModel, Maker, build_model
from nas_attn.model.preprocess import Preprocess
from nas_attn.model.tasks import LABEL_KINDS
from nas_attn.placement import Placement, Shape
from nas_attn.records import LogitsOf
from nas_attn.validation import Strict, validate

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=1, le=1_000_000)]
Record = dict[str, Any]


class WeightsFile(Strict):
    """The file of a model's weights, in the same folder.

    Args:
        name: Its name, without any folder.
        sha256: Of its content.
    """

    name: Annotated[str, Field(pattern=r"^[^/\\:]+\.safetensors$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class ModelFile(Strict):
    """Content of `best.json`: everything that is needed to rebuild a model, and its origin.

    Args:
        backbone: The catalogue's spec; `{"own": class name}` or `{"import": "module:function"}` for a network of the
            user's own, which the reader passes in.
        num_classes: Number of logits.
        logits_of: Meaning of the logits: one per class (`classes`: softmax gives the probabilities), one for the second
            of two classes (`second_class`: sigmoid gives its probability), or one per label (`labels`: sigmoid of
            each); None if unknown.
        mean, std: Of the training images, per channel, for pixels between 0 and 1.
        metrics: Measured values by name, each with its split.
        cost: Parameters and multiply-adds; time and memory, with the device that they were measured on.
        recommended: The final recommendation of the search: this placement, or `none`.
        digest: SHA-256 of the rest of this file's content.
    """

    schema_version: Literal[1]
    backbone: Record
    placement: dict[str, Record]
    num_classes: Count
    in_channels: Annotated[int, Field(ge=1, le=64)]
    image_size: Annotated[int, Field(ge=1, le=2048)]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0.0)]]
    class_names: list[str]
    logits_of: LogitsOf | None = None
    metrics: Record = Field(default_factory=dict)
    cost: Record = Field(default_factory=dict)
    recipe: Record = Field(default_factory=dict)
    provenance: Record = Field(default_factory=dict)
    recommended: str | None = None
    weights: WeightsFile
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @property
    def shape(self) -> Shape:
        """The input and output of the network."""
        return Shape(self.num_classes, self.in_channels, self.image_size)


def save_model(model: AttentionModel, json_path: str | Path, *, record: Mapping[str, Any]) -> None:
    """Write the model's JSON file, and its weights beside it under the same name with `.safetensors`.

    Each file replaces its old one in one step, the weights first: a reader never sees a partial file.

    Args:
        record: `mean`, `std` and `class_names`; optionally `logits_of`, `metrics`, `cost`, `recipe`, `provenance` and
            `recommended`. See `ModelFile`.
    Raises: FileError if the record has an unknown key or an invalid value, or the folder cannot be written.
    """
    path = Path(json_path)
    weights_path = path.with_suffix(".safetensors")
    state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    weights = safetensors.torch.save(state)
    content: Record = {
        "schema_version": SCHEMA_VERSION,
        "backbone": model.spec,
        "placement": model.placement.to_dict(),
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        "image_size": model.image_size,
        **record,
        "weights": {"name": weights_path.name, "sha256": hashlib.sha256(weights).hexdigest()},
    }
    content = _plain(content, path)
    content["digest"] = content_digest(content)
    _checked(content, path)
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    _replace(weights_path, weights)
    _replace(path, text.encode())


def load_model(path: str | Path, *, backbone: nn.Module | Maker | None = None, weights: bool = True) -> AttentionModel:
    """Build the model that a JSON file describes, in evaluation mode, with its weights.

    The model has `preprocess`, which converts images to inputs, `class_names`, and `probabilities`, which converts
    logits to one probability per class name. No code that the file names is imported or executed.

    Args:
        backbone: The user's own network, or a function that returns it, if the file's backbone is not in the catalogue.
            The function is called with those of the file's options, num_classes, in_channels and image_size that it
            has as parameters.
        weights: Whether to load the weights from the file beside; False keeps initial weights.
    Raises: FileError if a file is missing, truncated, altered or of another schema, or does not fit the network.
    """
    path = Path(path)
    described = read_model_file(path)
    state = _read_weights(path, described.weights) if weights else None
    passed = _passed_backbone(described, path, backbone)
    try:
        own = None if passed is None else _own_network(passed, described)
        model = build_model(
            described.backbone if own is None else own,
            Placement.from_dict(described.placement),
            **vars(described.shape),
            seed=0,
        )
    except SpaceError as error:
        raise FileError(f"The model of {path} cannot be built: {error}") from error
    if state is not None:
        _fill(model, state, path.with_name(described.weights.name))
    model.preprocess = Preprocess(described.image_size, tuple(described.mean), tuple(described.std))
    model.class_names = tuple(described.class_names)
    if described.logits_of is not None:
        model.probabilities = LABEL_KINDS[
            "multi-label" if described.logits_of == "labels" else "single-label"
        ].probabilities
    return model.eval()


def read_model_file(path: str | Path) -> ModelFile:
    """Read and check a model's JSON file. Raises: FileError that says what is wrong with it."""
    path = Path(path)
    try:
        content = json.loads(path.read_bytes(), parse_constant=_refuse_constant)
    except OSError as error:
        raise FileError(f"The model file {path} cannot be read: {error.strerror or error}.") from error
    except (ValueError, RecursionError) as error:
        raise FileError(f"The model file {path} is truncated or altered: it is not JSON ({error}).") from error
    if not isinstance(content, dict):
        raise FileError(f"The model file {path} must contain an object, but contains {type(content).__name__}.")
    version = content.get("schema_version")
    if version != SCHEMA_VERSION:
        raise FileError(f"The model file {path} must have schema_version {SCHEMA_VERSION}, but has {version!r}.")
    described = _checked(content, path)
    if content_digest(content) != described.digest:
        raise FileError(f"The model file {path} is altered: its content does not match its digest.")
    return described


def _checked(content: Record, path: Path) -> ModelFile:
    described = validate(ModelFile, content, str(path), FileError)
    channels, classes = described.in_channels, described.num_classes
    if described.logits_of == "second_class":
        if classes != 1:
            raise FileError(f"'num_classes' in {path} must be 1 beside logits_of = 'second_class', but is {classes}.")
        classes = 2
    lengths = {"mean": channels, "std": channels, "class_names": classes}
    for name, length in lengths.items():
        found = len(getattr(described, name))
        if found != length:
            raise FileError(f"'{name}' in {path} must have {length} entries, but has {found}.")
    return described


def _plain(content: Record, path: Path) -> Record:
    """Return the content after a round trip through JSON. Raises: FileError for values that JSON does not support."""
    try:
        plain: Record = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FileError(f"The record for {path} must be plain JSON: {error}.") from error
    return plain


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _read_weights(path: Path, weights: WeightsFile) -> dict[str, Tensor]:
    """Return the tensors of the weights file beside `path`, after a check of its SHA-256."""
    file = path.with_name(weights.name)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileError(
            f"The weights {file} cannot be read ({error.strerror or error}): put them beside {path.name}, or pass "
            "weights=False for an untrained model."
        ) from error
    if hashlib.sha256(content).hexdigest() != weights.sha256:
        raise FileError(
            f"The weights {file} are truncated or altered: their SHA-256 differs from the one in {path.name}."
        )
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise FileError(f"The weights {file} are no safetensors file: {error}.") from error


def _passed_backbone(described: ModelFile, path: Path, backbone: nn.Module | Maker | None) -> nn.Module | Maker | None:
    """Return the caller's network. Raises: FileError if one is needed and missing, or passed and not needed."""
    named = described.backbone.get("own") or described.backbone.get("import")
    if named is not None and backbone is None:
        raise FileError(
            f"{path} describes a network of your own ({named}): pass it, or a function that makes it, as "
            "load_model(path, backbone=...)."
        )
    if named is None and backbone is not None:
        name = described.backbone.get("name")
        raise FileError(f"{path} has the catalogue's backbone '{name}': leave `backbone` out.")
    return backbone


def _own_network(passed: nn.Module | Maker, described: ModelFile) -> nn.Module:
    """Return a copy of the user's network, or call the user's function with the file's options."""
    if isinstance(passed, nn.Module):
        net = copy_network(passed)
    else:
        aside = ("own", "import", "replace")
        options = {key: value for key, value in described.backbone.items() if key not in aside and takes(passed, key)}
        with seeded(0, "backbone"):
            net = make_network(passed, "backbone's function", options, described.shape)
    if described.backbone.get("replace") == "se":
        take_out_se(net)
    return net


def _fill(model: AttentionModel, state: Mapping[str, Tensor], file: Path) -> None:
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state.items()}
    if wanted != found:
        key = min(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise FileError(
            f"The weights {file} do not fit the network: '{key}' must be {wanted.get(key, 'absent')}, but is "
            f"{found.get(key, 'absent')}."
        )
    fill(model, state)


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step that survives a loss of power. Raises: FileError if it cannot be written."""
    try:
        write_whole(path, lambda file: file.write(content), durable=True)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}.") from error
