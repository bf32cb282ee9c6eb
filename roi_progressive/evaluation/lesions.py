"""The lesion audit: does each lesion still stand out from its surroundings, and are there new ones?

A region can score well on average while single lesions are gone or inverted; this counts them one by one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .similarity import check_images

Mask = npt.NDArray[np.bool_]
Outcome = Literal["kept", "lost", "inverted", "unclear"]
Failure = Literal["lost", "inverted", "invented"]

MIN_LESION_PX = 9
MIN_SURROUNDINGS_PX = 9
GAP_PX = 1.0
RING_PX = 5.0
MIN_CONTRAST_GREY = 5.0
SHARE_KEPT = 0.5
BODY_SHARE = 0.05
_DECIMALS = 6  # rounding of sums must not decide at a threshold
_EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)

NO_LESION = f"no lesion of at least {MIN_LESION_PX} px in the slice"
ALL_UNCLEAR = f"every lesion's real contrast is under {MIN_CONTRAST_GREY:g} grey levels"


@dataclass(frozen=True)
class Lesion:
    """One lesion of a slice.

    Args:
        area_px: Its pixels.
        real: Its contrast in the true image, in grey levels; NaN without surroundings.
        fake: Its contrast in the generated image.
        outcome: What became of it.
    """

    area_px: int
    real: float
    fake: float
    outcome: Outcome


@dataclass(frozen=True)
class LesionAudit:
    """The lesions of a slice, and the ``(row, column)`` of each invented one, the clearest first."""

    lesions: tuple[Lesion, ...]
    invented: tuple[tuple[int, int], ...]

    @property
    def n_clear(self) -> int:
        """Lesions with an outcome."""
        return sum(lesion.outcome != "unclear" for lesion in self.lesions)

    def share(self, outcome: Failure) -> float | None:
        """How many, over the clear lesions; ``None`` where there are none. More than 1 can be invented a lesion."""
        if not self.n_clear:
            return None
        if outcome == "invented":
            return len(self.invented) / self.n_clear
        return sum(lesion.outcome == outcome for lesion in self.lesions) / self.n_clear

    @property
    def reason(self) -> str:
        """Why there are no shares."""
        return ALL_UNCLEAR if self.lesions else NO_LESION


def audit_lesions(
    real: npt.NDArray[Any],
    fake: npt.NDArray[Any],
    mask: Mask,
    organ: Mask | None = None,
    min_contrast_grey: float = MIN_CONTRAST_GREY,
) -> LesionAudit:
    """What became of every lesion of a slice.

    A *lesion* is an 8-connected component of the mask of at least 9 px. Its *surroundings* are the pixels more than
    1 px and at most 6 px away from it (Euclidean; the first pixel is mixed of both), outside the whole mask, inside
    the organ; without an organ's mask, inside the body: where the true image lies more than 5 % of its range above
    its minimum, holes filled. Its *contrast* is the mean over the lesion minus the mean over the surroundings, in each
    image. With the contrasts ``c`` in the true and ``g`` in the generated image it is

    - unclear: ``|c| < 5`` grey levels, or fewer than 9 px of surroundings; left out of the shares and counted;
    - kept: ``g / c >= 1/2``;
    - lost: ``-1/2 < g / c < 1/2``;
    - inverted: ``g / c <= -1/2``.

    *Invented* is a place where the generated image shows a lesion and the true one does not, by the same rule. The
    slice's largest clear lesion is the measure: a disc of its area, with a ring at 1 px to 6 px around it, is put
    everywhere where the disc lies wholly, and the ring at least half, inside the organ or body and more than 6 px from
    the mask (so that no real lesion lies in the ring). With the measure's contrast ``c`` in the true image, the
    disc's ``g`` in the generated and ``t`` in the true image, it is invented if ``g / c >= 1/2`` and
    ``t / g < 1/2``. Such places are counted from the largest ``g / c`` down, each where its disc overlaps no disc
    counted before. A structure that is merely elsewhere in the generated image counts too; the organ's mask keeps
    other organs out. A slice without a clear lesion has no measure and no invented ones.

    Contrasts are rounded to a millionth of a grey level. A constant added to an image changes nothing; a gain
    above 0 on both changes nothing if ``min_contrast_grey`` has it too.

    Args:
        real: [H, W], grey levels 0..255.
        fake: The same shape and range.
        mask: The lesions, bool [H, W].
        organ: What they lie in, bool [H, W].
        min_contrast_grey: Under it a lesion is unclear.

    Raises:
        ShapeError: The arrays do not fit each other.

    Example:
        >>> mask = np.zeros((32, 32), dtype=bool)
        >>> mask[12:18, 12:18] = True
        >>> real, fake = np.where(mask, 140.0, 100.0), np.where(mask, 60.0, 100.0)
        >>> [lesion] = audit_lesions(real, fake, mask, organ=np.ones_like(mask)).lesions
        >>> lesion.real, lesion.fake, lesion.outcome
        (40.0, -40.0, 'inverted')
    """
    check_images(real, fake, mask, organ)
    if not mask.any():
        return LesionAudit((), ())
    images = np.array([real, fake], dtype=np.float64)
    inside = body(images[0]) if organ is None else organ
    lesions = tuple(_lesions(images, mask, inside & ~mask, min_contrast_grey))
    clear = [lesion for lesion in lesions if lesion.outcome != "unclear"]
    if not clear:
        return LesionAudit(lesions, ())
    return LesionAudit(lesions, tuple(_invented(images, mask, inside, max(clear, key=lambda lesion: lesion.area_px))))


def body(image: npt.NDArray[np.float64]) -> Mask:
    """Where an image lies more than 5 % of its range above its minimum, holes filled; bool [H, W]."""
    from scipy import ndimage

    low, high = image.min(), image.max()
    background = np.pad(image <= low + BODY_SHARE * (high - low), 1, constant_values=True)
    parts, _ = ndimage.label(background)
    filled: Mask = (parts != parts[0, 0])[1:-1, 1:-1]
    return filled


def _lesions(images: npt.NDArray[np.float64], mask: Mask, outside: Mask, min_contrast_grey: float) -> list[Lesion]:
    from scipy import ndimage

    parts, _ = ndimage.label(mask, structure=_EIGHT_CONNECTED)
    reach = math.ceil(GAP_PX + RING_PX)
    lesions = []
    for number, found in enumerate(ndimage.find_objects(parts), start=1):
        window = tuple(slice(max(side.start - reach, 0), side.stop + reach) for side in found)
        within = parts[window] == number
        area_px = int(within.sum())
        if area_px < MIN_LESION_PX:
            continue
        distance = ndimage.distance_transform_edt(~within)
        ring = (distance > GAP_PX) & (distance <= GAP_PX + RING_PX) & outside[window]
        real, fake = math.nan, math.nan
        if ring.sum() >= MIN_SURROUNDINGS_PX:
            real, fake = (
                round(float(image[window][within].mean() - image[window][ring].mean()), _DECIMALS) for image in images
            )
        lesions.append(Lesion(area_px, real, fake, _outcome(real, fake, min_contrast_grey)))
    return lesions


def _outcome(real: float, fake: float, min_contrast_grey: float) -> Outcome:
    if not abs(real) >= min_contrast_grey:  # NaN too
        return "unclear"
    ratio = fake / real
    if ratio >= SHARE_KEPT:
        return "kept"
    return "inverted" if ratio <= -SHARE_KEPT else "lost"


def _invented(images: npt.NDArray[np.float64], mask: Mask, inside: Mask, measure: Lesion) -> list[tuple[int, int]]:
    from scipy import ndimage

    field = inside & (ndimage.distance_transform_edt(~mask) > GAP_PX + RING_PX)
    radius_px = math.sqrt(measure.area_px / math.pi)
    rows, columns = np.flatnonzero(field.any(axis=1)), np.flatnonzero(field.any(axis=0))
    if not rows.size:
        return []
    top, left = int(rows[0]), int(columns[0])
    window = (slice(top, int(rows[-1]) + 1), slice(left, int(columns[-1]) + 1))
    real, fake, allowed = _disc_contrasts(images[(slice(None), *window)], field[window], radius_px)
    sign = math.copysign(1.0, measure.real)
    wanted = allowed & (sign * fake >= SHARE_KEPT * abs(measure.real)) & (sign * real < SHARE_KEPT * sign * fake)
    places: list[tuple[int, int]] = []
    strength = np.where(wanted, sign * fake, -np.inf)
    ys, xs = np.ogrid[: strength.shape[0], : strength.shape[1]]
    while True:
        y, x = divmod(int(strength.argmax()), strength.shape[1])
        if strength[y, x] == -np.inf:
            return places
        places.append((top + y, left + x))
        strength[(ys - y) ** 2 + (xs - x) ** 2 <= 4.0 * radius_px**2] = -np.inf


def _disc_contrasts(
    images: npt.NDArray[np.float64], field: Mask, radius_px: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], Mask]:
    """Disc minus ring around every pixel, of both images, and where disc and ring lie in the field."""
    from scipy import fft

    reach = math.ceil(radius_px + GAP_PX + RING_PX)
    # Zeros around, so that no ring wraps to the other side.
    shape = tuple(fft.next_fast_len(max(side + reach, 2 * reach + 1)) for side in field.shape)
    kernels, disc_px, ring_px = _kernels(shape, radius_px, reach)
    cut = tuple(slice(side) for side in field.shape)
    # A complex transform carries two real ones: both images here, the counts in disc and in ring there.
    both, space = np.zeros(shape, dtype=np.complex128), np.zeros(shape, dtype=np.complex128)
    both.real[cut], both.imag[cut] = images * field
    space.real[cut] = field
    spectrum = fft.fft2(both, overwrite_x=True)
    space = fft.fft2(space, overwrite_x=True)
    space *= kernels
    counts = fft.ifft2(space, overwrite_x=True)[cut]
    in_disc, in_ring = np.rint(counts.real), np.rint(counts.imag)
    allowed: Mask = (in_disc == disc_px) & (in_ring >= ring_px / 2)
    contrast = fft.ifft2(spectrum * kernels.real, overwrite_x=True)[cut] / disc_px
    spectrum *= kernels.imag
    contrast -= fft.ifft2(spectrum, overwrite_x=True)[cut] / np.maximum(in_ring, 1.0)
    return np.round(contrast.real, _DECIMALS), np.round(contrast.imag, _DECIMALS), allowed


def _kernels(shape: tuple[int, ...], radius_px: float, reach: int) -> tuple[npt.NDArray[np.complex128], int, int]:
    """The spectra of disc and ring around the first pixel, real because both are symmetric, as one; and their sizes."""
    from scipy import fft

    around = np.arange(-reach, reach + 1)
    distance = np.hypot(around[:, None], around)
    disc = distance <= radius_px
    ring = (distance > radius_px + GAP_PX) & (distance <= radius_px + GAP_PX + RING_PX)
    placed = np.zeros(shape, dtype=np.complex128)
    placed[np.ix_(around, around)] = disc + 1j * ring  # negative places wrap to the other side
    return fft.fft2(placed, overwrite_x=True), int(disc.sum()), int(ring.sum())
