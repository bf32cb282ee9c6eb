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
_EDGES = 0.1
"""What was interpolated between padding and tissue is at most this share of the rest."""
_BACKGROUND = 0.1
"""From this share of a volume on, a value that voxels share exactly is its background."""
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
        values[padding] = background_value(values[~padding])
    lowest = values.min()
    at_lowest = values == lowest
    if not _PLATEAU <= at_lowest.mean() < 1:
        return values
    rest = values[~at_lowest]
    low, high = _bulk(rest)
    if lowest < 0 <= low:
        # All tissue is at 0 or above: what is negative is padding, or was interpolated between it and tissue.
        return np.maximum(values, np.float32(0))
    if lowest < low - 2 * (high - low) and _shared_value(rest) is not None:
        # The rest has a background of its own; without one, what lies so low is the background.
        outside = values < low - (high - low)
        values[outside] = background_value(values[~outside])
    return values


def background_value(values: FloatArray) -> float:
    """What to put where a scan holds nothing: the value that many voxels share, if one is; else one below tissue."""
    shared = _shared_value(values)
    if shared is not None:
        return shared
    (low, high), lowest = _bulk(values), float(values.min())
    return lowest if low >= 0 else min(lowest, low - (high - low))


def _shared_value(values: FloatArray) -> float | None:
    """The value that most voxels share exactly, where they are many."""
    found, counts = np.unique(values, return_counts=True)
    return float(found[counts.argmax()]) if counts.max() > _BACKGROUND * values.size else None


def body_mask(volume: FloatArray) -> BoolArray:
    """Where the body is, of a volume without padding.

    Where a background lies in the middle of the range, which only arithmetic puts there, it is one value exactly, and
    body is all else; otherwise it is found by a threshold, see ``foreground_mask``.

    Args:
        volume: ``(slices, rows, columns)``, finite.

    Raises:
        DataError: Nothing lies above the background.
    """
    background = _middle_background(volume)
    return foreground_mask(volume) if background is None else filled_body(volume != background)


def _bulk(values: FloatArray) -> tuple[float, float]:
    """Between which values all but the lowest and the highest tenth lie."""
    low, high = np.percentile(values, (100 * _EDGES, 100 - 100 * _EDGES))
    return float(low), float(high)


def _middle_background(volume: FloatArray) -> float | None:
    """The one value around the body where a good share of the body is darker; ``None`` where there is none."""
    border = np.concatenate([volume[:, [0, -1], :].ravel(), volume[:, :, [0, -1]].ravel()])
    found, counts = np.unique(border, return_counts=True)
    background = float(found[counts.argmax()])
    if counts.max() < 0.25 * border.size:
        return None
    others = volume[volume != background]
    if others.size == 0 or others.size > 0.95 * volume.size:
        return None
    return background if (others < background).mean() > _DARKER else None
