"""A model as two files: its description (`best.json`) and its weights (`best.safetensors`), each checked when read."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from nas_attn.backbones.modules import seeded
from nas_attn.backbones.taken_out import take_out_own_se
from nas_attn.backbones.user_network import copy_network, make_network, takes
from nas_attn.backbones.weights import fill
from nas_attn.data.rendering import AS_BEFORE
from nas_attn.errors import FileError, SpaceError
from nas_attn.files import content_digest, file_digest, link_whole, write_whole
from nas_attn.model.build import AttentionModel, Maker, build_model
from nas_attn.model.core import core_shapes, cores
from nas_attn.model.description import SCHEMA_VERSION, ModelFile, Record, check_content, plain_content
from nas_attn.model.earlier_defaults import with_stored_options
from nas_attn.model.preprocess import Preprocess
from nas_attn.model.stored import StoredModel, find_model
from nas_attn.model.tasks import LABEL_KINDS
from nas_attn.placement import Placement

log = logging.getLogger(__name__)


def save_model(
    model: AttentionModel,
    json_path: str | Path,
    *,
    record: Mapping[str, Any],
    weights: str | Path | None = None,
    without_weights: str | None = None,
) -> None:
    """Write the model's JSON file, and its weights beside it under the same name with `.safetensors`.

    Each file replaces its old one in one step, the weights first: a reader never sees a partial file.

    Args:
        record: `mean`, `std` and `class_names`; optionally `rendering`, `logits_of`, `metrics`, `cost`, `recipe`,
            `provenance`, `arm` and `recommended`. See `ModelFile`.
        weights: A file of weights for this network, to write in place of the model's own: it is linked, or copied
            where the disk has no links.
        without_weights: Why there are no weights to write; the file then describes the network alone.
    Raises: FileError if the record has an unknown key or an invalid value, the file of weights does not fit, or the
    folder cannot be written.
    """
    path = Path(json_path)
    weights_path = path.with_suffix(".safetensors")
    if without_weights is not None:
        _replace(path, _described(model, path, {**record, "weights": None, "without_weights": without_weights}))
        return
    if weights is None:
        state = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
        stored = safetensors.torch.save(state)
        digest = hashlib.sha256(stored).hexdigest()
    else:
        digest = _fitting_digest(model, Path(weights))
    content = _described(model, path, {**record, "weights": {"name": weights_path.name, "sha256": digest}})
    if weights is None:
        _replace(weights_path, stored)
    else:
        _link(Path(weights), weights_path)
    _replace(path, content)


def _described(model: AttentionModel, path: Path, record: Mapping[str, Any]) -> bytes:
    """Return the checked content of a model's JSON file. Raises: FileError as `save_model`."""
    content: Record = {
        "schema_version": SCHEMA_VERSION,
        "backbone": model.spec,
        "placement": model.placement.to_dict(),
        "num_classes": model.num_classes,
        "in_channels": model.in_channels,
        "image_size": model.image_size,
        **record,
    }
    content = plain_content(content, path)
    content["digest"] = content_digest(content)
    check_content(content, path)
    return (json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def load_model(
    path: str | Path,
    *,
    arm: str | None = None,
    backbone: nn.Module | Maker | None = None,
    weights: bool = True,
) -> AttentionModel:
    """Build the model of a run or of a JSON file, in evaluation mode, with its weights.

    The model has `preprocess`, which converts images to inputs, `class_names`, `probabilities`, which converts logits
    to one probability per class name, and `about`, which says in a sentence what was loaded. No code that the file
    names is imported or executed.

    Args:
        path: A run folder, whose recommended network is loaded, or a model's JSON file.
        arm: Any arm of the run folder instead, such as `found #1`, `none` or `se everywhere`.
        backbone: The user's own network, or a function that returns it, if the file's backbone is not in the catalogue.
            The function is called with those of the file's options, num_classes, in_channels and image_size that it
            has as parameters.
        weights: Whether to load the weights; False keeps initial weights.
    Raises: FileError if a file is missing, truncated, altered or of another schema, or does not fit the network, or if
    the run has no such arm.
    """
    return load_stored(find_model(Path(path), arm), backbone=backbone, weights=weights)


def load_stored(
    stored: StoredModel, *, backbone: nn.Module | Maker | None = None, weights: bool = True
) -> AttentionModel:
    """Build a model that was found on the disk; otherwise as `load_model`."""
    described = stored.described
    state = _read_weights(stored) if weights else None
    passed = _passed_backbone(described, stored.file, backbone)
    try:
        own = None if passed is None else _own_network(passed, described)
        built = described.backbone if own is None else own
        model = build_model(built, Placement.from_dict(described.placement), **vars(described.shape), seed=0)
        meant = model.placement if state is None else with_stored_options(model, state)
        if meant != model.placement:
            model = build_model(built, meant, **vars(described.shape), seed=0)
    except SpaceError as error:
        raise FileError(f"The model of {stored.file} cannot be built: {error}") from error
    if state is not None:
        _check_shapes(model, {key: tuple(tensor.shape) for key, tensor in state.items()}, stored.weights)
        fill(model, cores(model, state))
    model.preprocess = Preprocess(
        described.image_size,
        tuple(described.mean),
        tuple(described.std),
        AS_BEFORE if described.rendering is None else described.rendering.rendering,
    )
    model.class_names = tuple(described.class_names)
    if described.logits_of is not None:
        model.probabilities = LABEL_KINDS[
            "multi-label" if described.logits_of == "labels" else "single-label"
        ].probabilities
    model.about = stored.about
    log.info("Loaded %s", stored.about)
    return model.eval()


def _read_weights(stored: StoredModel) -> dict[str, Tensor]:
    """Return the tensors of a model's weights, after a check of their SHA-256."""
    file = stored.weights
    if stored.described.weights is None:
        raise FileError(
            f"{stored.file} describes a network without weights: pass weights=False for an untrained one. "
            f"{stored.described.without_weights or ''}".rstrip()
        )
    try:
        content = file.read_bytes()
    except OSError as error:
        raise FileError(
            f"The weights {file} cannot be read ({error.strerror or error}): put them beside {stored.file.name}, or "
            "pass weights=False for an untrained model."
        ) from error
    if stored.sha256 is not None and hashlib.sha256(content).hexdigest() != stored.sha256:
        raise FileError(
            f"The weights {file} are truncated or altered: their SHA-256 differs from the one in {stored.file.name}."
        )
    try:
        return safetensors.torch.load(content)
    except SafetensorError as error:
        raise FileError(f"The weights {file} are no safetensors file: {error}.") from error


def _fitting_digest(model: AttentionModel, file: Path) -> str:
    """Return the SHA-256 of a file of weights. Raises: FileError if it does not fit the network."""
    try:
        with safe_open(file, framework="pt") as opened:
            keys = opened.keys()
            shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in keys}
        digest = file_digest(file)
    except (OSError, SafetensorError) as error:
        raise FileError(f"The weights {file} cannot be read: {error}.") from error
    _check_shapes(model, shapes, file)
    return digest


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
        take_out_own_se(net)
    return net


def _check_shapes(model: AttentionModel, found: Mapping[str, tuple[int, ...]], file: Path) -> None:
    """Check that a file of weights has the keys and shapes of a network. Raises: FileError with a difference."""
    wanted = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    found = core_shapes(model, found)
    if wanted != found:
        key = min(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        raise FileError(
            f"The weights {file} do not fit the network: '{key}' must be {wanted.get(key, 'absent')}, but is "
            f"{found.get(key, 'absent')}."
        )


def _replace(path: Path, content: bytes) -> None:
    """Write a file in one step that survives a loss of power. Raises: FileError if it cannot be written."""
    try:
        write_whole(path, lambda file: file.write(content), durable=True)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}.") from error


def _link(source: Path, path: Path) -> None:
    """Give a file a second name. Raises: FileError if that cannot be written."""
    try:
        link_whole(source, path)
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}.") from error
