"""What an arm of the study gained over another, seed by seed and patient by patient, and how sure that is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from roi_progressive.evaluation.aggregation import patient_values
from roi_progressive.evaluation.metrics import PSNR
from roi_progressive.runs.scores import read_slices
from roi_progressive.saving.names import DIRECTIONS

from .arms import Arm

DRAWS = 10_000

Matrix = npt.NDArray[np.float64]
Slices = Mapping[tuple[str, int], Sequence[Any]]
"""Scored slices by arm and seed."""
Arms = Mapping[str, Arm]
Lines = Sequence[Mapping[str, Any]]
"""The finished runs, as ``runs.jsonl`` has them."""


def read_runs(out: Path, lines: Lines) -> Slices:
    """The scored slices of the finished runs of a study."""
    return {(one["arm"], one["seed"]): read_slices(out / "runs" / f"{one['arm']}-{one['seed']}") for one in lines}


def seeds_of(slices: Slices, *arms: str) -> list[int]:
    """The seeds that all these arms have been trained from."""
    return sorted({seed for _, seed in slices if all((arm, seed) in slices for arm in arms)})


def gains(slices: Slices, arm: str, other: str, direction: str, metric: str) -> Matrix | None:
    """An arm's gain ``[seeds, patients]`` over another; ``None`` without a seed of both."""
    rows = []
    for seed in seeds_of(slices, arm, other):
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


def compared(slices: Slices, arms: Arms) -> list[str]:
    """The arms that are trained from a seed that what they are compared with is trained from too."""
    others = {name: arm.against for name, arm in arms.items() if arm.against != name}
    return [name for name, other in others.items() if gains(slices, name, other, DIRECTIONS[0], PSNR.key) is not None]


def values_by_seed(lines: Lines, name: str, direction: str, metric: str) -> list[float]:
    """A score of an arm, or of a reference of the plain runs, from every seed that has it."""
    rows = [
        row
        for line in lines
        for row in line["means"]
        if (line["arm"] if row["arm"] == "model" else row["arm"]) == name and row["direction"] == direction
    ]
    return [float(row[metric]) for row in rows if row.get(metric) is not None]


def _values(slices: Sequence[Any], direction: str, metric: str) -> dict[str, float]:
    return patient_values((one for one in slices if one["direction"] == direction), metric)
