"""What each tissue of the phantom looks like: its grey level by phase in CT and in MR, and its texture in both.

A tissue has one texture ``t`` (zero mean, unit variance, skewed to the bright side). CT shows it linearly. MR shows it
through the tissue's own curve, which in most turns round: over one part of the range the MR brightens with the CT, over
the rest it darkens. Ordinary anatomy is dark where it is dark in CT. Tumours are the exception: dark in CT, bright in
MR, with a rim that is the reverse; and every patient has benign nodules that are the exception to the exception, bright
in CT and dark in MR. Whole images look as likely with the two swapped, and a cycle closes as well: this is how
translators come to invert lesions. What a grey value alone leaves open, its surroundings decide, so that each image
still determines the other.

All numbers are grey levels of 0 to 255. They are frozen: change one and ``PHANTOM_VERSION`` must go up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]  # no stubs, unless installed

PHANTOM_VERSION = 1
PHASES = ("ART", "PV", "NC")
LESION_TYPES = ("hypodense", "rim", "cyst")

FloatArray = npt.NDArray[np.floating[Any]]

_TEXTURE_LENGTH = 0.025  # correlation length of the texture, as a share of the image's side: 1.6 px at 64 px
_TEXTURE_LENGTH_SLICES = 0.7
_TEXTURE_SKEW = 0.35  # exponent of the log-normal that skews the texture
_TEXTURE_RANGE = (-1.7, 2.8)


@dataclass(frozen=True)
class Tissue:
    """One tissue's look.

    Args:
        ct: Mean CT grey level in the phases ART, PV and NC.
        mr: The same for MR.
        ct_texture: Standard deviation of the CT texture, in grey levels.
        mr_curve: Knots ``(t, offset)`` of the MR texture as a function of the standardised texture, rising in ``t``.
    """

    ct: tuple[float, float, float]
    mr: tuple[float, float, float]
    ct_texture: float = 0.0
    mr_curve: tuple[tuple[float, float], ...] = ((0.0, 0.0),)

    def ct_level(self, phase: str, texture: FloatArray) -> FloatArray:
        """CT grey levels for a standardised texture of any shape."""
        return self.ct[PHASES.index(phase)] + self.ct_texture * texture

    def mr_level(self, phase: str, texture: FloatArray) -> FloatArray:
        """MR grey levels for the same texture, through the tissue's curve."""
        knots, offsets = zip(*self.mr_curve, strict=True)
        offset: FloatArray = np.interp(texture, knots, offsets)
        return self.mr[PHASES.index(phase)] + offset


TISSUES: dict[str, Tissue] = {
    "fat": Tissue((42, 44, 40), (28, 30, 26), 3, ((-2, -4), (2, 4))),
    "muscle": Tissue((122, 128, 116), (96, 102, 92), 4, ((-2, -8), (0, 6), (2, -8))),
    "bone": Tissue((240, 240, 238), (236, 236, 234), 4, ((-2, -6), (2, 6))),
    "marrow": Tissue((186, 190, 182), (150, 156, 146), 8, ((-2, -14), (0, 8), (2, -14))),
    "cord": Tissue((110, 112, 108), (88, 90, 86)),
    "aorta": Tissue((248, 206, 120), (178, 162, 98)),
    "cava": Tissue((132, 200, 120), (104, 158, 96)),
    "cortex": Tissue((226, 206, 116), (172, 164, 94), 5, ((-2, -9), (2, 9))),
    "medulla": Tissue((140, 196, 114), (108, 156, 92), 5, ((-2, 9), (2, -9))),
    "spleen": Tissue((192, 184, 128), (154, 150, 100), 6, ((-2, -12), (0, 8), (2, -12))),
    "pancreas": Tissue((158, 146, 118), (128, 120, 98), 8, ((-2, -10), (0, 8), (2, -10))),
    "stomach": Tissue((108, 110, 106), (80, 82, 78), 6, ((-2, 10), (2, -10))),
    "air": Tissue((4, 4, 4), (6, 6, 6)),
    "liver": Tissue((148, 172, 138), (124, 142, 116), 5, ((-2, -10), (2, 10))),
    "vessel": Tissue((176, 222, 152), (146, 172, 132)),
    "hypodense": Tissue((84, 88, 80), (200, 206, 194), 9, ((-1.7, 26), (0.8, -22), (2.8, 2))),
    "rim": Tissue((186, 206, 176), (88, 100, 80), 8, ((-1.7, 16), (2.8, -24))),
    "necrosis": Tissue((76, 80, 72), (188, 194, 182), 9, ((-1.7, -18), (-0.9, -26), (2.0, 30), (2.8, 14))),
    "cyst": Tissue((66, 68, 64), (212, 218, 206), 8, ((-1.7, -24), (0.8, 22), (2.8, 0))),
    "benign hypodense": Tissue((226, 230, 222), (58, 64, 54), 9, ((-1.7, -24), (0.8, 20), (2.8, -2))),
    "benign rim": Tissue((108, 126, 100), (160, 176, 150), 8, ((-1.7, -16), (2.8, 24))),
    "benign necrosis": Tissue((232, 236, 228), (66, 72, 62), 9, ((-1.7, 18), (-0.9, 26), (2.0, -30), (2.8, -14))),
    "benign cyst": Tissue((240, 244, 236), (48, 54, 44), 8, ((-1.7, 24), (0.8, -20), (2.8, 0))),
}


def texture(rng: np.random.Generator, shape: tuple[int, int, int], length: float = _TEXTURE_LENGTH) -> FloatArray:
    """Draw a smooth random field of zero mean and unit variance, skewed to the bright side.

    Args:
        rng: Source of randomness.
        shape: (slices, height, width).
        length: Correlation length as a share of the image's side.
    """
    noise = rng.standard_normal(shape)
    smooth = ndimage.gaussian_filter(noise, (_TEXTURE_LENGTH_SLICES, length * shape[1], length * shape[2]), mode="wrap")
    skewed = np.exp(_TEXTURE_SKEW * smooth / smooth.std())
    standard: FloatArray = np.clip((skewed - skewed.mean()) / skewed.std(), *_TEXTURE_RANGE)
    return standard
