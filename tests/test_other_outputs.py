"""Networks whose output is no row of logits: maps, dicts, several outputs, detections; built, searched and refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection import ssdlite320_mobilenet_v3_large
from torchvision.models.segmentation import lraspp_mobilenet_v3_large

import nas_attn
from nas_attn import Attention, Placement, Run, SearchSpace, build_model, load_model
from nas_attn.backbones.site_table import own_table
from nas_attn.errors import ConfigError, SpaceError

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "examples"))
from own_segmentation import SIZE, UNet, mask_iou, shapes, train

TINY = {"trials": 2, "epochs": 1, "seeds": 1, "top": 1, "controls": 0, "executor": "local", "cpus_per_trial": 1}


def lraspp() -> nn.Module:
    return lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)


def ssdlite() -> nn.Module:
    return ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=2)


class Several(nn.Module):
    """A trunk with three heads, whose outputs come as a dict of a map, a pair and a number."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.mask, self.depth = nn.Conv2d(8, 2, 1), nn.Conv2d(8, 1, 1)

    def forward(self, images: Tensor) -> dict[str, Any]:
        features = self.trunk(images)
        return {"mask": self.mask(features), "more": (self.depth(features), features.mean((2, 3))), "stride": 1}


def test_a_unet_is_built_with_attention_and_its_outputs_are_its_own():
    net = UNet(4).eval()
    images = shapes("val")[0][:2]
    plain = build_model(net, Placement({}))
    assert (plain.num_classes, plain.in_channels, plain.image_size) == (0, 1, 32)
    assert torch.equal(plain.eval()(images), net(images))
    model = build_model(net, Placement({"down1": Attention("se", {"reduction": 2}), "bottom": Attention("cbam")}))
    model(images).sum().backward()
    assert all(weight.grad is not None for weight in model.attention.parameters())
    assert model(images).shape == images.shape


def test_every_map_of_a_unet_is_a_site():
    names = {site.name for site in own_table(UNet(4), num_classes=0, in_channels=1, image_size=SIZE).sites}
    assert {"down1", "down2", "bottom", "up2", "up1", "pool", "wider", "mask"} - names <= {"pool", "wider"}
    assert {"down1", "down2", "bottom", "up2", "up1", "mask"} <= names


def test_a_dict_of_several_outputs_is_accepted():
    net = Several()
    model = build_model(net, Placement({"trunk": Attention("eca")}), image_size=16)
    outputs = model(torch.zeros(2, 3, 16, 16))
    assert outputs["mask"].shape == (2, 2, 16, 16)
    assert outputs["stride"] == 1
    assert model.num_classes == 0


def test_a_segmentation_network_of_torchvision_keeps_its_outputs_and_trains():
    net = lraspp()
    images = torch.randn(2, 3, 64, 64)
    plain = build_model(net, Placement({}), image_size=64).eval()
    with torch.no_grad():
        assert torch.equal(plain(images)["out"], net.eval()(images)["out"])
    model = build_model(net, Placement({"backbone.16": Attention("cbam"), "classifier.cbr": Attention("se")}))
    found = model.train()(images)["out"]
    assert found.shape == (2, 2, 64, 64)
    nn.functional.cross_entropy(found, torch.zeros(2, 64, 64, dtype=torch.long)).backward()
    assert all(weight.grad is not None for weight in model.attention.parameters())


def test_a_detector_of_torchvision_gets_its_targets():
    net = ssdlite()
    site = "backbone.features.1.0.1"
    assert site in {row.name for row in own_table(net, num_classes=0, in_channels=3, image_size=64).sites}
    model = build_model(net, Placement({site: Attention("eca")}), image_size=64)
    images = torch.rand(2, 3, 64, 64)
    boxes = {"boxes": torch.tensor([[8.0, 8.0, 40.0, 40.0]]), "labels": torch.ones(1, dtype=torch.long)}
    losses = model.train()(list(images), [boxes, boxes])
    sum(losses.values()).backward()
    assert all(weight.grad is not None for weight in model.attention.parameters())
    assert {"boxes", "scores", "labels"} <= model.eval()(list(images))[0].keys()


def test_a_search_over_a_unet_ends_in_a_model_that_draws_masks(tmp_path, write_report):
    run = nas_attn.search(network=UNet, train=train, out=tmp_path / "run", in_channels=1, image_size=SIZE, **TINY)
    assert run.best is not None
    assert (run.best["num_classes"], run.best["class_names"]) == (0, [])
    assert "value_mean" in run.best["metrics"]["test"]
    model = load_model(run.folder, backbone=UNet)
    assert model.probabilities is None
    by_seed = run.best["metrics"]["test"]["by_seed"]
    assert mask_iou(model, *shapes("test")) == pytest.approx(next(iter(by_seed.values())), abs=1e-6)
    page = write_report(run, tmp_path / "page").read_text()
    assert "own outputs" in page
    assert "0 classes" not in page
    assert "accuracy" not in page


def segment(model: nn.Module, run: Run) -> float:
    """Train on one batch of masks; return the IoU of the disc."""
    torch.manual_seed(run.seed)
    images, masks = shapes("train")
    images, masks = images[:4].expand(-1, 3, -1, -1), masks[:4, 0].long()
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(1, run.epochs + 1):
        nn.functional.cross_entropy(model.train()(images)["out"], masks).backward()
        optimizer.step()
        run.report(epoch, 0.0)
    with torch.inference_mode():
        found = model.eval()(images)["out"].argmax(1)
    return float(((found == 1) & (masks == 1)).sum() / ((found == 1) | (masks == 1)).sum())


def detect(model: nn.Module, run: Run) -> float:
    """Train on one batch of boxes; return the loss of the same images, with a minus sign."""
    torch.manual_seed(run.seed)
    images = list(shapes("train")[0][:2].expand(-1, 3, -1, -1))
    boxes = {"boxes": torch.tensor([[8.0, 8.0, 24.0, 24.0]]), "labels": torch.ones(1, dtype=torch.long)}
    optimizer = torch.optim.Adam(model.parameters())
    for epoch in range(1, run.epochs + 1):
        loss = sum(model.train()(images, [boxes, boxes]).values())
        loss.backward()
        optimizer.step()
        run.report(epoch, -loss.item())
    return -loss.item()


@pytest.mark.nightly
@pytest.mark.parametrize(("network", "site", "training"), [
    (lraspp, "backbone.16", segment),
    (ssdlite, "backbone.features.1.0", detect),
])  # fmt: skip
def test_torchvisions_networks_are_searched_by_a_training_of_ones_own(network, site, training, tmp_path):
    sites = [{"match": [site], "attentions": ["eca"]}]
    space = SearchSpace.from_dict({"title": "ECA at the end", "sites": sites}, "the test's space", name="one")
    settings = {**TINY, "batch_size": 2, "in_channels": 3, "image_size": SIZE}
    run = nas_attn.search(space, network=network, train=training, out=tmp_path, **settings)
    assert run.best is not None
    assert all(row.state == "complete" for row in (*run.search, *run.retrain))


def test_a_stated_number_of_classes_is_still_checked():
    with pytest.raises(SpaceError, match=r"must return \(2, 3\) for 2 images of 3 classes, but returns \(2, 1, 32"):
        build_model(UNet(4), Placement({}), num_classes=3, in_channels=1, image_size=32)


def test_an_attention_that_needs_classes_is_refused_there():
    with pytest.raises(SpaceError, match=r"num_classes >= 1 must hold for attention 'triple'.*num_classes=0"):
        build_model(UNet(4), Placement({"bottom": Attention("triple")}))


def test_a_network_without_any_tensor_is_refused():
    class Silent(nn.Conv2d):
        def forward(self, images: Tensor) -> list[float]:
            return [float(super().forward(images).sum())]

    with pytest.raises(
        SpaceError, match=r"Silent must return tensors, but returns 1 outputs \(list\): return a tensor, or"
    ):
        build_model(Silent(3, 4, 3), Placement({}))


def test_a_network_that_needs_more_than_images_is_refused_by_its_arguments():
    class Two(nn.Conv2d):
        def forward(self, images: Tensor, mask: Tensor, *, scale: float = 1.0) -> Tensor:
            return scale * super().forward(images * mask)

    message = r"Two must take images alone, but its forward takes \(images: .*, mask: .*\).*: give its other arguments"
    with pytest.raises(SpaceError, match=message):
        build_model(Two(3, 4, 3), Placement({}))

    class Named(nn.Conv2d):
        def forward(self, *, images: Tensor) -> Tensor:
            return super().forward(images)

    with pytest.raises(SpaceError, match=r"Named must take images alone, but its forward takes \(\*, images: "):
        build_model(Named(3, 4, 3), Placement({}))

    class Batch(nn.Conv2d):
        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return super().forward(batch["images"])

    with pytest.raises(SpaceError, match=r"or wrap the network in a module whose input is a batch of images\.$"):
        build_model(Batch(3, 4, 3), Placement({}))


def test_a_function_that_takes_the_number_of_classes_needs_it(tmp_path):
    def make(num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, num_classes, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())

    with pytest.raises(SpaceError, match=r"'make' needs num_classes, which is not stated"):
        nas_attn.search(network=make, train=train, out=tmp_path / "run", in_channels=1, image_size=SIZE, **TINY)


def test_a_catalogue_network_needs_its_classes(tmp_path):
    with pytest.raises(ConfigError, match=r"needs num_classes"):
        nas_attn.search("lenet_attn", train=train, out=tmp_path / "run", in_channels=1, image_size=SIZE, **TINY)
