"""From a patient's volumes to square pictures: normalise, align, choose slices, frame, resize."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..saving.neighbour_slices import neighbour_offsets
from .framing import Square, choose_slices, resize_image, resize_mask, square_around
from .mr_background import body_mask
from .mr_cleaning import correct_bias, denoise_mr
from .options import PrepareOptions
from .preprocessing import (
    BACKGROUND,
    CT_BODY_HU,
    BoolArray,
    FloatArray,
    IntensityMapping,
    ct_mapping,
    foreground_mask,
    mr_mapping,
    to_grey,
)
from .standardise import Landmarks, landmarks_of, standardise
from .volume_list import VolumeRow
from .volumes import Volume, align_to, read_volume

MAIN_REGION = "tumor"
APART_DICE, DOUBTFUL_DICE = 0.5, 0.8
"""Overlap of the bodies of a pair: below the first they are not aligned, below the second perhaps not."""


@dataclass(frozen=True)
class Scan:
    """A normalised volume.

    Args:
        row: Where it came from.
        volume: The volume as read.
        scaled: Its voxels in [-1, 1].
        masks: Its regions on the same grid.
        body: True where there is body.
        mapping: How source values became ``scaled``.
        field: True where the picture has content; of an aligned pair, where both have.
        spacing_mm: Distance of slices, of rows and of columns.
        source_landmarks: Values in the file of the landmarks of ``standardise``, where the MR was standardised.
        borrowed: Regions whose masks are those of the other volume of an aligned pair.
    """

    row: VolumeRow
    volume: Volume
    scaled: FloatArray
    masks: dict[str, BoolArray]
    body: BoolArray
    mapping: IntensityMapping
    field: BoolArray
    spacing_mm: tuple[float, float, float]
    source_landmarks: tuple[float, ...] | None = None
    borrowed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Picture:
    """One slice, ready to be written.

    Args:
        scan: What it was cut from.
        index: Which slice of it.
        pixels: 8-bit grey or float32 in [-1, 1], ``(size_px, size_px)``.
        masks: By region, boolean, of the same shape.
        square: What was cut out.
        neighbours: The slices around it, ``(2 * neighbours, size_px, size_px)`` in the type of ``pixels``; see
            ``neighbour_indices``. None without neighbours.
    """

    scan: Scan
    index: int
    pixels: npt.NDArray[Any]
    masks: dict[str, BoolArray]
    square: Square
    neighbours: npt.NDArray[Any] | None = None

    @property
    def name(self) -> str:
        """``<patient>_<phase>_<slice index>``; the same for both pictures of an aligned pair."""
        return f"{self.scan.row.patient}_{self.scan.row.phase}_{self.index:03d}"


def beside(left: Picture, right: Picture) -> Picture:
    """Two pictures of an aligned pair as one, and their masks likewise, ``(size_px, 2 * size_px)``."""
    masks = {region: np.hstack([mask, right.masks[region]]) for region, mask in left.masks.items()}
    return replace(left, pixels=np.hstack([left.pixels, right.pixels]), masks=masks)


def read_scan(
    row: VolumeRow, options: PrepareOptions, standard: Landmarks | None = None, cleaned: FloatArray | None = None
) -> Scan:
    """Read and normalise the volume of one row.

    Args:
        row: Which.
        options: How.
        standard: What ``fit_standard`` found, to standardise by what is not in HU.
        cleaned: The voxels of an MR as ``cleaned_mr`` gave them, where it was asked before.

    Raises:
        DataError: The volume or a mask cannot be used.
    """
    volume = read_volume(row)
    found = intensities_of(volume, row.in_hounsfield, options, standard, cleaned)
    scaled = found.scaled()
    field = np.ones(scaled.shape, dtype=bool)
    source = None if found.source_landmarks is None else tuple(found.source_landmarks.tolist())
    mapping = found.mapping
    return Scan(row, volume, scaled, volume.masks, found.body, mapping, field, volume.spacing_mm, source)


@dataclass(frozen=True)
class Intensities:
    """The values of a volume, and how they become those of pictures.

    Args:
        values: HU, or what the file holds after cleaning and standardising where these are asked for.
        body: True where there is body.
        mapping: From ``values`` to [-1, 1].
        only_body: Whether all but the body becomes background.
        source_landmarks: Values in the file of the landmarks of ``standardise``, where the MR was standardised.
    """

    values: FloatArray
    body: BoolArray
    mapping: IntensityMapping
    only_body: bool
    source_landmarks: Landmarks | None = None

    def scaled(self, which: int | slice = slice(None)) -> FloatArray:
        """The values in [-1, 1], of the whole volume or of some of its slices."""
        scaled = self.mapping.apply(self.values[which])
        return np.where(self.body[which], scaled, np.float32(BACKGROUND)) if self.only_body else scaled


def intensities_of(
    volume: Volume,
    in_hounsfield: bool,
    options: PrepareOptions,
    standard: Landmarks | None = None,
    cleaned: FloatArray | None = None,
) -> Intensities:
    """How the values of a volume become those of pictures, and where its body is.

    Args:
        volume: Which.
        in_hounsfield: Whether its values are HU.
        options: How.
        standard: What ``fit_standard`` found, to standardise by what is not in HU.
        cleaned: The voxels of an MR as ``cleaned_mr`` gave them, where it was asked before.

    Raises:
        DataError: It shows no body, or one of one value.
    """
    if in_hounsfield:
        body = foreground_mask(volume.array, CT_BODY_HU, min_piece_fraction=0.1)
        return Intensities(volume.array, body, ct_mapping(*options.ct_window), only_body=False)
    array, body = cleaned_mr(volume, options) if cleaned is None else (cleaned, body_mask(volume.array))
    landmarks = None
    if standard is not None:
        landmarks = landmarks_of(array, body)
        array = standardise(array, landmarks, standard)
    percentiles = options.mr_percentiles if "clip" in options.mr_steps else (0.0, 100.0)
    mapping: IntensityMapping = mr_mapping(array, percentiles, body)
    if "zscore" not in options.mr_steps:
        mapping = IntensityMapping(mapping.low, mapping.high)
    return Intensities(array, body, mapping, only_body=True, source_landmarks=landmarks)


def cleaned_mr(volume: Volume, options: PrepareOptions) -> tuple[FloatArray, BoolArray]:
    """An MR after denoising and bias correction, where asked for, and its body.

    Raises:
        DataError: It shows no body.
    """
    array = volume.array
    body = body_mask(array)
    if "denoise" in options.mr_steps:
        array = denoise_mr(array, body)
    if "bias" in options.mr_steps:
        array = correct_bias(array, body, volume.image)
    return array, body


def aligned_pair(first: Scan, second: Scan, notes: list[str]) -> tuple[Scan, Scan]:
    """Bring the volume of B onto the grid of that of A and leave in both only the field they share.

    Beyond the shared field both are -1: a translator must not learn to paint the frame of the other
    scanner's picture. A region that only one of them has a mask of gets that mask in both.

    Args:
        first: Onto whose grid.
        second: What is brought there.
        notes: What the user should know is appended here.

    Raises:
        DataError: The two are of different frames of reference, or they or their bodies do not overlap.
    """
    onto, moving = first.row.modality, second.row.modality
    frames = first.volume.frame_of_reference, second.volume.frame_of_reference
    if None not in frames and frames[0] != frames[1]:
        raise DataError(
            f"`image` must be of the frame of reference of the {onto} it is aligned with; the two are of different "
            f"ones, and nothing says how they lie to each other; register the {moving} to the {onto} first"
        )
    moved, moved_masks, moved_body, field = align_to(second.volume, second.scaled, second.body, first.volume.image)
    if not field.any():
        raise DataError(f"`image` must overlap the {onto} it is aligned with; the two lie apart; check their affines")
    _check_bodies(second.row, onto, first.body & field, moved_body & field, notes)
    found = {**moved_masks, **first.masks}

    def in_field(scan: Scan, scaled: FloatArray, own: dict[str, BoolArray]) -> Scan:
        return replace(
            scan,
            scaled=np.where(field, scaled, np.float32(BACKGROUND)),
            masks={region: {**found, **own}[region] & field for region in found},
            body=first.body & field,
            field=field,
            spacing_mm=first.spacing_mm,
            borrowed=tuple(region for region in found if region not in own),
        )

    return in_field(first, first.scaled, first.masks), in_field(second, moved, moved_masks)


def _check_bodies(row: VolumeRow, onto: str, one: BoolArray, other: BoolArray, notes: list[str]) -> None:
    """Check that the bodies of a pair lie on each other, in the field that both have."""
    overlap = 2.0 * float((one & other).sum()) / max(1, int(one.sum()) + int(other.sum()))
    if overlap < APART_DICE:
        raise DataError(
            f"`image` must show its body where the {onto} it is aligned with has it; they overlap by a Dice of "
            f"{overlap:.2f} in their common field; register the {row.modality} to the {onto} first"
        )
    if overlap < DOUBTFUL_DICE:
        notes.append(
            f"{row}: its body overlaps the {onto}'s by a Dice of {overlap:.2f} only; look at the contact sheet"
        )


def cut_pictures(
    scans: Sequence[Scan],
    regions: Sequence[str],
    options: PrepareOptions,
    notes: list[str],
) -> Iterator[Picture]:
    """Cut the same slices and the same square from one scan, or from the two scans of an aligned pair.

    The slices lie around the one where the main region (``tumor``, else the first column) of the first scan is
    largest; without any mask, around the middle of the body. Every picture gets a mask of every region, all
    false where the scan has none.

    Args:
        scans: One scan, or two on the same grid, that of A first.
        regions: Names of all regions of the data set.
        options: Size, number of slices and field of view.
        notes: What the user should know is appended here.

    Raises:
        DataError: No slice can be used.
    """
    first = scans[0]
    allowed = _allowed_slices(first)
    chosen = _chosen_slices(first, regions, options.slices_each_side, allowed, notes)
    ends = np.flatnonzero(allowed)[[0, -1]]
    inside = [mask[chosen].any(axis=0) for scan in scans for mask in scan.masks.values()]
    marked = np.logical_or.reduce(inside) if inside else np.zeros(first.body.shape[1:], dtype=bool)
    body = np.logical_or.reduce(first.body[chosen])
    square = square_around(body, marked, first.spacing_mm[1:], options.field_of_view_mm)
    if square.cut(marked, 0).sum() < marked.sum():
        notes.append(
            f"{first.row}: a region is larger than the field of view of {options.field_of_view_mm:g} mm and was cut"
        )
    empty = np.zeros(first.body.shape[1:], dtype=bool)
    for scan in scans:
        for index in chosen:
            pixels = picture_pixels(scan.scaled[index], square, options)
            planes = {name: scan.masks[name][index] if name in scan.masks else empty for name in regions}
            masks = {name: resize_mask(square.cut(mask, 0), options.size_px) for name, mask in planes.items()}
            around = [
                picture_pixels(scan.scaled[near], square, options)
                for near in neighbour_indices(index, options.neighbours, int(ends[0]), int(ends[1]))
            ]
            yield Picture(scan, index, pixels, masks, square, np.stack(around) if around else None)


def neighbour_indices(index: int, each_side: int, first: int, last: int) -> list[int]:
    """Which slices are the neighbours of one, from the feet to the head; at either end the last slice repeats.

    Args:
        index: Of the slice itself.
        each_side: How many there are above, and how many below.
        first: The lowest slice there is.
        last: The highest.

    Example:
        >>> neighbour_indices(0, 2, 0, 9)
        [0, 0, 1, 2]
    """
    return [min(max(index + offset, first), last) for offset in neighbour_offsets(each_side)]


def picture_pixels(scaled: FloatArray, square: Square, options: PrepareOptions) -> npt.NDArray[Any]:
    """The pixels of one picture, ``(size_px, size_px)``: 8-bit grey, or float32 in [-1, 1].

    Args:
        scaled: A slice ``(rows, columns)`` in [-1, 1].
        square: What is cut out of it; beyond the slice it is background.
        options: Size and type.
    """
    resized = np.clip(resize_image(square.cut(scaled, BACKGROUND), options.size_px), -1.0, 1.0)
    return to_grey(resized) if options.dtype == "uint8" else resized


def _allowed_slices(scan: Scan) -> npt.NDArray[np.bool_]:
    """Which slices have content: all of a volume, of an aligned pair those that both have."""
    covered = scan.field.sum(axis=(1, 2))
    # A slanted field may touch a slice with a corner only; half of its widest coverage makes a picture.
    allowed: npt.NDArray[np.bool_] = covered >= 0.5 * covered.max()
    return allowed


def _chosen_slices(
    scan: Scan, regions: Sequence[str], each_side: int, allowed: npt.NDArray[np.bool_], notes: list[str]
) -> list[int]:
    order = sorted(regions, key=lambda name: name != MAIN_REGION)
    guide = next((scan.masks[name] for name in order if name in scan.masks), None)
    if guide is None:
        if regions:  # of a list without regions it is said once
            notes.append(f"{scan.row}: has no mask; the slices were taken from the middle of the body")
        levels = np.flatnonzero(allowed & scan.body.any(axis=(1, 2)))
        if not levels.size:
            raise DataError("`image` must show a body; no slice does; check the image")
        middle = np.zeros(len(allowed))
        middle[levels[len(levels) // 2]] = 1
        return choose_slices(middle, each_side, allowed)
    chosen = choose_slices(guide.sum(axis=(1, 2)), each_side, allowed)
    if not chosen:
        raise DataError("the region must lie where both volumes of the pair have voxels; it lies outside; check them")
    return chosen
