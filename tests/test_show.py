"""What only shows a run may fail: streams, display, report and log; signals and temporary folders."""

import io
import logging
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import RunCommand
from filelock import FileLock

from nas_attn.cli.commands import main
from nas_attn.cli.ending import print_error
from nas_attn.cli.streams import PIPE_CLOSED, OutputLost, Stream, writable
from nas_attn.errors import ConfigError, RunError, RunStopped, in_plain_words, of_system
from nas_attn.executors.loss import StartWatch
from nas_attn.executors.ray_session import messages_in_the_log
from nas_attn.executors.temporary import temporary_folder
from nas_attn.run.folder import load_run
from nas_attn.run.guarded import GuardedDisplay
from nas_attn.run.log import logged_to
from nas_attn.run.progress import SilentDisplay


class Broken(io.StringIO):
    """A terminal that has gone."""

    def write(self, text: str) -> int:
        raise OSError(28, "No space left on device")


def test_a_stream_writes_what_its_encoding_has_and_spells_the_rest() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert (
        writable("3\N{MULTIPLICATION SIGN}3 \N{HORIZONTAL ELLIPSIS} na\u00efve \u5b57", ascii_only) == "3x3 ... naive ?"
    )
    assert writable("\ud800 \u00e9", io.TextIOWrapper(io.BytesIO(), encoding="utf-8")) == "? \u00e9"


def test_a_full_disk_under_the_output_ends_a_listing_and_not_a_search() -> None:
    search, listing = Stream(Broken(), is_result=False), Stream(Broken(), is_result=True)
    assert search.write("progress") == 8
    assert search.reason == "No space left on device"
    with pytest.raises(OutputLost):
        listing.write("a line")


@pytest.mark.parametrize(
    ("redirection", "code", "words"),
    [("> /dev/full", 1, "No space left on device"), (">&-", 0, "^$"), ("2>&-", 0, "^$")],
)
def test_a_listing_without_an_output(redirection: str, code: int, words: str) -> None:
    command = f"exec {sys.executable} -m nas_attn schema {redirection}"
    found = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert found.returncode == code
    assert re.search(words, found.stderr)


def test_a_listing_whose_reader_has_gone_ends_as_the_signal_would() -> None:
    read, write = os.pipe()
    os.close(read)
    found = subprocess.run([sys.executable, "-m", "nas_attn", "schema"], stdout=write, stderr=subprocess.PIPE)
    os.close(write)
    assert (found.returncode, found.stderr) == (PIPE_CLOSED, b"")


def test_ctrl_c_while_a_command_works_is_130(tmp_path: Path) -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.SIG_DFL)  # nohup, which is respected, ignores it\n"
        "import sys, time, nas_attn.cli.lists as lists\n"
        "def wait(record): print('begun', file=sys.stderr, flush=True); time.sleep(30)\n"
        "lists.print_schema = wait\n"
        "from nas_attn.__main__ import main\n"
        "sys.exit("
    )
    for number, ending in ((signal.SIGINT, "main()"), (signal.SIGTERM, "main(['schema'])"), (signal.SIGHUP, "main()")):
        words = [sys.executable, "-c", f"{code}{ending})", "schema"]
        with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == "begun\n"
            begun = time.monotonic()
            process.send_signal(number)
            assert process.wait(10) == 130
            assert process.stderr.read() == "Interrupted.\n"
        assert time.monotonic() - begun < 2


def test_foreign_text_is_cleaned_and_cut() -> None:
    assert in_plain_words("a\x1b[31m\u202eb\nc\ud800") == "a?[31m?b c?"
    assert len(in_plain_words("word " * 100_000)) <= 400
    assert of_system(OSError(28, "No space left on device", "a\nb")) == "No space left on device: a b."


def test_an_unknown_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert print_error(ValueError("x\n" * 500_000), debug=False) == 1
    assert capsys.readouterr().err.count("\n") == 1


class Failing(SilentDisplay):
    """A display that fails at each stage."""

    def stage(self, name: str) -> None:
        raise RuntimeError("no terminal")


def test_a_display_that_fails_is_not_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    display = GuardedDisplay(Failing())
    with display:
        display.stage("search")
        display.stage("confirm")
    assert [record.message for record in caplog.records] == ["the display failed; the run is not affected"]


def test_a_log_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "log.txt").mkdir()
    with logged_to(tmp_path / "log.txt") as sentence:
        assert re.search(r"There is no log of this session, because .*log\.txt cannot be written: ", sentence or "")


def test_folders_of_dead_processes_are_removed_and_those_in_use_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    dead, alive = tmp_path / "nas_attn-tune-dead", tmp_path / "nas_attn-ray-alive"
    for folder in (dead, alive):
        folder.mkdir()
        (folder / "in-use").touch()
    with FileLock(alive / "in-use"), temporary_folder("tune") as mine:
        assert mine.parent == tmp_path
        assert not dead.exists()
        assert alive.exists()
    assert not mine.exists()


def test_a_temporary_folder_with_a_path_too_long_for_a_socket_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = tmp_path / ("x" * 100)
    long.mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    with temporary_folder("ray") as folder:
        assert not folder.is_relative_to(long)
    monkeypatch.setattr("nas_attn.executors.temporary._parents", lambda: [long])
    with pytest.raises(ConfigError, match=r"found only .*its path has \d+ letters"), temporary_folder("ray"):
        pass


def test_what_a_raylet_tells_the_driver_goes_to_the_log_and_not_to_the_terminal(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    from ray._private import worker

    printed = worker.print_to_stdstream
    message = {"lines": ["A worker died while executing a task.\n"], "pid": "raylet", "is_err": False}
    with caplog.at_level(logging.INFO, "nas_attn"), messages_in_the_log():
        worker.print_to_stdstream(message, ignore_prefix=False)  # as the thread calls it that listens to them
    assert capsys.readouterr() == ("", "")
    assert caplog.messages == ["Ray's raylet: A worker died while executing a task."]
    assert worker.print_to_stdstream is printed


def test_what_ray_raises_while_it_starts_is_one_sentence_and_the_log_has_its_own_words(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    logs = tmp_path / "session_2026-01-01_00-00-00_000000_1" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.out").write_text("first\n" * 20 + "the port is taken\n")
    (logs / "dashboard.log").write_text("of no interest\n")
    with pytest.raises(RunStopped, match=r"could not: no port\. The same command tries again"), StartWatch(tmp_path):
        raise RuntimeError("no port.\n")
    (words,) = caplog.messages
    assert words.startswith("The end of Ray's raylet.out:\nfirst\n")
    assert words.endswith("the port is taken")
    assert words.count("first") < 20


def test_ctrl_c_that_comes_in_code_made_from_text_is_130_too() -> None:
    code = (
        "import nas_attn.cli.lists as lists\n"
        "def interrupted(record): exec('raise KeyboardInterrupt')\n"
        "lists.print_schema = interrupted\n"
        "from nas_attn.__main__ import main\n"
        "raise SystemExit(main(['schema']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (130, "Interrupted.\n")


def test_a_training_module_that_leaves_at_its_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "leaves_at_import.py").write_text("import sys\nsys.exit('no arguments')\n")
    monkeypatch.chdir(tmp_path)
    shape = ["--num-classes", "3", "--in-channels", "1", "--image-size", "8"]
    assert main(["search", "--train", "leaves_at_import:train", "--out", "run", *shape]) == 2
    assert "must be importable, but it raised SystemExit: no arguments." in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_command_ends_although_a_thread_and_a_process_are_left(tmp_path: Path) -> None:
    (tmp_path / "left.py").write_text(
        "import multiprocessing, sys, threading, time\n"
        "from nas_attn.cli.ending import end_without_waiting\n"
        "if __name__ == '__main__':\n"
        "    threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "    child = multiprocessing.Process(target=time.sleep, args=(60,))\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    end_without_waiting(3, seconds=0.3)\n"
        "    sys.exit(3)\n"
    )
    begun = time.monotonic()
    ended = subprocess.run([sys.executable, tmp_path / "left.py"], stdout=subprocess.PIPE, text=True, timeout=50)
    assert time.monotonic() - begun < 40, "it waits for neither"
    assert ended.returncode == 3
    child = int(ended.stdout)
    with suppress(psutil.NoSuchProcess):
        while psutil.Process(child).status() != "zombie":
            assert time.monotonic() - begun < 45, "it has been killed"
            time.sleep(0.05)


@pytest.mark.parametrize("is_users", [False, True])
def test_a_command_ends_at_once_unless_python_has_to_complete_the_files_of_a_users_module(
    run_python: RunCommand, tmp_path: Path, is_users: bool
) -> None:
    (tmp_path / "mine.py").write_text(
        "left_open = open('mine.txt', 'w')\nleft_open.write('all of it')\ndef train(): left_open.write('more')\n"
    )
    ended = run_python(
        "-c",
        "import atexit, os, sys, nas_attn.__main__ as command\n"
        "class Kept:\n"
        "    def __del__(self, write=os.write): write(1, b'taken apart')\n"
        "kept = Kept()\n"
        "atexit.register(print, 'ended', end=' ', flush=True)\n"
        f"{'import mine' if is_users else ''}\n"
        "sys.argv = ['nas-attn', 'init', '--help']\n"
        "sys.exit(command.main())\n",
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == ("ended taken apart" if is_users else "ended ")
    if is_users:
        assert (tmp_path / "mine.txt").read_text() == "all of it"


def test_a_deleted_working_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["sites", "resnet18"]) == 2
    assert "The working folder must exist, but " in capsys.readouterr().err


@pytest.mark.parametrize(("path", "reason"), [
    ("y" * 300, "File name too long"),
    ("y/" * 2020 + "z", "File name too long"),
    ("a\0b", "null byte"),
])  # fmt: skip
def test_a_path_that_no_folder_can_have_is_refused_in_one_sentence(path: str, reason: str) -> None:
    with pytest.raises(RunError, match=rf"A run needs a folder that .*: .*{reason}.*\. Choose another\.$"):
        load_run(path)
