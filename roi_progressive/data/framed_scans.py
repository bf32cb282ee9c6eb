"""How the scans of a data set were cut, so that one of them that is translated whole is cut as it was there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..saving.decoding import decoded_array, decoded_image
from ..saving.records import NUMBER, EntryError, entry, of_kind, read_json
from .framing import Square
from .options import PrepareOptions
from .pictures import Intensities, picture_pixels

_ROUNDING_GREY = 1.0
"""By how much a picture may differ when another machine makes it again."""


@dataclass(frozen=True)
class FramedScan:
    """One scan of a data set.

    Args:
        domain: ``A`` or ``B``.
        square: What was cut out of its slices.
        spacing_mm: Distance of its slices, rows and columns.
        of_grey: How its values come back from grey levels; of an MR no other scan's do likewise.
        pictures: Its pictures, without the ending of their names, by the index of the slice.
    """

    domain: str
    square: Square
    spacing_mm: tuple[float, ...]
    of_grey: tuple[float, ...]
    pictures: dict[int, Path]

    def is_of(self, found: Intensities, spacing_mm: tuple[float, float, float], options: PrepareOptions) -> bool:
        """Whether the picture of its first slice is the one that its square makes of these values."""
        index, path = next(iter(self.pictures.items()))
        if index >= len(found.values) or not np.allclose(self.spacing_mm, spacing_mm, rtol=1e-5):
            return False
        if not np.allclose(self.of_grey, found.mapping.of_grey(), rtol=1e-4):
            return False
        again = picture_pixels(found.scaled(index), self.square, options)
        return _holds(path, again)


@dataclass(frozen=True)
class FramedScans:
    """The scans of a data set. One is told by its pictures, so that it may have moved, and no name of it is needed.

    Args:
        data: The data set, a folder that ``prepare`` wrote, or its manifest. Where it is gone no scan is known.
    """

    data: Path

    def scan_of(
        self, domain: str, found: Intensities, spacing_mm: tuple[float, float, float], options: PrepareOptions
    ) -> FramedScan | None:
        """The scan of the data set that this one is; ``None`` where it is none of them.

        Args:
            domain: Of the scan, ``A`` or ``B``.
            found: Its values, in the order of the slices.
            spacing_mm: Distance of its slices, rows and columns.
            options: How the slices were made.
        """
        of_domain = (scan for scan in self._scans if scan.domain == domain)
        return next((scan for scan in of_domain if scan.is_of(found, spacing_mm, options)), None)

    @cached_property
    def _scans(self) -> list[FramedScan]:
        folder = self.data if self.data.is_dir() else self.data.parent
        scans: dict[tuple[str, ...], FramedScan] = {}
        try:
            for record in entry(read_json(folder / "manifest.json"), "slices", list):
                _add(scans, folder, of_kind(record, "a slice", dict))
        except (OSError, ValueError):  # a scan is translated without its data set as well
            return []
        return list(scans.values())


def _add(scans: dict[tuple[str, ...], FramedScan], folder: Path, record: Mapping[str, Any]) -> None:
    """Put a slice of the manifest to the others of its scan."""
    key = tuple(entry(record, name, str) for name in ("domain", "patient", "phase"))
    sides = entry(record, "square_px", dict)
    square = Square(*(entry(sides, side, int) for side in ("top", "left", "height", "width")))
    spacing_mm = tuple(map(float, entry(record, "source_spacing_mm", list)))
    grey = entry(record, "intensity", dict)
    of_grey = tuple(float(entry(grey, name, *NUMBER)) for name in ("a", "b"))
    scan = scans.setdefault(key, FramedScan(key[0], square, spacing_mm, of_grey, {}))
    if (scan.square, scan.spacing_mm, scan.of_grey) != (square, spacing_mm, of_grey):
        raise EntryError("its slices of one scan are of several squares")
    picture = folder / f"{entry(record, 'split', str)}{key[0]}" / entry(record, "name", str)
    scan.pictures[entry(record, "index", int)] = picture


def _holds(picture: Path, pixels: npt.NDArray[Any]) -> bool:
    """Whether a picture shows these pixels, and more than one grey, which any empty slice has."""
    exact = pixels.dtype == np.float32
    path = picture.with_name(picture.name + (".npy" if exact else ".png"))
    try:
        stored = decoded_array(path) if exact else np.asarray(decoded_image(path))
    except (OSError, ValueError):
        return False
    if stored.shape != pixels.shape or np.ptp(stored) == 0:
        return False
    apart = float(np.abs(stored.astype(np.float64) - pixels).max())
    return apart * (127.5 if exact else 1.0) <= _ROUNDING_GREY
