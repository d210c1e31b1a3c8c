"""Pretrained weights of timm's networks: by their tag from the cache of the hub, and from a file."""

from __future__ import annotations

import pytest
import timm
import torch
from safetensors.torch import save_file

from nas_attn.backbones.catalog import check_backbone
from nas_attn.backbones.weights_file import find_weights
from nas_attn.errors import FileError, SpaceError
from nas_attn.model.build import build_model
from nas_attn.placement import Placement

SHAPE = {"num_classes": 5, "in_channels": 3, "image_size": 32}
RESNET = "timm:test_resnet"


def images() -> torch.Tensor:
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def block() -> Placement:
    return Placement.from_dict({"layer2.0.branch": {"name": "eca"}})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache of the hub with the weights of one network, as the hub's client lays it out: links to blobs."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    theirs = timm.create_model("test_resnet", num_classes=1000)
    folder = tmp_path / "models--timm--test_resnet.r160_in1k"
    for part in ("refs", "blobs", "snapshots/abc"):
        (folder / part).mkdir(parents=True)
    (folder / "refs" / "main").write_text("abc")
    save_file(theirs.state_dict(), folder / "blobs" / "0123")
    (folder / "snapshots" / "abc" / "model.safetensors").symlink_to("../../blobs/0123")
    return theirs.state_dict()


@pytest.mark.parametrize("given", ["r160_in1k", "test_resnet.r160_in1k"])
def test_weights_are_taken_by_their_tag_from_the_hub_s_cache(hub, given):
    model = build_model({"name": RESNET, "weights": given}, block(), **SHAPE, seed=1)
    state = model.backbone.state_dict()
    assert all(torch.equal(state[key], value) for key, value in hub.items() if not key.startswith("fc."))
    assert state["fc.weight"].shape == (5, 96)


def test_the_file_behind_a_tag_is_a_whole_path_that_a_worker_reads_again(hub):
    file = find_weights(check_backbone({"name": RESNET, "weights": "r160_in1k"}))
    again = find_weights(check_backbone({"name": RESNET, "weights": str(file)}))
    assert (file.name, again) == ("model.safetensors", file)
    assert build_model({"name": RESNET, "weights": str(file)}, block(), **SHAPE, seed=1)


def test_weights_that_are_not_there_are_fetched_only_with_leave(hub, monkeypatch, tmp_path):
    import huggingface_hub

    fetched = []

    def fetch(repository: str, name: str) -> str:
        fetched.append((repository, name))
        if len(fetched) > 1:
            raise ConnectionError("no route\nto host.")
        save_file(timm.create_model("test_nfnet").state_dict(), tmp_path / name)
        return str(tmp_path / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    spec = {"name": "timm:test_nfnet", "weights": "r160_in1k"}
    with pytest.raises(
        FileError, match=r"r160_in1k are not on this machine \(timm/test_nfnet\.r160_in1k of .*\), .*: use --download"
    ):
        build_model(spec, Placement(), **SHAPE)
    assert not fetched
    assert build_model({**spec, "download": True}, Placement(), **SHAPE)
    assert fetched == [("timm/test_nfnet.r160_in1k", "model.safetensors")]
    with pytest.raises(FileError, match=r"cannot be downloaded from timm/test_nfnet.* Hub: no route to host\.$"):
        build_model({**spec, "download": True}, Placement(), **SHAPE)


def test_an_unknown_tag_names_those_of_the_network():
    spec = {"name": "timm:resnet50", "weights": "a1_in2k"}
    with pytest.raises(
        SpaceError, match=r"Unknown weights of backbone 'timm:resnet50' 'a1_in2k': did you mean 'a1_in1k'"
    ):
        build_model(spec, Placement(), **SHAPE)


def test_a_file_of_weights_loads_strictly_by_timm_s_own_names(tmp_path):
    theirs = timm.create_model("test_resnet", num_classes=5)
    save_file(theirs.state_dict(), tmp_path / "mine.safetensors")
    spec = {"name": RESNET, "weights": str(tmp_path / "mine.safetensors")}
    model = build_model(spec, Placement(), **SHAPE, seed=1).eval()
    with torch.no_grad():
        assert torch.equal(model(images()), theirs.eval()(images()))
    other = {"name": "timm:test_byobnet", "weights": spec["weights"]}
    with pytest.raises(FileError, match=r"do not fit the network: 'stem\.conv\.weight' must be .*, but is absent"):
        build_model(other, Placement(), **SHAPE)
