"""The drawing of the network: its structure, its layout, its legend, and the elements of its sites."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from synthetic_run import densenet_table, everywhere, resnet_table

from nas_attn.placement import NONE, Attention, Convolution, Placement, Site, SiteTable
from nas_attn.report.architecture import TIMES, Architecture, Part, read_architecture
from nas_attn.report.chart import style
from nas_attn.report.drawing import network_chart
from nas_attn.report.layout import LEFT, RIGHT, WIDTH, network_rows
from nas_attn.report.legend import codes_of, families_of, symbols_of
from nas_attn.report.legend_layout import legend_sheet
from nas_attn.report.shapes import Mark, Sheet, Text

SE = Attention("se", {"reduction": 8})
CONVOLUTION = Convolution(8, 8)


def own_table() -> SiteTable:
    """A network of one's own: a stem, two blocks with everything in them, a pooling, and their containers."""
    sites = [Site("conv1.conv", "conv", "conv1", 8, 16, 16, "stage1", CONVOLUTION)]
    sites += [Site(name, "output", name, 8, 16, 16, "stage1") for name in ("conv1", "bn1", "relu")]
    for block, (stage, size) in enumerate([("stage1", 16), ("stage2", 8)]):
        path = f"layer1.{block}"
        inner = [("pre", "pre"), ("conv1.conv", "conv"), *[(name, "output") for name in ("conv1", "bn1", "conv2")]]
        inner += [("downsample.0", "output"), *[(kind, kind) for kind in ("branch", "shortcut", "merge")]]
        for name, kind in inner:
            replaced = CONVOLUTION if kind == "conv" else None
            sites.append(Site(f"{path}.{name}", kind, path, 8, size, size, stage, replaced))
        sites.append(Site(path, "output", path, 8, size, size, stage))
    sites.append(Site("layer1", "output", "layer1", 8, 8, 8, "stage2"))
    sites.append(Site("pool.head", "head", "pool", 8, 8, 8, "stage2"))
    sites.append(Site("pool", "output", "pool", 8, 1, 1, "stage3"))
    return SiteTable("mine:net", 5, 1, 16, 9_000, 80_000, tuple(sites))


def plain_table() -> SiteTable:
    """LeNet's four sites."""
    shapes = [("stage1.block1.output", 6, 28), ("stage1.pool", 6, 14), ("stage2.block1.output", 16, 10)]
    sites = [Site(name, "output", name, c, size, size, name[:6]) for name, c, size in (*shapes, ("stage2.pool", 16, 5))]
    return SiteTable("lenet", 10, 1, 28, 60_000, 400_000, tuple(sites))


TABLES = {
    "resnet": resnet_table(),
    "deep": resnet_table((3, 8, 36, 3)),
    "densenet": densenet_table(24),
    "own": own_table(),
    "plain": plain_table(),
    "empty": replace(plain_table(), sites=()),
}


def with_x(texts: Iterable[str]) -> list[str]:
    """Multiplication signs as letters, to be read and typed."""
    return [text.replace(TIMES, "x") for text in texts]


def names_of(table: SiteTable, *kinds: str) -> tuple[str, ...]:
    return tuple(site.name for site in table.sites if site.kind in (kinds or (site.kind,)))


def drawn_by_lot(table: SiteTable, seed: int) -> tuple[Placement, tuple[str, ...]]:
    """Searched sites and a placement: every kind of network gets crowded and empty ones."""
    lot = random.Random(seed)
    searched = [site.name for site in table.sites if lot.random() < (1.0, 0.7, 0.3)[seed % 3]]
    kinds = [SE, Attention("se", {"reduction": 16}), Attention("cbam", {"reduction": 16, "kernel_size": 7})]
    kinds += [Attention("self_attention", {"heads": 4, "window": None}), Attention("my_very_own_gate")]
    return Placement({name: lot.choice(kinds) for name in searched if lot.random() < 0.6}), tuple(searched)


def parts_of(table: SiteTable, placement: Placement = NONE, searched: Sequence[str] = ()) -> list[Part]:
    return list(read_architecture(table, placement, searched).parts)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", TABLES)
def test_every_site_has_one_place_with_its_attention(name: str, seed: int):
    table = TABLES[name]
    placement, searched = drawn_by_lot(table, seed)
    spots = list(read_architecture(table, placement, searched).spots)
    sites = [site for spot in spots for site in spot.sites]
    assert len(sites) == len(table.sites)
    assert set(sites) == set(table.sites)
    for spot in spots:
        for site in spot.sites:
            assert (spot.attention, spot.is_searched) == (placement.attentions.get(site.name), site.name in searched)


def test_equal_blocks_of_a_stage_are_drawn_once():
    table = resnet_table()
    branches = names_of(table, "branch")
    parts = parts_of(table, everywhere("se", branches), branches)
    assert [len(part.names) for part in parts] == [3, 4, 6, 3]
    assert parts[2].names == tuple(f"stage3.block{n}" for n in range(1, 7))


@pytest.mark.parametrize(
    "other", [None, Attention("se", {"reduction": 16}), Attention("eca")], ids=["none", "options", "family"]
)
def test_block_with_another_attention_stands_alone(other: Attention | None):
    table = resnet_table()
    branches = names_of(table, "branch")
    chosen = {name: SE for name in branches if name != "stage3.block3.branch"}
    parts = parts_of(table, Placement(chosen | ({"stage3.block3.branch": other} if other else {})), branches)
    assert [len(part.names) for part in parts if part.stage == "stage3"] == [2, 1, 3]


def test_block_in_which_other_sites_were_searched_stands_alone():
    table = resnet_table()
    searched = [name for name in names_of(table, "branch") if "stage3.block6" not in name]
    assert [len(part.names) for part in parts_of(table, NONE, searched)] == [3, 4, 5, 1, 3]


def test_sites_lie_where_the_data_flows():
    (_, _, _, block, *_) = parts = parts_of(own_table(), NONE, names_of(own_table()))
    assert [part.names[0] for part in parts] == ["conv1", "bn1", "relu", "layer1.0", "layer1.1", "layer1"]
    assert [part.form for part in parts] == ["box", "box", "box", "skip", "skip", "line"]
    places = {spot.sites[0].name: spot.place for spot in block.spots}
    assert [name for name, place in places.items() if place == "arc"] == ["layer1.0.downsample.0", "layer1.0.shortcut"]
    assert (places["layer1.0.merge"], places["layer1.0"]) == ("join", "after")
    assert {places[f"layer1.0.{name}"] for name in ("pre", "conv1.conv", "bn1", "branch")} == {"line"}


def test_block_across_two_stages_belongs_to_that_of_its_output():
    sites = own_table().sites
    moved = tuple(replace(site, stage="stage1") if site.name == "layer1.1.pre" else site for site in sites)
    parts = parts_of(replace(own_table(), sites=moved))
    assert {part.names[0]: part.stage for part in parts}["layer1.1"] == "stage2"


def test_neighbouring_sites_that_were_not_searched_share_a_mark():
    parts = parts_of(own_table(), NONE, ["layer1.0.branch"])
    assert [(part.names[0], part.form) for part in parts][:2] == [("conv1", "box"), ("bn1", "line")]
    assert parts[1].names == ("bn1", "relu")
    shared = [spot for spot in parts[2].spots if len(spot.sites) > 1]
    assert [[site.name for site in spot.sites] for spot in shared] == [
        ["layer1.0.conv1", "layer1.0.bn1", "layer1.0.conv2"]
    ]


def test_layers_of_a_densenet_are_concatenated_and_its_blocks_lie_on_the_line():
    table = densenet_table(4)
    parts = parts_of(table, NONE, names_of(table))
    assert [(part.form, len(part.names)) for part in parts] == [
        ("dense", 4), ("line", 1), ("box", 1), ("dense", 4), ("line", 1), ("box", 1), ("dense", 4), ("line", 1)
    ]  # fmt: skip


def test_stem_is_drawn_only_where_the_first_site_shows_it():
    def has_stem(table: SiteTable) -> bool:
        return read_architecture(table, NONE, ()).has_stem

    assert has_stem(resnet_table())  # 256 channels at its first site, but 3 in the image
    assert not has_stem(plain_table())  # its first site is the output of the first convolution
    direct = replace(own_table().sites[0], replaced=replace(CONVOLUTION, in_channels=1))
    assert not has_stem(replace(own_table(), sites=(direct,)))


def test_shapes_of_a_stage_are_those_of_its_output_and_of_a_larger_map_before():
    network = read_architecture(plain_table(), NONE, names_of(plain_table()))
    assert with_x([network.image, network.output]) == ["1x28x28", "10 classes"]
    assert with_x(stage.shape for stage in network.stages) == ["6x28x28 → 6x14x14", "16x10x10 → 16x5x5"]
    residual = read_architecture(resnet_table(), NONE, ())
    assert with_x(stage.shape for stage in residual.stages)[:2] == ["256x32x32", "512x16x16"]


def rows_of(table: SiteTable, placement: Placement, searched: Sequence[str]) -> tuple[tuple[str, Sheet], ...]:
    codes = codes_of(families_of(placement, table))
    return network_rows(read_architecture(table, placement, searched), codes)


def overlapping(boxes: Sequence[tuple[float, float, float, float]]) -> Iterator[tuple[int, int]]:
    """Yield the pairs of boxes (left, top, right, bottom) that touch."""
    for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2):
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]:
            yield i, j


def box_of(shape: Text | Mark) -> tuple[float, float, float, float]:
    if isinstance(shape, Text):
        left, right = shape.ends
        return left, shape.y - 0.4 * shape.size, right, shape.y + 0.4 * shape.size
    half = shape.width / 2
    high = {"badge": 4.8, "slab": 6.5 if shape.spot else 4.8, "pool": 6.0}.get(shape.shape, half)
    return shape.x - half, shape.y - high, shape.x + half, shape.y + high


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", TABLES)
def test_nothing_collides_or_leaves_the_column(name: str, seed: int):
    table = TABLES[name]
    placement, searched = drawn_by_lot(table, seed)
    network = read_architecture(table, placement, searched)
    legend = legend_sheet(families_of(placement, table), symbols_of(network))
    for sheet in (*(sheet for _, sheet in rows_of(table, placement, searched)), legend):
        boxes = [box_of(shape) for shape in (*sheet.marks, *sheet.texts) if not isinstance(shape, Text) or shape.text]
        ends = [text.text for text in sheet.texts]
        assert list(overlapping(boxes)) == [], ends
        assert all(box[0] >= LEFT - 0.1 and box[2] <= RIGHT + 0.1 for box in boxes), ends
        assert all(box[1] >= 0 and box[3] <= sheet.height for box in boxes), ends
        points = [point for wire in sheet.wires for point in wire.points]
        assert all(0 < x < WIDTH and 0 <= y <= sheet.height for x, y in points)


def test_line_goes_on_from_row_to_row():
    rows = [sheet for _, sheet in rows_of(*(TABLES["deep"], *drawn_by_lot(TABLES["deep"], 1)))]
    assert len(rows) > 10
    for above, below in itertools.pairwise(rows):
        leaving = [wire.points[-1] for wire in above.wires if wire.points[-1][1] == above.height]
        entering = [wire.points[0] for wire in below.wires if wire.points[0][1] == 0.0]
        assert len(leaving) == len(entering) == 1
        assert leaving[0][0] == entering[0][0]


def test_rows_are_as_few_as_possible_and_the_last_one_is_no_rest():
    branches = names_of(resnet_table(), "branch")
    rows = rows_of(resnet_table(), everywhere("se", branches), branches)
    assert with_x(label for label, _ in rows) == [
        "stage1, 256x32x32; stage2, 512x16x16",
        "stage3, 1024x8x8; stage4, 2048x4x4",
    ]
    assert sum(sheet.height for _, sheet in rows) < 160  # points: 56 mm


def test_stage_that_is_wider_than_a_row_goes_on_in_the_next_one_without_a_second_heading():
    table = resnet_table((1, 1, 9, 1))
    branches = names_of(table, "branch")
    lot = random.Random(3)
    placement = Placement({name: Attention("se", {"reduction": lot.randrange(99)}) for name in branches})
    rows = rows_of(table, placement, branches)
    labels = [label for label, _ in rows if "stage3" in label]
    assert [label.split(",")[0] for label in labels] == ["stage3", "stage3 (continued)", "stage3 (continued)"]
    headings = [text.text for _, sheet in rows for text in sheet.texts if text.weight == "bold"]
    assert sorted(headings) == ["stage1", "stage2", "stage3", "stage4"]


def test_block_with_many_attentions_has_several_lines():
    table = own_table()
    inside = [name for name in names_of(table) if name.startswith("layer1.0.")]
    wide = replace(table, sites=tuple(site for site in table.sites if site.name.startswith("layer1.0")))
    lot = [Attention("self_attention", {"heads": n}) for n, _ in enumerate(inside)]
    rows = rows_of(wide, Placement(dict(zip(inside, lot, strict=True))), inside)
    heights = [mark.y for _, sheet in rows for mark in sheet.marks if mark.spot and mark.spot.place == "line"]
    assert len(set(heights)) == 2


def test_long_names_are_cut_at_their_beginning():
    path = "features.a_very_long_path.of_modules.in_my.network"
    table = replace(plain_table(), sites=(Site(path, "output", path, 8, 8, 8, "stage1"),))
    ((_, sheet),) = rows_of(table, Placement({path: SE}), [path])
    (caption,) = [text.text for text in sheet.texts if text.text.startswith("…")]
    assert path.endswith(caption[1:])
    assert "in_my.network" in caption


def test_legend_states_what_variants_share_once():
    a, b = (Attention("cbam", {"kernel_size": 7, "reduction": r}) for r in (8, 16))
    (cbam, eca) = families_of(Placement({"x1": a, "x2": b, "x3": b, "x4": Attention("eca")}), None)
    assert cbam.heading == "cbam: kernel_size 7"
    assert [(one.code, one.text) for one in cbam.variants] == [
        ("CBAMa", "reduction 8 (1\N{NO-BREAK SPACE}site)"),
        ("CBAMb", "reduction 16 (2\N{NO-BREAK SPACE}sites)"),
    ]
    assert (eca.variants[0].code, eca.heading) == ("ECA", "eca (1\N{NO-BREAK SPACE}site)")


def test_variants_are_told_apart_beyond_the_alphabet_and_by_wiring():
    many = {f"x{n:02}": Attention("se", {"reduction": n}) for n in range(1, 28)}
    (se,) = families_of(Placement(many), None)
    assert [one.code for one in se.variants[24:]] == ["SEy", "SEz", "SEa2"]
    (se,) = families_of(Placement({"x": SE, "y": replace(SE, wiring="residual")}), None)
    assert [one.options for one in se.variants] == [("no other option",), ("wiring residual",)]


def test_two_families_with_one_code_are_told_apart():
    placement = Placement({"x": Attention("my_gate"), "y": Attention("mean_gain")})
    assert sorted(codes_of(families_of(placement, None)).values()) == ["MG", "MG2"]


def test_legend_explains_the_marks_that_the_drawing_has_and_no_other():
    def shown(table: SiteTable, placement: Placement, searched: Sequence[str]) -> list[str]:
        return [shape for shape, _ in symbols_of(read_architecture(table, placement, searched))]

    assert shown(own_table(), NONE, ["bn1"]) == ["ring", "dot", "slab", "plus"]
    assert shown(plain_table(), NONE, names_of(plain_table())) == ["ring"]
    branches = names_of(resnet_table(), "branch")
    network = read_architecture(resnet_table(), everywhere("se", branches), branches)
    assert symbols_of(network) == (("dot", "not searched"), ("times", f"{TIMES}6: 6 equal blocks"))


def test_every_site_is_an_element_of_the_page_that_says_what_it_has():
    table = resnet_table()
    branches = names_of(table, "branch")
    with style():
        chart = network_chart(table, Placement({name: SE for name in branches if "stage1" not in name}), branches)
    rows = [ElementTree.fromstring(str(row)) for row in chart.inline()]
    elements = {found.get("id"): found for row in rows for found in row.iter("g") if found.get("id")}
    for site in table.sites:
        lines = "".join(elements[f"network-{site.name}"].itertext()).split("\n")
        (line,) = [line for line in lines if line.startswith(f"{site.name} ")]
        assert line.startswith(
            f"{site.name} ({site.kind}, {site.channels} channels, {site.height}{TIMES}{site.width}): "
        )
        content = "not searched" if site.name not in branches else "no attention" if "stage1" in line else str(SE)
        assert line.endswith(f": {content}")


def test_page_shows_the_rows_without_the_legend_and_the_files_have_both(tmp_path: Path):
    table = plain_table()
    with style():
        chart = network_chart(table, Placement({"stage1.pool": SE}), names_of(table))
    assert all("reduction 8" not in str(row) for row in chart.inline())
    svg, png, pdf = chart.write(tmp_path)
    assert "se: reduction 8" in svg.read_text()
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pdf.read_bytes().startswith(b"%PDF")


def test_figure_that_is_taller_than_a_column_has_two_and_the_page_the_same_rows():
    table = TABLES["deep"]
    placement, searched = drawn_by_lot(table, 0)
    with style():
        chart = network_chart(table, placement, searched)
    width, height = chart.figure.get_size_inches()
    assert (round(width, 1), height < 9 * 2) == (6.9, True)
    assert {view.box[0] for view in chart.views} == {0.0, WIDTH + 14.4}
    assert all(view.box[2] == WIDTH for view in chart.views)
    assert len(chart.inline()) == len(rows_of(table, placement, searched))


def test_files_have_the_same_bytes_in_every_run(tmp_path: Path):
    contents = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        with style():
            chart = network_chart(plain_table(), NONE, ("stage1.pool",))
        contents.append([path.read_bytes() for path in chart.write(tmp_path / folder)])
    assert contents[0] == contents[1]
    assert not any(b"CreationDate" in content or b"<dc:date>" in content for content in contents[0])


def test_drawing_has_only_colours_of_the_palette():
    with style():
        chart = network_chart(own_table(), drawn_by_lot(own_table(), 0)[0], names_of(own_table()))
    assert not any(re.search(r"#[0-9a-f]{6}\b", str(row)) for row in chart.inline())


def test_network_without_sites_has_its_ends_only():
    network = read_architecture(TABLES["empty"], NONE, ())
    assert isinstance(network, Architecture)
    ((label, sheet),) = rows_of(TABLES["empty"], NONE, ())
    assert label == "its ends"
    assert with_x(text.text for text in sheet.texts) == ["1x28x28", "input", "10 classes", "output"]
