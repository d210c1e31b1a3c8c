"""Nothing that a run folder, a model file, weights or a space file holds is executed by what reads it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from nas_attn import load_model, load_run
from nas_attn.__main__ import main
from nas_attn.errors import NasAttnError
from nas_attn.files import with_digest
from nas_attn.space.search_space import SearchSpace

OLD = Path(__file__).parent / "old_runs" / "finished"
TRAP = "trap_of_this_test"


class Payload:
    """What a pickle runs when it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {TRAP}.executed",)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a working folder with a module that says when it is imported."""
    (tmp_path / f"{TRAP}.py").write_text(
        f"open({str(tmp_path / (TRAP + '.executed'))!r}, 'w').close()\n"
        "def net(*arguments, **options): raise SystemExit('executed')\n"
        "train = net\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def altered(folder: Path, file: str, change: Callable[[dict[str, Any]], Any]) -> Path:
    """Return a run whose file was changed by somebody who knows how to make its digest."""
    run = folder / "run"
    shutil.copytree(OLD, run)
    content = json.loads((run / file).read_text())
    change(content)
    content.pop("digest", None)
    (run / file).write_text(json.dumps(with_digest(content)))
    return run


def read_in_every_way(run: Path) -> None:
    """Read a run by each command and function that reads one; what they say of it is not at issue here."""
    for words in (
        ["status", str(run)], ["runs", str(run.parent)], ["best", str(run)], ["predict", str(run), str(run)],
        ["finish", str(run)], ["clean", str(run)],
    ):  # fmt: skip
        assert main(words) in (0, 1, 2), words
    for read in (load_run, load_model, lambda path: load_model(path / "best.json")):
        try:
            read(run)
        except NasAttnError:
            continue


def assert_nothing_ran(folder: Path) -> None:
    assert not (folder / f"{TRAP}.executed").exists()
    assert TRAP not in sys.modules


@pytest.mark.parametrize("key", ["import", "own", "name"])
def test_a_model_file_that_names_a_function(folder: Path, key: str) -> None:
    run = altered(folder, "best.json", lambda best: best.update(backbone={"name": "net", key: f"{TRAP}:net"}))
    read_in_every_way(run)
    assert_nothing_ran(folder)


def test_a_record_of_a_run_that_names_a_training_a_network_data_and_callbacks(folder: Path) -> None:
    def change(config: dict[str, Any]) -> None:
        config.update(train=f"{TRAP}:train", callback=[f"{TRAP}:train"], callbacks=[f"{TRAP}:train"])
        config["space"]["backbone"] = {"name": "net", "import": f"{TRAP}:net"}
        config["data"]["name"] = f"{TRAP}:net"
        config.setdefault("engine", {})["sampler"] = f"{TRAP}:net"

    run = altered(folder, "config.json", change)
    read_in_every_way(run)
    assert main(["retrain", str(run), "--dry-run", "--epochs", "0"]) == 2
    assert_nothing_ran(folder)


def test_a_pickle_in_place_of_weights_predictions_and_checkpoints(folder: Path) -> None:
    content = pickle.dumps(Payload())
    run = altered(folder, "best.json", lambda best: best["weights"].update(sha256=sha256(content).hexdigest()))
    rows = [row for row in load_run(run).retrain if row.state == "complete"]
    names = [f"predictions/{row.key}-{row.seed}-{row.epochs}.npz" for row in rows]
    assert names
    for name in ("best.safetensors", "checkpoints/search-1.checkpoint", *names):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_bytes(content)
    read_in_every_way(run)
    assert_nothing_ran(folder)


def test_a_space_file_is_read_without_what_it_names(folder: Path) -> None:
    odd = f"__import__('os').system('touch {TRAP}.executed')"
    file = folder / "odd.toml"
    file.write_text(
        f'title = "{{{{ {odd} }}}} $(touch {TRAP}.executed) `touch {TRAP}.executed`"\n'
        f'[backbone]\nimport = "{TRAP}:net"\n'
        f'[[sites]]\nmatch = ["{odd}", "**"]\nattentions = ["se"]\n'
    )
    space = SearchSpace.load(str(file))
    assert odd in space.to_dict()["title"]
    assert_nothing_ran(folder)
    assert main(["search", "--space", str(file), "--dry-run", "--no-such-option"]) == 2
    assert_nothing_ran(folder)
