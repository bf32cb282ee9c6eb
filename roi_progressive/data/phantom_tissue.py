"""What each tissue of the phantom looks like: its grey level by phase in CT and in MR, and its texture in both.

A tissue has one texture ``t`` (zero mean, unit variance, skewed to the bright side). CT shows it linearly. MR shows it
through the tissue's own curve, which in most turns round: over one part of the range the MR brightens with the CT, over
the rest it darkens, and the types of lesion do so in opposite senses. No monotonic grey-level map, and no flat paint,
gets it right. What a grey value alone leaves open, its surroundings decide: each image still determines the other.

All numbers are grey levels of 0 to 255. They are frozen: change one and ``PHANTOM_VERSION`` must go up.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import ndimage  # type: ignore[import-untyped, unused-ignore]

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
    "fat": Tissue((42, 44, 40), (205, 208, 202), 3, ((-2, 6), (2, -6))),
    "muscle": Tissue((122, 128, 116), (92, 98, 86), 4, ((-2, -8), (0, 6), (2, -8))),
    "bone": Tissue((240, 240, 238), (45, 45, 42), 4, ((-2, 6), (2, -6))),
    "marrow": Tissue((186, 190, 182), (128, 134, 122), 8, ((-2, 14), (0, -8), (2, 14))),
    "cord": Tissue((100, 102, 98), (160, 164, 156)),
    "aorta": Tissue((248, 206, 120), (236, 196, 34)),
    "cava": Tissue((132, 200, 120), (70, 190, 38)),
    "cortex": Tissue((226, 206, 116), (188, 196, 96), 5, ((-2, 9), (2, -9))),
    "medulla": Tissue((140, 196, 114), (104, 182, 72), 5, ((-2, -9), (2, 9))),
    "spleen": Tissue((192, 184, 128), (168, 160, 78), 6, ((-2, -12), (0, 8), (2, -12))),
    "pancreas": Tissue((158, 146, 118), (150, 140, 112), 8, ((-2, -10), (0, 8), (2, -10))),
    "stomach": Tissue((98, 100, 96), (58, 60, 56), 6, ((-2, 10), (2, -10))),
    "air": Tissue((4, 4, 4), (6, 6, 6)),
    "liver": Tissue((148, 172, 138), (124, 142, 116), 5, ((-2, 10), (2, -10))),
    "vessel": Tissue((164, 218, 118), (90, 196, 62)),
    "hypodense": Tissue((126, 146, 118), (188, 200, 180), 15, ((-1.7, 26), (0.8, -22), (2.8, 2))),
    "rim": Tissue((172, 200, 158), (76, 84, 70), 8, ((-1.7, 16), (2.8, -24))),
    "necrosis": Tissue((122, 140, 114), (178, 188, 170), 14, ((-1.7, -18), (-0.9, -26), (2.0, 30), (2.8, 14))),
    "cyst": Tissue((108, 122, 102), (212, 218, 206), 11, ((-1.7, -24), (0.8, 22), (2.8, 0))),
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
