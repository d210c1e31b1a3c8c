"""Every network trains and predicts on a CUDA device with bf16: nothing that it makes lies elsewhere."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from backbone_cases import SAME_BLOCKS, everywhere, quick_draws, tiny_spec
from fake_gpu import claimed_gpu, faked, on_gpu
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.attention.entry import Entry
from nas_attn.backbones.catalog import BACKBONES, image_sizes
from nas_attn.backbones.site_table import site_table
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.model.build import AttentionModel, build_model
from nas_attn.model.tasks import LABEL_KINDS
from nas_attn.placement import Attention, Placement
from nas_attn.training.batches import epoch_batches
from nas_attn.training.loop import forward, precision, predict
from nas_attn.training.stacked import Stack

CLASSES = 3


@pytest.fixture(scope="module")
def gpu() -> Iterator[FakeTensorMode]:
    with claimed_gpu() as mode:
        yield mode


def image_size(spec: dict) -> int:
    """The smallest image, or one that leaves more than a pixel before the last pooling."""
    smallest, _ = image_sizes(spec)
    return {"inception_v3": 107}.get(spec["name"], 2 * smallest)


def network(spec: dict, placement: Placement | None = None) -> AttentionModel:
    """Build a network with one attention at the first site of each kind, or with a placement."""
    shape = {"num_classes": CLASSES, "in_channels": 1, "image_size": image_size(spec)}
    table = site_table(spec, **shape)
    all_sites = everywhere(table)
    first = {table.site(name).kind: name for name in reversed(list(all_sites))}.values()
    with quick_draws():
        chosen = Placement({name: all_sites[name] for name in first}) if placement is None else placement
        model = build_model(spec, chosen, **shape, seed=1)
    for module in model.backbone.modules():
        if isinstance(module, nn.BatchNorm2d):  # torch's own, with registered tensors alone: 10 ms each without values
            module.forward = torch.clone
    return model


def images_on_gpu(size: int, gpu: FakeTensorMode, targets: Tensor) -> Images:
    pixels = torch.zeros(len(targets), size, size, 1, dtype=torch.uint8).permute(0, 3, 1, 2)
    return Images(faked(pixels, gpu), faked(targets, gpu))


def train_and_predict(model: AttentionModel, images: Images, recipe: Recipe, gpu: FakeTensorMode) -> list[Tensor]:
    """Go through an epoch of training without the backward pass, then predict; return losses and logits."""
    with gpu:
        criterion = LABEL_KINDS[images.task].criterion(images.targets, recipe, CLASSES)
        batches = epoch_batches(
            images, batch_size=recipe.batch_size, augment=recipe.augment, generator=torch.Generator().manual_seed(0)
        )
        found = [forward(model.train(), inputs, targets, criterion) for inputs, targets in batches]
        assert all(logits.dtype == torch.bfloat16 for logits, _ in found)
        return [*(loss for _, loss in found), predict(model, images)]


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in SAME_BLOCKS])
def test_a_network_trains_and_predicts_on_the_gpu(name: str, gpu: FakeTensorMode) -> None:
    spec = tiny_spec(name)
    model = network(spec)
    images = images_on_gpu(image_size(spec), gpu, torch.arange(4) % CLASSES)
    loss, logits = train_and_predict(on_gpu(model, gpu), images, Recipe(batch_size=4), gpu)
    assert loss.device.type == logits.device.type == "cuda"
    assert loss.dtype == logits.dtype == torch.float32
    assert (loss.shape, logits.shape) == ((), (4, CLASSES))


@pytest.mark.parametrize("targets", [torch.arange(6) % CLASSES, torch.zeros(6, CLASSES)], ids=["one label", "labels"])
def test_augmentation_and_every_part_of_the_loss_are_on_the_gpu(targets: Tensor, gpu: FakeTensorMode) -> None:
    spec = {"name": "lenet"}
    model = network(spec, Placement({"stage1.pool": Attention("triple", {"reduction": 2})}))
    recipe = Recipe(batch_size=3, augment="crop-flip", class_weights=targets.ndim == 2, label_smoothing=0.1)
    first, second, logits = train_and_predict(on_gpu(model, gpu), images_on_gpu(24, gpu, targets), recipe, gpu)
    assert {part.device.type for part in (first, second, logits)} == {"cuda"}


@pytest.mark.parametrize(
    ("name", "site", "attention"),
    [
        ("lenet", "stage1.pool", Attention("triple", {"reduction": 2})),
        ("densenet", "denseblock1", Attention("se", {"reduction": 4})),
        ("resnet18", "stage1.block1.branch", Attention("cbam", {"reduction": 4})),
    ],
)
def test_seeds_that_train_as_one_are_on_the_gpu(
    name: str, site: str, attention: Attention, gpu: FakeTensorMode
) -> None:
    spec = tiny_spec(name)
    models = [on_gpu(network(spec, Placement({site: attention})), gpu) for _ in range(2)]
    for model in models:
        model.to = lambda *_, model=model: model  # where they are
    images = images_on_gpu(image_size(spec), gpu, torch.arange(4) % CLASSES)
    with gpu, precision(torch.device("cuda")):
        stack = Stack(models, images, Recipe(), CLASSES)
        batches = [
            next(epoch_batches(images, batch_size=4, augment="crop", generator=torch.Generator().manual_seed(seed)))
            for seed in range(2)
        ]
        inputs, targets = (torch.stack(part) for part in zip(*batches, strict=True))
        logits, losses = stack._forward(stack.parameters, stack.buffers, inputs, targets)
    assert logits.device.type == losses.device.type == "cuda"
    assert (logits.shape, losses.shape) == ((2, 4, CLASSES), (2,))
    assert {value.device.type for value in stack.state.values()} == {"cuda"}


class LeavesBehind(nn.Module):
    """Makes a buffer in each pass, and forgets the device."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.full((1, self.channels, 1, 1), 2.0)


class Follows(LeavesBehind):
    """The same, on the device of its input."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.full((1, self.channels, 1, 1), 2.0, device=x.device)


@pytest.mark.parametrize("cls", [LeavesBehind, Follows])
def test_an_attention_that_forgets_the_device_is_found(
    cls: type[nn.Module], gpu: FakeTensorMode, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = Entry("doubled", cls, "Doubles the map.", "y = 2 x", "this test")
    monkeypatch.setitem(ATTENTIONS._registered, entry.name, entry)
    placement = Placement({"stage1.pool": Attention("doubled")})
    model = on_gpu(network({"name": "lenet"}, placement), gpu)
    images = images_on_gpu(24, gpu, torch.arange(4) % CLASSES)
    if cls is Follows:
        assert train_and_predict(model, images, Recipe(batch_size=4), gpu)[-1].device.type == "cuda"
        return
    with pytest.raises(RuntimeError, match="found at least two devices, cuda:0 and cpu"):
        train_and_predict(model, images, Recipe(batch_size=4), gpu)
    with gpu, pytest.raises(RuntimeError, match="two devices"):
        predict(model, images)
