"""From masks to what a region discriminator sees: windows, scale pyramids, logit weights.

What depends on masks alone is made in NumPy, where no device has to wait for it: where the windows lie, what is
painted, what each logit weighs. One operation then cuts all windows of a step out of its images. Region terms touch the
region only: the gradient on the image is exactly zero outside the mask grown by ``context_px`` in every mode, since
painting comes before any resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import RegionConfig
from ..errors import ShapeError
from ..runtime.finite import HALF
from ..runtime.uploads import upload

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right are exclusive."""
Geometry = Sequence[tuple[int, int, int]]
"""Kernel, stride and padding of each convolution, in order."""
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.floating[Any]]
Indices = npt.NDArray[np.int64]


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
        return self._numbers.dtype.kind != "f" or bool(np.isfinite(self._numbers).all())

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

    def window_groups(self, shape: Sequence[int], config: RegionConfig, background: float = -1.0) -> list[WindowGroup]:
        """Where the region's windows lie in images of a shape, and what is painted; made once a batch.

        Args:
            shape: The images' ``[N, C, H, W]``.
            config: Mode, window ladder, margin and context.
            background: Grey value painted outside the mask.

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
        key = (shape[1], config, background)
        if key not in self._plans:
            self._plans[key] = list(_groups(self, shape[1], config, background))
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
    known = np.nan_to_num(mask, nan=0.0, posinf=1.0, neginf=0.0)
    if known.max() > 127:
        return np.asarray(known > 127.5)
    return np.asarray(known > 0 if known.min() < -0.5 else known >= 0.5)


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
        index: The place of each pixel in the images, flattened.
        shows: Whether the image is seen there; elsewhere ``paint`` is.
        hides: Whether no gradient goes back from there.
        paint: Background, or the mask's channel.
    """

    inside: Bools
    index: Indices
    shows: Bools
    hides: Bools
    paint: Floats

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
        yes = np.broadcast_to(np.True_, shape)
        return cls(inside[None], np.arange(channels * inside.size).reshape(shape), yes, yes, np.zeros(shape))

    def without_gradient(self) -> WindowGroup:
        """The same windows, from which none goes back to the images."""
        return replace(self, hides=np.broadcast_to(np.True_, self.index.shape))

    def part(self, windows: slice) -> WindowGroup:
        """Some of the windows."""
        return WindowGroup(
            self.inside[windows], self.index[windows], self.shows[windows], self.hides[windows], self.paint[windows]
        )


def _groups(masks: RegionMask, channels: int, config: RegionConfig, background: float) -> Sequence[WindowGroup]:
    held = [(sample, box) for sample, box in enumerate(masks.boxes) if box is not None]
    height, width = masks.inside.shape[1:]
    by_size: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for sample, box in held:
        if config.mode.whole_image:
            by_size.setdefault((height, width), []).append((sample, 0, 0))
        else:
            side = window_side(box, config)
            by_size.setdefault((side, side), []).append((sample, *_corner(box, side, height, width)))
    return [
        _group(masks.inside, size, places, channels, config, background) for size, places in sorted(by_size.items())
    ]


def _group(
    inside: Bools,
    size: tuple[int, int],
    places: Sequence[tuple[int, int, int]],
    channels: int,
    config: RegionConfig,
    background: float,
) -> WindowGroup:
    height, width = inside.shape[1:]
    samples, tops, lefts = np.array(places).T
    rows = (tops[:, None] + np.arange(size[0]))[:, :, None]
    columns = (lefts[:, None] + np.arange(size[1]))[:, None, :]
    in_image = (rows < height) & (columns < width)
    places_in_mask = np.where(in_image, (samples[:, None, None] * height + rows) * width + columns, 0)
    region = inside.reshape(-1)[places_in_mask] & in_image
    visible = grow(region, config.context_px) & in_image
    # [n, C, S, S]: channels follow one another in an image, and samples all their channels.
    by_channel = np.arange(channels)[:, None, None] * (height * width)
    by_sample = (samples * (channels - 1) * height * width)[:, None, None, None]
    index = np.where(in_image[:, None], places_in_mask[:, None] + by_sample + by_channel, 0)
    shows = np.broadcast_to((in_image if config.mode.shows_outside else visible)[:, None], index.shape)
    hides = np.broadcast_to(~visible[:, None], index.shape)
    paint = np.full(index.shape, background)
    if config.mode.extra_channels:
        mask = region[:, None]
        index = np.concatenate([index, np.zeros_like(index[:, :1])], axis=1)
        shows = np.concatenate([shows, np.zeros_like(mask)], axis=1)
        hides = np.concatenate([hides, np.ones_like(mask)], axis=1)
        paint = np.concatenate([paint, mask], axis=1)
    return WindowGroup(region, index, shows, hides, paint)


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


# -- cutting --------------------------------------------------------------------------------------------------------


Groups = Sequence[tuple[int, WindowGroup]]
"""Window groups of one size, each with the place of its images among several."""


def cut(
    images: Sequence[Tensor], groups: Sequence[Sequence[Groups]], n_differentiable: int | None = None
) -> list[Tensor]:
    """Cut windows out of images, all in three operations whatever their number.

    Args:
        images: ``[N, C, H, W]`` each, or windows that were cut before, on one device and of one type.
        groups: For each result what its networks see, side by side: the channels of one follow those of another. The
            windows of a network's groups follow one another.
        n_differentiable: How many of the results, the first ones, are to be differentiable; by default all.

    Returns:
        Pixels ``[n, C, S, S]`` for each of ``groups``; differentiable in the images, once.
    """
    offsets = np.cumsum([0, *(image.numel() for image in images)])
    shapes = [
        (
            sum(len(group) for _, group in networks[0]),
            sum(of[0][1].index.shape[1] for of in networks),
            *networks[0][0][1].size,
        )
        for networks in groups
    ]
    index = _joined([[[group.index + offsets[place] for place, group in of] for of in networks] for networks in groups])
    shows, hides, paint = (
        _joined([[[getattr(group, name) for _, group in of] for of in networks] for networks in groups])
        for name in ("shows", "hides", "paint")
    )
    if images[0].dtype != torch.float64:
        paint = paint.astype(np.float32)
    arrays = upload([index, paint, shows, hides], images[0].device)
    flat: Tensor = _Cut.apply(*arrays, *images)
    sizes = [int(np.prod(shape)) for shape in shapes]
    # Every part of a split that leads nowhere would be a map of zeros on the way back.
    first, others = sizes[:n_differentiable], sizes[len(sizes[:n_differentiable]) :]
    *pixels, rest = flat.split([*first, sum(others)])
    pixels += rest.detach().split(others) if others else []
    return [part.view(shape) for part, shape in zip(pixels, shapes, strict=True)]


def _joined(arrays: Sequence[Sequence[Sequence[npt.NDArray[Any]]]]) -> npt.NDArray[Any]:
    """Windows below one another, networks beside one another, and all of it in one row of numbers."""
    stacked = ([_concatenated(of, 0) for of in networks] for networks in arrays)
    return np.concatenate([_concatenated(networks, 1).reshape(-1) for networks in stacked])


def _concatenated(arrays: Sequence[npt.NDArray[Any]], axis: int) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


class _Cut(torch.autograd.Function):
    """Reads pixels by their places, and paints what is not shown; hidden pixels give no gradient back."""

    @staticmethod
    def forward(ctx: Any, index: Tensor, paint: Tensor, shows: Tensor, hides: Tensor, *images: Tensor) -> Tensor:
        ctx.save_for_backward(index, hides)
        ctx.shapes = [image.shape for image in images]
        flat = images[0].reshape(-1) if len(images) == 1 else torch.cat([image.reshape(-1) for image in images])
        return torch.where(shows, flat.index_select(0, index), paint)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        index, hides = ctx.saved_tensors
        sizes = [shape.numel() for shape in ctx.shapes]
        # A window holds a pixel once; where windows of two regions overlap, two numbers are added to a zero.
        total = gradient.new_zeros(sum(sizes)).index_add_(0, index, gradient.masked_fill(hides, 0.0))
        of_images = zip(total.split(sizes), ctx.shapes, ctx.needs_input_grad[4:], strict=True)
        return None, None, None, None, *(part.view(shape) if needed else None for part, shape, needed in of_images)


@dataclass(frozen=True)
class Windows:
    """Windows of one size, as a discriminator sees them.

    Args:
        pixels: ``[n, C, S, S]`` in [-1, 1] with the mask as one more channel where the region's mode adds it;
            ``[n, C, H, W]`` where its window is the whole image; single precision or better.
        mask: The region inside each window, ``[n, 1, S, S]`` in [0, 1], of the pixels' type, on the CPU.
    """

    pixels: Tensor
    mask: Tensor

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[-2], self.pixels.shape[-1]

    def detach(self) -> Windows:
        """The same windows cut off from the graph."""
        return Windows(self.pixels.detach(), self.mask)


def extract_windows(image: Tensor, region: RegionMask, config: RegionConfig, background: float = -1.0) -> list[Windows]:
    """What the region's discriminator sees of each image that holds the region, grouped by window size.

    Args:
        image: ``[N, C, H, W]`` in [-1, 1].
        region: The region's masks of the same N images.
        config: Mode, window ladder, margin and context.
        background: Grey value painted outside the mask.

    Returns:
        One ``Windows`` a size; together they hold every image with the region once, and none without.

    Raises:
        ShapeError: Image and mask differ in batch size, height or width.
    """
    groups = region.window_groups(image.shape, config, background)
    if not groups:
        return []
    image = in_full(image)
    pixels = cut([image], [[[(0, group)]] for group in groups])
    return [Windows(p, mask_tensor(group.inside, image.dtype)) for p, group in zip(pixels, groups, strict=True)]


def in_full(image: Tensor) -> Tensor:
    """An image in single precision or better: in half, one pixel's share of a logit would vanish."""
    return image.float() if image.dtype in HALF else image


def mask_tensor(inside: Bools, dtype: torch.dtype) -> Tensor:
    """Bool masks ``[n, S, S]`` as ``Windows`` keeps them: ``[n, 1, S, S]`` in numbers, on the CPU."""
    return torch.from_numpy(inside[:, None].astype(np.float64 if dtype == torch.float64 else np.float32))


# -- scales and weights ---------------------------------------------------------------------------------------------


def pyramid(pixels: Tensor, scales: int) -> list[Tensor]:
    """Windows ``[n, C, S, S]`` at scales 1, 1/2, 1/4, ..., each the 2 x 2 mean of the one before."""
    levels = [pixels]
    for _ in range(scales - 1):
        # Rounding sizes up keeps the last row of odd ones, where a small region may lie.
        levels.append(F.avg_pool2d(levels[-1], 2, ceil_mode=True))
    return levels


def logit_weights(mask: Floats, geometry: Geometry, level: int = 0) -> Floats:
    """How much of the region each logit of a Markovian discriminator sees.

    The mask goes through the discriminator's own geometry with every convolution replaced by the mean over its
    kernel: a logit's weight is the share of its paths that end inside the region, and zero exactly
    where its receptive field holds no pixel of it. Means over squares are means over rows of means over columns, so all
    layers together are two small matrices.

    Args:
        mask: In [0, 1], ``[n, H, W]``.
        geometry: Kernel size, stride and padding of each layer, in order.
        level: How often the mask is halved before, as in the pyramid of its window.

    Returns:
        Weights ``[n, h, w]`` of the shape of the discriminator's logits.

    Raises:
        ValueError: A kernel is larger than what it is laid on, or the geometry is none.
    """
    plain = tuple([(int(kernel), int(stride), int(padding)) for kernel, stride, padding in geometry])
    rows = _means(mask.shape[1], level, plain)
    columns = rows if mask.shape[1] == mask.shape[2] else _means(mask.shape[2], level, plain)
    return _product(rows, _product(mask.astype(np.float64), columns.T))


_ONE_THREAD = 2**18
"""Multiplications up to which OpenBLAS wakes no other threads; once woken they spin for milliseconds, and on many
cores the few small products of a step would take more of the processor than the rest of it."""


def _product(left: Floats, right: Floats) -> Floats:
    """``left @ right``, ``[..., m, k]`` and ``[..., k, n]``, in pieces small enough for one thread."""
    step = max(1, _ONE_THREAD // (right.shape[-2] * right.shape[-1]))
    pieces = [left[..., first : first + step, :] @ right for first in range(0, left.shape[-2], step)]
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=-2)


@lru_cache(maxsize=256)
def _means(side: int, level: int, geometry: Geometry) -> npt.NDArray[np.float64]:
    """What each logit along one axis takes of each pixel, ``[h, side]``."""
    means = np.eye(side)
    for _ in range(level):
        means = _layer(len(means), 2, 2, 0, -(-len(means) // 2)) @ means
        means /= means.sum(axis=1, keepdims=True)  # the last of an odd side is a mean of one
    for kernel, stride, padding in geometry:
        n_logits = (len(means) + 2 * padding - kernel) // stride + 1
        if n_logits < 1 or kernel < 1:
            raise ValueError(f"a kernel of {kernel} does not fit {len(means)} px with a padding of {padding}")
        means = _layer(len(means), kernel, stride, padding, n_logits) @ means
    return means


def _layer(side: int, kernel: int, stride: int, padding: int, n_logits: int) -> npt.NDArray[np.float64]:
    """One layer's mean over its kernel, which lies over the border by its padding."""
    first = np.arange(n_logits)[:, None] * stride - padding
    pixel = np.arange(side)[None, :]
    return ((pixel >= first) & (pixel < first + kernel)) / kernel
