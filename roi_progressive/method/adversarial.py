"""From maps of logits to losses: their mean, weighted by how much of the region each logit sees."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from torch import Tensor

from ..runtime.uploads import upload
from .regions import Floats

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
    counts = torch.from_numpy(shares(weights.flatten(1).numpy())).to(logits)
    return (loss(logits) * counts).sum(dim=1)


def shares(weights: Floats) -> Floats:
    """What each logit counts of its map: weights ``[n, ...]`` scaled to a sum of 1 for each sample."""
    flat = weights.reshape(len(weights), -1)
    # Only a foreign geometry can miss a region altogether; its loss is then zero, not NaN.
    counts: Floats = flat / np.maximum(flat.sum(axis=1, keepdims=True), np.finfo(flat.dtype).tiny)
    return counts


@dataclass(frozen=True)
class JudgedMap:
    """The logits of one network for some windows of a term.

    Args:
        logits: Any shape, contiguous; several maps may show different samples of it.
        places: Which of its numbers, flattened, ``[n, k]``.
        counts: What each counts in the term, of the same shape.
    """

    logits: Tensor
    places: np.ndarray[tuple[int, ...], np.dtype[np.int64]]
    counts: Floats


def term_losses(terms: Sequence[tuple[Elementwise, Sequence[JudgedMap]]]) -> Tensor:
    """The loss of each term, a weighted sum over logits, of all terms in a handful of operations.

    Args:
        terms: For each its elementwise loss and its maps. Terms of one loss stand together.

    Returns:
        One loss a term, ``[len(terms)]``.
    """
    maps = {id(found.logits): found.logits for _, of_term in terms for found in of_term}
    offsets = dict(zip(maps, np.cumsum([0, *(logits.numel() for logits in maps.values())]).tolist(), strict=False))
    longest = max(sum(found.places.size for found in of_term) for _, of_term in terms)
    # What fills up the shorter rows is the first logit, which counts nothing there.
    places, counts = np.zeros((len(terms), longest), dtype=np.int64), np.zeros((len(terms), longest))
    for row, (_, of_term) in enumerate(terms):
        end = 0
        for found in of_term:
            begin, end = end, end + found.places.size
            places[row, begin:end] = found.places.reshape(-1) + offsets[id(found.logits)]
            counts[row, begin:end] = found.counts.reshape(-1)
    flat = [logits.reshape(-1) for logits in maps.values()]
    logits = flat[0] if len(flat) == 1 else torch.cat(flat)
    if logits.dtype != torch.float64:
        counts = counts.astype(np.float32)
    place, count = upload([places.reshape(-1), counts], logits.device)
    rows = logits.index_select(0, place).view(len(terms), longest)
    # One loss after the other, each on its own rows.
    sizes = [len(list(same)) for _, same in groupby(terms, key=lambda term: id(term[0]))]
    losses, first = [], 0
    for part, counted in zip(rows.split(sizes), count.split(sizes), strict=True):
        losses.append((terms[first][0](part) * counted).sum(dim=1))
        first += len(part)
    return losses[0] if len(losses) == 1 else torch.cat(losses)
