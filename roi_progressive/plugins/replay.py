"""How masks follow their image through a host's own transforms, and how that is proved.

A sample is read once as ever; then, for each region, once more with the same random state and with every image file
replaced by its mask. Whatever the host does to an image it does to the mask ("Masks follow their image exactly").

That holds where what the host does is drawn from streams that can be put back, and does not depend on what the image
shows. So it is proved, on the first samples of a run: the sample is read with the region painted white, and with it
painted black; where the two differ, the mask must lie. A host whose grey levels alone stand in the way (colour jitter,
levels of its own) is followed by that difference; any other is refused.
"""

from __future__ import annotations

import importlib
import os
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..config import RegionConfig
from ..errors import MaskError
from .adapter import DatasetLayout
from .held_streams import Streams, held_streams
from .masks import BATCH_KEY, Lookup, MaskFiles, find_masks
from .patching import Patches
from .sample_changes import LEAST_PX, Levels, above_half, is_steady, levels_of, lie_apart, where_changed
from .stand_ins import Opener, Reading

N_PROOFS = 4
"""Samples with a visible region, of every domain, on which the replay is proved in each process."""
N_TRIES = 64
"""Samples after which no more are looked for."""


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


@dataclass
class _Proof:
    """What is known in this process of how masks follow."""

    process: int
    streams: list[Any]
    levels: dict[str, Levels] = field(default_factory=dict)
    n_samples: int = 0
    by_difference: bool = False


class MaskedDataset(Dataset[Any]):
    """A host's data set whose samples carry their masks; picklable wherever the host's own is.

    Args:
        dataset: The host's.
        image_modules: Names of the modules in whose namespace it opens images as ``Image.open``.
        domains: Keys of a sample that hold images.
        masks: Mask files by image file and region.
        regions: The regions to read.
        n_proofs: Samples with a visible region, of every domain, on which the replay is proved; 0 for none.
    """

    def __init__(
        self,
        dataset: Any,
        image_modules: Sequence[str],
        domains: Sequence[str],
        masks: MaskFiles,
        regions: Sequence[str],
        *,
        n_proofs: int = N_PROOFS,
    ) -> None:
        self.dataset = dataset
        self._image_modules = tuple(image_modules)
        self._domains = tuple(domains)
        self._masks = masks
        self._regions = tuple(regions)
        self._n_proofs = n_proofs
        self._known: _Proof | None = None

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "dataset":  # not yet set while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_known": None}  # generators of this process

    @property
    def regions_with_files(self) -> list[str]:
        """The regions of which any image has a mask file."""
        return [name for name in self._regions if any(files[name] is not None for files in self._masks.values())]

    @property
    def is_proved(self) -> bool:
        """Whether the masks of every domain were proved to follow, in this process."""
        levels = self._proof().levels
        return all(levels[domain].n_proofs >= self._n_proofs for domain in self._domains)

    @property
    def follows_by_difference(self) -> bool:
        """Whether masks are read off where a sample changes with its region: slower, and right whatever happens to
        grey levels."""
        return self._proof().by_difference

    def __getitem__(self, index: Any) -> dict[str, Any]:
        proof = self._proof()
        if proof.n_samples == 0:
            self._prove_first()
        return self._sample(index)

    def _prove_first(self) -> None:
        """Prove the replay on the first samples, drawn from fixed seeds: what is found out must not depend on where a
        run begins, or one that goes on would not be the uninterrupted one."""
        proof = self._proof()
        proof.n_samples = 1  # begun
        before = Streams(proof.streams)
        try:
            # A reader of single files has no samples of its own to begin with.
            n_samples = len(self) if self._n_proofs and hasattr(type(self.dataset), "__len__") else 0
            for index in range(min(n_samples, N_TRIES)):
                random.seed(index)
                np.random.seed(index)
                torch.default_generator.manual_seed(index)
                self._sample(index)
                if self.is_proved:
                    break
        finally:
            before.restore()

    def _sample(self, index: Any) -> dict[str, Any]:
        proof = self._proof()
        before, sizes = Streams(proof.streams), dict[str, tuple[int, int]]()
        with self._opening(sizes, Reading()) as opened:
            sample = self.dataset[index]
        after = Streams(proof.streams)

        def read(reading: Reading) -> dict[str, Any]:
            before.restore()
            with self._opening(sizes, reading) as opened_again:
                again: dict[str, Any] = self.dataset[index]
            self._check_replay(opened, opened_again)
            return again

        masks: dict[str, dict[str, Tensor]] = {domain: {} for domain in self._domains}
        try:
            for region in self._regions:
                held = not opened or any(self._masks[path][region] is not None for path in opened)
                found = self._masks_of(sample, region, read) if held else self._empty(sample)
                for domain, mask in found.items():
                    masks[domain][region] = mask
        finally:
            after.restore()
        proof.n_samples += 1
        return {**sample, BATCH_KEY: masks}

    def _empty(self, sample: Mapping[str, Any]) -> dict[str, Tensor]:
        return {domain: torch.zeros_like(sample[domain][:1], dtype=torch.bool) for domain in self._domains}

    def _masks_of(
        self, sample: Mapping[str, Any], region: str, read: Callable[[Reading], dict[str, Any]]
    ) -> dict[str, Tensor]:
        """One region's masks of a sample, by domain; proved while that is to be done."""
        proof = self._proof()
        if proof.by_difference:
            return self._by_difference(sample, region, read)
        replay = {domain: image[:1] for domain, image in read(Reading(region)).items() if domain in self._domains}
        masks = {domain: above_half(replay[domain], proof.levels[domain]) for domain in self._domains}
        if self._n_proofs == 0 or proof.n_samples >= N_TRIES or self.is_proved:
            return masks
        white, black = read(Reading(region, 1.0)), read(Reading(region, 0.0))
        for domain in self._domains:
            levels = proof.levels[domain]
            if sample[domain].shape != white[domain].shape or sample[domain].shape != black[domain].shape:
                raise self._refusal(sample, read, region)
            truth = where_changed(sample[domain], white[domain], black[domain], levels)
            greys_vary = False
            if truth is None:
                truth = torch.zeros_like(masks[domain])
            elif int(truth.sum()) >= LEAST_PX:
                inside, outside = levels_of(replay[domain], truth)
                if levels.first_inside is None:
                    levels.first_inside = inside
                    if lie_apart(masks[domain], truth):  # the host's greys are not from -1 to 1
                        levels.inside, levels.outside = inside, outside
                        masks[domain] = above_half(replay[domain], levels)
                greys_vary = abs(inside - levels.first_inside) > 0.02 * abs(levels.inside - levels.outside)
            if greys_vary or lie_apart(masks[domain], truth):
                proof.by_difference = True
                return self._by_difference(sample, region, read)
            levels.n_proofs += int(int(truth.sum()) >= LEAST_PX)
        return masks

    def _by_difference(
        self, sample: Mapping[str, Any], region: str, read: Callable[[Reading], dict[str, Any]]
    ) -> dict[str, Tensor]:
        """The masks as the places where white and black paint on the region differ, where nothing else does.

        Raises:
            MaskError: The rest of the sample changes too.
        """
        white, black = read(Reading(region, 1.0)), read(Reading(region, 0.0))
        masks = {}
        for domain in self._domains:
            levels = self._proof().levels[domain]
            if sample[domain].shape != white[domain].shape or sample[domain].shape != black[domain].shape:
                raise self._refusal(sample, read, region)
            changed = where_changed(sample[domain], white[domain], black[domain], levels)
            mask = torch.zeros_like(sample[domain][:1], dtype=torch.bool) if changed is None else changed
            for painted in (white, black):
                if not is_steady(sample[domain], painted[domain], mask, levels.contrast):
                    raise self._refusal(sample, read, region)
            levels.n_proofs += int(int(mask.sum()) >= LEAST_PX)
            masks[domain] = mask
        return masks

    def _refusal(self, sample: Mapping[str, Any], read: Callable[[Reading], dict[str, Any]], region: str) -> MaskError:
        kind = type(self.dataset).__name__
        same = all(  # a mirroring comes out the same every second time
            torch.equal(sample[domain], again[domain])
            for again in (read(Reading()) for _ in range(8))
            for domain in self._domains
        )
        cause = (
            "a sample read twice comes out the same, but another one once the region looks different: a crop or a "
            "normalisation depends on what the image shows"
            if same
            else "a sample read twice with all random generators put back comes out different: a transform draws from "
            "one that it makes anew or hides"
        )
        return MaskError(
            f"`dataset` must do to the mask of {region!r} what it does to the image; {kind} does not: {cause}; draw "
            f"from Python's, NumPy's or torch's generator and from the image's size alone, or transform image and mask "
            f"together and bring the mask in the batch (`batch_key`)"
        )

    def _proof(self) -> _Proof:
        if self._known is None or self._known.process != os.getpid():
            known = _Proof(os.getpid(), held_streams(self.dataset), {domain: Levels() for domain in self._domains})
            self._known = known
        return self._known

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
                f"`dataset` must read the same files again when all random generators that are known of are put back; "
                f"{kind} read {opened} and then {opened_again}; draw from Python's, NumPy's or torch's generator"
            )

    @contextmanager
    def _opening(self, sizes: dict[str, tuple[int, int]], reading: Reading) -> Iterator[list[str]]:
        opener, patches = Opener(self._masks, sizes, reading), Patches()
        try:
            for name in self._image_modules:
                patches.set(importlib.import_module(name), "Image", opener)
            yield opener.opened
        finally:
            patches.undo()
