"""Contours of a DICOM RTSTRUCT file as a mask.

Read with pydicom and filled by scikit-image. The libraries that do both were not taken: rt-utils (last release 2023)
installs a top-level package ``tests`` and reads contours only over a DICOM series, platipy wants a pydicom below 3
and a web server beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .medical_packages import pydicom
from .preprocessing import BoolArray

_PLANE_TOLERANCE = 0.25
"""How far from a slice a contour may lie, in slice distances."""


def contour_mask(region: str, path: Path, contour: str, grid: Any) -> BoolArray:
    """Fill the closed planar contours of one structure.

    A voxel belongs to it when its centre lies inside; where contours of one slice lie in each other, the inner
    one is a hole (even-odd rule, as DICOM PS3.3 C.8.8.6 has it for CLOSED_PLANAR_XOR).

    Args:
        region: Column of the list, for messages.
        path: The RTSTRUCT file.
        contour: Name of the structure (ROI Name), as written in the file.
        grid: SimpleITK image as stored, whose slices the contours were drawn on.

    Returns:
        Boolean ``(slices, rows, columns)`` on the grid.

    Raises:
        DataError: The file is missing, damaged or no RTSTRUCT; it has no such structure; the structure has no closed
            contour; a contour does not lie in a slice of the image, or lies wholly outside it.
    """
    from skimage import draw

    polygon: Any = draw.polygon
    columns, rows, slices = grid.GetSize()
    mask = np.zeros((slices, rows, columns), dtype=bool)
    for points_mm in _closed_contours(region, path, contour):
        at = np.array([grid.TransformPhysicalPointToContinuousIndex(point) for point in points_mm.tolist()])
        index = round(float(at[:, 2].mean()))
        if np.abs(at[:, 2] - index).max() > _PLANE_TOLERANCE:
            raise DataError(
                f"`{region}` must be drawn on the slices of its image; contours of {contour!r} in {path.name} lie "
                f"between them; give the series they were drawn on"
            )
        if 0 <= index < slices:
            inside = np.zeros((rows, columns), dtype=bool)
            inside[polygon(at[:, 1], at[:, 0], inside.shape)] = True
            mask[index] ^= inside
    if not mask.any():
        raise DataError(
            f"`{region}` must overlap its image; contours of {contour!r} in {path.name} hold none of its voxels; "
            f"check that they belong together"
        )
    return mask


def _closed_contours(region: str, path: Path, contour: str) -> Iterator[npt.NDArray[np.float64]]:
    """Points of each contour, ``(points, 3)`` in millimetres (x to the left, y to the back, z to the head)."""
    content, numbers = _structures(region, path)
    number = _number_of(region, path.name, contour, numbers)
    items = [item for item in content.get("ROIContourSequence", []) if item.get("ReferencedROINumber") == number]
    drawn = [one for item in items for one in item.get("ContourSequence", [])]
    closed = [one for one in drawn if str(one.get("ContourGeometricType", "")).startswith("CLOSED")]
    if not closed:
        raise DataError(
            f"`{region}` must be drawn with closed contours; {contour!r} in {path.name} has none; leave the cell empty"
        )
    for one in closed:
        values = np.asarray([float(value) for value in one.get("ContourData", [])])
        if values.size < 9 or values.size % 3 or not np.isfinite(values).all():
            raise DataError(
                f"`{region}` must be drawn with contours of three points or more; {contour!r} in {path.name} has one "
                f"of {values.size / 3:g}; repair it"
            )
        yield values.reshape(-1, 3)


def _structures(region: str, path: Path) -> tuple[Any, dict[str, list[Any]]]:
    """The file's content, and the numbers of its structures by name."""
    dicom = pydicom()
    try:
        content = dicom.dcmread(path)
    except OSError as error:
        raise DataError(f"`{region}` cannot be opened: {path.name}: {error.strerror}") from error
    except Exception as error:  # what pydicom raises on damaged bytes depends on where they are damaged
        raise DataError(f"`{region}` cannot be read: {path.name} is damaged or no DICOM file") from error
    if str(content.get("Modality", "")) != "RTSTRUCT":
        raise DataError(
            f"`{region}` must name a contour of an RTSTRUCT file; {path.name} is of modality "
            f"{content.get('Modality', 'unknown')}; check the path"
        )
    numbers: dict[str, list[Any]] = {}
    for item in content.get("StructureSetROISequence", []):
        numbers.setdefault(str(item.get("ROIName", "")).strip(), []).append(item.get("ROINumber"))
    return content, numbers


def _number_of(region: str, name: str, contour: str, numbers: dict[str, list[Any]]) -> Any:
    found = numbers.get(contour, [])
    if len(found) == 1:
        return found[0]
    if found:
        raise DataError(
            f"`{region}` must name one contour; {name} has {len(found)} called {contour!r}; rename them in the file"
        )
    near = difflib.get_close_matches(contour, numbers, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(map(repr, numbers)) or 'none'}"
    raise DataError(f"`{region}` must name a contour of its file; {name} has no {contour!r}; {hint}")
