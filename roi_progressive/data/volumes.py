"""Reading volumes and masks, and bringing them onto one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .contours import contour_mask
from .dicom_series import read_series
from .medical_packages import simpleitk
from .nifti_check import check_finite, check_nifti
from .preprocessing import BACKGROUND, BoolArray, FloatArray
from .volume_list import MaskFile, VolumeRow

ORIENTATION = "LPS"
"""Columns run to the patient's left, rows to the back, slices to the head: pictures are upright and axial."""


@dataclass(frozen=True)
class Volume:
    """An image in LPS orientation.

    Args:
        image: The SimpleITK image; carries the grid.
        array: Its voxels, float32 ``(slices, rows, columns)``.
        masks: A boolean array on the same grid for each region the volume has a mask of.
        series: UID of the DICOM series it was read from.
    """

    image: Any
    array: FloatArray
    masks: dict[str, BoolArray]
    series: str | None = None

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of slices, of rows and of columns."""
        columns, rows, slices = self.image.GetSpacing()
        return float(slices), float(rows), float(columns)


def read_volume(row: VolumeRow) -> Volume:
    """Read a row's image and masks, masks resampled (nearest) onto the image's grid through the affines.

    The image is a volume file or a folder with a DICOM series; a mask a volume file or contours of an RTSTRUCT file.

    Raises:
        DataError: A file is missing, unreadable, not three-dimensional or not finite; a DICOM series is of another
            modality or has gaps; a mask is empty or does not overlap the image; the values of a CT are no Hounsfield
            units.
    """
    series: str | None = None
    if row.image.is_dir():
        stored, series = read_series(row.image, row.modality)
    else:
        stored = _read_file("image", row.image)
    image = simpleitk().DICOMOrient(stored, ORIENTATION)
    array = simpleitk().GetArrayFromImage(image).astype(np.float32)
    check_finite("image", row.image.name, array)
    if row.modality == "CT" and array.min() >= 0:
        raise DataError(
            f"`image` must be in Hounsfield units for modality CT; {row.image.name} has none below 0; "
            f"correct the modality or apply the rescale intercept"
        )
    masks = {region: _read_mask(region, file, image, stored) for region, file in row.masks.items()}
    return Volume(image, array, masks, series)


def _read_mask(region: str, file: MaskFile, grid: Any, stored: Any) -> BoolArray:
    """``grid`` is the image in LPS orientation, ``stored`` the image as its file has it."""
    sitk = simpleitk()
    if file.contour is not None:
        drawn = sitk.GetImageFromArray(contour_mask(region, file.path, file.contour, stored).astype(np.uint8))
        drawn.CopyInformation(stored)
        return np.asarray(sitk.GetArrayFromImage(sitk.DICOMOrient(drawn, ORIENTATION)) > 0)
    image = sitk.DICOMOrient(_read_file(region, file.path), ORIENTATION)
    values = sitk.GetArrayFromImage(image)
    check_finite(region, file.path.name, values)
    chosen = np.isin(values, file.labels) if file.labels else values > 0
    if not chosen.any():
        label = f"of label {'+'.join(map(str, file.labels))}" if file.labels else "above zero"
        raise DataError(
            f"`{region}` must mark a region; {file.path.name} has no voxel {label}; leave the cell empty if so"
        )
    mask = sitk.GetImageFromArray(chosen.astype(np.uint8))
    mask.CopyInformation(image)
    on_grid = resample_mask(mask, grid)
    if not on_grid.any():
        raise DataError(f"`{region}` must overlap its image; {file.path.name} lies outside of it; check its affine")
    return on_grid


def _read_file(what: str, path: Path) -> Any:
    sitk = simpleitk()
    # The reader's own message names its source files and spans lines; a missing file is told apart first.
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DataError(f"`{what}` cannot be opened: {path.name}: {error.strerror}") from error
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        why = "is damaged or no NIfTI or other volume format"
        if "orthonormal" in str(error):
            why = "has axes that are not at right angles; resample it first"
        raise DataError(f"`{what}` cannot be read: {path.name} {why}") from error
    check_nifti(what, path)
    if "complex" in image.GetPixelIDTypeAsString():
        raise DataError(f"`{what}` must have real values; those of {path.name} are complex; take their magnitude")
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        size = " x ".join(str(length) for length in image.GetSize())
        raise DataError(
            f"`{what}` must be three-dimensional with one value a voxel; {path.name} is {size} with "
            f"{image.GetNumberOfComponentsPerPixel()}; extract one volume"
        )
    return image


def resample_mask(mask: Any, grid: Any) -> BoolArray:
    """A SimpleITK mask on another image's grid, nearest neighbour; false beyond the mask's field."""
    sitk = simpleitk()
    on_grid = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(on_grid) > 0)


def align_to(volume: Volume, scaled: FloatArray, grid: Any) -> tuple[FloatArray, dict[str, BoolArray], BoolArray]:
    """Bring a normalised volume and its masks onto another image's grid through the affines.

    Args:
        volume: The volume whose grid ``scaled`` and the masks are on.
        scaled: Its voxels in [-1, 1].
        grid: The SimpleITK image to align with.

    Returns:
        The voxels (linear interpolation, -1 beyond the volume's field), the masks (nearest), and the field
        itself: true where the volume has voxels.
    """
    sitk = simpleitk()

    def like_volume(array: Any) -> Any:
        image = sitk.GetImageFromArray(array)
        image.CopyInformation(volume.image)
        return image

    moved = sitk.Resample(like_volume(scaled), grid, sitk.Transform(), sitk.sitkLinear, BACKGROUND)
    masks = {region: resample_mask(like_volume(mask.astype(np.uint8)), grid) for region, mask in volume.masks.items()}
    field = resample_mask(like_volume(np.ones(scaled.shape, np.uint8)), grid)
    voxels = np.clip(sitk.GetArrayFromImage(moved), -1.0, 1.0).astype(np.float32)
    return voxels, masks, field
