"""Tables of images: which column is what, one class or several labels, every usual form, and what is asked."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data.dataset import load_data
from nas_attn.data.table import LabelTable, read_labels
from nas_attn.errors import DataError

Rows = Sequence[Sequence[object]]
CLASSES = ("cat", "dog", "owl")
N = 12


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Twelve files that are images by their name, in a folder of their own."""
    (tmp_path / "set" / "images").mkdir(parents=True)
    for number in range(N):
        (tmp_path / "set" / "images" / f"im{number}.png").write_bytes(b"")
    return tmp_path / "set"


def write(root: Path, rows: Rows, *, name: str = "labels.csv", between: str = ",", encoding: str = "utf-8") -> Path:
    lines = [between.join(map(str, row)) for row in rows]
    (root / name).write_bytes(("\n".join(lines) + "\n").encode(encoding))
    return root / name


def rows(form: str = "images/im{}.png", *, header: Sequence[str] = ("image", "label"), label: Any = None) -> Rows:
    """Return a table of files and classes, or of whatever `label` returns for each number."""
    label = label or (lambda number: [CLASSES[number % 3]])
    return [*([header] if header else []), *([form.format(number), *label(number)] for number in range(N))]


def labels_of(table: LabelTable) -> list[str]:
    return [table.label_names[number] for number in table.labels]


def refused(path: Path) -> str:
    with pytest.raises(DataError, match=r".") as caught:
        read_labels(path)
    return str(caught.value).replace(str(path), "TABLE").replace(str(path.parent), "ROOT")


EXPECTED = [CLASSES[number % 3] for number in range(N)]

# --- one class per image


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (rows(), "in column 'label', the file in 'image'."),
        (rows(header=()), "in column 'column 2', the file in 'column 1'."),
        (rows(header=("filename", "class")), "in column 'class', the file in 'filename'."),
        (rows(header=("anything", "breed")), "in column 'breed', the file in 'anything'."),
        (rows("./images/im{}.png"), "the file in 'image'."),
        (rows("images\\im{}.png"), "the file in 'image'."),
        (rows("set/images/im{}.png"), "the file in 'image'."),
        (rows("images/im{}", header=("id", "label")), "the file in 'id'."),
        ([row[::-1] for row in rows()], "in column 'label', the file in 'image'."),
        (
            [["", *row] if number == 0 else [number - 1, *row] for number, row in enumerate(rows())],
            "in column 'label', the file in 'image'.",
        ),
        (
            rows(header=("image", "age", "sex", "diagnosis"), label=lambda n: [20 + n, "mf"[n % 2], CLASSES[n % 3]]),
            "in column 'diagnosis', the file in 'image'; not read: 'age', 'sex'.",
        ),
        (
            [
                ["class index", "filepaths", "labels"],
                *([n % 3, f"images/im{n}.png", CLASSES[n % 3]] for n in range(N)),
            ],
            "in column 'labels', the file in 'filepaths'; not read: 'class index'.",
        ),
    ],
)
def test_a_table_of_one_class_per_image_is_understood_and_said(root: Path, table: Rows, said: str) -> None:
    found = read_labels(write(root, table))
    assert found.label_names == CLASSES
    assert labels_of(found) == EXPECTED
    assert [file.path.name for file in found.files] == [f"im{number}.png" for number in range(N)]
    assert found.notes[0].startswith("labels.csv states one class per image, in column ")
    assert found.notes[0].endswith(said)
    assert len(found.notes) == 1


@pytest.mark.parametrize(
    ("name", "between", "encoding"),
    [
        ("labels.csv", ";", "utf-8"), ("labels.csv", ";", "utf-8-sig"), ("labels.tsv", "\t", "utf-8"),
        ("labels.csv", "\t", "utf-16"), ("labels.csv", "|", "utf-8"), ("labels.txt", " ", "utf-8"),
    ],
)  # fmt: skip
def test_other_separators_and_marks_of_byte_order_are_understood(
    root: Path, name: str, between: str, encoding: str
) -> None:
    found = read_labels(write(root, rows(), name=name, between=between, encoding=encoding))
    assert labels_of(found) == EXPECTED


def test_a_line_that_states_the_separator_is_understood(root: Path) -> None:
    write(root, rows(), between=";")
    (root / "labels.csv").write_bytes(b"sep=;\r\n" + (root / "labels.csv").read_bytes() + b"no.png;cat\n")
    assert refused(root / "labels.csv").startswith("Line 15 of TABLE must name a file")


def test_classes_that_differ_in_case_only_are_named(root: Path) -> None:
    found = read_labels(write(root, rows(label=lambda n: ["polar bear" if n % 2 else "Polarbear"])))
    assert found.notes[1] == "Classes that differ in case or blanks only: 'Polarbear', 'polar bear'."


def test_quoted_cells_may_hold_the_separator(root: Path) -> None:
    found = read_labels(write(root, rows('"images/im{}.png"', label=lambda n: ['"cat, big"' if n % 2 else '"dog"'])))
    assert found.label_names == ("cat, big", "dog")


def as_table(**columns: Any) -> pyarrow.Table:
    return pyarrow.table({"path": [f"images/im{number}.png" for number in range(N)], **columns})


def save_stream(table: pyarrow.Table, path: Path) -> None:
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("labels.parquet", pyarrow.parquet.write_table),
        ("labels.feather", pyarrow.feather.write_feather),
        ("labels.arrow", pyarrow.feather.write_feather),
        ("labels.arrow", save_stream),
    ],
)
def test_parquet_and_arrow_tables_are_understood(
    root: Path, name: str, save: Callable[[pyarrow.Table, Path], object]
) -> None:
    split = ["train"] * 9 + ["test"] * 3
    table = as_table(label=pyarrow.array(EXPECTED).dictionary_encode(), split=split)
    save(table, root / name)
    found = read_labels(root / name)
    assert labels_of(found) == EXPECTED
    assert [file.part for file in found.files] == split
    assert found.notes == (
        f"{name} states one class per image, in column 'label', the file in 'path', its part in 'split'.",
    )


def test_whole_numbers_are_classes_in_their_order_however_they_are_stored(root: Path) -> None:
    save = pyarrow.parquet.write_table
    save(as_table(label=[float(number % 12) for number in range(N)]), root / "a.parquet")
    assert read_labels(root / "a.parquet").label_names == tuple(map(str, range(12)))
    assert read_labels(write(root, rows(label=lambda n: [f"{n % 11}.0"]))).label_names == tuple(map(str, range(11)))
    assert read_labels(write(root, rows(header=("image", "ill"), label=lambda n: [n % 2]))).label_names == ("0", "1")


def test_files_are_found_by_their_names_and_that_is_said(root: Path) -> None:
    (root / "images" / "extra.png").write_bytes(b"")
    found = read_labels(write(root, rows("im{}", header=("id", "label"))))
    assert labels_of(found) == EXPECTED
    assert found.notes[1:] == (
        f"12 of 12 files were found by their name anywhere in {root}.",
        f"Images below {root} that the table does not name are not read: 1.",
    )


def test_a_name_in_another_unicode_form_is_the_same_file_and_class(root: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    (root / f"{decomposed}.png").write_bytes(b"")
    table = [*rows(label=lambda n: [decomposed if n % 2 else "a"]), [f"{composed}.png", composed]]
    assert read_labels(write(root, table)).label_names == ("a", composed)


@pytest.mark.parametrize("column", ["split", "set", "data set", "which"])
def test_a_column_of_parts_is_found_by_its_words(root: Path, column: str) -> None:
    words = ["train", "training", "dev", "TEST"]
    table = rows(header=("image", "label", column), label=lambda n: [CLASSES[n % 3], words[n // 3]])
    found = read_labels(write(root, table))
    assert [file.part for file in found.files] == ["train"] * 6 + ["val"] * 3 + ["test"] * 3
    assert found.notes[0].endswith(f"its part in '{column}'.")


# --- several labels per image


def test_columns_of_bits_are_labels_and_never_a_class(root: Path) -> None:
    bits = lambda n: [n % 2, float(n // 2 % 2), bool(n // 4 % 2)]  # noqa: E731
    found = read_labels(write(root, rows(header=("image", *CLASSES), label=bits)))
    assert found.label_names == CLASSES
    assert np.array_equal(found.labels, [[n % 2, n // 2 % 2, n // 4 % 2] for n in range(N)])
    assert found.notes == (
        "labels.csv states several labels per image, a column of 0 and 1 for each of 3, the file in 'image'.",
    )


def test_labels_of_which_every_image_has_one_may_be_classes(root: Path) -> None:
    found = read_labels(write(root, rows(header=("image", *CLASSES), label=lambda n: np.eye(3, dtype=int)[n % 3])))
    assert found.notes[1].startswith("Every image has exactly one of its labels: if they exclude each other, write one")


# --- questions and refusals

AGES = rows(header=("image", "age", "cat", "dog"), label=lambda n: [20 + n, n % 2, n // 2 % 2])
REFUSED: dict[str, tuple[Rows, str]] = {
    "two columns of words": (
        rows(header=("image", "colour", "shape"), label=lambda n: ["rg"[n % 2], CLASSES[n % 3]]),
        "Which column of TABLE is the class, of 'colour', 'shape'? Call it 'label' and no other one so; or, for "
        "several labels per image, keep a column of 0 and 1 for each.",
    ),
    "labels beside a number": (AGES, "Which column of TABLE is the class, of 'age', 'cat', 'dog'? Call it 'label'"),
    "two classes that differ": (
        rows(header=("image", "label", "class"), label=lambda n: ["ab"[n % 2], CLASSES[n % 3]]),
        "Which column of TABLE is the class, of 'label', 'class'?",
    ),
    "a label called label": (
        rows(header=("image", "label", "dog"), label=lambda n: [n % 2, n // 2 % 2]),
        "Is 'label' in TABLE the class, or is each column of 0 and 1 a label? Remove the other columns",
    ),
    "labels without names": (
        rows(header=(), label=lambda n: [n % 2, n // 2 % 2]),
        "TABLE must begin with a line of column names, which are the names of its labels: add it.",
    ),
    "fractions": (
        rows(label=lambda n: [n / 8]),
        "Line 3 of TABLE must name a class in 'label', but has the number 0.125: a quantity cannot be trained",
    ),
    "bars": (
        rows(label=lambda n: [["a|b", "a|c", "a"][n % 3]]),
        "Line 2 of TABLE must name one class in 'label', but 'a|b' may be several: for several labels per image",
    ),
    "tags": (rows(label=lambda n: [["haze", "clear", "haze clear"][n % 3]]), "Line 4 of TABLE must name one class"),
    "a column that may be the parts": (
        rows(header=("image", "label", "is_train"), label=lambda n: [CLASSES[n % 3], n % 2]),
        "Does 'is_train' of TABLE state the parts? Write a column 'split' of train, val and test, or remove it.",
    ),
    "an empty class": (
        rows(label=lambda n: ["" if n == 5 else "a"]),
        "Line 7 of TABLE must name a class in 'label', but has '': name it, or remove the line.",
    ),
    "a class of test alone": (
        rows(header=("image", "label", "split"), label=lambda n: ["ab"[n == 9], "test" if n > 8 else "train"]),
        "Unknown class 'b' in Line 11 of TABLE, which is none of train. Known: a.",
    ),
    "a file twice": (
        [*rows(), ["images/im3.png", "cat"]],
        "Line 14 of TABLE names 'images/im3.png' again, after line 5: remove one of them.",
    ),
    "a missing file": (
        [*rows(), ["no.png", "cat"]],
        "Line 14 of TABLE must name a file below ROOT, but there is no 'no.png': correct or remove it.",
    ),
    "a file outside": (
        [*rows(), ["../x.png", "a"]],
        "must name a file below ROOT, but there is no '../x.png': correct or remove it.",
    ),
    "no classes": (rows(header=("image",), label=lambda n: []), "TABLE must have a column of files and one of classes"),
    "a long row": (
        [*rows(), ["images/im1.png", "a", "b"]],
        "Line 14 of TABLE must have 2 columns like the first line, but has 3: repair the line, or the first one, which",
    ),
    "a comment above": (
        [["# mine"], *rows()],
        "Line 2 of TABLE must have 1 column like the first line, but has 2: repair the line, or the first one, which",
    ),
    "a control character": (
        [*rows(), ["images/im3.png\0", "cat"]],
        "Line 14 of TABLE must name a file below ROOT, but there is no 'images/im3.png\N{REPLACEMENT CHARACTER}': "
        "correct or remove it.",
    ),
    "nothing": ([[""]], "TABLE must have a line of column names and a line per image, but has 0: write them."),
    "a header": (
        [["image", "label"]],
        "TABLE must have a line of column names and a line per image, but has 1: add the images.",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_table_that_may_mean_several_things_is_asked_about_in_one_sentence(root: Path, case: str) -> None:
    table, message = REFUSED[case]
    (root.parent / "x.png").write_bytes(b"")
    assert message in refused(write(root, table))


def test_labels_that_may_be_missing_are_named(root: Path) -> None:
    found = read_labels(write(root, rows(label=lambda n: [["cat", "NaN", "dog"][n % 3]])))
    assert found.notes[-1] == "Classes that may be missing labels, but are read as classes: 'NaN'."
    assert not any("missing labels" in note for note in read_labels(write(root, rows())).notes)


def test_two_labels_that_only_look_joined_are_one(root: Path) -> None:
    found = read_labels(write(root, rows(label=lambda n: [["polar bear", "brown bear", "a|b"][n % 3]])))
    assert found.label_names == ("a|b", "brown bear", "polar bear")


def test_a_second_column_of_files_is_not_read_or_asked_about(root: Path) -> None:
    (root / "masks").mkdir()
    for number in range(N):
        (root / "masks" / f"m{number}.png").write_bytes(b"")
    both = lambda n: [f"masks/m{n}.png", CLASSES[n % 3]]  # noqa: E731
    found = read_labels(write(root, rows(header=("image", "mask", "label"), label=both)))
    assert found.notes[0].endswith("the file in 'image'; not read: 'mask'.")
    message = "Does 'photo' or 'mask' of TABLE name the images? Remove the other column."
    assert refused(write(root, rows(header=("photo", "mask", "label"), label=both))) == message


def test_a_name_of_two_files_is_asked_about(root: Path) -> None:
    (root / "other").mkdir()
    (root / "other" / "im4.png").write_bytes(b"")
    assert refused(write(root, rows("im{}.png"))) == (
        "Line 6 of TABLE must name one file below ROOT, but 'im4.png' may be images/im4.png and other/im4.png: write "
        "its path."
    )


def test_numbers_that_are_names_of_files_and_classes_are_told_apart(root: Path) -> None:
    for number in range(N):
        (root / "images" / f"{number}.png").write_bytes(b"")
    for header in (("id", "label"), ()):
        found = read_labels(write(root, rows("{}", header=header, label=lambda n: [n % 2])))
        assert labels_of(found) == ["01"[number % 2] for number in range(N)]


def test_files_of_other_kinds_are_refused(root: Path) -> None:
    (root / "a.xlsx").write_bytes(b"PK")
    assert refused(root / "a.xlsx").startswith("A table of images must be a file of .csv, .tsv, .txt, .parquet")
    assert refused(root / "none.csv") == "A table of images must exist, but there is none at TABLE: check the path."
    (root / "bad.parquet").write_bytes(b"PAR1 and no more")
    assert refused(root / "bad.parquet").startswith("TABLE must be a Parquet or Arrow file, but cannot be read (")
    pyarrow.parquet.write_table(as_table(label=[[one] for one in EXPECTED]), root / "lists.parquet")
    assert "Column 'label' of TABLE must have one value per image, but holds lists" in refused(root / "lists.parquet")
    pyarrow.parquet.write_table(as_table(image=[b""] * N), root / "bytes.parquet")
    assert refused(root / "bytes.parquet") == (
        "Column 'image' of TABLE must name files, but holds the images themselves: write hf:ROOT."
    )
    write(root, rows(label=lambda n: ["Käfer"]), encoding="cp1252")
    assert "TABLE must be a table in UTF-8 with commas, semicolons or tabs" in refused(root / "labels.csv")


# --- whole data sets


@pytest.fixture
def drawn(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same folder, with images."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(root.parent / "cache"))
    for number in range(N):
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / "images" / f"im{number}.png")
    return root


def test_a_folder_with_a_table_and_the_table_itself_are_the_same_data(drawn: Path) -> None:
    write(drawn, rows())
    names = (f"folder:{drawn}", f"folder:{drawn.parent}", f"table:{drawn}/labels.csv")
    facts = [load_data(DataConfig(name=name, image_size=8)).facts for name in names]
    assert len({one.fingerprint for one in facts}) == 1
    assert facts[0].class_names == CLASSES
    assert any(note.startswith("labels.csv states one class per image") for note in facts[1].notes)
    assert f"{drawn.parent} holds only set, which is read." in facts[1].notes


def test_a_folder_with_two_tables_is_refused(drawn: Path) -> None:
    write(drawn, rows())
    write(drawn, rows(), name="labels.tsv", between="\t")
    with pytest.raises(DataError, match=r"must have one table, but has labels\.csv and labels\.tsv: move one away"):
        load_data(DataConfig(name=f"folder:{drawn}", image_size=8))
