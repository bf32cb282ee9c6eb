"""Small scans for the tests, drawn in patient coordinates: each voxel shows what lies at the place its header gives.

Millimetres are DICOM's: x to the left, y to the back, z to the head. Arrays are ``(slices, rows, columns)``.
"""

from __future__ import annotations

import gzip
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

# Some values are wrong on purpose.
pydicom.config.settings.writing_validation_mode = pydicom.config.IGNORE

Array = npt.NDArray[Any]
ROOT = "1.2.826.0.1.3680043.8.498."
FRAME, OTHER_FRAME = f"{ROOT}7", f"{ROOT}8"
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
ROD_MM = np.array([9.0, -6.0])
SHAPE, SPACING = (12, 32, 36), (3.0, 2.0, 2.0)
ORIGIN = np.array([-35.0, -31.0, -16.5])


def body_with_rod(points: Array) -> Array:
    """HU at points ``(..., 3)``: an upright body of 40 in air, and in it an upright rod of 150, 8 mm in radius."""
    x, y = points[..., 0], points[..., 1]
    hu = np.where((x / 30) ** 2 + (y / 26) ** 2 < 1, 40.0, -1000.0)
    return np.where(in_rod(points), 150.0, hu)


def in_rod(points: Array) -> Array:
    return np.asarray(np.hypot(points[..., 0] - ROD_MM[0], points[..., 1] - ROD_MM[1]) < 8)


def straight_positions(slices: int = SHAPE[0], step: float = SPACING[0]) -> Array:
    return ORIGIN + np.arange(slices)[:, None] * [0, 0, step]


def plane_points(position: Array, orientation: Any = AXIAL, mm: Any = SPACING[1:], size: Any = SHAPE[1:]) -> Array:
    """The voxel centres of one slice, ``(rows, columns, 3)``."""
    along_row, along_column = np.reshape(np.asarray(orientation, float), (2, 3))
    rows, columns = np.arange(size[0])[:, None, None] * mm[0], np.arange(size[1])[None, :, None] * mm[1]
    return np.asarray(np.asarray(position) + rows * along_column + columns * along_row)


def header(sop: str, modality: str, series: str = "1", number: int = 0, frame: str | None = FRAME) -> Dataset:
    content = Dataset()
    content.file_meta = FileMetaDataset()
    content.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    content.SOPClassUID, content.SOPInstanceUID = sop, f"{ROOT}{series}.{number + 1}"
    content.Modality, content.SeriesInstanceUID, content.StudyInstanceUID = modality, f"{ROOT}{series}", f"{ROOT}9"
    if frame is not None:
        content.FrameOfReferenceUID = frame
    return content


def set_pixels(content: Dataset, stored: Array, signed: bool = False) -> None:
    content.Rows, content.Columns = stored.shape[-2:]
    content.SamplesPerPixel, content.PhotometricInterpretation = 1, "MONOCHROME2"
    content.BitsAllocated, content.BitsStored, content.HighBit = 16, 16, 15
    content.PixelRepresentation = int(signed)
    content.PixelData = np.ascontiguousarray(stored).astype("<i2" if signed else "<u2").tobytes()


def write_series(
    folder: Path,
    values: Any = body_with_rod,
    positions: Array | None = None,
    orientation: Any = AXIAL,
    mm: Any = SPACING[1:],
    modality: str = "CT",
    series: str = "1",
    frame: str | None = FRAME,
    slope: float = 1.0,
    intercept: float | None = None,
    name: str = "{:03d}.dcm",
    edit: Callable[[int, Dataset], None] | None = None,
) -> list[Path]:
    """A file a slice. ``values`` is a function of points or an array; ``edit(index, content)`` changes a file.

    ``orientation`` and ``mm`` may be one for all slices or one each.
    """
    folder.mkdir(parents=True, exist_ok=True)
    positions = straight_positions() if positions is None else positions
    turns, spacings = (np.array(v, float) for v in (orientation, mm))
    turns = np.broadcast_to(turns, (len(positions), 6))
    spacings = np.broadcast_to(spacings, (len(positions), 2))
    plus = intercept if intercept is not None else -1024.0 if modality == "CT" else 0.0
    files = []
    for index, position in enumerate(positions):
        plane = values(plane_points(position, turns[index], spacings[index])) if callable(values) else values[index]
        content = header(f"1.2.840.10008.5.1.4.1.1.{2 if modality == 'CT' else 4}", modality, series, index, frame)
        content.ImagePositionPatient = [f"{v:.10g}"[:16] for v in position]
        content.ImageOrientationPatient = [f"{v:.9f}" for v in turns[index]]
        content.PixelSpacing = [f"{v:g}" for v in spacings[index]]
        content.RescaleSlope, content.RescaleIntercept = f"{slope:g}", f"{plus:g}"
        set_pixels(content, np.rint((plane - plus) / slope))
        if edit is not None:
            edit(index, content)
        files.append(folder / name.format(index))
        content.save_as(files[-1], enforce_file_format=True)
    return files


def item(**elements: Any) -> Dataset:
    found = Dataset()
    for key, value in elements.items():
        setattr(found, key, value)
    return found


def write_multiframe(
    path: Path,
    values: Any = body_with_rod,
    positions: Array | None = None,
    modality: str = "CT",
    slopes: Any = 1.0,
    intercept: float = -1024.0,
    place: bool = True,
    edit: Callable[[int, Dataset], None] | None = None,
    edit_file: Callable[[Dataset], None] | None = None,
) -> Path:
    """An enhanced CT or MR, its frames in the order of the positions; the rescale is each frame's own."""
    positions = straight_positions() if positions is None else positions
    planes = [values(plane_points(p)) if callable(values) else values[i] for i, p in enumerate(positions)]
    times = np.broadcast_to(slopes, len(planes))
    content = header(f"1.2.840.10008.5.1.4.1.1.{2 if modality == 'CT' else 4}.1", modality)
    content.NumberOfFrames = len(planes)
    set_pixels(content, np.array([np.rint((p - intercept) / t) for p, t in zip(planes, times, strict=True)]))
    shared = Dataset()
    if place:
        shared.PixelMeasuresSequence = [item(PixelSpacing=list(SPACING[1:]), SliceThickness=SPACING[0])]
        shared.PlaneOrientationSequence = [item(ImageOrientationPatient=list(AXIAL))]
    content.SharedFunctionalGroupsSequence, content.PerFrameFunctionalGroupsSequence = [shared], []
    for index, position in enumerate(positions):
        groups = Dataset()
        if place:
            groups.PlanePositionSequence = [item(ImagePositionPatient=[float(v) for v in position])]
        groups.FrameContentSequence = [item(StackID="1", DimensionIndexValues=[1, index + 1])]
        rescale = item(RescaleSlope=f"{times[index]:g}", RescaleIntercept=f"{intercept:g}", RescaleType="HU")
        groups.PixelValueTransformationSequence = [rescale]
        if edit is not None:
            edit(index, groups)
        content.PerFrameFunctionalGroupsSequence.append(groups)
    if edit_file is not None:
        edit_file(content)
    content.save_as(path, enforce_file_format=True)
    return path


def write_rtstruct(
    path: Path, structures: dict[str, list[tuple[str, Array]]], frame: str | None = FRAME, images: Any = ()
) -> Path:
    """Structures by name, each a list of (geometric type, points in mm); ``images`` are the UIDs drawn on."""
    content = header("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT", "5", 0, frame)
    content.StructureSetROISequence, content.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures.items(), start=1):
        roi = item(ROINumber=number, ROIName=name)
        if frame is not None:
            roi.ReferencedFrameOfReferenceUID = frame
        drawn = item(ReferencedROINumber=number, ContourSequence=[])
        for kind, points in contours:
            line = item(ContourGeometricType=kind, NumberOfContourPoints=len(points))
            line.ContourData = [f"{value:.4f}" for value in np.ravel(points)]
            if images:
                line.ContourImageSequence = [item(ReferencedSOPInstanceUID=uid) for uid in images]
            drawn.ContourSequence.append(line)
        content.StructureSetROISequence.append(roi)
        content.ROIContourSequence.append(drawn)
    content.save_as(path, enforce_file_format=True)
    return path


# -- NIfTI, byte by byte: no library writes the headers that some files have -------------------------------------------

RAS = np.array([[-2.0, 0, 0, 35], [0, -2, 0, 31], [0, 0, 3, -16.5], [0, 0, 0, 1]])
"""The affine of the standard grid in NIfTI's axes."""
TYPES = {"u1": (2, 8), "i2": (4, 16), "i4": (8, 32), "f4": (16, 32), "f8": (64, 64), "u2": (512, 16), "c8": (32, 64)}


def straight_points(shape: Any = SHAPE, spacing: Any = SPACING) -> Array:
    return np.stack([plane_points(p, mm=spacing[1:], size=shape[1:]) for p in straight_positions(shape[0], spacing[0])])


def quaternion(affine: Array) -> tuple[list[float], float]:
    from scipy.spatial.transform import Rotation

    turn = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    qfac = 1.0 if np.linalg.det(turn) > 0 else -1.0
    numbers: Array = Rotation.from_matrix(turn * [1, 1, qfac]).as_quat()
    return [*(numbers[:3] * (1 if numbers[3] >= 0 else -1)), *affine[:3, 3]], qfac


def write_nifti(
    path: Path,
    stored: Array,
    kind: str = "i2",
    qform: tuple[int, Array] = (1, RAS),
    sform: tuple[int, Array] = (1, RAS),
    pixdim: Any = None,
    slope: float = 1.0,
    intercept: float = 0.0,
    units: int = 2,
    order: str = "<",
    lengths: Any = None,
) -> Path:
    """A NIfTI-1 file, or a pair where ``path`` ends in ``.hdr``."""
    head, pair = bytearray(348), path.suffix == ".hdr"
    numbers, qfac = quaternion(qform[1])
    steps = np.linalg.norm(qform[1][:3, :3], axis=0) if pixdim is None else pixdim
    lengths = stored.shape[::-1] if lengths is None else lengths

    def put(at: int, form: str, *values: Any) -> None:
        struct.pack_into(order + form, head, at, *values)

    put(0, "i", 348)
    put(40, "8h", len(lengths), *lengths, *[1] * (7 - len(lengths)))
    put(70, "2h", *TYPES[kind])
    put(76, "8f", qfac, *steps, 1, 1, 1, 1)
    put(108, "3f", 0 if pair else 352, slope, intercept)
    put(123, "B", units)
    put(252, "2h", qform[0], sform[0])
    put(256, "6f", *numbers)
    put(280, "12f", *sform[1][:3].ravel())
    head[344:348] = b"ni1\0" if pair else b"n+1\0"
    data = np.ascontiguousarray(stored).astype(order + kind).tobytes()
    whole = bytes(head) if pair else bytes(head) + bytes(4) + data
    if pair:
        path.with_suffix(".img").write_bytes(data)
    path.write_bytes(gzip.compress(whole, mtime=0) if path.name.endswith(".gz") else whole)
    return path
