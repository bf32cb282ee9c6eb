"""Intensities: from Hounsfield units or MR signal to [-1, 1], and back. Pure array functions, no files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ShapeError

FloatArray = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

CT_BODY_HU = -300.0
"""Everything above is body: between air (-1000 HU) and fat (about -100 HU)."""

BACKGROUND = -1.0


@dataclass(frozen=True)
class IntensityMapping:
    """The linear map between source values and [-1, 1]; values beyond the ends are clipped.

    Args:
        low: Source value that becomes -1 (grey 0).
        high: Source value that becomes 1 (grey 255).
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (np.isfinite(self.low) and np.isfinite(self.high) and self.high > self.low):
            raise DataError(
                f"`high` must be a finite number above `low`; got low {self.low:g}, high {self.high:g}; "
                f"an image of one value only cannot be mapped"
            )

    def apply(self, values: npt.ArrayLike) -> FloatArray:
        """Source values, any shape, to float32 in [-1, 1]."""
        scaled = (np.asarray(values, dtype=np.float64) - self.low) * (2.0 / (self.high - self.low)) - 1.0
        return np.clip(scaled, -1.0, 1.0).astype(np.float32)

    def invert(self, scaled: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Values in [-1, 1] back to source values; exact for what was not clipped."""
        return (np.asarray(scaled, dtype=np.float64) + 1.0) * ((self.high - self.low) / 2.0) + self.low

    def of_grey(self) -> tuple[float, float]:
        """``(a, b)`` such that ``a * grey + b`` is the source value of an 8-bit grey value."""
        return (self.high - self.low) / 255.0, self.low


def ct_mapping(width: float = 400.0, level: float = 40.0) -> IntensityMapping:
    """The mapping of a CT window: ``level - width / 2`` HU becomes -1, ``level + width / 2`` becomes 1."""
    if not (np.isfinite(width) and np.isfinite(level) and width > 0):
        raise DataError(f"`width` must be a positive number of HU; got width {width!r}, level {level!r}")
    return IntensityMapping(level - width / 2, level + width / 2)


def window_ct(hu: npt.ArrayLike, width: float = 400.0, level: float = 40.0) -> FloatArray:
    """Show a CT through a window, linear to [-1, 1] (the paper's preprocessing; abdomen window by default).

    Args:
        hu: Hounsfield units, any shape.
        width: Range of HU kept, > 0.
        level: HU at the middle of the window; becomes 0.

    Returns:
        float32 of the same shape, in [-1, 1]; HU beyond the window are clipped.

    Raises:
        DataError: ``width`` is not positive.
    """
    return ct_mapping(width, level).apply(hu)


def unwindow_ct(scaled: npt.ArrayLike, width: float = 400.0, level: float = 40.0) -> npt.NDArray[np.float64]:
    """The inverse of ``window_ct`` inside the window: [-1, 1] to Hounsfield units, any shape."""
    return ct_mapping(width, level).invert(scaled)


def foreground_mask(
    volume: npt.ArrayLike, threshold: float | None = None, min_piece_fraction: float = 0.01
) -> BoolArray:
    """Where the body is: above a threshold, slice by slice without specks, holes filled.

    The threshold of an MR is the smaller of Otsu's and a tenth of the way from the background to the 99th
    percentile of what lies above it: Otsu's alone parts fat from muscle as soon as a crop holds little
    air. Background is taken to be 0, or the first percentile where that is negative.

    Args:
        volume: ``(slices, rows, columns)``, finite.
        threshold: Use this one, e.g. ``CT_BODY_HU`` for a CT.
        min_piece_fraction: Pieces smaller than this share of their slice's largest are dropped: specks of
            noise, or with 0.1 most of a scanner's table.

    Returns:
        Boolean array of the same shape.

    Raises:
        ShapeError: ``volume`` is not three-dimensional.
        DataError: Nothing lies above the background.
    """
    values = np.asarray(volume, dtype=np.float32)
    if values.ndim != 3:
        raise ShapeError(f"`volume` must be (slices, rows, columns); got shape {values.shape}")
    return filled_body(values > (_mr_threshold(values) if threshold is None else threshold), min_piece_fraction)


def filled_body(inside: BoolArray, min_piece_fraction: float = 0.01) -> BoolArray:
    """A rough body ``(slices, rows, columns)``, slice by slice without specks, its holes filled.

    Args:
        inside: True where a voxel looks like body.
        min_piece_fraction: As in ``foreground_mask``.
    """
    from skimage import measure

    label: Any = measure.label
    mask = np.zeros_like(inside)
    for index, plane in enumerate(inside):
        if plane.any():
            pieces = label(plane, connectivity=1)
            sizes = np.bincount(pieces.ravel())
            sizes[0] = 0
            kept = (sizes >= min_piece_fraction * sizes.max())[pieces] & plane
            outside = label(~kept, connectivity=1)
            at_border = np.concatenate([outside[0], outside[-1], outside[:, 0], outside[:, -1]])
            mask[index] = kept | ~np.isin(outside, at_border)
    return mask


def _mr_threshold(values: FloatArray) -> float:
    from skimage import filters

    threshold_otsu: Any = filters.threshold_otsu
    background = min(0.0, float(np.percentile(values, 1.0)))
    above = values[values > background]
    if above.size == 0:
        raise DataError("`volume` must hold a body; no value lies above the background; check the image")
    tenth = background + 0.1 * (float(np.percentile(above, 99.0)) - background)
    return min(tenth, float(threshold_otsu(values))) if values.min() < values.max() else background


@dataclass(frozen=True)
class MRMapping(IntensityMapping):
    """The mapping of an MR, with the foreground's mean and standard deviation: ``z = (value - mean) / std``."""

    mean: float
    std: float


def normalise_mr(
    volume: npt.ArrayLike, percentiles: tuple[float, float] = (0.5, 99.5), foreground: BoolArray | None = None
) -> tuple[FloatArray, MRMapping]:
    """Normalise an MR: z-score over the body, clip to percentiles of the body, linear to [-1, 1].

    Each step is linear between the clip's ends, so together they are one linear map from the two
    percentiles to [-1, 1], and the result does not change when the scanner's gain or offset does.
    Without the clip the last step would undo the first but for a single bright voxel's say.

    Args:
        volume: ``(slices, rows, columns)``, finite.
        percentiles: Of the body's values, ``0 <= low < high <= 100``.
        foreground: The body; found by ``foreground_mask`` where not given.

    Returns:
        float32 of the same shape in [-1, 1], exactly -1 outside the body, and the recorded mapping.

    Raises:
        ShapeError: The shapes of ``volume`` and ``foreground`` differ.
        DataError: The body is empty or of one value only.
    """
    values = np.asarray(volume, dtype=np.float32)
    body = foreground_mask(values) if foreground is None else foreground
    mapping = mr_mapping(values, percentiles, body)
    return np.where(body, mapping.apply(values), np.float32(BACKGROUND)), mapping


def mr_mapping(volume: FloatArray, percentiles: tuple[float, float], foreground: BoolArray) -> MRMapping:
    """The mapping of ``normalise_mr``, without the mapped volume.

    Args:
        volume: ``(slices, rows, columns)``, finite.
        percentiles: Of the body's values, ``0 <= low < high <= 100``.
        foreground: The body.

    Raises:
        ShapeError: The shapes of ``volume`` and ``foreground`` differ.
        DataError: The body is empty or of one value only.
    """
    if foreground.shape != volume.shape:
        raise ShapeError(f"`foreground` must have the volume's shape {volume.shape}; got {foreground.shape}")
    sample = volume[foreground].astype(np.float64)
    if sample.size == 0:
        raise DataError("`foreground` must hold at least one voxel; the body was not found; check the image")
    mean, std = float(sample.mean()), float(sample.std())
    # Last, since it may then sort the sample itself: a copy of a large scan's body is half a gigabyte.
    low, high = (float(value) for value in np.percentile(sample, percentiles, overwrite_input=True))
    return MRMapping(low, high, mean, std)


def to_grey(scaled: npt.ArrayLike) -> npt.NDArray[np.uint8]:
    """[-1, 1], any shape, to 8-bit grey: ``round((x + 1) * 127.5)``."""
    return np.clip(np.rint((np.asarray(scaled, dtype=np.float64) + 1.0) * 127.5), 0, 255).astype(np.uint8)
