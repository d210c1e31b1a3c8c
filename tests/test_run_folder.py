"""The folder of a run: what a killed driver may leave in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_attn.errors import RunError
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
