"""Contours of a DICOM RTSTRUCT file as a mask.

Read with pydicom and filled by scikit-image. The libraries that do both were not taken: rt-utils (last release 2023)
installs a top-level package ``tests`` and reads contours only over a DICOM series, platipy wants a pydicom below 3
and a web server beside it.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .dicom_files import drawn_names, kind_of, read_named
from .preprocessing import BoolArray
from .stored_volume import DicomOrigin

_PLANE_TOLERANCE = 0.25
"""How far from a slice a contour may lie, in slice distances."""
_XOR = "CLOSEDPLANAR_XOR"
_CLOSED = ("CLOSED_PLANAR", _XOR, "INTERPOLATED_PLANAR", "CLOSEDPLANAR", "CLOSED_PLANAR_XOR")
"""The standard's two, and what some programs write in their place."""

Points = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Contour:
    """A closed line.

    Args:
        kind: Its ContourGeometricType.
        points_mm: ``(points, 3)``, x to the left, y to the back, z to the head.
        images: UIDs of the images it was drawn on, as far as the file says.
    """

    kind: str
    points_mm: Points
    images: frozenset[str]


def contour_mask(
    region: str,
    path: Path,
    contour: str,
    grid: Any,
    origin: DicomOrigin | None = None,
    notes: list[str] | None = None,
) -> BoolArray:
    """Fill the closed planar contours of one structure.

    A voxel belongs to it when its centre lies inside. Contours of one slice are added to each other, whether they
    overlap, touch or are stored twice; one that lies inside another is a hole of it, and one inside that an island.
    Those of type CLOSEDPLANAR_XOR exclude each other, as DICOM PS3.3 C.8.8.6.3 has it.

    Args:
        region: Column of the list, for messages.
        path: The RTSTRUCT file.
        contour: Name of the structure (ROI Name), as written in the file.
        grid: SimpleITK image as stored, whose slices the contours were drawn on.
        origin: Of the image, where it came from DICOM files; contours of another frame of reference are refused.
        notes: What the user should know is appended here.

    Returns:
        Boolean ``(slices, rows, columns)`` on the grid.

    Raises:
        DataError: The file is missing, damaged or no RTSTRUCT; it has no such structure; the structure has no closed
            contour, or was drawn on another scan; a contour does not lie in a slice of the image; none holds a voxel.
    """
    content = _rtstruct(region, path)
    structure = _structure(region, path.name, contour, content)
    notes = [] if notes is None else notes
    drawn = _closed_contours(region, path.name, contour, structure, content, notes)
    _check_frame(region, path.name, contour, structure, content, drawn, origin, notes)
    columns, rows, slices = grid.GetSize()
    mask = np.zeros((slices, rows, columns), dtype=bool)
    by_slice: dict[int, list[tuple[bool, Points]]] = {}
    beyond = 0
    for line in drawn:
        at = np.array([grid.TransformPhysicalPointToContinuousIndex(point) for point in line.points_mm.tolist()])
        index = round(float(at[:, 2].mean()))
        if np.abs(at[:, 2] - index).max() > _PLANE_TOLERANCE:
            raise DataError(
                f"`{region}` must be drawn on the slices of its image; contours of {contour!r} in {path.name} lie "
                f"between them; give the series they were drawn on"
            )
        if 0 <= index < slices:
            by_slice.setdefault(index, []).append((line.kind in (_XOR, "CLOSED_PLANAR_XOR"), at[:, :2]))
        else:
            beyond += 1
    for index, lines in by_slice.items():
        mask[index] = _filled([line for _, line in lines], (rows, columns), xor=any(exclude for exclude, _ in lines))
    if not mask.any():
        raise DataError(
            f"`{region}` must overlap its image; contours of {contour!r} in {path.name} hold none of its voxels; "
            f"check that they belong together"
        )
    if beyond:
        notes.append(
            f"{beyond} of {len(drawn)} contours of {contour!r} in {path.name} lie beyond the image's slices; check "
            f"that none of these is missing"
        )
    _note_gaps(sorted(by_slice), contour, path.name, notes)
    return mask


def closest_name(region: str, name: str, wanted: str, names: Sequence[str], what: str) -> DataError:
    """The error for a name that a file does not have, or has not been given."""
    listed = ", ".join(map(repr, names)) or "none"
    if not wanted:
        example = next(iter(names), "name")
        return DataError(
            f"`{region}` must name a {what} of its DICOM file; {name} has {listed}; write `{name}#{example}`"
        )
    near = difflib.get_close_matches(wanted, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {listed}"
    return DataError(f"`{region}` must name a {what} of its file; {name} has no {wanted!r}; {hint}")


# -- what the file holds -----------------------------------------------------------------------------------------------


def _rtstruct(region: str, path: Path) -> Any:
    content = read_named(region, path)
    if str(content.get("Modality", "")) != "RTSTRUCT":
        raise DataError(
            f"`{region}` must name a contour of an RTSTRUCT file; {path.name} is of modality "
            f"{content.get('Modality', 'unknown')} ({kind_of(content)}); check the path"
        )
    return content


def _structure(region: str, name: str, contour: str, content: Any) -> Any:
    names = drawn_names(content)
    items = content.get("StructureSetROISequence", None) or []
    found = [item for item, own in zip(items, names, strict=True) if own == contour]
    if len(found) == 1 and contour:
        return found[0]
    if found and contour:
        raise DataError(
            f"`{region}` must name one contour; {name} has {len(found)} called {contour!r}; rename them in the file"
        )
    raise closest_name(region, name, contour, names, "contour")


def _closed_contours(
    region: str, name: str, contour: str, structure: Any, content: Any, notes: list[str]
) -> list[Contour]:
    number = structure.get("ROINumber")
    items = [item for item in content.get("ROIContourSequence", []) if item.get("ReferencedROINumber") == number]
    drawn = [line for item in items for line in item.get("ContourSequence", None) or []]
    closed = [line for line in drawn if str(line.get("ContourGeometricType", "")).upper() in _CLOSED]
    if not closed:
        kinds = ", ".join(sorted({str(line.get("ContourGeometricType", "no type")) for line in drawn}))
        raise DataError(
            f"`{region}` must be drawn with closed contours; {contour!r} in {name} has {kinds or 'none'}; leave the "
            f"cell empty"
        )
    if len(closed) < len(drawn):
        notes.append(f"{len(drawn) - len(closed)} open contours or points of {contour!r} in {name} were passed over")
    found, too_short = [], []
    for line in closed:
        try:
            values = np.asarray([float(value) for value in line.get("ContourData", None) or []])
        except (TypeError, ValueError):
            values = np.array([np.nan])
        if values.size % 3 or not np.isfinite(values).all():
            raise DataError(
                f"`{region}` must be drawn with points of three numbers; {contour!r} in {name} has a contour of "
                f"{values.size} numbers, or of none; repair it"
            )
        points = values.reshape(-1, 3)
        if len(np.unique(points.round(4), axis=0)) < 3:
            too_short.append(len(points))
            continue
        images = [item.get("ReferencedSOPInstanceUID", "") for item in line.get("ContourImageSequence", None) or []]
        found.append(Contour(str(line.ContourGeometricType).upper(), points, frozenset(map(str, images))))
    if not found:
        raise DataError(
            f"`{region}` must be drawn with contours of three points or more; {contour!r} in {name} has one of "
            f"{too_short[0]} and no other; repair it"
        )
    if too_short:
        notes.append(
            f"{len(too_short)} contours of {contour!r} in {name} enclose nothing, of {min(too_short)} to "
            f"{max(too_short)} points; they were passed over"
        )
    return found


def _check_frame(
    region: str,
    name: str,
    contour: str,
    structure: Any,
    content: Any,
    drawn: Sequence[Contour],
    origin: DicomOrigin | None,
    notes: list[str],
) -> None:
    """Check that the contours' coordinates are the image's."""
    frame = str(structure.get("ReferencedFrameOfReferenceUID", "") or "")
    if not frame:
        named = content.get("ReferencedFrameOfReferenceSequence", None) or []
        frames = {str(item.get("FrameOfReferenceUID", "") or "") for item in named} - {""}
        frame = frames.pop() if len(frames) == 1 else ""
    if origin is None or origin.frame_of_reference is None or not frame or frame == origin.frame_of_reference:
        return
    # Some programs write a frame of reference of their own; the images that they name are the proof.
    drawn_here = all(line.images and line.images <= origin.instances for line in drawn)
    if drawn_here or (origin.series in _series_of(content, frame) and not any(line.images for line in drawn)):
        notes.append(
            f"{contour!r} in {name} names another frame of reference than its image, but was drawn on these very "
            f"slices; it was taken"
        )
        return
    raise DataError(
        f"`{region}` must be drawn on its image; {contour!r} in {name} is of another frame of reference: its "
        f"coordinates are another scan's; give the contours of this one"
    )


def _series_of(content: Any, frame: str) -> set[str]:
    """UIDs of the series that a file says its contours of a frame of reference were drawn on."""
    frames = content.get("ReferencedFrameOfReferenceSequence", None) or []
    studies = [
        study
        for item in frames
        if str(item.get("FrameOfReferenceUID", "")) == frame
        for study in item.get("RTReferencedStudySequence", None) or []
    ]
    found = [series for study in studies for series in study.get("RTReferencedSeriesSequence", None) or []]
    return {str(series.get("SeriesInstanceUID", "")) for series in found}


def _note_gaps(slices: Sequence[int], contour: str, name: str, notes: list[str]) -> None:
    steps = np.diff(slices)
    if len(steps) > 1 and np.median(steps) > 1:
        notes.append(
            f"{contour!r} in {name} is drawn on every {round(float(np.median(steps)))}th slice only, as on a coarser "
            f"scan; the slices between are not marked"
        )


# -- from lines to pixels ----------------------------------------------------------------------------------------------


def _filled(lines: Sequence[Points], shape: tuple[int, int], xor: bool) -> BoolArray:
    """The pixels inside the contours of one slice, given in columns and rows."""
    filled = [_inside(line, shape) for line in lines]
    mask = np.zeros(shape, dtype=bool)
    if xor:
        for area in filled:
            mask ^= area
        return mask
    different = _without_copies(lines)
    areas = [filled[index] for index in different]
    parents = _parents([lines[index] for index in different])

    def solid(index: int) -> BoolArray:
        """What a contour encloses without its holes, which may hold islands."""
        area = areas[index].copy()
        for child, parent in enumerate(parents):
            if parent == index:
                area &= ~solid(child)
        return area

    for index, parent in enumerate(parents):
        if parent is None:
            mask |= solid(index)
    return mask


def _inside(line: Points, shape: tuple[int, int]) -> BoolArray:
    from skimage import draw

    polygon: Any = draw.polygon
    inside = np.zeros(shape, dtype=bool)
    inside[polygon(line[:, 1], line[:, 0], shape)] = True
    return inside


def _without_copies(lines: Sequence[Points]) -> list[int]:
    """Which contours to take, so that none is taken twice; copies may begin elsewhere, run backwards or be rounded."""
    kept: list[int] = []
    for index, line in enumerate(lines):
        if not any(_same_line(line, lines[other]) for other in kept):
            kept.append(index)
    return kept


def _same_line(one: Points, other: Points, tolerance_px: float = 0.1) -> bool:
    return bool(
        np.abs(one.min(axis=0) - other.min(axis=0)).max() <= tolerance_px
        and np.abs(one.max(axis=0) - other.max(axis=0)).max() <= tolerance_px
        and _distances(one, other).max() <= tolerance_px
        and _distances(other, one).max() <= tolerance_px
    )


def _distances(points: Points, line: Points) -> npt.NDArray[np.float64]:
    """Of every point from a closed line."""
    along = np.roll(line, -1, axis=0) - line
    length2 = np.maximum((along**2).sum(axis=1), 1e-12)
    found = np.empty(len(points))
    for index, point in enumerate(points):
        share = np.clip(((point - line) * along).sum(axis=1) / length2, 0, 1)
        found[index] = np.sqrt(((point - line - share[:, None] * along) ** 2).sum(axis=1).min())
    return found


def _parents(lines: Sequence[Points]) -> list[int | None]:
    """For each contour the smallest that holds all of it; ``None`` for those that lie in no other."""
    areas = [abs(_area(line)) for line in lines]
    parents: list[int | None] = []
    for index, line in enumerate(lines):
        holders = [
            other
            for other, around in enumerate(lines)
            if other != index and areas[other] > areas[index] and _lies_in(line, around)
        ]
        parents.append(min(holders, key=lambda other: areas[other]) if holders else None)
    return parents


def _area(line: Points) -> float:
    x, y = line.T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def _lies_in(line: Points, around: Points, tolerance_px: float = 0.05) -> bool:
    """Whether a contour lies wholly inside another, and touches it nowhere."""
    from skimage import measure

    inside: Any = measure.points_in_poly
    if (line.min(axis=0) < around.min(axis=0)).any() or (line.max(axis=0) > around.max(axis=0)).any():
        return False
    if not np.asarray(inside(line, around)).all():
        return False
    # Two lines that do not touch are nearest to each other at a corner of one of them, unless their edges cross.
    apart_px = min(_distances(line, around).min(), _distances(around, line).min())
    return bool(apart_px > tolerance_px) and not _cross(line, around)


def _cross(one: Points, other: Points) -> bool:
    """Whether an edge of one closed line crosses an edge of the other."""
    ends, other_ends = np.roll(one, -1, axis=0), np.roll(other, -1, axis=0)

    def side(start: Points, end: Points, points: Points) -> npt.NDArray[np.float64]:
        along, to = end - start, points - start
        return np.asarray(along[..., 0] * to[..., 1] - along[..., 1] * to[..., 0])

    for start, end in zip(one, ends, strict=True):
        parted = side(start, end, other) * side(start, end, other_ends) < 0
        if (parted & (side(other, other_ends, start) * side(other, other_ends, end) < 0)).any():
            return True
    return False
