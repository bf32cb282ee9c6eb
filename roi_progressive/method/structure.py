"""The structure tie: a region keeps the structure of its source, whatever its grey values become.

By the modality-independent neighbourhood descriptor (MIND) of Heinrich et al. (2012): how like each pixel's
surroundings are to those a little to the left, right, above and below. An image and its negative have the same.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..runtime.uploads import upload
from .held_images import HeldImages
from .regions import RegionMask
from .windows import in_full

DISTANCE_PX = 2
"""How far away the four neighbours of a pixel are."""
NOISE = 1e-2
"""Added to the local variance of distances, in squared units of the image's range, so that flat regions say nothing."""


def self_similarity(image: Tensor) -> Tensor:
    """The descriptor of every pixel.

    Args:
        image: ``[N, C, H, W]`` in [-1, 1]; its channels' mean is looked at, and its border repeated outside.

    Returns:
        ``[N, 4, H, W]`` in [0, 1]: ``exp(-D / V)`` for each neighbour, with D the mean squared difference of the 3 x 3
        pixels around both, and V the mean of the four D plus ``NOISE``.
    """
    grey = image.mean(dim=1, keepdim=True)
    height, width = grey.shape[-2:]
    wide = F.pad(grey, (DISTANCE_PX,) * 4, mode="replicate")
    corners = ((DISTANCE_PX, 0), (DISTANCE_PX, 2 * DISTANCE_PX), (0, DISTANCE_PX), (2 * DISTANCE_PX, DISTANCE_PX))
    neighbours = torch.cat([wide[..., top : top + height, left : left + width] for top, left in corners], dim=1)
    distances = F.avg_pool2d((grey - neighbours).square(), 3, 1, 1, count_include_pad=False)
    return torch.exp(-distances / (distances.mean(dim=1, keepdim=True) + NOISE))


def structure_loss(fake: Tensor, source: Tensor, masks: RegionMask, reach_px: int) -> Tensor | None:
    """How far the structure of generated regions is from that of their sources.

    Args:
        fake: Generated images ``[N, C, H, W]`` in [-1, 1].
        source: What they were made from; of any number of channels.
        masks: The sources' masks.
        reach_px: How far around the region pixels count; the gradient is exactly zero beyond that.

    Returns:
        The mean absolute difference of descriptors over what counts of each image, and the mean over the images that
        hold the region; ``None`` where none does.
    """
    held = HeldImages.of(masks, reach_px)
    if held is None or held.visible is None:
        return None
    made, given = held.chosen(in_full(fake)), held.chosen(in_full(source.detach()))
    apart = (self_similarity(made) - self_similarity(given)).abs().mean(dim=1)
    counts = held.visible / held.visible.sum(axis=(1, 2), keepdims=True) / len(held)
    (weights,) = upload([counts.astype("float64" if apart.dtype == torch.float64 else "float32")], apart.device)
    return (apart * weights).sum()
