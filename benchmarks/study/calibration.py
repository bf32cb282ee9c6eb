"""How well sigma tells the error, from the maps that the runs of the study left beside their images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from roi_progressive.evaluation.calibration import bin_statistics, expected_calibration_error, reliability
from roi_progressive.evaluation.conformal import with_sigma
from roi_progressive.evaluation.metrics import METRICS, REGION_UCE, UCE, Slice, SliceMetric
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.saving.names import DIRECTIONS

from .gains import Arms, Lines

OF_SIGMA = tuple(metric for metric in METRICS if isinstance(metric, SliceMetric) and metric.needs == "sigma")

Scores = dict[str, float | None]
Curves = dict[str, dict[str, list[dict[str, float]]]]


def calibration(out: Path, lines: Lines, arms: Arms) -> tuple[dict[tuple[str, str], Scores], dict[str, Curves]]:
    """Scores by arm and direction, means over seeds, and by arm the points of its reliability diagram, seeds pooled."""
    scores: dict[tuple[str, str], list[Scores]] = {}
    bins: dict[tuple[str, str], list[Any]] = {}
    for line in lines:
        name = str(line["arm"])
        config = arms[name].config
        if config is None or config.ggd is None:
            continue
        made = out / "runs" / f"{name}-{line['seed']}" / "test"
        for direction in DIRECTIONS:
            of_run, pooled = _of_run(out / arms[name].data, made, direction)
            scores.setdefault((name, direction), []).append(of_run)
            bins.setdefault((name, direction), []).append(pooled)
    curves: dict[str, Curves] = {}
    for (name, direction), of_seeds in bins.items():
        image, region = np.sum(of_seeds, axis=0)
        curves.setdefault(name, {})[direction] = {"image": reliability(image), "tumor": reliability(region)}
    return {key: _means(of_seeds) for key, of_seeds in scores.items()}, curves


def _of_run(data: Path, made: Path, direction: str) -> tuple[Scores, Any]:
    pairs = pairs_from_folders(data, "test", direction, made / direction, "tumor")
    of_slices, bins = [], []
    for pair in with_sigma(pairs, {direction: made / f"{direction}_sigma"}):
        assert pair.sigma is not None
        shown = Slice(pair)
        of_slices.append({metric.key: metric.of_slice(shown)[0] for metric in OF_SIGMA})
        bins.append(bin_statistics(pair.real, pair.fake, pair.sigma, pair.mask))
    pooled = np.sum(bins, axis=0)
    scores = _means(of_slices)
    scores |= {metric.key: expected_calibration_error(pooled[metric.part]) for metric in (UCE, REGION_UCE)}
    return scores, pooled


def _means(every: list[Scores]) -> Scores:
    means: Scores = {}
    for key in every[0]:
        values = [scores[key] for scores in every]
        known = [value for value in values if value is not None]
        means[key] = float(np.mean(known)) if known else None
    return means
