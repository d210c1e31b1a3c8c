"""Checkpoints of common trainings: unwrapped by rule, nothing in them is executed, and NaN is refused."""

from __future__ import annotations

import argparse
import dataclasses
import enum
import os
import pathlib
import tarfile
import zipfile
from collections import OrderedDict, defaultdict

import numpy as np
import pytest
import torch
from own_networks import PlainCNN, ResidualCNN
from torch import nn

from nas_attn.backbones.weights import load_weights
from nas_attn.errors import FileError


class Reads:
    """Executes a command where it is loaded."""

    def __reduce__(self):
        return os.system, ("touch executed",)


class Words(dict):
    """A dict of attributes, as configuration packages have them."""

    __getattr__ = dict.__getitem__


class Phase(enum.Enum):
    FIT = "fit"


@dataclasses.dataclass
class Settings:
    rate: float = 0.1
    folder: pathlib.Path = pathlib.Path("runs")


class Calls:
    """Fails where any of its methods is called: nothing but its name may be read."""

    def __setstate__(self, state):
        raise AssertionError("executed")


def state_of(net=PlainCNN, seed=3):
    torch.manual_seed(seed)
    return net().state_dict()


def loaded(path, net=PlainCNN):
    """Load a file into a fresh network; return its state and the notes."""
    torch.manual_seed(9)
    plain = net()
    notes = load_weights(plain, path, num_classes=5)
    return plain.state_dict(), notes


def equal(found, wanted):
    return found.keys() == wanted.keys() and all(torch.equal(found[key], wanted[key]) for key in wanted)


def named(prefix, state):
    return {f"{prefix}{key}": value for key, value in state.items()}


def counted(state):
    """What thop leaves in a network whose operations it counted."""
    parts = {key.rpartition(".")[0] for key in state} | {""}
    keys = [f"{part}.{what}".lstrip(".") for part in parts for what in ("total_ops", "total_params")]
    return {**state, **{key: torch.zeros(1, dtype=torch.float64) for key in keys}}


def with_object(state, thing):
    return {"state_dict": state, "args": thing, "epoch": 3}


WRAPPED = {
    "net": lambda s: {"net": s, "acc": 93.1, "epoch": 5},
    "net of DataParallel": lambda s: {"net": named("module.", s), "acc": 93.1, "epoch": 5},
    "compiled": lambda s: named("_orig_mod.", s),
    "compiled in DistributedDataParallel": lambda s: named("module._orig_mod.", s),
    "a compiled part": lambda s: {key.replace("features.0.", "features.0._orig_mod."): v for key, v in s.items()},
    "Lightning": lambda s: {
        "epoch": 3,
        "pytorch-lightning_version": "2.1",
        "state_dict": named("model.", s),
        "hyper_parameters": Words(lr=0.1),
        "optimizer_states": [{"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}],
    },
    "Lightning, compiled": lambda s: {"state_dict": named("model._orig_mod.", s)},
    "nested twice": lambda s: {"checkpoint": {"model": {"state_dict": s}}},
    "a key of nobody's": lambda s: {"my_best_one": named("student.net.", s)},
    "thop": lambda s: counted(s),
    "averaged alone": lambda s: {"ema": s, "model": None},
    "Namespace": lambda s: with_object(s, argparse.Namespace(lr=0.1, sizes=[1, 2])),
    "numpy scalar": lambda s: with_object(s, {"acc": np.float64(0.93), "best": np.array([1.0, 2.0])}),
    "enum, path, dataclass": lambda s: with_object(s, [Phase.FIT, pathlib.Path("a/b"), Settings()]),
    "defaultdict": lambda s: with_object(s, defaultdict(list, losses=[0.1, 0.2])),
    "a class that would fail": lambda s: with_object(s, Calls()),
    "like a dict": lambda s: Words(weights=Words(s)),
    "numbers beside the tensors": lambda s: {**s, "epoch": 4, "arch": "plain"},
    "fsdp": lambda s: named("_fsdp_wrapped_module.", s),
}


OBJECTS = ("Namespace", "numpy scalar", "enum, path, dataclass", "like a dict")


@pytest.mark.parametrize(("name", "protocol"), [*((name, 2) for name in WRAPPED), *((name, 4) for name in OBJECTS)])
def test_weights_are_found_under_the_keys_and_prefixes_of_others(tmp_path, name, protocol):
    torch.save(WRAPPED[name](state_of()), tmp_path / "x.pth", pickle_protocol=protocol)
    found, notes = loaded(tmp_path / "x.pth")
    assert equal(found, state_of())
    assert notes == []


def test_a_whole_network_is_read_as_its_state_dict_and_its_class_is_not_called(tmp_path, monkeypatch):
    torch.manual_seed(3)
    net = ResidualCNN()
    net.register_buffer("unsaved", torch.zeros(2), persistent=False)
    torch.save({"model": net, "ema": None}, tmp_path / "x.pt")
    wanted = net.state_dict()
    monkeypatch.setattr(ResidualCNN, "__setstate__", Calls.__setstate__)
    assert equal(loaded(tmp_path / "x.pt", ResidualCNN)[0], wanted)


def test_an_old_file_of_torch_is_read(tmp_path):
    torch.save(
        {"net": state_of(), "args": argparse.Namespace(lr=1)},
        tmp_path / "x.pth.tar",
        _use_new_zipfile_serialization=False,
    )
    assert equal(loaded(tmp_path / "x.pth.tar")[0], state_of())


@pytest.mark.parametrize("zipped", [True, False])
def test_nothing_in_a_file_is_executed(tmp_path, monkeypatch, zipped):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": state_of(), "hook": Reads(), "other": [Reads()]}
    torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    assert equal(loaded(tmp_path / "x.pth")[0], state_of())
    assert not pathlib.Path("executed").exists()


def test_the_trained_weights_come_before_the_averaged_ones_and_a_note_says_so(tmp_path):
    torch.save({"ema": state_of(seed=4), "model": state_of()}, tmp_path / "x.pth")
    found, notes = loaded(tmp_path / "x.pth")
    assert equal(found, state_of())
    assert notes == ["The file has several sets of weights that fit: 'model' is used, not 'ema'."]


def test_two_networks_that_fit_equally_are_refused(tmp_path):
    torch.save({"left": state_of(seed=4), "right": state_of()}, tmp_path / "x.pth")
    with pytest.raises(FileError, match=r"must be of one network, but hold several that fit: 'left', 'right': save"):
        loaded(tmp_path / "x.pth")


def test_what_lies_beside_a_wrapped_network_is_left_out_with_a_note(tmp_path):
    content = {"state_dict": {**named("model.", state_of()), "loss.weight": torch.ones(5), "loss.scale": torch.ones(1)}}
    torch.save(content, tmp_path / "x.ckpt")
    found, notes = loaded(tmp_path / "x.ckpt")
    assert equal(found, state_of())
    assert notes == ["Tensors beside the network's ('model.') are left out: 'loss.weight' and 1 more."]


def test_a_network_that_has_the_wrapper_s_name_keeps_it(tmp_path):
    def wrapped():
        return nn.Sequential(OrderedDict(module=PlainCNN()))

    torch.save(named("module.", state_of()), tmp_path / "x.pth")
    assert equal(loaded(tmp_path / "x.pth", wrapped)[0], named("module.", state_of()))


@pytest.mark.parametrize(
    ("value", "words"), [(float("nan"), "1 NaN of 8 values"), (float("-inf"), "1 infinite of 8 values")]
)
@pytest.mark.parametrize("key", ["features.0.0.bias", "features.0.1.running_var"])
def test_weights_that_are_not_finite_are_refused_by_the_name_of_the_first(tmp_path, key, value, words):
    state = state_of()
    state[key][2] = value
    state["classifier.bias"][0] = float("nan")
    torch.save({"net": named("module.", state)}, tmp_path / "x.pth")
    with pytest.raises(FileError, match=f"must be finite, but '{key}' has {words}: take a checkpoint from before"):
        loaded(tmp_path / "x.pth")


def test_a_wrapped_file_of_another_network_is_refused_by_the_network_s_own_names(tmp_path):
    torch.save({"net": named("module.", state_of(ResidualCNN))}, tmp_path / "x.pth")
    with pytest.raises(FileError, match=r"do not fit the network: 'features\.0\.0\.weight' must be .*, but is absent"):
        loaded(tmp_path / "x.pth")


def test_a_file_without_tensors_a_script_and_a_tar_are_refused(tmp_path):
    torch.save({"lr": 0.1}, tmp_path / "x.pth")
    with pytest.raises(
        FileError, match=r"but are of type dict, without tensors: 'lr' is of type float; save the network's"
    ):
        loaded(tmp_path / "x.pth")
    rewritten(tmp_path / "x.pth", {"archive/constants.pkl": b"", "archive/data.pkl": b"."})
    with pytest.raises(FileError, match=r"are a TorchScript archive, which holds code: save its state_dict\(\)"):
        loaded(tmp_path / "x.pth")
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.add(__file__, "storages")
    with pytest.raises(FileError, match=r"are a tar archive: unpack it, or save its state_dict\(\) anew"):
        loaded(tmp_path / "x.tar")


def test_a_pickle_that_changes_a_function_of_torch_is_refused(tmp_path):
    torch.save({}, tmp_path / "x.pth")
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    pickled = next(name for name in parts if name.endswith("data.pkl"))
    parts[pickled] = b"\x80\x02ctorch._utils\n_rebuild_tensor\n}X\x01\x00\x00\x00aK\x01sb."
    rewritten(tmp_path / "x.pth", parts)
    with pytest.raises(FileError, match=r"cannot be read \(it sets the state of a function\): fetch it again"):
        loaded(tmp_path / "x.pth")


def test_blocks_of_another_network_that_have_names_in_common_are_not_several_that_fit(tmp_path):
    state = {f"b{number}.features.0.0.weight": torch.zeros(2, 2, 3, 3) for number in (1, 2)}
    torch.save({"net": state}, tmp_path / "x.pth")
    with pytest.raises(
        FileError, match=r"x\.pth do not fit the network: 'features\.0\.0\.weight' must be \(.*\), but is"
    ):
        loaded(tmp_path / "x.pth")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "an empty file: fetch it again"),
        (b"\n<!DOCTYPE html><html>", "a page of HTML: fetch the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "a pointer of Git LFS: `git lfs pull` fetches"),
    ],
)
def test_what_was_fetched_in_place_of_weights_is_named(tmp_path, content, words):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(
        FileError, match=f"must be a state dict of tensors that torch.save has written, but are {words}"
    ):
        loaded(tmp_path / "x.pth")


def test_arrays_of_numpy_and_lists_are_refused_by_their_type(tmp_path):
    state = state_of()
    torch.save({key: value.numpy() for key, value in state.items()}, tmp_path / "x.pth")
    with pytest.raises(
        FileError, match=r"without tensors: 'features\.0\.0\.weight' is of type numpy\..*_reconstruct; save"
    ):
        loaded(tmp_path / "x.pth")
    torch.save([state], tmp_path / "x.pth")
    with pytest.raises(
        FileError, match=r"are of type list, without tensors; save the network's state_dict\(\) by torch\.save"
    ):
        loaded(tmp_path / "x.pth")


def rewritten(path, parts):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
