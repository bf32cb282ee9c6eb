"""What the study in ``run_study.py`` found, as Markdown and pictures; every figure is computed from its runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roi_progressive.saving.records import read_json
from roi_progressive.saving.whole_files import write_text

from .calibration import calibration
from .checks import PHANTOM_QUESTIONS, SCAN_QUESTIONS, check_table
from .gains import DRAWS, Lines, read_runs
from .pictures import draw_gains, draw_sigma, draw_slices
from .scan_arms import arms_of
from .tables import calibration_table, gain_table, left_for_later, score_table, sign_table
from .training import draw_training

MAIN_SEEDS, SECONDARY_SEEDS = 5, 3
"""Runs wanted of an arm: of the main ones, and of all scans', five."""


def write_report(out: Path, lines: Lines) -> None:
    """Write ``report.md`` and its pictures.

    Args:
        out: The study's folder.
        lines: The finished runs, as ``runs.jsonl`` has them.
    """
    settings = read_json(out / "study.json")
    arms, slices = arms_of(settings), read_runs(out, lines)
    on_scans = "scans" in settings
    questions = SCAN_QUESTIONS if on_scans else PHANTOM_QUESTIONS
    needed = ("plain", "regions", "placebo", *(("ceiling",) if on_scans else ()))
    scores, curves = calibration(out, lines, arms)
    drawn = {
        "gains.png": draw_gains(out / "gains.png", slices, arms),
        "slices.png": draw_slices(out / "slices.png", out, slices, arms),
        "training.png": draw_training(out / "training.png", out, slices),
        "sigma.png": draw_sigma(out / "sigma.png", curves.get("regions")),
    }
    planned = dict.fromkeys(arms, MAIN_SEEDS if on_scans else SECONDARY_SEEDS) | dict.fromkeys(needed, MAIN_SEEDS)
    parts = {
        "Asked and seen": check_table(lines, slices, questions, needed),
        "Gains": [_ABOUT_GAINS, "", *gain_table(slices, arms), "", *_described(lines, settings)],
        "Gains seed by seed": sign_table(slices, arms),
        "Scores": [_ABOUT_SCORES, "", *score_table(lines, arms)],
        "Calibration of sigma": calibration_table(scores),
        "Left for later": left_for_later(lines, planned),
        "Pictures": [f"![{name}]({name})\n" for name, made in drawn.items() if made],
    }
    text = ["# Does it help?", "", _opening(lines, settings)]
    for title, content in parts.items():
        if content:
            text += ["", f"## {title}", "", *content]
    write_text(out / "report.md", "\n".join(text).rstrip() + "\n")


_ABOUT_GAINS = (
    "Each gain is an arm's figure minus that of the arm it is compared with, from the same seeds on the same slices, "
    "averaged within patients, then over patients and seeds. In brackets: 95 % of the means when patients and seeds "
    f"are drawn with replacement ({DRAWS:,} draws). A gain that the placebo has too is no gain."
)
_ABOUT_SCORES = "Means over seeds. *lost*, *inverted* and *invented* are shares of lesions."


def _opening(lines: Lines, settings: Mapping[str, Any]) -> str:
    minutes = sum(line["minutes"] for line in lines)
    if "scans" in settings:
        data = f"scans of {settings['scans']}, split by seed {settings['split_seed']}, {settings['size_px']} px"
    else:
        data = f"phantom version {settings['phantom_version']}, seed {settings['phantom_seed']}"
    said = f"{len(lines)} runs, {settings['epochs']} epochs each, {minutes:.0f} minutes in all; {data}."
    return said + (" A quick run: the figures mean nothing." if settings["quick"] else "")


def _described(lines: Lines, settings: Mapping[str, Any]) -> list[str]:
    run = {line["arm"] for line in lines}
    return [f"- *{name}*: {arm.question}" for name, arm in arms_of(settings).items() if name in run]
