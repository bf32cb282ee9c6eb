"""The trivial references every table needs.

A reference is what costs nothing: the source left as it is, the mean training image, the region painted flat.
A method that does not beat them in the region has shown nothing there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..saving.names import target_of
from .image_files import Picture, list_images, read_grey, read_mask, same_size
from .pairs import ImagePair

REFERENCE_TEXTS = {
    "constant_fill": "the mean training image, the region painted flat in its mean training grey",
    "copy_source": "the source left as it is",
    "mean_image": "the mean of the training images",
}
"""What the references of a table are, in words, by the names of their rows."""


def copy_source(pairs: Iterable[ImagePair]) -> Iterator[ImagePair]:
    """Reference: the source itself stands for the generated image.

    Raises:
        DataError: A pair has no source.
    """
    for pair in pairs:
        if pair.source is None:
            raise DataError(f"`pairs` must have sources to copy; {pair.name} has none")
        yield replace(pair, fake=pair.source)


def mean_image(pairs: Iterable[ImagePair], data_root: str | Path) -> Iterator[ImagePair]:
    """Reference: the pixelwise mean of the target domain's training images stands for every generated image.

    Raises:
        DataError: The training images are missing, unreadable or not all of the pair's size.
    """
    means: dict[str, Picture] = {}
    for pair in pairs:
        target = target_of(pair.direction)
        if target not in means:
            means[target] = _like(_mean_of(Path(data_root) / f"train{target}"), pair.real)
        yield replace(pair, fake=same_size(means[target], pair.real, Path(data_root) / f"train{target}").copy())


def constant_fill(pairs: Iterable[ImagePair], data_root: str | Path, region: str = "tumor") -> Iterator[ImagePair]:
    """Reference: the mean training image with the region painted in one grey value.

    The value is the mean of the region's pixels over all training images of the target domain. It knows where
    the region is and what it looks like on average, and nothing else; a good region PSNR alone does not beat it.

    Raises:
        DataError: The training images are missing or unreadable, or none of them shows the region.
        MaskError: A training mask is missing or unusable.
    """
    greys: dict[str, Picture] = {}
    for pair in mean_image(pairs, data_root):
        target = target_of(pair.direction)
        if target not in greys:
            images = Path(data_root) / f"train{target}"
            mean = _region_mean(images, images.with_name(f"train{target}_{region}"))
            greys[target] = _like(np.asarray(mean), pair.real)
        pair.fake[pair.mask] = greys[target]
        yield pair


def _like(grey: npt.NDArray[np.float64], image: Picture) -> Picture:
    """Rounded to whole grey levels where the image has whole ones."""
    return np.rint(grey).astype(np.uint8) if image.dtype == np.uint8 else grey


def _mean_of(folder: Path) -> npt.NDArray[np.float64]:
    names = list_images(folder, "data_root")
    first = read_grey(folder / names[0])
    total = np.zeros(first.shape, dtype=np.float64)
    for name in names:
        total += same_size(read_grey(folder / name), first, folder / name)
    return total / len(names)


def _region_mean(images: Path, masks: Path) -> float:
    total, count = 0.0, 0
    for name in list_images(images, "data_root"):
        image = read_grey(images / name)
        inside = image[read_mask(masks / name, image.shape)]
        total += float(inside.sum(dtype=np.float64))
        count += inside.size
    if not count:
        raise DataError(f"`region` must appear in the training images to know its mean; all masks in {masks} are empty")
    return total / count
