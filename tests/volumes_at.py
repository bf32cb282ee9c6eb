"""Volumes for the tests of ``translate``, on grids that lie anywhere, and what readers say of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk

Array = npt.NDArray[Any]


def write_at(
    path: Path,
    array: Array,
    spacing: Any = (2.0, 2.0, 3.0),
    direction: Any = None,
    origin: Any = (-30.0, -40.0, 100.0),
) -> Path:
    """Write ``(slices, rows, columns)``; spacing, as SimpleITK has it, of columns, rows and slices."""
    image = sitk.GetImageFromArray(array)
    image.SetSpacing([float(step) for step in spacing])
    image.SetOrigin([float(place) for place in origin])
    image.SetDirection(np.asarray(np.eye(3) if direction is None else direction, float).ravel().tolist())
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


def geometry(path: Path) -> tuple[Any, ...]:
    """Origin, spacing, direction and size, as SimpleITK reads them."""
    image = sitk.ReadImage(str(path))
    return image.GetOrigin(), image.GetSpacing(), image.GetDirection(), image.GetSize()


def values(path: Path) -> Array:
    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def upright(path: Path) -> Array:
    """The voxels in LPS, as SimpleITK turns them."""
    return np.asarray(sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LPS")))


def body_in_air(shape: tuple[int, int, int] = (5, 40, 40), seed: int = 0) -> Array:
    """HU of a round body with noise, within and beyond the usual window, that reaches the middle of each side."""
    rows, columns = np.mgrid[-1 : 1 : 1j * shape[1], -1 : 1 : 1j * shape[2]]
    inside = np.broadcast_to(np.hypot(rows, columns) < 1.001, shape)
    noise = np.random.default_rng(seed).normal(0, 90, shape)
    return np.where(inside, np.clip(40 + noise, -280, None), -1000).astype(np.float32)


def mr_in_air(shape: tuple[int, int, int] = (5, 40, 40), seed: int = 0) -> Array:
    """An MR of the same body: positive, its air dark noise."""
    rows, columns = np.mgrid[-1 : 1 : 1j * shape[1], -1 : 1 : 1j * shape[2]]
    inside = np.broadcast_to(np.hypot(rows, columns) < 1.001, shape)
    random = np.random.default_rng(seed)
    return np.where(inside, 600 + random.normal(0, 60, shape), np.abs(random.normal(0, 8, shape))).astype(np.float32)
