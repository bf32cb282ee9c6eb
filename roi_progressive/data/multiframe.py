"""One DICOM file that holds a whole volume: an enhanced CT, MR or PET, frame by frame.

SimpleITK lays its frames 1 mm apart in the order in which they are stored, and transforms all values as those of the
first. What each frame says of itself lies in its functional groups (PS3.3 C.7.6.16), beside what all of them share.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .dicom_files import DOSE, SEGMENTATIONS, class_of, is_secondary_capture, kind_of
from .dicom_pixels import check_grey, is_cut_short, padding_of, stored_values, transformed
from .series_geometry import Plane, plane_of, stack_of, tilt_note
from .stored_volume import DicomOrigin, StoredVolume

_TELLS_APART = {
    ("FrameContentSequence", "StackID"): "stacks",
    ("MREchoSequence", "EffectiveEchoTime"): "echoes",
    ("FrameContentSequence", "TemporalPositionIndex"): "time points",
    ("TemporalPositionSequence", "TemporalPositionTimeOffset"): "time points",
    ("MRDiffusionSequence", "DiffusionBValue"): "b-values",
    ("CTXRayDetailsSequence", "KVP"): "tube voltages",
    ("CTReconstructionSequence", "ConvolutionKernel"): "reconstruction kernels",
    ("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"): "trigger times",
    ("MRImageFrameTypeSequence", "ComplexImageComponent"): "parts of complex values",
}
"""What frames of one volume have in common: the sequence and the element, and what they are called."""


def read_multiframe(path: Path, content: Any, modality: str | None) -> StoredVolume:
    """Read the one volume of a multi-frame file, its frames in the order of their positions.

    Args:
        path: The file.
        content: As pydicom read it.
        modality: As DICOM has it, e.g. ``CT`` or ``MR``; ``None`` takes whichever it is.

    Raises:
        DataError: The file is no image of the modality, or no volume: a single slice, a segmentation, a dose, a
            screenshot; it is damaged; its frames have no geometry, are of several volumes, or are no stack: see
            ``stack_of``.
    """
    _check_kind(path, content, modality)
    check_grey(content, path.name)
    try:
        frames = int(content.get("NumberOfFrames", None) or 1)
        cut_short = is_cut_short(content)
    except Exception as error:  # a value is missing, or is none of its kind
        raise DataError(f"`image` cannot be read: {path.name} is damaged; export it again") from error
    if cut_short:
        raise DataError(f"`image` cannot be read: {path.name} is cut short; export it again")
    if frames < 2:
        raise DataError(f"`image` must be a whole volume; {path.name} is a single slice; name the folder of its series")
    groups = _Groups(content, path.name)
    if len(groups.of_frames) != frames:
        raise DataError(
            f"`image` cannot be placed: {path.name} says nothing of where its {frames} frames lie, only of "
            f"{len(groups.of_frames)}: no size or order is made up for them; convert it where it was made"
        )
    planes = [_plane(groups, index, content, path.name) for index in range(frames)]
    _check_one_volume(groups, planes, path.name)
    stack = stack_of(planes, path.name, "frames")
    stored = stored_values(content, path.name)
    array = np.empty(stored.shape, dtype=np.float32)
    for place, index in enumerate(stack.order):
        transformation = groups.item(index, "PixelValueTransformationSequence") or content
        array[place] = transformed(stored[index], transformation, f"frame {index + 1} of {path.name}")
    padding = padding_of(stored, content)
    frame = str(content.get("FrameOfReferenceUID", "")) or None
    origin = DicomOrigin(
        str(content.get("SeriesInstanceUID", "")), frame, frozenset({str(content.get("SOPInstanceUID", ""))})
    )
    in_order = None if padding is None else padding[list(stack.order)]
    return StoredVolume(array, stack.grid, in_order, origin, tilt_note(stack, path.name, "frames"))


def _check_kind(path: Path, content: Any, modality: str | None) -> None:
    kind = str(class_of(content))
    if is_secondary_capture(content) or kind in (*SEGMENTATIONS, DOSE) or "PixelData" not in content:
        other = "; name it in a region's column" if kind in SEGMENTATIONS else "; name the scan"
        raise DataError(f"`image` must be a scan; {path.name} is {kind_of(content)}{other}")
    found = str(content.get("Modality", "")) or "none"
    if modality is not None and found != modality:
        raise DataError(
            f"`image` must be of modality {modality}; {path.name} is of modality {found}; correct the modality or path"
        )


class _Groups:
    """What the frames of a file say of themselves, or share."""

    def __init__(self, content: Any, name: str) -> None:
        try:
            self.of_frames = list(content.get("PerFrameFunctionalGroupsSequence", None) or [])
            shared = list(content.get("SharedFunctionalGroupsSequence", None) or [])
        except Exception as error:  # what pydicom raises on damaged bytes depends on where they are damaged
            raise DataError(f"`image` cannot be read: {name} is damaged; export it again") from error
        self._shared = shared[0] if shared else {}

    def item(self, index: int, sequence: str) -> Any | None:
        """The one item of a frame's sequence, its own before the shared; ``None`` where neither is there."""
        for holder in (self.of_frames[index], self._shared):
            items = holder.get(sequence, None)
            if items:
                return items[0]
        return None

    def value(self, index: int, sequence: str, key: str) -> Any | None:
        """An element of that item; ``None`` where it is not there or empty."""
        item = self.item(index, sequence)
        value = None if item is None else item.get(key, None)
        return None if value is None or value == "" else value


def _plane(groups: _Groups, index: int, content: Any, name: str) -> Plane:
    frame = f"frame {index + 1} of {name}"
    values = (
        groups.value(index, "PlanePositionSequence", "ImagePositionPatient"),
        groups.value(index, "PlaneOrientationSequence", "ImageOrientationPatient"),
        groups.value(index, "PixelMeasuresSequence", "PixelSpacing"),
    )
    if any(value is None for value in values):
        raise DataError(
            f"`image` cannot be placed: {frame} lacks its position, orientation or pixel spacing: none is made up; "
            f"convert it where it was made"
        )
    try:
        position, orientation, spacing = ([float(number) for number in value or ()] for value in values)
        size = (int(content.Rows), int(content.Columns))
    except (TypeError, ValueError) as error:
        raise DataError(f"`image` cannot be placed: {frame} gives its position in no numbers; repair it") from error
    return plane_of(frame, position, orientation, spacing, size)


def _check_one_volume(groups: _Groups, planes: list[Plane], name: str) -> None:
    """Check that the frames are of one volume; their order, number and time of acquisition may differ."""
    for (sequence, key), text in _TELLS_APART.items():
        values = {str(groups.value(index, sequence, key)) for index in range(len(planes))}
        if len(values) > 1:
            raise DataError(
                f"`image` must be one volume; the frames of {name} are of {len(values)} {text}, "
                f"{', '.join(sorted(values)[:3])}; extract one"
            )
    most = max(Counter(tuple(plane.position_mm.round(3).tolist()) for plane in planes).values())
    if most > 1:
        raise DataError(
            f"`image` must be one volume; in {name} up to {most} frames lie at one place: it holds several volumes; "
            f"extract one"
        )
