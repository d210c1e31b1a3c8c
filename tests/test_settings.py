"""What the user asked for: which source goes before which, and what the run is called."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from runs import tiny_space

from nas_attn.config import Recipe, Resources
from nas_attn.errors import ConfigError
from nas_attn.executors.resources import allocate
from nas_attn.run.provenance import describe_run
from nas_attn.run.request import bind, read_settings
from nas_attn.space.file import available_spaces


def test_the_command_line_goes_before_the_space_file_and_that_before_the_defaults(tmp_path: Path) -> None:
    space = tiny_space(tmp_path)
    space.write_text(space.read_text() + "\n[recipe]\nepochs = 7\nlr = 0.5\n[data]\nsplit = [0.2, 0.3, 0.5]\n")
    settings = read_settings({"space": space, "lr": 0.2})
    assert (settings.recipe.epochs, settings.recipe.lr, settings.recipe.batch_size) == (7, 0.2, Recipe().batch_size)
    assert settings.data is not None
    assert settings.data.split == (0.2, 0.3, 0.5)
    settings = read_settings({"space": space, "split": "10/20/70"})
    assert settings.data is not None
    assert settings.data.split == pytest.approx((0.1, 0.2, 0.7))


@pytest.mark.parametrize(
    ("recipe", "given", "expected"),
    [
        ({"epochs": 8, "retrain_epochs": 15}, {}, (8, 15, "sgd", 0.1)),
        ({"epochs": 8, "retrain_epochs": 15}, {"epochs": 8}, (8, 15, "sgd", 0.1)),
        ({"epochs": 8, "retrain_epochs": 15}, {"epochs": 3}, (3, None, "sgd", 0.1)),
        ({"epochs": 8, "retrain_epochs": 15}, {"epochs": 3, "retrain_epochs": 9}, (3, 9, "sgd", 0.1)),
        ({"optimizer": "adam", "lr": 0.02}, {"optimizer": "sgd"}, (30, None, "sgd", 0.1)),
        ({"optimizer": "adam", "lr": 0.02}, {"optimizer": "adam"}, (30, None, "adam", 0.02)),
        ({"lr": 0.5}, {"optimizer": "adamw"}, (30, None, "adamw", 0.003)),
        ({"lr": 0.5}, {"optimizer": "sgd"}, (30, None, "sgd", 0.5)),
    ],
)
def test_what_suits_another_value_of_the_space_file_gives_way_with_it(
    recipe: dict[str, object], given: dict[str, object], expected: tuple[object, ...], tmp_path: Path
) -> None:
    space = tiny_space(tmp_path)
    words = "\n".join(f"{name} = {value!r}" for name, value in recipe.items())
    space.write_text(f"{space.read_text()}\n[recipe]\n{words}\n")
    found = read_settings({"space": space, **given}).recipe
    assert (found.epochs, found.retrain_epochs, found.optimizer, found.lr) == expected


@pytest.mark.parametrize(
    ("given", "folder"),
    [
        ({}, "runs/densenet_attn"),
        ({"data": "mnist"}, "runs/densenet_attn-mnist"),
        ({"data": "cifar10"}, "runs/resnet18_attn-cifar10"),
        ({"data": "folder:/tmp/pictures"}, "runs/resnet18_attn-pictures"),
        ({"data": "folder:/tmp/pictures", "backbone": "timm:resnet10t"}, "runs/resnet10t-pictures"),
        ({"backbone": "my_networks:make_net"}, "runs/make_net"),
        ({"train": "json:dumps", "num_classes": 2, "in_channels": 1, "image_size": 8}, "runs/densenet_attn-own"),
    ],
)
def test_a_run_is_called_after_its_space_and_its_data(given: dict[str, object], folder: str) -> None:
    assert read_settings(given).out == Path(folder).absolute()


def test_adam_starts_from_a_rate_of_its_own_unless_one_is_given() -> None:
    assert Recipe().lr == 0.1
    assert Recipe(optimizer="adamw").lr == 0.003
    assert Recipe(optimizer="adam", lr=0.01).lr == 0.01


def test_small_images_are_enlarged_with_a_note() -> None:
    enlarged = bind(read_settings({"space": _imagenet_stem(), "split": "2/2/96"}))
    assert enlarged.shape.image_size > 8
    own = bind(read_settings({"space": "resnet18_attn"}))
    assert own.shape.image_size == 32, "the space file's own size needs no enlarging"
    assert "The 8x8 images are enlarged to" in enlarged.notes[0]


def test_every_shipped_space_takes_the_default_data_with_a_logit_for_each_class() -> None:
    for name in available_spaces():
        bind(read_settings({"space": name, "one_logit": False}))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"num_classes": 7}, "but got 7 together with data that has its own: leave it out."),
        (
            {"in_channels": 3},
            "but got 3 together with data that has its own: --channels converts grey to colour and back.",
        ),
        ({"augment": "crop-flip"}, "--augment must be none or crop for digits"),
    ],
)
def test_what_does_not_go_with_the_data_is_refused(given: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        read_settings(given)


def _imagenet_stem() -> object:
    from nas_attn.space.search_space import SearchSpace

    return SearchSpace.from_dict(
        {
            "title": "large",
            "backbone": {"name": "densenet", "growth_rate": 4, "block_config": [1, 1, 1, 1], "stem": "imagenet"},
            "sites": [{"match": ["denseblock1"], "attentions": ["se"]}],
            "attentions": {"se": {"reduction": 4}},
        },
        "large.toml",
    )


def test_a_training_without_data_says_what_it_needs() -> None:
    with pytest.raises(ConfigError, match=r"without data needs num_classes, in_channels, image_size: state them"):
        read_settings({"train": "json:dumps"})


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("my_training", r"--train must be MODULE:FUNCTION, but got 'my_training'"),
        ("no_such_module:train", r"names the module 'no_such_module', but it cannot be imported"),
        ("json:dump_s", r"Unknown function 'dump_s' in module 'json': did you mean 'dumps'\?"),
    ],
)
def test_a_training_that_cannot_be_found_is_refused_at_once(path: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_settings({"train": path})


@pytest.mark.parametrize(
    ("resources", "cores", "gpus", "expected"),
    [
        ({}, 8, 0, (8, 1, 0.0, "cpu")),
        ({"cpus_per_trial": 4}, 8, 0, (2, 4, 0.0, "cpu")),
        ({"workers": 2}, 8, 0, (2, 4, 0.0, "cpu")),
        ({}, 64, 8, (8, 8, 1.0, "cuda")),
        ({"gpus_per_trial": 0.25}, 16, 1, (4, 4, 0.25, "cuda")),
        ({"gpus_per_trial": 0.0}, 16, 1, (16, 1, 0.0, "cpu")),
        ({"device": "cpu"}, 16, 2, (16, 1, 0.0, "cpu")),
        ({"device": "mps"}, 8, 0, (1, 8, 0.0, "mps")),
        ({"workers": 3, "device": "cuda"}, 2, 1, (3, 1, 1.0, "cuda")),
    ],
)
def test_what_is_there_is_shared_out(
    resources: dict[str, object],
    cores: int,
    gpus: int,
    expected: tuple[int, int, float, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    allocation = allocate(Resources(**resources), n_cores=cores, n_gpus=gpus)
    assert (allocation.workers, allocation.cpus, allocation.gpus, allocation.device) == expected


@pytest.mark.parametrize(
    ("resources", "pinned", "expected"),
    [
        ({"workers": 1}, "1", (1, 1)),
        ({"workers": 2}, "16", (2, 4)),
        ({"workers": 1, "cpus_per_trial": 4}, "1", (1, 4)),
        ({"executor": "local"}, "3", (1, 3)),
        ({"executor": "local"}, "", (1, 8)),
    ],
)
def test_threads_that_the_user_pins_are_not_exceeded_unasked(
    resources: dict[str, object], pinned: str, expected: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", pinned)
    allocation = allocate(Resources(**resources), n_cores=8, n_gpus=0)
    assert (allocation.workers, allocation.cpus) == expected


@pytest.mark.parametrize(
    ("resources", "sentence"),
    [
        ({"workers": 5000}, "--workers must be at most 8 for each of the 2 cores, but got 5000: leave it out for one"),
        ({"cpus_per_trial": 64}, "--cpus-per-trial must be at most the 2 available cores, but got 64."),
    ],
)
def test_far_more_than_there_is_is_refused(resources: dict[str, object], sentence: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(sentence)):
        allocate(Resources(**resources), n_cores=2, n_gpus=0)


@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("/x/nas_attn/__main__.py", "python -m nas_attn search --trials 3"),
        ("run_search.py", "python run_search.py search --trials 3"),
        ("/usr/bin/nas-attn", "nas-attn search --trials 3"),
    ],
)
def test_the_command_that_is_kept_can_be_run_again(program: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", [program, "search", "--trials", "3"])
    assert describe_run(bind(read_settings({})))["command"] == words
