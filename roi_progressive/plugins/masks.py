"""Where masks come from, and how they follow their image through a host's own transforms.

A sample is read once as ever; then, for each region, once more with the same random state and with every image file
replaced by its mask. Whatever the host does to an image it does to the mask ("Masks follow their image exactly").
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import RegionConfig
from ..errors import MaskError, one_line
from ..method.regions import RegionMask
from ..runtime.rng import RandomState
from .adapter import DatasetLayout, DomainMasks
from .hookspecs import hookimpl
from .patching import Patches

BATCH_KEY = "roi_masks"
MID_GREY = 127
"""The largest 8-bit value that counts as outside a region."""
MaskFiles = Mapping[str, Mapping[str, str | None]]
"""For every image file, its mask file by region; ``None`` where it does not hold the region."""


@hookimpl(trylast=True)
def roi_masks(path: Path, regions: Sequence[str]) -> dict[str, Path | None]:
    """The default source of masks: sibling folders, ``trainA/x.png`` or ``.npy`` → ``trainA_tumor/x.png``."""
    name = path.with_suffix(".png").name if path.suffix.lower() == ".npy" else path.name
    return {region: path.parent.with_name(f"{path.parent.name}_{region}") / name for region in regions}


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


def masked_dataset(layout: DatasetLayout, regions: Sequence[RegionConfig], lookup: Lookup) -> MaskedDataset:
    """A host's data set with its masks, to be put in its place.

    Raises:
        MaskError: A mask is missing, or the data set carries masks of another session.
    """
    dataset = layout.loader.dataset
    if isinstance(dataset, MaskedDataset):
        raise MaskError("`dataset` must be the host's own; got one that serves another session; close that one first")
    found = find_masks(layout.paths, regions, lookup)
    return MaskedDataset(dataset, layout.image_modules, layout.domains, found, [region.name for region in regions])


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
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    def open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        key = str(path)
        if key not in self._masks:
            return Image.open(path, *args, **kwargs)
        self.opened.append(key)
        if self._region is None:
            image = Image.open(path, *args, **kwargs)
            self._sizes[key] = image.size
            return image
        if key not in self._sizes:  # another image than the first time, which `MaskedDataset` reports
            return Image.open(path, *args, **kwargs)
        file = self._masks[key][self._region]
        return Image.new("L", self._sizes[key], 0) if file is None else _mask(file, self._region, self._sizes[key])


def _mask(file: str, region: str, size: tuple[int, int]) -> Image.Image:
    """A mask of its image's size, white inside, in a mode that every host reads.

    Raises:
        MaskError: The file is unreadable, of another size, or has values that would all count as outside.
    """
    try:
        with Image.open(file) as unread:
            unread.verify()  # a PNG's checksums, which Pillow leaves aside where it decodes the pixels
        opened = Image.open(file)
        opened.load()
        mask: Image.Image = opened if opened.mode in ("L", "RGB") else opened.convert("L")
    except (OSError, SyntaxError, ValueError) as error:
        reason = one_line(error)
        raise MaskError(f"`{region}` mask {file!r} must be a readable image: {reason}; write it anew") from error
    if mask.size != size:
        raise MaskError(
            f"`{region}` mask {file!r} must be of its image's size {size} (width, height); "
            f"got {mask.size}; export both on one grid"
        )
    largest = max(high for _, high in _extrema(mask))
    if 0 < largest <= MID_GREY:
        raise MaskError(
            f"`{region}` mask {file!r} must be above mid-grey ({MID_GREY}) inside; its largest value is {largest}, "
            f"which would be outside everywhere; write 0 and 255"
        )
    return mask


def _extrema(image: Image.Image) -> tuple[tuple[int, int], ...]:
    """Smallest and largest value of every band; Pillow drops the outer tuple where there is one band."""
    found: Any = image.getextrema()
    return tuple(found) if isinstance(found[0], tuple) else (found,)


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
        with self._opening(sizes, None) as opened:
            sample = self.dataset[index]
        after = RandomState.now()
        masks: dict[str, dict[str, Tensor]] = {domain: {} for domain in self._domains}
        try:
            for region in self._regions:
                before.restore()
                with self._opening(sizes, region) as opened_again:
                    replay = self.dataset[index]
                self._check_replay(opened, opened_again)
                for domain in self._domains:
                    masks[domain][region] = replay[domain][:1] > 0
        finally:
            after.restore()
        return {**sample, BATCH_KEY: masks}

    def _check_replay(self, opened: list[str], opened_again: list[str]) -> None:
        """Masks follow their image only where a sample read twice reads the same files twice."""
        kind = type(self.dataset).__name__
        if not opened:
            raise MaskError(
                f"`dataset` must open its image files for every sample, so that masks can follow; {kind} opened none "
                f"of the files it lists; switch its cache off, or bring the masks in the batch (`batch_key`)"
            )
        if opened_again != opened:
            raise MaskError(
                f"`dataset` must read the same files again when Python's, NumPy's and torch's random states are put "
                f"back; {kind} read {opened} and then {opened_again}; draw from one of these streams"
            )

    @contextmanager
    def _opening(self, sizes: dict[str, tuple[int, int]], region: str | None) -> Iterator[list[str]]:
        opener, patches = _Opener(self._masks, sizes, region), Patches()
        try:
            for name in self._image_modules:
                patches.set(importlib.import_module(name), "Image", opener)
            yield opener.opened
        finally:
            patches.undo()


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
