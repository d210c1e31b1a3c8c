"""The folder of a run: what a killed driver may leave in it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from nas_attn.errors import RunError, RunStopped
from nas_attn.files import write_whole
from nas_attn.run.folder import RunFolder


def leave_a_part(path: Path) -> Path:
    """Write half of a file as a process does that is killed there; return what it leaves."""
    found: list[Path] = []

    def cut_off(file: object) -> None:
        file.write(b"half")
        (part,) = path.parent.glob(".*.part")
        found.append(part.rename(part.with_name(part.name.replace(".part", "0.part"))))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, cut_off)
    return found[0]


def test_half_files_of_a_killed_driver_are_removed_by_the_next(tmp_path: Path) -> None:
    parts = [leave_a_part(tmp_path / "best.json"), leave_a_part(tmp_path / "retrained" / "x.safetensors")]
    (tmp_path / "report.part").write_text("of the user's own")
    assert all(part.exists() for part in parts)
    with RunFolder(tmp_path).locked():
        assert not any(part.exists() for part in parts)
    assert (tmp_path / "report.part").exists()


def test_a_driver_killed_in_its_first_write_leaves_a_folder_that_can_be_used(tmp_path: Path) -> None:
    leave_a_part(tmp_path / "config.json")
    RunFolder(tmp_path).refuse_foreign({})
    (tmp_path / "notes.txt").write_text("of the user's own")
    with pytest.raises(RunError, match=r"contains other files and no config\.json, so it is not a run"):
        RunFolder(tmp_path).refuse_foreign({})


def fails(number: int) -> object:
    def write(file: object) -> None:
        raise OSError(number, os.strerror(number))

    return write


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.get)
def test_a_disk_that_refuses_a_file_of_the_run_ends_it_with_a_sentence_that_names_the_file(tmp_path, number):
    said = rf"must be writable until its end, but: {os.strerror(number)}: \S+/retrained/x\. Make room or mend that; the"
    with pytest.raises(RunStopped, match=said), RunFolder(tmp_path).locked():
        write_whole(tmp_path / "retrained" / "x", fails(number))
    with RunFolder(tmp_path).locked():
        assert not list(tmp_path.rglob("*.part"))


def test_faults_of_other_files_and_of_other_kinds_are_not_the_run_folders(tmp_path):
    with pytest.raises(OSError, match="No space left") as other, RunFolder(tmp_path / "run").locked():
        write_whole(tmp_path / "cache", fails(errno.ENOSPC))
    assert other.value.filename == str(tmp_path / "cache")
    with pytest.raises(FileNotFoundError), RunFolder(tmp_path / "run").locked():
        (tmp_path / "run" / "missing").read_text()
