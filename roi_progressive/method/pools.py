"""The history of generated windows (Shrivastava et al. 2017), in which a pooled fake keeps its own mask."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..saving.state_checks import python_stream, tensor
from .regions import Bools


class PooledWindow(NamedTuple):
    """One window.

    Attributes:
        pixels: ``[C, S, S]``, cut off from the graph, on the images' device.
        mask: The region in it, ``[S, S]``, on the CPU.
    """

    pixels: Tensor
    mask: Bools

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.mask.shape[0], self.mask.shape[1]


class WindowPool:
    """Keeps up to ``size`` generated windows, each with the very mask it was made under.

    Half of the windows asked about come back as they are; the other half are swapped for older ones. Its
    random stream is its own, so that the host's does not move.
    """

    def __init__(self, size: int, seed: int) -> None:
        self.size = size
        self._random = random.Random(seed)
        self._stored: list[PooledWindow] = []

    def __len__(self) -> int:
        return len(self._stored)

    def exchange(self, fresh: Sequence[PooledWindow]) -> list[PooledWindow]:
        """Exchange fresh windows for a mix of fresh and old ones.

        Args:
            fresh: Windows of any sizes.

        Returns:
            As many windows, each with its own mask.
        """
        if self.size == 0:
            return list(fresh)
        places: dict[int, PooledWindow] = {}
        chosen = [self._exchanged(window, places) for window in fresh]
        self._keep(places)
        return chosen

    def _exchanged(self, fresh: PooledWindow, places: dict[int, PooledWindow]) -> PooledWindow:
        """What is shown in place of a fresh window; where that is to be kept is noted in ``places``."""
        if len(self._stored) < self.size:
            places[len(self._stored)] = fresh
            self._stored.append(fresh)
            return fresh
        if self._random.random() < 0.5:
            return fresh
        place = self._random.randrange(self.size)
        old, self._stored[place] = self._stored[place], fresh
        places[place] = fresh
        return old

    def _keep(self, places: dict[int, PooledWindow]) -> None:
        """Copy the windows that stay: a view would keep all images of a step in memory. Those of a size in one call."""
        by_shape: dict[torch.Size, list[int]] = {}
        for place, window in places.items():
            by_shape.setdefault(window.pixels.shape, []).append(place)
        for of_shape in by_shape.values():
            copies = torch.stack([places[place].pixels for place in of_shape])
            for place, pixels in zip(of_shape, copies, strict=True):
                self._stored[place] = PooledWindow(pixels, places[place].mask.copy())

    def state_dict(self) -> dict[str, Any]:
        """Windows, masks and the random stream; plain values only."""
        version, words, gauss = self._random.getstate()
        return {
            # Copies: windows that were stored together lie in one piece of memory, all of which a file would hold.
            "pixels": [window.pixels.clone() for window in self._stored],
            "masks": [torch.from_numpy(window.mask[None]).to(window.pixels.dtype) for window in self._stored],
            "dice": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device | str) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            TypeError, ValueError: A value is of another kind.
        """
        windows = zip(state["pixels"], state["masks"], strict=True)
        checked = [(tensor("a window", pixels, ndim=3), tensor("its mask", mask, ndim=3)) for pixels, mask in windows]
        if any(pixels.shape[1:] != mask.shape[1:] for pixels, mask in checked):
            raise ValueError("a window and its mask differ in size")
        self._stored = [
            PooledWindow(pixels.to(device), np.asarray(mask[0].cpu() > 0)) for pixels, mask in checked[: self.size]
        ]
        self._random.setstate(python_stream(state["dice"]))
