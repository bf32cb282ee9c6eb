"""Where masks come from, and how they follow their image through a host's own transforms (promise 4).

A sample is read once as ever; then, for each region, once more with the same random state and with every image file
replaced by its mask. Whatever the host does to an image it does to the mask.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from .adapter import DomainMasks
from .config import RegionConfig
from .errors import MaskError
from .hookspecs import hookimpl
from .patching import Patches
from .regions import RegionMask
from .rng import RandomState

BATCH_KEY = "roi_masks"
MaskFiles = Mapping[str, Mapping[str, str | None]]
"""For every image file, its mask file by region; ``None`` where it does not hold the region."""


@hookimpl(trylast=True)
def roi_masks(path: Path, regions: Sequence[str]) -> dict[str, Path | None]:
    """The default source of masks: sibling folders, ``trainA/x.png`` → ``trainA_tumor/x.png``."""
    return {region: path.parent.with_name(f"{path.parent.name}_{region}") / path.name for region in regions}


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
        MaskError: A mask is missing, and its region does not say ``missing = "skip"``.
    """
    names = [region.name for region in regions]
    found: dict[str, dict[str, str | None]] = {}
    for path in dict.fromkeys(paths):
        files = lookup(Path(path), names)
        found[path] = {region.name: _existing(Path(path), region, files) for region in regions}
    return found


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


class _Opener:
    """Stands in for ``PIL.Image`` in a host's namespace: opens images and notes their sizes, or opens their masks."""

    def __init__(self, masks: MaskFiles, sizes: dict[str, tuple[int, int]], region: str | None) -> None:
        self._masks = masks
        self._sizes = sizes
        self._region = region

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    def open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        key = str(path)
        if self._region is None or key not in self._masks:
            image = Image.open(path, *args, **kwargs)
            self._sizes[key] = image.size
            return image
        file = self._masks[key][self._region]
        if file is None:
            return Image.new("L", self._sizes[key], 0)
        try:
            mask = Image.open(file)
            mask.load()
        except OSError as error:
            raise MaskError(f"`{self._region}` mask {file!r} cannot be read: {error}; write it anew") from error
        if mask.size != self._sizes[key]:
            raise MaskError(
                f"`{self._region}` mask {file!r} must be of its image's size {self._sizes[key]} (width, height); "
                f"got {mask.size}; export both on one grid"
            )
        return mask


class MaskedDataset(Dataset[Any]):
    """A host's data set whose samples carry their masks; picklable wherever the host's own is.

    Args:
        dataset: The host's.
        image_modules: Names of the modules in whose namespace it opens images as ``Image.open``.
        domains: Keys of a sample that hold images.
        masks: Mask files by image file and region.
        regions: The regions to read.
    """

    def __init__(
        self,
        dataset: Any,
        image_modules: Sequence[str],
        domains: Sequence[str],
        masks: MaskFiles,
        regions: Sequence[str],
    ) -> None:
        self.dataset = dataset
        self._image_modules = tuple(image_modules)
        self._domains = tuple(domains)
        self._masks = masks
        self._regions = tuple(regions)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not yet set while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: Any) -> dict[str, Any]:
        before, sizes = RandomState.now(), dict[str, tuple[int, int]]()
        with self._opening(sizes, None):
            sample = self.dataset[index]
        after = RandomState.now()
        masks: dict[str, dict[str, Tensor]] = {domain: {} for domain in self._domains}
        try:
            for region in self._regions:
                before.restore()
                with self._opening(sizes, region):
                    replay = self.dataset[index]
                for domain in self._domains:
                    masks[domain][region] = replay[domain][:1] > 0
        finally:
            after.restore()
        return {**sample, BATCH_KEY: masks}

    @contextmanager
    def _opening(self, sizes: dict[str, tuple[int, int]], region: str | None) -> Iterator[None]:
        with ExitStack() as stack:
            for name in self._image_modules:
                patches = Patches()
                stack.callback(patches.undo)
                patches.set(importlib.import_module(name), "Image", _Opener(self._masks, sizes, region))
            yield


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
