"""The commands. The options of `search` are the settings; each command imports its implementation on use."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from nas_attn.cli import state_commands
from nas_attn.cli.arguments import AsJson, Debug, RunFolder
from nas_attn.cli.ending import INTERRUPTED, interruptible, print_error, warn, working_folder
from nas_attn.cli.options import settings_signature, text, whole
from nas_attn.cli.streams import PIPE_CLOSED, OutputLost, Stream, standard_streams
from nas_attn.errors import NasAttnError, RunStopped, in_plain_words

app = typer.Typer(
    name="nas-attn",
    help="Find which attention module helps in your CNN, where, and with which options.",
    epilog="Start with: nas-attn search --space densenet_attn",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    invoke_without_command=True,
)

MAKES_FILES = frozenset({"search", "retrain", "report", "init", "export", "explain", "dashboard", "finish", "clean"})
"""Commands that make more than what they print: they go on without a terminal."""

Model = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, or the JSON file of a model.")]
Arm = Annotated[
    str | None, text("--arm", "NAME", help="Arm of the run, such as 'se everywhere'.", default="the recommended one")
]
OwnNetwork = Annotated[
    str | None, text("--backbone", "MODULE:FUNCTION", help="Function that returns your own network.", default=False)
]


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


@app.command(short_help="Search, confirm, retrain and report; resumes a run.")
def search(context: typer.Context, **settings: Any) -> int:
    """Search, confirm, retrain and report; the same command resumes an interrupted run.

    A setting comes from the command line, otherwise from the space file, otherwise from the defaults shown here.
    """
    from nas_attn.run.job import run_command

    _import_from_here()
    stated = _stated(context)
    if not stated.get("dashboard"):
        return run_command(stated)
    from nas_attn.cli.dashboard import beside

    return run_command(stated, beside=lambda run: beside(run, announce=warn))


@app.command(short_help="Retrain a placement on other data or longer; resumes.")
def retrain(context: typer.Context, **settings: Any) -> int:
    """Retrain a found placement beside no attention: on other data, for longer, or from other weights.

    Of a run folder it is the recommended placement, or found #1 if the run recommends no attention. What is not stated
    is as in the placement's own run. The same command resumes an interrupted run.
    """
    from nas_attn.run.retrain import retrain_command

    _import_from_here()
    stated = _stated(context)
    if not stated.get("dashboard"):
        return retrain_command(stated)
    from nas_attn.cli.dashboard import beside

    return retrain_command(stated, beside=lambda run: beside(run, announce=warn))


for _command in (search, retrain):
    vars(_command)["__signature__"] = inspect.Signature()  # without options until `command_line` adds them


@app.command(short_help="Show a run in Optuna's dashboard, read-only.")
def dashboard(
    run: RunFolder,
    host: Annotated[str, text("--host", "HOST", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, whole("--port", 0, 65_535, help="Port to listen on; 0 finds a free one.")] = 8080,
    debug: Debug = False,
) -> None:
    """Show a run, also an unfinished one, in Optuna's dashboard; read-only."""
    from nas_attn.cli.dashboard import serve

    serve(run, host=host, port=port, announce=typer.echo)


state_commands.add_to(app)


@app.command()
def report(run: RunFolder, debug: Debug = False) -> None:
    """Rewrite the report, the figures and the tables of a run."""
    from nas_attn.report.page import write_report
    from nas_attn.run.folder import load_run

    typer.echo(write_report(load_run(run), run))


@app.command(short_help="Say what a run recommends, with its numbers and files.")
def best(run: RunFolder, as_json: AsJson = False, debug: Debug = False) -> None:
    """Say what a run recommends, in words, with its numbers and where its files are."""
    from nas_attn.cli.answers import print_best

    print_best(run, as_json=as_json)


@app.command(short_help="Compare the arms of several runs in a table and a figure.")
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN", help="Folders of runs.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Folder of the figure's files.")] = Path(),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Compare the arms of several runs in a table and a figure; it says if their data, split or training differ."""
    from nas_attn.cli.answers import print_comparison

    print_comparison(runs, out=out, as_json=as_json)


@app.command(short_help="Predict the classes of images, as CSV.")
def predict(
    run: Model,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE", help="Image files, or folders of images.")],
    arm: Arm = None,
    backbone: OwnNetwork = None,
    max_pixels: Annotated[
        int | None,
        whole(
            "--max-pixels",
            1,
            10**12,
            help="Largest number of pixels of an image; a larger one is not read.",
            default="Pillow's",
        ),
    ] = None,
    debug: Debug = False,
) -> int:
    """Predict the classes of images, as CSV: path, predicted class, its probability, the probability of each class.

    Files that are no images are named, and the others go on; the exit code is then 1.
    """
    from nas_attn.cli.networks import print_predictions

    _import_from_here()
    return print_predictions(run, images, arm=arm, backbone=backbone, max_pixels=max_pixels, warn=warn)


@app.command(short_help="Write a network as ONNX, torch.export, TorchScript or Python.")
def export(
    run: Model,
    onnx: Annotated[bool, typer.Option("--onnx", help="Write an ONNX file.")] = False,
    torch_export: Annotated[bool, typer.Option("--torch-export", help="Write a torch.export program.")] = False,
    torchscript: Annotated[bool, typer.Option("--torchscript", help="Write a TorchScript file.")] = False,
    python: Annotated[
        bool,
        typer.Option("--python", help="Write one Python file, and its weights: it needs torch and torchvision alone."),
    ] = False,
    arm: Arm = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder of the files.", show_default="RUN/exported"),
    ] = None,
    backbone: OwnNetwork = None,
    debug: Debug = False,
) -> None:
    """Write a network in other formats; each file is checked against the network, within 1e-4, for several batches."""
    from nas_attn.cli.networks import print_exports

    _import_from_here()
    stated = {"onnx": onnx, "torch-export": torch_export, "torchscript": torchscript, "python": python}
    formats = [name for name, is_wanted in stated.items() if is_wanted]
    print_exports(run, formats, arm=arm, out=out, backbone=backbone, say=typer.echo)


@app.command(short_help="Draw what found #1 looks at in a few images.")
def explain(
    run: RunFolder,
    images: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[IMAGE]...", help="Image files, or folders of images.", show_default="test images"),
    ] = None,
    number: Annotated[int, whole("--number", 1, 24, help="Number of test images: right and wrong ones.")] = 6,
    data_root: Annotated[str, text("--data-root", "FOLDER", help="Folder of torchvision's data sets.")] = "data",
    backbone: OwnNetwork = None,
    debug: Debug = False,
) -> None:
    """Draw what found #1 looks at: the weights of its attentions, and Grad-CAM beside that without attention.

    Without images it takes the first test images that found #1 predicts right, and as many that it predicts wrong. It
    writes figures/maps.svg, .png and .pdf in the run folder.
    """
    from nas_attn.cli.explanations import print_explanation

    _import_from_here()
    print_explanation(run, images or [], n_images=number, data_root=data_root, backbone=backbone, say=typer.echo)


@app.command()
def spaces(debug: Debug = False) -> None:
    """List the spaces that ship with the package."""
    from nas_attn.cli.lists import print_spaces

    print_spaces()


@app.command(short_help="Draw a network as a tree of its sites.")
def sites(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="A backbone, timm:NAME, a space, or your own MODULE:FUNCTION.")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the backbone, such as stem=small.")
    ] = None,
    image_size: Annotated[
        int | None,
        whole("--image-size", 1, 2048, help="Height and width of the images in pixels.", default="the network's"),
    ] = None,
    num_classes: Annotated[
        int | None,
        whole("--num-classes", 1, 100_000, help="Number of classes.", default="10, or the one logit of a space"),
    ] = None,
    in_channels: Annotated[int, whole("--in-channels", 1, 64, help="Number of channels of the images.")] = 3,
    debug: Debug = False,
) -> None:
    """Draw a network as a tree of its sites, with kind, channels, map size and fitting attentions."""
    from nas_attn.cli.site_tree import print_sites

    _import_from_here()
    print_sites(network, options or [], num_classes=num_classes, in_channels=in_channels, image_size=image_size)


@app.command(short_help="Write a space file for a network, from a survey of its sites.")
def init(
    network: Annotated[
        str, typer.Argument(metavar="NETWORK", help="Your own MODULE:FUNCTION, a backbone, or timm:NAME.")
    ],
    options: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Options of the backbone, such as stem=small.")
    ] = None,
    image_size: Annotated[
        int | None,
        whole("--image-size", 4, 2048, help="Height and width of the images in pixels.", default="the network's or 64"),
    ] = None,
    channels: Annotated[int, whole("--channels", 1, 64, help="Number of channels of the images.")] = 3,
    classes: Annotated[int, whole("--classes", 1, 100_000, help="Number of classes.")] = 10,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="File to write.", show_default="NETWORK.toml")
    ] = None,
    debug: Debug = False,
) -> None:
    """Write a commented space file for a network: its sites in groups, attentions that fit, options to search.

    The network is surveyed by running a copy of it. An existing file is never overwritten.
    """
    from nas_attn.cli.init import print_space_file

    _import_from_here()
    words = [network, *(options or [])]
    print_space_file(words, image_size=image_size, num_classes=classes, in_channels=channels, out=out, say=typer.echo)


@app.command(short_help="List the attentions, or show one in full.")
def attentions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one attention in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
    debug: Debug = False,
) -> None:
    """List the attentions that a space can use, or show one with its formula and options."""
    from nas_attn.cli.lists import print_attention, print_attentions

    print_attentions(as_json=as_json) if name is None else print_attention(name, as_json=as_json)


@app.command(short_help="List the published networks, or show one in full.")
def published(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Show one network in full.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON list instead.")] = False,
    debug: Debug = False,
) -> None:
    """List the published networks with their parameters, or show one with its placement."""
    from nas_attn.cli.lists import print_publication, print_publications

    print_publications(as_json=as_json) if name is None else print_publication(name, as_json=as_json)


@app.command()
def schema(
    record: Annotated[str, typer.Argument(metavar="space", help="Kind of file to describe.")] = "space",
    debug: Debug = False,
) -> None:
    """Print the JSON schema of a space file, for editors."""
    from nas_attn.cli.lists import print_schema

    print_schema(record)


def command_line(*, with_settings: bool = True) -> Any:
    """Return the command line as a click group; the options of `search` and `retrain` import settings and tables."""
    if with_settings:
        from nas_attn.cli.retraining import retrain_signature

        vars(search)["__signature__"] = settings_signature()
        vars(retrain)["__signature__"] = retrain_signature()
    group: Any = typer.main.get_command(app)
    group.rich_markup_mode = None  # the list of commands is plain text: importing rich would double its time
    return group


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (failed), 2 (refused), 130 (interrupted) or 141 (pipe closed)."""
    stated = list(sys.argv[1:] if arguments is None else arguments)
    is_result = bool({"--help", "--dry-run"} & {*stated}) or not MAKES_FILES & {*stated[:1]}
    try:
        with interruptible(), standard_streams(is_result=is_result) as output:
            code = _run(stated)
            output.end()
            if output.failure is not None:
                return _without_output(output, code, is_result=is_result)
    except KeyboardInterrupt as error:  # before or after the command's own work
        return print_error(error, debug="--debug" in stated)
    return code


def _run(stated: list[str]) -> int:
    """Run one command; print what it raises, and return its exit code."""
    try:
        with_settings = bool({"search", "retrain"} & {*stated}) or "_NAS_ATTN_COMPLETE" in os.environ
        code = command_line(with_settings=with_settings)(stated, prog_name="nas-attn", standalone_mode=False) or 0
        # What a command raises as KeyboardInterrupt, typer returns as this code.
        return print_error(KeyboardInterrupt(), debug=False) if code == INTERRUPTED else int(code)
    except OutputLost:
        return 1
    except KeyboardInterrupt as error:
        return print_error(error, debug="--debug" in stated)
    except SystemExit as error:  # of the user's code: a command itself returns its code
        words = f"Code of your own ended the command by SystemExit: {in_plain_words(error) or 'no message'}."
        return print_error(RunStopped(words), debug="--debug" in stated)
    except Exception as error:
        if "--debug" in stated and not isinstance(error, NasAttnError | typer.TyperException | typer.Abort):
            raise
        return print_error(error, debug="--debug" in stated)


def _without_output(output: Stream, code: int, *, is_result: bool) -> int:
    """Say that the standard output was lost, and return the exit code: unchanged where files hold the result."""
    if not is_result:
        warn(f"What this command shows could not be written ({output.reason}); its result is not affected.")
        return code
    if output.is_pipe_closed:
        return PIPE_CLOSED
    warn(f"Error: The standard output must be writable, but is not: {output.reason}.")
    return 1


def _stated(context: typer.Context) -> dict[str, Any]:
    """Return the settings stated on the command line by name, without the defaults."""
    found = {}
    for name, value in context.params.items():
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            found[name] = value
    return found


def _import_from_here() -> None:
    """Add the working folder to the import path, as `python -m` does."""
    folder = working_folder()
    if folder not in sys.path:
        sys.path.append(folder)
