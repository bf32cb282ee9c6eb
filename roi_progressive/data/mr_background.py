"""What of an MR, or of any scan that is not in Hounsfield units, is background: padding, and where the body begins.

Its air need be neither 0 nor the lowest value: readers pad with -32768, registrations with -1000, and what was z-scored
over the body has its background in the middle of the range.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .preprocessing import BoolArray, FloatArray, filled_body, foreground_mask

_PLATEAU = 0.001
"""From this share of all voxels on, a lowest value that they share exactly is no tissue's."""
_EDGES = 0.2
"""What was interpolated between padding and tissue is at most this share of the rest."""
_BACKGROUND = 0.05
"""From this share of a volume on, a value that voxels share exactly is its background."""
_AT_RIM = 0.25
"""And from this share of the rim of its slices on."""
_NEAR, _NOISE = 0.02, 0.1
"""A background with more neighbours at the rim, within this share of the range, than this share of itself is noise."""
_DARKER_THAN_FEW, _DARKER_AT_RIM = 0.05, 0.03
"""So are darker values from this share of a volume on, where at most this share of the rim has them: noise has both."""
_DARKER = 0.1
"""From this share of the others on, values below a background are tissue and no noise."""


def without_padding(array: npt.NDArray[Any], padding: BoolArray | None = None) -> FloatArray:
    """Put what holds nothing to the background of the rest: what the file marks, and what lies far below everything.

    Args:
        array: ``(slices, rows, columns)``, finite.
        padding: Where the file says that a voxel holds nothing.

    Returns:
        float32 of the same shape; the array itself, but for its type, where it holds no padding.
    """
    values = array.astype(np.float32)
    if padding is not None and padding.any() and not padding.all():
        values[padding] = _value_for(padding, values)
    lowest = values.min()
    at_lowest = values == lowest
    if not _PLATEAU <= at_lowest.mean() < 1:
        return values
    rest, around = values[~at_lowest], values[_rim(values.shape) & ~at_lowest]
    if lowest >= 0 or around.size < _BACKGROUND * _rim(values.shape).sum():
        return values  # what lies all around the body is its background
    low, high = _bulk(rest)
    air = float(np.median(around))
    if 0 <= air <= float(np.percentile(rest, 30)) and (rest < 0).mean() < _EDGES:
        # A magnitude is at 0 or above, and so is its air: below is padding, or was interpolated between the two.
        return np.asarray(np.maximum(values, rest[rest >= 0].min()))
    if lowest < low - 2 * (high - low):
        outside = values < low - (high - low)
        background = _shared_around(outside, values)
        if background is not None:
            values[outside] = background
    return values


def background_value(volume: FloatArray) -> float:
    """What to put where a scan does not reach: the value around its body, if one is shared there; else a dark one."""
    return _value_for(np.zeros(volume.shape, dtype=bool), volume)


def _value_for(outside: BoolArray, volume: FloatArray) -> float:
    shared = _shared_around(outside, volume)
    if shared is not None:
        return shared
    rest = volume[~outside]
    (low, high), lowest = _bulk(rest), float(rest.min())
    return lowest if low >= 0 else min(lowest, low - (high - low))


def _shared_around(outside: BoolArray, volume: FloatArray) -> float | None:
    """The value that the rest shares exactly at the rim of its slices; ``None`` where there is none."""
    rim = _rim(volume.shape)
    around = volume[rim & ~outside]
    if around.size < _BACKGROUND * rim.sum():
        return None
    found, counts = np.unique(around, return_counts=True)
    value = found[counts.argmax()]
    many = counts.max() >= _AT_RIM * around.size and (volume == value).sum() > _BACKGROUND * (~outside).sum()
    return float(value) if many else None


def body_mask(volume: FloatArray) -> BoolArray:
    """Where the body is, of a volume without padding.

    Where a background lies in the middle of the range, which only arithmetic puts there, it is one value exactly, or a
    few that rounding made of it, and body is all else; otherwise it is found by a threshold, see ``foreground_mask``.

    Args:
        volume: ``(slices, rows, columns)``, finite.

    Raises:
        DataError: Nothing lies above the background.
    """
    background = _middle_background(volume)
    if background is not None:
        return filled_body(volume != background)
    band = _middle_band(volume)
    if band is not None:
        return filled_body((volume < band[0]) | (volume > band[1]))
    return foreground_mask(volume)


def _rim(shape: tuple[int, ...]) -> BoolArray:
    """The outermost rows and columns of all slices."""
    rim = np.zeros(shape, dtype=bool)
    rim[:, [0, -1], :] = rim[:, :, [0, -1]] = True
    return rim


def _bulk(values: FloatArray) -> tuple[float, float]:
    """Between which values all but the lowest and the highest tenth lie."""
    low, high = np.percentile(values, (10, 90))
    return float(low), float(high)


def _middle_background(volume: FloatArray) -> float | None:
    """The one value around the body where a good share of the body is darker; ``None`` where there is none."""
    background = _shared_around(np.zeros(volume.shape, dtype=bool), volume)
    if background is None:
        return None
    others = volume[volume != background]
    if not others.size:
        return None
    low, high = np.percentile(volume, (1, 99))
    near = _NEAR * float(high - low)
    around = volume[_rim(volume.shape)]
    # Noise in few grey levels has a most frequent one too, but its neighbours are nearly as frequent.
    beside = (np.abs(around - background) <= near) & (around != background)
    if beside.sum() > _NOISE * (around == background).sum():
        return None
    return background if (others < background - near).mean() > _DARKER else None


def _middle_band(volume: FloatArray) -> tuple[float, float] | None:
    """Between which values half of the rim and more lies, where they are few and a share of the body is darker."""
    around = volume[_rim(volume.shape)]
    low, high = np.percentile(volume, (1, 99))
    near = _NEAR * float(high - low)
    first, third = np.percentile(around, (25, 75))
    is_darker = volume < first - near
    if third - first > near or is_darker.mean() <= _DARKER_THAN_FEW or (around < first - near).mean() > _DARKER_AT_RIM:
        return None
    return float(first) - near, float(third) + near
