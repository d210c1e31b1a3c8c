"""Rows of the kill matrix without a signal: damaged files, a full disk, a database in trouble, a clock moved.

They use the executor `local`: what they test is the driver's. Every row begins with a copy of one finished run, or of
one that was interrupted, and repeats its command.
"""

from __future__ import annotations

import ctypes
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from forked import ForkedCommand
from run_log import events
from tiny_run import (
    BEST,
    BUDGET,
    HUNG_SECONDS,
    SENTENCE,
    Trained,
    Wrong,
    code_of,
    completed,
    finish,
    last_line,
    left_by,
    look_at,
    spoken,
    start,
    text_of,
    times_trained,
)

from nas_attn import load_run

REFUSED = 2
LOCKED_SECONDS = 6.0
WAYS = ("truncated", "emptied", "altered", "deleted")
_NEW_MOUNTS = 0x00020000
"""CLONE_NEWNS, see unshare(2)."""

_PASSED_OVER = ("driver.lock",)
_OF_TRAININGS = ("predictions", "retrained")
"""Folders with a file for each retraining, and their checksums."""

_CHECKSUMS = "SHA256SUMS"
_SAID = "these trainings were repeated"


def copy_of(template: Path, folder: Path) -> None:
    """Copy the run of a template into a row's folder."""
    shutil.copytree(template / "run", folder / "run")


def damaged_files(run: Path) -> list[str]:
    """Return one file of each suffix in each folder of a run; there is a row for each of these and of `WAYS`."""
    files = sorted(path.relative_to(run) for path in run.rglob("*") if path.is_file())
    alike = {(path.parent, path.suffix, path.name if path.parent == Path() else ""): path for path in files}
    return [path.as_posix() for path in alike.values() if path.name not in _PASSED_OVER]


def damage(path: Path, way: str, draw: random.Random) -> None:
    """Damage a file in one of `WAYS`."""
    content = path.read_bytes()
    if way == "deleted":
        path.unlink()
    elif way == "emptied":
        path.write_bytes(b"")
    elif way == "truncated":
        path.write_bytes(content[: draw.randrange(1, max(2, len(content)))])
    else:
        changed = bytearray(content)
        for _ in range(min(8, len(content))):
            changed[draw.randrange(len(content))] ^= 0xFF
        path.write_bytes(bytes(changed))


def with_damage(folder: Path, name: str, way: str, draw: random.Random) -> Wrong:
    """Damage a file and repeat the command: it must mend the run, or refuse in one sentence that names the file."""
    before, lost = completed(events(folder / "run" / "log.txt")), trainings_of(folder / "run", name)
    damage(folder / "run" / name, way, draw)
    code, wrong = finish(folder, "local", (0, REFUSED))
    if code == REFUSED:
        named = name.split("/")[-1].split(".")[0]
        if named not in last_line(folder) and "ledger" not in last_line(folder):
            wrong.setdefault(SENTENCE, f"the refusal does not name {name}: {last_line(folder)}")
        return wrong
    return {**look_at(folder / "run", before, lost), **wrong, **_repeated(folder, name, lost)}


def trainings_of(run: Path, name: str) -> frozenset[Trained]:
    """Return the retrainings whose stored results a file holds or proves: they are repeated where it is damaged."""
    path = Path(name)
    if path.parent.name not in _OF_TRAININGS:
        return frozenset()
    return frozenset(
        (row.stage, row.key, row.seed)
        for row in load_run(run).retrain
        if path.name == _CHECKSUMS or (row.state == "complete" and path.stem == f"{row.key}-{row.seed}-{row.epochs}")
    )


def _repeated(folder: Path, name: str, lost: frozenset[Trained]) -> Wrong:
    """Return what is wrong if the training of a damaged file was not repeated, or the user was not told of it."""
    if not lost or name.endswith(_CHECKSUMS):
        return {}
    times = times_trained(load_run(folder / "run"))
    if any(times[training] != 2 for training in lost):
        return {BUDGET: f"the training of {name} was not repeated"}
    return {} if _SAID in text_of(folder) else {SENTENCE: "no sentence says that a training was repeated"}


_ALTERED = {
    "of a newer schema": "UPDATE alembic_version SET version_num = 'v99.0.0.a'",
    "of newer tables": "UPDATE version_info SET schema_version = 99",
    "of an older schema": "UPDATE alembic_version SET version_num = 'v2.6.0.a'",
    "of older tables": "UPDATE version_info SET schema_version = 11",
    "without its tables": "DROP TABLE trials",
}
"""Statements after which the ledger cannot be used."""


def with_database(folder: Path, trouble: str, draw: random.Random) -> Wrong:
    """Bring the database in trouble and repeat the command."""
    database = folder / "run" / "study.db"
    before = completed(events(folder / "run" / "log.txt"))
    allowed: tuple[int, ...] = (0, REFUSED)
    if trouble == "locked":
        return _while_locked(folder, database)
    if trouble in _ALTERED:
        _alter(database, _ALTERED[trouble])
        allowed = (REFUSED,)
    else:  # scribbled
        content = bytearray(database.read_bytes())
        for _ in range(64):
            content[draw.randrange(100, len(content))] = draw.randrange(256)
        database.write_bytes(bytes(content))
    code, wrong = finish(folder, "local", allowed)
    return wrong if code == REFUSED else {**look_at(folder / "run", before), **wrong}


def _alter(database: Path, statement: str) -> None:
    connection = sqlite3.connect(database)
    connection.execute(statement)
    connection.commit()
    connection.close()


_HOLDER = """
import sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""


def _while_locked(folder: Path, database: Path) -> Wrong:
    """Repeat the command while another program has locked the database for some seconds: it waits."""
    words = [sys.executable, "-c", _HOLDER, str(database), str(LOCKED_SECONDS)]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        command = start(folder, "local")
        code = code_of(command)
    wrong = left_by(command) | spoken(folder)
    if code:
        wrong[SENTENCE] = f"ended with {code}: {last_line(folder)}"
    return {**look_at(folder / "run", []), **wrong}


def with_clock_moved(folder: Path, days: float) -> Wrong:
    """Repeat the command with the clock moved."""
    before = completed(events(folder / "run" / "log.txt"))
    code = f"import time\nnow = time.time\ntime.time = lambda: now() + {days * 86_400}\n"
    command = start(folder, "local", before=code)
    wrong = left_by(command) if code_of(command) == 0 else {SENTENCE: last_line(folder)}
    return {**look_at(folder / "run", before), **wrong, **spoken(folder)}


def can_mount() -> bool:
    """Return whether this process may mount a file system of its own: root may, where nothing forbids it."""
    words = ["unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt"]
    return (
        os.geteuid() == 0
        and shutil.which("unshare") is not None
        and subprocess.run(words, capture_output=True).returncode == 0
    )


def on_full_disk(folder: Path, kilobytes: int) -> Wrong:
    """Run on a disk of this size, then repeat the command with room enough."""
    small, large = f"mount -t tmpfs -o size={kilobytes}k none run", "mount -o remount,size=256m run"
    return _mounted(folder, small, large, (0, 1, 2))


def on_read_only_folder(folder: Path) -> Wrong:
    """Repeat the command on a run that cannot be written, then on one that can."""
    read_only = "mount --bind run run && mount -o remount,ro,bind run"
    return _mounted(folder, read_only, "mount -o remount,rw,bind run", (0, REFUSED))


def _mounted(folder: Path, mount: str, mend: str, allowed: tuple[int, ...]) -> Wrong:
    """Run the command twice in a mount name space: after `mount`, and after `mend`."""
    (folder / "run").mkdir(exist_ok=True)
    command = ForkedCommand(partial(_in_name_space, folder, mount, mend), folder, folder / "shell.txt")
    if code_of(command, 3 * HUNG_SECONDS):
        return {BEST: f"the rows' own script: {(folder / 'shell.txt').read_text(errors='replace')[-300:]}"}
    first = (folder / "first.txt").read_text(errors="replace")
    codes = json.loads((folder / "codes.json").read_text())
    wrong = left_by(command)
    if codes[0] not in allowed or "Traceback" in first or "(--debug" in first:
        wrong[SENTENCE] = f"ended with {codes[0]}: {first.strip().splitlines()[-1:]}"
    if codes[1]:
        return {BEST: f"the repeated command: {last_line(folder)}", **wrong}
    return {**look_at(folder / "kept", completed(events(folder / "kept" / "log.txt"))), **wrong}


def _in_name_space(folder: Path, mount: str, mend: str) -> int:
    """Run the command twice in a mount name space of this process, and copy the run out of it."""
    if ctypes.CDLL(None, use_errno=True).unshare(_NEW_MOUNTS):
        raise OSError(ctypes.get_errno(), "no mount name space")
    codes = []
    for script, output in ((f"mount --make-rprivate / && {mount}", "first.txt"), (mend, "second.txt")):
        subprocess.run(["sh", "-c", script], check=True)
        command = start(folder, "local")
        while command.process.poll() is None and not codes and "waiting" not in text_of(folder):
            time.sleep(0.1)
        if command.process.poll() is None and not codes:  # it waits for room in its database, and goes on
            subprocess.run(["sh", "-c", mend], check=True)
        codes.append(code_of(command))
        shutil.copy(folder / "output.txt", folder / output)
    (folder / "codes.json").write_text(json.dumps(codes))
    subprocess.run(["cp", "-a", "run", "kept"], check=True)
    return 0


TROUBLES: tuple[str, ...] = ("locked", "scribbled", *_ALTERED)
Row = Callable[[Path], Wrong]


def rows(template: Path, interrupted: Path, draw: random.Random, n_files: int) -> list[tuple[str, str, Row]]:
    """Return the rows: group, name, and what to do in an empty folder.

    Args:
        template, interrupted: Folders with a finished run, and with one that was interrupted.
        n_files: Number of rows that damage a file, drawn from all files and ways.
    """

    def of(source: Path | None, act: Callable[[Path], Wrong]) -> Row:
        def row(folder: Path) -> Wrong:
            if source is not None:
                copy_of(source, folder)
            return act(folder)

        return row

    found: list[tuple[str, str, Row]] = []
    of_files: list[tuple[str, str, Row]] = []
    for state, source in (("finished", template), ("interrupted", interrupted)):
        for name in damaged_files(source / "run"):
            for way in WAYS:
                seed = draw.random()
                act = partial(with_damage, name=name, way=way, draw=random.Random(seed))
                of_files.append((f"a file {way}, {state} run", name, of(source, act)))
        for trouble in TROUBLES:
            act = partial(with_database, trouble=trouble, draw=random.Random(1))
            found.append((f"database {trouble}, {state} run", trouble, of(source, act)))
    for days in (-1.0, 1.0):
        act = partial(with_clock_moved, days=days)
        found.append(("clock moved by a day, interrupted run", f"{days:+.0f}", of(interrupted, act)))
    if can_mount():
        for size in sorted(draw.sample(range(40, 1600, 20), 6)):
            found.append(("disk full, new run", f"{size} kB", of(None, lambda folder, k=size: on_full_disk(folder, k))))
        found += [("folder read-only", "finished", of(template, on_read_only_folder))]
        found += [("folder read-only", "interrupted", of(interrupted, on_read_only_folder))]
    chosen = sorted(draw.sample(range(len(of_files)), min(n_files, len(of_files))))
    return [*found, *(of_files[number] for number in chosen)]
