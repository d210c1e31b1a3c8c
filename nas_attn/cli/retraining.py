"""The options of `nas-attn retrain`: the settings of a search that have a meaning without one, and its own."""

from __future__ import annotations

import inspect
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from nas_attn.cli.options import settings_signature, text
from nas_attn.config import settings
from nas_attn.config.groups import BUDGET, SPACE, TRAINING
from nas_attn.files import MOST_PIXELS
from nas_attn.run.given import OF_A_SEARCH, SEED_STEP
from nas_attn.validation import Field

AS_BEFORE = "as in the placement's own run"


@dataclass(frozen=True)
class _Changed:
    """How a setting differs from that of a search; None keeps what a search has.

    Args:
        unset: Its default, in words.
        help: Its description.
        group: Heading in the help text.
        metavar: Placeholder of its value.
    """

    unset: str | None = None
    help: str | None = None
    group: str | None = None
    metavar: str | None = None


_CHANGED = {
    "arm": _Changed(
        help="A further arm of the comparison: a published network in the same backbone (see `nas-attn published`), or "
        "the placement of a JSON file, such as arms/se-everywhere.json of a run; repeatable.",
        metavar="published:NAME|FILE",
    ),
    "objective": _Changed(
        help="Value by which the arms are compared: accuracy, auc or f1, or one that a training of your own returns, "
        "with its direction, such as score:max.",
    ),
    "backbone": _Changed(
        "none",
        "Your own network, if the file's is not in the catalogue: function that returns it.",
        metavar="MODULE:FUNCTION",
    ),
    "out": _Changed("runs/SPACE-retrained, or runs/SPACE-retrained-DATA"),
    "data": _Changed(AS_BEFORE),
    "channels": _Changed(f"{AS_BEFORE}, or the data's own"),
    "split": _Changed(f"{AS_BEFORE}, or the data's own"),
    "pixel_range": _Changed(f"{AS_BEFORE}, or as in a search"),
    "background": _Changed(f"{AS_BEFORE}, or white"),
    "frames": _Changed(f"{AS_BEFORE}, or first"),
    "max_pixels": _Changed(f"{AS_BEFORE}, or {MOST_PIXELS}"),
    "image_size": _Changed(f"{AS_BEFORE}, or the data's own"),
    "epochs": _Changed(f"{AS_BEFORE}, of a retraining", "Number of epochs per training."),
    "seeds": _Changed(
        help="Number of seeds per arm; a larger number extends a run. auto: 5, and then more for undecided arms until "
        "attention is judged better, worse or equal, or --max-seeds is reached."
    ),
    "seed": _Changed(f"{SEED_STEP:,} more than that of the placement's own run", group=BUDGET),
}


def retrain_signature() -> inspect.Signature:
    """Return the signature of `retrain` with its options, for typer."""
    fields = [_changed(field) for field in settings() if field.name not in OF_A_SEARCH]
    about = (
        "A model's JSON file, such as best.json or one under arms/; or a run folder, whose recommended arm is taken."
    )
    weights = text(
        "--weights",
        "FILE|NAME|own|none",
        help="Initial weights of the backbone in every arm: a file, or a name of torchvision's or timm's. own: those "
        "beside the file itself. none: random ones.",
        default=AS_BEFORE,
        panel=TRAINING,
    )
    return settings_signature(
        fields,
        inspect.Parameter(
            "file",
            inspect.Parameter.KEYWORD_ONLY,
            annotation=Annotated[Path, typer.Argument(metavar="FILE|RUN", help=about)],
        ),
        inspect.Parameter(
            "weights", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[str | None, weights]
        ),
    )


def _changed(field: Field) -> Field:
    """Return a setting with its default and description for a retraining."""
    assert field.setting is not None, f"{field.key} is no setting"
    is_recipe = field.setting.table is not None
    change = _CHANGED.get(field.name, _Changed(AS_BEFORE if is_recipe else None))
    before = field.setting
    info = copy(field.info)
    info.description = change.help or field.help
    setting = replace(
        before,
        unset=change.unset or before.unset,
        group=change.group or ("Arms" if before.group == SPACE else before.group),
        metavar=change.metavar or before.metavar,
    )
    return replace(field, info=info, setting=setting)
