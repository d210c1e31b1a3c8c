"""The commands on runs beside their drivers: `status`, `runs`, `finish` and `clean`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_attn.cli.arguments import AsJson, Debug, RunFolder
from nas_attn.cli.options import switch


def add_to(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    app.command(short_help="Show how far a run is, and what resumes it.")(status)
    app.command(short_help="List all runs below a folder.")(runs)
    app.command(short_help="End the search of a run, and go on to confirm.")(finish)
    app.command(short_help="Delete what dead runs and caches no longer need.")(clean)


def status(
    run: RunFolder,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat it until the run ends.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Show how far a run is: its stage and trials, the best so far, the time left, its driver, what resumes it."""
    from nas_attn.cli.status import print_status

    print_status(run, watch=watch, as_json=as_json)


def runs(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder to look in.")] = Path("runs"),
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List all runs below a folder: name, state, best validation value, and when they last changed."""
    from nas_attn.cli.status import print_runs

    print_runs(folder, as_json=as_json)


def finish(run: RunFolder, debug: Debug = False) -> None:
    """End the search of a run early: its running trials end, then the best are confirmed and the arms retrained.

    Of a run that is not alive, the next start goes on to confirm. A larger --trials searches on later.
    """
    from nas_attn.cli.status import finish_run

    finish_run(run, say=typer.echo)


def clean(
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Folder with runs.")] = Path("runs"),
    dry_run: Annotated[bool, switch("--dry-run", help="Only show what would be deleted.")] = False,
    debug: Debug = False,
) -> int:
    """Delete what is not needed: checkpoints and temporary files of dead runs, decoded images, old folders of Ray.

    Nothing of a living run and no result is deleted. An interrupted training without its checkpoint begins anew.
    """
    from nas_attn.cli.status import print_cleaning

    return print_cleaning(folder, dry_run=dry_run)
