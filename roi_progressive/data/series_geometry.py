"""Where the slices of a DICOM series, or the frames of a file, lie, and whether they are one stack. Pure, no files.

SimpleITK looks at the depths of a series alone, takes orientation and pixel size from its first slice, and lays frames
1 mm apart in the order in which they are stored. Here every plane is looked at in three dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .stored_volume import Grid

_EVEN_TOLERANCE = 0.01
"""Slices may lie this share of their distance from their place, besides what rounded headers explain."""
_ROUNDING_LIMIT = 0.16
"""Rounding explains no more than this share of the distance: of three slices, 0, 1 and 3 mm are 0.167 off a line."""
_MOST_ASIDE_PX = 0.25
"""What may be taken for one orientation, pixel size and way: no pixel of the stack is farther from its place."""
_JUMP_PX = 0.1
"""How far a slice may lie aside of the line through all, besides a tenth of a millimetre's rounding."""
_STEEPEST_DEGREES = 45.0

Vector = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """One slice or frame.

    Args:
        name: For messages: a file's name, or ``frame 3``.
        position_mm: Centre of its first pixel, ``(3,)``.
        axes: ``(2, 3)``, unit vectors along a row and along a column.
        spacing_mm: Distance of rows and of columns.
        size: Rows and columns.
    """

    name: str
    position_mm: Vector
    axes: Vector
    spacing_mm: tuple[float, float]
    size: tuple[int, int]


@dataclass(frozen=True)
class Stack:
    """Planes that lie evenly behind each other.

    Args:
        order: Which plane comes first, second, ...: along their normal.
        grid: Of the volume they are; with a drift where they are tilted.
        tilt_degrees: Between the planes' normal and the way from one to the next; 0 where they are straight.
    """

    order: tuple[int, ...]
    grid: Grid
    tilt_degrees: float


def plane_of(
    name: str, position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float], size: tuple[int, int]
) -> Plane:
    """A plane from what its header says, each value checked.

    Args:
        name: For messages.
        position: ImagePositionPatient.
        orientation: ImageOrientationPatient.
        spacing: PixelSpacing.
        size: Rows and Columns.

    Raises:
        DataError: The header gives no such plane.
    """
    at, turn = np.asarray(position, np.float64).ravel(), np.asarray(orientation, np.float64).ravel()
    between = np.asarray(spacing, np.float64).ravel()
    if at.size != 3 or turn.size != 6 or between.size != 2 or not np.isfinite([*at, *turn, *between]).all():
        raise DataError(f"`image` cannot be placed: the header of {name} gives no whole position; export it again")
    axes = turn.reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(float(axes[0] @ axes[1])) > 0.01:
        raise DataError(
            f"`image` cannot be placed: the rows and columns of {name} must be at right angles, as unit vectors; its "
            f"ImageOrientationPatient is {', '.join(f'{value:g}' for value in axes.ravel())}; export it again"
        )
    if between.min() <= 0:
        raise DataError(
            f"`image` cannot be placed: the PixelSpacing of {name} must be above 0; it is {between[0]:g} and "
            f"{between[1]:g} mm; export it again"
        )
    return Plane(name, at, axes / lengths[:, None], (float(between[0]), float(between[1])), size)


def stack_of(planes: Sequence[Plane], holder: str, kind: str = "slices") -> Stack:
    """The stack that planes are, in whatever order they come.

    They must have one size, pixel spacing and orientation, lie at even distances, and on one straight line. Positions
    that the scanner rounded are legal, and so is a line that is not along the normal: that of a tilted gantry.

    Args:
        planes: Two or more.
        holder: The folder or file, for messages.
        kind: ``slices`` or ``frames``, for messages.

    Raises:
        DataError: They are no such stack; the message says which rule they break.
    """
    if len(planes) < 2:
        raise DataError(f"`image` must be a series of {kind}; {holder} holds one only; give the whole series")
    _check_alike(planes, holder, kind)
    axes = planes[0].axes
    normal = np.cross(axes[0], axes[1])
    normal /= np.linalg.norm(normal)
    positions = np.array([plane.position_mm for plane in planes])
    order = np.argsort(positions @ normal, kind="stable")
    positions = positions[order]
    step_mm, start_mm = _line_through(positions)
    rounding_mm = _rounding_mm(positions)
    # Along a slanted line the roundings of all three coordinates add up.
    _check_even(positions @ normal, float(step_mm @ normal), rounding_mm * np.abs(normal).sum(), holder, kind)
    rows_mm, columns_mm = planes[0].spacing_mm
    aside_px = np.array([1 / rows_mm, 1 / columns_mm]) * ((positions - start_mm) @ axes[::-1].T)
    drift_px = np.array([step_mm @ axes[1] / rows_mm, step_mm @ axes[0] / columns_mm])
    jumps_px = np.abs(aside_px - np.arange(len(planes))[:, None] * drift_px)
    slack_mm = min(rounding_mm, 0.05) * float(np.abs(axes).sum(axis=1).max())
    if jumps_px.max() > _JUMP_PX + slack_mm / min(rows_mm, columns_mm):
        index = int(jumps_px.max(axis=1).argmax())
        raise DataError(
            f"`image` must be a straight stack of {kind}; those in {holder} jump sideways, "
            f"{planes[order[index]].name} lies {np.linalg.norm(aside_px[index] - index * drift_px):.1f} pixels off "
            f"their line: they are of more than one series; export it again"
        )
    tilted = float(np.abs(drift_px).max()) * (len(planes) - 1) > _MOST_ASIDE_PX
    along_mm = float(step_mm @ normal)
    tilt_degrees = float(np.degrees(np.arccos(np.clip(along_mm / np.linalg.norm(step_mm), -1, 1)))) if tilted else 0.0
    if tilt_degrees > _STEEPEST_DEGREES:
        raise DataError(
            f"`image` must be a stack of {kind} behind each other; those in {holder} lie beside each other, "
            f"{tilt_degrees:.0f} degrees off their normal: they are no volume; give one that is"
        )
    x, y, z = start_mm.tolist()
    drift = (float(drift_px[0]), float(drift_px[1])) if tilted else None
    grid = Grid((x, y, z), (columns_mm, rows_mm, along_mm), np.stack([*axes, normal], axis=1), drift)
    return Stack(tuple(order.tolist()), grid, tilt_degrees)


def tilt_note(stack: Stack, holder: str, kind: str = "slices") -> tuple[str, ...]:
    """What to tell of a tilted stack; nothing of a straight one."""
    if stack.grid.drift_px is None:
        return ()
    return (
        f"the {kind} of {holder} are tilted by {stack.tilt_degrees:.1f} degrees against the way from one to the next; "
        f"they were moved in their planes to a straight stack",
    )


def _check_alike(planes: Sequence[Plane], holder: str, kind: str) -> None:
    first = planes[0]
    for plane in planes:
        if plane.size != first.size:
            raise DataError(
                f"`image` must have {kind} of one size; those in {holder} differ, {first.name} has {first.size[0]} x "
                f"{first.size[1]} pixels and {plane.name} {plane.size[0]} x {plane.size[1]}; export the series again"
            )
    extent = np.array([first.size[1] - 1, first.size[0] - 1])
    spacings = np.array([plane.spacing_mm[::-1] for plane in planes])
    # What a differing spacing or orientation moves the far corner by, in pixels.
    off_px = np.abs(spacings - np.median(spacings, axis=0)) * extent / spacings
    if off_px.max() > _MOST_ASIDE_PX:
        odd = planes[int(off_px.max(axis=1).argmax())]
        usual = np.median(spacings, axis=0)
        raise DataError(
            f"`image` must have {kind} of one pixel size; most of those in {holder} have {usual[1]:g} x {usual[0]:g} "
            f"mm, {odd.name} has {odd.spacing_mm[0]:g} x {odd.spacing_mm[1]:g} mm; export the series again"
        )
    axes = np.array([plane.axes for plane in planes])
    usual_axes = np.median(axes, axis=0)
    usual_axes /= np.linalg.norm(usual_axes, axis=1, keepdims=True)
    turned_px = np.linalg.norm(axes - usual_axes, axis=2) * extent
    if turned_px.max() > _MOST_ASIDE_PX:
        odd_index = int(turned_px.max(axis=1).argmax())
        cosines = np.clip((axes * axes[odd_index]).sum(axis=2), -1, 1)
        raise DataError(
            f"`image` must have {kind} of one orientation; {planes[odd_index].name} is turned by up to "
            f"{np.degrees(np.arccos(cosines)).max():.1f} degrees against the others: a scout or another series; give "
            f"each a folder of its own"
        )


def _line_through(positions: Vector) -> tuple[Vector, Vector]:
    """The step from one position to the next and the first, of the straight line of least squares."""
    number = np.arange(len(positions)) - (len(positions) - 1) / 2
    middle = positions.mean(axis=0)
    step = number @ (positions - middle) / (number @ number)
    return step, middle + number[0] * step


def _rounding_mm(positions: Vector) -> float:
    """How far a header's rounding may have moved a position: half of its last decimal, 0 for more than three."""
    for decimals in range(4):
        if np.abs(positions - positions.round(decimals)).max() < 1e-5:
            return float(0.5 * 10.0**-decimals)
    return 0.0


def _check_even(depths_mm: Vector, step_mm: float, rounding_mm: float, holder: str, kind: str) -> None:
    from scipy import optimize

    steps_mm, number = np.diff(depths_mm), np.arange(len(depths_mm))

    def farthest_off(step: float) -> float:
        """How far a slice is from its place in the even stack of this step that fits best."""
        return float(np.ptp(depths_mm - step * number)) / 2

    minimize: Any = optimize.minimize_scalar
    off_mm = minimize(farthest_off, bounds=(0.8 * step_mm, 1.2 * step_mm + 1e-9), method="bounded").fun
    tolerance_mm = min(_EVEN_TOLERANCE * step_mm + rounding_mm, _ROUNDING_LIMIT * step_mm)
    if step_mm <= 1e-3 or min(off_mm, farthest_off(step_mm)) > tolerance_mm + 1e-6:
        raise DataError(
            f"`image` must have evenly spaced {kind}; those in {holder} lie {steps_mm.min():.2f} to "
            f"{steps_mm.max():.2f} mm apart: some are missing, doubled or of another series; export the series again"
        )
