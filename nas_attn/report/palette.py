"""The colours of the figures and of the page: each name has one for a light and one for a dark background."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

FAMILIES: Mapping[str, str] = {
    "se": "SE",
    "cbam": "CBAM",
    "eca": "ECA",
    "gam": "GAM",
    "triple": "A3",
    "simam": "SimAM",
    "coord": "CA",
    "bam": "BAM",
    "sk": "SK",
    "gct": "GCT",
    "triplet": "TA",
    "scse": "scSE",
    "gc": "GC",
    "non_local": "NL",
    "self_attention": "MHSA",
    "shuffle": "SA",
    "ema": "EMA",
    "aff": "AFF",
    "iaff": "iAFF",
    "daf": "DAF",
    "ms_cam": "MS",
    "se_bn": "SEBN",
    "sge": "SGE",
    "lska": "LSKA",
    "deform": "DCN",
    "attention_pool": "AP",
    "ese": "eSE",
    "fca": "Fca",
    "polarized": "PSA",
    "nam": "NAM",
    "lka": "LKA",
    "epsa": "EPSA",
    "double_attention": "A2",
    "bot": "BoT",
    "pam": "PAM",
    "cam": "CAM",
    "cot": "CoT",
    "split_attention": "SplAt",
    "se_parallel": "SEp",
}
"""Family of attention -> its code in drawings. Each has one colour in every run, see `family_colour`.

The first six are 13 units of CIE Lab or more apart also for readers who see no red or no green; of 39 colours that
are dark enough for text this cannot hold for all, so that a drawing names a family by its code too.
"""

PLUG_INS = range(26, 32)
"""Numbers of the colours for plug-ins. They never change: a later family of the catalogue has a number above them."""

_LIGHT_FAMILIES = (
    "#2166b8", "#b1510a", "#1a5a48", "#76127c", "#b8305c", "#5a3a1a", "#55754c", "#28337f", "#75659c", "#0b7285",
    "#8a6500", "#bf3a86", "#3b52ca", "#632754", "#7c3808", "#695e2c", "#742834", "#3a2b93", "#ba3b36", "#744d99",
    "#6c4969", "#8e35ab", "#137c5f", "#752f74", "#794033", "#3968cd", "#ab524a", "#065803", "#932547", "#2e736a",
    "#5a3048", "#284485",
    "#2828c7", "#0f334c", "#667517", "#2a1f4c", "#37608a", "#8528c7", "#756152", "#9e4f77", "#334c0f", "#364b4c",
    "#b2249b", "#4c3936", "#411361",
)  # fmt: skip
_DARK_FAMILIES = (
    "#9ab8fe", "#ffab79", "#76b29d", "#d47bd6", "#ff9bb0", "#b9916f", "#a6c79c", "#908de1", "#c8b6ef", "#79c5d9",
    "#e3b65f", "#fea5d0", "#ada9ff", "#c282af", "#df8f5f", "#c0b17e", "#d6838a", "#a185eb", "#fea296", "#cba1f0",
    "#c49ec0", "#e195f7", "#77cfaf", "#d289ce", "#d69686", "#afbaff", "#fea89d", "#70b15f", "#f4839c", "#86c6bc",
    "#b789a1", "#8b9ae1",
    "#c4d7eb", "#7e86ad", "#d9eb83", "#9bafd6", "#569399", "#a377c2", "#ebd1c4", "#c2a4a2", "#83eb83", "#c4ebd7",
    "#ebc4d4", "#999380", "#a38dc2",
)  # fmt: skip
N_FAMILIES = len(_LIGHT_FAMILIES)
"""Number of colours for families, those of plug-ins among them."""

LIGHT = {
    "paper": "#ffffff",
    "card": "#f5f5f3",
    "ink": "#1d2126",
    "muted": "#5f6772",
    "dim": "#9ba2ac",  # lines and marks in the background
    "faint": "#dedfe2",
    "hair": "#ececea",
    "plain": "#6b7280",  # no attention
    "better": "#1f7a4d",
    "worse": "#b3402a",
    **{f"f{number}": colour for number, colour in enumerate(_LIGHT_FAMILIES)},
}
DARK = {
    "paper": "#14171a",
    "card": "#1c2024",
    "ink": "#e8e8e5",
    "muted": "#a0a7b1",
    "dim": "#6a727d",
    "faint": "#3a4048",
    "hair": "#272c32",
    "plain": "#9aa2ad",
    "better": "#63c792",
    "worse": "#f08c73",
    **{f"f{number}": colour for number, colour in enumerate(_DARK_FAMILIES)},
}

VERDICTS = {"better": "better", "worse": "worse", "equal": "plain", "undecided": "plain", "not known": "plain"}
"""The colour's name of each verdict."""


def family_colour(name: str) -> str:
    """Return the colour's name of a family of attention: the same in every run, also for a plug-in.

    >>> family_colour("se"), family_colour("cbam"), family_colour("my_gate") == family_colour("my_gate")
    ('f0', 'f1', True)
    """
    if name in FAMILIES:
        number = list(FAMILIES).index(name)
        return f"f{number if number < PLUG_INS.start else number + len(PLUG_INS)}"
    return f"f{PLUG_INS[int(hashlib.sha256(name.encode()).hexdigest(), 16) % len(PLUG_INS)]}"


def family_code(name: str) -> str:
    """Return the code of a family in drawings: at most five letters; for a plug-in made from its name.

    >>> family_code("cbam"), family_code("srm"), family_code("my_new_gate"), family_code("squeeze")
    ('CBAM', 'SRM', 'MNG', 'SQUE')
    """
    words = [word for word in name.replace("-", "_").split("_") if word]
    made = "".join(word[0] for word in words) if len(words) > 1 else name
    return FAMILIES.get(name, made[:4].upper())
