"""What is found in a folder of scans: the scans, and the masks that belong to each."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .label_names import Labels
from .medical_packages import simpleitk

_SAME_PLACE = 0.25
"""Two grids are one where no corner is farther from its place, in its shortest side: headers round."""


@dataclass(frozen=True)
class FoundMask:
    """A mask file.

    Args:
        path: The file.
        labels: The labels of each region it holds by name; no labels where the whole file is one region. Empty where
            nothing tells the names of its labels.
        by_name: Whether the file or its folder tells the names, so that a list may give them in place of numbers.
    """

    path: Path
    labels: Labels
    by_name: bool = True

    def cell(self, labels: tuple[int, ...], name: str | None = None) -> str:
        """What a list says of it: the file, or the file and the name or numbers of labels."""
        if not labels:
            return str(self.path)
        plain = name is not None and not set(name) & set("+#,") and not name.isdigit()
        return f"{self.path}#{name}" if plain and self.by_name else f"{self.path}#{'+'.join(map(str, labels))}"


@dataclass(frozen=True)
class FoundScan:
    """A scan.

    Args:
        patient: Whose it is.
        modality: In a word.
        image: Its file.
        phase: What tells it from others of the patient and modality, e.g. a session; ``None`` where nothing does.
        masks: Those drawn on it.
    """

    patient: str
    modality: str
    image: Path
    phase: str | None = None
    masks: tuple[FoundMask, ...] = ()

    def with_masks(self, masks: tuple[FoundMask, ...]) -> FoundScan:
        """The same scan with other masks."""
        return replace(self, masks=masks)


def same_grid(one: Path, other: Path) -> bool:
    """Whether two volume files have the same voxels at the same places, by their headers; false where one has none."""
    first, second = _reader(one), _reader(other)
    if first is None or second is None or first.GetSize() != second.GetSize():
        return False
    apart = np.linalg.norm(_corners_mm(first) - _corners_mm(second), axis=1).max()
    return bool(apart <= _SAME_PLACE * min(first.GetSpacing()))


def has_voxels(path: Path, labels: tuple[int, ...]) -> bool:
    """Whether a mask file holds a label, or anything where there are no labels; true where it cannot be read.

    What is wrong with the file is said by those who use it.
    """
    try:
        values = simpleitk().GetArrayFromImage(simpleitk().ReadImage(str(path)))
    except RuntimeError:
        return True
    if not labels:
        return bool((values > 0).any())
    return any(bool((np.abs(values.astype(np.float32) - label) < 0.5).any()) for label in labels)


def dimensions(path: Path) -> tuple[int, ...]:
    """How many voxels a volume file has along each axis, and values a voxel if several; empty without a header."""
    reader = _reader(path)
    if reader is None:
        return ()
    values = reader.GetNumberOfComponents()
    return (*reader.GetSize(), *((values,) if values > 1 else ()))


def _reader(path: Path) -> Any:
    reader = simpleitk().ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None
    return reader


def _corners_mm(reader: Any) -> Any:
    size, spacing = np.array(reader.GetSize()), np.array(reader.GetSpacing())
    axes = np.array(reader.GetDirection()).reshape(size.size, size.size) * spacing
    corners = np.array([[index >> axis & 1 for axis in range(size.size)] for index in range(2**size.size)])
    return corners * (size - 1) @ axes.T + np.array(reader.GetOrigin())
