"""Image, mask and sigma files: read as they are onto the scale 0..255, or refused by name.

A data set's own files are 8-bit PNGs, or float32 arrays with PNGs as masks; those of other programs may have 16 bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, MaskError, UnreadableError, parsed, system_reason
from ..saving.decoding import decoded_array, decoded_image
from ..saving.named_files import files_by_name
from ..saving.stray_files import is_stray

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]
Picture = npt.NDArray[Any]

ENDINGS = (".png", ".tif", ".tiff", ".npy")
WHITE_16_BIT = 65535.0
ARRAY_RANGE = (-1.0, 1.0)
_PHOTOMETRIC = 262
"""The TIFF tag that says which end of the range is white."""
_MODES_16_BIT = ("I;16", "I;16B", "I;16L", "I;16N", "I")


@dataclass(frozen=True)
class Scale:
    """How the numbers of image files become 0..255.

    Args:
        white: The value of 16-bit files that stands for 255; ``None`` where nobody said, which is 65535.
        array_range: The values of floating-point arrays that stand for 0 and 255; ``None`` where nobody said, which is
            -1 and 1.

    Raises:
        DataError: The numbers cannot be a scale.
    """

    white: float | None = None
    array_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        low, high = self.array_range_or_default
        if not (np.isfinite([low, high]).all() and low < high):
            raise DataError(f"`array_range` must be two rising numbers; got {low:g} and {high:g}; e.g. 0 1")

    @property
    def white_or_default(self) -> float:
        """The value of 16-bit files that stands for 255."""
        return WHITE_16_BIT if self.white is None else self.white

    @property
    def array_range_or_default(self) -> tuple[float, float]:
        """The values of floating-point arrays that stand for 0 and 255."""
        return ARRAY_RANGE if self.array_range is None else self.array_range


def list_images(folder: Path, argument: str) -> tuple[str, ...]:
    """Sorted names of the PNG and ``.npy`` files in ``folder``.

    Raises:
        DataError: The folder is missing or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"`{argument}` needs the folder {folder}, which is missing")
    found = (path for path in folder.iterdir() if path.suffix.lower() in (".png", ".npy") and path.is_file())
    names = tuple(sorted(path.name for path in found if not is_stray(path)))
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
    return _grey_of_8_bit(*_read(path, DataError), path)


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
    return files_by_name(folder, argument, ENDINGS, "image")


def read_picture(path: Path, scale: Scale = Scale()) -> Picture:
    """An image on the scale 0..255, [H, W]; nothing is rounded or clipped.

    8-bit files are taken as they are (uint8; colour is turned to grey). 16-bit files are scaled by ``255 / white``, to
    float64. Arrays (``.npy``) hold uint8, uint16, or floating-point
    values in [-1, 1], or another range, the ends of which are 0 and 255.

    Args:
        path: The file.
        scale: What stands for 0 and 255.

    Raises:
        DataError: The file cannot be read, is of another kind, or has values beyond its range.
    """
    if path.suffix.lower() == ".npy":
        return _from_array(_load_array(path, DataError), path, scale)
    values, mode = _read(path, DataError)
    if mode in _MODES_16_BIT:
        return _from_16_bit(values, path, scale.white_or_default)
    return _grey_of_8_bit(values, mode, path)


def raw_values(path: Path) -> Picture | None:
    """The stored values of a 16-bit file or a floating-point array; ``None`` of 8 bits, whose scale is no question.

    Raises:
        DataError: The file cannot be read.
    """
    if path.suffix.lower() == ".npy":
        values = _load_array(path, DataError)
        return values if values.dtype == np.uint16 or values.dtype.kind == "f" else None
    values, mode = _read(path, DataError)
    return values if mode in _MODES_16_BIT else None


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
        return decoded_array(path)
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read as an array: {system_reason(cause)}") from cause
    except UnreadableError as cause:
        raise error(f"{path} cannot be read as an array: {cause.line}") from cause


def _grey_of_floats(values: Picture, path: Path, ends: tuple[float, float] = ARRAY_RANGE) -> npt.NDArray[np.float64]:
    """Floating-point values in [-1, 1], [H, W], as grey in 0..255; nothing is rounded. Another range has other ends.

    Raises:
        DataError: They are of another type or shape, or lie beyond the range; NaN does too.
    """
    if values.ndim != 2:
        raise DataError(f"{path} must be an array [H, W]; got {values.shape}; save one slice a file")
    if not np.issubdtype(values.dtype, np.floating):
        raise DataError(f"{path} must be uint8, uint16 or floating-point; got {values.dtype}; convert it")
    low, high = ends
    if not ((values >= low) & (values <= high)).all():
        raise DataError(f"{path} must lie in [{low:g}, {high:g}]; got {values.min():g} to {values.max():g}; scale it")
    grey: npt.NDArray[np.float64] = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return grey


def _from_array(values: Picture, path: Path, scale: Scale) -> Picture:
    if values.ndim == 2 and values.dtype == np.uint8:
        return values
    if values.ndim == 2 and values.dtype == np.uint16:
        return _from_16_bit(values, path, scale.white_or_default)
    return _grey_of_floats(values, path, scale.array_range_or_default)


def _from_16_bit(values: Picture, path: Path, white: float) -> Picture:
    if values.min() < 0 or values.max() > white:
        raise DataError(f"{path} must lie in 0..{white:g}; got up to {values.max()}; give another --white")
    scaled: Picture = values.astype(np.float64) * (255.0 / white)
    return scaled


def _read(path: Path, error: type[DataError] | type[MaskError]) -> tuple[Picture, str]:
    """The values of an image and its mode: 16-bit ones as they are, all others turned to 8-bit grey.

    Raises:
        DataError or MaskError: The file is missing, damaged or no image; whichever is given as ``error``.
    """
    try:
        image = decoded_image(path)
        if image.mode in _MODES_16_BIT:
            if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == 0:
                # Of 8 bits Pillow turns these round, of 16 it does not.
                raise error(f"{path} must have 0 as black; it is a TIFF whose 0 is white; save it the other way")
            return np.asarray(image), image.mode
        return np.array(parsed(image.convert, "L"), dtype=np.uint8), image.mode
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except OSError as cause:
        raise error(f"{path} cannot be read as an image: {system_reason(cause)}") from cause
    except UnreadableError as cause:
        raise error(f"{path} cannot be read as an image: {cause.line}") from cause


def _grey_of_8_bit(values: Picture, mode: str, path: Path) -> Grey:
    if mode not in ("L", "RGB"):
        raise DataError(f"{path} must be an 8-bit grey or RGB image; got mode {mode}; write it as 8-bit grey PNG")
    return values


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in reversed(shape)) + " px"
