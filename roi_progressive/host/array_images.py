"""Arrays (``.npy``) as images: a reader registered with Pillow, so that ``Image.open`` gives them in mode ``F``.

A data set then opens them as it opens any image, and masks follow them through the same calls.
"""

from __future__ import annotations

import numpy as np
from numpy.lib import format as npy
from PIL import Image, ImageFile
from PIL.Image import Image as PillowImage

from ..errors import DataError, parsed

FORMAT = "NPY"


class ArrayImage(ImageFile.ImageFile):
    """A float32 array ``[H, W]``, little-endian and in C order, as ``numpy.save`` writes it."""

    format = FORMAT
    format_description = "NumPy array"

    def _open(self) -> None:
        file = self.fp
        assert file is not None
        try:
            if npy.read_magic(file) != (1, 0):
                raise SyntaxError("its format is not version 1.0")
            shape, by_columns, dtype = npy.read_array_header_1_0(file)
        except ValueError as error:
            raise SyntaxError(str(error)) from error
        if len(shape) != 2 or 0 in shape or by_columns or dtype != np.dtype("<f4"):
            raise SyntaxError(f"it must be a float32 array [H, W]; got {dtype} {shape}")
        self._mode = "F"
        self._size = (shape[1], shape[0])
        self.tile = [ImageFile._Tile("raw", (0, 0, *self._size), file.tell(), ("F;32F", 0, 1))]


Image.register_open(FORMAT, ArrayImage, lambda prefix: prefix.startswith(npy.MAGIC_PREFIX))


def checked(image: PillowImage, path: str, channels: int) -> PillowImage:
    """An image of floats for a network of ``channels``, read and looked at.

    Raises:
        DataError: The network wants colour, or a value is NaN or beyond [-1, 1].
        UnreadableError: The file is cut off.
    """
    if channels != 1:
        raise DataError(
            f"`dataroot` holds arrays, which have one channel; got {channels} for {path!r}; use 8-bit images"
        )
    parsed(image.load)
    values = np.asarray(image)
    if not (np.abs(values) <= 1.0).all():
        raise DataError(
            f"`dataroot` must hold arrays in [-1, 1]; {path!r} has {values.min():g} to {values.max():g}; "
            f"prepare it anew"
        )
    return image
