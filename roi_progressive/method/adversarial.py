"""From maps of logits to losses: their mean, weighted by how much of the region each logit sees."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Elementwise = Callable[[Tensor], Tensor]
"""One of the functions of an ``AdversarialLoss``: from logits to losses of the same shape."""


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
