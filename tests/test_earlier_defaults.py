"""A file that leaves an option out, written when its default was another, loads as it was meant."""

from __future__ import annotations

import json

import pytest
import torch

from nas_attn.files import content_digest
from nas_attn.model.build import build_model
from nas_attn.model.file import load_model, save_model
from nas_attn.placement import Placement

SHAPE = {"num_classes": 3, "in_channels": 3, "image_size": 16}
DENSE = {
    **{"name": "densenet", "growth_rate": 8, "block_config": [1], "num_init_features": 24},
    **{"bn_size": 2, "drop_rate": 0.0, "stem": "small"},
}
RECORD = {"mean": [0.5] * 3, "std": [0.5] * 3, "class_names": ["a", "b", "c"]}


@pytest.mark.parametrize("left_out", [{}, {"wiring": "residual"}], ids=["gate", "residual"])
@pytest.mark.parametrize(
    ("name", "option", "value"), [("sge", "groups", 32), ("shuffle", "groups", 16), ("ema", "factor", 32)]
)
def test_an_option_left_out_has_the_value_of_the_weights(tmp_path, name, option, value, left_out):
    """At 32 channels, one channel a group was the default."""
    stated = {"denseblock1": {"name": name, option: value, **left_out}}
    model = build_model(DENSE, Placement.from_dict(stated), **SHAPE, seed=0).eval()
    with torch.no_grad():
        for parameter in model.attention.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(parameter.numel()))
    save_model(model, tmp_path / "old.json", record=RECORD)
    content = json.loads((tmp_path / "old.json").read_text())
    del content["placement"]["denseblock1"][option], content["digest"]
    (tmp_path / "old.json").write_text(json.dumps({**content, "digest": content_digest(content)}))
    loaded = load_model(tmp_path / "old.json")
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(x), model(x))
    assert loaded.placement == Placement.from_dict(stated)


@pytest.mark.parametrize("name", ["sge", "shuffle", "ema"])
def test_a_file_of_today_keeps_the_option_left_out(tmp_path, name):
    placement = Placement.from_dict({"denseblock1": {"name": name}})
    save_model(build_model(DENSE, placement, **SHAPE, seed=0), tmp_path / "new.json", record=RECORD)
    assert load_model(tmp_path / "new.json").placement == placement
