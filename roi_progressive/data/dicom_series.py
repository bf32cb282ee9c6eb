"""A folder of DICOM files as one volume.

The headers are read with pydicom: SimpleITK's own list of a folder leaves a truncated file out without a word, fills
up what a file's pixels lack with zeros, and squeezes a series with a gap together after a mere warning.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .dicom_files import DISC_LIST, class_of, is_secondary_capture, kind_of, read_dicom
from .dicom_pixels import check_grey, is_cut_short, padding_of, stored_values, transformed
from .series_geometry import Plane, plane_of, stack_of, tilt_note
from .stored_volume import DicomOrigin, StoredVolume

_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "dicomdir"})
_ONE_VALUE = {
    "EchoTime": "echo times",
    "EchoNumbers": "echoes",
    "TemporalPositionIdentifier": "time points",
    "DiffusionBValue": "b-values",
    "KVP": "tube voltages",
    "ConvolutionKernel": "reconstruction kernels",
}
"""What slices of one volume have in common."""
_TELLS_APART = {
    **_ONE_VALUE,
    "AcquisitionNumber": "acquisitions",
    "ImageType": "kinds of image",
    "TriggerTime": "trigger times",
    "AcquisitionTime": "acquisition times",
}
"""What slices at one place may differ in."""


def read_series(folder: Path, modality: str | None) -> StoredVolume:
    """Read the one series of a modality in a folder; series of other modalities and contours may lie beside it.

    What a disc, a PACS or an operating system leaves beside slices is passed over: DICOMDIR, hidden files, reports,
    screenshots, scouts.

    Args:
        folder: Holds the files, whatever their names; folders below it are not searched.
        modality: As DICOM has it, e.g. ``CT`` or ``MR``; ``None`` takes whichever is there.

    Raises:
        DataError: The folder has no series of the modality or several; a file is damaged, in colour or holds several
            frames; slices are no stack of one volume: see ``stack_of``.
    """
    contents, notes = _contents(folder)
    wanted = _of_modality(contents, modality, folder.name)
    slices, passed_over = _slices(wanted, folder.name)
    notes += passed_over
    _check_one_series(slices, modality or "one modality", folder.name)
    planes = [_plane(file, content) for file, content in slices.items()]
    _check_one_volume(planes, list(slices.values()), folder.name)
    stack = stack_of(planes, folder.name)
    ordered = [list(slices.items())[index] for index in stack.order]
    first = ordered[0][1]
    array = np.empty((len(ordered), int(first.Rows), int(first.Columns)), dtype=np.float32)
    padding = None
    for index, (file, content) in enumerate(ordered):
        stored = stored_values(content, f"{file.name} in {folder.name}")
        array[index] = transformed(stored, content, f"{file.name} in {folder.name}")[0]
        marked = padding_of(stored, content)
        if marked is not None:
            padding = np.zeros(array.shape, dtype=bool) if padding is None else padding
            padding[index] = marked[0]
        del content.PixelData  # or every slice would be kept twice
    notes += [*tilt_note(stack, folder.name), *_incomplete_note(list(slices.values()), folder.name)]
    frame = str(first.get("FrameOfReferenceUID", "")) or None
    instances = frozenset(str(content.get("SOPInstanceUID", "")) for content in slices.values())
    origin = DicomOrigin(str(first.SeriesInstanceUID), frame, instances)
    return StoredVolume(array, stack.grid, padding, origin, tuple(notes))


def _contents(folder: Path) -> tuple[dict[Path, Any], list[str]]:
    """The DICOM files of a folder, and what to tell of the others."""
    found, others = {}, []
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.name.startswith(".") or file.name.lower() in _SYSTEM_FILES:
            continue
        try:
            content = read_dicom(file)
        except Exception as error:  # what pydicom raises on damaged bytes depends on where they are damaged
            raise DataError(_damaged(file)) from error
        if content is None:
            others.append(file)
        elif str(class_of(content)) != DISC_LIST:
            found[file] = content
    patterns = {_pattern(file) for file in found}
    for file in others:
        if file.suffix.lower() == ".dcm" or _pattern(file) in patterns:
            raise DataError(_damaged(file))
    alike = [file.name for file in others if file.suffix.lower() in {known.suffix.lower() for known in found}]
    return found, [f"passed over {name} in {folder.name}, which is no DICOM file" for name in alike]


def _pattern(file: Path) -> str:
    """A file's name without its numbers: slices of one series differ in them alone."""
    return re.sub(r"\d+", "#", file.name.lower())


def _damaged(file: Path) -> str:
    return f"`image` cannot be read: {file.name} in {file.parent.name} is damaged or no DICOM file; export it again"


def _of_modality(contents: Mapping[Path, Any], modality: str | None, name: str) -> dict[Path, Any]:
    if not contents:
        raise DataError(f"`image` must be a volume file or a folder of DICOM files; {name} holds none; check the path")
    for file, content in contents.items():
        if "Modality" not in content and "PixelData" in content:
            raise DataError(f"`image` must say its modality; {file.name} in {name} does not; export it again")
    wanted = {
        file: content
        for file, content in contents.items()
        if str(content.get("Modality", "")) == modality or (modality is None and "PixelData" in content)
    }
    if not wanted:
        others = ", ".join(sorted({str(content.get("Modality", kind_of(content))) for content in contents.values()}))
        raise DataError(f"`image` must be of modality {modality}; {name} holds {others}; correct the modality or path")
    return wanted


def _slices(wanted: Mapping[Path, Any], name: str) -> tuple[dict[Path, Any], list[str]]:
    """Of the files of a modality those that are slices, and what to tell of the others."""
    found, captures, colours, scouts = {}, [], [], {}
    for file, content in wanted.items():
        if is_secondary_capture(content):
            captures.append(file.name)
        elif "Rows" not in content and "PixelData" not in content:
            continue  # a report
        elif int(content.get("SamplesPerPixel", 1)) != 1 or "PALETTE" in str(content.get("PhotometricInterpretation")):
            colours.append(file)
        elif "LOCALIZER" in [str(part).upper() for part in content.get("ImageType", None) or []]:
            scouts[file] = content
        else:
            found[file] = content
    if not found and not scouts:
        if colours:
            check_grey(wanted[colours[0]], f"{colours[0].name} in {name}")
        kinds = ", ".join(sorted({kind_of(content) for content in wanted.values()}))
        raise DataError(f"`image` must be a series of slices; {name} holds {kinds} only; give the folder of the scan")
    # A scout of the slices' own series is a fault of theirs: its place among them is refused with their geometry.
    own = {str(content.get("SeriesInstanceUID", "")) for content in found.values()}
    inside = {file: content for file, content in scouts.items() if str(content.get("SeriesInstanceUID", "")) in own}
    scouts = {file: content for file, content in scouts.items() if file not in inside}
    found |= inside
    notes = [
        f"passed over {_some([str(file) for file in left_out])} in {name}: {why}"
        for left_out, why in (
            (captures, "secondary captures, no slices"),
            ([file.name for file in colours], "in colour, no slices"),
            ([file.name for file in scouts] if found else [], "a scout, by its ImageType"),
        )
        if left_out
    ]
    return found or scouts, notes


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _check_one_series(slices: Mapping[Path, Any], modality: str, name: str) -> None:
    numbers = Counter(str(content.get("SeriesInstanceUID", "")) for content in slices.values())
    if len(numbers) > 1:
        raise DataError(
            f"`image` must be one series; {name} holds {len(numbers)} of {modality}, of "
            f"{', '.join(map(str, numbers.values()))} files; give each a folder of its own"
        )


def _plane(file: Path, content: Any) -> Plane:
    name = f"{file.name} in {file.parent.name}"
    try:
        whole = not is_cut_short(content)
        frames = int(content.get("NumberOfFrames", None) or 1)
        size = (int(content.Rows), int(content.Columns))
        place = [content.get(key) for key in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")]
        numbers = [None if value is None else [float(number) for number in value] for value in place]
    except Exception as error:  # a value is missing, or is none of its kind
        raise DataError(_damaged(file)) from error
    if not whole:
        raise DataError(f"`image` cannot be read: {name} is cut short; export it again")
    if frames > 1:
        raise DataError(f"`image` must have one slice a file; {file.name} holds {frames}; name the file itself")
    position, orientation, spacing = numbers
    if position is None or orientation is None or spacing is None:
        raise DataError(
            f"`image` cannot be placed: {name} lacks its position, orientation or pixel spacing; export it again"
        )
    return plane_of(name, position, orientation, spacing, size)


def _check_one_volume(planes: Sequence[Plane], contents: Sequence[Any], name: str) -> None:
    """Check that no slice is of another echo, time or acquisition than its neighbours."""
    places = Counter(tuple(plane.position_mm.round(3).tolist()) for plane in planes)
    most = max(places.values())
    if most > 1:
        what = next((text for key, text in _TELLS_APART.items() if len(_values(contents, key)) > 1), "copies")
        raise DataError(
            f"`image` must have evenly spaced slices; in {name} up to {most} lie at one place: it holds several "
            f"{what}; give the folder of one volume"
        )
    for key, text in _ONE_VALUE.items():
        values = _values(contents, key) - {"none"}
        if len(values) > 1:
            raise DataError(
                f"`image` must be one volume; the slices in {name} are of {len(values)} {text}, "
                f"{', '.join(sorted(values)[:3])}; give the folder of one"
            )
    along = np.cross(*planes[0].axes)
    numbers = [
        str(contents[index].get("AcquisitionNumber", ""))
        for index in np.argsort([float(plane.position_mm @ along) for plane in planes], kind="stable")
    ]
    runs = 1 + sum(before != after for before, after in pairwise(numbers))
    if runs > len(set(numbers)) and str(contents[0].get("Modality")) == "CT":
        raise DataError(
            f"`image` must be one acquisition; in {name} slices of {len(set(numbers))} lie between each other; give "
            f"the folder of one"
        )


def _values(contents: Sequence[Any], key: str) -> set[str]:
    """The different values of an element, numbers to four digits: scanners compute some of them slice by slice."""
    found = set()
    for content in contents:
        value = content.get(key)
        try:
            found.add(f"{float(value):.4g}")
        except (TypeError, ValueError):
            found.add("none" if value is None or value == "" else str(value))
    return found


def _incomplete_note(contents: Sequence[Any], name: str) -> list[str]:
    """The scanner may have written down of how many slices an acquisition is."""
    counts = {str(content.get("ImagesInAcquisition", "") or "") for content in contents}
    acquisitions = _values(contents, "AcquisitionNumber")
    if len(counts) == 1 and len(acquisitions) == 1 and (text := counts.pop()).isdigit() and int(text) > len(contents):
        return [
            f"{name} holds {len(contents)} slices of an acquisition of {text}; check that none is missing at its ends"
        ]
    return []
