"""`--dry-run`: print a preview of a run with its estimated time and memory; nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from nas_attn.backbones.catalog import BACKBONES, plugged_entry
from nas_attn.comparison.crossed import FEWEST_SEEDS
from nas_attn.comparison.power import POWER, USUAL_ACCURACY, smallest_told, usual
from nas_attn.data.dataset import Images, load_data
from nas_attn.errors import RunError
from nas_attn.executors.resources import Allocation, local_allocation
from nas_attn.model.build import build
from nas_attn.placement import NONE, Placement
from nas_attn.records import BARE, FOUND, RANDOM_SEARCH
from nas_attn.report.tables import measured
from nas_attn.report.words import duration, listed
from nas_attn.run.extent import runs_and_epochs
from nas_attn.run.folder import RunFolder, load_run
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import Request
from nas_attn.space.file import shown
from nas_attn.training.loop import train

_STEPS, _ROUNDS = 2, 3


@dataclass(frozen=True)
class Probe:
    """The measurements of one placement that was built and trained for a few steps.

    Units: `seconds_per_step` is the time of one training step; `bytes_per_trial` is the size of its tensors:
    activations stored for the backward pass, weights, gradients, momentum, and the images.
    """

    label: str
    placement: Placement
    n_parameters: int
    n_macs: int
    seconds_per_step: float | None
    bytes_per_trial: int


def print_preview(request: Request) -> None:
    """Print the preview of a checked request; build and time its cheapest and its dearest placement."""
    settings = request.settings
    allocation = local_allocation(settings.resources)
    torch.set_num_threads(allocation.cpus)
    images = _first_images(request, allocation)
    probes = [_probe(request, label, placement, images, allocation) for label, placement in _probed(request)]
    console = Console(highlight=False)
    console.print(_probe_table(probes))
    for line in _lines(request, allocation, images, probes):
        console.print(Text(line), soft_wrap=True)


def _probed(request: Request) -> list[tuple[str, Placement]]:
    """Return the placements to build and time, with their labels."""
    if request.given is not None:
        return [("no attention", NONE), ("retrained", request.given.placement)]
    return [("cheapest", request.bound.cheapest()), ("dearest", request.bound.dearest())]


def _first_images(request: Request, allocation: Allocation) -> Images | None:
    if request.settings.data is None or request.settings.train is not None:
        return None
    images = load_data(request.settings.data, device=allocation.device).train
    return images.first(_STEPS * request.settings.recipe.batch_size)


def _probe(request: Request, label: str, placement: Placement, images: Images | None, allocation: Allocation) -> Probe:
    shape = request.shape
    recipe = request.settings.recipe.model_copy(
        update={"lr": 1e-6, "freeze_epochs": 0}
    )  # the time per step is the same, and nothing diverges
    model = build(request.backbone, placement, request.shape, seed=request.settings.engine.seed)
    cost = request.bound.cost(placement)
    on_device = request.facts.n_bytes if request.facts and (images is None or images.rows is None) else 0
    seconds, n_bytes = None, 12 * cost.n_parameters + on_device
    if images is not None:
        with _SavedBytes() as saved:
            facts = train(
                model,
                images,
                None,
                recipe,
                seed=0,
                epochs=_ROUNDS,
                device=allocation.device,
                report=lambda epoch, value: None,
                num_classes=shape.num_classes,
            )
        n_steps = -(-len(images) // recipe.batch_size)
        seconds, n_bytes = facts["seconds_per_epoch"] / n_steps, n_bytes + saved.n_bytes // (_ROUNDS * n_steps)
    return Probe(label, placement, cost.n_parameters, cost.n_macs, seconds, n_bytes)


class _SavedBytes:
    """Context manager: count the bytes of the tensors that autograd stores for the backward pass."""

    def __init__(self) -> None:
        self.n_bytes = 0
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def __enter__(self) -> _SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        self.n_bytes += tensor.numel() * tensor.element_size()
        return tensor


def _probe_table(probes: list[Probe]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("placement", "parameters", "multiply-adds", "time per step", "memory"):
        table.add_column(name, justify="left" if name == "placement" else "right")
    for probe in probes:
        step = "-" if probe.seconds_per_step is None else f"{1000 * probe.seconds_per_step:.1f} ms"
        memory = f"{probe.bytes_per_trial / 2**20:,.0f} MiB"
        table.add_row(probe.label, f"{probe.n_parameters:,}", f"{probe.n_macs:,}", step, memory)
    return table


def _over_limit(request: Request) -> list[str]:
    """Return the line for a dearest placement over a limit; empty if it is within the limits."""
    reason = request.bound.check(request.bound.dearest())
    return (
        [f"The dearest is over a limit: the search leaves it out, but an arm may be as large. {reason}"]
        if reason
        else []
    )


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


def _lines(request: Request, allocation: Allocation, images: Images | None, probes: list[Probe]) -> list[str]:
    """Return the preview as lines of text."""
    settings, facts = request.settings, request.facts
    stages = runs_and_epochs(request)
    lines = [*_over_limit(request), "", _scope(request)]
    if "import" in settings.space.backbone:
        lines.append(f"Network: built by {settings.space.backbone['import']}, which is imported and called.")
    plugged = plugged_entry(settings.space.backbone)
    if plugged is not None:
        lines.append(f"Network: {plugged.name} of {BACKBONES.origin(plugged.name)}.")
    lines += [facts.in_words] if facts is not None else []
    if facts is not None and images is not None:
        lines.append(f"Images: {facts.n_bytes / 1e6:,.1f} MB, {images.in_words}.")
    lines += list(request.notes)
    if request.objectives:
        lines.append(f"Objectives: {listed(f'{goal.noun} ({goal.direction})' for goal in request.objectives)}.")
    lines += [f"{name.capitalize()}: {runs} runs of {_epochs(epochs)}." for name, (runs, epochs) in stages.items()]
    lines += [*_arms(request), *_can_tell(request)]
    lines.append(f"Workers: {allocation}.")
    steps = [probe.seconds_per_step for probe in probes if probe.seconds_per_step is not None]
    if facts is not None and steps:
        n_images = {name: facts.n_train + (facts.n_val if name == "retrain" else 0) for name in stages}
        n_steps = sum(
            runs * epochs * -(-n_images[name] // settings.recipe.batch_size) for name, (runs, epochs) in stages.items()
        )
        low, high = (n_steps * step / allocation.workers for step in (min(steps), max(steps)))
        lines.append(f"Estimated time of training: {duration(low)} to {duration(high)}, without validation.")
    memory = allocation.workers * max(probe.bytes_per_trial for probe in probes) / 2**20
    lines.append(
        f"Memory: up to {memory:,.0f} MiB of tensors for {allocation.workers} trials at a time, plus the processes."
    )
    return [*lines, *_done(request), "Nothing was started."]


def _scope(request: Request) -> str:
    """Return what the run chooses from."""
    title = request.settings.space.title
    if request.given is not None:
        return f"{title}: nothing is searched or confirmed."
    return f"Space: {title}, {request.bound.n_placements:,} placements."


def _arms(request: Request) -> list[str]:
    """Return the arms in one line, and in another what can be added to them."""
    budget = request.settings.budget
    key = request.given.placement.key if request.given is not None else None
    same = [label for label, placement in request.arms.items() if placement.key == key]
    others = [label for label in request.arms if label not in same]
    everywhere = [f"{name} everywhere" for name in request.bound.attentions]
    beside = [RANDOM_SEARCH] if budget.control_search and request.given is None else []
    names = [" = ".join([FOUND, *same]), BARE, *everywhere, *others, *beside]
    controls = f"; {budget.n_controls} random placements of the size of {FOUND} as one arm" if budget.n_controls else ""
    more = {
        "--ablate": budget.ablate,
        "--control-search random": budget.control_search is not None,
        "--seeds auto": budget.seeds == "auto",
        "--arm last-stage": any("in the last stage" in label for label in request.arms),
    }
    if request.given is not None:
        more = {"--seeds auto": budget.seeds == "auto", "--arm": False}
    missing = [option for option, is_on in more.items() if not is_on]
    asked = [f"A finished run can be extended by {listed(missing)}."] if missing else []
    return [f"Arms: {', '.join(names)}{controls}.", *asked]


def _can_tell(request: Request) -> list[str]:
    """Return the line on the gain that the retraining can tell; empty where no usual spread is known."""
    budget, facts = request.settings.budget, request.facts
    n_seeds = budget.max_seeds if budget.seeds == "auto" else budget.seeds
    if facts is None or request.metric != "accuracy" or request.settings.train is not None or n_seeds < FEWEST_SEEDS:
        return []
    gain = smallest_told(usual(n_seeds=n_seeds, n_images=facts.n_test))
    seeds = f"{'up to ' if budget.seeds == 'auto' else ''}{n_seeds} seeds"
    return [
        f"What can be told: a true gain of {100 * gain:.1f} points or more in {100 * POWER:.0f} % of runs, with "
        f"{seeds} and {facts.n_test:,} test images, if networks are right on about {100 * USUAL_ACCURACY:.0f} % of "
        "them and scatter as small ones do."
    ]


def _done(request: Request) -> list[str]:
    """Return what the run folder has already; a folder of another search is refused in its sentence."""
    folder = RunFolder(request.settings.out)
    try:
        config = describe_run(request, folder.begun())
        folder.refuse_foreign(config, same_training=request.settings.call.same_training)
        if not folder.config.exists():
            return [f"Run folder: {shown(folder.path)}, which is new."]
        run = load_run(folder.path)
    except RunError as error:
        return [f"Refused: {error}"]
    counts = [f"{len(measured(getattr(run, stage))):,} {stage}" for stage in runs_and_epochs(request)]
    state = "is finished" if run.best is not None else "is not finished"
    has = f"it has {listed(counts)} trials"
    return [f"Run folder: {shown(folder.path)}, which {state}: {has}; only the rest is trained."]
