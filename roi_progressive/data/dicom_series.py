"""A folder of DICOM files as one volume.

The headers are read with pydicom: SimpleITK's own list of a folder leaves a truncated file out without a word, fills
up what a file's pixels lack with zeros, and squeezes a series with a gap together after a mere warning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .medical_packages import pydicom, simpleitk

_SPACING_TOLERANCE = 0.01
"""Distances of neighbouring slices may differ by this share; headers round them."""


@dataclass(frozen=True)
class Slice:
    """What the header of one file says; ``depth_mm`` runs along the normal of its plane."""

    file: Path
    series: str
    size: tuple[int, int]
    depth_mm: float


def read_series(folder: Path, modality: str) -> tuple[Any, str]:
    """Read the one series of a modality in a folder; series of other modalities and contours may lie beside it.

    Args:
        folder: Holds the files, whatever their names; folders below it are not searched.
        modality: ``CT`` or ``MR``.

    Returns:
        The SimpleITK image (a CT in HU: slope and intercept are applied) and the series' UID.

    Raises:
        DataError: The folder has no series of the modality or several; a file is damaged or holds several frames;
            slices are missing, doubled, of different sizes or not evenly spaced.
    """
    contents = _contents(folder)
    wanted = _of_modality(contents, modality, folder.name)
    series = sorted((_slice(file, contents[file]) for file in wanted), key=lambda plane: plane.depth_mm)
    _check_one(series, modality, folder.name)
    _check_geometry(series, folder.name)
    try:
        return simpleitk().ReadImage([str(plane.file) for plane in series]), series[0].series
    except RuntimeError as error:
        raise DataError(
            f"`image` cannot be read: a file of the {modality} series in {folder.name} is damaged; export it again"
        ) from error


def _contents(folder: Path) -> dict[Path, Any]:
    """The DICOM files of a folder; long values are read when they are asked for."""
    dicom = pydicom()
    found = {}
    for file in sorted(folder.iterdir()):
        try:
            if file.is_file():
                found[file] = dicom.dcmread(file, defer_size=4096)
                str(found[file].Modality)
        except Exception as error:  # what pydicom raises on damaged bytes depends on where they are damaged
            if isinstance(error, dicom.errors.InvalidDicomError) and file.suffix.lower() != ".dcm":
                continue
            raise DataError(_damaged(file)) from error
    return found


def _damaged(file: Path) -> str:
    return f"`image` cannot be read: {file.name} in {file.parent.name} is damaged or no DICOM file; export it again"


def _slice(file: Path, content: Any) -> Slice:
    try:
        along_row, along_column = np.asarray(content.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
        depth_mm = float(np.cross(along_row, along_column) @ np.asarray(content.ImagePositionPatient, np.float64))
        plane = Slice(file, str(content.SeriesInstanceUID), (int(content.Rows), int(content.Columns)), depth_mm)
        frames = int(content.get("NumberOfFrames", 1))
        whole = _has_all_pixels(content)
    except Exception as error:  # a value is missing, or is none of its kind
        raise DataError(_damaged(file)) from error
    if not whole:
        raise DataError(f"`image` cannot be read: {file.name} in {file.parent.name} is cut short; export it again")
    if frames > 1:
        raise DataError(f"`image` must have one slice a file; {file.name} holds {frames}; name the file itself")
    return plane


def _has_all_pixels(content: Any) -> bool:
    if content.file_meta.TransferSyntaxUID.is_compressed:
        return "PixelData" in content  # how long they should be, only decoding tells, and that fails aloud
    values = content.Rows * content.Columns * int(content.get("NumberOfFrames", 1)) * content.get("SamplesPerPixel", 1)
    return "PixelData" in content and 8 * len(content.PixelData) >= values * int(content.BitsAllocated)


def _of_modality(contents: Mapping[Path, Any], modality: str, name: str) -> list[Path]:
    if not contents:
        raise DataError(f"`image` must be a volume file or a folder of DICOM files; {name} holds none; check the path")
    wanted = [file for file, content in contents.items() if content.Modality == modality]
    if not wanted:
        others = ", ".join(sorted({str(content.Modality) for content in contents.values()}))
        raise DataError(f"`image` must be of modality {modality}; {name} holds {others}; correct the modality or path")
    return wanted


def _check_one(series: Sequence[Slice], modality: str, name: str) -> None:
    numbers = Counter(plane.series for plane in series)
    if len(numbers) > 1:
        raise DataError(
            f"`image` must be one series; {name} holds {len(numbers)} of {modality}, of "
            f"{', '.join(map(str, numbers.values()))} files; give each a folder of its own"
        )


def _check_geometry(series: Sequence[Slice], name: str) -> None:
    if len({plane.size for plane in series}) > 1:
        raise DataError(f"`image` must have slices of one size; those in {name} differ; export the series again")
    if len(series) < 2:
        raise DataError(f"`image` must be a series of slices; {name} holds one only; give the folder of a whole series")
    steps_mm = np.diff([plane.depth_mm for plane in series])
    usual_mm = float(np.median(steps_mm))
    if np.abs(steps_mm - usual_mm).max() > _SPACING_TOLERANCE * usual_mm or usual_mm <= 0:
        raise DataError(
            f"`image` must have evenly spaced slices; those in {name} lie {steps_mm.min():.2f} to {steps_mm.max():.2f} "
            f"mm apart: some are missing, doubled or of another series; export the series again"
        )
