"""From slices to rows: average within a patient, then over patients, by direction and phase.

Every score goes slice -> patient -> mean over patients, so that a patient with many slices counts once. Slices
without the region are left out of the region's scores and counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .calibration import POOLED_METRICS, SLICE_METRICS, expected_calibration_error
from .distances import frechet_distance, kernel_distance
from .scoring import NOT_ASKED, SliceScores

PSNR_CAP_DB = 100.0
TEXTURE_FLOOR = 1e-3
PHASES = ("ART", "PV", "NC")
SET_METRICS = ("fid", "kid")
HU_METRICS = ("mae_hu", "region_mae_hu")
METRICS = (
    *("tpsnr", "tssim", "psnr", "ssim", "texture_ratio", "lost", "inverted", "invented"),
    *("lpips", "region_lpips", *SET_METRICS, *HU_METRICS),
)
COUNTS = ("n_patients", "n_slices", "n_region_slices")
_NOT_SCORES = ("reasons", "intervals", "interval_reasons")
LESION_COUNTS = ("n_lesions", "n_unclear_lesions")
_SUMMED = ("n_slices", "n_region_slices", "n_without_region", *LESION_COUNTS)

Features = npt.NDArray[np.float32]
Cell = dict[str, Any]
Results = dict[str, dict[str, Cell]]


def aggregate(slices: Iterable[SliceScores]) -> Results:
    """Average the slices of one arm, by direction and phase.

    PSNR values are capped at ``PSNR_CAP_DB`` (100 dB) first, so that identical pixels, infinite in decibels, do
    not make a mean infinite. The texture ratio is averaged geometrically, half and double cancelling, each slice
    counting as at least ``TEXTURE_FLOOR`` (0.001). FID and KID have no slices to average: they are one distance
    over all slices of the phase; UCE, where there is a sigma, pools their pixels likewise. The row ``mean`` holds the
    mean over the phases' values, as in the paper's Table 1.

    Returns:
        ``{direction: {phase: cell, ..., "mean": cell}}``, ready for JSON. A cell has those of ``METRICS`` and any
        extra scores (float, or ``None`` with a line in ``reasons``), and ``n_patients``, ``n_slices`` (also the number
        of images behind FID and KID), ``n_region_slices``, ``n_without_region``, ``n_lesions`` (behind ``lost``,
        ``inverted`` and ``invented``) and ``n_unclear_lesions``.
    """
    groups: dict[str, dict[str, list[SliceScores]]] = {}
    for one in slices:
        groups.setdefault(one["direction"], {}).setdefault(one["phase"], []).append(one)
    results: Results = {}
    for direction in sorted(groups):
        phases = groups[direction]
        cells = {phase: _phase_cell(phases[phase]) for phase in sorted(phases, key=phase_order)}
        patients = {one["patient"] for members in phases.values() for one in members}
        results[direction] = {**cells, "mean": _mean_cell(cells, len(patients))}
    return results


def patient_values(slices: Iterable[SliceScores], metric: str) -> dict[str, float]:
    """A score averaged over each patient's slices, as :func:`aggregate` does; patients without a value are absent."""
    by_patient: dict[str, list[float]] = {}
    for one in slices:
        value = one["scores"].get(metric)
        if value is not None:
            by_patient.setdefault(one["patient"], []).append(value)
    return {patient: _mean(metric)(values) for patient, values in by_patient.items()}


def _phase_cell(slices: list[SliceScores]) -> Cell:
    with_region = sum(one["region_px"] > 0 for one in slices)
    cell: Cell = {"reasons": {}}
    for key in sorted({*METRICS, *(name for one in slices for name in one["scores"])} - set(SET_METRICS)):
        values = patient_values(slices, key)
        _put(cell, key, _mean(key)(list(values.values())) if values else None, _reason(slices, key))
    for key, distance in (("fid", frechet_distance), ("kid", kernel_distance)):
        _put(cell, key, *_of_all(slices, key, distance))
    known = [one["calibration"] for one in slices if "calibration" in one]
    if known:
        for key, bins in zip(POOLED_METRICS, np.sum(known, axis=0), strict=True):
            _put(cell, key, expected_calibration_error(bins), "no slice shows the region")
    cell |= {
        "n_slices": len(slices),
        "n_patients": len({one["patient"] for one in slices}),
        "n_region_slices": with_region,
        "n_without_region": len(slices) - with_region,
        "n_lesions": sum(one.get("n_lesions", 0) for one in slices),
        "n_unclear_lesions": sum(one.get("n_unclear_lesions", 0) for one in slices),
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
        _put(mean, key, None if absent else _mean(key)(values), why)
    return mean | {key: sum(cell[key] for cell in cells.values()) for key in _SUMMED} | {"n_patients": n_patients}


def metrics_of(cells: Iterable[Cell]) -> list[str]:
    """The scores that cells hold: ours in the table's order, those of a sigma if any, then extra ones by name."""
    found = {key for cell in cells for key in cell} - {*METRICS, *COUNTS, *_SUMMED, *_NOT_SCORES}
    of_sigma = [key for key in (*POOLED_METRICS, *SLICE_METRICS) if key in found]
    return [*METRICS, *of_sigma, *sorted(found.difference(of_sigma))]


def _put(cell: Cell, key: str, value: float | None, reason: str) -> None:
    cell[key] = value
    if value is None:
        cell["reasons"][key] = reason


def _reason(slices: Sequence[SliceScores], key: str) -> str:
    return next((one["reasons"][key] for one in slices if key in one["reasons"]), NOT_ASKED.reason)


def _of_all(
    slices: Sequence[SliceScores], key: str, distance: Callable[[Features, Features], float]
) -> tuple[float | None, str]:
    features = [one["fid_features"] for one in slices if one["fid_features"] is not None]
    if len(features) < len(slices):
        return None, _reason(slices, key)
    if len(features) < 2:
        return None, f"{key.upper()} needs at least two images"
    return distance(np.stack([real for real, _ in features]), np.stack([fake for _, fake in features])), ""


def _mean(metric: str) -> Callable[[Sequence[float]], float]:
    if metric == "texture_ratio":
        return lambda values: math.exp(math.fsum(math.log(max(v, TEXTURE_FLOOR)) for v in values) / len(values))
    if metric in ("psnr", "tpsnr"):
        return lambda values: math.fsum(min(v, PSNR_CAP_DB) for v in values) / len(values)
    return lambda values: math.fsum(values) / len(values)


def phase_order(phase: str) -> tuple[int, str]:
    """The key that sorts phases: the paper's in its order, then others by name."""
    return (PHASES.index(phase), "") if phase in PHASES else (len(PHASES), phase)
