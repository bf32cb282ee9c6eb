"""Image, mask and sigma files: read as they are onto the scale 0..255, or refused by name.

A data set's own files are 8-bit PNGs, or float32 arrays with PNGs as masks; those of other programs may have 16 bits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, MaskError, first_line

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[Any]

ENDINGS = (".png", ".tif", ".tiff", ".npy")
WHITE_16_BIT = 65535.0
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


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
        return _grey_of_floats(_load_array(path, DataError), path)
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


def same_size(image: npt.NDArray[Any], like: npt.NDArray[Any], path: Path) -> npt.NDArray[Any]:
    """The image, if it has the size of the one it is paired with.

    Raises:
        DataError: It has not; ``path`` is named.
    """
    if image.shape != like.shape:
        raise DataError(f"{path} must have the size of the paired image, {_size(like.shape)}; got {_size(image.shape)}")
    return image


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
        return _from_array(_load_array(path, DataError), path, white)
    from PIL import Image

    try:
        with Image.open(path) as image:
            if image.mode not in _MODES_16_BIT:
                return read_grey(path)
            return _from_16_bit(np.asarray(image), path, white)
    except (OSError, SyntaxError) as cause:
        raise DataError(f"{path} cannot be read as an image: {first_line(cause)}") from cause


def read_region(path: Path, shape: tuple[int, ...]) -> Mask:
    """A mask as bool [H, W], from an image of 0 and 255 or an array of booleans.

    Raises:
        MaskError: The file cannot be read, has other values, or has another shape than ``shape``.
    """
    if path.suffix.lower() != ".npy":
        return read_mask(path, shape)
    values = _load_array(path, MaskError)
    if values.dtype != np.bool_ or values.shape != shape:
        raise MaskError(f"{path} must be bool {shape}, like its image; got {values.dtype} {values.shape}")
    return values


def read_sigma(folder: Path, stem: str, shape: tuple[int, ...]) -> npt.NDArray[Any]:
    """The map of one slice: ``<stem>.npy``, floating-point, or else ``<stem>.png``, rounded to whole grey levels.

    Returns:
        [H, W], grey levels, at least 0.

    Raises:
        DataError: There is neither, the file cannot be read, has another shape than ``shape``, or values that are
            no standard deviations.
    """
    path = folder / f"{stem}.npy"
    if path.is_file():
        sigma = _load_array(path, DataError)
    else:
        if not path.with_suffix(".png").is_file():
            raise DataError(f"`sigma` must hold a map of every image; {folder} lacks {stem}.npy; write it as float")
        sigma = read_grey(path.with_suffix(".png"))
    if sigma.dtype.kind not in "fu" or sigma.shape != shape:
        raise DataError(
            f"{path} must be floating-point {shape}, like its image; got {sigma.dtype} {sigma.shape}; "
            f"write one map a file"
        )
    if not (np.isfinite(sigma).all() and sigma.min() >= 0):
        raise DataError(f"{path} must hold standard deviations in grey levels, 0 or more; some are not; check it")
    return sigma


def _load_array(path: Path, error: type[DataError] | type[MaskError]) -> Picture:
    """The one array of a file.

    Raises:
        DataError or MaskError: The file is missing, damaged, or holds several; whichever is given as ``error``.
    """
    try:
        loaded = np.load(path, allow_pickle=False)
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except (OSError, ValueError, EOFError) as cause:
        raise error(f"{path} cannot be read as an array: {first_line(cause)}") from cause
    if not isinstance(loaded, np.ndarray):
        raise error(f"{path} must hold one array; it holds several; save one slice a file")
    return loaded


def _grey_of_floats(values: Picture, path: Path) -> npt.NDArray[np.float64]:
    """Floating-point values in [-1, 1], [H, W], as grey in 0..255; nothing is rounded.

    Raises:
        DataError: They are of another type or shape, or lie beyond the range; NaN does too.
    """
    if values.ndim != 2:
        raise DataError(f"{path} must be an array [H, W]; got {values.shape}; save one slice a file")
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{path} must be uint8, uint16 or floating-point; got {values.dtype}; convert it")
    if not (np.abs(values) <= 1.0).all():
        raise DataError(f"{path} must lie in [-1, 1]; got {values.min():g} to {values.max():g}; scale it")
    grey: npt.NDArray[np.float64] = (values.astype(np.float64) + 1.0) * 127.5
    return grey


def _from_array(values: Picture, path: Path, white: float) -> Picture:
    if values.ndim == 2 and values.dtype == np.uint8:
        return values
    if values.ndim == 2 and values.dtype == np.uint16:
        return _from_16_bit(values, path, white)
    return _grey_of_floats(values, path)


def _from_16_bit(values: Picture, path: Path, white: float) -> Picture:
    if values.min() < 0 or values.max() > white:
        raise DataError(f"{path} must lie in 0..{white:g}; got up to {values.max()}; give another --white")
    scaled: Picture = values.astype(np.float64) * (255.0 / white)
    return scaled


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
        raise error(f"{path} cannot be read as an image: {first_line(cause)}") from cause


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in reversed(shape)) + " px"
