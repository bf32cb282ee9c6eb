"""What is read in an image's place: a region's mask, or the image with the region painted over, in the image's mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from .masks import MID_GREY, MaskFiles, read_mask


@dataclass(frozen=True)
class Reading:
    """What is read: the image, a region's mask, or the image with the region painted over.

    Args:
        region: ``None`` for the image itself.
        paint: The paint, 0 black and 1 white; ``None`` for the mask.
    """

    region: str | None = None
    paint: float | None = None


class Opener:
    """Stands in for ``PIL.Image`` of a host: opens images, or what stands for them, and notes their sizes."""

    def __init__(self, masks: MaskFiles, sizes: dict[str, tuple[int, int]], reading: Reading) -> None:
        self._masks = masks
        self._sizes = sizes
        self._reading = reading
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    def open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        key = str(path)
        if key not in self._masks:
            return Image.open(path, *args, **kwargs)
        self.opened.append(key)
        region, paint = self._reading.region, self._reading.paint
        if region is None or key not in self._sizes:  # the latter is another image, which `MaskedDataset` reports
            image = Image.open(path, *args, **kwargs)
            if region is None:
                self._sizes[key] = image.size
            return image
        file = self._masks[key][region]
        size = self._sizes[key]
        mask = Image.new("L", size, 0) if file is None else read_mask(file, region, size)
        with Image.open(path, *args, **kwargs) as image:
            return _in_mode_of(image, mask) if paint is None else _painted(image, mask, paint)


def _is_wide(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _in_mode_of(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A mask in the mode of its image, white being the mode's: a host may read 16 bits by hand. Floating point has no
    white; 255 is above any half."""
    if _is_wide(image.mode) and image.mode != "F":
        return _wide(np.asarray(mask, dtype=np.float64) * 257.0, image)
    if image.mode == "RGBA":
        return Image.merge("RGBA", (mask, mask, mask, Image.new("L", mask.size, 255)))
    if image.mode == "LA":
        return Image.merge("LA", (mask, Image.new("L", mask.size, 255)))
    return mask.convert("RGB") if image.mode == "RGB" else mask


def _painted(image: Image.Image, mask: Image.Image, paint: float) -> Image.Image:
    """An image with a region painted over, with the darkest or the brightest grey."""
    image.load()
    cover = mask.point(lambda grey: 255 * (grey > MID_GREY))
    if _is_wide(image.mode):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        high = high if high > low else low + (1.0 if image.mode == "F" else 255.0)
        return _wide(np.where(np.asarray(cover) > 0, high if paint else low, values), image)
    bands = {"RGBA": "RGB", "LA": "L", "1": "L", "P": "RGB"}.get(image.mode, image.mode)
    grey = 255 if paint else 0
    n_bands = len(Image.new(bands, (1, 1)).getbands())
    colour = grey if n_bands == 1 else (grey,) * n_bands
    over = Image.composite(Image.new(bands, image.size, colour), image.convert(bands), cover)
    if image.mode in ("RGBA", "LA"):
        over.putalpha(image.getchannel("A"))
    return over


def _wide(values: Any, like: Image.Image) -> Image.Image:
    """Numbers as an image of another's mode of more than 8 bits, and of its format: readers ask for either."""
    kinds = {"F": np.float32, "I": np.int32}
    rounded = values if like.mode == "F" else np.rint(np.clip(values, 0, 2**31 - 1 if like.mode == "I" else 65535))
    made: Image.Image = Image.fromarray(rounded.astype(kinds.get(like.mode, np.uint16)))
    made.format = like.format
    return made
