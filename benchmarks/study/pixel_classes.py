"""A second kind of guidance, for comparison: a network that names every pixel healthy, tumour or generated.

After the segmenting discriminator of Sushko et al. (2021, OASIS). It learns from real images and their masks, and from
generated images, of which every pixel is "generated"; the generator is asked for pixels that are named as the mask of
their source says. It is a plugin, made with public hooks alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roi_progressive import Stage, hookimpl
from roi_progressive.method.generator import UNetGenerator

GENERATED = 2
CLASSES = 3
LESION_SHARE = 0.5
"""Of all weights of an image's pixels, so that a small tumour counts as much as what surrounds it."""


class PixelNamer(nn.Module):
    """The paper's UNet with one map of logits a class: ``[N, 1, H, W]`` to ``[N, 3, H, W]``."""

    def __init__(self, base_channels: int = 8, depth: int = 3) -> None:
        super().__init__()
        self.unet = UNetGenerator(1, 1, base_channels, depth)
        self.head = nn.Conv2d(base_channels, CLASSES, 1)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.head(self.unet.features(image))
        return logits


def balanced_weights(region: Tensor) -> Tensor:
    """Weights of pixels, ``[N, H, W]`` of mean 1: the tumours of the batch have ``LESION_SHARE`` of them, the rest the
    other part; without a tumour all pixels weigh the same.

    Args:
        region: Bool ``[N, H, W]``.
    """
    inside = region.float()
    share = inside.mean()
    weights = inside * (LESION_SHARE / share.clamp_min(1e-6)) + (1 - inside) * ((1 - LESION_SHARE) / (1 - share))
    return torch.where(share > 0, weights, torch.ones_like(weights))


def naming_loss(logits: Tensor, wanted: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean cross entropy of pixels.

    Args:
        logits: ``[N, 3, H, W]``.
        wanted: The class of every pixel, ``[N, H, W]``.
        weights: ``[N, H, W]``.
    """
    losses = F.cross_entropy(logits, wanted, reduction="none")
    return (losses * weights).sum() / weights.sum()


@dataclass
class _Direction:
    network: PixelNamer
    optimizer: torch.optim.Adam


class PixelClasses:
    """The plugin.

    Args:
        seed: Of the networks' first weights.
        weight: Of the term in the generator's loss.
        learning_rate: Adam's.
        region: Whose masks are named.
        fade_steps: Over how many steps the weight rises, from the step on in which the region's own stage begins.
    """

    def __init__(
        self, seed: int, weight: float = 2.0, learning_rate: float = 4e-4, region: str = "tumor", fade_steps: int = 156
    ) -> None:
        self.seed, self.weight, self.learning_rate, self.region = seed, weight, learning_rate, region
        self.fade_steps, self._steps, self._active = fade_steps, 0, False
        self._directions: dict[str, _Direction] = {}

    @hookimpl
    def roi_stage_started(self, stage: Stage) -> None:
        """Begin with the stage in which the region joins."""
        self._active = stage.number > 1

    @hookimpl
    def roi_generator_losses(self, translation: Any) -> dict[str, Tensor]:
        """Let the network learn from this step's images, and hold the generated ones against the masks of their
        sources."""
        if not self._active:
            return {}
        direction = self._of(translation.direction, translation.source.device)
        wanted, seen = (masks[self.region].mask[:, 0] > 0 for masks in (translation.masks, translation.real_masks))
        network, fake = direction.network, translation.fake
        generated = torch.full(seen.shape, GENERATED, device=fake.device)
        with torch.enable_grad():
            own = naming_loss(network(translation.real), seen.long(), balanced_weights(seen))
            own = own + naming_loss(network(fake.detach()), generated, torch.ones_like(fake[:, 0]))
            direction.optimizer.zero_grad(set_to_none=True)
            own.backward()
            direction.optimizer.step()
        self._steps += translation.direction == "A2B"
        rise = min(1.0, self._steps / max(self.fade_steps, 1))
        network.requires_grad_(False)
        term = naming_loss(network(fake), wanted.long(), balanced_weights(wanted))
        network.requires_grad_(True)
        return {f"pixel_classes_{translation.direction}": rise * self.weight * term}

    def _of(self, name: str, device: torch.device) -> _Direction:
        if name not in self._directions:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed * 2 + (name == "B2A"))
                network = PixelNamer()
            network.to(device)
            optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate, betas=(0.5, 0.999))
            self._directions[name] = _Direction(network, optimizer)
        return self._directions[name]
