"""Files of predicted standard deviations, in grey levels, beside the pairs they belong to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .image_files import read_grey
from .pairs import ImagePair


def with_sigma(pairs: Iterable[ImagePair], folders: Mapping[str, Path]) -> Iterator[ImagePair]:
    """The pairs with their sigma, read one by one.

    Args:
        pairs: Of the directions that ``folders`` has.
        folders: Where the maps of each direction lie, under the names of the images.

    Raises:
        DataError: On reading: a map is missing or cannot be used, as in :func:`read_sigma`.
    """
    for pair in pairs:
        yield replace(pair, sigma=read_sigma(folders[pair.direction], Path(pair.name).stem, pair.real.shape))


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
        try:
            sigma = np.load(path, allow_pickle=False)
        except (OSError, ValueError, EOFError) as cause:
            raise DataError(f"{path} cannot be read as an array: {str(cause).splitlines()[0]}") from cause
    else:
        if not path.with_suffix(".png").is_file():
            raise DataError(f"`sigma` must hold a map of every image; {folder} lacks {stem}.npy; write it as float")
        sigma = read_grey(path.with_suffix(".png"))
    if not isinstance(sigma, np.ndarray) or sigma.dtype.kind not in "fu" or sigma.shape != shape:
        what = f"{sigma.dtype} {sigma.shape}" if isinstance(sigma, np.ndarray) else "several arrays"
        raise DataError(f"{path} must be floating-point {shape}, like its image; got {what}; write one map a file")
    if not (np.isfinite(sigma).all() and sigma.min() >= 0):
        raise DataError(f"{path} must hold standard deviations in grey levels, 0 or more; some are not; check it")
    return sigma


def require_folders(folders: Iterable[Path]) -> None:
    """Check that there are folders at all, before anything is scored.

    Raises:
        DataError: One is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"`sigma` must be a folder of maps; {str(folder)!r} is not a folder; check the path")
