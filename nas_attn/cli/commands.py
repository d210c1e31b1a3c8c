"""The command line: names, defaults and help of every setting; the work is done elsewhere, and imported on use."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_attn.cli.options import one_of, real, shares, switch, text, whole
from nas_attn.errors import Interrupted, NasAttnError, nearest

WHAT = "What is searched"
DATA = "Data"
BUDGET = "Budget"
TRAINING = "Training"
OWN = "Training of your own (without --data it brings its own images)"
ENGINE = "Search engine"
RESOURCES = "Who computes"
RUN = "Run"

app = typer.Typer(
    name="nas-attn",
    help="Find which attention module helps in your CNN, where, and with which options.",
    epilog="Start with: nas-attn search --space densenet_attn",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run, such as runs/densenet_attn.")]
Debug = Annotated[bool, switch("--debug", panel=RUN, help="Show the traceback of an error.")]


@app.callback()
def start(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Find which attention module helps in your CNN, where, and with which options."""
    if version:
        from nas_attn import __version__

        typer.echo(f"nas-attn {__version__}")
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command(rich_help_panel="Commands")
def search(
    context: typer.Context,
    space: Annotated[
        str, text("--space", "NAME|FILE", panel=WHAT, help="A shipped space (see `nas-attn spaces`) or a file.")
    ] = "densenet_attn",
    arm: Annotated[
        list[str] | None,
        text(
            "--arm",
            "published:NAME",
            panel=WHAT,
            help="A network of a paper in the same backbone to compare with (see `nas-attn published`); repeatable.",
            default="none",
        ),
    ] = None,
    max_params: Annotated[
        int | None,
        whole("--max-params", 1, 10**15, panel=WHAT, help="Most trainable parameters.", default="the space's"),
    ] = None,
    max_macs: Annotated[
        int | None,
        whole("--max-macs", 1, 10**18, panel=WHAT, help="Most multiply-adds for one image.", default="the space's"),
    ] = None,
    data: Annotated[
        str,
        text(
            "--data",
            "SET",
            panel=DATA,
            help="digits, mnist, fashion-mnist, cifar10, cifar100, folder:PATH or npz:PATH.",
        ),
    ] = "digits",
    data_root: Annotated[
        str, text("--data-root", "FOLDER", panel=DATA, help="Where torchvision's data sets lie, or are downloaded to.")
    ] = "data",
    download: Annotated[bool, switch("--download", panel=DATA, help="Fetch a data set that is not there.")] = False,
    image_size: Annotated[
        int | None,
        whole("--image-size", 4, 2048, panel=DATA, help="Height and width in pixels.", default="the data's own"),
    ] = None,
    channels: Annotated[
        int | None,
        one_of(
            "--channels",
            ("1", "3"),
            panel=DATA,
            help="1 for grey, 3 for colour.",
            default="the data's own",
            convert=int,
        ),
    ] = None,
    split: Annotated[
        str | None,
        shares(
            "--split",
            panel=DATA,
            help="Shares of train, validation and test, such as 10/20/70.",
            default="digits 10/20/70, else the data's own",
        ),
    ] = None,
    strict_data: Annotated[
        bool, switch("--strict-data", panel=DATA, help="Refuse a damaged image instead of skipping it by name.")
    ] = False,
    trials: Annotated[
        int,
        whole(
            "--trials", 1, 1_000_000, panel=BUDGET, help="Distinct placements to try; a larger number extends a run."
        ),
    ] = 24,
    epochs: Annotated[
        int, whole("--epochs", 1, 100_000, panel=BUDGET, help="Epochs of each trial of the search.")
    ] = 30,
    top: Annotated[int, whole("--top", 1, 100, panel=BUDGET, help="How many of the best are confirmed.")] = 3,
    seeds: Annotated[int, whole("--seeds", 1, 1_000, panel=BUDGET, help="Seeds that every arm is retrained with.")] = 5,
    retrain_epochs: Annotated[
        int | None,
        whole("--retrain-epochs", 1, 100_000, panel=BUDGET, help="Epochs of each retraining.", default="--epochs"),
    ] = None,
    batch_size: Annotated[int, whole("--batch-size", 2, 65_536, panel=TRAINING, help="Images a step.")] = 32,
    optimizer: Annotated[
        str, one_of("--optimizer", ("sgd", "adamw", "adam"), panel=TRAINING, help="SGD has Nesterov momentum 0.9.")
    ] = "sgd",
    lr: Annotated[
        float,
        real("--lr", 0, 100, above=True, panel=TRAINING, help="Peak of the learning rate; 0.003 for Adam, AdamW."),
    ] = 0.1,
    weight_decay: Annotated[float, real("--weight-decay", 0, 10, panel=TRAINING, help="Weight decay.")] = 5e-4,
    augment: Annotated[
        str, one_of("--augment", ("none", "crop", "crop-flip"), panel=TRAINING, help="Changes of the training images.")
    ] = "none",
    class_weights: Annotated[
        bool, switch("--class-weights/--no-class-weights", panel=TRAINING, help="Let rare classes weigh more.")
    ] = False,
    label_smoothing: Annotated[
        float, real("--label-smoothing", 0, 1, below=True, panel=TRAINING, help="Share spread over the other classes.")
    ] = 0.0,
    one_logit: Annotated[
        bool,
        switch(
            "--one-logit/--no-one-logit", panel=TRAINING, help="One logit in place of two, for data of two classes."
        ),
    ] = False,
    backbone_lr: Annotated[
        float,
        real("--backbone-lr", 0, 1, above=True, panel=TRAINING, help="Factor on --lr for the backbone's own weights."),
    ] = 1.0,
    freeze_epochs: Annotated[
        int,
        whole("--freeze-epochs", 0, 100_000, panel=TRAINING, help="First epochs in which these stay as they are."),
    ] = 0,
    train: Annotated[
        str | None,
        text("--train", "MODULE:FUNCTION", panel=OWN, help="Your own training function.", default="the built-in loop"),
    ] = None,
    num_classes: Annotated[
        int | None,
        whole("--num-classes", 1, 1_000_000, panel=OWN, help="Classes of your images.", default="those of --data"),
    ] = None,
    in_channels: Annotated[
        int | None,
        whole("--in-channels", 1, 10_000, panel=OWN, help="Channels of your images.", default="those of --data"),
    ] = None,
    sampler: Annotated[
        str, one_of("--sampler", ("tpe", "random", "nsga2"), panel=ENGINE, help="Who proposes placements.")
    ] = "tpe",
    scheduler: Annotated[
        str, one_of("--scheduler", ("none", "asha"), panel=ENGINE, help="Who stops poor trials early.")
    ] = "none",
    seed: Annotated[int, whole("--seed", 0, 2**31 - 1, panel=ENGINE, help="Seed of everything random.")] = 0,
    executor: Annotated[
        str,
        one_of("--executor", ("tune", "local"), panel=RESOURCES, help="Ray Tune's workers, or this process."),
    ] = "tune",
    device: Annotated[
        str,
        one_of("--device", ("auto", "cpu", "cuda", "mps"), panel=RESOURCES, help="auto: CUDA if any, else the CPU."),
    ] = "auto",
    workers: Annotated[
        int | None,
        whole("--workers", 1, 10_000, panel=RESOURCES, help="Trials at a time.", default="one a GPU, else one a core"),
    ] = None,
    cpus_per_trial: Annotated[
        int | None,
        whole("--cpus-per-trial", 1, 1_024, panel=RESOURCES, help="Cores of a trial.", default="an even share"),
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        real(
            "--gpus-per-trial", 0, 64, panel=RESOURCES, help="GPUs of a trial, also 0.5.", default="1 on CUDA, else 0"
        ),
    ] = None,
    address: Annotated[
        str | None,
        text("--address", "HOST:PORT", panel=RESOURCES, help="A running Ray cluster.", default="one of its own"),
    ] = None,
    out: Annotated[
        str | None,
        text(
            "--out",
            "FOLDER",
            panel=RUN,
            help="Folder of the run; the same command on it goes on.",
            default="runs/SPACE, or runs/SPACE-DATA",
        ),
    ] = None,
    dry_run: Annotated[
        bool, switch("--dry-run", panel=RUN, help="Print the plan, with time and memory, and start nothing.")
    ] = False,
    quiet: Annotated[bool, switch("--quiet", panel=RUN, help="Print the result only.")] = False,
    debug: Debug = False,
) -> int:
    """Search, confirm, retrain and report; run it again to go on where it stopped.

    A setting comes from the command line, else from the space file, else from the defaults shown here.
    """
    from nas_attn.run.job import run_command

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for modules of the user's own, as `python -m` has it
    return run_command({"space": space, **_given(context)})


@app.command(rich_help_panel="Commands")
def dashboard(
    run: RunFolder,
    host: Annotated[str, text("--host", "HOST", panel=RUN, help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, whole("--port", 0, 65_535, panel=RUN, help="Port to listen on; 0 finds a free one.")] = 8080,
    debug: Debug = False,
) -> None:
    """Show a run in Optuna's dashboard, also while it goes on; it can look and never change."""
    from nas_attn.cli.dashboard import serve

    serve(run, host=host, port=port, announce=typer.echo)


@app.command(rich_help_panel="Commands")
def report(run: RunFolder, debug: Debug = False) -> None:
    """Write the page, the figures and the tables of a run again."""
    from nas_attn.report.page import write_report
    from nas_attn.run.folder import load_run

    typer.echo(write_report(load_run(run), run))


@app.command(rich_help_panel="Commands")
def spaces(debug: Debug = False) -> None:
    """List the spaces that ship with the package."""
    from nas_attn.cli.lists import print_spaces

    print_spaces()


@app.command(rich_help_panel="Commands")
def sites(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A backbone, timm:NAME, a space, or module:function of your own.")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the backbone, such as stem=small.")
    ] = None,
    image_size: Annotated[
        int | None,
        whole("--image-size", 1, 2048, panel=DATA, help="Height and width in pixels.", default="the network's"),
    ] = None,
    num_classes: Annotated[
        int | None,
        whole("--num-classes", 1, 100_000, panel=DATA, help="Classes.", default="10, or the one logit of a space"),
    ] = None,
    in_channels: Annotated[int, whole("--in-channels", 1, 64, panel=DATA, help="Channels of the images.")] = 3,
    debug: Debug = False,
) -> None:
    """Draw a network as a tree with every site, its kind, channels and map, and what fits there."""
    from nas_attn.cli.site_tree import print_sites

    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # for networks of the user's own
    print_sites(network, options or [], num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@app.command(rich_help_panel="Commands")
def attentions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One attention, in full.")] = None,
    debug: Debug = False,
) -> None:
    """List the attentions that a space may name, or show one in full with its formula."""
    from nas_attn.cli.lists import print_attention, print_attentions

    print_attentions() if name is None else print_attention(name)


@app.command(rich_help_panel="Commands")
def published(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One network, in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
    debug: Debug = False,
) -> None:
    """List the networks of papers that come as placements, with their parameters, or show one in full."""
    from nas_attn.cli.lists import print_publication, print_publications

    print_publications(as_json=as_json) if name is None else print_publication(name, as_json=as_json)


@app.command(rich_help_panel="Commands")
def schema(
    record: Annotated[str, typer.Argument(metavar="space", help="What to describe.")] = "space",
    debug: Debug = False,
) -> None:
    """Print the JSON schema of a space file, for editors."""
    from nas_attn.cli.lists import print_schema

    print_schema(record)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (failed), 2 (refused) or 130 (interrupted)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return int(app(words, prog_name="nas-attn", standalone_mode=False) or 0)
    except (NasAttnError, typer.TyperException, typer.Abort) as error:
        return _complain(error, "--debug" in words)
    except Exception as error:
        if "--debug" in words:
            raise
        typer.echo(f"Error: {type(error).__name__}: {_flat(str(error))} (--debug shows where.)", err=True)
        return 1


def _given(context: typer.Context) -> dict[str, Any]:
    """Return the settings that the user wrote, by name; the rest is left to the space file and the defaults."""
    written = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            written[name] = value
    return written


def _complain(error: Exception, debug: bool) -> int:
    """Print one sentence about `error`, and return the exit code that belongs to it."""
    if debug:
        import traceback

        traceback.print_exception(error)
    if isinstance(error, Interrupted):
        typer.echo(_flat(str(error)), err=True)
    else:
        typer.echo(f"Error: {_sentence(error)}", err=True)
    return int(getattr(error, "exit_code", 130))


def _sentence(error: Exception) -> str:
    """Return the sentence of an error, with the nearest option for one that does not exist."""
    possible = getattr(error, "possibilities", None)
    option = getattr(error, "option_name", None)
    if isinstance(option, str) and possible:
        begun = [name for name in sorted(possible) if name.startswith(option)]
        close = begun[0] if begun else nearest(option, possible)
        return f"Unknown option '{option}': did you mean '{close}'?" if close else f"Unknown option '{option}'."
    if isinstance(error, typer.TyperException):
        return _flat(error.format_message())
    return _flat(str(error))


def _flat(message: str) -> str:
    """Return `message` on one line."""
    return " ".join(message.split())
