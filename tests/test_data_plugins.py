"""Data sources of the table and of other people, registered in a process; what is refused, with its sentence."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray import cloudpickle
from runs import tiny_space

from nas_attn import DATA, DataRequest, DataSource, ImageDataset, LabelledImages, register_data
from nas_attn.config import DataConfig
from nas_attn.data.catalog import data_forms, data_label, data_source
from nas_attn.data.dataset import describe
from nas_attn.errors import ConfigError, DataError
from nas_attn.run.job import search
from nas_attn.training.context import register_all, registered_here

PIXELS = np.random.RandomState(0).randint(0, 256, (60, 8, 8, 1)).astype(np.uint8)
LABELS = np.arange(60) % 2
FOUND = ImageDataset(("flat", "steep"), {"train": LabelledImages(PIXELS, LABELS)})


def read_slopes(request: DataRequest) -> ImageDataset:
    return FOUND


SLOPES = DataSource("slopes", read_slopes, "Slopes.")


def read_saved(request: DataRequest) -> ImageDataset:
    """Read `pixels.npy` and `labels.npy` from the folder."""
    arrays = [np.load(request.path / f"{name}.npy") for name in ("pixels", "labels")]
    request.progress(2, 2)
    return ImageDataset(("flat", "steep"), {"train": LabelledImages(*arrays)})


SAVED = DataSource("saved", read_saved, "Saved slopes.", path="folder", default_image=12)

Register = Callable[..., DataSource]


@pytest.fixture
def register() -> Iterator[Register]:
    """Register `SLOPES` with other facts; what is registered is removed in the end."""

    def added(record: DataSource = SLOPES, **facts: Any) -> DataSource:
        record = replace(record, **facts)
        register_data(record)
        return record

    yield added
    for record in DATA.registered:
        DATA.unregister(record.name)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder that `read_saved` reads."""
    folder = tmp_path / "slopes of the alps"
    folder.mkdir()
    np.save(folder / "pixels.npy", PIXELS)
    np.save(folder / "labels.npy", LABELS)
    return folder


def facts_of(name: str, **options: Any):
    return describe(DataConfig(name=name, **options))


# --- the table


def test_the_table_says_how_each_source_is_written() -> None:
    built_in = ("digits", "mnist-5k", "mnist", "fashion-mnist", "cifar10", "cifar100")
    assert data_forms() == (*built_in, "folder:PATH", "table:PATH", "hf:PATH", "npz:PATH")
    assert all(source.summary for source in DATA.values())
    assert [name for name, source in DATA.items() if not source.mirror] == ["digits", "mnist-5k"]
    written = ("mnist", "folder:~/cats", "npz:a/b.npz", "table:a/labels.csv", "table:labels.csv")
    assert [data_label(one) for one in written] == ["mnist", "cats", "b", "a", "labels"]


def test_every_reader_of_the_table_can_be_loaded() -> None:
    assert all(callable(source.reader) for source in DATA.values())


def test_the_table_is_read_without_numpy_pydantic_or_the_installed_packages(run_python) -> None:
    code = (
        "from nas_attn.data.catalog import data_forms; import sys; data_forms();"
        "print([name for name in ('numpy', 'pydantic', 'torch', 'importlib.metadata') if name in sys.modules])"
    )
    done = run_python("-c", code)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


READER = '''
import numpy as np

from nas_attn.data.arrays import ImageDataset, LabelledImages
from nas_attn.data.entry import DataRequest


def read_stripes(request: DataRequest) -> ImageDataset:
    """Return forty images of about one shade a class."""
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).integers(0, 50, (40, 8, 8, 1), np.uint8)
    pixels = noise + (200 * labels).astype(np.uint8)[:, None, None, None]
    return ImageDataset(("dark", "light"), {"train": LabelledImages(pixels, labels)})
'''
RECORD = '    DataSource(name="stripes", read="nas_attn.data.stripes:read_stripes", summary="two shades"),\n'


def test_a_reader_and_its_record_are_all_that_a_new_source_needs(tmp_path: Path, root: Path, run_python) -> None:
    package = tmp_path / "nas_attn"
    shutil.copytree(root / "nas_attn", package)
    (package / "data" / "stripes.py").write_text(READER)
    table = (package / "data" / "catalog.py").read_text()
    (package / "data" / "catalog.py").write_text(
        table.replace('    group="nas_attn.data"', RECORD + "    group='nas_attn.data'")
    )
    code = (
        "from nas_attn.config import DataConfig; from nas_attn.data.dataset import describe;"
        "from nas_attn.data.catalog import data_forms;"
        "print(describe(DataConfig(name='stripes')).in_words, data_forms()[-1])"
    )
    done = run_python("-c", code, env={"PYTHONPATH": str(tmp_path)})
    assert done.stderr == ""
    assert done.stdout == ("Data: stripes, 28 training, 6 validation and 6 test images of 8x8, 2 classes. stripes\n")


# --- registered in this process


def test_a_registered_source_is_read_split_and_named(register: Register, saved: Path) -> None:
    assert register() is data_source("slopes")
    facts = facts_of("slopes")
    assert (facts.name, facts.n_train, facts.n_val, facts.n_test, facts.image_size) == ("slopes", 42, 10, 8, 8)
    assert facts.notes == ("Data source 'slopes' belongs to this process.",)
    register(SAVED)
    steps: list[tuple[int, int]] = []
    facts = describe(DataConfig(name=f"saved:{saved}"), progress=lambda *step: steps.append(step))
    assert steps == [(2, 2)]
    assert (facts.image_size, facts.class_names) == (12, ("flat", "steep"))
    assert "The images are resized to 12x12, the default of 'saved': --image-size changes it." in facts.notes
    assert facts_of(f"saved:{saved}", image_size=8).fingerprint == facts_of("slopes").fingerprint


def test_a_reader_is_called_with_all_that_was_asked_for(register: Register, tmp_path: Path) -> None:
    requests: list[DataRequest] = []

    def read(request: DataRequest) -> ImageDataset:
        requests.append(request)
        return FOUND

    register(SAVED, read=read)
    facts_of(f"saved:~/x:{tmp_path}", root="~/sets", download=True, strict=True)
    facts_of("saved:a", image_size=8)
    first, second = (replace(request, progress=print) for request in requests)
    home = Path.home()
    assert first == DataRequest(home / f"x:{tmp_path}", 12, home / "sets", True, True, print)
    assert second == DataRequest(Path("a"), 8, Path("data"), False, False, print)


def test_a_path_names_the_sources_that_read_it(register: Register, saved: Path) -> None:
    register(SAVED)
    with pytest.raises(DataError, match=re.escape(f"'{saved}': write folder:{saved} or saved:{saved}.") + "$"):
        facts_of(str(saved))
    with pytest.raises(DataError, match=r"must follow the name of its data source, .*: write npz:.*pixels\.npy\.$"):
        facts_of(str(saved / "pixels.npy"))
    (saved / "state.json").write_text("{}")
    with pytest.raises(DataError, match=re.escape(f"'{saved}': write hf:{saved}.") + "$"):
        facts_of(str(saved))
    (saved / "Birds.CSV").write_text("file,class")
    with pytest.raises(DataError, match=r"write table:.*Birds\.CSV\.$"):
        facts_of(str(saved / "Birds.CSV"))


def test_an_unknown_name_is_refused_with_the_nearest_and_all_known_ones(register: Register) -> None:
    register(SAVED)
    with pytest.raises(
        DataError,
        match=r"^Unknown data source 'savd' in 'savd:x/y': did you mean 'saved:PATH'\? Known: cifar10, cifar100, "
        r"digits, fashion-mnist, folder:PATH, hf:PATH, mnist, mnist-5k, npz:PATH, saved:PATH, table:PATH\.$",
    ):
        facts_of("savd:x/y")


@pytest.mark.parametrize(
    ("written", "sentence"),
    [
        ("saved", "Data source 'saved' needs the path of a folder, but got 'saved': write saved:PATH."),
        ("saved: ", "Data source 'saved' needs the path of a folder, but got 'saved: ': write saved:PATH."),
        ("slopes:x", "Data source 'slopes' takes no path, but got 'slopes:x': write slopes."),
        ("digits:", "Data source 'digits' takes no path, but got 'digits:': write digits."),
    ],
)
def test_a_path_that_is_missing_or_not_wanted_is_refused(register: Register, written: str, sentence: str) -> None:
    register()
    register(SAVED)
    with pytest.raises(DataError, match=f"^{re.escape(sentence)}$"):
        facts_of(written)


@pytest.mark.parametrize(
    ("facts", "sentence"),
    [
        ({"name": "digits"}, "A data source's name must be free, but 'digits' is one of this package: call it 'my_"),
        ({"name": "my:set"}, "A data source's name must be a lower-case identifier, but got 'my:set'."),
        ({"path": "url"}, "The path of a data source must be 'file', 'folder' or None, but is 'url'."),
    ],
)
def test_a_record_that_cannot_be_used_is_refused(register: Register, facts: dict[str, Any], sentence: str) -> None:
    with pytest.raises(DataError, match=re.escape(sentence)):
        register(**facts)
    assert DATA.registered == ()


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(DataError, match=r"registered as a data source must be a nas_attn\.DataSource, but is function"):
        register_data(read_slopes)


def parts(**arrays: Any) -> ImageDataset:
    """Return `FOUND` with other arrays: `train` beside other parts, each (pixels, labels)."""
    return replace(FOUND, parts={part: LabelledImages(*pair) for part, pair in arrays.items()})


WRONG = {
    "no data set": (
        (PIXELS, LABELS),
        "The reader of 'slopes' must return a nas_attn.ImageDataset, but returned tuple.",
    ),
    "no part": (
        replace(FOUND, parts={"train": PIXELS}),
        "of 'train' in 'slopes' must be a nas_attn.LabelledImages, but",
    ),
    "no train": (parts(test=(PIXELS, LABELS)), "A data set must have a part 'train', but 'slopes' has test."),
    "another part": (
        parts(train=(PIXELS, LABELS), valid=(PIXELS, LABELS)),
        "Unknown part 'valid' in the data set 'slopes': did you mean 'val'?",
    ),
    "names": (replace(FOUND, class_names=("a", "a")), "of 'slopes' must be strings that differ, but are ['a', 'a']."),
    "lists": (
        parts(train=(PIXELS.tolist(), LABELS)),
        "The pixels of 'train' in 'slopes' must be a numpy array, but is",
    ),
    "list of labels": (
        parts(train=(PIXELS, LABELS.tolist())),
        "The labels of 'train' in 'slopes' must be a numpy array",
    ),
    "floats": (
        parts(train=(PIXELS / 255, LABELS)),
        "The pixels of 'train' in 'slopes' must be uint8 (0 to 255), but is",
    ),
    "channels first": (
        parts(train=(PIXELS[:, None], LABELS)),
        "or (N, H, W, 3), but has (60, 1, 8, 8, 1): reshape it.",
    ),
    "shapes": (
        parts(train=(PIXELS, LABELS), test=(PIXELS[:, 1:], LABELS)),
        "All images of 'slopes' must have one shape, but they have (8, 8, 1) in train, (7, 8, 1) in test: "
        "resize or convert some.",
    ),
    "a class": (
        parts(train=(PIXELS, LABELS * 2)),
        "must be among its 2 classes (0 to 1), but have the value 2: correct the labels, or add images of it to train.",
    ),
    "columns": (
        parts(train=(PIXELS, np.eye(3, dtype=int)[LABELS])),
        "The labels of 'train' in 'slopes' must have a column per class name, but have 3 for 2 names: make them agree.",
    ),
    "shares": (replace(FOUND, shares=(0.5, 0.5)), "'slopes' must be those of train, val and test, but are [0.5, 0.5]."),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_reader_may_not_return_is_one_sentence(register: Register, case: str) -> None:
    found, sentence = WRONG[case]
    register(read=lambda request: found)
    with pytest.raises(DataError, match=re.escape(sentence)):
        facts_of("slopes")


def test_grey_maps_and_columns_of_labels_get_their_axes_right(register: Register) -> None:
    register()
    expected = facts_of("slopes")
    register(read=lambda request: parts(train=(PIXELS[..., 0], LABELS.astype(np.uint8)[:, None])))
    assert facts_of("slopes") == expected


def test_a_reader_that_raises_is_named_in_one_sentence(register: Register) -> None:
    def fail(request: DataRequest) -> ImageDataset:
        raise KeyError("no\nsuch table")

    def refuse(request: DataRequest) -> ImageDataset:
        raise DataError("A slide must have tiles.")

    register(read=fail)
    with pytest.raises(DataError, match=r"^Data source 'slopes' of this process raised KeyError: 'no.*such table'\.$"):
        facts_of("slopes")
    register(read=refuse)
    with pytest.raises(DataError, match=r"^A slide must have tiles\.$"):
        facts_of("slopes")
    register(read="no_such_package:read")
    with pytest.raises(
        DataError, match=r"reader no_such_package:read of data source 'slopes' cannot be loaded: Module"
    ):
        facts_of("slopes")


# --- searched


SETTINGS = {"trials": 1, "epochs": 1, "seeds": 1, "top": 1, "cpus_per_trial": 1, "executor": "local", "quiet": True}


def test_a_search_on_a_registered_source_names_it(
    register: Register, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register()
    run = search(tiny_space(tmp_path), data="slopes", **SETTINGS)
    assert run.folder == Path("runs/tiny-slopes").absolute()
    assert (run.config["data"]["name"], run.config["data"]["facts"]["n_train"]) == ("slopes", 42)
    assert run.best["class_names"] == ["flat", "steep"]
    assert "Data source 'slopes' belongs to this process." in (run.folder / "log.txt").read_text()


def test_a_search_on_a_path_of_a_registered_source_is_named_after_the_path(
    register: Register, tmp_path: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    register(SAVED, mirror=False)
    with pytest.raises(ConfigError, match=r"^--augment must be none or crop for saved:.*, whose images lose their"):
        search(tiny_space(tmp_path), data=f"saved:{saved}", augment="crop-flip", **SETTINGS)
    run = search(tiny_space(tmp_path), data=f"saved:{saved}", image_size=8, **SETTINGS)
    assert run.folder == Path("runs").absolute() / "tiny-slopes of the alps"
    assert run.config["data"]["facts"]["name"] == f"saved:{saved}"


def test_a_worker_registers_what_the_driver_did(register: Register) -> None:
    register(read=lambda request: FOUND)  # pickled by value, as a notebook's
    records = cloudpickle.loads(cloudpickle.dumps(registered_here()))
    DATA.unregister("slopes")
    with pytest.raises(DataError, match="Unknown data source 'slopes'"):
        facts_of("slopes")
    register_all(records)
    assert facts_of("slopes").n_train == 42


SCRIPT = """
import numpy as np
from own_networks import ResidualCNN
from nas_attn import Backbone, DataSource, ImageDataset, LabelledImages, SearchSpace
from nas_attn import register_backbone, register_data, search

def net(num_classes, in_channels):
    return ResidualCNN(num_classes, in_channels)

def read(request):
    labels = np.arange(80) % 2
    pixels = np.random.RandomState(0).randint(0, 90, (80, 8, 8, 1)).astype(np.uint8)
    pixels[labels == 1, :4] += 90
    return ImageDataset(("low", "high"), {"train": LabelledImages(pixels, labels)})

register_backbone(Backbone("mine", net, "Blocks.", 8))
register_data(DataSource("halves", read, "Two halves."))
sites = [{"match": ["every block.branch"], "attentions": ["se"]}]
space = {"title": "t", "backbone": "mine", "sites": sites, "attentions": {"se": {"reduction": 4}}}
space = SearchSpace.from_dict(space, name="mine")
run = search(space, data="halves", out="run", trials=2, epochs=1, seeds=1, top=1, workers=1)
print("retrained:", len(run.retrain))
"""


@pytest.mark.nightly
def test_a_script_s_source_and_backbone_reach_the_workers_of_ray(run_python, root: Path, tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    paths = os.pathsep.join([str(root), str(root / "tests")])
    done = run_python("script.py", env={"PYTHONPATH": paths}, timeout=250)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^retrained: [1-9]", done.stdout, re.MULTILINE)
