"""A volume in the making: generated slices go back to their places on the scan's own grid, in units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from ..data.framing import Square, resize_to
from ..data.orientation import seen_along
from ..data.preprocessing import FloatArray, IntensityMapping
from ..data.stored_volume import Grid


@dataclass
class MadeVolume:
    """The volumes in the making, in the order of the scan's own axes; views of them have the order of the slices."""

    values: FloatArray
    sigma: FloatArray | None
    mapping: IntensityMapping
    values_in_order: FloatArray
    sigma_in_order: FloatArray | None
    at_ends: int = field(default=0)

    @classmethod
    def empty(
        cls, shape: tuple[int, ...], grid: Grid, lps: Any, mapping: IntensityMapping, *, with_sigma: bool
    ) -> MadeVolume:
        """Volumes that hold background: ``shape`` in LPS, of which ``lps`` is the direction."""
        own = seen_along(np.broadcast_to(np.float32(0), shape), lps, grid.direction).shape
        values = np.full(own, mapping.low, dtype=np.float32)
        sigma = np.zeros(own, dtype=np.float32) if with_sigma else None
        in_order = None if sigma is None else seen_along(sigma, grid.direction, lps)
        return cls(values, sigma, mapping, seen_along(values, grid.direction, lps), in_order)

    def put(self, squares: Mapping[int, Square], image: Tensor, sigma: Tensor | None) -> None:
        """Write generated slices to their places: ``squares`` in the order of ``image``, by the slices' indices."""
        low, high = np.float32(self.mapping.low), np.float32(self.mapping.high)
        for place, (index, square) in enumerate(squares.items()):
            plane = resize_to(image[place].clamp(-1, 1).numpy(), (square.height, square.width))
            values = np.clip(self.mapping.invert(plane).astype(np.float32), low, high)
            square.put_back(values, self.values_in_order[index])
            inside = square.seen_of(values, self.values_in_order[index].shape)
            self.at_ends += int(((inside == low) | (inside == high)).sum())
            if self.sigma_in_order is not None and sigma is not None:
                spread = resize_to(sigma[place].numpy(), (square.height, square.width))
                square.put_back(spread * ((high - low) / 2), self.sigma_in_order[index])
