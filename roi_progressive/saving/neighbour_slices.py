"""The slices above and below one of a data set, in a file of their own beside it.

A data set of single slices stays as it is for every code that reads such; only who asks for neighbours reads these too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, UnreadableError, system_reason
from .decoding import decoded_array

NEIGHBOURS = "neighbours"
"""The folder of a data set that holds the neighbours of all its slices."""


def neighbour_offsets(each_side: int) -> tuple[int, ...]:
    """How far the neighbours lie from their slice, in the order of their channels: from the feet to the head.

    Example:
        >>> neighbour_offsets(2)
        (-2, -1, 1, 2)
    """
    return tuple(offset for offset in range(-each_side, each_side + 1) if offset)


def neighbours_file(image: str | Path) -> Path:
    """Where the neighbours of ``data/trainA/x.png``, or ``x.npy``, lie: ``data/neighbours/trainA/x.npy``."""
    path = Path(image)
    return path.parent.parent / NEIGHBOURS / path.parent.name / f"{path.stem}.npy"


def read_neighbours(image: str | Path, each_side: int, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The neighbours of a slice as they are stored, in the order of :func:`neighbour_offsets`.

    Args:
        image: The file of the slice.
        each_side: How many there are above, and how many below.
        shape: The slice's height and width in px.

    Returns:
        ``[2 * each_side, H, W]``: uint8 where the slice is an 8-bit picture, float32 in [-1, 1] where it is an array.

    Raises:
        DataError: They are missing, cannot be read, or are others than these.
    """
    path = neighbours_file(image)
    try:
        planes = decoded_array(path)
    except (OSError, UnreadableError) as error:
        reason = error.line if isinstance(error, UnreadableError) else system_reason(error)
        raise DataError(
            f"`neighbours` needs those of every slice; {str(path)!r} cannot be read: {reason}; prepare the data with "
            f"--neighbours {each_side}"
        ) from error
    wanted = (2 * each_side, *shape)
    dtype = np.dtype(np.float32 if Path(image).suffix.lower() == ".npy" else np.uint8)
    if planes.shape != wanted or planes.dtype != dtype:
        raise DataError(
            f"`neighbours` must be {dtype} {list(wanted)} for {each_side} above and below; {str(path)!r} is "
            f"{planes.dtype} {list(planes.shape)}; prepare the data with --neighbours {each_side}"
        )
    if dtype.kind == "f" and not (np.abs(planes) <= 1.0).all():
        raise DataError(
            f"`neighbours` must lie in [-1, 1]; {str(path)!r} has {planes.min():g} to {planes.max():g}; prepare anew"
        )
    return planes
