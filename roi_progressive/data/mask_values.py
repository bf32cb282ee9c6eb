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
"""More whole values than these may be shares in whole numbers rather than labels."""
_ALIKE = 0.8
"""Of labels more voxels than this share are as one beside them, of the edges of a soft mask fewer."""


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
        _check_no_shares(region, name, whole)
        chosen = whole > 0
    if not chosen.any():
        raise DataError(f"`{region}` must mark a region; {name} has no voxel {wanted}; leave the cell empty if so")
    return np.asarray(chosen)


def _check_no_shares(region: str, name: str, whole: npt.NDArray[Any]) -> None:
    """Check that whole numbers are labels: a soft mask that was saved in them has edges of ever other values."""
    highest = whole.max()
    between = (whole > 0) & (whole < highest)
    if whole.ndim != 3 or len(np.unique(whole[between])) < _MOST_LABELS:
        return
    alike = np.zeros(whole.shape, dtype=bool)
    same = whole[..., 1:] == whole[..., :-1]
    alike[..., 1:] |= same
    alike[..., :-1] |= same
    if alike[between].mean() < _ALIKE:
        raise DataError(
            f"`{region}` must hold labels, or shares from 0 to 1; {name} has soft edges in whole numbers up to "
            f"{int(highest)}; take what is above one half as the mask, or name its labels"
        )
