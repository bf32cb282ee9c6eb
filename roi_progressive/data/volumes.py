"""Reading volumes and masks, and bringing them onto one grid."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, kind_and_line
from .contours import contour_mask
from .dicom_files import SEGMENTATIONS, class_of, is_dicom, read_named
from .dicom_series import read_series
from .hounsfield import AIR_HU, checked_hounsfield, looks_like_hounsfield, may_be_hounsfield
from .mask_values import marked
from .medical_packages import simpleitk
from .mr_background import background_value, without_padding
from .multiframe import read_multiframe
from .nifti import check_finite, is_nifti, read_nifti
from .preprocessing import BACKGROUND, BoolArray, FloatArray
from .segmentation import read_segment
from .stored_volume import DicomOrigin, Grid, StoredVolume, corners_mm, straight_stack
from .volume_list import MaskFile, VolumeRow

ORIENTATION = "LPS"
"""Columns run to the patient's left, rows to the back, slices to the head: pictures are upright and axial."""

_DICOM_MODALITY = {
    **dict.fromkeys(("CT", "CBCT"), "CT"),
    **dict.fromkeys(("MR", "MRI", "T1", "T1C", "T1CE", "T1GD", "T2", "FLAIR", "PD", "DWI", "ADC", "SWI"), "MR"),
    **dict.fromkeys(("PET", "PT"), "PT"),
}
"""What the DICOM files of a modality call themselves; files of others are taken whatever they say."""
_WITHOUT_PLACE = ("PNGImageIO", "TIFFImageIO", "JPEGImageIO", "BMPImageIO", "LSMImageIO", "GiplImageIO", "RawImageIO")
"""Formats that hold no voxel size and no orientation."""
_MOST_BEYOND = 0.02
"""So much of a mask may lie beyond its image without a word: at its borders grids round."""
_SAME_PLACE = 0.25
"""Two grids are one where no voxel is farther from its place, in its shortest side: headers round."""


@dataclass(frozen=True)
class Volume:
    """An image in LPS orientation.

    Args:
        image: The SimpleITK image; carries the grid.
        array: Its voxels, float32 ``(slices, rows, columns)``.
        masks: A boolean array on the same grid for each region the volume has a mask of.
        series: UID of the DICOM series it was read from.
        frame_of_reference: UID of the coordinate system its DICOM files name.
        notes: What the user should know of it, one line each.
        stored: The grid of its file, in whatever orientation; of a tilted series that of the straightened stack.
        looks_like_hounsfield: Whether its values are not said to be HU, and look as if they were.
        may_be_hounsfield: Whether they are not said to be HU, and could be.
    """

    image: Any
    array: FloatArray
    masks: dict[str, BoolArray]
    series: str | None = None
    frame_of_reference: str | None = None
    notes: tuple[str, ...] = ()
    stored: Grid | None = None
    looks_like_hounsfield: bool = False
    may_be_hounsfield: bool = False

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance of slices, of rows and of columns."""
        columns, rows, slices = self.image.GetSpacing()
        return float(slices), float(rows), float(columns)


def read_volume(row: VolumeRow) -> Volume:
    """Read a row's image and masks, masks resampled (nearest) onto the image's grid through the affines.

    The image is a volume file, a multi-frame DICOM file or a folder with a DICOM series; a mask a volume file, contours
    of an RTSTRUCT file or a segment of a DICOM SEG file.

    Raises:
        DataError: A file is missing, unreadable, not three-dimensional or not finite; nothing says where its voxels
            lie, or it contradicts itself; a series is of another modality, or no stack of one volume; a mask is empty
            or does not overlap the image; values that should be Hounsfield units are none.
    """
    try:
        return _read_volume(row)
    except (DataError, MemoryError):
        raise
    except Exception as error:  # a damaged file may upset its library anywhere; it must not end the others
        raise DataError(
            f"`image` cannot be read: {row.image.name} is damaged or of a rare kind ({kind_and_line(error)}); export "
            f"it again"
        ) from error


def _read_volume(row: VolumeRow) -> Volume:
    stored = _read_image(row)
    check_finite("image", row.image.name, stored.array)
    notes = list(stored.notes)
    suspect = not row.in_hounsfield and looks_like_hounsfield(stored.array)
    doubtful = not row.in_hounsfield and may_be_hounsfield(stored.array)
    if row.in_hounsfield:
        values, more = checked_hounsfield(row.image.name, row.modality, stored.array, stored.padding)
        notes += more
        fill = AIR_HU
    else:
        if suspect:
            notes.append(
                f"{row.image.name} looks like a CT in HU but was scaled by percentiles, as {row.modality} is not said "
                f"to be in HU; if it is, prepare with --in-hu {row.modality}"
            )
        values = without_padding(stored.array, stored.padding)
        fill = background_value(values) if stored.grid.drift_px is not None else 0.0
    values, grid = straight_stack(values, stored.grid, fill)
    as_stored = grid.image(values)
    del values
    origin = stored.origin
    del stored
    image = simpleitk().DICOMOrient(as_stored, ORIENTATION)
    array = simpleitk().GetArrayFromImage(image).astype(np.float32, copy=False)
    masks = {
        region: _read_mask(region, file, _Target(row.image.name, image, as_stored, origin), notes)
        for region, file in row.masks.items()
    }
    series, frame = (None, None) if origin is None else (origin.series, origin.frame_of_reference)
    return Volume(image, array, masks, series, frame, tuple(notes), grid, suspect, doubtful)


def dicom_modality(name: str, in_hounsfield: bool) -> str | None:
    """What the DICOM files of a modality call themselves; ``None`` where any will do.

    Args:
        name: As the list has it, e.g. ``FLAIR``.
        in_hounsfield: Whether its values are HU.
    """
    return _DICOM_MODALITY.get(name.upper(), "CT" if in_hounsfield else None)


def _read_image(row: VolumeRow) -> StoredVolume:
    modality = dicom_modality(row.modality, row.in_hounsfield)
    if row.image.is_dir():
        return read_series(row.image, modality)
    if is_dicom(row.image) or row.image.suffix.lower() == ".dcm":
        return read_multiframe(row.image, read_named("image", row.image), modality)
    return _read_file("image", row.image)


def read_unchanged(what: str, path: Path) -> StoredVolume:
    """A volume file as it is: its place is checked, its values are not.

    Args:
        what: The argument it was given as, for messages.
        path: A NIfTI, NRRD or MHA file.

    Raises:
        DataError: It cannot be read, or nothing says where its voxels lie.
    """
    return _read_file(what, path)


@dataclass(frozen=True)
class _Target:
    """The image that masks are brought onto: its name, in LPS orientation, and as its file has it."""

    name: str
    image: Any
    as_stored: Any
    origin: DicomOrigin | None


def _read_mask(region: str, file: MaskFile, target: _Target, notes: list[str]) -> BoolArray:
    sitk = simpleitk()
    if file.contour is not None or is_dicom(file.path):
        content = read_named(region, file.path)
        name = file.contour if file.contour is not None else file.choice
        if str(class_of(content)) not in SEGMENTATIONS:
            filled = contour_mask(region, file.path, name, target.as_stored, target.origin, notes)
            drawn = sitk.GetImageFromArray(filled.astype(np.uint8))
            drawn.CopyInformation(target.as_stored)
            return np.asarray(sitk.GetArrayFromImage(sitk.DICOMOrient(drawn, ORIENTATION)) > 0)
        stored = read_segment(region, file.path, name, target.origin)
        labels: tuple[int, ...] = ()
    else:
        stored, labels = _read_file(region, file.path), file.labels
    check_finite(region, file.path.name, stored.array)
    chosen = marked(region, file.path.name, stored.array, labels)
    as_stored = stored.grid.image(chosen.astype(np.uint8))
    _check_same_place(region, file.path.name, as_stored, target, notes)
    notes += stored.notes
    mask = sitk.DICOMOrient(as_stored, ORIENTATION)
    on_grid = resample_mask(mask, target.image)
    inside = _share_inside(mask, target.image)
    if not on_grid.any() and inside:
        raise DataError(
            f"`{region}` must show on a slice of its image; what {file.path.name} marks lies between them, thinner "
            f"than their distance of {max(target.image.GetSpacing()):.3g} mm; leave the cell empty"
        )
    if not on_grid.any():
        raise DataError(f"`{region}` must overlap its image; {file.path.name} lies outside of it; check its affine")
    if inside < 1 - _MOST_BEYOND:
        notes.append(
            f"{1 - inside:.0%} of what {file.path.name} marks lies beyond {target.name}; check that no slice is missing"
        )
    return on_grid


def _check_same_place(region: str, name: str, mask: Any, target: _Target, notes: list[str]) -> None:
    """Look at a mask that has its image's shape, as a mask of this very image has, but lies elsewhere."""
    image = target.as_stored
    if mask.GetSize() != image.GetSize():
        return
    # The same grid may be stored along other axes.
    oriented = simpleitk().DICOMOrient(mask, ORIENTATION)
    alike = oriented.GetSize() == target.image.GetSize()
    ends = (corners_mm(oriented), corners_mm(target.image)) if alike else (corners_mm(mask), corners_mm(image))
    apart_mm = float(np.linalg.norm(ends[0] - ends[1], axis=1).max())
    if apart_mm <= _SAME_PLACE * min(image.GetSpacing()):
        return
    if all(abs(step - 1) < 1e-6 for step in mask.GetSpacing()) and not any(mask.GetOrigin()):
        raise DataError(
            f"`{region}` cannot be placed: {name} has the shape of its image, {target.name}, but an identity affine, "
            f"as a mask that was saved without one; save it with the image's"
        )
    notes.append(
        f"{name} has the shape of its image, {target.name}, but its affine puts voxels up to {apart_mm:.1f} mm "
        f"elsewhere; the mask was placed by its affine"
    )


def _share_inside(mask: Any, image: Any) -> float:
    """Which share of a mask's voxels has its centre in the field of an image."""
    voxels = simpleitk().GetArrayViewFromImage(mask) > 0
    turn = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    own_turn = np.array(mask.GetDirection()).reshape(3, 3) * np.array(mask.GetSpacing())
    between = np.array(mask.GetOrigin()) - image.GetOrigin()

    def inside(indexes: Any) -> Any:
        at = np.linalg.solve(turn, own_turn @ np.asarray(indexes).T + between[:, None])
        # Not the one half that a voxel reaches beyond its centre, but a hair more: both ends of a field belong to it.
        return ((at > -0.501) & (at < np.array(image.GetSize())[:, None] - 0.499)).all(axis=0)

    # Columns, rows and slices; where all corners of the box around it are inside, so is all of the mask.
    ends = [np.flatnonzero(voxels.any(axis=others))[[0, -1]] for others in ((0, 1), (0, 2), (1, 2))]
    if inside([(i, j, k) for i in ends[0] for j in ends[1] for k in ends[2]]).all():
        return 1.0
    return float(inside(np.argwhere(voxels)[:, ::-1]).mean())


def _read_file(what: str, path: Path) -> StoredVolume:
    # The reader's own message names its source files and spans lines; a missing file is told apart first.
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise DataError(f"`{what}` cannot be opened: {path.name}: {error.strerror}") from error
    if is_nifti(path):
        return read_nifti(what, path)
    sitk = simpleitk()
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        if reader.GetImageIOFromFileName(str(path)) in _WITHOUT_PLACE:
            raise DataError(
                f"`{what}` cannot be placed: {path.name} is a file of pictures, which has no voxel size and no "
                f"orientation; convert the scan itself to NIfTI"
            )
        image = reader.Execute()
    except RuntimeError as error:
        raise DataError(
            f"`{what}` cannot be read: {path.name} is damaged or no NIfTI or other volume format"
        ) from error
    _check_says_its_place(what, path, reader)
    kind = image.GetPixelIDTypeAsString()
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1 or "complex" in kind:
        size = " x ".join(str(length) for length in image.GetSize())
        raise DataError(
            f"`{what}` must be three-dimensional with one value a voxel; {path.name} is {size} with "
            f"{image.GetNumberOfComponentsPerPixel()} of {kind}; extract one volume"
        )
    direction = np.array(image.GetDirection()).reshape(3, 3)
    if np.abs(direction.T @ direction - np.eye(3)).max() > 1e-3:
        raise DataError(
            f"`{what}` cannot be read: {path.name} has axes that are not at right angles; resample it first"
        )
    grid = Grid(image.GetOrigin(), image.GetSpacing(), direction)
    return StoredVolume(sitk.GetArrayFromImage(image), grid)


def _check_says_its_place(what: str, path: Path, reader: Any) -> None:
    """Check that an NRRD or MetaImage file tells where its voxels lie: SimpleITK fills in 1 mm and no turn."""
    ending = path.suffix.lower()
    with open(path, "rb") as file:
        start = file.read(4096)
    lacks = ending in (".nrrd", ".nhdr") and not reader.HasMetaDataKey("NRRD_space")
    lacks |= ending in (".mha", ".mhd") and not (b"ElementSpacing" in start or b"ElementSize" in start)
    if lacks:
        raise DataError(
            f"`{what}` cannot be placed: the header of {path.name} has no voxel size or no space, and none is made up; "
            f"convert it where it was made"
        )


def resample_mask(mask: Any, grid: Any) -> BoolArray:
    """A SimpleITK mask on another image's grid, nearest neighbour; false beyond the mask's field."""
    sitk = simpleitk()
    on_grid = sitk.Resample(mask, grid, sitk.Transform(), sitk.sitkNearestNeighbor, 0)
    return np.asarray(sitk.GetArrayFromImage(on_grid) > 0)


def align_to(
    volume: Volume, scaled: FloatArray, body: BoolArray, grid: Any
) -> tuple[FloatArray, dict[str, BoolArray], BoolArray, BoolArray]:
    """Bring a normalised volume, its masks and its body onto another image's grid through the affines.

    Args:
        volume: The volume whose grid ``scaled`` and the masks are on.
        scaled: Its voxels in [-1, 1].
        body: True where it shows body.
        grid: The SimpleITK image to align with.

    Returns:
        The voxels (linear interpolation, -1 beyond the volume's field), the masks and the body (nearest), and the
        field itself: true where the volume has voxels.
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
    return voxels, masks, resample_mask(like_volume(body.astype(np.uint8)), grid), field
