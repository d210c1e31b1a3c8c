"""The analysis script: the effects of sites over several runs."""

from __future__ import annotations

import csv
import importlib.util
import io
import re
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from synthetic_run import make_run

from nas_attn.errors import RunError
from nas_attn.records import RunRecord


@pytest.fixture
def script(root: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_importance", root / "analysis" / "site_importance.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def runs(monkeypatch: pytest.MonkeyPatch, script: ModuleType, found: dict[str, RunRecord]) -> None:
    def load_run(folder: Path) -> RunRecord:
        if str(folder) not in found:
            raise RunError(f"{folder} is no run folder: it has no config.json.")
        return found[str(folder)]

    monkeypatch.setattr(script, "load_run", load_run)


def test_planted_effect_leads_the_table_of_two_runs(script, monkeypatch, capsys, tmp_path):
    effect = {("denseblock2", "se"): 0.012}
    easy = make_run(effects=effect, n_trials=60, noise=0.001, seed=1)
    hard = make_run(effects=effect, n_trials=60, noise=0.001, seed=2)
    # the second run's data are harder by 30 points: only differences within a run may count
    hard = replace(hard, search=tuple(replace(t, value=t.value - 0.3) if t.value else t for t in hard.search))
    runs(monkeypatch, script, {"a": easy, "b": hard})
    assert script.main(["a", "b", "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("trials of 2 run(s); effects on validation accuracy in points")
    assert lines[2].split()[:2] == ["denseblock2", "se"]
    assert lines[2].endswith("*")
    assert "1 of 20 effects is clear: its sign is right with 95 % probability." in lines
    rows = list(csv.DictReader(io.StringIO((tmp_path / "site_importance.csv").read_text())))
    row = next(row for row in rows if (row["sites"], row["attention"]) == ("denseblock2", "se"))
    assert float(row["low"]) < 0.012 < float(row["high"])
    assert [row["clear"] for row in rows].count("1") == int(row["clear"]) == 1
    assert (tmp_path / "site_importance.svg").exists()
    assert (tmp_path / "site_importance.png").exists()


def test_folder_that_is_no_run_is_refused_in_one_sentence(script, monkeypatch, capsys, tmp_path):
    runs(monkeypatch, script, {})
    assert script.main(["nowhere", "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "nowhere is no run folder: it has no config.json.\n"
    assert not list(tmp_path.iterdir())


def test_few_trials_say_so_below_the_table(script, monkeypatch, capsys, tmp_path):
    runs(monkeypatch, script, {"a": make_run(effects={}, n_trials=24)})
    assert script.main(["a", "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"\nToo few trials to tell sites apart \(20\): about \d+0 would, if effects are as large as", out)
    assert "*" not in out


def test_runs_without_a_measured_attention_say_so(script, monkeypatch, capsys, tmp_path):
    run = make_run()
    runs(monkeypatch, script, {"a": replace(run, search=run.search[:1])})
    assert script.main(["a", "--out", str(tmp_path)]) == 1
    assert "but have 1 complete trials that allow no estimate: run more trials." in capsys.readouterr().err


def test_help_says_what_the_script_asks(script, capsys):
    with pytest.raises(SystemExit, match="0"):
        script.main(["--help"])
    assert "Which sites, and which attentions there, matter" in capsys.readouterr().out
