"""A run is continued by the training that it was begun with, or by the user's word that another one is the same."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from pathlib import Path

import pytest
from own_runs import no_report, run, write_no_report

from nas_attn.errors import ConfigError, RunError, RunStopped
from nas_attn.files import with_digest

pytestmark = pytest.mark.usefixtures("no_report")
__all__ = ["no_report"]


def fit(model: object, run: object, value: float = 0.1) -> float:
    return value


def broken(model: object, run: object) -> float:
    raise ValueError("not yet")


def stored(folder: Path) -> dict[str, object]:
    return json.loads((folder / "config.json").read_text())


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run, which the tests copy."""
    with pytest.MonkeyPatch.context() as patch:
        write_no_report(patch)
        return run(functools.partial(fit, value=0.1), tmp_path_factory.mktemp("finished") / "run").folder


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_another_training_is_refused_by_its_difference_and_continued_by_the_users_word(out: Path) -> None:
    before = (out / "config.json").read_bytes()
    with pytest.raises(RunError, match=r"with another training: argument .value. was 0\.1, now 0\.9\. .*--same-"):
        run(functools.partial(fit, value=0.9), out, trials=2)
    assert (out / "config.json").read_bytes() == before
    after = run(functools.partial(fit, value=0.9), out, trials=2, same_training=True)
    assert sorted({row.value for row in after.search}) == [0.1, 0.9]
    assert stored(out)["contents"]["train"]["parts"]["argument 'value'"] == "0.9"
    assert "continued with another training: argument 'value'" in (out / "log.txt").read_text()


def test_a_run_without_any_value_is_continued_by_a_mended_training(tmp_path: Path) -> None:
    def training(model: object, run: object) -> float:
        return broken(model, run) if is_broken else 0.5

    is_broken = True
    with pytest.raises(RunStopped, match="not yet"):
        run(training, tmp_path / "run", trials=9)
    is_broken = False
    assert {row.value for row in run(training, tmp_path / "run").search if row.value} == {0.5}


def test_a_run_of_an_older_version_is_continued_with_a_note(out: Path) -> None:
    config = stored(out)
    del config["contents"], config["digest"]
    (out / "config.json").write_text(json.dumps(config))
    run(functools.partial(fit, value=0.1), out)
    assert "did not record its training by content" in (out / "log.txt").read_text()
    assert "contents" in stored(out)


def test_what_a_training_counts_does_not_make_it_another_one(tmp_path: Path) -> None:
    seen: list[str] = []

    def training(model: object, run: object) -> float:
        seen.append(run.stage)
        return 0.5

    run(training, tmp_path / "run")
    assert len(run(training, tmp_path / "run", trials=2).search) == 2


def test_an_edited_configuration_is_refused(out: Path) -> None:
    config = {**stored(out), "seed": 7}
    (out / "config.json").write_text(json.dumps(config))
    with pytest.raises(RunError, match=r"config\.json must be as the search wrote it, but was altered"):
        run(functools.partial(fit, value=0.1), out)
    (out / "config.json").write_text(json.dumps(with_digest({**config, "seed": 0})))
    assert run(functools.partial(fit, value=0.1), out).best is not None


def test_what_cannot_reach_the_workers_is_refused_by_name_and_nothing_is_written(tmp_path: Path) -> None:
    lock = threading.Lock()

    def training(model: object, run: object, also: object = None) -> float:
        with lock:
            return 0.5

    with pytest.raises(ConfigError, match=r"The training must be pickled .*closure 'lock' \(lock\)") as caught:
        run(training, tmp_path / "run", executor="tune")
    assert caught.value.exit_code == 2
    with pytest.raises(ConfigError, match=r"closure 'lock' \(lock\), in the function \(function\)"):
        run(functools.partial(training, also=1), tmp_path / "run", executor="tune")
    assert not (tmp_path / "run").exists()
