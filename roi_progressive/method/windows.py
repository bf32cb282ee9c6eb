"""What a region discriminator sees: all windows of a step are cut out of its images by one operation.

Region terms touch the region only: the gradient on the image is exactly zero outside the mask grown by ``context_px``
in every mode, since painting comes before any resizing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..config import RegionConfig
from ..runtime.finite import HALF
from ..runtime.uploads import upload
from .regions import PAINTS, Bools, RegionMask, WindowGroup, index_type

Groups = Sequence[tuple[int, WindowGroup]]
"""Window groups of one size, each with the place of its images among several."""


def cut(
    images: Sequence[Tensor],
    groups: Sequence[Sequence[Groups]],
    background: float = -1.0,
    n_differentiable: int | None = None,
) -> list[Tensor]:
    """Cut windows out of images, all in two operations whatever their number.

    Args:
        images: ``[N, C, H, W]`` each, or windows that were cut before, on one device and of one type.
        groups: For each result what its networks see, side by side: the channels of one follow those of another. The
            windows of a network's groups follow one another.
        background: Grey value painted outside the mask.
        n_differentiable: How many of the results, the first ones, are to be differentiable; by default all.

    Returns:
        Pixels ``[n, C, S, S]`` for each of ``groups``; differentiable in the images, once.
    """
    device, n_numbers = images[0].device, [PAINTS + image.numel() for image in images]
    offsets = np.cumsum([0, *n_numbers])
    dtype = index_type(offsets[-1])
    shapes = [
        (
            sum(len(group) for _, group in networks[0]),
            sum(of[0][1].index.shape[1] for of in networks),
            *networks[0][0][1].size,
        )
        for networks in groups
    ]
    index = _joined(
        [[[group.index + dtype(offsets[place]) for place, group in of] for of in networks] for networks in groups]
    )
    first = len(groups) if n_differentiable is None else n_differentiable
    goes_back = _joined(
        [
            [[group.visible if group.gives_gradient else np.zeros_like(group.visible) for _, group in of] for of in net]
            for net in groups[:first]
        ]
    )
    back = np.flatnonzero(goes_back).astype(dtype)
    arrays = upload([index, index[back], back], device)
    paints = _paints(background, images[0].dtype, device)
    return list(_Cut.apply(*arrays, paints, shapes, first, *images))


@lru_cache(maxsize=16)
def _paints(background: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """What lies before every image's pixels."""
    with torch.inference_mode(False):
        return torch.tensor([background, 0.0, 1.0], dtype=dtype, device=device)


def _joined(arrays: Sequence[Sequence[Sequence[npt.NDArray[Any]]]]) -> npt.NDArray[Any]:
    """Windows below one another, networks beside one another, and all of it in one row of numbers."""
    stacked = ([_concatenated(of, 0) for of in networks] for networks in arrays)
    return _concatenated([_concatenated(networks, 1).reshape(-1) for networks in stacked], 0)


def _concatenated(arrays: Sequence[npt.NDArray[Any]], axis: int) -> npt.NDArray[Any]:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=axis)


class _Cut(torch.autograd.Function):
    """Reads pixels and paint by their places; what goes back is added to the pixels that it came from.

    Args of ``forward``:
        index: Places of all results, among all images with ``PAINTS`` numbers before each.
        to: Places of the pixels that get a gradient.
        back: Where it comes from, among the numbers of the differentiable results.
        paints: The numbers before each image.
        shapes: Of the results.
        n_differentiable: How many of them, the first ones, are.
    """

    @staticmethod
    def forward(
        ctx: Any,
        index: Tensor,
        to: Tensor,
        back: Tensor,
        paints: Tensor,
        shapes: Sequence[Sequence[int]],
        n_differentiable: int,
        *images: Tensor,
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(to, back)
        ctx.shapes = [image.shape for image in images]
        ctx.set_materialize_grads(False)
        flat = torch.cat([part for image in images for part in (paints, image.reshape(-1))])
        parts = flat.index_select(0, index).split([math.prod(shape) for shape in shapes])
        results = tuple(part.view(shape) for part, shape in zip(parts, shapes, strict=True))
        ctx.of_results = [part.shape for part in results[:n_differentiable]]
        ctx.mark_non_differentiable(*results[n_differentiable:])
        return results

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        to, back = ctx.saved_tensors
        needed = ctx.needs_input_grad[6:]
        n_images = max((place + 1 for place, wanted in enumerate(needed) if wanted), default=0)
        given = next((gradient for gradient in gradients if gradient is not None), None)
        if given is None or not n_images:
            return (None,) * (6 + len(needed))
        parts = [
            (given.new_zeros(shape) if gradient is None else gradient).reshape(-1)
            for gradient, shape in zip(gradients, ctx.of_results, strict=False)
        ]
        gradient = parts[0] if len(parts) == 1 else torch.cat(parts)
        sizes = [size for shape in ctx.shapes[:n_images] for size in (PAINTS, shape.numel())]
        # A window holds a pixel once; where windows of two regions overlap, two numbers are added to a zero.
        total = given.new_zeros(sum(sizes)).index_add_(0, to, gradient.index_select(0, back))
        of_images = [
            part.view(shape) if wanted else None
            for part, shape, wanted in zip(total.split(sizes)[1::2], ctx.shapes, needed, strict=False)
        ]
        return (*[None] * 6, *of_images, *[None] * (len(needed) - n_images))


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
    groups = region.window_groups(image.shape, config)
    if not groups:
        return []
    image = in_full(image)
    pixels = cut([image], [[[(0, group)]] for group in groups], background)
    return [Windows(p, mask_tensor(group.inside, image.dtype)) for p, group in zip(pixels, groups, strict=True)]


def in_full(image: Tensor) -> Tensor:
    """An image in single precision or better: in half, one pixel's share of a logit would vanish."""
    return image.float() if image.dtype in HALF else image


def mask_tensor(inside: Bools, dtype: torch.dtype) -> Tensor:
    """Bool masks ``[n, S, S]`` as ``Windows`` keeps them: ``[n, 1, S, S]`` in numbers, on the CPU."""
    return torch.from_numpy(inside[:, None].astype(np.float64 if dtype == torch.float64 else np.float32))
