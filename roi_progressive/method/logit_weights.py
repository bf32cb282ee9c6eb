"""What a logit of a region discriminator weighs: by how much of the region it sees, at every scale of a window."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch.nn.functional as F
from torch import Tensor

from .regions import Bools, Floats

Geometry = Sequence[tuple[int, int, int]]
"""Kernel, stride and padding of each convolution, in order."""


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
    (weights,) = logit_weights_of_scales(mask, [(geometry, level)])
    return weights


def logit_weights_of_scales(mask: Floats | Bools, scales: Sequence[tuple[Geometry, int]]) -> list[Floats]:
    """``logit_weights`` of several discriminators that see the same windows, in two products.

    Args:
        mask: In [0, 1], ``[n, H, W]``.
        scales: The geometry of each, and how often the mask is halved before.

    Raises:
        ValueError: As ``logit_weights``.
    """
    plain = tuple(
        [(tuple([(int(kernel), int(stride), int(pad)) for kernel, stride, pad in of]), level) for of, level in scales]
    )
    height, width = mask.shape[1:]
    rows, of_rows = _means_of_scales(height, plain)
    columns, of_columns = _means_of_scales(width, plain)
    every = _product(rows, _product(mask.astype(np.float64), columns.T))
    # What one scale's rows make of another's columns is of no use, and costs less than products of their own.
    return [every[:, of, across] for of, across in zip(of_rows, of_columns, strict=True)]


@lru_cache(maxsize=256)
def _means_of_scales(
    side: int, scales: tuple[tuple[Geometry, int], ...]
) -> tuple[npt.NDArray[np.float64], tuple[slice, ...]]:
    """``_means`` of every scale below one another, and which rows are whose."""
    means = [_means(side, level, geometry) for geometry, level in scales]
    ends = np.cumsum([len(of) for of in means]).tolist()
    return np.concatenate(means), tuple(slice(end - len(of), end) for of, end in zip(means, ends, strict=True))


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
