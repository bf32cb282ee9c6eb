"""From masks to what a region discriminator sees: windows, scale pyramids, logit weights.

Everything here is differentiable in the image and constant in the mask. Region terms touch the region only: the
gradient on the image is exactly zero outside the mask grown by ``context_px`` in every mode, since painting comes
before any resizing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import RegionConfig
from ..errors import ShapeError

Box = tuple[int, int, int, int]
"""Top, left, bottom, right in pixels; bottom and right are exclusive."""


@dataclass(frozen=True)
class RegionMask:
    """The masks of one region for a batch of images.

    Args:
        mask: Bool, ``[N, 1, H, W]``, on the images' device.
        boxes: The bounding box of each mask, ``None`` where the image does not hold the region. Kept as plain
            numbers so that choosing windows never waits for a GPU.
        is_finite: Whether they were made of finite numbers.

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

    mask: Tensor
    boxes: tuple[Box | None, ...]
    is_finite: bool = True

    @classmethod
    def from_tensor(cls, mask: Tensor, device: torch.device | str | None = None) -> RegionMask:
        """Measure the boxes of a mask batch and move it to the images' device.

        Args:
            mask: ``[N, 1, H, W]`` or ``[N, H, W]``; bool, or numbers: see ``inside_of``.
                Best given on the CPU: on a GPU, measuring the boxes waits for it.
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
        inside = inside_of(mask)
        is_finite = not mask.is_floating_point() or bool(torch.isfinite(mask).all())
        return cls(inside.to(device) if device is not None else inside, mask_boxes(inside), is_finite)

    def mirrored(self) -> RegionMask:
        """The masks of the images mirrored left to right."""
        width = self.mask.shape[-1]
        boxes = (box and (box[0], width - box[3], box[2], width - box[1]) for box in self.boxes)
        return RegionMask(torch.flip(self.mask, [3]), tuple(boxes), self.is_finite)

    @property
    def is_empty(self) -> bool:
        """Whether no image of the batch holds the region."""
        return all(box is None for box in self.boxes)


def inside_of(mask: Tensor) -> Tensor:
    """Which pixels a mask marks: the same that its sharp edges would, where interpolation made them soft.

    Args:
        mask: Any shape. Bool; whole numbers, of which those above 0 are inside; or floats: shares from 0 to 1, of which
            one half and more is inside, or values from -1 to 1 as images have, of which those above 0 are.

    Returns:
        Bool of the same shape, computed where the mask lies without waiting for it.
    """
    if mask.dtype == torch.bool:
        return mask
    if not mask.is_floating_point() or mask.numel() == 0:
        return mask > 0
    return torch.where(mask.amin() < -0.5, mask > 0, mask >= 0.5)


def mask_boxes(mask: Tensor) -> tuple[Box | None, ...]:
    """Bounding boxes of a bool mask batch ``[N, 1, H, W]``; ``None`` for an empty mask."""
    rows, columns = mask.any(dim=3).squeeze(1), mask.any(dim=2).squeeze(1)
    first = [axis.int().argmax(dim=1) for axis in (rows, columns)]
    last = [axis.shape[1] - axis.flip(1).int().argmax(dim=1) for axis in (rows, columns)]
    numbers = torch.stack([*first, *last, rows.any(dim=1).long()], dim=1).tolist()
    return tuple((top, left, bottom, right) if held else None for top, left, bottom, right, held in numbers)


@dataclass(frozen=True)
class Windows:
    """Windows of one size, as a discriminator sees them.

    Args:
        pixels: ``[n, C, S, S]`` in [-1, 1] (``[n, C + 1, S, S]`` with the mask as last channel for ``concat``,
            ``[n, C, H, W]`` for ``mask``); single precision or better.
        mask: The region inside each window, ``[n, 1, S, S]`` in [0, 1], of the pixels' type.
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
    if image.ndim != 4 or image.shape[0] != region.mask.shape[0] or image.shape[2:] != region.mask.shape[2:]:
        raise ShapeError(
            f"`image` and its mask must agree in batch, height and width; got image {list(image.shape)} and "
            f"mask {list(region.mask.shape)}; give the masks of these very images"
        )
    held = [(sample, box) for sample, box in enumerate(region.boxes) if box is not None]
    if not held:
        return []
    if config.roi_mode == "mask":
        everything = len(held) == image.shape[0]
        kept = slice(None) if everything else torch.tensor([sample for sample, _ in held], device=image.device)
        return [_seen(image[kept], region.mask[kept], config, background)]
    groups: dict[int, list[tuple[int, int, int]]] = {}
    for sample, box in held:
        side = window_side(box, config)
        groups.setdefault(side, []).append((sample, *_corner(box, side, image.shape[2], image.shape[3])))
    return [
        _seen(*_cut(image, region.mask, side, places, background), config, background)
        for side, places in sorted(groups.items())
    ]


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


def _cut(
    image: Tensor, mask: Tensor, side: int, places: Sequence[tuple[int, int, int]], background: float
) -> tuple[Tensor, Tensor]:
    beyond = (0, max(0, side - image.shape[3]), 0, max(0, side - image.shape[2]))
    if any(beyond):
        image = F.pad(image, beyond, value=background)
        mask = F.pad(mask, beyond, value=False)
    if len(places) == 1:
        ((sample, top, left),) = places
        here = (slice(sample, sample + 1), slice(None), slice(top, top + side), slice(left, left + side))
        return image[here], mask[here]
    samples, tops, lefts = torch.tensor(places).to(image.device, non_blocking=True).unbind(1)
    steps = torch.arange(side, device=image.device)
    batch = samples[:, None, None, None]
    channel = torch.arange(image.shape[1], device=image.device)[None, :, None, None]
    rows = (tops[:, None] + steps)[:, None, :, None]
    columns = (lefts[:, None] + steps)[:, None, None, :]
    return image[batch, channel, rows, columns], mask[batch, channel[:, :1], rows, columns]


def _seen(pixels: Tensor, mask: Tensor, config: RegionConfig, background: float) -> Windows:
    visible = grow(mask, config.context_px)
    # A host under autocast makes half-precision images, in which one pixel's share of a logit would vanish.
    pixels = pixels.to(torch.promote_types(pixels.dtype, torch.float32))
    inside = mask.to(pixels.dtype)
    if config.roi_mode == "concat":
        # The surroundings are shown but detached: the mask decides where the gradient may go.
        return Windows(torch.cat([torch.where(visible, pixels, pixels.detach()), inside], dim=1), inside)
    return Windows(torch.where(visible, pixels, background), inside)


def grow(mask: Tensor, by_px: int) -> Tensor:
    """A bool mask ``[N, 1, H, W]`` grown by a square of ``by_px`` pixels on every side."""
    if by_px == 0:
        return mask
    return F.max_pool2d(mask.float(), 2 * by_px + 1, stride=1, padding=by_px) > 0


def pyramid(windows: Windows, scales: int) -> list[Windows]:
    """The windows at scales 1, 1/2, 1/4, ..., each the 2 x 2 mean of the one before."""
    levels = [windows]
    for _ in range(scales - 1):
        finer = levels[-1]
        # Rounding sizes up keeps the last row of odd ones, where a small region may lie.
        levels.append(
            Windows(F.avg_pool2d(finer.pixels, 2, ceil_mode=True), F.avg_pool2d(finer.mask, 2, ceil_mode=True))
        )
    return levels


def logit_weights(mask: Tensor, geometry: Sequence[tuple[int, int, int]]) -> Tensor:
    """How much of the region each logit of a Markovian discriminator sees.

    The mask goes through the discriminator's own geometry with every convolution replaced by the mean over its
    kernel: a logit's weight is the share of its paths that end inside the region, and zero exactly
    where its receptive field holds no pixel of it.

    Args:
        mask: Float in [0, 1], ``[n, 1, S, S]``.
        geometry: Kernel size, stride and padding of each layer, in order.

    Returns:
        Weights ``[n, 1, h, w]`` of the shape of the discriminator's logits.
    """
    for kernel, stride, padding in geometry:
        # Padded by hand: pooling refuses more than half its kernel, which a convolution allows.
        mask = F.avg_pool2d(F.pad(mask, (padding,) * 4), kernel, stride)
    return mask
