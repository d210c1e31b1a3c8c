"""The colours of the families of attention: the same in every run, and told apart by every reader."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest

from nas_attn import ATTENTIONS
from nas_attn.report.marks import Colours
from nas_attn.report.palette import DARK, FAMILIES, LIGHT, N_FAMILIES, PLUG_INS, family_code, family_colour


def test_colour_of_a_family_does_not_depend_on_the_others_of_a_run():
    assert Colours(["eca"]).family("eca") == Colours(["bam", "cbam", "eca", "se"]).family("eca") == "f2"
    assert Colours(["bam", "se"]).by_family == {"bam": "f7", "se": "f0"}
    assert Colours(["se"]).family(None) == Colours(["se"]).family("none") == "plain"


def test_families_of_the_catalogue_have_colours_and_codes_of_their_own():
    assert len(FAMILIES) == 39
    assert set(FAMILIES) <= set(ATTENTIONS)
    colours = [family_colour(name) for name in FAMILIES]
    assert colours == [f"f{number}" for number in range(N_FAMILIES) if number not in PLUG_INS]
    assert len(set(FAMILIES.values())) == len(FAMILIES)
    assert max(len(code) for code in FAMILIES.values()) <= 5
    for palette in (LIGHT, DARK):
        assert len({palette[f"f{number}"] for number in range(N_FAMILIES)}) == N_FAMILIES


def test_colour_of_a_plug_in_depends_on_its_name_alone():
    names = [f"gate{number}" for number in range(40)]
    assert {family_colour(name) for name in names} == {f"f{number}" for number in PLUG_INS}
    assert family_code("gate1") == "GATE"
    assert family_colour("my_own_gate") == "f29"  # written down: a release must not change it


DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
TO_XYZ = [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]


def lab(colour: str, sight: Sequence[Sequence[float]]) -> np.ndarray:
    """CIE Lab of a colour as seen by somebody; the matrices are by Machado et al., IEEE TVCG 15 (2009)."""
    shares = np.array([int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)])
    linear = np.where(shares <= 0.04045, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
    x, y, z = (np.array(TO_XYZ) @ np.clip(np.array(sight) @ linear, 0, 1)) / (np.array(TO_XYZ) @ np.ones(3))
    a, b, c = (math.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * b - 16, 500 * (a - b), 200 * (b - c)])


@pytest.mark.parametrize("sight", [np.eye(3), DEUTAN, PROTAN], ids=["normal", "no green", "no red"])
def test_first_six_families_differ_for_every_reader(sight: Sequence[Sequence[float]]):
    seen = [lab(LIGHT[f"f{number}"], sight) for number in range(6)]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 13.0
