"""How files became pixels travels with a network: from the data to best.json, and from there to new images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from image_cases import fill, shape, tiff
from runs import tiny_space

from nas_attn.config import DataConfig
from nas_attn.data.dataset import describe
from nas_attn.data.rendering import AS_BEFORE, Rendering
from nas_attn.errors import FileError
from nas_attn.files import content_digest
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.model.preprocess import Preprocess
from nas_attn.placement import Placement
from nas_attn.run.job import search

RECORD = {"mean": (0.5,), "std": (0.25,), "class_names": ["left", "top"]}


pytestmark = pytest.mark.usefixtures("cache_home")


def floats(path: Path, values: np.ndarray, number: int) -> None:
    Path(f"{path}.tif").write_bytes(tiff((values * 3000 - 500).astype("f4")))


def saved(path: Path, **record: object) -> Path:
    model = build_model({"name": "lenet"}, Placement(), num_classes=2, in_channels=1, image_size=16, seed=0)
    save_model(model, path, record={**RECORD, **record})
    return path


def test_it_comes_back_from_the_file(tmp_path: Path) -> None:
    rendering = Rendering((-500.0, 2349.5), (0, 200), (10, 20, 30))
    path = saved(tmp_path / "best.json", rendering=rendering.to_dict())
    assert load_model(path).preprocess == Preprocess(16, (0.5,), (0.25,), rendering)


def test_a_file_of_before_reads_images_as_before(tmp_path: Path) -> None:
    path = saved(tmp_path / "best.json")
    content = json.loads(path.read_text())
    assert "rendering" not in content
    assert load_model(path).preprocess.rendering == AS_BEFORE


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"deep_range": [1.0]}, "'rendering.deep_range'"),
        ({"background": [0, 0, 256]}, r"'rendering\.background\.2'"),
        ({"depth": 3}, "Unknown key 'rendering.depth'"),
    ],
)
def test_a_rendering_that_is_none_is_refused(tmp_path: Path, wrong: dict[str, object], message: str) -> None:
    path = saved(tmp_path / "best.json", rendering=Rendering().to_dict())
    content = json.loads(path.read_text())
    content["rendering"] |= wrong
    content.pop("digest")
    path.write_text(json.dumps({**content, "digest": content_digest(content)}))
    with pytest.raises(FileError, match=message):
        load_model(path)


def test_a_search_on_floating_values_reads_a_new_image_like_its_own(tmp_path: Path) -> None:
    root = fill(tmp_path / "scans", floats, n=8)
    facts = describe(DataConfig(name=f"folder:{root}", image_size=16))
    search(
        tiny_space(tmp_path), data=f"folder:{root}", image_size=16, trials=1, epochs=1, seeds=1, top=1, controls=0,
        executor="local", device="cpu", out=tmp_path / "run",
    )  # fmt: skip
    model = load_model(tmp_path / "run")
    assert model.preprocess.rendering == facts.rendering
    low, high = facts.rendering.deep_range
    values = shape(True, 0).astype("f4") * 3000 - 500
    pixels = np.rint(255 * (values - low) / (high - low)).clip(0, 255)
    expected = (torch.from_numpy(pixels / 255) - facts.mean[0]) / facts.std[0]
    found = model.preprocess(root / "left" / "0.tif")[0, 0]
    torch.testing.assert_close(found.double(), expected.double(), atol=0.02, rtol=0)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert "background" not in config["data"], "a setting at its default is not part of the identity of old runs"


def test_the_settings_of_how_files_are_read_are_part_of_a_run(tmp_path: Path) -> None:
    from nas_attn.run.provenance import describe_run
    from nas_attn.run.request import bind, read_settings

    root = fill(tmp_path / "scans", floats, n=8)
    stated = {"data": f"folder:{root}", "image_size": 16, "pixel_range": "-500:2500", "space": "lenet_attn"}
    config = describe_run(bind(read_settings(stated)))
    assert config["data"]["pixel_range"] == "-500:2500"
    assert "frames" not in config["data"]
