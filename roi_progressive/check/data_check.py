"""A look at everything a run is going to read, before its first step: mistakes are found in seconds, not in hours."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..config import RegionConfig
from ..errors import DataError, UnreadableError, system_reason
from ..runtime.rng import RandomState
from ..saving.decoding import verify_image
from ..saving.names import DOMAINS
from ..saving.stray_files import is_stray

SMALLEST_SCALE_PX = 6
"""The least side of an image that a region discriminator of one layer takes."""


def check_folder(data: Path) -> None:
    """Check that a data set for a new run is there and has training images of both domains.

    Raises:
        DataError: It has not.
    """
    if not data.is_dir():
        what = "is a file" if data.exists() else "does not exist"
        raise DataError(f"`data` must be a folder that `roi-progressive prepare` wrote; {str(data)!r} {what}")
    for domain in DOMAINS:
        folder = data / f"train{domain}"
        if not folder.is_dir() or not any(path.is_file() and not is_stray(path) for path in folder.iterdir()):
            what = "is empty" if folder.is_dir() else "is missing"
            raise DataError(
                f"`data` must hold training images of both domains; {str(folder)!r} {what}; prepare the data anew"
            )


def check_size(size_px: tuple[int, int], regions: Sequence[RegionConfig]) -> None:
    """Check that regions whose discriminators see whole images can; they join late, and would fail late.

    Raises:
        DataError: The images are too small for one.
    """
    for region in regions:
        smallest_px = SMALLEST_SCALE_PX * 2 ** (region.scales - 1)
        if region.mode.whole_image and min(size_px) < smallest_px:
            raise DataError(
                f"`data` must hold images of at least {smallest_px} px for {region.scales} scales of region "
                f"{region.name!r}; got {size_px[0]} x {size_px[1]} px; lower `scales` or prepare larger slices"
            )


def _verify(path: str) -> None:
    """Compare a PNG with its checksums, which Pillow leaves aside where it decodes the pixels.

    Raises:
        DataError: They do not match.
    """
    try:
        verify_image(path)
    except (OSError, UnreadableError) as error:
        reason = error.line if isinstance(error, UnreadableError) else system_reason(error)
        raise DataError(f"`data` must hold readable images; {path!r} is not: {reason}; replace the file") from error


def read_everything(loader: Any) -> tuple[int, int]:
    """Read every image of both domains once, and its masks where the session's wrapper brings them.

    The random streams end where they were.

    Args:
        loader: The bundled host's, after ``attach``.

    Returns:
        Width and height in px, the same for all images.

    Raises:
        DataError: An image cannot be read, or images differ in size.
        MaskError: A mask cannot be read, or has another size than its image.
    """
    dataset, streams, serial = loader.dataloader.dataset, RandomState.now(), loader.opt.serial_batches
    size_px: tuple[int, int] | None = None
    first = ""
    loader.opt.serial_batches = True  # at random, some images of B would not come up
    try:
        for index in range(len(dataset)):
            sample = dataset[index]
            for domain in DOMAINS:
                path, (height_px, width_px) = sample[f"{domain}_paths"], sample[domain].shape[-2:]
                _verify(path)
                if size_px is None:
                    size_px, first = (width_px, height_px), path
                if (width_px, height_px) != size_px:
                    raise DataError(
                        f"`data` must hold images of one size; {path!r} has {width_px} x {height_px} px and {first!r} "
                        f"{size_px[0]} x {size_px[1]} px; prepare all at one size"
                    )
    finally:
        loader.opt.serial_batches = serial
        streams.restore()
    assert size_px is not None
    return size_px
