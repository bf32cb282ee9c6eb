"""What the demo leaves behind: ``report.md`` with ``figure.png`` and ``curves.png``, every row in ``table.md`` and
``metrics.json``, and five lines.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import fields
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..evaluation.aggregation import Results, metric_of, metrics_of
from ..evaluation.figures import ComparisonRow, comparison_figure, curves_figure, slice_to_show
from ..evaluation.image_files import read_grey
from ..evaluation.metrics import INVERTED, LOST, PSNR, TEXTURE, TPSNR, TSSIM, Metric
from ..evaluation.pairs import FolderPairs, pairs_from_folders
from ..evaluation.table import render_markdown
from ..saving.names import CT_AND_MR, DIRECTIONS
from ..saving.whole_files import write_text
from .folder import Run, history
from .scores import RunScores

REGION = "tumor"
REFERENCES = ("constant_fill", "copy_source")
FILES = ("metrics.json", "figure.png", "curves.png", "table.md", "report.md")
ARM_TITLES = {
    "plain": "plain CycleGAN",
    "regions": "guided by regions",
    "placebo": "guided by shuffled masks (placebo)",
    "constant_fill": "tumour painted flat in its mean training grey",
    "copy_source": "source left as it is",
}
"""What the arms are, in words, by their names in files."""


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
    write_text(folder / "table.md", _every_row(metrics))
    write_text(folder / "report.md", _report(metrics, Run.open(folder / "regions")))
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
        panels = {
            "real source": guided.source,
            ARM_TITLES["plain"]: plain.fake,
            ARM_TITLES["regions"]: guided.fake,
            "real target": guided.real,
        }
        sigma = read_grey(run.sigma("test", direction) / shown["name"]).astype(float)
        label, maps = f"{shown['patient']}, {shown['phase']} (median)", {"predicted σ": sigma}
        rows.append(ComparisonRow(label, direction, panels, guided.mask, maps))
    comparison_figure(rows, folder / "figure.png", region=REGION)


def draw_curves(folder: Path) -> None:
    """Write ``curves.png`` from the arms' histories: every loss, averaged over the two directions, by epoch."""
    arms = {arm: history(folder / arm) for arm in ("plain", "regions", "placebo")}
    names = dict.fromkeys(name for epochs in arms.values() for epoch in epochs for name in epoch["losses"])
    terms: dict[str, list[str]] = {}
    for name in names:
        if not name.startswith("idt_"):  # the demo trains without
            terms.setdefault(_title(name), []).append(name)
    curves = {
        ARM_TITLES[arm]: {
            title: [_mean(epoch["losses"], terms[title]) for epoch in epochs] for title in sorted(terms, key=_rank)
        }
        for arm, epochs in arms.items()
    }
    starts: dict[str, float] = {}
    for epoch in arms["regions"]:
        if epoch["stage"] > 1:
            starts.setdefault(f"S{epoch['stage']}", epoch["epoch"])
    curves_figure(curves, starts, folder / "curves.png", units={title: _unit(title) for title in terms})


def _title(name: str) -> str:
    """``G_tumor_A2B`` and ``G_tumor_B2A``: generator, tumor; the host's ``G_A`` and ``G_B``: whole image."""
    term = name.rpartition("_")[0]
    kind, _, region = term.partition("_")
    network = {"G": "generator", "D": "discriminator"}.get(kind)
    if network is None:
        return {"ggd": "uncertainty (GGD)"}.get(term, term)
    return f"{network}, {region or 'whole image'}"


def _unit(title: str) -> str:
    if title == "cycle":
        return "weighted L1 of images in [−1, 1]"
    return "nats a pixel" if "GGD" in title else "least squares of the logits"


def _rank(title: str) -> tuple[bool, bool, bool]:
    """The whole image first, then what has no region, then the regions in the order in which they joined."""
    return "whole image" not in title, ", " in title, title == "discriminator, whole image"


def _mean(losses: Mapping[str, float | None], names: Sequence[str]) -> float | None:
    values = [value for name in names if (value := losses.get(name)) is not None]
    return sum(values) / len(values) if values else None


def _report(metrics: Mapping[str, Any], run: Run) -> str:
    return f"""# roi-progressive demo, seed {metrics["seed"]}

Three CycleGANs were trained for {metrics["epochs"]} epochs from the same seed on the same phantom, CT (A) and MR (B)
of different patients. *plain* is the CycleGAN alone; *regions* the same with the region discriminators and the
uncertainty head; *placebo* the same with masks that were shuffled between images: what it gains too is no gain.

{_gains(metrics)}

![comparison](figure.png)

The patient shown is the one whose tumour PSNR is the median. The tumour is outlined and enlarged; the last column is
the predicted standard deviation in grey levels.

{_arms(metrics)}

PSNR in dB. Texture is the standard deviation inside the tumour, generated over real; 1 is right. Lost and inverted: the
share of lesions whose contrast is under half of the real one, or reversed. Painting a tumour flat scores well in PSNR
and shows nothing of it. All phases and scores: [table.md](table.md), [metrics.json](metrics.json).

## What now

- On scans of your own: `roi-progressive prepare scans.csv data`, `roi-progressive train --data data --out run`,
  `roi-progressive evaluate run`, `roi-progressive figure run`.
- In a training script of your own: two lines, `roi_progressive.attach` and `session.start_epoch`; before a long run,
  `roi-progressive check` looks at it.
- Another seed: `roi-progressive demo --seed {metrics["seed"] + 1} --out another`.

## How the training went

![losses](curves.png)

Losses by epoch, averaged over both directions; at the dashed lines stage 2 (S2) and stage 3 (S3) begin.

## Versions and settings

{_settings(metrics, run)}
"""


def _arms(metrics: Mapping[str, Any]) -> str:
    """Means over phases, a row an arm and direction."""
    shown = {TPSNR: "tumour PSNR ↑", TSSIM: "tumour SSIM ↑", PSNR: "whole PSNR ↑", TEXTURE: "texture → 1"}
    shown |= {LOST: "lost ↓", INVERTED: "inverted ↓"}
    lines = [f"| direction | arm | {' | '.join(shown.values())} |", f"| --- | --- |{' ---: |' * len(shown)}"]
    for direction in DIRECTIONS:
        for arm, results in metrics["arms"].items():
            cell = results[direction]["mean"]
            values = " | ".join(_formatted(cell[metric.key], f".{min(metric.digits, 3)}f") for metric in shown)
            lines.append(f"| {CT_AND_MR.title(direction)} | {ARM_TITLES[arm]} | {values} |")
    return "\n".join(lines)


def _every_row(metrics: Mapping[str, Any]) -> str:
    named = "\n".join(f"- {arm}: {title}" for arm, title in ARM_TITLES.items())
    return f"# Every row of the demo, seed {metrics['seed']}\n\n{named}\n\n{render_markdown(metrics['arms'], REGION)}"


def _settings(metrics: Mapping[str, Any], run: Run) -> str:
    packages = ("torch", "numpy", "scikit-image", "matplotlib")
    versions = [f"roi-progressive {metrics['version']}", f"Python {platform.python_version()} on {platform.platform()}"]
    versions += [f"{name} {metadata.version(name)}" for name in packages]
    chosen = {field.name: getattr(run.options, field.name) for field in fields(run.options)}
    options = [f"{name} = {value}" for name, value in chosen.items() if value is not None]
    config = [f"region {r.name}: scales {r.scales}, weight {r.weight:g}" for r in run.config.regions]
    took = f"{metrics['minutes']:.1f} minutes"
    return "\n".join(["```text", *versions, took, "", *options, *config, "```"])


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
