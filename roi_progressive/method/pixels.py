"""Pixel classifiers: small UNets that name every pixel of an image "rest", "region" or "generated".

After the segmenting discriminator of Sushko et al. (2021, "You Only Need Adversarial Supervision for Semantic Image
Synthesis", OASIS). A classifier learns from real images and their masks, and from generated images, of which every
pixel is "generated"; the generator is asked for pixels that are named as the mask of their source says. Images without
the region are not looked at: no region, no change.

The term is one of the whole image, unless ``pixel_reach_px`` keeps it to the region and its surroundings.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig
from ..runtime.uploads import upload
from .generator import OutConv, UNet
from .held_images import HeldImages
from .regions import Bools, Floats, RegionMask
from .windows import in_full

REST, REGION, GENERATED = range(3)
"""The classes, in the order of a classifier's logits."""
DEPTH = 3
"""How often a classifier halves its image."""
REGION_SHARE = 0.5
"""Of all weights of an image's pixels, so that a small region counts as much as what surrounds it."""


class PixelClassifier(UNet):
    """The paper's UNet with one map of logits a class.

    Args:
        in_channels: Channels of the image.
        base_channels: Channels at full resolution.

    Shape:
        ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 3, H, W]``; H and W at least 8 px.

    Example:
        >>> PixelClassifier(base_channels=4)(torch.zeros(2, 1, 32, 24)).shape
        torch.Size([2, 3, 32, 24])
    """

    def __init__(self, in_channels: int = 1, base_channels: int = 8) -> None:
        super().__init__(in_channels, base_channels, DEPTH)
        self.class_head = OutConv(base_channels, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.class_head(self.features(image))
        return logits


def class_weights(inside: Bools, visible: Bools | None = None) -> Floats:
    """What the classes "rest" and "region" count at each pixel.

    Args:
        inside: The region, ``[n, H, W]``, of which every image holds some.
        visible: What counts, ``[n, H, W]``, the region among it; ``None`` for every pixel.

    Returns:
        ``[n, 2, H, W]``, 1 in sum for each image: ``REGION_SHARE`` for its region, the other part for the visible rest.
        An image that is nothing but region gives all of it to that.
    """
    rest = ~inside if visible is None else visible & ~inside
    both = np.stack([rest, inside], axis=1).astype(np.float64)
    counts = both.sum(axis=(2, 3))
    wanted = np.where(counts[:, :1] > 0, [1 - REGION_SHARE, REGION_SHARE], [0.0, 1.0])
    weights: Floats = both * (wanted / np.maximum(counts, 1))[:, :, None, None]
    return weights


class PixelClassifiers(nn.Module):
    """The pixel classifiers of all regions and directions that ask for one.

    Args:
        config: Regions.
        in_channels: Image channels by direction: those of its generated images.

    Attributes:
        networks: By ``<direction>_<region>``.
    """

    def __init__(self, config: Config, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        self._regions: dict[str, RegionConfig] = {
            f"{direction}_{region.name}": region
            for direction in in_channels
            for region in config.regions
            if region.pixel_weight > 0
        }
        self.networks = nn.ModuleDict(
            {
                key: PixelClassifier(in_channels[key.removesuffix(f"_{region.name}")], region.pixel_channels)
                for key, region in self._regions.items()
            }
        )

    def generator_loss(self, key: str, fake: Tensor, masks: RegionMask) -> Tensor | None:
        """How far the pixels of generated images are from being named as the masks of their sources say.

        Args:
            key: ``<direction>_<region>``.
            fake: Generated images ``[N, C, H, W]`` in [-1, 1].
            masks: The masks of the images they were made from.

        Returns:
            The mean over the images that hold the region; ``None`` where none does. The classifier's own parameters get
            no gradient.
        """
        held = HeldImages.of(masks, self._regions[key].pixel_reach_px)
        if held is None:
            return None
        network = self.networks[key]
        learns = [parameter for parameter in network.parameters() if parameter.requires_grad]
        for parameter in learns:  # saves their half of the backward pass
            parameter.requires_grad_(False)
        try:
            # A view: torch's own counters hook what a module is called with, and cannot hook a leaf of autograd.grad.
            logits = network(held.chosen(in_full(fake).view(fake.shape)))
        finally:
            for parameter in learns:
                parameter.requires_grad_(True)
        return _naming_loss(logits, class_weights(held.inside, held.visible))

    def learning_loss(
        self,
        key: str,
        fake: Tensor,
        fake_masks: RegionMask,
        real: Tensor,
        real_masks: RegionMask,
        shares: Mapping[str, float] | None = None,
    ) -> Tensor | None:
        """How well a classifier names the pixels of real images, and those of generated ones.

        Args:
            key: ``<direction>_<region>``.
            fake: Generated images ``[N, C, H, W]`` in [-1, 1].
            fake_masks: The masks of the images they were made from.
            real: Real images of the target domain.
            real_masks: Their own masks.
            shares: What the means over generated and real images here weigh among those of all processes, by
                ``fake_<key>`` and ``real_<key>``; 1 where it says nothing.

        Returns:
            Half the mean over real images plus half the mean over generated ones, of those that hold the region;
            ``None`` where none does.
        """
        of_fake, of_real = HeldImages.of(fake_masks, None), HeldImages.of(real_masks, None)
        held = [(kind, image, of) for kind, image, of in (("real", real, of_real), ("fake", fake, of_fake)) if of]
        if not held:
            return None
        images = [of.chosen(in_full(image.detach())) for _, image, of in held]
        if len({image.shape[1:] for image in images}) == 1:  # one call for both; no image sees another
            logits = self.networks[key](torch.cat(images)).split([len(image) for image in images])
        else:
            logits = [self.networks[key](image) for image in images]
        losses = []
        for (kind, _, of), found in zip(held, logits, strict=True):
            if kind == "real":
                loss = _naming_loss(found, class_weights(of.inside))
            else:
                loss = -found.log_softmax(dim=1)[:, GENERATED].mean()
            losses.append(0.5 * (shares or {}).get(f"{kind}_{key}", 1.0) * loss)
        return losses[0] if len(losses) == 1 else losses[0] + losses[1]


def _naming_loss(logits: Tensor, weights: Floats) -> Tensor:
    """Cross entropy of pixels by the weights of their classes, ``[n, 2, H, W]``, and the mean over the images."""
    n = len(weights)
    (counts,) = upload(
        [(weights / n).astype(np.float64 if logits.dtype == torch.float64 else np.float32)], logits.device
    )
    return -(logits.log_softmax(dim=1)[:, :GENERATED] * counts).sum()
