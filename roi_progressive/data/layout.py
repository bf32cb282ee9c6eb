"""The folders of a data set on disk."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..saving.names import DOMAINS, SPLITS
from ..saving.neighbour_slices import NEIGHBOURS
from .preprocessing import to_grey


def make_folders(
    folder: Path, regions: Sequence[str], side_by_side: bool = False, with_neighbours: bool = False
) -> None:
    """Make every image and mask folder of the layout, also those that stay empty."""
    if with_neighbours:
        for name in (f"{split}{domain}" for split in SPLITS for domain in DOMAINS):
            (folder / NEIGHBOURS / name).mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        for domain in (*DOMAINS, "") if side_by_side else DOMAINS:
            for suffix in ("", *(f"_{region}" for region in regions)):
                (folder / f"{split}{domain}{suffix}").mkdir(exist_ok=True)


def read_pixels(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """A written picture or mask in 8-bit grey, ``(rows, columns)``; ``name`` has no ending."""
    from PIL import Image

    array = folder / f"{name}.npy"
    if array.exists():
        return to_grey(np.load(array))
    with Image.open(folder / f"{name}.png") as image:
        return np.array(image)
