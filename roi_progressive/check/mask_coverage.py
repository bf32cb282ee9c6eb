"""How often and how large the regions are in a data set, folder by folder, read from the mask files."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..plugins.masks import MID_GREY, MaskFiles, read_mask


@dataclass(frozen=True)
class Coverage:
    """One region in one folder of images.

    Args:
        folder: The images' folder, by name.
        region: The region's name.
        n_images: Images in the folder.
        areas_px: Pixels of the region in every image that holds it, in rising order.
        longest_side_px: The longest side of a box around the region in any image.
    """

    folder: str
    region: str
    n_images: int
    areas_px: tuple[int, ...]
    longest_side_px: int

    def __str__(self) -> str:
        held = f"{self.folder}: {self.region} in {len(self.areas_px)} of {self.n_images} slices"
        if not self.areas_px:
            return held
        return f"{held}, smallest {self.areas_px[0]} px, median {statistics.median_low(self.areas_px)} px"


def coverage_of(masks: MaskFiles) -> list[Coverage]:
    """Read every mask once.

    Args:
        masks: For every image file its mask file by region, as ``find_masks`` gives them.

    Raises:
        MaskError: A mask cannot be read.
    """
    by_folder: dict[str, dict[str, Mapping[str, str | None]]] = {}
    for path, files in masks.items():
        by_folder.setdefault(Path(path).parent.name, {})[path] = files
    return [
        _coverage(folder, region, [files[region] for files in images.values()])
        for folder, images in by_folder.items()
        for region in next(iter(images.values()))
    ]


def _coverage(folder: str, region: str, files: list[str | None]) -> Coverage:
    sizes = [_size_px(file, region) for file in files if file is not None]
    areas_px = sorted(area_px for area_px, _ in sizes if area_px)
    longest_px = max((side_px for _, side_px in sizes), default=0)
    return Coverage(folder, region, len(files), tuple(areas_px), longest_px)


def _size_px(file: str, region: str) -> tuple[int, int]:
    """Area of a mask, and the longer side of the box around it."""
    inside = np.asarray(read_mask(file, region)) > MID_GREY
    sides = [np.flatnonzero(inside.any(axis=axis)) for axis in (0, 1)]
    return int(inside.sum()), max((int(side[-1] - side[0] + 1) for side in sides if len(side)), default=0)
