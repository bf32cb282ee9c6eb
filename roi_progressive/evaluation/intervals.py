"""How sure a mean over patients is: percentile bootstrap over patients, of one arm or of the difference of two.

Of a difference, the signed rank test says beside it whether the patients differ by more than chance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .aggregation import Cell, Results, aggregate, metric_of, metrics_of, patient_values
from .calibration import Bins
from .metrics import COUNTS, LESION_COUNTS, METRICS, Averaging, Metric, PooledMetric, SetMetric
from .scoring import SliceScores
from .significance import holm, signed_rank_p

DIFFERENCE = "difference"
RESAMPLES = 10_000
PERCENTILES = (2.5, 97.5)
MIN_PATIENTS = 2
OF_ALL_SLICES = "no interval: it is one distance over all slices"
TOO_FEW = f"no interval: it needs at least {MIN_PATIENTS} patients in every phase"
NO_VALUE = "no interval: there is no value"

_Values = Sequence[Mapping[str, float]]
"""The value of each patient, by phase."""


def with_intervals(results: Results, slices: Iterable[SliceScores], seed: int = 0) -> Results:
    """The rows of one arm with 95 % intervals of their means.

    Patients are drawn with replacement, as often as there are, 10,000 times; the interval runs from the 2.5th to the
    97.5th percentile of the means (Efron and Tibshirani 1993, section 13.3). In the row ``mean`` a drawn patient
    comes with all of its phases (where pixels are pooled, with all of its pixels); draws that leave a phase without
    patients are not counted.

    Args:
        results: What :func:`aggregate` gave for ``slices``.
        slices: The slices behind it.
        seed: Of the draws; the same seed gives the same intervals.

    Returns:
        A copy whose cells have ``intervals``: ``[low, high]`` by score, or ``None`` with a line in
        ``interval_reasons``.
    """
    members = list(slices)

    def interval(direction: str, phases: Sequence[str], key: str) -> list[float] | str:
        metric = metric_of(key)
        if isinstance(metric, PooledMetric):
            pooled = _pooled(members, direction, phases, metric.part)
            return _percentiles(_resampled_pool(pooled, metric, seed)) if _enough(pooled) else TOO_FEW
        values = _values(members, direction, phases, key)
        return _percentiles(_resampled(values, metric.averaged, seed)) if _enough(values) else TOO_FEW

    return _filled(results, interval)


def paired_difference(
    ours: Iterable[SliceScores],
    others: Iterable[SliceScores],
    seed: int = 0,
    metrics: Sequence[Metric] = METRICS,
) -> tuple[Results, Results, Results]:
    """What an arm has more than another on the same slices, with 95 % intervals.

    A slice counts where both have a value. Each draw of patients, made as in :func:`with_intervals`, gives both means
    and with them one difference, so what makes a patient hard for both cancels. The rows ``mean`` have ``p_values``:
    of the signed rank test of the patients' differences, averaged over their phases (of logarithms, where a score is
    averaged geometrically), with Holm's correction for all ``n_tests`` of them, all scores of all directions.

    Args:
        ours: The slices of the arm.
        others: The same slices, in any order, of the arm it is compared with.
        seed: Of the draws.
        metrics: What they were scored by.

    Returns:
        The rows ours - others, with ``intervals`` and ``p_values``, and the rows of either on the slices that count.

    Raises:
        DataError: The two do not hold the same slices.
    """
    first, second = _in_common(list(ours), list(others))
    kept, against = aggregate(first, metrics), aggregate(second, metrics)
    rows = {
        direction: {phase: _difference(cell, against[direction][phase]) for phase, cell in cells.items()}
        for direction, cells in kept.items()
    }

    def interval(direction: str, phases: Sequence[str], key: str) -> list[float] | str:
        ours, others = (_values(slices, direction, phases, key) for slices in (first, second))
        if not _enough(ours):
            return TOO_FEW
        averaged = metric_of(key).averaged
        return _percentiles(_resampled(ours, averaged, seed) - _resampled(others, averaged, seed))

    return _with_p_values(_filled(rows, interval), first, second), kept, against


def _with_p_values(differences: Results, ours: Sequence[SliceScores], others: Sequence[SliceScores]) -> Results:
    """The rows with corrected p values in those of ``mean``; ``None`` where a score has none."""
    tests: dict[tuple[str, str], float | None] = {}
    for direction, cells in differences.items():
        phases = [phase for phase in cells if phase != "mean"]
        for key in metrics_of([cells["mean"]]):
            if cells["mean"].get(key) is not None:
                pairs = zip(*(_values(of_arm, direction, phases, key) for of_arm in (ours, others)), strict=True)
                tests[direction, key] = signed_rank_p(_of_patients(pairs, metric_of(key).averaged))
            else:
                tests[direction, key] = None
    corrected = holm({test: p for test, p in tests.items() if p is not None})
    for direction, cells in differences.items():
        keys = [key for of_direction, key in tests if of_direction == direction]
        found = {"p_values": {key: corrected.get((direction, key)) for key in keys}, "n_tests": len(corrected)}
        # A single phase is what its mean is.
        for row in cells if len(cells) == 2 else ["mean"]:
            cells[row] = {**cells[row], **found}
    return differences


def _of_patients(pairs: Iterable[tuple[Mapping[str, float], Mapping[str, float]]], averaged: Averaging) -> list[float]:
    """The difference of every patient, averaged over the phases it has; of logarithms where ratios are averaged."""
    by_patient: dict[str, list[float]] = {}
    for ours, others in pairs:
        for patient in sorted(ours.keys() & others.keys()):
            values = (math.log(ours[patient]), math.log(others[patient])) if averaged.geometric else None
            first, second = values or (ours[patient], others[patient])
            by_patient.setdefault(patient, []).append(first - second)
    return [math.fsum(differences) / len(differences) for differences in by_patient.values()]


def _filled(results: Results, interval: Callable[[str, Sequence[str], str], list[float] | str]) -> Results:
    """A copy with ``interval(direction, phases, score)`` wherever there is a mean over patients."""
    filled: Results = {}
    for direction, cells in results.items():
        phases = [phase for phase in cells if phase != "mean"]
        filled[direction] = {}
        for row, cell in cells.items():
            found: dict[str, Any] = {}
            reasons: dict[str, str] = {}
            for key in metrics_of([cell]):
                if isinstance(metric_of(key), SetMetric):
                    answer: list[float] | str = OF_ALL_SLICES
                elif cell.get(key) is None:
                    answer = NO_VALUE
                else:
                    answer = interval(direction, phases if row == "mean" else [row], key)
                found[key] = None if isinstance(answer, str) else answer
                if isinstance(answer, str):
                    reasons[key] = answer
            filled[direction][row] = {**cell, "intervals": found, "interval_reasons": reasons}
    return filled


def _values(slices: Sequence[SliceScores], direction: str, phases: Sequence[str], key: str) -> _Values:
    """The patients' values of each phase."""
    return [
        patient_values((s for s in slices if s["direction"] == direction and s["phase"] == phase), key)
        for phase in phases
    ]


def _pooled(
    slices: Sequence[SliceScores], direction: str, phases: Sequence[str], part: int
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """The patients' statistics behind UCE of each phase, of those who have pixels."""
    by_phase: dict[str, dict[str, npt.NDArray[np.float64]]] = {phase: {} for phase in phases}
    for scored in slices:
        if scored["direction"] == direction and scored["phase"] in by_phase and "calibration" in scored:
            bins = scored["calibration"][part]
            if bins.any():
                of_phase = by_phase[scored["phase"]]
                of_phase[scored["patient"]] = of_phase.get(scored["patient"], 0.0) + bins
    return list(by_phase.values())


def _resampled_pool(by_phase: Sequence[Mapping[str, Bins]], metric: PooledMetric, seed: int) -> npt.NDArray[np.float64]:
    patients = sorted({patient for bins in by_phase for patient in bins})
    drawn = _drawn(len(patients), seed)
    means = np.zeros(RESAMPLES)
    for bins in by_phase:
        present = [i for i, patient in enumerate(patients) if patient in bins]
        means += metric.resampled([bins[patients[i]] for i in present], drawn[:, present]) / len(by_phase)
    return means


def _enough(by_phase: Sequence[Mapping[str, object]]) -> bool:
    return all(len(of_patients) >= MIN_PATIENTS for of_patients in by_phase)


def _resampled(by_phase: _Values, averaged: Averaging, seed: int) -> npt.NDArray[np.float64]:
    """The mean over phases of the mean over patients, for each draw; NaN where a phase has nobody."""
    patients = sorted({patient for of_patients in by_phase for patient in of_patients})
    drawn = _drawn(len(patients), seed)
    means = np.zeros(RESAMPLES)
    for of_patients in by_phase:
        present = np.array([patient in of_patients for patient in patients], dtype=np.float64)
        values = np.array([of_patients.get(patient, 1.0) for patient in patients])
        values = present * (np.log(values) if averaged.geometric else values)
        with np.errstate(invalid="ignore"):
            means += (drawn @ values) / (drawn @ present) / len(by_phase)
    return np.exp(means) if averaged.geometric else means


@lru_cache(maxsize=4)
def _drawn(n: int, seed: int) -> npt.NDArray[np.float64]:
    """How often each of ``n`` patients comes in each draw, [RESAMPLES, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1.0 / n), size=RESAMPLES).astype(np.float64)


def _percentiles(means: npt.NDArray[np.float64]) -> list[float]:
    low, high = np.percentile(means[np.isfinite(means)], PERCENTILES)
    return [float(low), float(high)]


def _difference(cell: Cell, other: Cell) -> Cell:
    difference: Cell = {"reasons": {}}
    for key in metrics_of([cell, other]):
        values = (cell.get(key), other.get(key))
        if isinstance(metric_of(key), (SetMetric, PooledMetric)):
            difference[key], difference["reasons"][key] = None, "not paired: it is one value over all slices"
        elif values[0] is None or values[1] is None:
            difference[key] = None
            difference["reasons"][key] = cell["reasons"].get(key) or other["reasons"].get(key, "not computed")
        else:
            difference[key] = values[0] - values[1]
    return difference | {count: cell[count] for count in (*COUNTS, "n_without_region", *LESION_COUNTS)}


def _in_common(
    ours: Sequence[SliceScores], others: Sequence[SliceScores]
) -> tuple[list[SliceScores], list[SliceScores]]:
    """Both, slice by slice in the order of ours, without the scores that one of the two lacks."""
    known = {(scored["direction"], scored["name"]): scored for scored in others}
    wanted = {(scored["direction"], scored["name"]) for scored in ours}
    odd = sorted(wanted ^ set(known))
    if odd:
        raise DataError(
            f"`compare` must hold the scores of the same {len(wanted)} slices; {' '.join(odd[0])} and "
            f"{len(odd) - 1} more are in one of the two only; evaluate both on the same folders"
        )
    pairs = [(scored, known[scored["direction"], scored["name"]]) for scored in ours]
    return [_limited(scored, other) for scored, other in pairs], [_limited(other, scored) for scored, other in pairs]


def _limited(scored: SliceScores, other: SliceScores) -> SliceScores:
    keys = {**scored["scores"], **other["scores"]}
    both = {key: scored["scores"].get(key) if other["scores"].get(key) is not None else None for key in keys}
    reasons = {**other["reasons"], **scored["reasons"]}
    return {**scored, "scores": both, "reasons": reasons, "fid_features": None}
