"""From slices to rows: average within a patient, then over patients, by direction and phase.

Every score goes slice -> patient -> mean over patients, so that a patient with many slices counts once. Slices
without the region are left out of the region's scores and counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from .metrics import (
    COUNTS,
    LESION_COUNTS,
    METRICS,
    NOT_ASKED,
    Metric,
    PooledMetric,
    SetMetric,
    SliceMetric,
)
from .scoring import SliceScores
from .volume_metrics import VOLUME_METRICS, VolumeMetric

PHASES = ("ART", "PV", "NC")
_NOT_SCORES = ("reasons", "intervals", "interval_reasons", "p_values", "n_tests")
_SUMMED = ("n_slices", "n_region_slices", "n_without_region", *LESION_COUNTS)
_METRIC_OF = {metric.key: metric for metric in (*METRICS, *VOLUME_METRICS)}

Cell = dict[str, Any]
Results = dict[str, dict[str, Cell]]


def aggregate(slices: Iterable[SliceScores], metrics: Sequence[Metric] = METRICS) -> Results:
    """Average the slices, or the volumes, of one arm, by direction and phase.

    A metric is averaged as its entry in ``METRICS`` says: PSNR values are capped at 100 dB first, so that identical
    pixels, infinite in decibels, do not make a mean infinite; the texture ratio is averaged geometrically, half and
    double cancelling, each slice counting as at least 0.001. FID and KID have no slices to average: they are one
    distance over all slices of the phase; UCE, where there is a sigma, pools their pixels likewise. The row ``mean``
    holds the mean over the phases' values, as in the paper's Table 1.

    Args:
        slices: What was scored.
        metrics: What it was scored by; ``VOLUME_METRICS`` for volumes.

    Returns:
        ``{direction: {phase: cell, ..., "mean": cell}}``, ready for JSON. A cell has those of ``metrics`` and any
        further scores (float, or ``None`` with a line in ``reasons``), and ``n_patients``, ``n_slices`` (also the
        number of images behind FID and KID), ``n_region_slices``, ``n_without_region``, ``n_lesions`` (behind ``lost``,
        ``inverted`` and ``invented``) and ``n_unclear_lesions``.
    """
    by_direction: dict[str, dict[str, list[SliceScores]]] = {}
    for scored in slices:
        by_direction.setdefault(scored["direction"], {}).setdefault(scored["phase"], []).append(scored)
    results: Results = {}
    for direction in sorted(by_direction):
        phases = by_direction[direction]
        cells = {phase: _phase_cell(phases[phase], metrics) for phase in sorted(phases, key=phase_order)}
        patients = {scored["patient"] for members in phases.values() for scored in members}
        results[direction] = {**cells, "mean": _mean_cell(cells, len(patients))}
    return results


def metric_of(key: str) -> Metric:
    """The entry of a metric or, for a further score such as a plugin's, what holds for all of those.

    Args:
        key: The name of the score in files.
    """
    return _METRIC_OF.get(key) or Metric(key=key, heading=key, better=None, digits=4, of="image")


def patient_values(slices: Iterable[SliceScores], key: str) -> dict[str, float]:
    """A score averaged over each patient's slices, as :func:`aggregate` does; patients without a value are absent.

    Args:
        slices: What :func:`~roi_progressive.evaluation.scoring.score` returned.
        key: The name of the score, e.g. ``TPSNR.key``.
    """
    by_patient: dict[str, list[float]] = {}
    for scored in slices:
        value = scored["scores"].get(key)
        if value is not None:
            by_patient.setdefault(scored["patient"], []).append(value)
    mean = metric_of(key).averaged.mean
    return {patient: mean(values) for patient, values in by_patient.items()}


def _phase_cell(slices: list[SliceScores], metrics: Sequence[Metric]) -> Cell:
    with_region = sum(scored["region_px"] > 0 for scored in slices)
    cell: Cell = {"reasons": {}}
    always = {m.key for m in metrics if isinstance(m, (SliceMetric, VolumeMetric)) and m.needs != "sigma"}
    for key in sorted(always.union(*(scored["scores"] for scored in slices))):
        values = patient_values(slices, key)
        _put(cell, key, metric_of(key).averaged.mean(list(values.values())) if values else None, _reason(slices, key))
    calibrations = [scored["calibration"] for scored in slices if "calibration" in scored]
    for metric in metrics:
        if isinstance(metric, SetMetric):
            _put(cell, metric.key, *_of_set(slices, metric))
        elif isinstance(metric, PooledMetric) and calibrations:
            bins = np.sum(calibrations, axis=0)[metric.part]
            _put(cell, metric.key, metric.pooled(bins), "no slice shows the region")
    cell |= {
        "n_slices": len(slices),
        "n_patients": len({scored["patient"] for scored in slices}),
        "n_region_slices": with_region,
        "n_without_region": len(slices) - with_region,
        "n_lesions": sum(scored.get("n_lesions", 0) for scored in slices),
        "n_unclear_lesions": sum(scored.get("n_unclear_lesions", 0) for scored in slices),
    }
    return cell


def _mean_cell(cells: Mapping[str, Cell], n_patients: int) -> Cell:
    mean: Cell = {"reasons": {}}
    for key in metrics_of(cells.values()):
        values = [cell[key] for cell in cells.values() if cell.get(key) is not None]
        absent = [phase for phase, cell in cells.items() if cell.get(key) is None]
        # A mean over fewer phases than the other arms' would look comparable and not be.
        why = cells[absent[0]]["reasons"].get(key, NOT_ASKED.reason) if absent else ""
        if values and absent:
            why = f"no value for {', '.join(absent)}: {why}"
        _put(mean, key, None if absent else metric_of(key).averaged.mean(values), why)
    return mean | {key: sum(cell[key] for cell in cells.values()) for key in _SUMMED} | {"n_patients": n_patients}


def metrics_of(cells: Iterable[Cell]) -> list[str]:
    """The scores that cells hold: ours in the table's order, then further ones by name."""
    found = {key for cell in cells for key in cell} - {*COUNTS, *_SUMMED, *_NOT_SCORES}
    ours = [key for key in _METRIC_OF if key in found]
    return [*ours, *sorted(found.difference(ours))]


def _put(cell: Cell, key: str, value: float | None, reason: str) -> None:
    cell[key] = value
    if value is None:
        cell["reasons"][key] = reason


def _reason(slices: Sequence[SliceScores], key: str) -> str:
    return next((scored["reasons"][key] for scored in slices if key in scored["reasons"]), NOT_ASKED.reason)


def _of_set(slices: Sequence[SliceScores], metric: SetMetric) -> tuple[float | None, str]:
    features = [scored["fid_features"] for scored in slices if scored["fid_features"] is not None]
    if len(features) < len(slices):
        return None, _reason(slices, metric.key)
    if len(features) < 2:
        return None, f"{metric.heading} needs at least two images"
    return metric.distance(np.stack([real for real, _ in features]), np.stack([fake for _, fake in features])), ""


def phase_order(phase: str) -> tuple[int, str]:
    """The key that sorts phases: the paper's in its order, then others by name."""
    return (PHASES.index(phase), "") if phase in PHASES else (len(PHASES), phase)
