"""Whether the values of a folder of images lie on the scale they are taken for: of 16 bits, or from -1 to 1."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..errors import DataError
from .image_files import Scale, raw_values

_BITS = (8, 10, 12, 14)
"""Depths that programs store in files of 16 bits."""


def check_scale(argument: str, paths: Iterable[Path], scale: Scale, *, strict: bool = True) -> list[str]:
    """Look at the range of all images of a folder together: one dark image alone says nothing.

    Files of 8 bits need no look. Twelve bits in files of 16 would score 24 dB too much, and arrays from 0 to 1 where
    -1 to 1 is meant, 6 dB.

    Args:
        argument: What the folder is, for messages.
        paths: Its images.
        scale: How they are to be read; what its user gave of it is believed.
        strict: Refuse arrays that have nothing below 0, rather than note them.

    Returns:
        What the user should know, one line each.

    Raises:
        DataError: The values are surely on another scale.
    """
    deepest, lowest, highest = -1, np.inf, -np.inf
    for path in paths:
        values = raw_values(path)
        if values is None or not values.size:
            continue
        if values.dtype.kind == "f":
            lowest, highest = min(lowest, float(values.min())), max(highest, float(values.max()))
        else:
            deepest = max(deepest, int(values.max()))
    bits = next((bits for bits in _BITS if 0 < deepest < 2**bits), None)
    if bits is not None and scale.white is None:
        raise DataError(
            f"`{argument}` must say which value is white: nothing in its 16-bit files is above {deepest}, as in images "
            f"of {bits} bits; give --white {2**bits - 1}, or --white 65535 if they are so dark"
        )
    if scale.array_range is not None or lowest < 0 or highest <= lowest:
        return []
    ends = (0, 1) if highest <= 1 else (0, 255)
    what = (
        f"`{argument}` must lie in [-1, 1], -1 being black; nothing in its arrays is below 0, as in a range of "
        f"[{ends[0]}, {ends[1]}]; give --array-range {ends[0]} {ends[1]}, or --array-range -1 1 if they are so bright"
    )
    if strict:
        raise DataError(what)
    return [what]
