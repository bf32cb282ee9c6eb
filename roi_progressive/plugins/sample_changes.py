"""Where a sample changes when a region is painted over in its image: there the mask must lie."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

LEAST_PX = 12
"""Regions of fewer pixels prove nothing: at their edges a mask may lie a pixel off."""
TOLERANCE = 0.1
"""Share of a region's pixels that may lie farther than a pixel from where the sample changes."""


@dataclass
class Levels:
    """What a domain's samples have shown of how grey levels come out."""

    outside: float = -1.0
    inside: float = 1.0
    contrast: float = 0.0
    """The largest difference between white and black that was seen."""
    first_inside: float | None = None
    """The grey that the first mask had inside; where the next one has another, greys are drawn."""
    n_proofs: int = 0


def above_half(replay: Tensor, levels: Levels) -> Tensor:
    """Where a replayed mask is above one half of its range."""
    half = (levels.inside + levels.outside) / 2.0
    return replay > half if levels.inside > levels.outside else replay < half


def where_changed(sample: Tensor, white: Tensor, black: Tensor, levels: Levels) -> Tensor | None:
    """Where the paint comes out, ``[1, H, W]``; ``None`` where it does so nowhere."""
    difference = (_aligned(white, sample) - _aligned(black, sample)).abs().amax(0, keepdim=True)
    largest = float(difference.max()) if difference.numel() else 0.0
    levels.contrast = max(levels.contrast, largest)
    if largest <= 1e-6 or largest < 0.25 * levels.contrast:
        return None
    return difference > largest / 2.0


def _aligned(painted: Tensor, sample: Tensor) -> Tensor:
    """A painted sample in the greys of the one it was painted on: a host may scale each image by what is in it."""
    y, x = painted.detach().double(), sample.detach().double()
    if not x.numel() or float((x == y).double().mean()) >= 0.2:
        return y.float()
    kept_x, kept_y = x.flatten(), y.flatten()
    slope, offset = 1.0, 0.0
    for _ in range(6):  # most of the image is not painted: what fits worst is left out, again and again
        spread = float(kept_x.var(correction=0))
        if spread <= 1e-12:
            return y.float()
        slope = float(((kept_x - kept_x.mean()) * (kept_y - kept_y.mean())).mean()) / spread
        offset = float(kept_y.mean()) - slope * float(kept_x.mean())
        off = (y - slope * x - offset).abs().flatten()
        kept = off <= off.kthvalue(max(1, int(0.7 * off.numel()))).values
        kept_x, kept_y = x.flatten()[kept], y.flatten()[kept]
    off = kept_y - slope * kept_x - offset
    fits = slope > 1e-6 and float(off.std()) <= 0.1 * slope * float(kept_x.std())
    return ((y - offset) / slope if fits else y).float()


def levels_of(replay: Tensor, truth: Tensor) -> tuple[float, float]:
    """The grey a replayed mask has inside and outside of where it must lie."""
    outside = replay[~_grown(truth)]
    inner = _shrunk(truth)
    inside = replay[inner if inner.any() else truth]
    if not outside.numel():
        return float(inside.median()), -1.0 if float(inside.median()) > 0 else 1.0
    return float(inside.median()), float(outside.median())


def lie_apart(mask: Tensor, truth: Tensor) -> bool:
    """Whether two masks lie apart by more than a pixel at their edges."""
    largest = max(int(mask.sum()), int(truth.sum()))
    apart = int((mask & ~_grown(truth)).sum()) + int((truth & ~_grown(mask)).sum())
    return largest >= LEAST_PX and apart > TOLERANCE * largest


def is_steady(sample: Tensor, painted: Tensor, mask: Tensor, contrast: float) -> bool:
    """Whether the sample is the same outside of the mask, but for a little of its grey levels."""
    outside = ~_grown(_grown(mask))
    moved = (sample.detach().float() - _aligned(painted, sample)).abs().amax(0, keepdim=True)[outside]
    if not moved.numel() or contrast == 0.0:
        return True
    return float((moved > 0.25 * contrast).float().mean()) <= 0.01 and float(moved.mean()) <= 0.1 * contrast


def _grown(mask: Tensor) -> Tensor:
    return F.max_pool2d(mask[None].float(), 3, stride=1, padding=1)[0] > 0


def _shrunk(mask: Tensor) -> Tensor:
    return ~_grown(~mask)
