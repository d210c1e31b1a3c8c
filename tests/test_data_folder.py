"""Image folders: their layouts, their cache, and what is skipped or refused."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nas_attn.config import DataConfig
from nas_attn.data import decode, room
from nas_attn.data.dataset import describe, load_data
from nas_attn.data.decode import cache_file, decode_all
from nas_attn.data.entry import DataRequest
from nas_attn.data.folder import list_classes, read_folder
from nas_attn.data.tree import scan
from nas_attn.errors import DataError

pytestmark = pytest.mark.usefixtures("cache_home")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "images"


def draw(path: Path, number: int = 0, *, mode: str = "RGB", size: tuple[int, int] = (10, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (*size[::-1], len(mode)) if mode in ("RGB", "RGBA") else size[::-1]
    pixels = np.random.default_rng(number).integers(0, 256, shape, dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def fill(folder: Path, n: int = 12, classes: str = "ab", **options: Any) -> None:
    for number in range(n):
        name = classes[number % len(classes)]
        draw(folder / name / f"{number:03}.png", number, **options)


def listed(root: Path) -> tuple[decode.ImageFile, ...]:
    tree = scan(root)
    return list_classes(tree, tree.root)[1]


def facts_of(root: Path, **options: Any):
    return describe(DataConfig(name=f"folder:{root}", **options))


# --- layouts


def test_class_folders_are_split_70_15_15_and_stretched_to_64(root: Path) -> None:
    fill(root, 40)
    data = load_data(DataConfig(name=f"folder:{root}"))
    assert (data.facts.n_train, data.facts.n_val, data.facts.n_test) == (28, 6, 6)
    assert data.facts.class_names == ("a", "b")
    assert data.facts.class_counts == (20, 20)
    assert data.train.pixels.shape == (28, 3, 64, 64)
    assert data.facts.notes == ("The images are resized to 64x64, the default of 'folder': --image-size changes it.",)
    assert facts_of(root, image_size=64).notes == ()


def test_pixels_and_labels_are_those_of_the_files(root: Path) -> None:
    fill(root, 12, size=(16, 16))
    source = read_folder(DataRequest(root, 16))
    for number, label in enumerate(source.parts["train"].labels):
        path = listed(root)[number].path
        assert path.parent.name == source.class_names[label]
        assert np.array_equal(source.parts["train"].pixels[number], np.asarray(Image.open(path)))


def test_grey_images_stay_grey_and_one_in_colour_makes_all_colour(root: Path) -> None:
    fill(root, 12, mode="L")
    assert facts_of(root, image_size=8).in_channels == 1
    assert facts_of(root, image_size=8, channels=3).in_channels == 3
    draw(root / "a" / "colour.png", 99)
    facts = facts_of(root, image_size=8)
    assert facts.in_channels == 3
    assert facts_of(root, image_size=8, channels=1).in_channels == 1


@pytest.mark.parametrize("name", ["val", "valid", "validation", "VAL"])
def test_own_parts_are_kept(root: Path, name: str) -> None:
    fill(root / "train", 10)
    fill(root / name, 4)
    fill(root / "test", 6)
    facts = facts_of(root, image_size=8)
    assert (facts.n_train, facts.n_val, facts.n_test) == (10, 4, 6)


def test_a_missing_val_or_test_is_cut_from_train(root: Path) -> None:
    fill(root / "train", 40)
    assert facts_of(root, image_size=8).n_test == 6
    fill(root / "test", 4)
    facts = facts_of(root, image_size=8)
    assert (facts.n_train, facts.n_val, facts.n_test) == (32, 8, 4)


def test_images_lie_at_any_depth_and_hidden_files_do_not_count(root: Path) -> None:
    fill(root, 12)
    draw(root / "a" / "deep" / "down" / "x.png")
    (root / "a" / ".DS_Store").write_bytes(b"x")
    (root / "a" / "Thumbs.db").write_bytes(b"x")
    (root / ".git").mkdir()
    (root / "notes.txt").write_text("beside the classes")
    facts = facts_of(root, image_size=8)
    assert facts.class_counts == (7, 6)
    assert facts.notes == (
        "The outer folders are the classes; folders inside are read as part of them: a/deep.",
        "4 files that are no images were passed over: 3 hidden, 1 .txt.",
    )


def test_folders_beside_train_are_named(root: Path) -> None:
    fill(root / "train", 12)
    (root / "masks").mkdir()
    assert any("beside 'train' that are not read: masks" in note for note in facts_of(root, image_size=8).notes)


def test_sixteen_bit_images_keep_their_range(root: Path) -> None:
    for number, name in enumerate("aaabbb"):
        (root / name).mkdir(parents=True, exist_ok=True)
        shades = np.full((8, 8), 257 * 40 * number + 129, np.uint16)  # rounds up
        Image.fromarray(shades).save(root / name / f"{number}.png")
    part = read_folder(DataRequest(root, 8)).parts["train"]
    assert part.pixels.shape == (6, 8, 8, 1)
    assert [int(image.max()) for image in part.pixels] == [1, 41, 81, 121, 161, 201]


def test_other_kinds_of_image_are_read(root: Path) -> None:
    for number, (mode, suffix) in enumerate([("RGB", "jpg"), ("RGBA", "png"), ("RGB", "bmp"), ("RGB", "webp")] * 3):
        draw(root / "ab"[number % 2] / f"{number}.{suffix}", number, mode=mode)
    Image.new("P", (9, 9)).save(root / "a" / "palette.gif")
    Image.new("1", (9, 9)).save(root / "a" / "bits.png")
    facts = facts_of(root, image_size=8)
    assert sum(facts.class_counts) == 14
    assert facts.in_channels == 3


# --- refused


def test_a_class_with_too_few_images_is_named(root: Path) -> None:
    fill(root, 12, "a")
    fill(root, 2, "b")
    with pytest.raises(DataError, match=r"class 'b' has 2 where 3 are needed"):
        facts_of(root, image_size=8)


# --- files that are no images


def spoil(root: Path, n_images: int, n_bad: int) -> None:
    fill(root, n_images, size=(4, 4))
    whole = (root / "a" / "000.png").read_bytes()
    for number in range(n_bad):
        damage = b"no image at all" if number % 2 else whole[: len(whole) // 2]
        (root / "a" / f"bad{number}.png").write_bytes(damage)


def test_a_few_files_that_are_no_images_are_named_and_skipped(root: Path) -> None:
    spoil(root, 198, 2)  # just 1 %
    facts = facts_of(root, image_size=4)
    assert sum(facts.class_counts) == 198
    assert facts.notes == (
        f"2 of 200 files are no images and were skipped: {Path('a/bad0.png')} (truncated), {Path('a/bad1.png')} (no "
        "image).",
    )
    assert facts_of(root, image_size=4) == facts  # from the cache
    with pytest.raises(DataError, match=r"under --strict-data, but .*bad0\.png is none"):
        facts_of(root, image_size=4, strict=True)  # from the cache, too


def test_more_than_one_percent_stops(root: Path, cache_home: Path) -> None:
    spoil(root, 100, 7)
    message = r"At most 1 % of the files, or 3, may be no images, but at least \d of 107"
    with pytest.raises(DataError, match=message):
        facts_of(root, image_size=4)
    assert not cache_home.exists()


def test_one_damaged_file_is_refused_when_strict(root: Path, cache_home: Path) -> None:
    spoil(root, 150, 1)
    with pytest.raises(DataError, match=r"Every file must be an image under --strict-data, but .*bad0\.png is none"):
        facts_of(root, image_size=4, strict=True)
    assert not cache_home.exists()


def test_a_link_to_nowhere_is_a_file_that_is_no_image(root: Path) -> None:
    fill(root, 120, size=(4, 4))
    (root / "a" / "gone.png").symlink_to(root / "nowhere.png")
    assert any("gone.png" in note for note in facts_of(root, image_size=4).notes)


# --- the cache


def decoded_times(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    times: list[int] = []
    real = decode.decode_all

    def counted(*words: Any, **options: Any):
        times.append(1)
        return real(*words, **options)

    monkeypatch.setattr(decode, "decode_all", counted)
    return times


def test_a_folder_is_decoded_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root)
    times = decoded_times(monkeypatch)
    first = facts_of(root, image_size=8)
    assert facts_of(root, image_size=8) == first
    assert facts_of(root, image_size=8, seed=1).fingerprint != first.fingerprint
    assert len(times) == 1
    facts_of(root, image_size=16)
    assert len(times) == 2


@pytest.mark.parametrize("change", ["content", "new file", "gone", "renamed", "moved to another class"])
def test_a_changed_folder_is_decoded_again(root: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    fill(root, 14)
    before = facts_of(root, image_size=8)
    times = decoded_times(monkeypatch)
    path = root / "a" / "000.png"
    if change == "content":
        status = path.stat()
        draw(path, 77)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
    elif change == "new file":
        draw(root / "a" / "new.png", 78)
    elif change == "gone":
        path.unlink()
    elif change == "renamed":
        path.rename(root / "a" / "zzz.png")
    else:
        path.rename(root / "b" / "000.png")
    after = facts_of(root, image_size=8)
    assert len(times) == 1
    assert after.fingerprint != before.fingerprint


@pytest.mark.parametrize("damage", ["cut", "emptied", "flipped", "other"])
def test_a_damaged_cache_is_rebuilt(root: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    fill(root)
    facts = facts_of(root, image_size=8)
    cache = cache_file(root, 8)
    assert cache is not None
    whole = cache.read_bytes()
    times = decoded_times(monkeypatch)
    middle = len(whole) * 2 // 3
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    cache.write_bytes({"cut": whole[:middle], "emptied": b"", "flipped": flipped, "other": b"text"}[damage])
    assert facts_of(root, image_size=8) == facts
    assert len(times) == 1
    assert cache.read_bytes() == whole
    assert [path.name for path in cache.parent.iterdir()] == [cache.name]


@pytest.mark.parametrize("package", ["PIL", "numpy"])
def test_another_version_of_what_decodes_decodes_again(
    root: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    fill(root)
    facts = facts_of(root, image_size=8)
    times = decoded_times(monkeypatch)
    monkeypatch.setattr(f"{package}.__version__", "0.0.1")
    assert facts_of(root, image_size=8) == facts
    assert len(times) == 1
    assert facts_of(root, image_size=8) == facts
    assert len(times) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_an_edit_of_the_decoding_is_seen_behind_the_cache(root: Path, tmp_path: Path, run_python) -> None:
    """Each fingerprint is made in a fork of a process that has imported other people's packages alone."""
    fill(root)
    shutil.copytree(Path(decode.__file__).parents[1], tmp_path / "nas_attn")
    code = """
import os, sys, numpy, PIL.Image, pydantic, sklearn.model_selection, torch
from pathlib import Path
decoding = Path("nas_attn/data/collection.py")
for by in ("BILINEAR", "BILINEAR", "NEAREST"):
    decoding.write_text(decoding.read_text().replace("Resampling.BILINEAR", f"Resampling.{by}"))
    if not os.fork():
        from nas_attn.config import DataConfig
        from nas_attn.data.dataset import describe
        print(describe(DataConfig(name=f"folder:{sys.argv[1]}", image_size=8)).fingerprint, flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
    assert "nas_attn" not in sys.modules
"""
    done = run_python("-c", code, root, env={"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"})
    assert done.stderr == ""
    before, again, edited = done.stdout.split()
    assert before == again != edited


def test_without_room_for_a_cache_the_run_goes_on_and_says_so(root: Path, cache_home: Path) -> None:
    fill(root)
    cache_home.write_text("a file where the folder should be")
    facts = facts_of(root, image_size=8)
    assert any("each start decodes them again" in note for note in facts.notes)
    assert sum(facts.class_counts) == 12


def test_a_write_that_fails_leaves_nothing(root: Path, cache_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(root)

    def full(file: Any, *_: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(decode, "write_rows", full)
    monkeypatch.setattr(room, "write_facts", full)
    facts = facts_of(root, image_size=8)
    assert sum(facts.class_counts) == 12
    assert any("each start decodes them again" in note for note in facts.notes)
    assert not [path for path in cache_home.rglob("*") if path.is_file()]


def test_the_cache_lies_where_the_platform_wants_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert str(cache_file(root, 8)).startswith(os.environ["XDG_CACHE_HOME"])
    monkeypatch.delenv("XDG_CACHE_HOME")
    home = Path.home()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert (home / "Library" / "Caches" / "nas_attn" / "folders") == cache_file(root, 8).parent
    monkeypatch.setattr(sys, "platform", "linux")
    assert (home / ".cache" / "nas_attn" / "folders") == cache_file(root, 8).parent

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert cache_file(root, 8) is None


# --- decoding


def test_progress_ends_at_the_number_of_files(root: Path) -> None:
    fill(root, 70, size=(4, 4))
    seen: list[tuple[int, int]] = []
    read_folder(DataRequest(root, 4, progress=lambda done, total: seen.append((done, total))))
    assert seen == [(32, 70), (64, 70), (70, 70)]


def test_any_number_of_workers_decodes_the_same(root: Path) -> None:
    fill(root, 70, size=(12, 9))
    entries = listed(root)
    one = decode_all(root, entries, 8, workers=1).pixels
    assert np.array_equal(one, decode_all(root, entries, 8, workers=5).pixels)


def test_an_interrupt_while_decoding_leaves_at_once(root: Path, cache_home: Path) -> None:
    fill(root, 70, size=(4, 4))

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        read_folder(DataRequest(root, 4, progress=interrupt))
    assert not cache_home.exists()


def test_a_large_photo_is_reduced_while_it_is_decoded_and_looks_the_same(root: Path) -> None:
    across, down = np.meshgrid(np.linspace(0, 255, 800), np.linspace(0, 255, 600))
    photo = Image.fromarray(np.stack([across, down, 255 - across], -1).astype(np.uint8))
    for name in ("a/1.jpg", "b/2.jpg"):
        (root / name).parent.mkdir(parents=True)
        photo.save(root / name, quality=95)
    ours = read_folder(DataRequest(root, 32)).parts["train"].pixels[0]
    plain = np.asarray(Image.open(root / "a" / "1.jpg").resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - plain).max() <= 3
