"""The command line: every setting with its default and its law, one sentence for each refusal, and exit codes."""

from __future__ import annotations

import itertools
import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest

from nas_attn import __version__
from nas_attn.attention.catalog import ATTENTIONS
from nas_attn.cli import commands as cli
from nas_attn.cli.commands import main
from nas_attn.config import settings
from nas_attn.config.groups import GROUPS
from nas_attn.errors import DataError, Interrupted, RunStopped
from nas_attn.executors.catalog import EXECUTORS
from nas_attn.run.default_shape import at_default_shape
from nas_attn.space.file import available_spaces
from nas_attn.space.schema import space_schema
from nas_attn.space.search_space import SearchSpace
from nas_attn.study.samplers.catalog import SAMPLERS, SCHEDULERS


@pytest.fixture
def received(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The settings that the engine was called with; the engine itself does not run."""
    calls: list[dict[str, Any]] = []
    engine = types.ModuleType("nas_attn.run.job")
    engine.run_command = lambda settings, **beside: calls.append(settings) or 0
    monkeypatch.setitem(sys.modules, "nas_attn.run.job", engine)
    return calls


def stop_with(error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(settings: dict[str, Any]) -> int:
        raise error

    engine = types.ModuleType("nas_attn.run.job")
    engine.run_command = fail
    monkeypatch.setitem(sys.modules, "nas_attn.run.job", engine)


def parameters() -> dict[str, Any]:
    command = cli.command_line().commands["search"]
    return {parameter.name: parameter for parameter in command.params}


def test_there_is_an_option_for_every_setting_with_its_default():
    options = {name: option for name, option in parameters().items() if name != "help"}
    assert {name: option.default or None for name, option in options.items()} == {
        field.name: field.default or None for field in settings()
    }


@pytest.mark.parametrize("field", [field for field in settings() if field.choices], ids=lambda field: field.name)
def test_an_option_has_the_choices_of_its_setting(field, received):
    assert parameters()[field.name].metavar == "|".join(map(str, field.choices))
    for word in field.choices:
        assert main(["search", field.option, str(word)]) == 0
    assert [stated[field.name] for stated in received] == list(field.choices)


@pytest.mark.parametrize(
    ("name", "records"),
    [("sampler", SAMPLERS), ("scheduler", SCHEDULERS), ("executor", EXECUTORS)],
)
def test_an_option_has_the_names_of_its_table(name, records, received):
    assert parameters()[name].metavar == "|".join(records)
    for record in records:
        assert main(["search", f"--{name}", record]) == 0
    assert [stated[name] for stated in received] == list(records)


@pytest.mark.parametrize(
    "field", [field for field in settings() if field.rule and "from" in field.rule], ids=lambda field: field.name
)
def test_an_option_has_the_bounds_of_its_setting(field, received):
    for rule in field.info.metadata:
        for law in ("ge", "le", "gt", "lt"):
            limit = getattr(rule, law, None)
            if limit is None:
                continue
            step = 1 if isinstance(limit, int) else 0.5
            outside = {"ge": limit - step, "le": limit + step}.get(law, limit)
            assert main(["search", f"{field.option}={outside}"]) == 2
            assert law in ("gt", "lt") or main(["search", f"{field.option}={limit}"]) == 0


def test_only_what_the_user_wrote_is_passed_on(received):
    assert main(["search"]) == 0
    words = "--space mine.toml --trials 24 --lr 0.01 --split 10/20/70 --no-class-weights --channels 1 --dry-run"
    assert main(["search", *words.split()]) == 0
    assert received == [
        {},
        {
            "space": "mine.toml",
            "trials": 24,
            "lr": 0.01,
            "split": (0.1, 0.2, 0.7),
            "class_weights": False,
            "channels": 1,
            "dry_run": True,
        },
    ]


def test_every_setting_reaches_the_engine_under_its_name(received):
    words = {
        "space": "s", "data": "folder:x", "data_root": "d", "out": "o", "address": "a:1", "train": "m:f",
        "image_size": "32", "channels": "3", "trials": "1", "epochs": "2", "batch_size": "8", "lr": "0.5",
        "weight_decay": "0", "optimizer": "adam", "augment": "crop", "label_smoothing": "0.1", "seed": "1",
        "backbone_lr": "0.5", "freeze_epochs": "1", "compile": "default",
        "seeds": "2", "top": "1", "retrain_epochs": "3", "sampler": "random", "scheduler": "asha",
        "max_params": "9", "max_macs": "9", "device": "cpu", "executor": "local", "workers": "2",
        "cpus_per_trial": "1", "gpus_per_trial": "0.5", "split": "80/10/10", "num_classes": "7", "in_channels": "4",
        "arm": "published:x", "backbone": "resnet18 stem=small", "max_seeds": "9", "margin": "0.25", "controls": "2",
        "control_search": "random", "seeds_at_once": "4",
        "time_budget": "1h30m", "trial_timeout": "9m", "checkpoint_every": "2.0", "max_latency": "4.5",
        "storage": "postgresql+psycopg://a@b/c", "sampler_option": "a=1", "scheduler_option": "b=2",
        "priors": "best.json", "objective": "accuracy,params", "callback": "m:F",
        "screen": "4", "pixel_range": "0:9", "background": "black", "frames": "all", "max_pixels": "9",
    }  # fmt: skip
    switches = ["download", "strict_data", "class_weights", "one_logit", "quiet", "debug", "dry_run", "dashboard"]
    switches += ["ablate", "allow_blank", "drop_duplicates", "data_on_nodes", "show_output", "same_training"]
    repeated = ["arm", "sampler_option", "scheduler_option", "priors", "objective", "callback"]
    line = ["search", *(f"--{name.replace('_', '-')}={word}" for name, word in words.items())]
    assert main([*line, *(f"--{name.replace('_', '-')}" for name in switches)]) == 0
    (settings,) = received
    assert set(settings) == set(words) | set(switches) == set(parameters()) - {"help"}
    assert [settings[name] for name in repeated] == [[words[name]] for name in repeated]
    others = [name for name in words if name not in ("split", "lr", "weight_decay", *repeated)]
    assert {name: str(settings[name]) for name in others} == {name: words[name] for name in others} | {
        "label_smoothing": "0.1"
    }
    assert all(settings[name] is True for name in switches)


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("search --trials 0", "'--trials' must be a whole number from 1 to 1,000,000, but got 0."),
        ("search --trials -3", "'--trials' must be a whole number from 1 to 1,000,000, but got -3."),
        ("search --trials 1e99", "'--trials' must be a whole number from 1 to 1,000,000, but got 1e99."),
        ("search --trials 99999999999", "'--trials' must be a whole number from 1 to 1,000,000, but got 99999999999."),
        ("search --seeds many", "'--seeds' must be a whole number from 1 to 1,000, or auto, but got many."),
        ("search --epochs 0", "'--epochs' must be a whole number from 1 to 100,000, but got 0."),
        ("search --lr 0", "'--lr' must be a number above 0 to 100, but got 0."),
        ("search --lr nan", "'--lr' must be a number above 0 to 100, but got nan."),
        ("search --label-smoothing 1", "'--label-smoothing' must be a number from 0 and below 1, but got 1."),
        ("search --gpus-per-trial -1", "'--gpus-per-trial' must be a number from 0 to 64, but got -1."),
        (
            "search --optimizer sdg",
            "'--optimizer' must be one of sgd, adamw, adam, but got 'sdg': did you mean 'sgd'?",
        ),
        ("search --executor rya", "'--executor' must be one of tune, local, but got 'rya'."),
        ("search --executor tun", "'--executor' must be one of tune, local, but got 'tun': did you mean 'tune'?"),
        ("search --channels 2", "'--channels' must be one of 1, 3, but got '2'."),
        (
            "search --split 10/20",
            "'--split' must be the shares of train, validation and test in percent, together at most "
            "100, such as 10/20/70, but got 10/20.",
        ),
        (
            "search --split 50/50/50",
            "'--split' must be the shares of train, validation and test in percent, together at most "
            "100, such as 10/20/70, but got 50/50/50.",
        ),
        ("search --space=", "'--space' must not be empty, but got ''."),
        ("search --trails 3", "Unknown option '--trails': did you mean '--trials'?"),
        ("search --epoch 3", "Unknown option '--epoch': did you mean '--epochs'?"),
        ("search --xyzzy", "No such option: --xyzzy"),
        ("search --out", "Option '--out' requires an argument."),
        ("search densenet_attn", "Got unexpected extra argument(s) (densenet_attn)"),
        ("serch", "No such command 'serch'. Did you mean 'search'?"),
        ("report", "Missing argument 'RUN'."),
        ("schema spaec", "Unknown schema 'spaec': did you mean 'space'? Known: space."),
        ("dashboard nowhere", "A run must contain study.db, but 'nowhere' has none."),
        ("dashboard nowhere --port 99999", "'--port' must be a whole number from 0 to 65,535, but got 99999."),
    ],
)
def test_a_refusal_is_one_sentence_and_code_2_and_writes_nothing(
    line, sentence, received, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert main(line.split()) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"Error: {sentence}\n")
    assert received == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("A folder must\n  hold images: 'x'."), 2, "Error: A folder must hold images: 'x'."),
        (RunStopped("Three trials in a row ran out of memory."), 1, "Error: Three trials in a row ran out of memory."),
        (
            Interrupted("Interrupted: the same command resumes the run."),
            130,
            "Interrupted: the same command resumes the run.",
        ),
        (ValueError("a fault of ours"), 1, "Error: ValueError: a fault of ours (--debug shows the traceback.)"),
    ],
)
def test_an_error_is_one_line_on_stderr_with_its_exit_code(error, code, line, monkeypatch, capsys):
    stop_with(error, monkeypatch)
    assert main(["search"]) == code
    out, err = capsys.readouterr()
    assert (out, err) == ("", line + "\n")


def test_ctrl_c_is_code_130_without_a_traceback(monkeypatch, capsys):
    stop_with(KeyboardInterrupt(), monkeypatch)
    assert main(["search"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_where_an_error_came_from(monkeypatch, capsys):
    stop_with(DataError("Folder 'x' is empty."), monkeypatch)
    assert main(["search", "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert err.endswith("Error: Folder 'x' is empty.\n")
    stop_with(ValueError("a fault of ours"), monkeypatch)
    with pytest.raises(ValueError, match="a fault of ours"):
        main(["search", "--debug"])


def test_modules_in_the_working_folder_can_be_named(received, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path])
    assert main(["search", "--train", "mine:train"]) == 0
    assert sys.path[-1] == str(tmp_path)


def test_the_engines_exit_code_is_the_commands(monkeypatch):
    engine = types.ModuleType("nas_attn.run.job")
    engine.run_command = lambda settings: 130
    monkeypatch.setitem(sys.modules, "nas_attn.run.job", engine)
    assert main(["search"]) == 130


def test_help_names_every_option_in_its_group_with_its_description_and_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "240")
    assert main(["search", "--help"]) == 0
    text = capsys.readouterr().out
    titles = re.findall(r"╭─ (.+?) ─", text)
    assert titles == ["Options", *GROUPS]
    panels = dict(zip(titles, re.split(r"╭─ .+? ─", text)[1:], strict=True))
    for field in settings():
        panel = " ".join(panels[field.setting.group].replace("│", " ").split())
        assert f" {field.option} " in panel
        assert " ".join(field.help.split()[:3]) in panel
        shown = field.setting.unset and f"({field.setting.unset})"
        if field.annotation is not bool:
            assert f"[default: {shown or field.default}]" in panel


@pytest.mark.parametrize("line", [[], ["--help"]])
def test_help_names_every_command(line, capsys):
    assert main(line) == 0
    text = capsys.readouterr().out
    commands = dict(re.findall(r"^  (\w+)  +(.+)$", text.partition("Commands:")[2], re.MULTILINE))
    assert set(commands) == set(cli.command_line().commands)
    assert not [line for line in commands.values() if line.endswith("...")], "a description must fit its line"


def test_spaces_lists_each_shipped_space_with_its_size_on_one_line(capsys):
    assert main(["spaces"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in available_spaces():
        space = at_default_shape(SearchSpace.load(name))
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        low, high = space.bound.parameter_range()
        assert space.title in line
        assert f" {space.backbone['name']} " in line
        count = space.bound.n_placements
        assert (f" {count:,} " if count < 10**9 else f" x 10^{len(str(count)) - 1} ") in line
        assert line.rstrip().endswith(f"{low:,} to {min(high, space.limits.max_params or high):,}")


def test_attentions_lists_every_attention_with_its_facts_on_one_line(capsys):
    assert main(["attentions"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ATTENTIONS.own:
        (line,) = [line for line in lines if line.startswith(f"{name} ")]
        entry = ATTENTIONS[name]
        assert entry.summary in line
        assert entry.source in line
        assert all(f"{option.name}=" in line for option in entry.options)
        assert ("shape-keeping" if entry.keeps_shape else entry.kinds[0]) in line
    assert " 680 " in next(line for line in lines if line.startswith("cbam "))


def test_attentions_in_a_narrow_terminal_are_shown_in_few_short_lines(capsys, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    assert main(["attentions"]) == 0
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in capsys.readouterr().out.splitlines()]
    assert max(len(line.rstrip()) for line in lines) <= 80
    first = [next(at for at, line in enumerate(lines) if line.startswith(f"{name} ")) for name in ATTENTIONS.own]
    assert max(after - before for before, after in itertools.pairwise(first)) <= 4
    assert re.search(r"^epsa +Convolves by .* 27,121$", "\n".join(lines), re.MULTILINE)
    assert "…" not in "".join(lines)
    assert lines[-1] == "Show one in full with: nas-attn attentions NAME"


def test_attentions_shows_one_in_full_with_its_formula(capsys):
    assert main(["attentions", "eca"]) == 0
    shown = capsys.readouterr().out
    assert ATTENTIONS["eca"].formula in shown
    assert "kernel_size  auto" in shown
    assert "odd 1 to 63, auto" in shown
    assert "3 parameters, 192 multiply-adds" in shown


def test_an_unknown_attention_is_refused_with_the_nearest(capsys):
    assert main(["attentions", "triplets"]) == 2
    assert "Unknown attention 'triplets': did you mean 'triplet'?" in capsys.readouterr().err


def test_schema_is_the_json_schema_of_a_space_file(capsys):
    assert main(["schema", "space"]) == 0
    assert json.loads(capsys.readouterr().out) == space_schema()


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"nas-attn {__version__}\n"


@pytest.mark.parametrize("line", [["--help"], ["search", "--help"], ["search", "--trials", "0"]])
def test_help_and_refusals_load_no_framework(run_python, line):
    code = f"""
import sys
from nas_attn.cli.commands import main
main({line})
print(sorted({{"torch", "torchvision", "optuna", "ray", "sklearn", "matplotlib", "numpy"}} & set(sys.modules)))
"""
    done = run_python("-c", code)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_run_search_is_nas_attn_search(root: Path, run_python, run_cli):
    for words in (["--trials", "0"], ["--help"]):
        script, module = run_python(root / "run_search.py", *words), run_cli("search", *words)
        assert (script.returncode, script.stdout, script.stderr) == (module.returncode, module.stdout, module.stderr)
    assert run_python(root / "run_search.py", "--trials", "0").returncode == 2


def test_report_and_dashboard_pass_on_their_arguments(monkeypatch, capsys):
    page, folder, dashboard = (
        types.ModuleType(f"nas_attn.{name}") for name in ("report.page", "run.folder", "cli.dashboard")
    )
    folder.load_run = lambda path: f"record of {path}"
    page.write_report = lambda record, path: Path(path) / f"{record}.html"
    served: list[Any] = []
    dashboard.serve = lambda run, *, host, port, announce: served.append((run, host, port))
    for module in (page, folder, dashboard):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    assert main(["report", "runs/x"]) == 0
    assert capsys.readouterr().out == f"{Path('runs/x') / 'record of runs'}/x.html\n"
    assert main(["dashboard", "runs/x", "--port", "0"]) == 0
    assert served == [(Path("runs/x"), "127.0.0.1", 0)]
