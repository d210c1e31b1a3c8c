"""Settings are written once: what is derived from their models, and the one sentence for a refused value."""

from __future__ import annotations

import re
from typing import Annotated

import pytest
from pydantic import Field as Rule

from nas_attn.config import Budget, DataConfig, Recipe, before_settings, settings, table_model
from nas_attn.errors import ConfigError, SpaceError
from nas_attn.validation import Setting, Strict, fields_of, validate


@pytest.mark.parametrize(
    ("model", "values", "sentence"),
    [
        (Recipe, {"epochs": 0}, "'epochs' in x.toml must be a whole number from 1 to 100,000, but got 0."),
        (Recipe, {"epochs": True}, "'epochs' in x.toml must be a whole number from 1 to 100,000, but got True."),
        (Recipe, {"epochs": 2.0}, "'epochs' in x.toml must be a whole number from 1 to 100,000, but got 2.0."),
        (Recipe, {"lr": "fast"}, "'lr' in x.toml must be a number above 0 to 100, but got 'fast'."),
        (
            Recipe,
            {"label_smoothing": 1.0},
            "'label_smoothing' in x.toml must be a number from 0 and below 1, but got 1",
        ),
        (Recipe, {"one_logit": 1}, "'one_logit' in x.toml must be true or false, but got 1."),
        (
            Recipe,
            {"augment": "flop"},
            "'augment' in x.toml must be one of none, crop, crop-flip, but got 'flop': did you mean",
        ),
        (Recipe, {"epoch": 3}, "Unknown key 'epoch' in x.toml: did you mean 'epochs'?"),
        (DataConfig, {"channels": 2}, "'channels' in x.toml must be one of 1, 3, but got 2."),
        (DataConfig, {"split": (0.1, 0.2)}, "'split' in x.toml must have at least 3 values, but got (0.1, 0.2)."),
        (table_model("recipe"), {"augment": "crop"}, "Unknown key 'augment' in x.toml"),
    ],
)
def test_a_refused_value_is_one_sentence_with_place_rule_and_value(model, values, sentence) -> None:
    with pytest.raises(SpaceError, match=f"^{re.escape(sentence)}"):
        validate(model, values, "x.toml", SpaceError)


def test_the_tables_of_a_space_file_state_the_settings_of_the_models() -> None:
    for table in ("recipe", "data"):
        stated = {field.key: field for field in fields_of(table_model(table))}
        assert set(stated) == {field.key for field in settings() if field.setting and field.setting.table == table}
        for field in settings():
            if field.setting and field.setting.table == table:
                found = stated[field.key]
                assert (found.rule, found.help, found.default) == (field.rule, field.help, None)


class Grown(Strict):
    """A record that got two settings after its first runs."""

    size: Annotated[int, Setting("Sizes")] = 3
    depth: Annotated[int, Rule(ge=0), Setting("Sizes", formerly=1)] = 2
    width: Annotated[int, Setting("Sizes")] = 7


def test_a_run_from_before_a_setting_counts_as_it_behaved() -> None:
    assert before_settings(Grown, {"size": 5}) == {"size": 5, "depth": 1, "width": 7}
    assert before_settings(Grown, {"size": 5, "depth": 4}) == {"size": 5, "depth": 4, "width": 7}


def test_every_setting_has_a_group_a_description_and_a_name_of_its_own() -> None:
    found = settings()
    assert len({field.name for field in found}) == len(found)
    for field in found:
        assert field.help.endswith((".", ")")), field.name
        assert field.setting is not None
        assert field.default is not None or field.setting.unset, f"{field.name}: what None means must be described"


def test_a_value_that_is_not_a_number_is_outside_any_bounds() -> None:
    (lr,) = (field for field in fields_of(Recipe) if field.key == "lr")
    assert lr.allows(0.1)
    assert not lr.allows(float("nan"))
    assert not lr.allows(0.0)
    with pytest.raises(ConfigError, match="'lr' in the settings must be a number above 0 to 100, but got nan"):
        validate(Recipe, {"lr": float("nan")}, "the settings")


def test_a_word_may_stand_for_a_number():
    field = next(field for field in fields_of(Budget) if field.key == "seeds")
    assert (field.annotation, field.words, field.choices) == (int, ("auto",), ())
    assert [field.allows(number) for number in (0, 1, 1_000, 1_001)] == [False, True, True, False]
    assert validate(Budget, {"seeds": "auto"}, "the settings").seeds == "auto"
    for wrong in (0, "automatic", 2.5):
        with pytest.raises(
            ConfigError,
            match=rf"^'seeds' in the settings must be a whole number from 1 to 1,000, or auto, but got {wrong!r}\.$",
        ):
            validate(Budget, {"seeds": wrong}, "the settings")
