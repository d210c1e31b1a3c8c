"""What a run recommends, with its numbers and files, as one record."""

from __future__ import annotations

from typing import Any

from nas_attn.model.stored import arm_files
from nas_attn.placement import Placement
from nas_attn.records import RunRecord
from nas_attn.report.tables import Arm, arms_of
from nas_attn.report.verdict import verdict_of
from nas_attn.report.words import count, placement_words, quoted, scale_of, short

OUTPUT = ("best.json", "best.safetensors", "best-so-far.json", "report.html")
"""Files of a run that this record lists if they exist."""


def best_of(run: RunRecord) -> dict[str, Any]:
    """Return what a run recommends, in plain JSON; of an unfinished run what is known."""
    said, best = verdict_of(run), run.best or {}
    label = best.get("recommended")
    return {
        "run": str(run.folder),
        "finished": run.best is not None,
        "state": said.state,
        "title": said.title,
        "numbers": said.numbers,
        "more": list(said.more),
        "recommended": label,
        "placement": best.get("placement") if best.get("arm") else None,
        "answer": best.get("answer"),
        "arms": [_record(arm, str(label)) for arm in arms_of(run)],
        "files": {name: str(run.folder / name) for name in OUTPUT if (run.folder / name).exists()},
        "models": {arm: str(file) for arm, file in arm_files(run.folder).items()},
    }


def best_lines(run: RunRecord) -> list[str]:
    """Return the same in words, a line each: the advice first."""
    said, record, scale = verdict_of(run), best_of(run), scale_of(run)
    lines = [f"{said.title}.", *([f"{said.numbers}."] if said.numbers else []), *said.more, ""]
    for arm in arms_of(run):
        if arm.summary is None:
            continue
        mark = "recommended" if record["recommended"] in (*arm.names, arm.label) else ""
        spread = "" if arm.summary.sd is None else f" \N{PLUS-MINUS SIGN} {scale.number(arm.summary.sd)}"
        value = f"{scale.number(arm.summary.mean)}{spread}{scale.unit}"
        size = "" if arm.n_parameters is None else f"{short(arm.n_parameters)} parameters"
        lines.append(f"  {arm.label:28} {value:>18}  n = {arm.summary.n:<3} {size:18} {mark}".rstrip())
    if record["arms"]:
        lines += [f"  (test {scale.noun}: mean and sd over the seeds)", ""]
    if record["placement"] is not None:
        placement = Placement.from_dict(record["placement"])
        lines.append(f"Recommended network: {placement_words(placement, run.table)}")
    lines += list(record["files"].values())
    if record["models"]:
        lines.append(f"{run.folder / 'arms'}: {count(len(record['models']), 'arm')}, each with its weights")
        other = next((arm for arm in record["models"] if arm != record["recommended"]), record["recommended"])
        lines += [
            "",
            f"In Python: nas_attn.load_model({quoted(str(run.folder))}), or another arm by arm={quoted(other)}",
        ]
    return lines


def _record(arm: Arm, recommended: str) -> dict[str, Any]:
    """Return the test values of an arm in plain JSON."""
    summary = arm.summary
    return {
        "arm": arm.label,
        "recommended": recommended in (arm.label, *arm.names),
        "mean": summary.mean if summary else None,
        "sd": summary.sd if summary else None,
        "interval": list(summary.interval) if summary and summary.interval else None,
        "n": summary.n if summary else 0,
        "by_seed": {str(seed): value for seed, value in arm.by_seed.items()},
        "n_parameters": arm.n_parameters,
        "n_macs": arm.n_macs,
        "placement": arm.placement.to_dict(),
    }
