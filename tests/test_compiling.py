"""Training steps that torch compiles: the same training, and one sentence where torch cannot."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor, nn

from nas_attn import Placement, build_model
from nas_attn.config import Recipe
from nas_attn.data.dataset import Images
from nas_attn.errors import TrialFailed
from nas_attn.training.loop import train


def images() -> Images:
    pixels = torch.randint(0, 256, (8, 1, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return Images(pixels, torch.arange(8) % 2, (0.5,), (0.3,))


def trained(model: nn.Module, recipe: Recipe) -> tuple[dict[str, Tensor], float]:
    facts = train(
        *(model, images(), images(), recipe),
        seed=0, epochs=2, device="cpu", report=lambda *_: None, num_classes=2,
    )  # fmt: skip
    return model.state_dict(), facts["train_loss"]


def network() -> nn.Module:
    """A convolution with a squeeze-and-excitation behind it."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(196, 2))
    return build_model(net, Placement.from_dict({"2": {"name": "se", "reduction": 2}}), num_classes=2, image_size=16)


@pytest.mark.nightly  # half a minute of g++
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch compiles for the CPU with g++, which is not installed")
def test_a_compiled_training_ends_at_the_weights_of_a_plain_one() -> None:
    plain, loss = trained(network(), Recipe(batch_size=4))
    model = network()
    torch.compiler.reset()
    counted = torch._dynamo.utils.counters
    counted.clear()
    compiled, other_loss = trained(model, Recipe(batch_size=4, compile="default"))
    assert counted["frames"]["ok"] > 0
    assert loss == pytest.approx(other_loss, rel=1e-4)
    assert plain.keys() == compiled.keys()
    for name, weights in plain.items():
        torch.testing.assert_close(compiled[name], weights, rtol=1e-3, atol=1e-5)


class Unbuildable(nn.Module):
    """Fails while it is traced, as a network whose operators have no rule there does."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(256, 2)

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():
            torch.zeros(3) @ torch.zeros(4)
        return self.classifier(x.flatten(1))


def test_what_torch_cannot_compile_fails_in_one_sentence() -> None:
    torch.compiler.reset()
    with pytest.raises(TrialFailed, match=r"torch could not compile the network: .+ Leave --compile out\.") as caught:
        trained(Unbuildable(), Recipe(batch_size=4, compile="default"))
    assert caught.value.cause == "compile"
