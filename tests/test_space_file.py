"""The space file: what is read, what is refused, and the sentence for it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from site_tables import densenet_table, make_site, make_table, resnet_table

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.backbones.catalog import BACKBONES
from nas_attn.errors import SpaceError
from nas_attn.space import file as space_file
from nas_attn.space.file import available_spaces
from nas_attn.space.schema import space_schema
from nas_attn.space.search_space import SearchSpace

GOOD = """
title = "A test"

[backbone]
name = "densenet"
growth_rate = 8
block_config = [4, 4, 4]

[[sites]]
match = ["denseblock*"]
attentions = ["se", "cbam"]

[[sites]]
match = ["transition*"]
attentions = ["se", "triple"]
share = "all"
wiring = "residual"

[attentions.se]
reduction = [4, 8]

[attentions.cbam]
kernel_size = 3
order = ["channel_first", "parallel"]

[attentions.triple]
hidden = ["auto", 16]

[limits]
max_params = 90_000

[data]
image_size = 8
split = [0.1, 0.2, 0.7]

[recipe]
epochs = 20
lr = 1
"""


def write(tmp_path: Path, *changes: tuple[str, str], text: str = GOOD) -> Path:
    for old, new in changes:
        assert old in text
        text = text.replace(old, new, 1)
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def refuse(path: Path, message: str) -> None:
    """Loading, or binding to the small DenseNet, ends in one sentence that names the file and holds `message`."""
    with pytest.raises(SpaceError, match=re.escape(message)) as caught:
        SearchSpace.load(path).bind(densenet_table())
    sentence = str(caught.value)
    assert str(path) in sentence
    assert "\n" not in sentence
    assert sentence.endswith((".", "?"))


def test_a_file_is_read_whole(tmp_path):
    space = SearchSpace.load(write(tmp_path))
    assert (space.name, space.title) == ("mine", "A test")
    assert space.backbone["growth_rate"] == 8
    assert [rule.share for rule in space.sites] == ["site", "all"]
    assert space.attentions == {
        "se": {"reduction": (4, 8)},
        "cbam": {"kernel_size": (3,), "order": ("channel_first", "parallel")},
        "triple": {"hidden": ("auto", 16)},
    }
    assert space.limits.max_params == 90_000
    assert space.data == {"image_size": 8, "split": (0.1, 0.2, 0.7)}
    assert space.recipe == {"epochs": 20, "lr": 1.0}


def test_a_space_survives_its_dictionary_and_json(tmp_path):
    space = SearchSpace.load(write(tmp_path))
    again = SearchSpace.from_dict(json.loads(json.dumps(space.to_dict())))
    assert again.to_dict() == space.to_dict()
    assert again.digest == space.digest


def test_the_digest_sees_what_changes_a_search_and_only_that(tmp_path):
    digest = SearchSpace.load(write(tmp_path)).digest
    assert re.fullmatch(r"[0-9a-f]{64}", digest)
    assert SearchSpace.load(write(tmp_path, ("A test", "Another title"))).digest == digest
    assert SearchSpace.load(write(tmp_path, ('share = "all"\n', 'share = "all" # said\n'))).digest == digest
    assert SearchSpace.load(write(tmp_path, ("[4, 8]", "[8, 4]"))).digest != digest


def test_a_backbone_may_be_a_name_alone():
    space = SearchSpace.from_dict(
        {"title": "t", "backbone": "resnet18", "sites": [{"match": ["**.branch"], "attentions": ["se"]}]}
    )
    assert space.backbone["name"] == "resnet18"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("title =", "tittle =", "Unknown key 'tittle' in"),
        ("title =", "tittle =", "did you mean 'title'?"),
        ("share =", "shared =", "Unknown key 'shared' in [[sites]] 2 of"),
        ("share =", "shared =", "did you mean 'share'?"),
        ("max_params", "max_parms", "Unknown key 'max_parms' in [limits] of"),
        ("max_params", "max_parms", "did you mean 'max_params'?"),
        ("epochs", "epoch", "Unknown key 'epoch' in [recipe] of"),
        ("image_size", "imagesize", "did you mean 'image_size'?"),
        ('share = "all"', 'share = "al"', "'share' in [[sites]] 2 of"),
        ('share = "all"', 'share = "al"', "must be one of site, stage, all, but got 'al': did you mean 'all'?"),
        (
            '"residual"',
            '"residal"',
            "must be one of gate, residual, concat, addend, concat_three, but got 'residal': did you mean 'residual'?",
        ),
        ('match = ["denseblock*"]', 'match = "denseblock*"', "write match = ['denseblock*']."),
        ('match = ["denseblock*"]', 'match = ["denseblock*", 3]', "'match' in [[sites]] 1 of"),
        ('match = ["denseblock*"]\n', "", "mine.toml must have either 'match' or 'one_of', but it has neither."),
        ('title = "A test"', "", "Key 'title' is missing in"),
        ("90_000", '"many"', "'max_params' in [limits] of"),
        ("90_000", "0", "must be a whole number from 1 to 1,000,000,000,000,000, but got 0."),
        ('["se", "cbam"]', '["se", "cbma"]', "Unknown attention 'cbma' in [[sites]] 1 of"),
        ('["se", "cbam"]', '["se", "cbma"]', "did you mean 'cbam'?"),
        ('["se", "cbam"]', '["se", "se"]', "must not list a value twice, but lists 'se' twice."),
        ('["se", "cbam"]', '["none", "cbam"]', "'none' is always a choice: leave it out"),
        ('["se", "cbam"]', "[]", "'attentions' in [[sites]] 1 of"),
        ("[attentions.cbam]", "[attentions.cbma]", "Unknown attention 'cbma' in [attentions.cbma] of"),
        ("[attentions.cbam]", "[attentions.gam]", "no [[sites]] table lists it in `attentions`"),
        ("kernel_size = 3", "kernal_size = 3", "Unknown option of 'cbam' 'kernal_size' in [attentions.cbam] of"),
        ("kernel_size = 3", "kernal_size = 3", "did you mean 'kernel_size'?"),
        ("kernel_size = 3", "kernel_size = [3, 4]", "must be an odd number from 1 to 63, but got 4."),
        ("kernel_size = 3", "kernel_size = []", "must have at least one value, but its list is empty."),
        ("kernel_size = 3", "kernel_size = [3, 3]", "lists 3 twice."),
        ("kernel_size = 3", "kernel_size = {a = 1}", "must be one value or a list of values, but got {'a': 1}."),
        ('"parallel"', '"paralel"', "did you mean 'parallel'?"),
        (
            "[attentions.cbam]\n",
            "[attentions.cbam]\nreduction = true\n",
            "must be a whole number from 1, but got True.",
        ),
        ('"densenet"', '"densnet"', "Unknown backbone 'densnet' in [backbone] of"),
        ("growth_rate", "growthrate", "did you mean 'growth_rate'?"),
        ("growth_rate = 8", "growth_rate = 0", "but got 0."),
        ('["denseblock*"]', '["denseblok*"]', "Pattern 'denseblok*' in [[sites]] 1 of"),
        (
            '["denseblock*"]',
            '["denseblok*"]',
            "matches no site of densenet: did you mean 'denseblock1'? Known: denseblock1.layer1, denseblock1, ",
        ),
        (
            '["transition*"]',
            '["transition*", "denseblock2"]',
            "but 'denseblock2' is matched by 'denseblock*' in [[sites]] 1",
        ),
        ("[4, 8]", "[4, 48]", "In [[sites]] 2 of"),
        ("[4, 8]", "[4, 48]", "got reduction=48, channels=32; the nearest that works: reduction=32."),
        ('"residual"', '"addend"', "Wiring 'addend' does not fit site 'transition1'"),
        ('"residual"', '"addend"', "wirings that fit: gate, residual, concat."),
        ("90_000", "19_999", "meets the limits, not even the cheapest: parameters <= max_params must hold"),
        ("90_000", "19_999", "the network has 20,000 parameters, and max_params is 19,999."),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path, old, new, message):
    refuse(write(tmp_path, (old, new)), message)


def test_a_key_outside_all_tables_is_named_with_the_file_alone(tmp_path):
    path = write(tmp_path, ('"A test"', "3"))
    refuse(path, f"'title' in {path} ")


def test_broken_toml_names_its_line(tmp_path):
    with pytest.raises(SpaceError, match=r"mine\.toml must be TOML, but is not: expected .*line 9"):
        SearchSpace.load(write(tmp_path, ("[[sites]]", "[[sites]")))


def test_text_that_is_no_utf8_is_refused(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_bytes(b'title = "\xff"')
    with pytest.raises(SpaceError, match=r"mine\.toml must be UTF-8 text, but byte 9 is not\."):
        SearchSpace.load(path)


def test_one_table_in_place_of_a_list_of_tables_is_explained():
    record = {"title": "t", "backbone": "densenet", "sites": {"match": ["x"], "attentions": ["se"]}}
    with pytest.raises(SpaceError, match=r"write \[\[sites\]\], with two brackets"):
        SearchSpace.from_dict(record)


def test_a_folder_is_no_space(tmp_path):
    with pytest.raises(SpaceError, match=r"is a folder: name one of its files\."):
        SearchSpace.load(tmp_path)


@pytest.mark.parametrize("name", ["densnet_attn", "densenet_attn.toml"])
def test_an_unknown_space_names_the_nearest(name):
    with pytest.raises(SpaceError, match=rf"Unknown space '{re.escape(name)}': did you mean 'densenet_attn'\?"):
        SearchSpace.load(name)


def test_a_missing_file_names_the_nearest_in_its_folder(tmp_path):
    path = write(tmp_path)
    with pytest.raises(SpaceError, match=re.escape(f"did you mean '{path}'?")):
        SearchSpace.load(tmp_path / "mien.toml")


def test_an_attention_must_fit_the_map():
    record = {"title": "t", "sites": [{"match": ["*"], "attentions": ["se", "triple"]}]}
    table = make_table(make_site("block1", 64, 4, "stage1"), make_site("block2", 64, 1, "stage2"))
    with pytest.raises(
        SpaceError, match=r"In \[\[sites\]\] 1 of the space: Attention 'triple' does not fit site 'block2'"
    ):
        SearchSpace.from_dict(record).bind(table)


def test_an_attention_must_fit_the_kind_of_site():
    table = make_table(make_site("block1", 64, 4, "stage1", kind="merge"))
    for pattern, sentence in [
        ("block1", r"does not fit site 'block1': a site of kind 'merge' is not among its kinds"),
        (
            "*",
            r"Pattern '\*' in \[\[sites\]\] 1 .* matches only sites of kind merge, which none of its attentions fits",
        ),
    ]:
        record = {"title": "t", "sites": [{"match": [pattern], "attentions": ["se"]}]}
        with pytest.raises(SpaceError, match=sentence):
            SearchSpace.from_dict(record).bind(table)


def test_a_wide_pattern_passes_over_kinds_that_none_of_its_attentions_fits():
    table = make_table(make_site("block1", 64, 4, "stage1", kind="merge"), make_site("block2", 64, 4, "stage1"))
    for attentions, sites in [(["se"], ["block2"]), (["aff"], ["block1"])]:
        record = {"title": "t", "sites": [{"match": ["*"], "attentions": attentions}]}
        assert [d.name for d in SearchSpace.from_dict(record).bind(table).decisions] == sites


def test_every_value_must_fit_every_site_that_shares_it():
    record = {
        "title": "t",
        "sites": [{"match": ["denseblock1", "denseblock1.layer1"], "attentions": ["gam"], "share": "all"}],
        "attentions": {"gam": {"reduction": 4, "groups": [1, 4]}},
    }
    with pytest.raises(
        SpaceError, match=r"site 'denseblock1\.layer1': groups must divide .* the nearest that works: groups=2"
    ):
        SearchSpace.from_dict(record).bind(densenet_table())


def test_a_pattern_that_crosses_into_layers_by_mistake_is_a_double():
    record = {"title": "t", "sites": [{"match": ["denseblock1*", "denseblock1"], "attentions": ["se"]}]}
    with pytest.raises(
        SpaceError, match=r"'denseblock1' is matched by 'denseblock1\*' in \[\[sites\]\] 1 and by 'denseblock1'"
    ):
        SearchSpace.from_dict(record).bind(densenet_table())


@pytest.mark.parametrize(("name", "table"), [("densenet_attn", densenet_table()), ("resnet18_attn", resnet_table())])
def test_a_shipped_space_binds(name, table):
    bound = SearchSpace.load(name).bind(table)
    assert set(bound.attentions) == {"se", "cbam", "gam", "triple"}
    assert [label for label, _ in bound.priors()][:2] == ["none", "se everywhere"]
    assert bound.n_placements > 10_000


@pytest.mark.parametrize("name", ["densenet_attn", "resnet18_attn"])
def test_a_shipped_space_names_the_schema_on_its_first_line(name):
    first = available_spaces()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first == "#:schema ./space.schema.json"


def test_the_shipped_schema_is_up_to_date(root):
    text = (root / "search_spaces" / "space.schema.json").read_text(encoding="utf-8")
    assert text == json.dumps(space_schema(), indent=2, ensure_ascii=False) + "\n", (
        "write it anew: nas-attn schema space"
    )


def test_the_schema_names_every_attention_option_and_backbone():
    schema = space_schema()
    known: dict[str, Any] = schema["properties"]["attentions"]["properties"]
    assert {name: set(table["properties"]) for name, table in known.items()} == {
        name: {option.name for option in entry.options} for name, entry in ATTENTIONS.items()
    }
    names, timms, *tables = schema["properties"]["backbone"]["anyOf"]
    assert names["enum"] == list(BACKBONES)
    assert timms == {"type": "string", "pattern": r"^timm:\w+$"}
    assert len(tables) == len(BACKBONES) + 2  # one of timm's, and one that is imported
    assert known["cbam"]["properties"]["kernel_size"]["anyOf"][0]["not"] == {"multipleOf": 2}
    assert known["triple"]["properties"]["hidden"]["anyOf"][0]["anyOf"][1] == {"const": "auto"}


def test_a_space_beside_the_package_goes_before_the_checkout(tmp_path, monkeypatch):
    package = tmp_path / "nas_attn"
    for folder in (package / "search_spaces", tmp_path / "search_spaces"):
        folder.mkdir(parents=True)
        (folder / "one.toml").write_text("")
    monkeypatch.setattr(space_file, "__file__", str(package / "space" / "file.py"))
    assert available_spaces() == {"one": package / "search_spaces" / "one.toml"}
    (package / "search_spaces" / "one.toml").unlink()
    assert available_spaces() == {"one": tmp_path / "search_spaces" / "one.toml"}
