"""Pictures and arrays as whole files: decoded with their checksums compared, or refused, whatever is in them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import UnreadableError, parsed

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage


def decoded_image(path: str | Path) -> PillowImage:
    """An image, all of its pixels read, in the mode of the file.

    Raises:
        OSError: The system does not give the file.
        UnreadableError: It is no image, damaged, or one that would fill the memory.
    """
    _require_readable(path)
    return parsed(_verified_and_loaded, path)


def verify_image(path: str | Path) -> None:
    """Compare a PNG with its checksums, which Pillow leaves aside where it decodes the pixels.

    Raises:
        OSError: The system does not give the file.
        UnreadableError: They do not match, or the file is no image.
    """
    _require_readable(path)
    parsed(_verified, path)


def decoded_array(path: str | Path) -> npt.NDArray[Any]:
    """The one array of a ``.npy`` file.

    Raises:
        OSError: The system does not give the file.
        UnreadableError: It is no array of numbers, damaged, or holds several.
    """
    _require_readable(path)
    loaded = parsed(np.load, path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise UnreadableError("it holds several arrays; save one slice a file")
    return loaded


def _require_readable(path: str | Path) -> None:
    """What the system refuses is told apart from what is wrong with the content."""
    with open(path, "rb"):
        pass


def _verified(path: str | Path) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()


def _verified_and_loaded(path: str | Path) -> PillowImage:
    from PIL import Image

    _verified(path)
    with Image.open(path) as image:
        image.load()
        return image
