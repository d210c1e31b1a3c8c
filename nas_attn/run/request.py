"""The request of a run: its settings, checked together with the data and the backbone's sites."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_attn.backbones.own_network import OwnNetwork
from nas_attn.backbones.site_table import site_table
from nas_attn.backbones.weights_file import find_weights
from nas_attn.callbacks.base import check_callback, load_callback
from nas_attn.comparison.objectives import Objective
from nas_attn.config import Budget, Call, DataConfig, Engine, Recipe, Resources, Target, read_shares, settings
from nas_attn.data.catalog import data_label, data_source
from nas_attn.data.dataset import DataFacts, describe
from nas_attn.data.entry import Progress
from nas_attn.errors import ConfigError, unknown
from nas_attn.files import file_digest
from nas_attn.placement import Placement, Shape, SiteTable
from nas_attn.records import LogitsOf
from nas_attn.run.arms import MakeArms, read_arms
from nas_attn.run.class_names import refuse_unwritten_names, two_classes
from nas_attn.run.default_shape import enlarged_size
from nas_attn.run.given import Given
from nas_attn.run.goals import chosen_objectives
from nas_attn.run.identity import contents_of, notes_on_unread
from nas_attn.run.own_network import Choice, choose
from nas_attn.run.proposing import with_proposals
from nas_attn.run.seeds_at_once import refuse_seeds_at_once
from nas_attn.run.sendable import refuse_unsendable
from nas_attn.run.tables import OPEN, RECORDS
from nas_attn.space.bound import BoundSpace
from nas_attn.space.rewritten import notes_on_values
from nas_attn.space.search_space import SearchSpace
from nas_attn.training.context import load_train
from nas_attn.user_code.content import Content
from nas_attn.validation import Model, fields_of, validate

FEW_TEST_IMAGES = 100
"""With fewer test images, one of them is more than one point of accuracy."""

SUITS = {"lr": "optimizer", "retrain_epochs": "epochs"}
"""Key of a space file -> the key that it suits: where another value of that one is stated, it has its own default."""


@dataclass(frozen=True)
class Settings:
    """All settings of a run, each checked on its own; `Request` checks them together with the data.

    Args:
        data: The images; None if a custom training reads its own.
        shape: Stated by the caller if there is no data; its `num_classes` is the number of classes.
        train: Custom training, as a callable or as `module:function`; None for the built-in one.
        storage: Address of the database of the ledger, possibly with a password; None for the file in the folder.
        arms: What makes the arms to compare with in addition to the usual ones.
        call: What belongs to this call alone.
        callbacks: Are called as the run proceeds.
        begun: When the command began, by the monotonic clock; a time budget counts from here.
    """

    choice: Choice
    data: DataConfig | None
    shape: Shape | None
    recipe: Recipe
    budget: Budget
    engine: Engine
    resources: Resources
    out: Path
    train: Callable[..., float] | str | None = None
    storage: str | None = field(default=None, repr=False)
    arms: tuple[MakeArms, ...] = ()
    call: Call = field(default_factory=Call)
    callbacks: tuple[Any, ...] = ()
    begun: float = field(default_factory=time.monotonic, compare=False)

    @property
    def space(self) -> SearchSpace:
        """The searched space; see `Choice` for one that is still to be made."""
        return self.choice.space


@dataclass(frozen=True)
class Request:
    """Settings together with the data and the backbone's sites.

    Args:
        notes: Sentences to show before the run begins.
        arms: The additional arms: resolved placements by label.
        weights: File and SHA-256 of the backbone's initial weights; None if they are random.
        given: The placement to retrain, without any search; None for a search.
        objectives: What is searched for, the first one is the value of a trial; empty for the usual value.
        priors: Placements to try first, before those of the space, with their labels.
    """

    settings: Settings
    bound: BoundSpace
    shape: Shape
    facts: DataFacts | None
    notes: tuple[str, ...]
    arms: Mapping[str, Placement] = field(default_factory=dict)
    weights: Mapping[str, str] | None = None
    given: Given | None = None
    objectives: tuple[Objective, ...] = ()
    priors: tuple[tuple[str, Placement], ...] = ()

    @property
    def backbone(self) -> dict[str, Any] | OwnNetwork:
        """The space's backbone, with the path of its weights, or the network in memory."""
        if self.settings.choice.network is not None:
            return self.settings.choice.network
        spec = self.settings.space.backbone
        return spec if self.weights is None else {**spec, "weights": self.weights["file"]}

    @cached_property
    def contents(self) -> dict[str, Content]:
        """What a custom training and a user's own network are by content; empty for the built-in ones."""
        return contents_now(self)

    @property
    def metric(self) -> str:
        """Name of a trial's value in the files of the run."""
        if self.objectives:
            return {"auc": "roc_auc"}.get(self.objectives[0].name, self.objectives[0].name)
        if self.facts is None and not self.shape.num_classes:
            return "value"
        if self.facts is None or self.facts.task == "single-label":
            return "accuracy"
        return "roc_auc" if self.settings.train is None else "value"

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes or labels; numbers if they have none."""
        if self.facts is not None:
            return self.facts.class_names
        return ("0", "1") if self.settings.recipe.one_logit else tuple(map(str, range(self.shape.num_classes)))

    @property
    def logits_of(self) -> LogitsOf | None:
        """What each logit stands for; None if only a custom training knows it."""
        if self.settings.recipe.one_logit:
            return "second_class"
        if self.facts is None:
            return None
        return "labels" if self.facts.task == "multi-label" else "classes"

    @cached_property
    def train_name(self) -> str | None:
        """Name of the custom training, or None for the built-in one."""
        train = self.settings.train
        if train is None or isinstance(train, str):
            return train
        return f"{getattr(train, '__module__', '?')}:{getattr(train, '__qualname__', type(train).__name__)}"


def contents_now(request: Request) -> dict[str, Content]:
    """Return what a custom training and a user's own network are by content at this moment."""
    choice = request.settings.choice
    return contents_of(request.settings.train, choice.network, choice.space.backbone)


def read_settings(stated: Mapping[str, Any]) -> Settings:
    """Return the settings of a run: the stated values, then those of the space file, then the defaults.

    Args:
        stated: Values by the names of the settings, as on the command line; None counts as not stated.
    Raises: ConfigError or SpaceError, in one sentence.
    """
    stated = {name: value for name, value in stated.items() if value is not None}
    _refuse_unknown(stated)
    choice = choose(stated)
    space = choice.space
    train = stated.get("train")
    if isinstance(train, str):
        load_train(train)
    reads_own_data = train is not None and "data" not in stated
    if not reads_own_data:
        _refuse_shape(stated)
    data = None if reads_own_data else _validated(DataConfig, stated, space)
    if data is not None and choice.reason is not None:  # a space that nobody named does not resize the images
        data = data.model_copy(update={"image_size": stated.get("image_size")})
    recipe = _validated(Recipe, stated, space)
    _refuse_mirrors(recipe, data)
    resources = _validated(Resources, stated)
    _refuse_unsendable(choice, train, resources.executor)
    settings = Settings(
        choice=choice,
        data=data,
        shape=_shape(stated, space, is_own=choice.is_own) if reads_own_data else None,
        recipe=recipe,
        budget=_validated(Budget, stated),
        engine=_validated(Engine, stated),
        resources=resources,
        out=Path(stated.get("out") or Path("runs") / _run_name(space, data, train)).expanduser().absolute(),
        train=train,
        storage=_storage(stated.get("storage")),
        arms=read_arms(stated.get("arm", ()), space),
        call=(call := _validated(Call, stated)),
        callbacks=(*map(check_callback, stated.get("callbacks", ())), *map(load_callback, call.callback)),
    )
    refuse_seeds_at_once(settings)
    return settings


def _storage(stated: str | None) -> str | None:
    """Return the address of the ledger's database. Raises: ConfigError if it is none, or its driver is missing."""
    if stated is not None:
        from nas_attn.study.storage.postgresql import read_address  # loads Optuna

        read_address(stated)
    return stated


def _refuse_unsendable(choice: Choice, train: Any, executor: str) -> None:
    """Refuse a network or a training in memory that cannot reach the workers. Raises: ConfigError."""
    if choice.network is not None:
        what = f"The network {choice.network.name}"
        refuse_unsendable(what, choice.network, executor, "define a function that returns it in a module")
    if train is not None and not isinstance(train, str):
        refuse_unsendable("The training", train, executor, "make what it needs inside the training, or in a module")


def bind(settings: Settings, *, progress: Progress | None = None) -> Request:
    """Return the settings with the data's facts and the space over the backbone's sites; nothing is written.

    Raises: DataError or SpaceError, in one sentence.
    """
    notes: list[str] = []
    facts = None
    shape = settings.shape
    if settings.data is not None:
        facts = describe(settings.data, progress=progress)
        is_sized = settings.data.image_size is not None
        size = None if is_sized else enlarged_size(settings.space.backbone, facts.image_size)
        if size is not None:
            notes.append(
                f"The {facts.image_size}x{facts.image_size} images are enlarged to {size}x{size}, the default size of "
                f"'{settings.space.backbone['name']}', because it needs larger images."
            )
            settings = replace(settings, data=settings.data.model_copy(update={"image_size": size}))
            assert settings.data is not None, "the size of the images does not remove the data"
            facts = describe(settings.data, progress=progress)
        refuse_unwritten_names(facts)
        notes.extend(facts.notes)
        shape = Shape(facts.num_classes, facts.in_channels, facts.image_size)
    assert shape is not None, "without data the settings state the shape"
    if settings.recipe.one_logit:
        names = two_classes(shape, facts)
        notes.append(f"The network returns one logit: above 0 it means {names[1]!r}, otherwise {names[0]!r}.")
        shape = replace(shape, num_classes=1)
    table, settings = _with_sites(settings, shape, notes)
    notes += _size_notes(settings.choice, shape, facts)
    engine = settings.engine
    bound = settings.space.bind(table, max_params=engine.max_params, max_macs=engine.max_macs)
    arms = {label: placement for make in settings.arms for label, placement in make(bound).items()}
    notes += [table.stacking] if table.stacking else []
    notes += [table.squashed] if table.squashed and settings.train is None else []
    notes += notes_on_values(bound)
    weights = _weights(settings, shape, facts, notes)
    objectives = chosen_objectives(settings.engine, facts, settings.train)
    request = Request(settings, bound, shape, facts, tuple(notes), arms, weights, objectives=objectives)
    return with_proposals(replace(request, notes=(*notes, *notes_on_unread(request.contents))))


def _with_sites(settings: Settings, shape: Shape, notes: list[str]) -> tuple[SiteTable, Settings]:
    """Return the sites of the network, and the settings with the space that is made from them, if it is to be made."""
    choice, network = settings.choice, settings.choice.network
    table = site_table(choice.space.backbone, **vars(shape)) if network is None else network.table(shape)
    if network is not None and network.is_module:
        notes.append(
            f"Each trial begins with a copy of the {network.name} that was passed in, with its weights, so the seeds "
            "differ in the attention and the order of the images; a function that returns a network makes new ones."
        )
    if choice.make is None:
        return table, settings
    space, sentence = choice.make(table)
    notes.append(sentence)
    return table, replace(settings, choice=replace(choice, space=space, make=None))


def _size_notes(choice: Choice, shape: Shape, facts: DataFacts | None) -> list[str]:
    """Return a note on a network that nobody named, with the size of its images, and one on few test images."""
    notes = []
    if choice.reason is not None:
        size = f"{shape.image_size}x{shape.image_size}"
        notes.append(f"No space was named, so {choice.space.name} is searched with images of {size}. {choice.reason}")
    if facts is not None and facts.n_test < FEW_TEST_IMAGES:
        notes.append(
            f"There are only {facts.n_test} test images, so that the arms can hardly be told apart: {FEW_TEST_IMAGES} "
            "or more are better."
        )
    return notes


def _weights(settings: Settings, shape: Shape, facts: DataFacts | None, notes: list[str]) -> dict[str, str] | None:
    """Return file and digest of the backbone's weights; load them once, and add to `notes` how they fit."""
    spec = settings.space.backbone
    file = find_weights(spec, download=settings.data is not None and settings.data.download)
    if file is None:
        return None
    from nas_attn.backbones.build import start_backbone  # loads torch

    names = facts.class_names if facts is not None else ()
    _, fit = start_backbone(spec, file, shape, seed=0, class_names=names)
    notes += [f"Initial weights of the backbone: {file}.", *fit]
    return {"file": str(file), "sha256": file_digest(file)}


def _shape(stated: Mapping[str, Any], space: SearchSpace, *, is_own: bool) -> Shape:
    """Return the shape of the images that a custom training reads.

    Args:
        is_own: Whether the network is the user's own, whose output may be anything: then `num_classes` may be missing.
    """
    size = stated.get("image_size", space.data.get("image_size"))
    needed = ("in_channels",) if is_own else ("num_classes", "in_channels")
    missing = [name for name in needed if name not in stated] + (["image_size"] if size is None else [])
    if missing:
        raise ConfigError(
            f"A training of your own without data needs {', '.join(missing)}: state them, or name the data set."
        )
    known = {name: stated[name] for name in ("num_classes", "in_channels") if name in stated}
    target = validate(Target, known, "the settings")
    data = validate(DataConfig, {"image_size": size}, "the settings")
    assert target.in_channels is not None, "it was stated"
    assert data.image_size is not None, "it was stated"
    return Shape(target.num_classes or 0, target.in_channels, data.image_size)


def _refuse_shape(stated: Mapping[str, Any]) -> None:
    """Refuse a shape together with data, which has its own."""
    for name in ("num_classes", "in_channels"):
        if name in stated:
            hint = ": --channels converts grey to colour and back." if name == "in_channels" else ": leave it out."
            raise ConfigError(
                f"--{name.replace('_', '-')} is for a training of your own that reads its own images (--train without "
                f"--data), but got {stated[name]} together with data that has its own{hint}"
            )


def _refuse_mirrors(recipe: Recipe, data: DataConfig | None) -> None:
    """Refuse to mirror images that lose their meaning by it: a mirrored 2 is not a 2."""
    if data is not None and recipe.augment == "crop-flip" and not data_source(data.name).mirror:
        raise ConfigError(
            f"--augment must be none or crop for {data.name}, whose images lose their meaning when mirrored, but got "
            "crop-flip."
        )


def _run_name(space: SearchSpace, data: DataConfig | None, train: object) -> str:
    if data is None:
        return f"{space.name}-own"
    label, own = data_label(data.name), "-own" if train is not None else ""
    usual = data_label(space.data.get("name", DataConfig().name))
    return f"{space.name}{own}" if label == usual else f"{space.name}-{label}{own}"


def _validated(model: type[Model], stated: Mapping[str, Any], space: SearchSpace | None = None) -> Model:
    """Return a record of settings: the stated values, then those of the space file, then the defaults."""
    values = {} if space is None else _still_suiting({**space.recipe, **space.data}, stated)
    values = {key: value for key, value in values.items() if key in model.model_fields}
    settable = [setting for setting in fields_of(model) if setting.setting is not None]
    values |= {setting.key: stated[setting.name] for setting in settable if setting.name in stated}
    if isinstance(values.get("split"), str):
        values["split"] = read_shares(values["split"], "--split")
    record = validate(model, values, "the settings")
    for name, records in RECORDS.items():
        if (
            name in model.model_fields
            and getattr(record, name) not in records
            and not _is_code(name, getattr(record, name))
        ):
            raise ConfigError(unknown(name, getattr(record, name), records))
    return record


def _still_suiting(values: Mapping[str, Any], stated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a space file without those that suit another value of it, in whose place one is stated."""
    usual = {name: Recipe.model_fields[name].default for name in SUITS.values()} | dict(values)
    changed = {name for name in SUITS.values() if stated.get(name, usual[name]) != usual[name]}
    return {key: value for key, value in values.items() if SUITS.get(key) not in changed}


def _is_code(name: str, value: str) -> bool:
    """Return whether a setting names code instead of a record; it is checked with the space."""
    return name in OPEN and ":" in value


def _refuse_unknown(stated: Mapping[str, Any]) -> None:
    known = [*(setting.name for setting in settings()), "network", "callbacks"]
    for name in stated:
        if name not in known:
            raise ConfigError(unknown("setting", name, known))
