"""Where masks lie, and what their files and batches say; how they follow their image is told in ``replay``."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageChops
from torch import Tensor

from ..config import RegionConfig
from ..errors import MaskError, UnreadableError, one_line, parsed
from ..method.regions import RegionMask
from ..saving.decoding import decoded_image
from ..saving.stray_files import is_stray
from .adapter import DomainMasks
from .hookspecs import hookimpl

BATCH_KEY = "roi_masks"
MID_GREY = 127
"""The largest 8-bit value that counts as outside a region."""
MaskFiles = Mapping[str, Mapping[str, str | None]]
"""For every image file, its mask file by region; ``None`` where it does not hold the region."""


@hookimpl(trylast=True)
def roi_masks(path: Path, regions: Sequence[str]) -> dict[str, Path | None]:
    """The default source of masks: folders beside the images', ``trainA/x.png`` or ``.npy`` → ``trainA_tumor/x.png``;
    with folders a patient below them, ``trainA/p01/x.png`` → ``trainA_tumor/p01/x.png``."""
    return {region: _beside(path, region) for region in regions}


_SPLIT = re.compile(r"(train|val|valid|validation|test)[ab]?", re.IGNORECASE)
_LEVELS = 4
"""How many folders above an image are looked at; more would be somebody else's."""


def _beside(path: Path, region: str) -> Path:
    above = [folder for folder in list(path.parents)[:_LEVELS] if folder.name]
    top = next((place for place, folder in enumerate(above) if _SPLIT.fullmatch(folder.name)), None)
    above = above[: top + 1] if top is not None else above
    name = path.with_suffix(".png").name if path.suffix.lower() == ".npy" else path.name

    def beside(folder: Path) -> Path:
        return folder.with_name(f"{folder.name}_{region}") / path.relative_to(folder).with_name(name)

    # Where none exists yet, the folder of the split: hosts take whatever lies below it for images.
    asked = above[-1] if top is not None else path.parent
    return next((beside(f) for f in above if f.with_name(f"{f.name}_{region}").is_dir()), beside(asked))


Lookup = Callable[[Path, Sequence[str]], Mapping[str, Path | None]]


def find_masks(
    paths: Sequence[str], regions: Sequence[RegionConfig], lookup: Lookup
) -> dict[str, dict[str, str | None]]:
    """The mask file of every image and region.

    Args:
        paths: Image files.
        regions: Those whose masks come from files.
        lookup: The hook ``roi_masks``.

    Raises:
        MaskError: A mask is missing, and its region does not say ``missing = "skip"``; or the host lists masks, or
            files of other programs, among its images.
    """
    names = [region.name for region in regions]
    found: dict[str, dict[str, str | None]] = {}
    for path in dict.fromkeys(paths):
        _check_is_image(Path(path), names)
        files = lookup(Path(path), names)
        found[path] = {region.name: _existing(Path(path), region, files) for region in regions}
    masks = {file for files_of_image in found.values() for file in files_of_image.values()}
    both = next((path for path in found if path in masks), None)
    if both is not None:
        raise MaskError(
            f"`dataset` must list images only; it lists {both!r}, which is a mask, and would train on it; move the "
            f"masks out of the images' folder"
        )
    return found


def _check_is_image(path: Path, regions: Sequence[str]) -> None:
    if is_stray(path):
        raise MaskError(
            f"`dataset` must list images only; it lists {str(path)!r}, which a file browser or notebook has left; "
            f"delete it, or the host trains on it"
        )
    for region in regions:
        if any(folder.name.endswith(f"_{region}") for folder in list(path.parents)[:2]):
            raise MaskError(
                f"`dataset` must list images only; it lists {str(path)!r}, which lies in a folder of {region!r} masks; "
                f"move that folder out of the images', e.g. from trainA/p01_{region} to trainA_{region}/p01"
            )


def _existing(image: Path, region: RegionConfig, files: Mapping[str, Path | None]) -> str | None:
    file = files.get(region.name)
    if file is None:
        return None
    if file.is_file():
        return str(file)
    if region.missing == "skip":
        return None
    what = f"file {str(file)!r}" if file.parent.is_dir() else f"folder {str(file.parent)!r}"
    raise MaskError(
        f"`regions[{region.name!r}]` must have a mask for every image; for {str(image)!r} there is no mask {what}; "
        f'add it, or set missing = "skip" to treat such images as without region'
    )


def read_mask(file: str, region: str, size: tuple[int, int] | None = None) -> Image.Image:
    """A mask in one band of 8 bits: white inside, black outside, grey where it is soft.

    The colour a mask is drawn in is no matter: the brightest of its bands counts. Neither are its bits.

    Args:
        file: The mask.
        region: Its region, for the message.
        size: Its image's, which must be its own; ``None`` takes any.

    Raises:
        MaskError: The file is unreadable, of another size, or has values that would all count as outside.
    """
    try:
        opened = decoded_image(file)
        mask: Image.Image = parsed(_one_band, opened)
    except (OSError, UnreadableError) as error:
        reason = error.line if isinstance(error, UnreadableError) else one_line(error)
        raise MaskError(f"`{region}` mask {file!r} must be a readable image: {reason}; write it anew") from error
    if size is not None and mask.size != size:
        raise MaskError(
            f"`{region}` mask {file!r} must be of its image's size {size} (width, height); "
            f"got {mask.size}; export both on one grid"
        )
    largest: Any = mask.getextrema()[1]
    if 0 < largest <= MID_GREY:
        raise MaskError(
            f"`{region}` mask {file!r} must be above mid-grey ({MID_GREY}) inside; its largest value is {largest}, "
            f"which would be outside everywhere; write 0 and 255"
        )
    return mask


def _one_band(mask: Image.Image) -> Image.Image:
    """The brightest band of a mask file, whatever its mode; transparency is none."""
    if mask.mode in ("I", "F") or mask.mode.startswith("I;16"):
        values = np.asarray(mask, dtype=np.float64)
        largest = float(values.max(initial=0.0))
        factor = 255.0 / 65535.0 if largest > 255.0 else 255.0 if mask.mode == "F" and largest <= 1.0 else 1.0
        return Image.fromarray(np.clip(np.rint(values * factor), 0, 255).astype(np.uint8))
    if mask.mode in ("L", "1", "LA"):
        return mask.convert("L")
    red, green, blue = mask.convert("RGB").split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def masks_in_batch(
    batch: Mapping[str, Any], regions: Sequence[RegionConfig], device: torch.device | str
) -> DomainMasks:
    """The masks a batch carries, by domain and region, on the device; boxes are measured on the CPU first.

    Args:
        batch: The host's, with ``roi_masks`` beside its own keys, or with masks under a region's ``batch_key``.
        regions: All regions of the session.
        device: Where the images are.

    Raises:
        MaskError: A region's masks are not in the batch.
    """
    masks: dict[str, dict[str, RegionMask]] = {"A": {}, "B": {}}
    for region in regions:
        for domain in masks:
            tensor = _tensor_of(batch, region, domain)
            if tensor is not None:
                masks[domain][region.name] = RegionMask.from_tensor(tensor, device)
        if not any(region.name in of_domain for of_domain in masks.values()):
            where = f"under {region.batch_key!r}" if region.batch_key else "from our data set wrapper"
            raise MaskError(
                f"`batch` must carry masks of region {region.name!r} {where}; got the keys {sorted(batch)}; "
                f"give `attach` the data set whose batches are trained on"
            )
    return masks


def _tensor_of(batch: Mapping[str, Any], region: RegionConfig, domain: str) -> Tensor | None:
    if region.batch_key is None:
        ours: Mapping[str, Mapping[str, Tensor]] = batch.get(BATCH_KEY, {})
        return ours.get(domain, {}).get(region.name)
    return batch.get(region.batch_key.replace("{domain}", domain))
