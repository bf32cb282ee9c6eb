"""One array seen along other axes: the way back from the orientation that slices are cut in to a scan's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError


def seen_along(array: npt.NDArray[Any], own: npt.ArrayLike, other: npt.ArrayLike) -> npt.NDArray[Any]:
    """The voxels of a volume in the order of other axes, which are its own but for their order and sign.

    It is what SimpleITK's ``DICOMOrient`` gives, as a view: what is written into it is written into the array.

    Args:
        array: ``(slices, rows, columns)``.
        own: ``(3, 3)``, the direction of its grid; its columns are the unit vectors along which columns, rows and
            slices rise.
        other: The direction to see it along, likewise.

    Raises:
        DataError: The axes are no such axes.

    Example:
        >>> import numpy as np
        >>> stack = np.arange(3).reshape(3, 1, 1)
        >>> seen_along(stack, np.diag([1, 1, -1]), np.eye(3)).ravel().tolist()
        [2, 1, 0]
    """
    turn = np.asarray(other, dtype=np.float64).reshape(3, 3).T @ np.asarray(own, dtype=np.float64).reshape(3, 3)
    nearest = np.abs(turn).argmax(axis=1)
    if sorted(nearest.tolist()) != [0, 1, 2] or np.abs(turn).max(axis=1).min() < 0.99:
        raise DataError("`other` must be the axes of the volume in another order or the other way round; they are not")
    # Arrays count slices first, grids columns first.
    view = array.transpose([2 - int(nearest[axis]) for axis in (2, 1, 0)])
    steps = [1 if turn[axis, nearest[axis]] > 0 else -1 for axis in (2, 1, 0)]
    return view[:: steps[0], :: steps[1], :: steps[2]]
