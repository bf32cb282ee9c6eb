"""Image and mask files of a data set: 8-bit PNGs, or float32 arrays with PNGs as masks, checked as they are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, MaskError
from .array_files import grey_of_floats, load_array

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]


def list_images(folder: Path, argument: str) -> tuple[str, ...]:
    """Sorted names of the PNG and ``.npy`` files in ``folder``.

    Raises:
        DataError: The folder is missing or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"`{argument}` needs the folder {folder}, which is missing")
    found = (path for path in folder.iterdir() if path.suffix.lower() in (".png", ".npy") and path.is_file())
    names = tuple(sorted(path.name for path in found))
    if not names:
        raise DataError(f"`{argument}` needs PNG images in {folder}, or .npy; there are none")
    return names


def read_grey(path: Path) -> npt.NDArray[Any]:
    """An image in 0..255, [H, W]: uint8 of an 8-bit file, colour turned to grey; float64 of an array in [-1, 1].

    Raises:
        DataError: The file cannot be read or is not 8-bit (a 16-bit file would saturate silently).
    """
    if path.suffix.lower() == ".npy":
        return grey_of_floats(load_array(path, DataError), path)
    values, mode = _read(path, DataError)
    if mode not in ("L", "RGB"):
        raise DataError(f"{path} must be an 8-bit grey or RGB image; got mode {mode}; write it as 8-bit grey PNG")
    return values


def read_mask(path: Path, shape: tuple[int, ...]) -> Mask:
    """A mask file as bool [H, W]; the mask of ``x.npy`` is ``x.png``.

    Raises:
        MaskError: The file cannot be read, holds values other than 0 and 255, or has another shape than ``shape``.
    """
    if path.suffix.lower() == ".npy":
        path = path.with_suffix(".png")
    values, mode = _read(path, MaskError)
    if mode not in ("L", "1") or not ((values == 0) | (values == 255)).all():
        raise MaskError(
            f"{path} must be an 8-bit grey mask of 0 and 255; got mode {mode} and values up to {values.max()}"
        )
    if values.shape != shape:
        raise MaskError(f"{path} must have the size of its image, {_size(shape)}; got {_size(values.shape)}")
    return values > 0


def _read(path: Path, error: type[DataError] | type[MaskError]) -> tuple[Grey, str]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()  # a PNG's checksums, which Pillow leaves aside where it decodes the pixels
        with Image.open(path) as image:
            return np.array(image.convert("L"), dtype=np.uint8), image.mode
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except (OSError, SyntaxError, ValueError) as cause:  # PIL reports a broken PNG as either
        raise error(f"{path} cannot be read as an image: {str(cause).splitlines()[0]}") from cause


def same_size(image: npt.NDArray[Any], like: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The image, if it has the size of the one it is paired with.

    Raises:
        DataError: It has not; ``path`` is named.
    """
    if image.shape != like.shape:
        raise DataError(f"{path} must have the size of the paired image, {_size(like.shape)}; got {_size(image.shape)}")
    return image


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in reversed(shape)) + " px"
