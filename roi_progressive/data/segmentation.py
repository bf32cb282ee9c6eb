"""A segment of a DICOM SEG file as a mask, read with highdicom."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, first_line
from .contours import closest_name
from .dicom_files import drawn_names, read_named
from .medical_packages import highdicom
from .stored_volume import DicomOrigin, Grid, StoredVolume


def read_segment(region: str, path: Path, segment: str, origin: DicomOrigin | None) -> StoredVolume:
    """Read one segment; frames that the file leaves out, because they would be empty, are empty.

    Args:
        region: Column of the list, for messages.
        path: The SEG file.
        segment: The segment's label, as written in the file.
        origin: Of the image it marks, where that came from DICOM files.

    Returns:
        0 and 1, or of a fractional segment the share from 0 to 1, on the file's own grid.

    Raises:
        DataError: highdicom is not installed; the file is damaged, has no such segment or several, is of another frame
            of reference than the image, or its frames are no stack.
    """
    content = read_named(region, path)
    labels = drawn_names(content)
    numbers = [
        int(item.SegmentNumber)
        for item, label in zip(content.get("SegmentSequence", None) or [], labels, strict=True)
        if label == segment
    ]
    if not segment or not numbers:
        raise closest_name(region, path.name, segment, labels, "segment")
    if len(numbers) > 1:
        raise DataError(
            f"`{region}` must name one segment; {path.name} has {len(numbers)} called {segment!r}; rename them in the "
            f"file"
        )
    frame = str(content.get("FrameOfReferenceUID", "") or "")
    if origin is not None and origin.frame_of_reference and frame and frame != origin.frame_of_reference:
        raise DataError(
            f"`{region}` must be drawn on its image; {path.name} is of another frame of reference: its coordinates are "
            f"another scan's; give the segmentation of this one"
        )
    hd = highdicom()
    try:
        volume: Any = hd.seg.segread(path).get_volume(segment_numbers=numbers)
        volume = volume.squeeze_channel() if volume.number_of_channel_dimensions else volume
    except Exception as error:  # what highdicom raises depends on what the file lacks
        raise DataError(
            f"`{region}` cannot be read: {path.name} is no volume of segments: {first_line(error)}; convert it"
        ) from error
    # highdicom's first axis runs along the frames, its affine is DICOM's.
    affine = np.asarray(volume.affine, dtype=np.float64)[:, [2, 1, 0, 3]]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    (x, y, z), (columns_mm, rows_mm, slices_mm) = affine[:3, 3].tolist(), steps.tolist()
    grid = Grid((x, y, z), (columns_mm, rows_mm, slices_mm), affine[:3, :3] / steps)
    return StoredVolume(np.asarray(volume.array, dtype=np.float32), grid)
