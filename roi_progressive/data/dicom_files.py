"""What a DICOM file is, before its pixels or contours are read: an image, contours, a disc's list, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import DataError
from .medical_packages import pydicom

DISC_LIST = "1.2.840.10008.1.3.10"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")
DOSE = "1.2.840.10008.5.1.4.1.1.481.2"

_DEFER_BYTES = 4096
"""Longer values, the pixels above all, stay in the file until they are asked for."""


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do, or with the meta header that follows."""
    try:
        with open(path, "rb") as file:
            start = file.read(140)
    except OSError:
        return False
    return start[128:132] == b"DICM" or (start[:4] == b"\x02\x00\x00\x00" and start[4:6] == b"UL")


def is_segmentation(path: Path) -> bool:
    """Whether a file is a DICOM SEG file, or one of its kind."""
    if not is_dicom(path):
        return False
    try:
        kind = pydicom().dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True).get("SOPClassUID", "")
    except Exception:  # it is damaged, which is said once it is to be read
        return False
    return str(kind) in SEGMENTATIONS


def modalities_of(path: Path) -> set[str]:
    """The modalities of the images in a folder of DICOM files, or of a DICOM file; none where there are none."""
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    found = set()
    for file in files:
        if not file.is_file() or file.name.startswith(".") or not is_dicom(file):
            continue
        try:
            content = pydicom().dcmread(file, specific_tags=["Modality", "Rows"], stop_before_pixels=True)
        except Exception:  # it is damaged, which is said once it is to be read
            continue
        if "Rows" in content and content.get("Modality"):
            found.add(str(content.Modality))
    return found


def read_dicom(path: Path) -> Any | None:
    """A file as pydicom reads it, also where it lacks the preamble or the meta header; ``None`` of no DICOM file.

    Raises:
        Exception: What pydicom raises on a damaged one, which depends on where it is damaged.
    """
    dicom = pydicom()
    try:
        return dicom.dcmread(path, defer_size=_DEFER_BYTES)
    except dicom.errors.InvalidDicomError:
        pass
    try:
        content = dicom.dcmread(path, defer_size=_DEFER_BYTES, force=True)
        kind = str(content.get("SOPClassUID", ""))
    except Exception:  # no DICOM file: pydicom stumbles over whatever it is
        return None
    return content if kind.startswith("1.2.840.10008.") else None


def read_named(what: str, path: Path) -> Any:
    """A file that must be DICOM.

    Args:
        what: Column of the list, for messages.
        path: The file.

    Raises:
        DataError: It is missing, damaged or no DICOM file.
    """
    try:
        content = read_dicom(path)
    except OSError as error:
        raise DataError(f"`{what}` cannot be opened: {path.name}: {error.strerror}") from error
    except DataError:
        raise
    except Exception as error:  # what pydicom raises on damaged bytes depends on where they are damaged
        raise DataError(f"`{what}` cannot be read: {path.name} is damaged or no DICOM file; export it again") from error
    if content is None:
        raise DataError(f"`{what}` cannot be read: {path.name} is damaged or no DICOM file; export it again")
    return content


def class_of(content: Any) -> Any:
    """The UID of what a file is; a disc's list has it in its meta header alone."""
    meta = getattr(content, "file_meta", None) or {}
    return content.get("SOPClassUID", "") or meta.get("MediaStorageSOPClassUID", "")


def kind_of(content: Any) -> str:
    """What a file is in DICOM's own words, e.g. ``RT Dose Storage``."""
    uid = class_of(content)
    return str(getattr(uid, "name", uid)) or "of an unknown kind"


def drawn_names(content: Any) -> list[str]:
    """The names of the structures of an RTSTRUCT file, or of the segments of a SEG file, in its order."""
    structures = [item.get("ROIName", "") for item in content.get("StructureSetROISequence", None) or []]
    segments = [item.get("SegmentLabel", "") for item in content.get("SegmentSequence", None) or []]
    return [str(name).strip() for name in structures + segments]


def is_secondary_capture(content: Any) -> bool:
    """Whether a file is a screenshot, a dose report as a picture, or the like."""
    kind = str(class_of(content))
    return kind == SECONDARY_CAPTURE or kind.startswith(f"{SECONDARY_CAPTURE}.")
