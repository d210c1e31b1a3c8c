"""Files of networks with one logit for two classes: what they say, and what another network takes from them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from one_logit_cases import build_lenet, write_folder
from safetensors.torch import save_file
from torch import Tensor, nn

from nas_attn import Placement, SearchSpace, build_model, load_model, save_model
from nas_attn.backbones.weights import classifier_path
from nas_attn.errors import FileError
from nas_attn.run.request import bind, read_settings

# --- the file of a model


def test_a_model_file_whose_logits_do_not_fit_its_names_is_refused(tmp_path: Path) -> None:
    record = {"mean": [0.5], "std": [0.2], "class_names": ["a", "b"], "logits_of": "second_class"}
    with pytest.raises(FileError, match=r"'num_classes' in .* must be 1 beside logits_of = 'second_class', but is 10"):
        save_model(build_lenet(10), tmp_path / "m.json", record=record)
    with pytest.raises(FileError, match=r"'class_names' in .* must have 2 entries, but has 3"):
        save_model(build_lenet(1), tmp_path / "m.json", record={**record, "class_names": ["a", "b", "c"]})


@pytest.mark.parametrize(("logits_of", "total"), [("classes", 1.0), ("labels", None)])
def test_probabilities_follow_from_what_the_logits_are_of(tmp_path: Path, logits_of: str, total: float | None) -> None:
    record = {"mean": [0.5], "std": [0.2], "class_names": list("abcd"), "logits_of": logits_of}
    save_model(build_lenet(4), tmp_path / "m.json", record=record)
    model = load_model(tmp_path / "m.json")
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    assert model.probabilities is not None
    found = model.probabilities(logits)
    assert torch.allclose(found, logits.softmax(1) if total else torch.sigmoid(logits))


# --- weights of another run


def saved(folder: Path, n_logits: int, names: list[str] | None) -> Path:
    """Write the weights of a LeNet, with a model file that names its classes."""
    folder.mkdir()
    model = build_model("lenet", Placement(), num_classes=n_logits, in_channels=1, image_size=32, seed=7)
    if names is None:
        save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, folder / "m.safetensors")
        return folder / "m.safetensors"
    record = {"mean": [0.5], "std": [0.2], "class_names": names}
    if len(names) != n_logits:
        record["logits_of"] = "second_class"
    save_model(model, folder / "m.json", record=record)
    return folder / "m.safetensors"


def classifier_of(file: Path, n_logits: int, names: tuple[str, ...], seed: int = 1) -> Tensor:
    """Return the classifier's weights and biases, (n_logits, features + 1), of a network started from a file."""
    spec = {"name": "lenet", "weights": str(file)}
    shape = {"num_classes": n_logits, "in_channels": 1, "image_size": 32}
    return rows_of(build_model(spec, Placement(), **shape, seed=seed, class_names=names).backbone, n_logits)


def rows_of(net: nn.Module, n_logits: int) -> Tensor:
    layer = net.get_submodule(str(classifier_path(net, n_logits)))
    return torch.cat([layer.weight, layer.bias[:, None]], 1).detach()


def test_one_logit_starts_from_the_difference_of_two(tmp_path: Path) -> None:
    file = saved(tmp_path / "two", 2, ["cat", "dog"])
    theirs = rows_of(build_model("lenet", Placement(), num_classes=2, in_channels=1, image_size=32, seed=7).backbone, 2)
    assert torch.equal(classifier_of(file, 1, ("cat", "dog"))[0], theirs[1] - theirs[0])
    assert torch.equal(classifier_of(file, 1, ("dog", "cat"))[0], theirs[0] - theirs[1])
    unnamed = saved(tmp_path / "unnamed", 2, None)
    assert torch.equal(classifier_of(unnamed, 1, ("cat", "dog"))[0], theirs[1] - theirs[0])


def test_one_logit_starts_from_two_of_many_classes(tmp_path: Path) -> None:
    file = saved(tmp_path / "many", 4, ["bird", "dog", "frog", "cat"])
    theirs = rows_of(build_model("lenet", Placement(), num_classes=4, in_channels=1, image_size=32, seed=7).backbone, 4)
    assert torch.equal(classifier_of(file, 1, ("cat", "dog"))[0], theirs[1] - theirs[3])


def test_one_logit_keeps_another_of_the_same_classes_and_turns_it_round_for_the_other_order(tmp_path: Path) -> None:
    file = saved(tmp_path / "one", 1, ["cat", "dog"])
    theirs = rows_of(build_model("lenet", Placement(), num_classes=1, in_channels=1, image_size=32, seed=7).backbone, 1)
    assert torch.equal(classifier_of(file, 1, ("cat", "dog")), theirs)
    assert torch.equal(classifier_of(file, 1, ("dog", "cat")), -theirs)


def test_classes_start_from_halves_of_one_logit(tmp_path: Path) -> None:
    file = saved(tmp_path / "one", 1, ["cat", "dog"])
    theirs = rows_of(build_model("lenet", Placement(), num_classes=1, in_channels=1, image_size=32, seed=7).backbone, 1)
    ours = classifier_of(file, 3, ("dog", "cat", "bird"))
    assert torch.equal(ours[0] - ours[1], theirs[0])
    drawn = rows_of(build_model("lenet", Placement(), num_classes=3, in_channels=1, image_size=32, seed=1).backbone, 3)
    assert torch.equal(ours[2], drawn[2])


@pytest.mark.parametrize(
    ("n_theirs", "theirs", "n_ours", "ours"),
    [
        (2, ["owl", "dog"], 1, ("cat", "dog")),
        (1, ["owl", "dog"], 1, ("cat", "dog")),
        (1, ["owl", "dog"], 3, ("cat", "dog", "bird")),
        (5, None, 1, ("cat", "dog")),
    ],
)
def test_other_classes_leave_the_classifier_as_drawn(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    n_theirs: int,
    theirs: list[str] | None,
    n_ours: int,
    ours: tuple[str, ...],
) -> None:
    file = saved(tmp_path / "other", n_theirs, theirs)
    shape = {"num_classes": n_ours, "in_channels": 1, "image_size": 32}
    drawn = rows_of(build_model("lenet", Placement(), **shape, seed=1).backbone, n_ours)
    with caplog.at_level("INFO", logger="nas_attn"):
        assert torch.equal(classifier_of(file, n_ours, ours), drawn)
    n_classes = len(theirs) if theirs else n_theirs
    assert f"The weights' {n_classes} classes are not the images' {len(ours)}: the classifier" in caplog.text
    assert "keeps its initial weights" in caplog.text


def test_a_search_starts_its_one_logit_from_the_weights_of_two(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "cats_and_dogs")
    record = {
        "title": "warm",
        "backbone": {"name": "lenet", "weights": str(saved(tmp_path / "two", 2, ["cat", "dog"]))},
        "sites": [{"match": ["stage1.pool"], "attentions": ["eca"]}],
        "recipe": {"one_logit": True},
    }
    given = {"space": SearchSpace.from_dict(record), "data": f"folder:{folder}", "image_size": 32}
    assert [note for note in bind(read_settings(given)).notes if "classifier" in note] == []
    record["backbone"]["weights"] = str(saved(tmp_path / "other", 3, ["cat", "owl", "frog"]))
    request = bind(read_settings(given | {"space": SearchSpace.from_dict(record)}))
    (note,) = [note for note in request.notes if "classifier" in note]
    assert "The weights' 3 classes are not the images' 2: the classifier" in note
