"""One scale for the MRs of a data set (Nyúl and Udupa 1999): percentiles of the body are moved to common values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .preprocessing import BoolArray, FloatArray

PERCENTILES = (1.0, 10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 99.0)
SCALE = (0.0, 100.0)
"""Where the first and the last of the percentiles are put."""

Landmarks = npt.NDArray[np.float64]


def landmarks_of(volume: FloatArray, body: BoolArray) -> Landmarks:
    """The values of ``PERCENTILES`` in the body.

    Args:
        volume: ``(slices, rows, columns)``, finite.
        body: The same shape.

    Raises:
        DataError: The body is empty, or so few values occur that two percentiles are the same.
    """
    sample = volume[body].astype(np.float64)
    found = np.asarray(np.percentile(sample, PERCENTILES)) if sample.size else np.zeros(len(PERCENTILES))
    if (np.diff(found) <= 0).any():
        raise DataError(
            "`image` must have a body of many grey values to be standardised; two of its deciles are the same; "
            "leave `standardise` out"
        )
    return found


def fit_standard(volumes: Sequence[Landmarks]) -> Landmarks:
    """The common values: the mean over volumes, each first brought to ``SCALE`` by gain and offset.

    Args:
        volumes: Of the training part only, so that nothing of the test set leaks; one or more.

    Returns:
        Rising values, the first 0 and the last 100.
    """
    stacked = np.stack(volumes)
    low, high = stacked[:, :1], stacked[:, -1:]
    return np.asarray(((stacked - low) / (high - low) * (SCALE[1] - SCALE[0]) + SCALE[0]).mean(axis=0))


def standardise(values: npt.ArrayLike, source: Landmarks, standard: Landmarks) -> FloatArray:
    """Move ``source`` landmarks to ``standard`` ones, linear between them and on beyond the ends; any shape.

    With the two exchanged it is the inverse.
    """
    x = np.asarray(values, dtype=np.float64)
    slopes: Any = np.diff(standard) / np.diff(source)
    moved = np.interp(x, source, standard)
    moved = np.where(x < source[0], standard[0] + (x - source[0]) * slopes[0], moved)
    return np.where(x > source[-1], standard[-1] + (x - source[-1]) * slopes[-1], moved).astype(np.float32)
