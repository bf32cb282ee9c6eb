"""Images of any folder, whatever wrote them: 8- and 16-bit files and arrays, all on the scale 0..255."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, MaskError
from .array_files import grey_of_floats, load_array
from .image_files import Mask, read_grey, read_mask

Picture = npt.NDArray[Any]

ENDINGS = (".png", ".tif", ".tiff", ".npy")
WHITE_16_BIT = 65535.0
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


def list_pictures(folder: Path, argument: str) -> dict[str, Path]:
    """The images of a folder by their names without endings, sorted.

    Raises:
        DataError: The folder is missing or holds none, or two that differ in their endings only.
    """
    if not folder.is_dir():
        raise DataError(f"`{argument}` must be a folder of images; {str(folder)!r} is not a folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in ENDINGS and path.is_file():
            if path.stem in found:
                raise DataError(f"`{argument}` must hold an image once; {folder} has {path.name} twice; remove one")
            found[path.stem] = path
    if not found:
        raise DataError(f"`{argument}` must hold images ({', '.join(ENDINGS)}); {folder} has none; check the path")
    return found


def read_picture(path: Path, white: float = WHITE_16_BIT) -> Picture:
    """An image on the scale 0..255, [H, W]; nothing is rounded or clipped.

    8-bit files are taken as they are (uint8; colour is turned to grey). 16-bit files are scaled by ``255 / white``, to
    float64. Arrays (``.npy``) hold uint8, uint16, or floating-point values in [-1, 1], -1 being 0 and 1 being 255.

    Args:
        path: The file.
        white: The value of 16-bit files that stands for 255.

    Raises:
        DataError: The file cannot be read, is of another kind, or has values beyond its range.
    """
    if path.suffix.lower() == ".npy":
        return _from_array(load_array(path, DataError), path, white)
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in _MODES_16_BIT:
                return read_grey(path)
            return _from_16_bit(np.asarray(image), path, white)
    except (OSError, SyntaxError) as cause:
        raise DataError(f"{path} cannot be read as an image: {str(cause).splitlines()[0]}") from cause


def read_region(path: Path, shape: tuple[int, ...]) -> Mask:
    """A mask as bool [H, W], from an image of 0 and 255 or an array of booleans.

    Raises:
        MaskError: The file cannot be read, has other values, or has another shape than ``shape``.
    """
    if path.suffix.lower() != ".npy":
        return read_mask(path, shape)
    values = load_array(path, MaskError)
    if values.dtype != np.bool_ or values.shape != shape:
        raise MaskError(f"{path} must be bool {shape}, like its image; got {values.dtype} {values.shape}")
    return values


def _from_array(values: Picture, path: Path, white: float) -> Picture:
    if values.ndim == 2 and values.dtype == np.uint8:
        return values
    if values.ndim == 2 and values.dtype == np.uint16:
        return _from_16_bit(values, path, white)
    return grey_of_floats(values, path)


def _from_16_bit(values: Picture, path: Path, white: float) -> Picture:
    if values.min() < 0 or values.max() > white:
        raise DataError(f"{path} must lie in 0..{white:g}; got up to {values.max()}; say another --white")
    scaled: Picture = values.astype(np.float64) * (255.0 / white)
    return scaled
