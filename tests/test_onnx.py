"""Any attention of the catalogue goes to ONNX, by either exporter, and computes the same there."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch
from torch import nn

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.backbones.site_table import site_table
from nas_attn.model.build import build_model
from nas_attn.placement import Attention, Placement
from nas_attn.space.fit import misfit
from nas_attn.testing.cases import Case, cases_of

BACKBONE = {"name": "preact_resnet", "width": 8}
SHAPE = {"num_classes": 5, "in_channels": 1, "image_size": 16}
OPTIONS = {"sk": {"groups": None, "min_hidden": 4}, "sge": {"groups": 4}, "attention_pool": {"heads": 2}}
GROUPS = {"the first half": ATTENTIONS.own[::2], "the second half": ATTENTIONS.own[1::2]}


def _placement(names: tuple[str, ...]) -> Placement:
    """Each of these attentions at the first site of its own that it fits."""
    free = list(site_table(BACKBONE, **SHAPE).sites)
    placed = {}
    for name in names:
        attention = Attention(name, OPTIONS.get(name, {}))
        site = next(site for site in free if misfit(site, attention) is None)
        free.remove(site)
        placed[site.name] = attention
    return Placement(placed)


@pytest.mark.nightly
@pytest.mark.parametrize("names", GROUPS.values(), ids=GROUPS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_every_attention_computes_in_onnx_what_it_computes_here(names: tuple[str, ...], tmp_path: Path) -> None:
    placement = _placement(names)
    assert {attention.name for attention in placement.attentions.values()} == set(names)
    model = build_model(BACKBONE, placement, **SHAPE, seed=0)
    torch.manual_seed(0)
    for parameter in model.attention.parameters():
        nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        model.train()(torch.randn(8, 1, 16, 16))  # running statistics that are none of the initial ones
    file = tmp_path / "model.onnx"
    batch = torch.export.Dim("batch")
    images = torch.randn(2, 1, 16, 16)
    torch.onnx.export(model.eval(), (images,), file, dynamo=True, dynamic_shapes={"images": {0: batch}}, verbose=False)
    session = onnxruntime.InferenceSession(file)
    for n_images in (1, 2, 5):
        images = torch.randn(n_images, 1, 16, 16)
        (given,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(given), model(images))


@pytest.mark.parametrize("name", ATTENTIONS.own)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_an_attention_goes_through_the_older_exporter(name: str, tmp_path: Path) -> None:
    _demand_in_older_onnx(cases_of(ATTENTIONS[name])[0], tmp_path)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ATTENTIONS.own)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_each_option_goes_through_the_older_exporter(name: str, tmp_path: Path) -> None:
    for case in cases_of(ATTENTIONS[name])[1:]:
        _demand_in_older_onnx(case, tmp_path)


def _demand_in_older_onnx(case: Case, folder: Path) -> None:
    """The exported module computes the same for batches of other sizes."""
    module, file = case.build(), folder / "attention.onnx"
    names = [f"map{index}" for index in range(case.entry.n_inputs)]
    batches = {name: {0: "batch"} for name in names}
    torch.onnx.export(module, tuple(case.inputs()), file, dynamo=False, input_names=names, dynamic_axes=batches)
    session = onnxruntime.InferenceSession(file)
    for n_images in (1, 3):
        maps = case.inputs(n_images)
        (given,) = session.run(None, {name: x.numpy() for name, x in zip(names, maps, strict=True)})
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(given), module(*maps), rtol=1e-3, atol=1e-4)
