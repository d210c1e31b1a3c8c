"""Whole writes, digests, and the user's cache folder with keys that cover the code."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import threading
from pathlib import Path
from typing import IO

import pytest

from nas_attn import files
from nas_attn.files import cache_path, code_digest, write_whole


def test_it_lies_where_the_user_or_the_platform_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_path("sites", "a.json") == tmp_path / "nas_attn" / "sites" / "a.json"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "linux")
    assert cache_path("sites") == Path.home() / ".cache" / "nas_attn" / "sites"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert cache_path("sites") == Path.home() / "Library" / "Caches" / "nas_attn" / "sites"


def test_a_machine_without_a_home_folder_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert cache_path("sites") is None


def test_a_file_that_many_write_at_once_is_always_whole(tmp_path: Path) -> None:
    path, size = tmp_path / "inner" / "table", 1 << 16
    contents = [bytes([number]) * size for number in range(6)]
    write_whole(path, lambda file: file.write(contents[0]))
    ends = threading.Barrier(len(contents) + 1)

    def keep_writing(content: bytes) -> None:
        for _ in range(40):
            write_whole(path, lambda file: [file.write(content[:1]) for _ in range(16)] + [file.write(content[16:])])
        ends.wait()

    writers = [threading.Thread(target=keep_writing, args=(content,)) for content in contents]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers) and ends.n_waiting < len(contents):
        assert path.read_bytes() in contents
    ends.wait()
    assert [file.name for file in path.parent.iterdir()] == ["table"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt("Ctrl-C")], ids=repr)
def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "table"
    path.write_bytes(b"before")

    def cut_off(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(type(error), match=str(error.args[-1])):
        write_whole(path, cut_off)
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("table", b"before")]


def test_a_folder_that_cannot_be_made_is_an_error_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file where a folder should be")
    with pytest.raises(OSError, match=os.strerror(errno.EEXIST)):
        write_whole(tmp_path / "file" / "table", lambda file: file.write(b"x"))


@pytest.mark.parametrize("edited", ["macs.py", "placement.py", "registry.py", "backbones/places/plain.py"])
def test_the_digest_of_the_code_covers_a_room_and_the_ground(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: Path, edited: str
) -> None:
    package = tmp_path / "nas_attn"
    shutil.copytree(root / "nas_attn", package)
    before = code_digest("backbones")
    with monkeypatch.context() as patched:
        patched.setattr(files, "_PACKAGE", package)
        (package / "data" / "folder.py").write_text("")  # another room of the same floor
        code_digest.cache_clear()
        assert code_digest("backbones") == before
        with (package / edited).open("a") as file:
            file.write("\n")
        code_digest.cache_clear()
        assert code_digest("backbones") != before
    code_digest.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_edit_of_the_code_that_counts_is_seen_behind_the_cache(tmp_path: Path, root: Path, run_python) -> None:
    """Each count is made in a fork of a process that has imported other people's packages alone."""
    shutil.copytree(root / "nas_attn", tmp_path / "nas_attn")
    code = """
import os, sys, torch, torchvision
from pathlib import Path
counter = Path("nas_attn/macs.py")
for factor in ("", " * 1000"):
    counter.write_text(counter.read_text().replace("get_total_flops()) // 2", "get_total_flops()) // 2" + factor))
    if not os.fork():
        from nas_attn.backbones.site_table import site_table
        print(site_table("lenet", num_classes=10, in_channels=1, image_size=32).n_macs, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
    assert "nas_attn" not in sys.modules
"""
    paths = {"PYTHONPATH": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": "1"}
    done = run_python("-c", code, env=paths)
    before, after = map(int, done.stdout.split())
    assert after == 1000 * before > 0, done.stderr
