"""What SimpleITK reads from a NIfTI file without a word: NaN as 0, which is water in a CT, and a file cut short as if
zeros followed."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError

_HEADER_BYTES = 348
_FLOATS = {16: "f4", 64: "f8"}


def check_nifti(what: str, path: Path) -> None:
    """Check that a NIfTI-1 file holds all its voxels and that they are finite; other formats pass.

    Args:
        what: Column of the list, for messages.
        path: The file, which may be compressed.

    Raises:
        DataError: It is cut short or damaged, or a voxel is NaN or infinite.
    """
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else open(path, "rb") as file:
            header = file.read(_HEADER_BYTES)
            if len(header) < _HEADER_BYTES or header[344:348] != b"n+1\0":
                return
            stored = file.read()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"`{what}` cannot be read: {path.name} is cut short or damaged; copy it again") from error
    order = "<" if header[:4] == _HEADER_BYTES.to_bytes(4, "little") else ">"
    lengths = np.frombuffer(header, order + "i2", 8, 40).astype(np.int64)
    kind, bits = (int(number) for number in np.frombuffer(header, order + "i2", 2, 70))
    start = int(np.frombuffer(header, order + "f4", 1, 108)[0]) - _HEADER_BYTES
    wanted = int(np.prod(lengths[1 : lengths[0] + 1])) * bits // 8
    if len(stored) < start + wanted:
        raise DataError(
            f"`{what}` cannot be read: {path.name} is cut short, it has {len(stored) - start} of {wanted} bytes of "
            f"voxels; copy it again"
        )
    if kind in _FLOATS:
        check_finite(what, path.name, np.frombuffer(stored, order + _FLOATS[kind], wanted * 8 // bits, start))


def check_finite(what: str, name: str, array: Any) -> None:
    """Check that no value is NaN or infinite.

    Raises:
        DataError: One is.
    """
    broken = int(array.size - np.isfinite(array).sum())
    if broken:
        raise DataError(f"`{what}` must be finite; {name} has {broken} voxels that are NaN or infinite; repair it")
