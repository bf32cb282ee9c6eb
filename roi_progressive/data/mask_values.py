"""Which voxels a volume of mask values marks: 0 and 1, labels, labels that a header scaled, or soft edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .preprocessing import BoolArray

_NEAR = 0.1
"""How far a header's scaling may move a label off its whole number."""
_HALF = 0.5
"""From here on a share belongs to the region."""
_MOST_LABELS = 8
"""8-bit data up to 255 with more values than these are shares of 255 rather than labels."""


def marked(region: str, name: str, values: npt.NDArray[Any], labels: tuple[int, ...] = ()) -> BoolArray:
    """The voxels of a region.

    Args:
        region: Column of the list, for messages.
        name: The file, for messages.
        values: Finite. Whole numbers are labels, and so are numbers near them, as scaling headers leave them; numbers
            from 0 to 1 are shares, of which one half and more is marked.
        labels: The labels that are the region; without any, all above zero.

    Raises:
        DataError: Values lie between labels, or no voxel is marked.
    """
    whole = values if values.dtype.kind in "iub" else np.rint(values)
    between = np.zeros(0, dtype=bool) if whole is values else np.abs(values - whole) > _NEAR
    wanted = "above zero"
    if between.any():
        low, high = float(values.min()), float(values.max())
        if labels or low < -_HALF or high >= 1 + _HALF:
            raise DataError(
                f"`{region}` must hold whole labels, or shares from 0 to 1; {name} has {int(between.sum())} voxels "
                f"between labels, of {low:g} to {high:g}: a label map that was resampled; resample it by nearest "
                f"neighbour"
            )
        chosen, wanted = values >= _HALF, "of one half or more"
    elif labels:
        chosen, wanted = np.isin(whole, labels), f"of label {'+'.join(map(str, labels))}"
    else:
        _check_no_shares_of_255(region, name, whole)
        chosen = whole > 0
    if not chosen.any():
        raise DataError(f"`{region}` must mark a region; {name} has no voxel {wanted}; leave the cell empty if so")
    return np.asarray(chosen)


def _check_no_shares_of_255(region: str, name: str, whole: npt.NDArray[Any]) -> None:
    if whole.max() != 255 or whole.min() < 0:
        return
    above = np.unique(whole[whole > 0])
    if len(above) > _MOST_LABELS:
        raise DataError(
            f"`{region}` must hold labels, or shares from 0 to 1; {name} has {len(above)} values up to 255: a soft "
            f"mask of 8 bits; take what is 128 and more as the mask"
        )
