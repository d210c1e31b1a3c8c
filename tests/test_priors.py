"""Placements of earlier runs to try first, and the budget of a search that enumerates its space."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas_attn.errors import ConfigError
from nas_attn.placement import Placement
from nas_attn.run.request import Request, bind, read_settings

SE = {"name": "se", "reduction": 4, "bias": True}


def asked(tmp_path: Path, **settings: object) -> Request:
    """Return the checked request of a search of the shipped small space."""
    return bind(read_settings({"space": "densenet_attn", "out": str(tmp_path / "run"), **settings}))


def stored(path: Path, **placement: object) -> str:
    """Write a placement as a run writes it, and return the path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"placement": placement}))
    return str(path)


def test_priors_come_first_each_once_and_others_are_left_out_with_a_note(tmp_path: Path) -> None:
    one = stored(tmp_path / "a" / "best.json", denseblock2=SE)
    stored(tmp_path / "b" / "arms" / "again.json", denseblock2=SE)
    stored(tmp_path / "b" / "arms" / "elsewhere.json", stage9=SE)
    stored(tmp_path / "b" / "best.json", denseblock1=SE)
    request = asked(tmp_path, priors=[one, str(tmp_path / "b")])
    assert [label for label, _ in request.priors] == ["prior a/best", "prior b/best"]
    assert [list(placement.attentions) for _, placement in request.priors] == [["denseblock2"], ["denseblock1"]]
    notes = [note for note in request.notes if "is left out" in note]
    assert len(notes) == 1
    assert "elsewhere.json is left out: Unknown site 'stage9'" in notes[0]


@pytest.mark.parametrize(
    ("placement", "limit", "reason"),
    [
        ({"stage9": SE}, None, "Unknown site 'stage9'"),
        ({"denseblock2": {"name": "sse"}}, None, "sse"),
        ({"denseblock2": {"name": "lska"}}, None, "does not have this combination"),
        ({"denseblock2": SE}, 51_850, "parameters <= max_params must hold"),
    ],
)
def test_a_file_of_which_nothing_fits_is_refused_with_the_reason(placement, limit, reason, tmp_path: Path) -> None:
    file = stored(tmp_path / "best.json", **placement)
    with pytest.raises(ConfigError, match="'--priors' must name placements of this space, but none of ") as refused:
        asked(tmp_path, priors=[file], max_params=limit)
    assert reason in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [(None, "'--priors' names the file .*, but there is none"), ("{", "must be a JSON file with a placement, but")],
)
def test_a_file_that_cannot_be_read_is_refused(text: str | None, message: str, tmp_path: Path) -> None:
    file = tmp_path / "best.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        asked(tmp_path, priors=[str(file)])


def test_a_folder_without_placements_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"or a run folder with a best\.json, but .* has none"):
        asked(tmp_path, priors=[str(tmp_path)])


def test_brute_has_the_budget_of_its_space_unless_it_is_stated(tmp_path: Path) -> None:
    space = {"space": "lenet_attn"}
    request = asked(tmp_path, **space, sampler="brute")
    assert request.settings.budget.trials == request.bound.n_placements
    assert asked(tmp_path, **space, sampler="brute", trials=5).settings.budget.trials == 5
    with pytest.raises(ConfigError, match=r"at most 100,000 placements, but this one has [\d,]+: choose another"):
        asked(tmp_path, sampler="brute")


def test_a_prior_is_a_placement_of_the_space(tmp_path: Path) -> None:
    request = asked(tmp_path, priors=[stored(tmp_path / "best.json", denseblock2=SE)])
    (prior,) = request.priors
    assert isinstance(prior[1], Placement)
    assert request.bound.params(prior[1]) is not None
