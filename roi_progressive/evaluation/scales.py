"""Whether the numbers of image files lie on the scale they are read by, looked at over whole folders before scoring."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .image_files import WHITE_16_BIT, Scale, stored_range

_SURE_OF_12_BITS = 4095.0
"""16-bit files of which nothing goes beyond use a sixteenth of their range, or hold 12 bits or fewer."""
_DARK = 0.5
"""Where nothing reaches this share of the range, it is said."""


@dataclass(frozen=True)
class _Range:
    """Of the files of one kind in a folder, of which ``first`` is one."""

    first: str
    low: float
    high: float
    count: int
    white_is_zero: int

    def joined(self, other: _Range) -> _Range:
        return _Range(
            self.first or other.first,
            min(self.low, other.low),
            max(self.high, other.high),
            self.count + other.count,
            self.white_is_zero + other.white_is_zero,
        )


_NOTHING = _Range("", math.inf, -math.inf, 0, 0)


def check_scale(folders: Mapping[str, Iterable[Path]], scale: Scale) -> tuple[str, ...]:
    """Look at the range of all files of real and generated images together.

    12 bits in 16-bit files, and arrays in [0, 1] or [0, 255], look like dim images on the scale they are read by, and
    every score would be wrong without a word.

    Args:
        folders: The files by what they are, ``real`` and ``fake``.
        scale: How they are read; where its user gave it, nothing is refused.

    Returns:
        What to tell, one line each.

    Raises:
        DataError: The files are surely on another scale, or one cannot be read.
    """
    sixteen, floats = {}, {}
    for name, paths in folders.items():
        known: dict[str, _Range] = {}
        for path in paths:
            found = stored_range(path)
            if found is not None:
                at = _Range(str(path), found.low, found.high, 1, int(found.white_is_zero))
                known[found.kind] = known.get(found.kind, _NOTHING).joined(at)
        sixteen[name] = known.get("16-bit", _NOTHING)
        floats[name] = known.get("float", _NOTHING)
    return (*_of_16_bits(sixteen, scale), *_of_floats(floats, scale))


def _of_16_bits(of: Mapping[str, _Range], scale: Scale) -> list[str]:
    notes = []
    there = {name: found for name, found in of.items() if found.count}
    if not there:
        return []
    together = _joined(list(there.values()))
    white = scale.white_or_default
    if scale.white is None and together.high <= _SURE_OF_12_BITS and not together.white_is_zero:
        bits = max(8, math.ceil(math.log2(together.high + 1)))
        twelve = "" if bits == 12 else " (4095 where they hold 12)"
        raise DataError(
            f"`white` must be given: of {together.count} 16-bit files, {together.first} and so on, none goes above "
            f"{together.high:g}, as in images of {bits} bits; give --white {2**bits - 1}{twelve}, or "
            f"--white {WHITE_16_BIT:g} if they are that dark"
        )
    for name, found in there.items():
        if found.white_is_zero:
            notes.append(
                f"{found.white_is_zero} TIFF files of {name} store white as 0 (WhiteIsZero); they were inverted."
            )
    for name, found in {"all": together, **there}.items():
        if found.high < _DARK * white and not found.white_is_zero:
            who = "all 16-bit files" if name == "all" else f"the 16-bit files of {name}"
            bits = max(8, math.ceil(math.log2(found.high + 1)))
            notes.append(
                f"Nothing in {who} is above {found.high:g} of {white:g}, their white: if they hold {bits} bits, the "
                f"scores are wrong; give --white {2**bits - 1}."
            )
            if name == "all":
                break
    return notes


def _of_floats(of: Mapping[str, _Range], scale: Scale) -> list[str]:
    there = {name: found for name, found in of.items() if found.count}
    if not there:
        return []
    together = _joined(list(there.values()))
    if scale.array_range is not None:
        return []
    if together.low >= -1e-6 and together.high > 1.0:
        raise DataError(
            f"`array_range` must be given: {together.count} floating-point files, {together.first} and so on, go from "
            f"{together.low:g} to {together.high:g}, not -1 to 1; give --array-range 0 255, or the range they are of"
        )
    if together.low >= -1e-6:
        raise DataError(
            f"`array_range` must be given: of {together.count} floating-point files, {together.first} and so on, none "
            f"goes below 0, as in [0, 1]; give --array-range 0 1, or --array-range -1 1 if they are that bright"
        )
    return [
        f"Nothing in the .npy files of {name}, {found.first} and so on, is below 0, in the others there is: if they are "
        f"in [0, 1], the scores are wrong; write both in [-1, 1]."
        for name, found in there.items()
        if found.low >= -1e-6
    ]


def _joined(ranges: Sequence[_Range]) -> _Range:
    whole = _NOTHING
    for found in ranges:
        whole = whole.joined(found)
    return whole
