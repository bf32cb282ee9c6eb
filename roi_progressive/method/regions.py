"""From masks to where a region discriminator looks: which images hold the region, where windows lie, what is painted.

What depends on masks alone is made in NumPy, where no device has to wait for it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..config import RegionConfig
from ..errors import ShapeError

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right are exclusive."""
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.signedinteger[Any]]
PAINTS = 3
"""What may be painted lies before every image's pixels: the background, and a mask's channel outside and inside."""


class RegionMask:
    """The masks of one region for a batch of images.

    Nothing is computed before it is asked for: a step in which the region is not active costs nothing.

    Args:
        mask: ``[N, 1, H, W]``; bool, or numbers of which those above one half of their range are inside, as
            ``from_tensor`` tells. Best given on the CPU: it is read there, and on a GPU that waits for it.
        device: Where the images are.

    Example:
        >>> import torch
        >>> from roi_progressive import RegionMask
        >>> tumor = torch.zeros(2, 1, 32, 32)  # two images, of which the first holds the region
        >>> tumor[0, :, 8:20, 10:18] = 1
        >>> masks = RegionMask.from_tensor(tumor)
        >>> masks.boxes
        ((8, 10, 20, 18), None)
        >>> masks.mirrored().boxes
        ((8, 14, 20, 22), None)
    """

    def __init__(self, mask: Tensor, device: torch.device | str) -> None:
        self._given = mask
        self._device = torch.device(device)
        self._plans: dict[tuple[Any, ...], list[WindowGroup]] = {}

    @classmethod
    def from_tensor(cls, mask: Tensor, device: torch.device | str | None = None) -> RegionMask:
        """The masks of a batch.

        Args:
            mask: ``[N, 1, H, W]`` or ``[N, H, W]``; bool, or numbers: see ``inside_of``.
            device: Where the images are; the mask's own device by default.

        Raises:
            ShapeError: The mask has another number of dimensions or channels, or no pixel.
        """
        if mask.ndim == 3:
            mask = mask.unsqueeze(1)
        if mask.ndim != 4 or mask.shape[1] != 1:
            raise ShapeError(f"`mask` must be [N, 1, H, W]; got {list(mask.shape)}; give one channel a region")
        if 0 in mask.shape[2:]:
            raise ShapeError(f"`mask` must be of at least one pixel; got {list(mask.shape)}; give whole images")
        return cls(mask, mask.device if device is None else device)

    @cached_property
    def _numbers(self) -> npt.NDArray[Any]:
        """The given mask, ``[N, H, W]``, on the CPU."""
        given = self._given.detach().cpu()
        return (given.float() if given.dtype == torch.bfloat16 else given).numpy()[:, 0]

    @cached_property
    def inside(self) -> Bools:
        """Whether each pixel is, ``[N, H, W]``, on the CPU."""
        return inside_of(self._numbers)

    @cached_property
    def mask(self) -> Tensor:
        """Bool, ``[N, 1, H, W]``, on the images' device."""
        if self._given.dtype == torch.bool:
            return self._given.to(self._device)
        return torch.from_numpy(self.inside[:, None]).to(self._device)

    @cached_property
    def boxes(self) -> tuple[Box | None, ...]:
        """The bounding box of each mask, ``None`` where the image does not hold the region."""
        return mask_boxes(self.inside)

    @cached_property
    def is_finite(self) -> bool:
        """Whether the mask was given in finite numbers."""
        return self._numbers.dtype.kind != "f" or _range_of(self._numbers) is not None

    def of_samples(self, samples: slice) -> RegionMask:
        """The masks of some images of the batch."""
        part = RegionMask(torch.from_numpy(self.inside[samples, None]), self._device)
        part.is_finite = self.is_finite
        return part

    @classmethod
    def joined(cls, batches: Sequence[RegionMask]) -> RegionMask:
        """The masks of several batches of images of one size, as one batch."""
        inside = np.concatenate([batch.inside for batch in batches])
        together = cls(torch.from_numpy(inside[:, None]), batches[0]._device)
        together.is_finite = all(batch.is_finite for batch in batches)
        return together

    @property
    def is_empty(self) -> bool:
        """Whether no image of the batch holds the region."""
        return all(box is None for box in self.boxes)

    def mirrored(self) -> RegionMask:
        """The masks of the images mirrored left to right."""
        return RegionMask(torch.from_numpy(self._numbers[:, None, :, ::-1].copy()), self._device)

    def window_groups(self, shape: Sequence[int], config: RegionConfig) -> list[WindowGroup]:
        """Where the region's windows lie in images of a shape, and what is painted; made once a batch.

        Args:
            shape: The images' ``[N, C, H, W]``.
            config: Mode, window ladder, margin and context.

        Returns:
            One group a window size, by size; together they hold every image with the region once, and none without.

        Raises:
            ShapeError: Images and masks differ in batch size, height or width.
        """
        n, height, width = self._given.shape[0], self._given.shape[2], self._given.shape[3]
        if len(shape) != 4 or shape[0] != n or tuple(shape[2:]) != (height, width):
            raise ShapeError(
                f"`image` and its mask must agree in batch, height and width; got image {list(shape)} and "
                f"mask {list(self._given.shape)}; give the masks of these very images"
            )
        key = (shape[1], config)
        if key not in self._plans:
            self._plans[key] = _groups(self, shape[1], config)
        return self._plans[key]


def inside_of(mask: npt.NDArray[Any]) -> Bools:
    """Which pixels a mask marks: the same that its sharp edges would, where interpolation made them soft.

    Args:
        mask: Any shape. Bool; whole numbers: labels, all of which above 0 are inside, or grey levels, where one is over
            127, of which those above mid-grey are; or floats: shares from 0 to 1, of which one half and more is inside,
            grey levels from 0 to 255 likewise, or values from -1 to 1 as images have, of which those above 0 are. A
            number that is not finite counts as 1 or 0.

    Returns:
        Bool of the same shape.
    """
    if mask.dtype == np.bool_ or not mask.size:
        return mask.astype(np.bool_)
    if mask.dtype.kind != "f":
        return np.asarray(mask > (127 if mask.max() > 127 else 0))
    known, found = mask, _range_of(mask)
    if found is None:
        known = np.nan_to_num(mask, nan=0.0, posinf=1.0, neginf=0.0)
        found = float(known.min()), float(known.max())
    low, high = found
    if high > 127:
        return np.asarray(known > 127.5)
    return np.asarray(known > 0 if low < -0.5 else known >= 0.5)


def _range_of(numbers: npt.NDArray[Any]) -> tuple[float, float] | None:
    """The least and the largest; ``None`` where one is infinite or NaN, which both of them show."""
    if not numbers.size:
        return 0.0, 0.0
    low, high = float(numbers.min()), float(numbers.max())
    return (low, high) if math.isfinite(low) and math.isfinite(high) else None


def mask_boxes(inside: Bools) -> tuple[Box | None, ...]:
    """Bounding boxes of bool masks ``[N, H, W]``; ``None`` for an empty one."""
    rows: Bools = np.any(inside, axis=2)
    columns: Bools = np.any(inside, axis=1)
    held: Bools = np.any(rows, axis=1)
    first = [axis.argmax(axis=1) for axis in (rows, columns)]
    last = [axis.shape[1] - axis[:, ::-1].argmax(axis=1) for axis in (rows, columns)]
    numbers = np.stack([*first, *last], axis=1).tolist()
    return tuple(
        (top, left, bottom, right) if any_inside else None
        for (top, left, bottom, right), any_inside in zip(numbers, held, strict=True)
    )


@dataclass(frozen=True)
class WindowGroup:
    """Windows of one size of a batch of images ``[N, C, H, W]``, before any pixel is looked at.

    The arrays but ``inside`` have the shape of what the discriminator sees, ``[n, C, S, S]`` with the mask's channel
    where the region's mode adds it.

    Args:
        inside: The region in each window, ``[n, S, S]``.
        index: The place of each pixel in the images, flattened, with ``PAINTS`` numbers before them; where the image
            is not seen, the place of what is painted.
        visible: Whether the gradient goes back from there.
        gives_gradient: Whether any does; windows to learn from hand none back.
    """

    inside: Bools
    index: Indices
    visible: Bools
    gives_gradient: bool = True

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.inside.shape[1], self.inside.shape[2]

    def __len__(self) -> int:
        return len(self.inside)

    @classmethod
    def of_window(cls, channels: int, inside: Bools) -> WindowGroup:
        """Of one window that was cut before: ``[channels, S, S]`` from its first number on, to be learnt from.

        Args:
            channels: With that of the mask, where the region's mode adds it.
            inside: The region in it, ``[S, S]``.
        """
        shape = (1, channels, *inside.shape)
        index = np.arange(PAINTS, PAINTS + channels * inside.size, dtype=np.int32).reshape(shape)
        return cls(inside[None], index, np.broadcast_to(np.False_, shape), gives_gradient=False)

    def without_gradient(self) -> WindowGroup:
        """The same windows, from which none goes back to the images."""
        return WindowGroup(self.inside, self.index, self.visible, gives_gradient=False)

    def part(self, windows: slice) -> WindowGroup:
        """Some of the windows."""
        return WindowGroup(self.inside[windows], self.index[windows], self.visible[windows], self.gives_gradient)


def _groups(masks: RegionMask, channels: int, config: RegionConfig) -> list[WindowGroup]:
    held = [(sample, box) for sample, box in enumerate(masks.boxes) if box is not None]
    height, width = masks.inside.shape[1:]
    by_size: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for sample, box in held:
        if config.mode.whole_image:
            by_size.setdefault((height, width), []).append((sample, 0, 0))
        else:
            side = window_side(box, config)
            by_size.setdefault((side, side), []).append((sample, *_corner(box, side, height, width)))
    return [_group(masks.inside, size, places, channels, config) for size, places in sorted(by_size.items())]


def _group(
    inside: Bools,
    size: tuple[int, int],
    places: Sequence[tuple[int, int, int]],
    channels: int,
    config: RegionConfig,
) -> WindowGroup:
    n_samples, height, width = inside.shape
    region = np.zeros((len(places), *size), dtype=np.bool_)
    in_image = np.zeros_like(region)
    for window, (sample, top, left) in enumerate(places):  # a slice ends where the image does
        seen = inside[sample, top : top + size[0], left : left + size[1]]
        region[window, : seen.shape[0], : seen.shape[1]] = seen
        in_image[window, : seen.shape[0], : seen.shape[1]] = True
    visible = (grow(region, config.context_px) & in_image)[:, None]
    shown = in_image[:, None] if config.mode.shows_outside else visible
    samples, tops, lefts = np.array(places).T
    # Channels follow one another in an image, and samples all their channels.
    first = PAINTS + ((samples * channels)[:, None] + np.arange(channels)) * (height * width)
    first += (tops * width + lefts)[:, None]
    grid = _grid(size, width).astype(index_type(n_samples * channels * height * width), copy=False)
    index: Indices = (grid + first.astype(grid.dtype)[:, :, None, None]) * shown
    if config.mode.extra_channels:
        mask = region[:, None]
        index = np.concatenate([index, (1 + mask).astype(index.dtype)], axis=1)
        visible = np.concatenate([np.broadcast_to(visible, (len(mask), channels, *size)), np.zeros_like(mask)], axis=1)
    return WindowGroup(region, index, np.broadcast_to(visible, index.shape))


@lru_cache(maxsize=64)
def _grid(size: tuple[int, int], width: int) -> Indices:
    """The places of a window's pixels in an image, counted from its first."""
    rows, columns = np.arange(size[0], dtype=np.int32), np.arange(size[1], dtype=np.int32)
    return rows[:, None] * width + columns


def index_type(n_numbers: int) -> type[np.signedinteger[Any]]:
    """The narrowest type of places among so many numbers: half as much goes to the device."""
    return np.int32 if n_numbers < 2**31 - 2**16 else np.int64


def window_side(box: Box, config: RegionConfig) -> int:
    """The smallest rung of the ladder that holds the box, its context and its margin, in pixels.

    Past the ladder's end the side is the next multiple of the last rung.
    """
    top, left, bottom, right = box
    needed = max(bottom - top, right - left) + 2 * (config.context_px + config.margin_px)
    last = config.windows_px[-1]
    return next((rung for rung in config.windows_px if rung >= needed), -(-needed // last) * last)


def _corner(box: Box, side: int, height: int, width: int) -> tuple[int, int]:
    """Top left corner of a window centred on the box, moved inside the image where it fits."""
    top, left, bottom, right = box
    return (
        max(0, min((top + bottom - side) // 2, height - side)),
        max(0, min((left + right - side) // 2, width - side)),
    )


def grow(inside: Bools, by_px: int) -> Bools:
    """Bool masks ``[..., H, W]`` grown by a square of ``by_px`` pixels on every side."""
    for axis in (-2, -1):
        side, grown = inside.shape[axis], inside.copy()
        to, of = np.swapaxes(grown, axis, -1), np.swapaxes(inside, axis, -1)
        for shift in range(1, min(by_px, side - 1) + 1):
            to[..., shift:] |= of[..., :-shift]
            to[..., :-shift] |= of[..., shift:]
        inside = grown
    return inside
