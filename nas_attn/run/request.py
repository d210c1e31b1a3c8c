"""What the user asked for, put together: the command line goes before the space file, that before the defaults."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_attn.backbones.catalog import image_sizes
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.timm_names import is_timm
from nas_attn.backbones.weights_file import find_weights
from nas_attn.config import Budget, DataConfig, Engine, Recipe, Resources, Strict, read_shares, validate
from nas_attn.data.catalog import data_label, data_source
from nas_attn.data.dataset import DataFacts, describe
from nas_attn.data.entry import Progress
from nas_attn.errors import ConfigError, SpaceError, unknown
from nas_attn.files import file_digest
from nas_attn.placement import Placement, Shape
from nas_attn.records import LogitsOf
from nas_attn.space.published import Published, load_published
from nas_attn.space.search_space import BoundSpace, SearchSpace
from nas_attn.training.context import load_train

_DATA_KEYS = {
    "data": "name",
    "data_root": "root",
    "download": "download",
    "image_size": "image_size",
    "channels": "channels",
    "split": "split",
    "strict_data": "strict",
}
_ARM = "published:"
_OTHER_KEYS = ("space", "out", "train", "quiet", "debug", "dry_run", "num_classes", "in_channels", "arm")


@dataclass(frozen=True)
class Settings:
    """Everything that was asked for, checked one by one; `Request` checks it together with the data.

    Args:
        data: Which images; None when the user's own training brings its own.
        shape: Given by the caller when there is no data; its `num_classes` counts the classes.
        train: The user's own training, as a callable or as `module:function`; None takes ours.
        arms: Networks of papers to compare with, beside the usual arms.
    """

    space: SearchSpace
    data: DataConfig | None
    shape: Shape | None
    recipe: Recipe
    budget: Budget
    engine: Engine
    resources: Resources
    out: Path
    train: Callable[..., float] | str | None = None
    arms: tuple[Published, ...] = ()


@dataclass(frozen=True)
class Request:
    """Settings together with what the data and the backbone turned out to be.

    Args:
        notes: Sentences that the user should read before the run begins.
        arms: The placements that were asked for as further arms, resolved, each under its label.
        weights: File and SHA-256 of what the backbone starts from; None where that is drawn.
    """

    settings: Settings
    bound: BoundSpace
    shape: Shape
    facts: DataFacts | None
    notes: tuple[str, ...]
    arms: Mapping[str, Placement] = field(default_factory=dict)
    weights: Mapping[str, str] | None = None

    @property
    def backbone(self) -> dict[str, Any]:
        """The space's backbone; its weights as a whole path, which every worker finds."""
        spec = self.settings.space.backbone
        return spec if self.weights is None else {**spec, "weights": self.weights["file"]}

    @property
    def metric(self) -> str:
        """What the value of a trial is called in the run's files."""
        if self.facts is None or self.facts.task == "single-label":
            return "accuracy"
        return "roc_auc" if self.settings.train is None else "value"

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes or labels; numbers where they have no names."""
        if self.facts is not None:
            return self.facts.class_names
        return ("0", "1") if self.settings.recipe.one_logit else tuple(map(str, range(self.shape.num_classes)))

    @property
    def logits_of(self) -> LogitsOf | None:
        """What the logits stand for; None when only the user's own training knows."""
        if self.settings.recipe.one_logit:
            return "second_class"
        if self.facts is None:
            return None
        return "labels" if self.facts.task == "multi-label" else "classes"

    @cached_property
    def train_name(self) -> str | None:
        """What the user's own training is called, or None for ours."""
        train = self.settings.train
        if train is None or isinstance(train, str):
            return train
        return f"{getattr(train, '__module__', '?')}:{getattr(train, '__qualname__', type(train).__name__)}"


def read_settings(given: Mapping[str, Any]) -> Settings:
    """Return the settings that `given` asks for, keys named as the command line's options.

    Raises: ConfigError or SpaceError, in one sentence.
    """
    given = {name: value for name, value in given.items() if value is not None}
    _refuse_unknown(given)
    space = given.get("space", "densenet_attn")
    if not isinstance(space, SearchSpace):
        space = SearchSpace.load(space)
    train = given.get("train")
    if isinstance(train, str):
        load_train(train)
    if not space.backbone:
        raise SpaceError(f"A search needs a backbone, but {space.where} has none: add [backbone] with a name.")
    recipe = {**space.recipe, **_of(space.data, ["augment"]), **_of(given, Recipe.model_fields)}
    brings_data = train is not None and "data" not in given
    if not brings_data:
        _refuse_shape(given)
    data = None if brings_data else _data(given, space)
    shape = _shape(given, space) if brings_data else None
    out = given.get("out") or Path("runs") / _run_name(space, data, train)
    checked = validate(Recipe, recipe, "the recipe")
    _refuse_mirrors(checked, data)
    return Settings(
        space=space,
        data=data,
        shape=shape,
        recipe=checked,
        budget=_validated(Budget, given),
        engine=_validated(Engine, given),
        resources=_validated(Resources, given),
        out=Path(out),
        train=train,
        arms=_arms(given.get("arm", ()), space),
    )


def bind(settings: Settings, *, progress: Progress | None = None) -> Request:
    """Read the data and the backbone's sites, and check the space against both; nothing is written.

    Raises: DataError or SpaceError, in one sentence.
    """
    notes: list[str] = []
    facts = None
    shape = settings.shape
    if settings.data is not None:
        facts = describe(settings.data, progress=progress)
        size = _enlarged(settings, facts.image_size)
        if size is not None:
            notes.append(
                f"The {facts.image_size}x{facts.image_size} images are enlarged to {size}x{size}, "
                f"since '{settings.space.backbone['name']}' takes no smaller ones."
            )
            settings = replace(settings, data=settings.data.model_copy(update={"image_size": size}))
            assert settings.data is not None, "only data that is there is enlarged"
            facts = describe(settings.data, progress=progress)
        notes.extend(facts.notes)
        shape = Shape(facts.num_classes, facts.in_channels, facts.image_size)
    assert shape is not None, "without data the settings carry the shape"
    if settings.recipe.one_logit:
        names = _two_classes(shape, facts)
        notes.append(f"The network gives one logit: above 0 it means {names[1]!r}, else {names[0]!r}.")
        shape = replace(shape, num_classes=1)
    table = site_table(settings.space.backbone, **vars(shape))
    engine = settings.engine
    bound = settings.space.bind(table, max_params=engine.max_params, max_macs=engine.max_macs)
    arms = {f"{_ARM}{network.name}": bound.resolve(network.placement(table)) for network in settings.arms}
    notes += [table.stacking] if table.stacking else []
    weights = _weights(settings, shape, facts, notes)
    return Request(settings, bound, shape, facts, tuple(notes), arms, weights)


def _two_classes(shape: Shape, facts: DataFacts | None) -> tuple[str, ...]:
    """Return the names of the classes that one logit tells apart. Raises: ConfigError if they are not two."""
    several = facts is not None and facts.task == "multi-label"
    if shape.num_classes != 2 or several:
        whose = f"{facts.name} has" if facts is not None else "--num-classes says"
        what = f"{shape.num_classes} {'labels, any of which an image may have' if several else 'classes'}"
        raise ConfigError(
            f"One logit tells two classes apart, but {whose} {what}: give --no-one-logit, or data of two classes."
        )
    return facts.class_names if facts is not None else ("0", "1")


def _weights(settings: Settings, shape: Shape, facts: DataFacts | None, notes: list[str]) -> dict[str, str] | None:
    """Return file and digest of the backbone's weights, once they have proved to fit; add to the notes how they do."""
    spec = settings.space.backbone
    file = find_weights(spec, download=settings.data is not None and settings.data.download)
    if file is None:
        return None
    from nas_attn.backbones.build import start_backbone  # loads torch

    names = facts.class_names if facts is not None else ()
    _, fit = start_backbone(spec, file, shape, seed=0, class_names=names)
    notes += [f"The backbone starts from {file}.", *fit]
    return {"file": str(file), "sha256": file_digest(file)}


def _arms(given: str | Sequence[str], space: SearchSpace) -> tuple[Published, ...]:
    """Return the networks of papers that are asked for as arms, each once.

    Raises: ConfigError or SpaceError for another word, an unknown network, or one in another backbone than the space.
    """
    words = dict.fromkeys([given] if isinstance(given, str) else given)
    for word in words:
        if not word.startswith(_ARM):
            raise ConfigError(f"'--arm' must be {_ARM}NAME, such as {_ARM}cbam_resnet50, but got {word}.")
    networks = tuple(load_published(word.removeprefix(_ARM)) for word in words)
    backbone = space.backbone.get("name", space.backbone.get("import"))
    for network in networks:
        if network.backbone["name"] != backbone:
            raise SpaceError(
                f"An arm must be in the space's backbone, but '{network.name}' is in '{network.backbone['name']}' and "
                f"{space.where} in '{backbone}'."
            )
    return networks


def _data(given: Mapping[str, Any], space: SearchSpace) -> DataConfig:
    wishes: dict[str, Any] = _of(space.data, ["image_size", "split"])
    asked = {field: given[key] for key, field in _DATA_KEYS.items() if key in given}
    if isinstance(asked.get("split"), str):
        asked["split"] = read_shares(asked["split"], "--split")
    return validate(DataConfig, {**wishes, **asked}, "the data settings")


def _shape(given: Mapping[str, Any], space: SearchSpace) -> Shape:
    """Return the shape that a training of the user's own works on."""
    size = given.get("image_size", space.data.get("image_size"))
    missing = [name for name in ("num_classes", "in_channels") if name not in given] + (
        ["image_size"] if size is None else []
    )
    if missing:
        raise ConfigError(
            f"A training of your own without data needs {', '.join(missing)}: give them, or name the data set."
        )
    return Shape(given["num_classes"], given["in_channels"], int(size))


def _refuse_shape(given: Mapping[str, Any]) -> None:
    """Refuse a shape that is told beside data, which has its own."""
    for name in ("num_classes", "in_channels"):
        if name in given:
            hint = ": --channels turns grey into colour and back." if name == "in_channels" else ": leave it out."
            raise ConfigError(
                f"--{name.replace('_', '-')} is for a training of your own that brings its images (--train without "
                f"--data), but got {given[name]} beside data that has its own{hint}"
            )


def _refuse_mirrors(recipe: Recipe, data: DataConfig | None) -> None:
    """Refuse to mirror images that lose their meaning by it: a mirrored 2 is no 2."""
    if data is not None and recipe.augment == "crop-flip" and not data_source(data.name).mirror:
        raise ConfigError(
            f"--augment must be none or crop for {data.name}, whose images lose their meaning when mirrored, but got "
            "crop-flip."
        )


def _enlarged(settings: Settings, image_size: int) -> int | None:
    """Return the size that smaller images are brought to, or None when they are large enough."""
    spec = settings.space.backbone
    if "name" not in spec or is_timm(spec) or settings.data is None or settings.data.image_size is not None:
        return None
    smallest, default = image_sizes(spec)
    return default if image_size < smallest else None


def _run_name(space: SearchSpace, data: DataConfig | None, train: object) -> str:
    if data is None:
        return f"{space.name}-own"
    label = data_label(data.name)
    own = "-own" if train is not None else ""
    return f"{space.name}{own}" if label == DataConfig().name else f"{space.name}-{label}{own}"


def _validated(model: type[Any], given: Mapping[str, Any]) -> Any:
    return validate(model, _of(given, model.model_fields), "the settings")


def _of(values: Mapping[str, Any], names: Any) -> dict[str, Any]:
    return {name: values[name] for name in names if values.get(name) is not None}


def _refuse_unknown(given: Mapping[str, Any]) -> None:
    models: tuple[type[Strict], ...] = (Recipe, Budget, Engine, Resources)
    known = {*_DATA_KEYS, *_OTHER_KEYS, *(name for model in models for name in model.model_fields)}
    if "backbone" in given:
        raise ConfigError(
            "A search makes a new network for every trial, so backbone=... cannot be given: let the space name a "
            "function that makes yours, by [backbone] import = 'module:function'."
        )
    for name in given:
        if name not in known:
            raise ConfigError(unknown("setting", name, known))
