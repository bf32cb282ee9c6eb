"""A real and a generated volume on one grid, read to be compared: values as the files have them, nothing resampled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..saving.named_files import files_by_name
from ..saving.names import ONE_PHASE
from .medical_packages import simpleitk
from .mr_background import body_mask
from .nifti import check_finite
from .preprocessing import CT_BODY_HU, BoolArray, FloatArray, foreground_mask
from .stored_volume import corners_mm
from .volume_list import MaskFile, VolumeRow
from .volumes import ORIENTATION, read_unchanged, read_volume

BODY = "body"
ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
_SAME_PLACE = 0.25
"""Two grids are one where no corner is farther from its place, in its shortest side: headers round."""
_CT_PIECE = 0.1
"""Pieces of a slice under this share of its largest are a scanner's table, as ``prepare`` has it."""


@dataclass(frozen=True)
class ComparedVolumes:
    """A pair of volumes in LPS orientation.

    Args:
        real: ``(slices, rows, columns)``, float32.
        fake: The same grid.
        body: Likewise, true inside.
        masks: Regions by name, likewise.
        spacing_mm: Distance of slices, of rows and of columns.
        notes: What the user should know, one line each.
    """

    real: FloatArray
    fake: FloatArray
    body: BoolArray
    masks: dict[str, BoolArray]
    spacing_mm: tuple[float, float, float]
    notes: tuple[str, ...]


def list_volumes(folder: Path, argument: str) -> dict[str, Path]:
    """The volume files of a folder by their names without endings, sorted.

    Raises:
        DataError: The folder is missing or holds none, or two that differ in their endings only.
    """
    return files_by_name(folder, argument, ENDINGS, "volume")


def read_compared(real: Path, fake: Path, masks: Mapping[str, Path], *, in_hounsfield: bool) -> ComparedVolumes:
    """Read a pair; geometry and masks by the rules of every scan that is read.

    Args:
        real: The file of the truth.
        fake: That of what was generated, on the same grid, along whatever axes it is stored.
        masks: Files of masks by region, brought onto the grid (nearest); one called ``body`` is where it is measured,
            and without it the body is found as ``prepare`` finds it.
        in_hounsfield: Whether both are said to be in HU; the real one must look it.

    Raises:
        DataError: A file cannot be read or placed, is not finite, or the grids differ; see ``read_volume``.
    """
    row = VolumeRow(
        line=0,
        patient="",
        phase=ONE_PHASE,
        modality="",
        image=real,
        masks={region: MaskFile(path) for region, path in masks.items()},
        hounsfield=in_hounsfield,
    )
    volume = read_volume(row)
    first, second = (_oriented(argument, path) for argument, path in (("real", real), ("fake", fake)))
    _check_one_grid(first, second, real, fake)
    arrays = [simpleitk().GetArrayFromImage(image).astype(np.float32, copy=False) for image in (first, second)]
    found = dict(volume.masks)
    body = found.pop(BODY, None)
    if body is None:
        body = foreground_mask(volume.array, CT_BODY_HU, _CT_PIECE) if in_hounsfield else body_mask(volume.array)
    notes = tuple(note for note in volume.notes if in_hounsfield or "looks like a CT in HU" not in note)
    return ComparedVolumes(arrays[0], arrays[1], body, found, volume.spacing_mm, notes)


def _oriented(argument: str, path: Path) -> Any:
    stored = read_unchanged(argument, path)
    check_finite(argument, path.name, stored.array)
    return simpleitk().DICOMOrient(stored.grid.image(stored.array.astype(np.float32, copy=False)), ORIENTATION)


def _check_one_grid(first: Any, second: Any, real: Path, fake: Path) -> None:
    sizes = [image.GetSize() for image in (first, second)]
    if sizes[0] != sizes[1]:
        shown = [" x ".join(map(str, size)) for size in sizes]
        raise DataError(
            f"`fake` must have the voxels of its real volume; {real.name} has {shown[0]}, {fake.name} {shown[1]}; "
            f"resample it onto that grid"
        )
    apart_mm = float(np.linalg.norm(corners_mm(first) - corners_mm(second), axis=1).max())
    if apart_mm > _SAME_PLACE * min(first.GetSpacing()):
        raise DataError(
            f"`fake` must lie where its real volume lies; voxels of {fake.name} are up to {apart_mm:.1f} mm from those "
            f"of {real.name}; write it with that file's geometry"
        )
