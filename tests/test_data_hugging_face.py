"""Data sets of Hugging Face on disk: as `save_to_disk` writes them, and as Parquet or Arrow files."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.arrow_shards import Shards
from nas_attn.data.dataset import Data, load_data
from nas_attn.data.hugging_face_columns import find_features
from nas_attn.errors import DataError

NAMES = ["cat", "dog", "owl"]
IMAGE = {"_type": "Image"}
LABEL = {"_type": "ClassLabel", "names": NAMES}
FEATURES = {"image": IMAGE, "label": LABEL}


pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "set"


def pixels(number: int, size: tuple[int, int] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (*size, 3), dtype=np.uint8)


def encoded(number: int, size: tuple[int, int] = (8, 8)) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(number, size)).save(file, "PNG")
    return file.getvalue()


def table(n: int, first: int = 0, *, features: Mapping[str, Any] = FEATURES, **columns: Any) -> pyarrow.Table:
    """Return a table as `datasets` makes it: images as bytes and paths, labels as numbers, features in the metadata."""
    images = [{"bytes": encoded(first + number), "path": f"{number}.png"} for number in range(n)]
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    found = pyarrow.table({"image": pyarrow.array(images, kind), "label": [number % 3 for number in range(n)]})
    for name, values in columns.items():
        place = found.schema.get_field_index(name)
        values = values if isinstance(values, pyarrow.Array) else pyarrow.array(values)
        found = found.append_column(name, values) if place < 0 else found.set_column(place, name, values)
    return found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


def save(folder: Path, *shards: pyarrow.Table, **state: Any) -> Path:
    """Write what `Dataset.save_to_disk` writes."""
    folder.mkdir(parents=True)
    names = [f"data-{number:05}-of-{len(shards):05}.arrow" for number in range(len(shards))]
    for name, shard in zip(names, shards, strict=True):
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, shard.schema) as writer:
            writer.write_table(shard, max_chunksize=7)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names], **state}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def save_splits(root: Path, **splits: pyarrow.Table) -> None:
    for name, rows in splits.items():
        save(root / name, rows)
    (root / "dataset_dict.json").write_text(json.dumps({"splits": list(splits)}))


def load(root: Path, **options: Any) -> Data:
    return load_data(DataConfig(name=f"hf:{root}", **options))


def refused(root: Path) -> str:
    with pytest.raises(DataError, match=r".") as caught:
        load(root)
    return str(caught.value).replace(str(root), "ROOT")


def images_of(data: Data) -> Sequence[np.ndarray]:
    return [
        image.permute(1, 2, 0).numpy()
        for part in (data.train, data.val, data.test)
        for image in part.take(slice(0, len(part)))
    ]


def test_splits_are_parts_and_the_images_are_the_bytes(root: Path) -> None:
    save_splits(root, train=table(30), validation=table(9, 30), test=table(12, 39))
    data = load(root)
    assert (data.facts.n_train, data.facts.n_val, data.facts.n_test) == (30, 9, 12)
    assert (data.facts.class_names, data.facts.image_size) == (tuple(NAMES), 8)
    assert data.test.targets.tolist() == [number % 3 for number in range(12)]
    for number, image in enumerate(images_of(data)):
        assert np.array_equal(image, pixels(number))
    assert data.facts.notes[0] == "The images are in column 'image', one class per image in 'label'."


def test_a_set_without_splits_of_several_files_is_split(root: Path) -> None:
    save(root, table(20), table(25, 20))
    facts = load(root).facts
    assert (facts.n_train + facts.n_val + facts.n_test, facts.class_counts) == (45, (16, 15, 14))


@pytest.mark.parametrize("layout", ["data/{}-00000-of-00001.parquet", "{}/0.parquet", "mnist-{}.arrow", "{}.parquet"])
def test_files_whose_names_state_the_split_are_the_same_data(root: Path, tmp_path: Path, layout: str) -> None:
    save_splits(tmp_path / "saved", train=table(30), test=table(12, 30))
    for split, rows in (("train", table(30)), ("test", table(12, 30))):
        path = root / layout.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(rows, path, row_group_size=7)
        else:
            with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, rows.schema) as writer:
                writer.write_table(rows)
    (root / "README.md").write_text("about")
    assert load(root).facts.fingerprint == load(tmp_path / "saved").facts.fingerprint


def test_a_single_file_may_be_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(table(30), tmp_path / "some.parquet")
    assert load(tmp_path / "some.parquet").facts.class_counts == (10, 10, 10)


@pytest.mark.parametrize("suffix", ["arrow", "parquet"])
def test_images_may_be_files_that_the_set_names(root: Path, suffix: str) -> None:
    (root / "files").mkdir(parents=True)
    values = []
    for number in range(30):
        path = root / "files" / f"{number}.png"
        path.write_bytes(encoded(number))
        named = str(path) if number % 2 else f"files/{number}.png"
        values.append({"bytes": None, "path": named} if number else {"bytes": encoded(0), "path": "gone.png"})
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    rows = table(30, image=pyarrow.array(values, kind))
    if suffix == "arrow":
        save(root / "saved", rows)
    else:
        (root / "saved").mkdir()
        pyarrow.parquet.write_table(rows, root / "saved" / "train.parquet", row_group_size=10)
    for path in (root / "files").iterdir():
        (root / "saved" / "files").mkdir(exist_ok=True)
        (root / "saved" / "files" / path.name).write_bytes(path.read_bytes())
    data = load(root / "saved", split=(0.8, 0.1, 0.1))
    assert {image.tobytes() for image in images_of(data)} == {pixels(number).tobytes() for number in range(30)}
    (root / "saved" / "files" / "4.png").unlink()
    assert "row 4 names 'files/4.png', which does not exist." in refused(root / "saved")


def test_a_row_without_an_image_is_named(root: Path) -> None:
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    values = [{"bytes": encoded(number), "path": None} if number != 7 else None for number in range(30)]
    save(root / "saved", table(30, image=pyarrow.array(values, kind)))
    message = "Every row of ROOT must have an image, but row 7 has none: remove the row."
    assert refused(root / "saved") == message


@pytest.mark.parametrize(
    "form", [{"_type": "Sequence", "feature": LABEL}, {"_type": "List", "feature": LABEL}, [LABEL]]
)
def test_lists_of_class_labels_are_several_labels(root: Path, form: Any) -> None:
    lists = [[0, 2], [1], [], [2, 1]] * 10
    save(root, table(40, features={"image": IMAGE, "label": form}, label=lists))
    facts = load(root).facts
    assert (facts.task, facts.class_names, facts.class_counts) == ("multi-label", tuple(NAMES), (10, 20, 20))
    assert facts.notes[0] == "The images are in column 'image', several labels per image in 'label'."


def test_a_column_without_class_names_is_its_values(root: Path) -> None:
    save(root, table(36, features={"image": IMAGE}, label=[f"k{number % 2}" for number in range(36)], age=range(36)))
    data = load(root)
    assert data.facts.class_names == ("k0", "k1")
    assert data.facts.notes[0].endswith("one class per image in 'label'; not read: 'age'.")
    save(root.parent / "numbers", table(33, features={"image": IMAGE}, label=[number % 11 for number in range(33)]))
    assert load(root.parent / "numbers").facts.class_names == tuple(map(str, range(11)))


def test_images_of_several_sizes_get_one_and_it_is_said(root: Path) -> None:
    rows = table(30).to_pydict()
    rows["image"][29]["bytes"] = encoded(29, (9, 7))
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    save(root, table(30, image=pyarrow.array(rows["image"], kind)))
    facts = load(root).facts
    assert facts.image_size == 64
    assert "The images differ in size, so they are resized to 64x64: --image-size changes it." in facts.notes
    assert load(root, image_size=8).facts.image_size == 8


def test_a_damaged_image_is_named_by_its_row(root: Path) -> None:
    rows = table(30).to_pydict()
    rows["image"][7]["bytes"] = b"no image"
    kind = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
    save(root, table(30, image=pyarrow.array(rows["image"], kind)))
    assert any("train/7" in note for note in load(root).facts.notes)


def test_a_test_split_without_labels_is_not_read_and_it_is_said(root: Path) -> None:
    save_splits(root, train=table(30), test=table(12, 30, label=[-1] * 12), unsupervised=table(3, 50))
    facts = load(root).facts
    assert facts.n_train + facts.n_val + facts.n_test == 30
    assert facts.notes[0] == "Splits that are not read: 'unsupervised'."
    assert facts.notes[2] == "The split 'test' has no labels (all are -1 or missing), so it is not read."


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no label": (
        {"features": {"image": IMAGE}, "label": [0.5] * 30},
        "ROOT must have a column of class labels, or one of text or whole numbers called 'label', but has 'label' (do",
    ),
    "a label out of range": ({"label": [*range(3)] * 9 + [0, 1, 5]}, "row 29 of the split 'train' has 5 in 'label'"),
    "a missing label": ({"label": [0, 1, None] * 10}, "row 2 of the split 'train' has None in 'label': remove it."),
    "equal names": (
        {"features": {"image": IMAGE, "label": {"_type": "ClassLabel", "names": ["a", "b", "a"]}}},
        "The class names of 'label' in ROOT must differ and be text, but one is 'a'.",
    ),
    "no image": (
        {"image": ["x"] * 30},
        "ROOT must have a column of images, but has 'image' (string), 'label' (int64): cast one by cast_column(",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_columns_that_do_not_fit_are_refused(root: Path, case: str) -> None:
    options, message = BAD[case]
    save(root, table(30, **options))
    assert message in refused(root)


def test_of_two_columns_of_classes_the_one_called_label_is_read_and_others_asked_about(root: Path) -> None:
    save(root, table(30, features={**FEATURES, "fine": LABEL}, fine=[0] * 30))
    assert find_features(Shards([root / "data-00000-of-00001.arrow"]), root).label == "label"
    rows = table(30, features={"image": IMAGE, "fine": LABEL, "coarse": LABEL}, fine=[0] * 30, coarse=[1] * 30)
    save(root.parent / "two", rows.drop_columns(["label"]).replace_schema_metadata(rows.schema.metadata))
    assert refused(root.parent / "two") == (
        "ROOT must have one column of labels, but has 'fine', 'coarse': remove the others by remove_columns() and save "
        "it again."
    )


def test_folders_of_another_kind_are_refused(root: Path) -> None:
    assert refused(root) == (
        "A data set of Hugging Face must exist on disk, but there is none at ROOT: write it there by "
        "load_dataset(NAME).save_to_disk(PATH)."
    )
    root.mkdir()
    assert refused(root).startswith("ROOT must be a data set that Dataset.save_to_disk wrote, or hold Parquet")
    (root / "state.json").write_text("{broken")
    assert refused(root).startswith("ROOT/state.json must be a JSON file of a saved data set, but cannot be read: ")
    (root / "state.json").write_text('{"_data_files": [{"filename": "../x.arrow"}]}')
    assert refused(root).startswith("ROOT/state.json must name the data files, but names ")
    (root / "state.json").write_text('{"_data_files": [{"filename": "x.arrow"}]}')
    assert refused(root).startswith("ROOT/x.arrow must be a Parquet or Arrow file, but cannot be read (")
    save(root / "nothing")
    assert refused(root / "nothing") == "A split must have rows, but ROOT has none: remove the split."
    save(root / "indexed", table(30), _indices_data_files=[{"filename": "indices.arrow"}])
    assert "selects them by an index: call flatten_indices() and save it again." in refused(root / "indexed")


def test_splits_that_do_not_fit_are_refused(root: Path) -> None:
    save_splits(root, dev=table(30), test=table(30))
    assert refused(root) == "ROOT must have a split 'train', but has 'dev', 'test': name the folder of one split alone."
    save_splits(root.parent / "twice", train=table(30), dev=table(30), validation=table(30))
    assert "must have one val split, but has 'dev' and 'validation': remove one." in refused(root.parent / "twice")
    for name in ("en", "fr"):
        (root.parent / "configs" / name).mkdir(parents=True)
        pyarrow.parquet.write_table(table(30), root.parent / "configs" / name / "train.parquet")
    assert refused(root.parent / "configs") == (
        "ROOT must hold one data set, but en and fr both have a split 'train': name one folder."
    )


def test_files_with_other_columns_are_refused(root: Path) -> None:
    save(root, table(30), table(30, age=range(30)))
    assert "must have the columns of data-00000-of-00002.arrow, image, label, but has image, label, age." in refused(
        root
    )
