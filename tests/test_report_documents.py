"""`report.md`, `arms.tex` and the model card say what the page says, in well-formed Markdown and LaTeX."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
from report_cases import CASES
from synthetic_run import everywhere, failed, make_run, with_predictions

from nas_attn.comparison.answer import RULE
from nas_attn.records import RunRecord
from nas_attn.report.documents import documents, markdown, tex
from nas_attn.report.guards import guards
from nas_attn.report.page import content, write_report
from nas_attn.report.tables import arms_of
from nas_attn.report.verdict import verdict_of
from nas_attn.report.words import minus, scale_of, short

SITES = ("denseblock1", "transition1", "denseblock2", "transition2", "denseblock3")
UNESCAPED = re.compile(r"(?<!\\)[#_%&~^]")


def written(run: RunRecord) -> dict[str, str]:
    return documents(run, content(run, []))


@cache
def of_case(name: str) -> dict[str, str]:
    return written(CASES[name][0]())


def with_images() -> RunRecord:
    run = with_predictions(make_run(n_trials=8, found=everywhere("se", SITES[:2])), 300)
    best = {"recommended": "found #1", "arm": "found #1", "placement": everywhere("se", SITES[:2]).to_dict()}
    best |= {"weights": {"name": "best.safetensors", "sha256": "ab" * 32}, "class_names": [*"0123456789"]}
    best |= {"mean": [0.3049], "std": [0.3764], "backbone": {"name": "densenet", "growth_rate": 8}}
    return replace(run, best=best)


def tables_in(text: str) -> list[list[str]]:
    """Return the lines of every table of a Markdown text."""
    groups = re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE)
    return [group.splitlines() for group in groups]


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@pytest.mark.parametrize("name", CASES)
def test_every_case_has_documents_that_say_what_the_page_says(name: str):
    run, found = CASES[name][0](), of_case(name)
    report, said = found["report.md"], verdict_of(run)
    assert report.startswith(f"# {said.title}\n")
    for line in [*said.more, *([said.numbers] if said.numbers else [])]:
        assert markdown(minus(line)) in report
    for text in guards(run, arms_of(run)):
        if text not in said.more:
            assert markdown(minus(text)) in report
    assert ("arms.tex" in found) == bool(arms_of(run))
    assert ("MODEL.md" in found) == (run.best is not None and name != "retraining failed"), sorted(found)
    for text in found.values():
        assert not re.search(r"\b(nan|None|inf|undefined|Undefined)\b", text), re.search(r".{30}\b(nan|None)\b", text)
        assert "\n\n\n" not in text
        assert text.endswith("\n")


@pytest.mark.parametrize("name", CASES)
def test_tables_of_markdown_are_whole(name: str):
    for text in (found for file, found in of_case(name).items() if file.endswith(".md")):
        for table in tables_in(text):
            assert len(table) > 2
            assert len({len(cells(line)) for line in table}) == 1, table
            assert all(set(cell) == {"-"} for cell in cells(table[1]))
        assert text.count("```") % 2 == 0


@pytest.mark.parametrize("make", [make_run, with_images])
def test_arms_have_the_numbers_and_words_of_the_page(make: Callable[[], RunRecord]):
    run = make()
    found, scale, values = written(run), scale_of(run), content(run, [])
    rows = {cells(line)[0]: cells(line) for line in tables_in(found["report.md"])[0][2:]}
    lines = {line.split(" & ")[0]: line for line in found["arms.tex"].splitlines() if " & " in line}
    for row in values["arms"]:
        summary, label = row.arm.summary, row.arm.label
        own = next(cells for first, cells in rows.items() if first.startswith(label))
        value = f"{scale.number(summary.mean)} ± {scale.number(summary.sd)}"
        assert own[1:4] == [value, scale.interval(summary), str(summary.n)]
        assert own[6:] == [short(row.arm.n_parameters), short(row.arm.n_macs)]
        line = next(line for first, line in lines.items() if first.startswith(tex(label)))
        assert f"${value.replace('±', chr(92) + 'pm')}$" in line
        assert short(row.arm.n_macs).replace(" ", r"\,") in line
        if row.comparison is not None:
            difference = scale.signed(row.comparison.summary.mean)
            assert own[4].startswith(minus(difference))
            assert own[5] == row.comparison.word
            assert f"${difference}$ & $[" in line
            assert f" & {row.comparison.word} & " in line
    assert RULE in found["report.md"]


def test_an_interval_at_another_confidence_says_so():
    found = of_case("better")
    arm = next(line for line in tables_in(found["report.md"])[0] if "found #1" in line)
    assert "at 96 %" in arm
    assert r"of found \#1 96\,\%" in found["arms.tex"]


@pytest.mark.parametrize("name", [name for name in CASES if arms_of(CASES[name][0]())])
def test_latex_is_well_formed(name: str):
    text = of_case(name)["arms.tex"]
    lines = [line for line in text.splitlines() if not line.startswith("%")]
    begun, ended = (re.findall(rf"\\{word}{{(\w+)}}", text) for word in ("begin", "end"))
    assert begun == ended[::-1] == ["table", "tabular"]
    plain = [line.replace(r"\{", "").replace(r"\}", "") for line in lines]
    assert all(line.count("{") == line.count("}") for line in plain)
    assert all(line.replace(r"\$", "").count("$") % 2 == 0 for line in lines)
    rows = [line for line in lines if line.endswith(r"\\")]
    columns = len(re.search(r"tabular}{@{}(\w+)@{}}", text)[1])
    assert [len(line.split(" & ")) for line in rows] == [columns] * len(rows)
    assert len(rows) == 1 + len(arms_of(CASES[name][0]()))
    outside = [re.sub(r"\$[^$]*\$|\\label{[^}]*}", "", line).replace(" & ", "") for line in lines]
    assert not [line for line in outside if UNESCAPED.search(line)]
    for rule in (r"\toprule", r"\midrule", r"\bottomrule"):
        assert text.count(rule) == 1


def test_names_of_users_are_shown_as_they_are():
    run = with_images()
    config = {**run.config, "space": {**run.config["space"], "title": "A & B_1: 5 % <of> $x$ #2 | *c* {d}"}}
    facts = {**run.config["data"]["facts"], "class_names": ["a|b", "*c*", "<d>", *"3456789"]}
    table = replace(run.table, backbone="my_net*")
    found = written(replace(run, config={**config, "data": {"name": "x", "facts": facts}}, table=table))
    assert r"A \& B\_1: 5 \% \textless{}of\textgreater{} \$x\$ \#2 | {*}c{*} \{d\}" in found["arms.tex"]
    assert r"of my\_net{*} on digits" in found["arms.tex"]
    assert found["MODEL.md"].startswith(r"# my_net\* for digits: ")
    assert r"A & B_1: 5 % \<of\> $x$ #2 \| \*c\* {d}" in found["report.md"]
    names = {cells(line)[0] for line in tables_in(found["report.md"])[2]}
    assert {r"a\|b", r"\*c\*", r"\<d\>"} <= names


def test_report_shows_the_figures_that_are_written(tmp_path: Path):
    path = write_report(with_images(), tmp_path)
    text = (path.parent / "report.md").read_text(encoding="utf-8")
    shown = re.findall(r"!\[([^\]]+)\]\((figures/\w+\.png)\)", text)
    assert sorted(file for _, file in shown) == sorted(
        str(file.relative_to(tmp_path)) for file in (tmp_path / "figures").glob("*.png")
    )
    assert all(alt for alt, _ in shown)
    assert (tmp_path / "MODEL.md").is_file()
    assert (tmp_path / "arms.tex").is_file()


def test_report_tells_failures_and_how_to_reproduce():
    run = make_run()
    text = of_case("better")["report.md"]
    assert "- search, out of memory (trials 11): Out of memory: 3.2 GiB were asked for" in text
    assert "python run_search.py --space densenet_attn\n```" in text
    assert 'load_model("runs/densenet_attn", arm="found #1")' in text
    assert "sha256 9f3c1a" in text
    broken = replace(run, search=(failed(run.search[0], "error", "no\n## heading | <b>"), *run.search[1:]))
    assert r"no ## heading \| \<b\>" in written(broken)["report.md"]


def test_model_card_describes_what_is_recommended():
    run = with_images()
    text = written(run)["MODEL.md"]
    arm = next(arm for arm in arms_of(run) if arm.label == "found #1")
    for piece in (
        "# densenet for digits: se at denseblock1 and transition1\n",
        "- arm: found #1\n",
        "  - denseblock1: se(reduction=4)\n",
        "resizes and normalises by mean 0.3049 and standard deviation 0.3764",
        f"- parameters: {arm.n_parameters:,}; multiply-adds of one image: {arm.n_macs:,}",
        f"`best.safetensors` (safetensors, sha256 {'ab' * 32}), of seed 200",
        "180 training, 359 validation and 1,258 test images",
        "sha256 9f3c1a",
        f"The stored weights are those of seed 200: {100 * arm.by_seed[200]:.2f} % test accuracy.",
        "The intervals are for new seeds and new images of this kind; that of the calibration error is for new seeds",
        "Lowest accuracy by class: ",
        'model = load_model("runs/densenet_attn")\n',
        'model = load_model("runs/densenet_attn", arm="none")\n',
        "optimizer sgd",
        "torch 2.15.0",
        RULE,
    ):
        assert piece in text, piece
    metrics = {cells(line)[0]: cells(line) for line in tables_in(text)[0]}
    assert metrics["accuracy (%)"][1:3] == [f"{100 * arm.summary.mean:.2f}", f"{100 * arm.summary.sd:.2f}"]
    assert set(metrics) >= {"balanced accuracy (%)", "macro F1 (%)", "ROC AUC", "calibration error (%)"}


def test_limits_of_a_model_name_the_cautions():
    run = with_predictions(make_run(n_trials=8), 60)
    found = [text for text in guards(run, arms_of(run)) if "60 test images" in text]
    assert len(found) == 1
    limits = written(run)["MODEL.md"].split("## Limits")[1].split("## ")[0]
    assert markdown(minus(found[0])) in limits


def test_model_card_without_predictions_has_the_one_metric():
    text = of_case("better")["MODEL.md"]
    assert [cells(line)[0] for line in tables_in(text)[0][2:]] == ["accuracy (%)"]
    assert "calibration" not in text
    assert "The intervals are for new seeds only." in text
    assert "There is no interval: fewer than 3 seeds" in of_case("one seed")["MODEL.md"]


def test_model_card_of_no_attention_says_so():
    text = written(make_run(n_trials=8, effects={}, recommended="none"))["MODEL.md"]
    assert text.startswith("# densenet for digits: no attention\n")
    assert "**Use no attention.**" in text
    assert "- arm: none\n" in text


def test_text_is_escaped_and_stays_on_one_line():
    assert markdown("a\nb | c_d _e_ `f` [g](h)") == r"a b \| c_d \_e\_ \`f\` \[g\](h)"
    assert tex("[x] *") == "{[}x] {*}"
    assert tex("50 % of\n{x}_1 \\ ~ ^") == r"50 \% of \{x\}\_1 \textbackslash{} \textasciitilde{} \textasciicircum{}"
