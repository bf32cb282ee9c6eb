"""A generated volume as a DICOM series that says what it is: derived, synthetic, and from which scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..saving.whole_files import writing
from .dicom_files import is_dicom, read_dicom, read_named
from .manifest_record import package_version
from .medical_packages import pydicom
from .preprocessing import FloatArray
from .stored_volume import Grid

CLASSES = {"CT": "1.2.840.10008.5.1.4.1.1.2", "MR": "1.2.840.10008.5.1.4.1.1.4"}
"""What is written, by modality."""
_THIRD_VALUE = {"CT": "AXIAL", "MR": "OTHER"}
"""Of ImageType, which the standard demands for these two classes."""
_OF_PATIENT_AND_STUDY = (
    *("SpecificCharacterSet", "PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex"),
    *("PatientAge", "PatientSize", "PatientWeight", "PatientIdentityRemoved", "DeidentificationMethod"),
    *("StudyInstanceUID", "StudyID", "StudyDate", "StudyTime", "StudyDescription", "AccessionNumber"),
    *("ReferringPhysicianName", "FrameOfReferenceUID", "PositionReferenceIndicator", "PatientPosition"),
    *("BodyPartExamined", "SliceThickness"),
)
"""Taken over from the source; nothing else of it is true of the derived series."""
_MADE_UP = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyID", "StudyDate", "StudyTime")
_MAY_BE_EMPTY = (*_MADE_UP, "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator")
_MOST_STORED = 32767
_SOURCE_IMAGE = ("121322", "DCM", "Source image for image processing operation")


@dataclass(frozen=True)
class DerivedSeries:
    """What a derived series says of itself.

    Args:
        modality: ``CT`` or ``MR``.
        unit: ``HU``, or what else the values are.
        range: Least and greatest value that a voxel can have.
        description: SeriesDescription, up to 64 characters.
        derivation: DerivationDescription.
        sources: The headers of the DICOM files that the scan was read from; none where it is of another format.
    """

    modality: str
    unit: str
    range: tuple[float, float]
    description: str
    derivation: str
    sources: Sequence[Any] = field(default_factory=tuple)

    @property
    def slope(self) -> float:
        """What one step of the stored whole numbers is: 1 HU, or less where the window is narrow; else as fine as 16
        bits allow; a power of ten."""
        allowed = 10.0 ** np.ceil(np.log10(max(map(abs, self.range)) / _MOST_STORED))
        if self.unit != "HU":
            return float(allowed)
        level = (self.range[1] - self.range[0]) / 255.0
        return float(max(min(1.0, 10.0 ** np.floor(np.log10(level))), allowed))


def source_headers(scan: Path, series: str | None) -> list[Any]:
    """The headers of the DICOM files of one series; none of a scan in another format.

    Args:
        scan: A folder, or a multi-frame file.
        series: UID of the series; ``None`` of another format.

    Raises:
        DataError: A file cannot be read.
    """
    if series is None:
        return []
    if not scan.is_dir():
        return [read_named("scan", scan)] if is_dicom(scan) else []
    contents = [read_dicom(file) for file in sorted(scan.iterdir()) if file.is_file() and is_dicom(file)]
    return [found for found in contents if found is not None and str(found.get("SeriesInstanceUID", "")) == series]


def write_series(folder: Path, array: FloatArray, grid: Grid, about: DerivedSeries) -> None:
    """Write a file a slice, under new UIDs, into an empty folder.

    Values are stored as signed 16-bit whole numbers, ``slope`` of ``about`` apart.

    Args:
        folder: Where to.
        array: ``(slices, rows, columns)``, in the unit of ``about``.
        grid: Where they lie.
        about: What the series says of itself.

    Raises:
        DataError: The modality is neither CT nor MR, or a file cannot be written.
    """
    if about.modality not in CLASSES:
        raise DataError(f"`dicom` can be written of a CT or an MR; the target is of modality {about.modality}")
    # What is not as the standard has it is the source's, which was read without a word.
    with pydicom().config.disable_value_validation():
        _write_slices(folder, array, grid, about)


def _write_slices(folder: Path, array: FloatArray, grid: Grid, about: DerivedSeries) -> None:
    dicom = pydicom()
    shared = _shared_by_slices(about, grid, dicom.uid.generate_uid(prefix=None))
    sources = {_place(found.ImagePositionPatient): found for found in about.sources if "ImagePositionPatient" in found}
    normal = np.asarray(grid.direction)[:, 2]
    for index, plane in enumerate(array):
        position = np.asarray(grid.origin_mm) + index * grid.spacing_mm[2] * normal
        content = _slice(shared, plane, about.slope)
        content.InstanceNumber = index + 1
        content.SOPInstanceUID = dicom.uid.generate_uid(prefix=None)
        content.ImagePositionPatient = _decimals(position)
        source = about.sources[0] if len(about.sources) == 1 else sources.get(_place(position))
        if source is not None:
            content.SourceImageSequence = [_reference(source)]
        content.file_meta = dicom.dataset.FileMetaDataset()
        content.file_meta.TransferSyntaxUID = dicom.uid.ExplicitVRLittleEndian
        content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
        content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
        path = folder / f"{index + 1:04d}.dcm"
        with writing(path):
            content.save_as(path, enforce_file_format=True)


def _place(position: Any) -> tuple[float, ...]:
    """A slice's position to a tenth of a millimetre, to find it again."""
    return tuple(round(float(number), 1) for number in position)


def _shared_by_slices(about: DerivedSeries, grid: Grid, series: str) -> Any:
    dicom = pydicom()
    content, now = dicom.dataset.Dataset(), datetime.now()
    first = about.sources[0] if about.sources else dicom.dataset.Dataset()
    for key in _OF_PATIENT_AND_STUDY:
        if key in first:
            content.add(first[key])
    _set(content, {key: "" for key in _MAY_BE_EMPTY if key not in content})
    if not about.sources:
        content.SpecificCharacterSet = "ISO_IR 192"
        content.StudyInstanceUID, content.FrameOfReferenceUID = (dicom.uid.generate_uid(prefix=None) for _ in range(2))
    if "FrameOfReferenceUID" not in content:
        content.FrameOfReferenceUID = dicom.uid.generate_uid(prefix=None)
    columns_mm, rows_mm, slices_mm = grid.spacing_mm
    low, high = about.range
    _set(
        content,
        {
            "SOPClassUID": CLASSES[about.modality],
            "SeriesInstanceUID": series,
            "Modality": about.modality,
            "ImageType": ["DERIVED", "SECONDARY", _THIRD_VALUE[about.modality]],
            "SeriesDescription": about.description[:64],
            "DerivationDescription": about.derivation[:1024],
            "SeriesNumber": 1000 + int(first.get("SeriesNumber", None) or 0) % 1000,
            "AcquisitionNumber": "",
            "Manufacturer": "roi-progressive",
            "ManufacturerModelName": "neural network",
            "SoftwareVersions": package_version("roi-progressive"),
            "BurnedInAnnotation": "NO",
            "LossyImageCompression": "00",
            **{f"{kind}Date": now.strftime("%Y%m%d") for kind in ("InstanceCreation", "Series", "Content")},
            **{f"{kind}Time": now.strftime("%H%M%S") for kind in ("InstanceCreation", "Series", "Content")},
            "ImageOrientationPatient": _decimals(np.asarray(grid.direction)[:, :2].T.ravel()),
            "PixelSpacing": _decimals((rows_mm, columns_mm)),
            "SpacingBetweenSlices": _decimals((slices_mm,))[0],
            "SamplesPerPixel": 1,
            "PhotometricInterpretation": "MONOCHROME2",
            "BitsAllocated": 16,
            "BitsStored": 16,
            "HighBit": 15,
            "PixelRepresentation": 1,
            "RescaleSlope": _decimals((about.slope,))[0],
            "RescaleIntercept": "0",
            "RescaleType": "HU" if about.unit == "HU" else "US",
            "WindowCenter": _decimals(((low + high) / 2,))[0],
            "WindowWidth": _decimals((high - low,))[0],
        },
    )
    if "SliceThickness" not in content:
        content.SliceThickness = _decimals((slices_mm,))[0]
    if about.modality == "CT":
        content.KVP = ""
    else:
        _set(content, {"ScanningSequence": "RM", "SequenceVariant": "NONE", "ScanOptions": ""})
        _set(content, {"MRAcquisitionType": "", "EchoTime": "", "EchoTrainLength": "", "RepetitionTime": ""})
    return content


def _slice(shared: Any, plane: FloatArray, slope: float) -> Any:
    content = pydicom().dataset.Dataset()
    content.update(shared)
    content.Rows, content.Columns = plane.shape
    stored = np.clip(np.rint(plane.astype(np.float64) / slope), -_MOST_STORED - 1, _MOST_STORED).astype("<i2")
    content.PixelData = stored.tobytes()
    return content


def _reference(source: Any) -> Any:
    """An item of SourceImageSequence."""
    dicom = pydicom()
    purpose, item = dicom.dataset.Dataset(), dicom.dataset.Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator, purpose.CodeMeaning = _SOURCE_IMAGE
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = source.SOPClassUID, source.SOPInstanceUID
    item.PurposeOfReferenceCodeSequence = [purpose]
    return item


def _set(content: Any, elements: Mapping[str, Any]) -> None:
    for key, value in elements.items():
        setattr(content, key, value)


def _decimals(numbers: npt.ArrayLike) -> list[str]:
    """Numbers as DICOM's decimal strings: as many digits as sixteen characters hold."""
    format_number = pydicom().valuerep.format_number_as_ds
    return [format_number(float(number)) for number in np.asarray(numbers, dtype=np.float64)]
