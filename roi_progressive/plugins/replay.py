"""How masks follow their image through a host's own transforms, and how that is proved.

A sample is read once as ever; then, for each region, once more with the same random state and with every image file
replaced by its mask. Whatever the host does to an image it does to the mask ("Masks follow their image exactly").

That holds where what the host does is drawn from streams that can be put back, and does not depend on what the image
shows. So it is proved, on the first samples of a run: the sample is read with the region painted white, and with it
painted black; where the two differ, the mask must lie. A host whose grey levels alone stand in the way (colour jitter,
levels of its own) is followed by that difference; any other is refused.
"""

from __future__ import annotations

import functools
import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..config import RegionConfig
from ..errors import MaskError
from ..runtime.rng import RandomState
from .adapter import DatasetLayout
from .masks import BATCH_KEY, MID_GREY, Lookup, MaskFiles, find_masks, read_mask
from .patching import Patches

N_PROOFS = 4
"""Samples with a visible region, of every domain, on which the replay is proved in each process."""
N_TRIES = 64
"""Samples after which no more are looked for."""
LEAST_PX = 12
"""Regions of fewer pixels prove nothing: at their edges a mask may lie a pixel off."""
TOLERANCE = 0.1
"""Share of a region's pixels that may lie farther than a pixel from where the sample changes."""


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


# -- what is read in an image's place ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reading:
    """What is read: the image, a region's mask, or the image with the region painted over.

    Args:
        region: ``None`` for the image itself.
        paint: The paint, 0 black and 1 white; ``None`` for the mask.
    """

    region: str | None = None
    paint: float | None = None


class _Opener:
    """Stands in for ``PIL.Image`` of a host: opens images, or what stands for them, and notes their sizes."""

    def __init__(self, masks: MaskFiles, sizes: dict[str, tuple[int, int]], reading: _Reading) -> None:
        self._masks = masks
        self._sizes = sizes
        self._reading = reading
        self.opened: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(Image, name)

    def open(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        key = str(path)
        if key not in self._masks:
            return Image.open(path, *args, **kwargs)
        self.opened.append(key)
        region, paint = self._reading.region, self._reading.paint
        if region is None or key not in self._sizes:  # the latter is another image, which `MaskedDataset` reports
            image = Image.open(path, *args, **kwargs)
            if region is None:
                self._sizes[key] = image.size
            return image
        file = self._masks[key][region]
        size = self._sizes[key]
        mask = Image.new("L", size, 0) if file is None else read_mask(file, region, size)
        with Image.open(path, *args, **kwargs) as image:
            return _in_mode_of(image, mask) if paint is None else _painted(image, mask, paint)


def _is_wide(mode: str) -> bool:
    return mode in ("I", "F") or mode.startswith("I;16")


def _in_mode_of(image: Image.Image, mask: Image.Image) -> Image.Image:
    """A mask in the mode of its image, white being the mode's: a host may read 16 bits by hand. Floating point has no
    white; 255 is above any half."""
    if _is_wide(image.mode) and image.mode != "F":
        return _wide(np.asarray(mask, dtype=np.float64) * 257.0, image)
    if image.mode == "RGBA":
        return Image.merge("RGBA", (mask, mask, mask, Image.new("L", mask.size, 255)))
    if image.mode == "LA":
        return Image.merge("LA", (mask, Image.new("L", mask.size, 255)))
    return mask.convert("RGB") if image.mode == "RGB" else mask


def _painted(image: Image.Image, mask: Image.Image, paint: float) -> Image.Image:
    """An image with a region painted over, with the darkest or the brightest grey."""
    image.load()
    cover = mask.point(lambda grey: 255 * (grey > MID_GREY))
    if _is_wide(image.mode):
        values = np.asarray(image, dtype=np.float64)
        low, high = float(values.min()), float(values.max())
        high = high if high > low else low + (1.0 if image.mode == "F" else 255.0)
        return _wide(np.where(np.asarray(cover) > 0, high if paint else low, values), image)
    bands = {"RGBA": "RGB", "LA": "L", "1": "L", "P": "RGB"}.get(image.mode, image.mode)
    grey = 255 if paint else 0
    n_bands = len(Image.new(bands, (1, 1)).getbands())
    colour = grey if n_bands == 1 else (grey,) * n_bands
    over = Image.composite(Image.new(bands, image.size, colour), image.convert(bands), cover)
    if image.mode in ("RGBA", "LA"):
        over.putalpha(image.getchannel("A"))
    return over


def _wide(values: Any, like: Image.Image) -> Image.Image:
    """Numbers as an image of another's mode of more than 8 bits, and of its format: readers ask for either."""
    kinds = {"F": np.float32, "I": np.int32}
    rounded = values if like.mode == "F" else np.rint(np.clip(values, 0, 2**31 - 1 if like.mode == "I" else 65535))
    made: Image.Image = Image.fromarray(rounded.astype(kinds.get(like.mode, np.uint16)))
    made.format = like.format
    return made


# -- streams that are put back -----------------------------------------------------------------------------------------

_STREAMS = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator)
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, Path)
_MOST_VISITED = 20_000


def held_streams(root: Any) -> list[Any]:
    """The random generators that a data set and its transforms hold: of their own, of their classes, of their modules.

    A transform with a generator of its own is as common as one that draws from the global streams.
    """
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}  # kept, lest another object come to lie where one was looked at
    waiting: list[Any] = [root]
    while waiting and len(seen) < _MOST_VISITED:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _PLAIN):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, _STREAMS):
            found[id(thing)] = thing
        elif isinstance(thing, Mapping):
            waiting += list(thing.values())
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += list(thing)
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, thing.args, thing.keywords]
        elif isinstance(thing, MethodType):
            waiting += [thing.__self__, thing.__func__]
        elif isinstance(thing, FunctionType):
            waiting += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
            waiting += [thing.__defaults__, thing.__kwdefaults__, _streams_in(thing.__globals__)]
        elif not isinstance(thing, (ModuleType, BuiltinFunctionType, type)):
            waiting += [getattr(thing, "__dict__", {}), _slots(thing)]
            for kind in type(thing).__mro__:
                module = sys.modules.get(kind.__module__) if kind.__module__ not in _BUILT_IN else None
                waiting += [_streams_in(vars(kind)), {} if module is None else _streams_in(vars(module))]
    global_ones = {id(np.random.mtrand._rand), id(torch.default_generator), id(getattr(random, "_inst", None))}
    return [stream for key, stream in found.items() if key not in global_ones]


_BUILT_IN = {"builtins", "abc", "typing"}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - the access is the question
    except ValueError:
        return False
    return True


def _streams_in(names: Mapping[str, Any]) -> list[Any]:
    return [value for value in names.values() if isinstance(value, _STREAMS)]


def _slots(thing: Any) -> list[Any]:
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) or ()]
    return [getattr(thing, name) for name in names if isinstance(name, str) and hasattr(thing, name)]


class _Streams:
    """Where the global streams and a data set's own stand."""

    def __init__(self, own: Sequence[Any]) -> None:
        self._global = RandomState.now()
        self._own = [(stream, _state_of(stream)) for stream in own]

    def restore(self) -> None:
        self._global.restore()
        for stream, state in self._own:
            _set_state(stream, state)


def _state_of(stream: Any) -> Any:
    if isinstance(stream, random.Random):
        return stream.getstate()
    if isinstance(stream, np.random.Generator):
        return stream.bit_generator.state
    return stream.get_state()


def _set_state(stream: Any, state: Any) -> None:
    if isinstance(stream, random.Random):
        stream.setstate(state)
    elif isinstance(stream, np.random.Generator):
        stream.bit_generator.state = state
    else:
        stream.set_state(state)


# -- the data set ------------------------------------------------------------------------------------------------------


@dataclass
class _Levels:
    """What a domain's samples have shown of how grey levels come out."""

    outside: float = -1.0
    inside: float = 1.0
    contrast: float = 0.0
    """The largest difference between white and black that was seen."""
    first_inside: float | None = None
    """The grey that the first mask had inside; where the next one has another, greys are drawn."""
    n_proofs: int = 0


@dataclass
class _Proof:
    """What is known in this process of how masks follow."""

    process: int
    streams: list[Any]
    levels: dict[str, _Levels] = field(default_factory=dict)
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
        before = _Streams(proof.streams)
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
        before, sizes = _Streams(proof.streams), dict[str, tuple[int, int]]()
        with self._opening(sizes, _Reading()) as opened:
            sample = self.dataset[index]
        after = _Streams(proof.streams)

        def read(reading: _Reading) -> dict[str, Any]:
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
        self, sample: Mapping[str, Any], region: str, read: Callable[[_Reading], dict[str, Any]]
    ) -> dict[str, Tensor]:
        """One region's masks of a sample, by domain; proved while that is to be done."""
        proof = self._proof()
        if proof.by_difference:
            return self._by_difference(sample, region, read)
        replay = {domain: image[:1] for domain, image in read(_Reading(region)).items() if domain in self._domains}
        masks = {domain: _inside(replay[domain], proof.levels[domain]) for domain in self._domains}
        if self._n_proofs == 0 or proof.n_samples >= N_TRIES or self.is_proved:
            return masks
        white, black = read(_Reading(region, 1.0)), read(_Reading(region, 0.0))
        for domain in self._domains:
            levels = proof.levels[domain]
            if sample[domain].shape != white[domain].shape or sample[domain].shape != black[domain].shape:
                raise self._refusal(sample, read, region)
            truth = _changed(sample[domain], white[domain], black[domain], levels)
            greys_vary = False
            if truth is None:
                truth = torch.zeros_like(masks[domain])
            elif int(truth.sum()) >= LEAST_PX:
                inside, outside = _levels(replay[domain], truth)
                if levels.first_inside is None:
                    levels.first_inside = inside
                    if _differ(masks[domain], truth):  # the host's greys are not from -1 to 1
                        levels.inside, levels.outside = inside, outside
                        masks[domain] = _inside(replay[domain], levels)
                greys_vary = abs(inside - levels.first_inside) > 0.02 * abs(levels.inside - levels.outside)
            if greys_vary or _differ(masks[domain], truth):
                proof.by_difference = True
                return self._by_difference(sample, region, read)
            levels.n_proofs += int(int(truth.sum()) >= LEAST_PX)
        return masks

    def _by_difference(
        self, sample: Mapping[str, Any], region: str, read: Callable[[_Reading], dict[str, Any]]
    ) -> dict[str, Tensor]:
        """The masks as the places where white and black paint on the region differ, where nothing else does.

        Raises:
            MaskError: The rest of the sample changes too.
        """
        white, black = read(_Reading(region, 1.0)), read(_Reading(region, 0.0))
        masks = {}
        for domain in self._domains:
            levels = self._proof().levels[domain]
            if sample[domain].shape != white[domain].shape or sample[domain].shape != black[domain].shape:
                raise self._refusal(sample, read, region)
            changed = _changed(sample[domain], white[domain], black[domain], levels)
            mask = torch.zeros_like(sample[domain][:1], dtype=torch.bool) if changed is None else changed
            for painted in (white, black):
                if not _is_steady(sample[domain], painted[domain], mask, levels.contrast):
                    raise self._refusal(sample, read, region)
            levels.n_proofs += int(int(mask.sum()) >= LEAST_PX)
            masks[domain] = mask
        return masks

    def _refusal(self, sample: Mapping[str, Any], read: Callable[[_Reading], dict[str, Any]], region: str) -> MaskError:
        kind = type(self.dataset).__name__
        same = all(  # a mirroring comes out the same every second time
            torch.equal(sample[domain], again[domain])
            for again in (read(_Reading()) for _ in range(8))
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
            known = _Proof(os.getpid(), held_streams(self.dataset), {domain: _Levels() for domain in self._domains})
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
    def _opening(self, sizes: dict[str, tuple[int, int]], reading: _Reading) -> Iterator[list[str]]:
        opener, patches = _Opener(self._masks, sizes, reading), Patches()
        try:
            for name in self._image_modules:
                patches.set(importlib.import_module(name), "Image", opener)
            yield opener.opened
        finally:
            patches.undo()


# -- where a sample changes --------------------------------------------------------------------------------------------


def _inside(replay: Tensor, levels: _Levels) -> Tensor:
    """Where a replayed mask is above one half of its range."""
    half = (levels.inside + levels.outside) / 2.0
    return replay > half if levels.inside > levels.outside else replay < half


def _changed(sample: Tensor, white: Tensor, black: Tensor, levels: _Levels) -> Tensor | None:
    """Where the paint comes out, ``[1, H, W]``; ``None`` where it does so nowhere."""
    difference = (_aligned(white, sample) - _aligned(black, sample)).abs().amax(0, keepdim=True)
    largest = float(difference.max()) if difference.numel() else 0.0
    levels.contrast = max(levels.contrast, largest)
    if largest <= 1e-6 or largest < 0.25 * levels.contrast:
        return None
    return difference > largest / 2.0


def _aligned(painted: Tensor, sample: Tensor) -> Tensor:
    """A painted sample in the greys of the one it was painted on: a host may scale each image by what is in it."""
    y, x = painted.detach().double(), sample.detach().double()
    if not x.numel() or float((x == y).double().mean()) >= 0.2:
        return y.float()
    kept_x, kept_y = x.flatten(), y.flatten()
    slope, offset = 1.0, 0.0
    for _ in range(6):  # most of the image is not painted: what fits worst is left out, again and again
        spread = float(kept_x.var(correction=0))
        if spread <= 1e-12:
            return y.float()
        slope = float(((kept_x - kept_x.mean()) * (kept_y - kept_y.mean())).mean()) / spread
        offset = float(kept_y.mean()) - slope * float(kept_x.mean())
        off = (y - slope * x - offset).abs().flatten()
        kept = off <= off.kthvalue(max(1, int(0.7 * off.numel()))).values
        kept_x, kept_y = x.flatten()[kept], y.flatten()[kept]
    off = kept_y - slope * kept_x - offset
    fits = slope > 1e-6 and float(off.std()) <= 0.1 * slope * float(kept_x.std())
    return ((y - offset) / slope if fits else y).float()


def _levels(replay: Tensor, truth: Tensor) -> tuple[float, float]:
    """The grey a replayed mask has inside and outside of where it must lie."""
    outside = replay[~_grown(truth)]
    inner = _shrunk(truth)
    inside = replay[inner if inner.any() else truth]
    if not outside.numel():
        return float(inside.median()), -1.0 if float(inside.median()) > 0 else 1.0
    return float(inside.median()), float(outside.median())


def _differ(mask: Tensor, truth: Tensor) -> bool:
    """Whether two masks lie apart by more than a pixel at their edges."""
    largest = max(int(mask.sum()), int(truth.sum()))
    apart = int((mask & ~_grown(truth)).sum()) + int((truth & ~_grown(mask)).sum())
    return largest >= LEAST_PX and apart > TOLERANCE * largest


def _is_steady(sample: Tensor, painted: Tensor, mask: Tensor, contrast: float) -> bool:
    """Whether the sample is the same outside of the mask, but for a little of its grey levels."""
    outside = ~_grown(_grown(mask))
    moved = (sample.detach().float() - _aligned(painted, sample)).abs().amax(0, keepdim=True)[outside]
    if not moved.numel() or contrast == 0.0:
        return True
    return float((moved > 0.25 * contrast).float().mean()) <= 0.01 and float(moved.mean()) <= 0.1 * contrast


def _grown(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0] > 0


def _shrunk(mask: Tensor) -> Tensor:
    return ~_grown(~mask)
