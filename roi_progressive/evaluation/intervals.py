"""How sure a mean over patients is: percentile bootstrap over patients, of one arm or of the difference of two."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .aggregation import COUNTS, LESION_COUNTS, SET_METRICS, Cell, Results, aggregate, metrics_of, patient_values
from .calibration import POOLED_METRICS, resampled_calibration_error
from .scoring import SliceScores

DIFFERENCE = "difference"
RESAMPLES = 10_000
PERCENTILES = (2.5, 97.5)
MIN_PATIENTS = 2
OF_ALL_SLICES = "no interval: it is one distance over all slices"
TOO_FEW = f"no interval: it needs at least {MIN_PATIENTS} patients in every phase"
NO_VALUE = "no interval: there is no value"

_Groups = Sequence[Mapping[str, float]]


def with_intervals(results: Results, slices: Iterable[SliceScores], seed: int = 0) -> Results:
    """The rows of one arm with 95 % intervals of their means.

    Patients are drawn with replacement, as often as there are, 10,000 times; the interval runs from the 2.5th to the
    97.5th percentile of the means (Efron and Tibshirani 1993, section 13.3). In the row ``mean`` a drawn patient
    comes with all of its phases (for UCE, with all of its pixels); draws that leave a phase without patients are not
    counted.

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
        if key in POOLED_METRICS:
            pooled = _pooled(members, direction, phases, POOLED_METRICS.index(key))
            return _percentiles(_resampled_pool(pooled, seed)) if _enough(pooled) else TOO_FEW
        groups = _groups(members, direction, phases, key)
        return _percentiles(_resampled(groups, key, seed)) if _enough(groups) else TOO_FEW

    return _filled(results, interval)


def paired_difference(
    ours: Iterable[SliceScores], others: Iterable[SliceScores], seed: int = 0
) -> tuple[Results, Results, Results]:
    """What an arm has more than another on the same slices, with 95 % intervals.

    A slice counts where both have a value. Each draw of patients, made as in :func:`with_intervals`, gives both means
    and with them one difference, so what makes a patient hard for both cancels.

    Args:
        ours: The slices of the arm.
        others: The same slices, in any order, of the arm it is compared with.
        seed: Of the draws.

    Returns:
        The rows ours - others, with ``intervals``, and the rows of either on the slices that count.

    Raises:
        DataError: The two do not hold the same slices.
    """
    first, second = _in_common(list(ours), list(others))
    kept, against = aggregate(first), aggregate(second)
    rows = {
        direction: {phase: _difference(cell, against[direction][phase]) for phase, cell in cells.items()}
        for direction, cells in kept.items()
    }

    def interval(direction: str, phases: Sequence[str], key: str) -> list[float] | str:
        groups = [_groups(slices, direction, phases, key) for slices in (first, second)]
        if not _enough(groups[0]):
            return TOO_FEW
        return _percentiles(_resampled(groups[0], key, seed) - _resampled(groups[1], key, seed))

    return _filled(rows, interval), kept, against


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
                if key in SET_METRICS:
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


def _groups(slices: Sequence[SliceScores], direction: str, phases: Sequence[str], key: str) -> _Groups:
    """The patients' values of each phase."""
    return [
        patient_values((one for one in slices if one["direction"] == direction and one["phase"] == phase), key)
        for phase in phases
    ]


def _pooled(
    slices: Sequence[SliceScores], direction: str, phases: Sequence[str], part: int
) -> list[dict[str, npt.NDArray[np.float64]]]:
    """The patients' statistics behind UCE of each phase, of those who have pixels."""
    groups: dict[str, dict[str, npt.NDArray[np.float64]]] = {phase: {} for phase in phases}
    for one in slices:
        if one["direction"] == direction and one["phase"] in groups and "calibration" in one:
            bins = one["calibration"][part]
            if bins.any():
                group = groups[one["phase"]]
                group[one["patient"]] = group.get(one["patient"], 0.0) + bins
    return list(groups.values())


def _resampled_pool(groups: Sequence[Mapping[str, npt.NDArray[np.float64]]], seed: int) -> npt.NDArray[np.float64]:
    patients = sorted({patient for group in groups for patient in group})
    drawn = _drawn(len(patients), seed)
    means = np.zeros(RESAMPLES)
    for group in groups:
        present = [i for i, patient in enumerate(patients) if patient in group]
        means += resampled_calibration_error([group[patients[i]] for i in present], drawn[:, present]) / len(groups)
    return means


def _enough(groups: Sequence[Mapping[str, object]]) -> bool:
    return all(len(group) >= MIN_PATIENTS for group in groups)


def _resampled(groups: _Groups, key: str, seed: int) -> npt.NDArray[np.float64]:
    """The mean over groups of the mean over patients, for each draw; NaN where a group has nobody."""
    patients = sorted({patient for group in groups for patient in group})
    drawn = _drawn(len(patients), seed)
    geometric = key == "texture_ratio"
    means = np.zeros(RESAMPLES)
    for group in groups:
        present = np.array([patient in group for patient in patients], dtype=np.float64)
        values = np.array([group.get(patient, 1.0) for patient in patients])
        values = present * (np.log(values) if geometric else values)
        with np.errstate(invalid="ignore"):
            means += (drawn @ values) / (drawn @ present) / len(groups)
    return np.exp(means) if geometric else means


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
        if key in (*SET_METRICS, *POOLED_METRICS):
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
    known = {(one["direction"], one["name"]): one for one in others}
    wanted = {(one["direction"], one["name"]) for one in ours}
    odd = sorted(wanted ^ set(known))
    if odd:
        raise DataError(
            f"`compare` must hold the scores of the same {len(wanted)} slices; {' '.join(odd[0])} and "
            f"{len(odd) - 1} more are in one of the two only; evaluate both on the same folders"
        )
    pairs = [(one, known[one["direction"], one["name"]]) for one in ours]
    return [_limited(one, other) for one, other in pairs], [_limited(other, one) for one, other in pairs]


def _limited(one: SliceScores, other: SliceScores) -> SliceScores:
    keys = {**one["scores"], **other["scores"]}
    both = {key: one["scores"].get(key) if other["scores"].get(key) is not None else None for key in keys}
    reasons = {**other["reasons"], **one["reasons"]}
    return {**one, "scores": both, "reasons": reasons, "fid_features": None}
