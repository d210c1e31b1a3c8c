"""The output of `nas-attn status`, `runs`, `finish` and `clean`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.table import Table
from rich.text import Text

from nas_attn.cli.lists import console_of
from nas_attn.errors import ConfigError, RunError
from nas_attn.report.words import duration
from nas_attn.run.cleaning import delete, waste_below
from nas_attn.run.driver import ask_to_finish, living_driver
from nas_attn.run.folder import RunFolder
from nas_attn.run.status import RunStatus, runs_below, status_of

_WATCH_SECONDS = 2.0
_CLEAR = "\x1b[H\x1b[2J"


def print_status(run: Path, *, watch: bool, as_json: bool) -> None:
    """Print the state of a run on one screen; `watch` repeats it until the run ends.

    Raises: RunError if the folder is no run; ConfigError for a stream of JSON objects.
    """
    if watch and as_json:
        raise ConfigError("'--watch' shows a screen, and '--json' prints one object: leave one of them out.")
    while True:
        found = status_of(run)
        if as_json:
            print(json.dumps(found.to_dict(), indent=2, ensure_ascii=False))
        else:
            print((_CLEAR if watch and sys.stdout.isatty() else "") + "\n".join(status_lines(found)), flush=True)
        if not watch or found.driver is None:
            return
        time.sleep(_WATCH_SECONDS)


def status_lines(found: RunStatus) -> list[str]:
    """Return the state of a run as lines of text."""
    driver = found.driver
    lines = [f"{found.folder}: {found.state}, {_where(found)}"]
    for stage, count in found.counts.items():
        of = f" of {found.asked}" if stage in ("search", "control") and found.asked is not None else ""
        more = [f"{count.running} running"] * bool(count.running) + [f"{count.failed} failed"] * bool(count.failed)
        more += [f"{count.answered} answered from the ledger"] * bool(count.answered)
        lines.append(f"  {stage:<8} {', '.join([f'{count.done}{of} done', *more])}")
    if found.best is not None:
        lines.append(f"  best     {found.best[0]:.4f} on validation: {found.best[1]}")
    if driver is not None:
        busy = sum(count.running for count in found.counts.values()) or driver.running
        left = "not known yet" if found.seconds_left is None else f"about {duration(found.seconds_left)}"
        lines.append(f"  left     {left}; {busy} of {driver.workers} workers busy")
        lines.append(f"  driver   process {driver.pid} on {driver.host}")
        lines += ["  ending   the search was asked to end"] if found.is_ending else []
    elif found.state == "finished":
        lines.append(f"  result   {found.best_label}; `nas-attn best {found.folder}` says more")
    else:
        lines += ["  ending   the next start goes on to confirm"] if found.is_ending else []
        lines.append(f"  resume   {found.command or 'the command that began it'}")
    return lines


def _where(found: RunStatus) -> str:
    ago = f"changed {duration(found.age)} ago"
    if found.state == "finished":
        return ago
    return f"in stage {found.stage}, {ago}" if found.state == "running" else f"stopped in stage {found.stage}, {ago}"


def print_runs(folder: Path, *, as_json: bool) -> None:
    """Print all runs below a folder. Raises: ConfigError if there is no such folder."""
    if not folder.is_dir():
        raise ConfigError(f"The runs below a folder are listed, but {folder} is none.")
    found = [_status_or_reason(path) for path in runs_below(folder)]
    if as_json:
        plain = [
            one.to_dict() if isinstance(one, RunStatus) else {"folder": str(one[0]), "state": one[1]} for one in found
        ]
        print(json.dumps(plain, indent=2, ensure_ascii=False))
        return
    if not found:
        print(f"There is no run below {folder}.")
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("run", "state", "best", "age"):
        table.add_column(name, justify="right" if name in ("best", "age") else "left")
    for one in found:
        if isinstance(one, RunStatus):
            state = one.state if one.state == "finished" else f"{one.state} in {one.stage}"
            best = "-" if one.best is None else f"{one.best[0]:.4f}"
            table.add_row(*map(Text, (str(one.folder), state, best, duration(one.age))))
        else:
            table.add_row(*map(Text, (str(one[0]), one[1], "-", "-")))
    console_of(160).print(table)


def _status_or_reason(run: Path) -> RunStatus | tuple[Path, str]:
    """Return the state of a run, or its folder with the reason why it cannot be read."""
    try:
        return status_of(run)
    except RunError as error:
        return run, f"not readable: {error}"


def finish_run(run: Path, *, say: Callable[[str], object]) -> None:
    """Ask the driver of a run, or its next one, to end the search. Raises: RunError if the folder is no run."""
    RunFolder(run).read_config()
    found = status_of(run)
    if found.state == "finished":
        say(f"{run} is finished: there is nothing to end.")
        return
    if found.counts["confirm"].done or found.counts["confirm"].running:
        say(f"The search of {run} has ended already; the run is at stage {found.stage}.")
        return
    try:
        ask_to_finish(run)
    except OSError as error:
        raise RunError(f"{run} must be writable to end its search, but: {error.strerror}.") from error
    if living_driver(run) is not None:
        say(f"The search of {run} ends when its running trials have; then the best are confirmed and retrained.")
    else:
        say(f"No driver of {run} is alive; the next start goes on to confirm: {found.command or 'repeat its command'}")


def print_cleaning(folder: Path, *, dry_run: bool) -> int:
    """Print what can be deleted below a folder, and delete it; return the exit code.

    Raises: ConfigError if there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"The runs below a folder are cleaned, but {folder} is none.")
    found = waste_below(folder)
    for waste in found:
        print(f"{_bytes(waste.n_bytes):>10}  {waste.path}  ({waste.what})")
    total = _bytes(sum(waste.n_bytes for waste in found))
    if dry_run or not found:
        print(f"{len(found)} can be deleted, {total} in all; nothing was deleted.")
        return 0
    deleted, refused = delete(found)
    for sentence in refused:
        print(sentence, file=sys.stderr)
    print(f"{len(deleted)} deleted, {_bytes(sum(waste.n_bytes for waste in deleted))} in all.")
    return 1 if refused else 0


def _bytes(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:,.1f} KiB"
