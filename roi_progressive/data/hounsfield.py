"""Whether a volume that is said to be in Hounsfield units is: by where its air and its body lie."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .preprocessing import BoolArray

IN_HOUNSFIELD = ("CT", "CBCT")
"""Modalities whose values are windowed; of everything else the scale is taken from the volume."""

AIR_HU = -1000.0

_BELOW_AIR_HU = -1100.0
"""Scanners reconstruct nothing below, but for streaks; it is padding around their round field."""
_ABOVE_BONE_HU = 3100.0
"""Beyond what 12 bits hold, and all tissue; what a file marks as padding up here was stored without its sign."""
_NO_TISSUE_HU = -200.0
"""Air and lung lie below, fat and all other tissue above."""
_SOME = 0.005
"""Of a volume that shows a body, at least this share is tissue."""
_AIR_WITHIN_HU = 50.0
_FAT_BELOW_HU = -20.0
_BONE_HU = 700.0
_SHIFTED_HU = (850.0, 1250.0)
"""Where tissue lies whose offset of 1000 or 1024 was not taken off."""
_NARROWEST_HU = 20.0
"""Of a crop of one tissue even the noise is wider."""


def in_hounsfield(modality: str, words: Sequence[str] = IN_HOUNSFIELD) -> bool:
    """Whether a volume of this modality is said to be in Hounsfield units.

    Args:
        modality: As the list has it.
        words: The modalities that are, in capitals or not.
    """
    return modality.casefold() in {word.casefold() for word in words}


def looks_like_hounsfield(array: npt.NDArray[Any]) -> bool:
    """Whether a volume that is not said to be in Hounsfield units has air of -1000 around it, and fat above -200.

    An MR that was padded with -1000 has nothing else below 0.

    Args:
        array: ``(slices, rows, columns)``, finite.
    """
    rim = np.concatenate([array[:, [0, -1], :].ravel(), array[:, :, [0, -1]].ravel()])
    return bool(
        abs(float(np.median(rim)) - AIR_HU) < _AIR_WITHIN_HU
        and ((array > _NO_TISSUE_HU) & (array < _FAT_BELOW_HU)).mean() > _SOME
        and (array > 0).mean() > _SOME
    )


def may_be_hounsfield(array: npt.NDArray[Any]) -> bool:
    """Whether values could be Hounsfield units, though no air lies around: a crop of a CT has some of air or lung, fat
    below 0, and much of its tissue just above.

    An MR that was padded far below 0 has no fat there.

    Args:
        array: ``(slices, rows, columns)``, finite.
    """
    fat = (array > _NO_TISSUE_HU) & (array < _FAT_BELOW_HU)
    tissue = (array >= _FAT_BELOW_HU) & (array < -_NO_TISSUE_HU)
    return bool(array.min() < 0.5 * AIR_HU and fat.mean() > _SOME and tissue.mean() > 20 * _SOME)


def checked_hounsfield(
    name: str, modality: str, array: npt.NDArray[Any], padding: BoolArray | None = None
) -> tuple[npt.NDArray[Any], list[str]]:
    """Check that values lie where Hounsfield units do, and take padding far below air as air.

    A crop without air is legal, and so is one without fat. What no scanner gives in HU: nothing below 0; a body at
    1000 and nothing at -1000, where the rescale intercept was not applied; a range as narrow as that of values scaled
    to -1 and 1; a background of 0, which is water.

    Args:
        name: Of the file, for messages.
        modality: As the list has it; values of a CBCT are taken, with a note that they are not calibrated.
        array: ``(slices, rows, columns)``, finite.
        padding: Where the file says that a voxel holds nothing.

    Returns:
        The array, a copy of it where padding became air, and what the user should know.

    Raises:
        DataError: The values are no Hounsfield units; the message says what they look like.
    """
    nothing = array < _BELOW_AIR_HU
    if padding is not None:
        nothing |= padding & ((array < AIR_HU) | (array > _ABOVE_BONE_HU))
    rest = array[~nothing] if nothing.any() else array.ravel()
    if rest.size == 0:
        raise _no_hounsfield(name, modality, f"holds nothing above {_BELOW_AIR_HU:g}", "check the file")
    if rest.min() >= 0:
        highest = float(rest.max())
        if highest <= 255:
            kind = "a picture of 8 bits" if highest > 1 else "values scaled to 0 and 1"
            raise _no_hounsfield(name, modality, f"has none below 0, like {kind}", "give the CT before it")
        raise _no_hounsfield(name, modality, "has none below 0", "correct the modality or apply the rescale intercept")
    sample = rest[:: max(1, rest.size // 200_000)]
    low, high = (float(value) for value in np.percentile(sample, (0.1, 99.9)))
    if high - low < _NARROWEST_HU:
        raise _no_hounsfield(
            name, modality, f"has values from {low:.3g} to {high:.3g}, as after scaling", "give the CT before it"
        )
    if (rest > _NO_TISSUE_HU).mean() < _SOME:
        raise _no_hounsfield(
            name, modality, f"has no tissue, nothing above {_NO_TISSUE_HU:g}", "apply the rescale intercept once"
        )
    _check_place(name, modality, rest)
    _check_background(name, modality, array, nothing)
    notes = [f"the values of {name} are those of a CBCT, whose HU are not calibrated"] if modality == "CBCT" else []
    if not nothing.any():
        return array, notes
    array = array.astype(np.float32)
    array[nothing] = AIR_HU
    return array, notes


def _check_place(name: str, modality: str, rest: npt.NDArray[Any]) -> None:
    """Check that tissue lies where it must: in a CT without its intercept all of it is at 1000, and air at 0."""
    # A background of one value may be padding of any height; whatever it is, it tells nothing of air.
    lowest = rest.min()
    lying = rest[rest > lowest] if (rest == lowest).mean() > 0.001 else rest
    if lying.size == 0:
        return
    dense = lying > _BONE_HU
    shifted = (lying > _SHIFTED_HU[0]) & (lying < _SHIFTED_HU[1])
    # Bone spreads widely and has tissue around it; what is shifted has a narrow body, and air where water should be.
    if (lying < _NO_TISSUE_HU).mean() < 0.01 and dense.mean() > 0.1 and shifted.sum() > 0.6 * dense.sum():
        raise _no_hounsfield(
            name,
            modality,
            f"has its body at {np.median(lying[shifted]):.0f} and no air at -1000",
            "apply the rescale intercept, most often -1024",
        )


def _check_background(name: str, modality: str, array: npt.NDArray[Any], nothing: BoolArray) -> None:
    """Check that a background of one value is air: 0 is water, and that of pictures in 0 to 255 and of masked scans."""
    border = np.zeros(array.shape, dtype=bool)
    border[:, [0, -1], :] = border[:, :, [0, -1]] = True
    around = array[border & ~nothing]
    if around.size == 0:
        return
    values, counts = np.unique(around, return_counts=True)
    background, share = float(values[counts.argmax()]), counts.max() / around.size
    low, high = float(array.min()), float(array.max())
    signed = low == background == -128.0 and high <= 127.0
    if (background > -50.0 or signed) and share > 0.5 and (array == background).mean() > 0.05:
        what = "as in a picture of 8 bits" if signed or (low >= -50 and high <= 255) else "where air is -1000"
        raise _no_hounsfield(
            name, modality, f"has a background of {background:g}, {what}", "give the CT as the scanner made it"
        )


def _no_hounsfield(name: str, modality: str, why: str, what_to_do: str) -> DataError:
    return DataError(f"`image` must be in Hounsfield units for modality {modality}; {name} {why}; {what_to_do}")
