"""What a step shows the networks of a region, and what they find: images and masks in, losses by network out."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .regions import RegionMask


@dataclass(frozen=True)
class Shown:
    """What one direction of a step shows the networks of one region.

    Args:
        direction: ``A2B`` or ``B2A``.
        region: The region's name.
        fake: Generated images ``[N, C, H, W]`` in [-1, 1].
        fake_masks: The masks of the images they were made from.
        real: Real images of the target domain; the generators' losses need none.
        real_masks: Their own masks.
    """

    direction: str
    region: str
    fake: Tensor
    fake_masks: RegionMask
    real: Tensor | None = None
    real_masks: RegionMask | None = None

    @property
    def key(self) -> str:
        """Of its networks and its pool in the bank."""
        return f"{self.direction}_{self.region}"


@dataclass(frozen=True)
class TermLosses:
    """Losses by the key of their network, ``A2B_tumor``, ...

    Args:
        keys: Those that saw the region.
        values: ``[len(keys)]``, in their order.
    """

    keys: tuple[str, ...]
    values: Tensor


@dataclass(frozen=True)
class StepLosses:
    """What one pass over the images of a step gives.

    Args:
        generators: How far generated images are from passing; their gradient reaches images alone.
        networks: What the networks learn from; its gradient reaches them alone.
    """

    generators: TermLosses | None
    networks: TermLosses | None
