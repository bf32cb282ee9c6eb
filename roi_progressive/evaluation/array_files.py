"""Images stored as arrays (``.npy``): read whole or refused, and brought to the scale 0..255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, MaskError

Array = npt.NDArray[Any]


def load_array(path: Path, error: type[DataError] | type[MaskError]) -> Array:
    """The one array of a file.

    Raises:
        DataError or MaskError: The file is missing, damaged, or holds several; whichever is given as ``error``.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except (OSError, ValueError, EOFError) as cause:
        raise error(f"{path} cannot be read as an array: {str(cause).splitlines()[0]}") from cause
    if not isinstance(loaded, np.ndarray):
        raise error(f"{path} must hold one array; it holds several; save one slice a file")
    return loaded


def grey_of_floats(values: Array, path: Path) -> npt.NDArray[np.float64]:
    """Floating-point values in [-1, 1], [H, W], as grey in 0..255; nothing is rounded.

    Raises:
        DataError: They are of another type or shape, or lie beyond the range; NaN does too.
    """
    if values.ndim != 2:
        raise DataError(f"{path} must be an array [H, W]; got {values.shape}; save one slice a file")
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{path} must be uint8, uint16 or floating-point; got {values.dtype}; convert it")
    if not (np.abs(values) <= 1.0).all():
        raise DataError(f"{path} must lie in [-1, 1]; got {values.min():g} to {values.max():g}; scale it")
    grey: npt.NDArray[np.float64] = (values.astype(np.float64) + 1.0) * 127.5
    return grey
