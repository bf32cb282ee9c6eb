"""What the study in ``effect.py`` found: gains with intervals over patients and seeds, as Markdown and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from effect_arms import Arm
from effect_scan_arms import arms_of

from roi_progressive.evaluation.aggregation import patient_values
from roi_progressive.evaluation.figures import (
    DIRECTION_COLORS,
    DIRECTION_NAMES,
    ComparisonRow,
    comparison_figure,
    save_figure,
    slice_to_show,
)
from roi_progressive.evaluation.pairs import DIRECTIONS, pairs_from_folders
from roi_progressive.run_folder import write_text
from roi_progressive.score_files import read_slices

DRAWS = 10_000
COLUMNS = {"tpsnr": ("TPSNR dB", 2), "tssim": ("TSSIM", 3), "psnr": ("PSNR dB", 2)}
LESIONS = ("lost", "inverted", "invented")
SHOWN = ("plain", "regions", "placebo")

Matrix = npt.NDArray[np.float64]
Slices = Mapping[tuple[str, int], Sequence[Any]]
Arms = Mapping[str, Arm]


def write_report(out: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """Write ``report.md`` and its pictures.

    Args:
        out: The study's folder.
        lines: The finished runs, as ``runs.jsonl`` has them.
    """
    slices = {(one["arm"], one["seed"]): read_slices(out / "runs" / f"{one['arm']}-{one['seed']}") for one in lines}
    settings = json.loads((out / "study.json").read_text(encoding="utf-8"))
    arms = arms_of(settings)
    pictures = [*_draw_gains(out, slices, arms), *_draw_slices(out, slices)]
    minutes = sum(line["minutes"] for line in lines)
    text = [
        "# Does it help?",
        "",
        f"{len(lines)} runs, {settings['epochs']} epochs each, {minutes:.0f} minutes in all; {_data_of(settings)}."
        + (" A quick run: the figures mean nothing." if settings["quick"] else ""),
        "",
        "Each gain is an arm's figure minus that of the arm it is compared with, from the same seeds on the same "
        "slices, averaged within patients, then over patients and seeds. In brackets: 95 % of the means when patients "
        f"and seeds are drawn with replacement ({DRAWS:,} draws). A gain that the placebo has too is no gain.",
        "",
        *_gain_table(slices, arms),
        "",
        *_value_table(lines),
        "",
        *(f"![{name}]({name})\n" for name in pictures),
    ]
    write_text(out / "report.md", "\n".join(text).rstrip() + "\n")


def gains(slices: Slices, arm: str, other: str, direction: str, metric: str) -> Matrix | None:
    """An arm's gain ``[seeds, patients]`` over another; ``None`` without a seed of both."""
    seeds = sorted(seed for name, seed in slices if name == arm and (other, seed) in slices)
    rows = []
    for seed in seeds:
        ours, theirs = (_values(slices[name, seed], direction, metric) for name in (arm, other))
        rows.append([ours[patient] - theirs[patient] for patient in sorted(ours.keys() & theirs.keys())])
    return np.array(rows) if rows and rows[0] else None


def interval(gain: Matrix, seed: int = 0) -> tuple[float, float]:
    """95 % of the means when the rows and the columns of ``[seeds, patients]`` are drawn with replacement."""
    rng = np.random.default_rng(seed)
    n_seeds, n_patients = gain.shape
    rows = rng.integers(n_seeds, size=(DRAWS, n_seeds))
    columns = rng.integers(n_patients, size=(DRAWS, n_patients))
    means = gain[rows[:, :, None], columns[:, None, :]].mean(axis=(1, 2))
    low, high = np.percentile(means, (2.5, 97.5))
    return float(low), float(high)


def _data_of(settings: Mapping[str, Any]) -> str:
    if "scans" in settings:
        return f"scans of {settings['scans']}, split by seed {settings['split_seed']}"
    return f"phantom version {settings['phantom_version']}, seed {settings['phantom_seed']}"


def _values(slices: Sequence[Any], direction: str, metric: str) -> dict[str, float]:
    return patient_values((one for one in slices if one["direction"] == direction), metric)


def _compared(slices: Slices, arms: Arms) -> list[str]:
    compared = {name: arm.against for name, arm in arms.items() if arm.against != name}
    return [name for name, other in compared.items() if gains(slices, name, other, "A2B", "psnr") is not None]


def _gain_table(slices: Slices, arms: Arms) -> list[str]:
    lines = ["| arm | against | direction | seeds | " + " | ".join(title for title, _ in COLUMNS.values()) + " |"]
    lines.append("| --- " * 3 + "| ---: " * (1 + len(COLUMNS)) + "|")
    for arm in _compared(slices, arms):
        for direction in DIRECTIONS:
            cells = []
            for metric, (_, digits) in COLUMNS.items():
                gain = gains(slices, arm, arms[arm].against, direction, metric)
                if gain is None:
                    cells.append("n/a")
                    continue
                low, high = interval(gain)
                cells.append(f"{gain.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]")
            seeds = len({seed for name, seed in slices if name == arm})
            row = [arm, arms[arm].against, DIRECTION_NAMES[direction], str(seeds), *cells]
            lines.append("| " + " | ".join(row) + " |")
    described = [f"- *{arm}*: {arms[arm].question}" for arm in arms if any(name == arm for name, _ in slices)]
    return [*lines, "", *described]


def _value_table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures themselves, means over seeds; the references are those of the plain runs."""
    metrics = (*COLUMNS, "texture_ratio", *(name for name in LESIONS if name in lines[0]["means"][0]))
    found: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for line in lines:
        for row in line["means"]:
            name = line["arm"] if row["arm"] == "model" else row["arm"]
            found.setdefault((name, row["direction"]), []).append(row)
    table = ["| arm | direction | " + " | ".join(metrics) + " |", "| --- | --- " + "| ---: " * len(metrics) + "|"]
    for (name, direction), rows in found.items():
        cells = []
        for metric in metrics:
            values = [row[metric] for row in rows if row.get(metric) is not None]
            cells.append(f"{np.mean(values):.2f}" if values else "n/a")
        table.append("| " + " | ".join([name, DIRECTION_NAMES[direction], *cells]) + " |")
    return table


def _draw_gains(out: Path, slices: Slices, arms: Arms) -> list[str]:
    """Tumour PSNR gained by each arm, with its interval."""
    from matplotlib.figure import Figure

    compared = _compared(slices, arms)
    if not compared:
        return []
    figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(compared)), layout="constrained")
    axis = figure.subplots()
    for shift, direction in ((-0.14, "A2B"), (0.14, "B2A")):
        for place, arm in enumerate(compared):
            gain = gains(slices, arm, arms[arm].against, direction, "tpsnr")
            if gain is None:
                continue
            low, high = interval(gain)
            label = DIRECTION_NAMES[direction] if place == 0 else None
            color = DIRECTION_COLORS[direction]
            axis.plot([low, high], [place + shift] * 2, color=color, linewidth=2)
            axis.plot(gain.mean(), place + shift, "o", color=color, label=label)
    axis.axvline(0, color="0.4", linewidth=0.9)
    axis.set_yticks(range(len(compared)), [f"{arm} − {arms[arm].against}" for arm in compared], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("tumour PSNR gained, dB", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, out / "gains.png")
    return ["gains.png"]


def _draw_slices(out: Path, slices: Slices) -> list[str]:
    """Side by side, of the first seed that has them all: the patient whose tumour PSNR under guidance is the median."""
    seeds = sorted(seed for _, seed in slices if all((arm, seed) in slices for arm in SHOWN))
    if not seeds:
        return []
    rows = []
    for direction in DIRECTIONS:
        shown = slice_to_show([one for one in slices["regions", seeds[0]] if one["direction"] == direction])
        made = {
            arm: pairs_from_folders(
                out / "data", "test", direction, out / "runs" / f"{arm}-{seeds[0]}" / "test" / direction, "tumor"
            )[shown["name"]]
            for arm in SHOWN
        }
        first = made["plain"]
        assert first.source is not None
        panels = {"real": first.source, **{arm: pair.fake for arm, pair in made.items()}, "real target": first.real}
        rows.append(ComparisonRow(f"{shown['patient']}, {shown['phase']} (median)", direction, panels, first.mask))
    comparison_figure(rows, out / "slices.png")
    return ["slices.png"]
