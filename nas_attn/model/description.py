"""The JSON file of a model: everything that is needed to rebuild it, and its origin; checked when read and written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nas_attn.data.rendering import Rendering
from nas_attn.errors import FileError
from nas_attn.files import content_digest
from nas_attn.placement import Shape
from nas_attn.records import LogitsOf
from nas_attn.validation import Strict, validate

SCHEMA_VERSION = 1

Record = dict[str, Any]
Ends = Annotated[list[float], Field(min_length=2, max_length=2)]


class WeightsFile(Strict):
    """The file of a model's weights, in the same folder.

    Args:
        name: Its name, without any folder.
        sha256: Of its content.
    """

    name: Annotated[str, Field(pattern=r"^[^/\\:]+\.safetensors$")]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class RenderingRecord(Strict):
    """How image files became pixels; see `nas_attn.data.rendering.Rendering`.

    Args:
        deep_range: Values that became black and white in images of more than 8 bits; None if nobody knows.
        range: The same of images of 8 bits.
        background: Red, green and blue behind transparent images.
    """

    deep_range: Ends | None
    range: Ends
    background: Annotated[list[Annotated[int, Field(ge=0, le=255)]], Field(min_length=3, max_length=3)]

    @property
    def rendering(self) -> Rendering:
        """The record as the code that decodes takes it."""
        deep = None if self.deep_range is None else (self.deep_range[0], self.deep_range[1])
        red, green, blue = self.background
        return Rendering(deep, (self.range[0], self.range[1]), (red, green, blue))


class ModelFile(Strict):
    """Content of `best.json` and of the files under `arms/`: all that is needed to rebuild a model, and its origin.

    Args:
        backbone: The catalogue's spec; `{"own": class name}` or `{"import": "module:function"}` for a network of the
            user's own, which the reader passes in.
        num_classes: Number of logits; 0 for a network of the user's that returns something else.
        logits_of: Meaning of the logits: one per class (`classes`: softmax gives the probabilities), one for the second
            of two classes (`second_class`: sigmoid gives its probability), or one per label (`labels`: sigmoid of
            each); None if unknown.
        mean, std: Of the training images, per channel, for pixels between 0 and 1.
        rendering: How the files of the training images became pixels; None in a file of an older version.
        metrics: Measured values by name, each with its split.
        cost: Parameters and multiply-adds; time and memory, with the device that they were measured on.
        arm: Label of the arm that this model is, e.g. `found #1`; None outside a run, and in a run of version 0.1.0.
        recommended: Label of the arm that the run recommends: of this model in `best.json`.
        answer: What the recommendation follows from: its state, its rule, and the comparison with no attention.
        arms: The seeds of the finished retrainings, by the label of the arm.
        weights: None if they could not be exported.
        without_weights: Why there are no weights; None where there are.
        digest: SHA-256 of the rest of this file's content.
    """

    schema_version: Literal[1]
    backbone: Record
    placement: dict[str, Record]
    num_classes: Annotated[int, Field(ge=0, le=1_000_000)]
    in_channels: Annotated[int, Field(ge=1, le=64)]
    image_size: Annotated[int, Field(ge=1, le=2048)]
    mean: list[float]
    std: list[Annotated[float, Field(gt=0.0)]]
    rendering: RenderingRecord | None = None
    class_names: list[str]
    logits_of: LogitsOf | None = None
    metrics: Record = Field(default_factory=dict)
    cost: Record = Field(default_factory=dict)
    recipe: Record = Field(default_factory=dict)
    provenance: Record = Field(default_factory=dict)
    arm: str | None = None
    recommended: str | None = None
    answer: Record = Field(default_factory=dict)
    arms: dict[str, list[int]] = Field(default_factory=dict)
    weights: WeightsFile | None
    without_weights: str | None = None
    digest: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]

    @property
    def shape(self) -> Shape:
        """The input and output of the network."""
        return Shape(self.num_classes, self.in_channels, self.image_size)


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
    described = check_content(content, path)
    if content_digest(content) != described.digest:
        raise FileError(f"The model file {path} is altered: its content does not match its digest.")
    return described


def check_content(content: Record, path: Path) -> ModelFile:
    """Return the content as a record. Raises: FileError if a key is unknown, or a value does not fit the others."""
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


def plain_content(content: Record, path: Path) -> Record:
    """Return the content after a round trip through JSON. Raises: FileError for values that JSON does not support."""
    try:
        plain: Record = json.loads(json.dumps(content, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise FileError(f"The record for {path} must be plain JSON: {error}.") from error
    return plain


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")
