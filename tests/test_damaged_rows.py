"""A row that an older version or another program has spoilt is left out with a note, and the run goes on."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from runs import tiny_space

import nas_attn
from nas_attn.run.folder import load_run

SETTINGS = {"trials": 3, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "cpus_per_trial": 1, "executor": "local"}
SHAPE = {"num_classes": 10, "in_channels": 1, "image_size": 8}
OF_TRIAL = (
    "trial_id = (select trial_id from trials where number = 1 and study_id = "
    "(select study_id from studies where study_name = 'search'))"
)


def training(model, run):
    run.report(1, 0.5)
    return 0.5


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    nas_attn.search(tiny_space(folder), train=training, out=folder / "run", **SETTINGS, **SHAPE)
    return folder / "run"


@pytest.mark.parametrize(("change", "values", "words"), [
    ("update trial_intermediate_values set step = ?", (b"\x01\x00",), "the epoch of a value must be a whole number"),
    ("update trial_intermediate_values set step = ?", ("one",), "the epoch of a value must be a whole number"),
    ("update trial_values set value_type = ?", ("INF_POS",), "its values must be finite numbers"),
    ("update trial_values set value_type = ?", ("FINITE-",), "a value has no kind"),
    ("update trial_intermediate_values set intermediate_value_type = ?", ("x",), "a value has no kind 'x'"),
    ("update trials set state = ? where number = 1 and", ("DONE",), "there is no state 'DONE'"),
    ("delete from trial_user_attributes where key = 'attentions' and", (), "attentions"),
    ("update trial_user_attributes set value_json = ? where key = 'epochs' and", ('"x"',), "must be whole numbers"),
    ("update trial_user_attributes set value_json = ? where key = 'key' and", ("3",), "must be words"),
    ("update trial_user_attributes set value_json = ? where key = 'seconds' and", ('"long"',), "finite numbers"),
    ("update trial_user_attributes set value_json = ? where key = 'seed' and", ("{",), "attribute 'seed' cannot be"),
])  # fmt: skip
def test_a_spoilt_row_is_left_out_and_named_and_the_others_are_read(change, values, words, finished, caplog):
    database = finished / "study.db"
    before = database.read_bytes()
    connection = sqlite3.connect(database)
    connection.execute(f"{change} {'' if change.endswith('and') else 'where '}{OF_TRIAL}", values)
    connection.commit()
    connection.close()
    try:
        run = load_run(finished)
        assert [row.number for row in run.search] == [0, 2]
        assert run.remarks == ("Damaged trials of 'search' are left out: number 1.",)
        assert "Trial 1 of 'search' is damaged and left out" in caplog.text
        assert words in caplog.text
    finally:
        database.write_bytes(before)


def test_the_command_goes_on_and_trains_the_spoilt_trial_again(finished):
    connection = sqlite3.connect(finished / "study.db")
    connection.execute(f"update trial_intermediate_values set step = 'one' where {OF_TRIAL}")
    connection.commit()
    connection.close()
    run = nas_attn.search(finished.parent / "tiny.toml", train=training, out=finished, **SETTINGS, **SHAPE)
    assert [row.number for row in run.search] == [0, 2, 3]
    assert {row.state for row in run.search} == {"complete"}
