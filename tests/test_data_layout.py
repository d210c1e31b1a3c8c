"""What the folders of an image folder mean: parts, classes, containers, companions, links; and what is asked."""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path

import pytest

from nas_attn.data.layout import entered, find_layout
from nas_attn.data.parts import is_unclear, part_of
from nas_attn.data.tree import scan
from nas_attn.errors import DataError

Found = tuple[dict[str, dict[str, int]], tuple[str, ...]]


def lay(root: Path, *paths: str, n: int = 2) -> Path:
    """Make folders with `n` files that are images by their name; "x.y" is one file, "x/" an empty folder."""
    for path in paths:
        place = root / path
        if place.suffix:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(b"")
            continue
        place.mkdir(parents=True, exist_ok=True)
        if not path.endswith("/"):
            for number in range(n):
                (place / f"{number}.png").write_bytes(b"")
    return root


def found(root: Path) -> Found:
    """Return the number of images of each class of each part, and the notes."""
    tree = scan(root)
    place, notes = entered(tree.root, ("labels.csv",))
    layout = find_layout(tree, place)
    counts = {
        part: {layout.class_names[number]: sum(one.n_images for one in folders) for number, folders in classes.items()}
        for part, classes in layout.classes.items()
    }
    return counts, (*notes, *layout.notes)


def refused(root: Path) -> str:
    with pytest.raises(DataError, match=r".") as caught:
        found(root)
    return str(caught.value).replace(str(root), "ROOT")


BOTH = {"cat": 2, "dog": 2}


# --- names of parts


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("train", "train"), ("Training", "train"), ("seg_train", "train"), ("train-images", "train"),
        ("Training Set", "train"), ("trainset", "train"), ("train2017", "train"), ("VAL", "val"), ("valid", "val"),
        ("validation_data", "val"), ("dev", "val"), ("test1", "test"), ("TESTING", "test"), ("my.test", "test"),
        ("trainee", None), ("contest", None), ("development", None), ("train_test_split", None), ("data", None),
    ],
)  # fmt: skip
def test_a_name_means_a_part_by_its_words(name: str, part: str | None) -> None:
    assert part_of(name) == part


def test_evaluation_may_mean_two_parts() -> None:
    assert [is_unclear(name) for name in ("evaluation", "Eval", "holdout-set", "evaluate_me", "test")] == [
        True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    "names",
    [
        ("train", "val", "test"), ("Training", "Validation", "Testing"), ("TRAIN", "dev", "TEST"),
        ("seg_train", "seg_val", "seg_test"), ("training_set", "valid_set", "test_set"), ("train17", "val17", "test17"),
    ],
)  # fmt: skip
def test_folders_that_are_called_like_parts_are_parts(tmp_path: Path, names: tuple[str, ...]) -> None:
    lay(tmp_path, *(f"{name}/{one}" for name in names for one in ("cat", "dog")))
    assert found(tmp_path) == ({"train": BOTH, "val": BOTH, "test": BOTH}, ())


def test_classes_that_hold_such_a_word_stay_classes(tmp_path: Path) -> None:
    lay(tmp_path, "steam_train", "bullet_train", "test_tube", "dev-board")
    assert list(found(tmp_path)[0]["train"]) == ["bullet_train", "dev-board", "steam_train", "test_tube"]


@pytest.mark.parametrize("names", [("train", "Training"), ("val", "dev"), ("test", "testing"), ("train", "train_2")])
def test_two_names_of_one_part_are_refused(tmp_path: Path, names: tuple[str, str]) -> None:
    lay(tmp_path, *(f"{name}/{one}" for name in {*names, "train", "test"} for one in ("cat", "dog")))
    part, first, second = part_of(names[0]), *sorted(names)
    assert refused(tmp_path) == (
        f"ROOT must have one {part} folder, but has '{first}' and '{second}': join them, or move one away."
    )


# --- questions


@pytest.mark.parametrize("train", ["train", "train/a"])
def test_a_lone_train_beside_other_folders_is_asked_about(tmp_path: Path, train: str) -> None:
    lay(tmp_path, train, "train/b" if "/" in train else train, "bus", "car")
    assert refused(tmp_path) == (
        "Is 'train' in ROOT a part of the data or a class, beside 'bus', 'car'? Move the other folders away if it is a "
        "part, or rename it if it is a class."
    )


def test_parts_without_train_beside_other_folders_are_asked_about(tmp_path: Path) -> None:
    lay(tmp_path, "val/a", "val/b", "test/a", "test/b", "images/a", "images/b")
    assert refused(tmp_path).startswith("Are 'test', 'val' in ROOT parts of the data or classes, beside 'images'?")


def test_a_folder_that_may_be_val_or_test_is_asked_about(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{part}/{one}" for part in ("training", "validation", "evaluation") for one in ("cat", "dog")))
    assert refused(tmp_path) == "Is 'evaluation' in ROOT val or test? Rename it to one of them."


@pytest.mark.parametrize("test", ["test", "test1", "Testing"])
def test_a_part_without_class_folders_is_refused(tmp_path: Path, test: str) -> None:
    lay(tmp_path, "train/cat", "train/dog", test, n=3)
    assert refused(tmp_path) == (
        f"Every image must lie in a class folder, but the 3 images of ROOT/{test} lie beside none: sort them into "
        "class folders, or move the folder away."
    )


def test_images_without_any_class_folder_are_refused_with_both_ways_out(tmp_path: Path) -> None:
    lay(tmp_path / "a", "train", "test")
    assert refused(tmp_path / "a") == (
        "ROOT must have class folders inside of 'test', 'train', but the images lie there without any: sort them into "
        "class folders, or state each image's class in a labels.csv."
    )
    lay(tmp_path, "b/1.png")
    assert "it has no folder beside 1 images: make them, or state each image's class in a labels.csv" in refused(
        tmp_path / "b"
    )


@pytest.mark.parametrize(
    ("paths", "shown"),
    [
        (("a/images", "a/masks", "b/images", "b/masks"), "ROOT/a holds 'images', 'masks'"),
        (("p1/benign", "p1/malignant", "p2/benign", "p3/malignant"), "ROOT/p1 holds 'benign', 'malignant'"),
        (("benign/SOB/x", "malignant/SOB/y"), "ROOT/benign holds 'sob'"),
        (("train/a/images", "train/b/images", "test/a/images", "test/b/images"), "ROOT/train/a holds 'images'"),
    ],
)
def test_classes_that_hold_the_same_folders_are_asked_about(tmp_path: Path, paths: tuple[str, ...], shown: str) -> None:
    assert refused(lay(tmp_path, *paths)) == (
        f"Are the classes the outer folders or the inner ones? {shown}, like other folders beside it: keep one level "
        "of class folders, or state the class of each image in a labels.csv."
    )


def test_a_part_inside_of_a_part_is_asked_about(tmp_path: Path) -> None:
    lay(tmp_path, "train/cat", "train/dog", "train/val/cat", "train/val/dog", "test/cat", "test/dog")
    assert refused(tmp_path).startswith(
        "Is ROOT/train/val a part of the data or a class? Move it beside the other parts"
    )


def test_a_file_in_place_of_a_folder_is_refused(tmp_path: Path) -> None:
    assert refused(lay(tmp_path, "a.zip") / "a.zip").startswith("An image folder must be a folder, but ROOT is a file:")


@pytest.mark.parametrize("mask", ["a (1)_mask", "a (1)_mask_2", "a (1)-seg", "a (1) Segmentation"])
def test_masks_beside_their_images_are_asked_about(tmp_path: Path, mask: str) -> None:
    lay(tmp_path, "cat", "dog", "dog/a (1).png", f"dog/{mask}.png")
    assert refused(tmp_path) == (
        f"Is ROOT/dog/{mask}.png an image of its class, or a mask of 'a (1)'? Move masks away, or name the images in a "
        "labels.csv."
    )


def test_an_image_that_is_called_a_mask_without_another_is_an_image(tmp_path: Path) -> None:
    assert found(lay(tmp_path, "cat", "dog", "dog/gas_mask.png"))[0] == {"train": {"cat": 2, "dog": 3}}


def test_parts_inside_of_classes_are_refused(tmp_path: Path) -> None:
    lay(tmp_path, "cat/train", "cat/test", "dog/train", "dog/test")
    assert refused(tmp_path) == (
        "Parts must lie outside of the classes, but ROOT/cat holds 'test', 'train', like other classes: make it "
        "PART/CLASS, or state class and split of each image in a labels.csv."
    )


def test_other_folders_inside_of_classes_are_joined_and_named(tmp_path: Path) -> None:
    lay(tmp_path, "cat/siam", "cat/persian", "dog/lab", "owl")
    counts, notes = found(tmp_path)
    assert counts == {"train": {"cat": 4, "dog": 2, "owl": 2}}
    assert notes == (
        "The outer folders are the classes; folders inside are read as part of them: cat/persian, cat/siam, dog/lab.",
    )


# --- containers


def test_a_single_folder_around_the_data_is_entered_and_said(tmp_path: Path) -> None:
    lay(tmp_path, "archive/xray/train/cat", "archive/xray/train/dog", "archive/xray/test/cat", "archive/xray/test/dog")
    lay(tmp_path, "README.md", "__MACOSX/a.png", "archive/licence.txt")
    counts, notes = found(tmp_path)
    assert counts == {"train": BOTH, "test": BOTH}
    assert notes == (
        f"{tmp_path} holds only archive/xray, which is read.",
        "3 files that are no images were passed over: 1 .md, 1 hidden, 1 .txt.",
    )


def test_a_single_folder_inside_of_a_part_is_entered(tmp_path: Path) -> None:
    lay(tmp_path, *(f"{name}/{name}/{one}" for name in ("training_set", "test_set") for one in ("cat", "dog")))
    counts, notes = found(tmp_path)
    assert counts == {"train": BOTH, "test": BOTH}
    assert notes[1] == f"{tmp_path / 'test_set'} holds only test_set, which is read."


def test_a_part_of_one_class_is_no_container(tmp_path: Path) -> None:
    lay(tmp_path, "train/cat", "train/dog", "test/cat/deep")
    assert found(tmp_path)[0] == {"train": BOTH, "test": {"cat": 2}}


def test_one_class_is_no_container(tmp_path: Path) -> None:
    assert "two classes or more, but it has only 'cat'" in refused(lay(tmp_path, "cat"))


# --- classes


def test_an_empty_class_is_refused_and_a_folder_of_companions_is_none(tmp_path: Path) -> None:
    lay(tmp_path, "cat", "dog", "annotations/1.xml", "clips/1.mp4")
    counts, notes = found(tmp_path)
    assert counts == {"train": BOTH}
    assert notes[0] == f"Folders of {tmp_path} without images are no classes: annotations, clips."
    lay(tmp_path, "fish/")
    assert (
        refused(tmp_path) == "Every class must have images, but ROOT/fish is empty: add images, or remove the folder."
    )


def test_images_beside_the_class_folders_are_counted(tmp_path: Path) -> None:
    lay(tmp_path, "cat", "dog", "1.png", "2.png")
    assert found(tmp_path)[1] == (f"Images in {tmp_path} outside of its class folders are not read: 2.",)


def test_names_that_are_equal_in_nfc_are_one_class_in_every_part(tmp_path: Path) -> None:
    composed, decomposed = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    lay(tmp_path, f"train/{composed}", f"train/{decomposed}", "train/plain", f"test/{decomposed}", "test/plain")
    counts, notes = found(tmp_path)
    assert counts == {"train": {composed: 4, "plain": 2}, "test": {composed: 2, "plain": 2}}
    assert notes == (f"Folders of train whose names are equal in Unicode's form NFC are one class: {composed}.",)


def test_classes_that_differ_in_case_only_are_named(tmp_path: Path) -> None:
    assert found(lay(tmp_path, "Cat", "cat", "dog"))[1] == (
        "Classes that differ in case or blanks only: 'Cat', 'cat'.",
    )


@pytest.mark.parametrize("name", [b"caf\xe9", b"two\nlines"])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.skipif(sys.platform == "darwin", reason="its file system refuses such names")
def test_a_class_name_that_cannot_be_written_is_refused(tmp_path: Path, name: bytes, part: str) -> None:
    lay(tmp_path, "train/cat", "train/dog", "test/cat", f"{part}/{os.fsdecode(name)}")
    message = refused(tmp_path)
    message.encode()
    assert message.startswith(f"The name of a class must be UTF-8 without control characters, but ROOT/{part}/")
    assert "\N{REPLACEMENT CHARACTER}" in message


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            ("./",),
            "ROOT must have one folder per class, two classes or more, but it has no folder: make them, or state",
        ),
        (("a/",), "two classes or more, but it has only 'a': make them, or state each image's class in a labels.csv."),
        (
            ("a/", "b/"),
            "An image folder must have images, but ROOT has no image in any class folder: add images, or remove the "
            "folder.",
        ),
        (("val/a/", "test/a/"), "ROOT must have a 'train' folder beside 'test', 'val', but has none: add it."),
        (("train/a", "train/b", "val/a/"), "An image folder must have images, but ROOT/val has no image in any class"),
        (("train/a", "train/b", "test/c"), "Unknown class 'c' in ROOT/test. Known: a, b."),
    ],
)
def test_folders_without_images_or_classes_are_refused(tmp_path: Path, paths: tuple[str, ...], message: str) -> None:
    assert message in refused(lay(tmp_path, *paths))


# --- companion files


def test_companion_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "cat",
        "dog",
        "cat/1.xml",
        "cat/2.XML",
        "dog/1.xml",
        "cat/1.jpg.txt",
        "cat/.DS_Store.x",
        "dog/Thumbs.db",
    )
    lay(
        tmp_path,
        "dog/.ipynb_checkpoints/1.png",
        "dog/@eaDir/1.jpg",
        "cat/a.json",
        "cat/a.xmp",
        "cat/a.cr2",
        "cat/a.zzz",
    )
    (tmp_path / "cat" / "README").write_text("about")
    (tmp_path / "cat" / "a.jpg~").write_bytes(b"\xff\xd8\xff")
    counts, notes = found(tmp_path)
    assert counts == {"train": BOTH}
    assert notes == (
        "14 files that are no images were passed over: 4 hidden, 3 .xml, 1 .txt, 1 without suffix, 1 .cr2, 4 others.",
    )


@pytest.mark.parametrize(
    "start",
    [
        b"\xff\xd8\xff\xe0",
        b"\x89PNG\r\n\x1a\n",
        b"GIF89a",
        b"RIFF\0\0\0\0WEBP",
        b"\0\0\0\x18ftypheic",
        bytes(128) + b"DICM",
    ],
)
@pytest.mark.parametrize("name", ["0a1b2c", "image.1234"])
def test_a_file_without_a_usual_suffix_is_an_image_by_its_first_bytes(tmp_path: Path, name: str, start: bytes) -> None:
    lay(tmp_path, "cat", "dog")
    (tmp_path / "cat" / name).write_bytes(start)
    assert found(tmp_path) == ({"train": {"cat": 3, "dog": 2}}, ())


# --- links


def test_a_loop_of_links_is_not_followed(tmp_path: Path) -> None:
    lay(tmp_path / "set", "cat", "dog")
    (tmp_path / "set" / "cat" / "up").symlink_to("..")
    (tmp_path / "set" / "dog" / "above").symlink_to("../..")
    (tmp_path / "set" / "dog" / "other").symlink_to("../cat")
    counts, notes = found(tmp_path / "set")
    assert counts == {"train": BOTH}
    assert notes == ("Links to folders that are read elsewhere are not followed: cat/up, dog/above, dog/other.",)


def test_a_link_out_of_the_folder_is_followed_once_where_it_is_nearest_to_the_root(tmp_path: Path) -> None:
    lay(tmp_path, "outside/owl", "set/cat", "set/dog")
    (tmp_path / "set" / "cat" / "a").symlink_to(tmp_path / "outside" / "owl")
    (tmp_path / "set" / "owl").symlink_to(tmp_path / "outside" / "owl")
    counts, notes = found(tmp_path / "set")
    assert counts == {"train": BOTH | {"owl": 2}}
    assert notes == ("Links to folders that are read elsewhere are not followed: cat/a.",)


@pytest.mark.parametrize(("link", "target"), [("test", "train"), ("test/dog", "../train/dog"), ("kitten", "cat")])
def test_a_link_never_puts_an_image_into_two_places(tmp_path: Path, link: str, target: str) -> None:
    if link == "kitten":
        lay(tmp_path, "cat", "dog")
    else:
        lay(tmp_path, "train/cat", "train/dog", *(["test/cat"] if "/" in link else []))
    (tmp_path / link).symlink_to(target)
    counts, notes = found(tmp_path)
    assert counts == {"train": BOTH} | ({"test": {"cat": 2}} if "/" in link else {})
    assert notes == (f"Links to folders that are read elsewhere are not followed: {link}.",)


def test_files_of_other_kinds_alone_are_named(tmp_path: Path) -> None:
    assert refused(lay(tmp_path, "cat/1.npy", "cat/2.npy", "dog/1.nii.gz")) == (
        "An image folder must have images, but ROOT has none among its files: 2 .npy, 1 .gz. Convert them, or write a "
        "data source of your own."
    )


def test_a_pipe_is_passed_over_and_a_link_to_nowhere_is_a_file(tmp_path: Path) -> None:
    lay(tmp_path, "cat", "dog")
    os.mkfifo(tmp_path / "cat" / "pipe.png")
    (tmp_path / "dog" / "gone.png").symlink_to("nowhere")
    (tmp_path / "dog" / "self.png").symlink_to("self.png")
    counts, notes = found(tmp_path)
    assert counts == {"train": {"cat": 2, "dog": 4}}
    assert notes == ("1 file that is no image was passed over: 1 special.",)
