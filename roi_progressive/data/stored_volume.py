"""A volume as its file has it: its voxels, and the grid they lie on. Every reader of a format ends here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .medical_packages import simpleitk
from .preprocessing import BoolArray

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Grid:
    """Where voxels lie, in DICOM's millimetres: x to the patient's left, y to the back, z to the head.

    Args:
        origin_mm: The centre of the first voxel.
        spacing_mm: Of columns, rows and slices: the order of a voxel's index ``(column, row, slice)``.
        direction: ``(3, 3)``; its columns are the unit vectors along which these three indices rise.
        drift_px: How far every slice lies aside of the one before it, in rows and in columns, where the slices are no
            straight stack: those of a tilted gantry. ``straight_stack`` takes the drift out.
    """

    origin_mm: tuple[float, float, float]
    spacing_mm: tuple[float, float, float]
    direction: Points
    drift_px: tuple[float, float] | None = None

    def image(self, array: npt.NDArray[Any]) -> Any:
        """Voxels ``(slices, rows, columns)`` as a SimpleITK image on this grid."""
        image = simpleitk().GetImageFromArray(array)
        image.SetOrigin(self.origin_mm)
        image.SetSpacing(self.spacing_mm)
        image.SetDirection(self.direction.ravel().tolist())
        return image


@dataclass(frozen=True)
class DicomOrigin:
    """What DICOM files say of where they come from.

    Args:
        series: UID of the series.
        frame_of_reference: UID of the coordinate system of its positions; ``None`` where the files name none.
        instances: UIDs of the files.
    """

    series: str
    frame_of_reference: str | None
    instances: frozenset[str]


@dataclass(frozen=True)
class StoredVolume:
    """A volume as its file has it.

    Args:
        array: Its values, slope and intercept applied, ``(slices, rows, columns)``.
        grid: Where they lie.
        padding: True where the file says that a voxel holds nothing; ``None`` where it marks none.
        origin: Of a volume that came from DICOM files.
        notes: What the user should know, one line each.
    """

    array: npt.NDArray[Any]
    grid: Grid
    padding: BoolArray | None = None
    origin: DicomOrigin | None = None
    notes: tuple[str, ...] = ()


def straight_stack(array: npt.NDArray[Any], grid: Grid, fill: float) -> tuple[npt.NDArray[Any], Grid]:
    """Move the slices of a tilted stack in their own planes, so that they lie behind each other along their normal.

    No value moves from one slice to another, so that contours drawn on the slices still lie on them.

    Args:
        array: ``(slices, rows, columns)``.
        grid: Theirs.
        fill: What lies where no slice reaches.

    Returns:
        The same slices on a larger field, moved by linear interpolation, and its grid; what was given where the grid
        has no drift.
    """
    if grid.drift_px is None:
        return array, grid
    from scipy import ndimage

    shift: Any = ndimage.shift
    slices = len(array)
    offsets = np.arange(slices)[:, None] * np.array(grid.drift_px)
    first = offsets.min(axis=0)
    offsets = offsets - first
    extra = np.ceil(offsets.max(axis=0)).astype(int)
    moved = np.full((slices, array.shape[1] + extra[0], array.shape[2] + extra[1]), fill, dtype=np.float32)
    for index, plane in enumerate(array):
        wide = np.full(moved.shape[1:], fill, dtype=np.float64)
        wide[: plane.shape[0], : plane.shape[1]] = plane
        moved[index] = shift(wide, offsets[index], order=1, mode="constant", cval=fill)
    columns_mm, rows_mm, _ = grid.spacing_mm
    aside = grid.direction[:, 1] * (first[0] * rows_mm) + grid.direction[:, 0] * (first[1] * columns_mm)
    x, y, z = (np.array(grid.origin_mm) + aside).tolist()
    return moved, Grid((x, y, z), grid.spacing_mm, grid.direction)


def corners_mm(image: Any) -> Points:
    """The centres of a SimpleITK image's eight outermost voxels, ``(8, 3)``."""
    ends = [(0, length - 1) for length in image.GetSize()]
    at = [(column, row, index) for column in ends[0] for row in ends[1] for index in ends[2]]
    return np.array([image.TransformIndexToPhysicalPoint(point) for point in at])
