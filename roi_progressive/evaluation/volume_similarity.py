"""Differences of whole volumes inside the body, as SynthRAD measures synthetic CTs.

The definitions are those of the challenge's own evaluation (github.com/SynthRAD2025/evaluation, ``image_metrics.py``;
Huijben et al. 2024, "Generating synthetic computed tomography for radiotherapy: SynthRAD2023 challenge report", Medical
Image Analysis 97): errors over the body's voxels alone, PSNR and MS-SSIM on values clipped to one range, [-1024, 3071]
HU there, whose width is the peak.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

FULL_RANGE_HU = (-1024.0, 3071.0)
SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Of the five scales (Wang, Simoncelli and Bovik 2003, section 3.2)."""
_WINDOW_PX = 7
_MARGIN_PX = _WINDOW_PX // 2
_K1, _K2 = 0.01, 0.03
_SLAB = 32
"""So many slices are compared at a time: a volume may be a gigabyte, and every map of it another."""


def mean_absolute_error(real: Array, fake: Array, body: BoolArray) -> float | None:
    """Mean absolute difference over the body's voxels, in the volumes' unit; nothing is clipped.

    Args:
        real: ``(slices, rows, columns)``.
        fake: The same shape.
        body: Likewise, true inside.

    Returns:
        At least 0, lower is better; ``None`` where the body is empty.
    """
    return float(np.abs(real[body].astype(np.float64) - fake[body]).mean()) if body.any() else None


def psnr(real: Array, fake: Array, body: BoolArray, low: float, high: float) -> float | None:
    """Peak signal-to-noise ratio over the body's voxels, in dB; the peak is ``high - low``.

    Args:
        real: ``(slices, rows, columns)``.
        fake: The same shape.
        body: Likewise, true inside.
        low: Both volumes are clipped to it from below.
        high: And to it from above.

    Returns:
        Decibels, higher is better, infinity where both are equal; ``None`` where the body is empty.
    """
    if not body.any():
        return None
    first, second = (np.clip(volume[body].astype(np.float64), low, high) for volume in (real, fake))
    mse = float(np.mean((first - second) ** 2))
    return 10.0 * math.log10((high - low) ** 2 / mse) if mse > 0.0 else math.inf


def ms_ssim(
    real: Array,
    fake: Array,
    body: BoolArray,
    low: float,
    high: float,
    weights: Sequence[float] = SCALE_WEIGHTS,
) -> float | None:
    """Multi-scale structural similarity, averaged over the body at every scale.

    Outside the body both volumes are ``low``. Windows are cubes of 7 voxels with equal weights and sample covariances;
    luminance, contrast and structure of every scale have its weight as their exponents (Wang et al. take luminance at
    the coarsest alone; SynthRAD's program at all). Each scale has half the voxels of the one before: means of two along
    each axis; the body takes every second. Sides under 97 voxels are padded by repeating the outermost ones, so that
    five scales fit.

    Args:
        real: ``(slices, rows, columns)``.
        fake: The same shape.
        body: Likewise, true inside.
        low: Both volumes are clipped to it from below.
        high: And to it from above.
        weights: Of the scales, from the finest.

    Returns:
        0 to 1, higher is better; ``None`` where no voxel of the body is left at some scale.
    """
    least = (_WINDOW_PX - 1) * 2 ** (len(weights) - 1) + 1
    padding = [(max(0, least - side) // 2, (max(0, least - side) + 1) // 2) for side in real.shape]
    inside = np.pad(body, padding, mode="edge")
    first, second = (
        np.pad(np.where(body, np.clip(volume, low, high) - low, 0.0).astype(np.float64), padding, mode="edge")
        for volume in (real, fake)
    )
    product = 1.0
    for scale, weight in enumerate(weights):
        if scale:
            first, second, inside = _halved(first), _halved(second), inside[::2, ::2, ::2]
        mean = _similarity(first, second, inside, high - low, weight)
        if mean is None:
            return None
        product *= min(max(mean, 0.0), 1.0)
    return product


def _similarity(first: Array, second: Array, inside: BoolArray, peak: float, exponent: float) -> float | None:
    """The mean over ``inside`` of the three parts of the structural similarity; voxels at the border do not count."""
    total, count = 0.0, 0
    plane = (slice(_MARGIN_PX, -_MARGIN_PX),) * 2
    times = _distinct_slices(first, second, inside)
    for start, stop in _slabs(sorted(times)):
        chosen = inside[(slice(start, stop), *plane)]
        within = slice(start - _MARGIN_PX, stop + _MARGIN_PX)  # all that the windows of these slices see
        parts = _parts(first[within], second[within], chosen, peak)
        values = parts[0] ** exponent * parts[1] ** exponent * parts[2] ** exponent
        repeated = np.array([times[index] for index in range(start, stop)])[np.nonzero(chosen)[0]]
        total += float(values @ repeated)
        count += int(repeated.sum())
    return total / count if count else None


def _distinct_slices(first: Array, second: Array, inside: BoolArray) -> dict[int, int]:
    """The slices whose windows see something of their own, and how many see the same: padding repeats slices."""
    volumes = (first, second, inside)
    changes = [any((v[i] != v[i - 1]).any() for v in volumes) for i in range(1, len(first))]
    number = np.concatenate([[0], np.cumsum(changes)])
    found: dict[tuple[int, ...], int] = {}
    times: dict[int, int] = {}
    for index in range(_MARGIN_PX, len(first) - _MARGIN_PX):
        seen = tuple(number[index - _MARGIN_PX : index + _MARGIN_PX + 1].tolist())
        one = found.setdefault(seen, index)
        times[one] = times.get(one, 0) + 1
    return times


def _slabs(indices: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising indices as ranges without gaps, none longer than a slab."""
    start = previous = None
    for index in indices:
        if start is not None and previous is not None and (index != previous + 1 or index - start == _SLAB):
            yield start, previous + 1
            start = None
        start, previous = index if start is None else start, index
    if start is not None and previous is not None:
        yield start, previous + 1


def _parts(x: Array, y: Array, chosen: BoolArray, peak: float) -> tuple[Array, Array, Array]:
    """Luminance, contrast and structure at the chosen voxels, 1-D each, none below 0."""
    inner = (slice(_MARGIN_PX, -_MARGIN_PX),) * 3

    def local(values: Array) -> npt.NDArray[np.float64]:
        means: npt.NDArray[np.float64] = ndimage.uniform_filter(values, _WINDOW_PX)
        return means[inner][chosen]

    n_voxels = _WINDOW_PX**3
    unbiased = n_voxels / (n_voxels - 1)
    mean_x, mean_y = local(x), local(y)
    variance_x, variance_y = (unbiased * (local(v * v) - m * m) for v, m in ((x, mean_x), (y, mean_y)))
    covariance = unbiased * (local(x * y) - mean_x * mean_y)
    deviations = np.sqrt(np.maximum(variance_x, 0)) * np.sqrt(np.maximum(variance_y, 0))
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    contrast = (2 * deviations + c2) / (variance_x + variance_y + c2)
    structure = (covariance + c2 / 2) / (deviations + c2 / 2)
    return np.maximum(luminance, 0), np.maximum(contrast, 0), np.maximum(structure, 0)


def _halved(volume: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Every second voxel along each axis, averaged with the one before it; before the first lies nothing, 0."""
    for axis in range(3):
        moved = np.moveaxis(volume, axis, 0)
        kept = moved[::2].copy()
        kept[1:] += moved[1::2][: len(kept) - 1]
        volume = np.moveaxis(kept / 2, 0, axis)
    return volume
