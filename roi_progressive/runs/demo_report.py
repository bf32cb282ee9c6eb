"""What the demo leaves behind: ``metrics.json``, ``report.md``, ``figure.png``, ``curves.png`` and five lines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..evaluation.aggregation import Results, metric_of, metrics_of
from ..evaluation.figures import ComparisonRow, comparison_figure, curves_figure, slice_to_show
from ..evaluation.image_files import read_grey
from ..evaluation.metrics import PSNR, TEXTURE, TPSNR, TSSIM, Metric
from ..evaluation.pairs import FolderPairs, pairs_from_folders
from ..evaluation.table import render_markdown
from ..saving.names import CT_AND_MR, DIRECTIONS
from ..saving.whole_files import write_text
from .folder import Run, history
from .scores import RunScores

REGION = "tumor"
REFERENCES = ("constant_fill", "copy_source")
FILES = ("metrics.json", "figure.png", "curves.png", "report.md")


def write(folder: Path, scores: Mapping[str, RunScores], *, seed: int, epochs: int, minutes: float) -> dict[str, Any]:
    """Write everything into the demo's folder.

    Args:
        folder: Holds ``data`` and one run an arm.
        scores: Of the arms ``plain``, ``regions``, ``placebo``; ``plain`` brings the references.
        seed: Of the demo.
        epochs: Of every arm.
        minutes: What training and evaluation took.

    Returns:
        What ``metrics.json`` holds.
    """
    results: dict[str, Results] = {arm: scores[arm].results["model"] for arm in ("plain", "regions", "placebo")}
    results.update({name: scores["plain"].results[name] for name in REFERENCES})
    metrics: dict[str, Any] = {
        "format": 1,
        "version": __version__,
        "seed": seed,
        "epochs": epochs,
        "minutes": round(minutes, 2),
        "arms": results,
        "gain": _difference(results["regions"], results["plain"]),
        "placebo_gain": _difference(results["placebo"], results["plain"]),
        "to_constant_fill": _difference(results["regions"], results["constant_fill"]),
    }
    write_text(folder / "metrics.json", json.dumps(metrics, indent=1, allow_nan=False) + "\n")
    _draw_comparison(folder, scores)
    draw_curves(folder)
    write_text(folder / "report.md", _report(metrics))
    return metrics


def summary(metrics: Mapping[str, Any], folder: Path) -> str:
    """Five lines a newcomer understands."""
    return "\n".join(
        [
            f"Guiding by regions changed the tumour by {_both(metrics['gain'], TPSNR)} dB PSNR "
            f"and {_both(metrics['gain'], TSSIM, 2)} SSIM (higher is better).",
            f"The same with masks shuffled between images, which must not help: "
            f"{_both(metrics['placebo_gain'], TPSNR)} dB.",
            f"The whole image changed by {_both(metrics['gain'], PSNR)} dB; lesion texture is "
            f"{_texture(metrics)} times the real one's (1 is right).",
            f"Against painting the tumour flat in its mean grey: {_both(metrics['to_constant_fill'], TPSNR)} dB "
            f"(above 0 beats it).",
            f"Look at {folder / 'figure.png'}, then read {folder / 'report.md'}; "
            f"it took {metrics['minutes']:.1f} minutes.",
        ]
    )


def _difference(these: Results, those: Results) -> dict[str, dict[str, float | None]]:
    """By direction and metric: the difference of the means over phases, ``None`` where either does not exist.

    A metric that is best at 1 has no gain.
    """
    gains: dict[str, dict[str, float | None]] = {}
    for direction in DIRECTIONS:
        ours, others = these[direction]["mean"], those[direction]["mean"]
        scores = set(metrics_of([ours]))
        gains[direction] = {
            key: None if value is None or others.get(key) is None else value - others[key]
            for key, value in ours.items()
            if key in scores and metric_of(key).better in ("up", "down", None)
        }
    return gains


def _both(gain: Mapping[str, Mapping[str, float | None]], metric: Metric, digits: int = 1) -> str:
    return " and ".join(f"{_formatted(gain[d][metric.key], f'+.{digits}f')} ({CT_AND_MR.title(d)})" for d in DIRECTIONS)


def _formatted(value: float | None, form: str) -> str:
    return "n/a" if value is None else f"{value:{form}}"


def _texture(metrics: Mapping[str, Any]) -> str:
    ratios = (metrics["arms"]["regions"][d]["mean"][TEXTURE.key] for d in DIRECTIONS)
    return " and ".join(_formatted(ratio, ".2f") for ratio in ratios)


def _pairs(folder: Path, scores: Mapping[str, RunScores], arm: str, direction: str) -> FolderPairs:
    return pairs_from_folders(folder / "data", "test", direction, scores[arm].images[direction], REGION)


def _draw_comparison(folder: Path, scores: Mapping[str, RunScores]) -> None:
    """One slice a direction: the largest lesion of the patient whose tumour PSNR is the median."""
    run, rows = Run.open(folder / "regions"), []
    for direction in DIRECTIONS:
        slices = [scored for scored in scores["regions"].slices["model"] if scored["direction"] == direction]
        shown = slice_to_show(slices)
        guided = _pairs(folder, scores, "regions", direction)[shown["name"]]
        plain = _pairs(folder, scores, "plain", direction)[shown["name"]]
        assert guided.source is not None
        panels = {"real": guided.source, "plain": plain.fake, "regions": guided.fake, "real target": guided.real}
        sigma = read_grey(run.sigma("test", direction) / shown["name"]).astype(float)
        label, maps = f"{shown['patient']}, {shown['phase']} (median)", {"uncertainty": sigma}
        rows.append(ComparisonRow(label, direction, panels, guided.mask, maps))
    comparison_figure(rows, folder / "figure.png")


def draw_curves(folder: Path) -> None:
    """Write ``curves.png`` from the arms' histories: every loss, averaged over the two directions, by epoch."""
    arms = {arm: history(folder / arm) for arm in ("plain", "regions", "placebo")}
    names = dict.fromkeys(name for epochs in arms.values() for epoch in epochs for name in epoch["losses"])
    terms: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("idt_"):  # the demo trains without
            terms.setdefault(_title(name), []).append(name)
    curves = {
        arm: {title: [_mean(epoch["losses"], terms[title]) for epoch in epochs] for title in sorted(terms, key=_rank)}
        for arm, epochs in arms.items()
    }
    starts: dict[str, float] = {}
    for epoch in arms["regions"]:
        if epoch["stage"] > 1:
            starts.setdefault(f"S{epoch['stage']}", epoch["epoch"])
    curves_figure(curves, starts, folder / "curves.png")


def _title(name: str) -> str:
    """``G_tumor_A2B`` and ``G_tumor_B2A``: generator, tumor; the host's ``G_A`` and ``G_B``: whole image."""
    term = name.rpartition("_")[0]
    kind, _, region = term.partition("_")
    network = {"G": "generator", "D": "discriminator"}.get(kind)
    if network is None:
        return {"ggd": "uncertainty (GGD)"}.get(term, term)
    return f"{network}, {region or 'whole image'}"


def _rank(title: str) -> tuple[bool, bool, bool]:
    """The whole image first, then what has no region, then the regions in the order in which they joined."""
    return "whole image" not in title, ", " in title, title == "discriminator, whole image"


def _mean(losses: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    values = [value for name in names if (value := losses.get(name)) is not None]
    return sum(values) / len(values) if values else None


def _report(metrics: Mapping[str, Any]) -> str:
    return f"""# roi-progressive demo, seed {metrics["seed"]}

Three CycleGANs were trained for {metrics["epochs"]} epochs from the same seed on the same phantom, CT (A) and MR (B)
of different patients. *plain* is the CycleGAN alone; *regions* the same with the region discriminators and the
uncertainty head; *placebo* the same with masks that were shuffled between images: what it gains too is no gain.
*constant_fill* paints the tumour in its mean training grey, *copy_source* leaves the source as it is.

{_gains(metrics)}

![comparison](figure.png)

The patient shown is the one whose tumour PSNR is the median. The tumour is boxed and enlarged; the last column is the
predicted standard deviation in grey levels.

{render_markdown(metrics["arms"], REGION)}
![losses](curves.png)

Losses by epoch, averaged over both directions; at the dashed lines stage 2 (S2) and stage 3 (S3) begin.
"""


def _gains(metrics: Mapping[str, Any]) -> str:
    titles = " | ".join(CT_AND_MR.title(direction) for direction in DIRECTIONS)
    lines = [f"| mean over phases | {titles} |", "| --- | ---: | ---: |"]
    rows = (
        ("tumour PSNR, regions − plain (dB)", "gain", TPSNR, 2),
        ("tumour SSIM, regions − plain", "gain", TSSIM, 3),
        ("whole-image PSNR, regions − plain (dB)", "gain", PSNR, 2),
        ("tumour PSNR, placebo − plain (dB)", "placebo_gain", TPSNR, 2),
        ("tumour PSNR, regions − constant fill (dB)", "to_constant_fill", TPSNR, 2),
    )
    for title, table, metric, digits in rows:
        values = " | ".join(_formatted(metrics[table][d][metric.key], f"+.{digits}f") for d in DIRECTIONS)
        lines.append(f"| {title} | {values} |")
    return "\n".join(lines)
