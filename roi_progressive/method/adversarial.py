"""Adversarial losses, elementwise on logits, and their mean weighted by what each logit sees."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError

Elementwise = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class AdversarialLoss:
    """Three functions from logits to losses of the same shape.

    Args:
        generator: Small where generated images pass for real.
        real: The discriminator's loss on real images.
        fake: The discriminator's loss on generated images.
    """

    generator: Elementwise
    real: Elementwise
    fake: Elementwise

    @classmethod
    def named(cls, name: str) -> AdversarialLoss:
        """``least_squares`` (Mao et al. 2017; paper eq. 3 to 8), ``vanilla`` (Goodfellow et al. 2014) or ``hinge``.

        Raises:
            ConfigError: No loss has that name.
        """
        if name not in _LOSSES:
            raise ConfigError(f"`adversarial` must be one of {', '.join(_LOSSES)}; got {name!r}")
        return _LOSSES[name]


_LOSSES = {
    "least_squares": AdversarialLoss(
        generator=lambda logits: (logits - 1).square(),
        real=lambda logits: (logits - 1).square(),
        fake=lambda logits: logits.square(),
    ),
    "vanilla": AdversarialLoss(
        generator=lambda logits: F.softplus(-logits),
        real=lambda logits: F.softplus(-logits),
        fake=lambda logits: F.softplus(logits),
    ),
    "hinge": AdversarialLoss(
        generator=lambda logits: -logits,
        real=lambda logits: F.relu(1 - logits),
        fake=lambda logits: F.relu(1 + logits),
    ),
}


def reduce_logits(loss: Elementwise, logits: Tensor, weights: Tensor | None, *, mean_first: bool = False) -> Tensor:
    """One loss a sample from its map of logits.

    Args:
        loss: The elementwise loss.
        logits: ``[n, 1, h, w]``.
        weights: Non-negative, the logits' shape; ``None`` counts all alike.
        mean_first: Average the map, then take the loss, as the paper prints it. Opposite errors cancel
            (logits 0 and 2 look perfect to least squares), so it is not the default.

    Returns:
        ``[n]``.
    """
    logits = logits.flatten(1)
    if mean_first:
        return loss(logits.mean(dim=1))
    if weights is None:
        return loss(logits).mean(dim=1)
    weights = weights.flatten(1)
    # Only a foreign geometry can miss a region altogether; its loss is then zero, not NaN.
    seen = weights.sum(dim=1).clamp_min(torch.finfo(weights.dtype).tiny)
    return (loss(logits) * weights).sum(dim=1) / seen
