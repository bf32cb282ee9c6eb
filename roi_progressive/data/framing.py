"""Which slices, and which square of them: from volumes to pictures of one size. Pure array functions, no files.

In a volume brought to the LPS orientation row 0 is the patient's front and column 0 the patient's right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .preprocessing import BoolArray, FloatArray

_Value = TypeVar("_Value", bound=np.generic)


def choose_slices(areas: npt.ArrayLike, each_side: int, allowed: npt.ArrayLike | None = None) -> list[int]:
    """The slice with the largest region and its neighbours (paper: four on each side, nine in all).

    Args:
        areas: The region's area in every slice, ``(slices,)``; the first of equally large ones is taken.
        each_side: Neighbours on each side; fewer where the volume ends.
        allowed: Boolean ``(slices,)``; slices marked false are never taken.

    Returns:
        Rising slice indices without repeats; empty where no allowed slice shows the region.
    """
    area = np.asarray(areas, dtype=np.float64)
    usable = np.ones(area.shape, dtype=bool) if allowed is None else np.asarray(allowed, dtype=bool)
    area = np.where(usable, area, 0.0)
    if area.size == 0 or area.max() <= 0:
        return []
    middle = int(area.argmax())
    around = range(max(0, middle - each_side), min(len(area), middle + each_side + 1))
    return [index for index in around if usable[index]]


@dataclass(frozen=True)
class Square:
    """A physically square cut-out in whole source pixels; it may reach beyond the picture."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, planes: npt.NDArray[_Value], fill: float) -> npt.NDArray[_Value]:
        """Cut ``(..., rows, columns)``; what lies beyond the picture is ``fill``."""
        result = np.full((*planes.shape[:-2], self.height, self.width), fill, dtype=planes.dtype)
        of_picture, of_square = self._common(planes.shape[-2:])
        result[(..., *of_square)] = planes[(..., *of_picture)]
        return result

    def put_back(self, square: npt.NDArray[Any], picture: npt.NDArray[Any]) -> None:
        """The inverse of :meth:`cut`: write ``(height, width)`` to its place in a picture ``(rows, columns)``.

        What of the square reaches beyond the picture is dropped; what of the picture lies outside it stays.
        """
        of_picture, of_square = self._common(picture.shape)
        picture[of_picture] = square[of_square]

    def seen_of(self, square: npt.NDArray[_Value], shape: tuple[int, ...]) -> npt.NDArray[_Value]:
        """What of a square ``(height, width)`` lies in a picture of this shape."""
        return square[self._common(shape)[1]]

    def covers(self, shape: tuple[int, ...]) -> int:
        """How many pixels of a picture of this shape lie in the square."""
        rows, columns = self._common(shape)[0]
        return len(range(shape[0])[rows]) * len(range(shape[1])[columns])

    def _common(self, shape: tuple[int, ...]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
        """Rows and columns that picture and square share, counted in the picture and in the square."""
        of_picture, of_square = [], []
        for start, size, length in zip((self.top, self.left), (self.height, self.width), shape, strict=True):
            first = min(max(0, start), length)
            last = max(first, min(length, start + size))
            of_picture.append(slice(first, last))
            of_square.append(slice(first - start, last - start) if last > first else slice(0, 0))
        return (of_picture[0], of_picture[1]), (of_square[0], of_square[1])


def square_around(
    body: BoolArray, regions: BoolArray, spacing_mm: Sequence[float], side_mm: float | None = None
) -> Square:
    """Frame a picture: a square around the middle of the body that keeps the regions in view.

    Args:
        body: ``(rows, columns)``, true where any of the chosen slices shows body.
        regions: The same for the regions of interest; may be empty.
        spacing_mm: Distance of rows and of columns.
        side_mm: Side of the square. ``None`` takes the longer side of the box around body and regions, so that
            nothing is cut away. A given side moves the square off the body's middle where a region would
            otherwise be cut, and cuts a region only where it is larger than the square.

    Raises:
        DataError: Neither body nor region has a pixel.
    """
    both = body | regions
    if not both.any():
        raise DataError("`body` must hold at least one pixel in the chosen slices; the image shows no body there")
    boxes = [_extent(_any_along(both, 1 - axis)) for axis in (0, 1)]
    longer = max((stop - start) * spacing_mm[axis] for axis, (start, stop) in enumerate(boxes))
    side = longer if side_mm is None else side_mm
    starts, sizes = [], []
    for axis, (start, stop) in enumerate(boxes):
        size = max(1, round(side / spacing_mm[axis]))
        first = round((start + stop - size) / 2)
        if regions.any():
            low, high = _extent(_any_along(regions, 1 - axis))
            fits = high - low <= size
            first = min(max(first, high - size), low) if fits else round((low + high - size) / 2)
        starts.append(first)
        sizes.append(size)
    return Square(starts[0], starts[1], sizes[0], sizes[1])


def _any_along(plane: BoolArray, axis: int) -> BoolArray:
    return np.asarray(plane.any(axis=axis))


def _extent(line: BoolArray) -> tuple[int, int]:
    where = np.flatnonzero(line)
    return int(where[0]), int(where[-1]) + 1


def resize_image(plane: FloatArray, size_px: int) -> FloatArray:
    """Resize ``(rows, columns)`` to ``(size_px, size_px)``: linear, smoothed first where it shrinks."""
    return resize_to(plane, (size_px, size_px))


def resize_to(plane: FloatArray, shape: tuple[int, int]) -> FloatArray:
    """Resize ``(rows, columns)`` to another shape: linear, along each axis smoothed first where it shrinks."""
    from skimage import transform

    resize: Any = transform.resize
    resized = resize(plane, shape, order=1, mode="edge", anti_aliasing=True, preserve_range=True)
    return np.asarray(resized, dtype=np.float32)


def resize_mask(plane: BoolArray, size_px: int) -> BoolArray:
    """Resize ``(rows, columns)`` to ``(size_px, size_px)``: true where more than half of the new pixel was true."""
    rows, columns = (_overlap(length, size_px) for length in plane.shape)
    # A hair above one half: sums of exact halves must not tip over by rounding.
    return np.asarray(rows @ plane.astype(np.float64) @ columns.T > 0.5 + 1e-9)


def _overlap(length: int, size_px: int) -> npt.NDArray[np.float64]:
    """The share of each of ``size_px`` new pixels that each of ``length`` old ones covers; rows sum to 1."""
    edges = np.arange(size_px + 1) * (length / size_px)
    old = np.arange(length)
    covered = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.asarray(np.clip(covered, 0.0, None) * (size_px / length))
