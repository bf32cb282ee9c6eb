"""Does the predicted uncertainty tell the error? UCE, AUSE and rank correlation, over the image and the region.

Sigma is the predicted standard deviation of every pixel in grey levels, the error ``generated - real`` likewise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from .similarity import check_images

Array = npt.NDArray[Any]
Bins = npt.NDArray[np.float64]

LOWEST_SIGMA_GREY = 2.0**-4
BINS_PER_OCTAVE = 4
N_BINS = 48
N, VARIANCE, SQUARED_ERROR = range(3)


def bin_statistics(real: Array, fake: Array, sigma: Array, mask: Array) -> Bins:
    """What UCE and the reliability diagram need of a slice; the statistics of several slices are added.

    The bins of sigma are the same for all slices: 48, four an octave from 1/16 to 256 grey levels; what lies beyond
    counts in the first or the last.

    Args:
        real: [H, W], grey levels 0..255.
        fake: The same shape and range.
        sigma: [H, W], at least 0.
        mask: The region, bool [H, W].

    Returns:
        [2, 48, 3]: over the image and over the region, for each bin the number of pixels, the sum of sigma squared
        and the sum of the squared error.

    Raises:
        ShapeError: The arrays do not fit each other.
    """
    check_sigma(real, fake, sigma, mask)
    variance = sigma.astype(np.float64) ** 2
    squared = (fake.astype(np.float64) - real) ** 2
    with np.errstate(divide="ignore"):
        place = 0.5 * BINS_PER_OCTAVE * np.log2(variance / LOWEST_SIGMA_GREY**2)
    index = np.clip(place, 0, N_BINS - 1).astype(np.intp)
    parts = ((index.ravel(), variance.ravel(), squared.ravel()), (index[mask], variance[mask], squared[mask]))
    return np.stack(
        [
            np.stack([np.bincount(bins, weights, minlength=N_BINS) for weights in (None, predicted, found)], axis=-1)
            for bins, predicted, found in parts
        ]
    ).astype(np.float64)


def expected_calibration_error(bins: Bins) -> float | None:
    """Uncertainty calibration error of pooled pixels (UCE; Laves et al. 2020), in squared grey levels.

    ``sum over bins m of |B_m| / n * |mean squared error in B_m - mean sigma^2 in B_m|``, with ``n`` all pixels.

    Args:
        bins: [48, 3], one part of :func:`bin_statistics`, summed over slices.

    Returns:
        At least 0, lower is better; 0 if in every bin the variance is the mean squared error. ``None`` without pixels.
    """
    n = float(bins[:, N].sum())
    return float(np.abs(bins[:, SQUARED_ERROR] - bins[:, VARIANCE]).sum()) / n if n else None


def resampled_calibration_error(bins: Sequence[Bins], drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """UCE of many draws of patients.

    Args:
        bins: [48, 3] of every patient.
        drawn: [draws, patients], how often each comes in each draw.

    Returns:
        [draws]; NaN for a draw without pixels.
    """
    every = np.stack(bins)
    excess = drawn @ (every[:, :, SQUARED_ERROR] - every[:, :, VARIANCE])
    with np.errstate(invalid="ignore"):
        error: npt.NDArray[np.float64] = np.abs(excess).sum(axis=1) / (drawn @ every[:, :, N].sum(axis=1))
    return error


def sigma_over_error(bins: Bins) -> float | None:
    """How large sigma is beside the error: the root of the mean sigma squared over that of the mean squared error.

    Args:
        bins: [48, 3], one part of :func:`bin_statistics`, summed over slices.

    Returns:
        Above 0; 1 where sigma has the size of the error, under 1 where it is too small. ``None`` without an error.

    Example:
        >>> real, mask = np.zeros((4, 4)), np.ones((4, 4), dtype=bool)
        >>> sigma_over_error(bin_statistics(real, real + 10.0, np.full((4, 4), 5.0), mask)[0])
        0.5
    """
    squared = float(bins[:, SQUARED_ERROR].sum())
    return float(np.sqrt(bins[:, VARIANCE].sum() / squared)) if squared else None


def resampled_sigma_over_error(bins: Sequence[Bins], drawn: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """:func:`sigma_over_error` of many draws of patients; arguments as in :func:`resampled_calibration_error`."""
    sums = np.stack(bins).sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio: npt.NDArray[np.float64] = np.sqrt((drawn @ sums[:, VARIANCE]) / (drawn @ sums[:, SQUARED_ERROR]))
    return ratio


def sparsification_error(sigma: Array, error: Array) -> float | None:
    """Area under the sparsification error curve (AUSE; Ilg et al. 2018), with the mean absolute error.

    Pixels are taken away one by one, the largest sigma first; against it, the largest error first. The mean error of
    what is left, over that of all pixels, is averaged over all ``0 .. n-1`` taken away; AUSE is the difference of the
    two averages. Pixels of equal sigma count with their mean error, which is what a random order gives on average.

    Args:
        sigma: [n], at least 0.
        error: [n].

    Returns:
        At least 0, lower is better; 0 if sigma orders the pixels as the error does. ``None`` without any error.

    Example:
        >>> error = np.array([1.0, -2.0, 3.0])
        >>> sparsification_error(np.abs(error), error)
        0.0
    """
    size = np.abs(error.astype(np.float64)).ravel()
    if not size.size or size.mean() == 0.0:
        return None
    order = np.argsort(sigma, axis=None, kind="stable")
    ranked, by_sigma = sigma.ravel()[order], size[order]
    starts = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]]))
    counts = np.diff(starts, append=size.size)
    by_sigma = np.repeat(np.add.reduceat(by_sigma, starts) / counts, counts)
    left = np.arange(1, size.size + 1)
    gap = (np.cumsum(by_sigma) - np.cumsum(np.sort(size))) / left
    return max(float(gap.mean() / size.mean()), 0.0)


def rank_correlation(sigma: Array, error: Array) -> float | None:
    """Spearman's rank correlation of sigma with the absolute error, by SciPy; ``None`` where either is constant."""
    from scipy import stats

    size = np.abs(error).ravel()
    if size.size < 2 or not np.ptp(size) or not np.ptp(sigma):
        return None
    return float(stats.spearmanr(sigma.ravel(), size)[0])


def reliability(bins: Bins) -> list[dict[str, float]]:
    """The reliability diagram of pooled pixels: by bin, how large the error was predicted to be and how large it was.

    Args:
        bins: [48, 3], one part of :func:`bin_statistics`, summed over slices.

    Returns:
        For each bin that holds pixels: ``n``, and ``predicted`` and ``observed``, the root of the mean sigma squared
        and of the mean squared error, in grey levels.
    """
    return [
        {
            "n": int(of_bin[N]),
            "predicted": float(np.sqrt(of_bin[VARIANCE] / of_bin[N])),
            "observed": float(np.sqrt(of_bin[SQUARED_ERROR] / of_bin[N])),
        }
        for of_bin in bins
        if of_bin[N]
    ]


def check_sigma(real: Array, fake: Array, sigma: Array, mask: Array) -> None:
    """Check that images, sigma and mask fit each other.

    Raises:
        ShapeError: They are not [H, W] of one size, or the mask is not boolean.
    """
    check_images(real, fake, mask)
    if sigma.shape != real.shape:
        raise ShapeError(f"`sigma` must be {real.shape}, like the images; got {sigma.shape}")
