"""A found placement trained again on other data, for longer or from other weights: `retrain`, and its command."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_attn.backbones.written import read_network
from nas_attn.callbacks.base import Callback
from nas_attn.comparison.answer import names_in
from nas_attn.comparison.objectives import objectives_in
from nas_attn.config.images import OF_READING
from nas_attn.data.entry import Progress
from nas_attn.data.memory import NAME, data_source_of
from nas_attn.data.sources import stated_reading
from nas_attn.errors import ConfigError, FileError, SpaceError
from nas_attn.model.description import ModelFile
from nas_attn.model.stored import ARMS, StoredModel, find_model
from nas_attn.placement import Placement
from nas_attn.records import BARE, FOUND, RANDOM, RunRecord, TrialRecord
from nas_attn.run.arms import LAST_STAGE
from nas_attn.run.folder import RunFolder
from nas_attn.run.given import OF_A_SEARCH, SEED_STEP, Given
from nas_attn.run.job import Beside, alone, carry_out, run
from nas_attn.run.progress import Display, SilentDisplay
from nas_attn.run.request import Request, bind, read_settings
from nas_attn.space.file import TABLES
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.stages import RETRAIN_OFFSET, first_seeds
from nas_attn.user_code.process_state import left_as_it_was

if TYPE_CHECKING:
    from torch import nn

OWN, NO_WEIGHTS = "own", "none"
"""Words for `weights`: those of the file itself, and random ones."""


def retrain(
    file: str | Path,
    train: Callable[..., float] | str | None = None,
    out: str | Path | None = None,
    *,
    network: Callable[..., nn.Module] | nn.Module | None = None,
    data: Any = None,
    weights: str | Path | None = None,
    display: Display | None = None,
    callbacks: Sequence[Callback | Callable[[TrialRecord], object]] = (),
    **settings: Any,
) -> RunRecord:
    """Retrain a found placement beside no attention, on other data or for longer; resume an unfinished run.

    The arms are `none` and `found #1`, the placement; nothing is searched or confirmed. Seeds, answer, files and report
    are those of a search. What is not stated is as in the placement's own run: the data, the recipe, the number of
    epochs of a retraining. The seeds are others, so that no training of that run is repeated.

    Args:
        file: A model's JSON file, such as `best.json` or one under `arms/`; or a run folder, whose recommended arm is
            taken, or its `found #1` if it recommends no attention.
        train: Custom training, as for `nas_attn.search`.
        out: Folder of the run; None derives its name from the placement's space and the data.
        network: Your own network, if the file's is not in the catalogue: as for `nas_attn.search`. One that has a name
            is `backbone=...`.
        data: As for `nas_attn.search`; None takes the data of the placement's own run.
        weights: Initial weights of the backbone in every arm: a file, or a name of torchvision's or timm's; `own` for
            those of the file itself, `none` for random ones. None begins as the placement's own run did. Attention
            always begins anew.
        display: Shows the progress; None shows nothing.
        callbacks: As for `nas_attn.search`.
        settings: The settings of a search by name (`epochs`, `seeds`, `arm`, ...) that have a meaning here.

    Raises: a subclass of `Refused` before anything is written; RunStopped if the run cannot continue; Interrupted after
    Ctrl-C. The same call resumes the run.
    """
    with left_as_it_was(), data_source_of(data, settings.get("image_size"), stated_reading(settings)) as source:
        stated = {"train": train, "out": out, "network": network, "data": source, "weights": weights}
        stated |= {"callbacks": callbacks, **settings}
        return run(read_request(Path(file), stated), display or SilentDisplay())


def retrain_command(settings: Mapping[str, Any], *, beside: Beside = alone) -> int:
    """Run the command line's `retrain` and return its exit code; `settings` has the file beside the stated ones."""
    stated = {name: value for name, value in settings.items() if name != "file"}
    file = Path(settings["file"])
    return carry_out(settings, lambda progress: read_request(file, stated, progress=progress), beside=beside)


def read_request(file: Path, stated: Mapping[str, Any], *, progress: Progress | None = None) -> Request:
    """Return the checked request to retrain the placement of a file; nothing is written.

    Args:
        stated: Values by the names of the settings, and `weights`; None counts as not stated.
    Raises: FileError if there is no such model; ConfigError, SpaceError or DataError, in one sentence.
    """
    stated = {name: value for name, value in stated.items() if value is not None}
    for name, reason in OF_A_SEARCH.items():
        if name in stated:
            raise ConfigError(f"A retraining has no setting '{name}', since {reason}: leave it out.")
    arms = stated.get("arm", ())
    if LAST_STAGE in ([arms] if isinstance(arms, str) else arms):
        raise ConfigError(
            f"'--arm {LAST_STAGE}' takes the attentions of a space, and a retraining has none: name the JSON file of "
            "such a placement."
        )
    origin = _Origin(_stored(file), file)
    settings = {name: value for name, value in stated.items() if name != "weights"}
    beside = {"controls": 0} | origin.network(stated) | origin.data(stated) | origin.seed(stated)
    request = bind(read_settings({**settings, **beside, "space": origin.space(stated)}), progress=progress)
    if len(request.objectives) > 1:
        raise ConfigError(
            "The arms of a retraining are compared by one value, but '--objective' names "
            f"{', '.join(goal.name for goal in request.objectives)}: name one, such as {request.objectives[0].name}."
        )
    return origin.given(request, stated)


def _stored(file: Path) -> StoredModel:
    """Return the model whose placement is retrained: of a run that recommends no attention, found #1."""
    stored = find_model(file)
    if stored.described.placement:
        return stored
    if file.is_dir():
        return find_model(file, FOUND)
    raise FileError(
        f"A placement with attention is retrained beside no attention, but {file} has none: pass the folder of its "
        f"run, whose {FOUND} is then retrained, or another file of its arms."
    )


@dataclass(frozen=True)
class _Origin:
    """The file of a placement, and what a retraining takes over from it.

    Args:
        file: As it was stated.
    """

    stored: StoredModel
    file: Path

    @property
    def described(self) -> ModelFile:
        """The content of the file."""
        return self.stored.described

    @property
    def own_network(self) -> str | None:
        """Name of the user's own network, or None for one of the catalogue."""
        backbone = self.described.backbone
        return backbone.get("own") or backbone.get("import")

    def space(self, stated: Mapping[str, Any]) -> SearchSpace:
        """Return a space without any decision: the network, and the recipe and data settings by default."""
        name = _mapping(self.described.provenance, "space").get("name", self.stored.file.stem)
        attentions = list(dict.fromkeys(str(found.get("name")) for found in self.described.placement.values()))
        record: dict[str, Any] = {
            "title": f"Retrained placement of {name}",
            "sites": [{"match": list(self.described.placement), "attentions": attentions}],
            **self._tables(stated),
        }
        if self.own_network is None:
            record["backbone"] = {**self.described.backbone, **self._weights(stated)}
        space = SearchSpace.from_dict(record, str(self.file), name=f"{name}-retrained")
        return replace(space, file=space.file.model_copy(update={"sites": ()}))

    def network(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the user's own network with the options of the file. Raises: ConfigError if it is missing."""
        stated_one = stated.get("backbone", stated.get("network"))
        if self.own_network is None:
            if stated_one is not None:
                raise ConfigError(
                    f"{self.file} has the catalogue's backbone '{self.described.backbone.get('name')}': leave "
                    "--backbone out."
                )
            return {}
        if stated_one is None:
            raise ConfigError(
                f"{self.file} has a network of your own ({self.own_network}): add --backbone MODULE:FUNCTION, which "
                "returns it, or in Python network=...."
            )
        if "backbone" not in stated:
            if "weights" in stated:
                raise ConfigError(
                    "The weights of a network in memory are its own: leave weights out, or name the network by "
                    "backbone=...."
                )
            return {}
        spec = read_network(stated["backbone"].split()) if isinstance(stated["backbone"], str) else stated["backbone"]
        options = {key: value for key, value in self.described.backbone.items() if key not in ("own", "import")}
        return {"backbone": {**options, **self._weights(stated), **spec}}

    def data(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data of the placement's own run, where none is stated. Raises: ConfigError if it is unknown."""
        known, trained_by = self._data, self.described.provenance.get("train")
        how_read = [name for name in ("channels", *OF_READING) if name not in stated]
        if "train" not in stated and "data" not in stated and trained_by is not None:
            raise ConfigError(
                f"{self.file} was trained by a function of your own ({trained_by}): add --train MODULE:FUNCTION, or "
                "--data for the built-in training."
            )
        if "data" in stated:
            is_same = stated["data"] == known.get("name")
            if stated["data"] == NAME:  # images in memory have been read by now
                how_read = [name for name in how_read if name not in OF_READING]
            return self._of_data(*how_read) if is_same else {}
        if known.get("name") in (None, NAME) and "train" not in stated:
            raise ConfigError(f"{self.file} names no data set that can be read again: add --data.")
        if known.get("name") in (None, NAME):
            shape = vars(self.described.shape) | {"num_classes": len(self.described.class_names)}
            return {name: value for name, value in shape.items() if name not in stated}
        return {"data": known["name"]} | self._of_data(*how_read)

    def seed(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the seed, where none is stated: one whose seeds the placement's own run did not use."""
        seed = self.described.provenance.get("seed")
        return {"seed": (seed + SEED_STEP) % 2**31} if isinstance(seed, int) and "seed" not in stated else {}

    def given(self, request: Request, stated: Mapping[str, Any]) -> Request:
        """Return the request with the placement at the sites of its network, and notes on where it comes from.

        Raises: SpaceError if the placement does not fit.
        """
        try:
            placement = request.bound.resolve(Placement.from_dict(self.described.placement))
        except SpaceError as error:
            raise SpaceError(f"The placement of {self.file} does not fit this network and data: {error}") from error
        facts = request.facts
        same = facts is not None and facts.fingerprint == _mapping(self._data, "facts").get("fingerprint")
        given = Given(
            placement, str(self.stored.file), self.described.arm, self.stored.about, same, self._searched(request)
        )
        notes = [f"Retrained placement: {self.stored.about}.", *_notes(given, request, self._seeds, stated)]
        notes += self._other_value(request)
        names = [name for name in names_in(self.described.arm or "") if name and not name.startswith(FOUND)]
        arms = {name: placement for name in names if name not in (BARE, RANDOM)}
        return replace(request, given=given, arms=arms | dict(request.arms), notes=(*notes, *request.notes))

    def _other_value(self, request: Request) -> list[str]:
        """Return a note if the placement's own run compared its arms by a value that this one does not use."""
        own = [goal.name for goal in objectives_in(self.described.provenance)][:1]
        if not own or own == [goal.name for goal in request.objectives]:
            return []
        return [
            f"The placement's own run compared its arms by {own[0]}, and this one does not: --objective {own[0]} does."
        ]

    @property
    def _data(self) -> Mapping[str, Any]:
        return _mapping(self.described.provenance, "data")

    @property
    def _seeds(self) -> set[int]:
        """The seeds of the retrainings of the placement's own run."""
        return {seed for seeds in self.described.arms.values() for seed in seeds}

    def _of_data(self, *names: str) -> dict[str, Any]:
        return {name: self._data[name] for name in names if self._data.get(name) is not None}

    def _tables(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of the placement's own run as tables of a space file: its recipe, size and split."""
        recipe = {name: value for name, value in self.described.recipe.items() if value is not None}
        recipe["epochs"] = recipe.pop("retrain_epochs", recipe.get("epochs"))
        is_same = stated.get("data", self._data.get("name")) == self._data.get("name")
        values = recipe | self._of_data("image_size", *(["split"] if is_same else []))
        return {
            table: {name: values[name] for name in model.model_fields if values.get(name) is not None}
            for table, model in TABLES.items()
        }

    def _weights(self, stated: Mapping[str, Any]) -> dict[str, Any]:
        """Return the initial weights of the backbone as an option of its spec; empty for random ones."""
        before = _mapping(self.described.provenance, "space", "backbone").get("weights")
        wanted = str(stated["weights"]) if "weights" in stated else before
        if wanted in (None, NO_WEIGHTS):
            return {}
        return {"weights": str(self.stored.weights) if wanted == OWN else wanted}

    def _searched(self, request: Request) -> tuple[str, ...]:
        """Return the sites that the placement's own run searched, if its folder is there."""
        folder = self.stored.file.parent
        run_folder = RunFolder(folder.parent if folder.name == ARMS else folder)
        listed = run_folder.read_config().get("searched_sites") if run_folder.config.is_file() else None
        known = {site.name for site in request.bound.table.every_site}
        return tuple(name for name in listed if name in known) if isinstance(listed, list) else ()


def _notes(given: Given, request: Request, used: set[int], stated: Mapping[str, Any]) -> list[str]:
    """Return what a reader of the result must know about its independence."""
    notes = []
    if stated.get("weights") == OWN:
        notes.append(
            "Every arm begins with the weights of the file's backbone, which were trained beside its attention; "
            "attention begins anew."
        )
    if given.same_images:
        notes.append(
            "The images and their split are those of the run that chose the placement, so that the same test images "
            "judge it again: other data is an independent test."
        )
    first = request.settings.engine.seed + RETRAIN_OFFSET
    again = sorted(used & set(range(first, first + first_seeds(request.settings.budget))))
    if given.same_images and again:
        notes.append(f"Seeds {', '.join(map(str, again))} are also those of that run: leave --seed out to have others.")
    return notes


def _mapping(record: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return a nested mapping, or an empty one where there is none."""
    for key in keys:
        found = record.get(key)
        record = found if isinstance(found, Mapping) else {}
    return record
