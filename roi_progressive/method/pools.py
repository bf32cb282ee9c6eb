"""The history of generated windows (Shrivastava et al. 2017), in which a pooled fake keeps its own mask."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
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


class Exchange(NamedTuple):
    """What a pool answers to fresh windows; nothing of it is kept yet.

    Attributes:
        shown: In place of each fresh window: the number of a fresh one, or an old one.
        kept: Which fresh window is to be kept at which place of the pool.
        before: Where the pool's random stream stood; ``None`` where nothing was drawn.
    """

    shown: list[int | PooledWindow]
    kept: dict[int, int]
    before: tuple[Any, ...] | None


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
        drawn = self.draw(len(fresh))
        self.keep(drawn, {number: fresh[number] for number in drawn.kept.values()})
        return [fresh[window] if isinstance(window, int) else window for window in drawn.shown]

    def draw(self, n_fresh: int) -> Exchange:
        """Draw what is shown in place of fresh windows, before any is there; ``keep`` or ``undo`` it afterwards."""
        before = self._random.getstate() if 0 < self.size < len(self) + n_fresh else None
        shown: list[int | PooledWindow] = []
        kept: dict[int, int] = {}
        n_stored = len(self)
        for number in range(n_fresh):
            if n_stored < self.size:
                kept[n_stored] = number
                n_stored += 1
            elif self.size and self._random.random() >= 0.5:
                place = self._random.randrange(self.size)
                shown.append(kept[place] if place in kept else self._stored[place])
                kept[place] = number
                continue
            shown.append(number)
        return Exchange(shown, kept, before)

    def keep(self, drawn: Exchange, fresh: Mapping[int, PooledWindow]) -> None:
        """Store the fresh windows that stay.

        They are copied, those of a size in one call: a view would keep all images of a step in memory.

        Args:
            drawn: The last answer of ``draw``.
            fresh: By number, those among ``drawn.kept``.
        """
        by_shape: dict[torch.Size, list[int]] = {}
        for place, number in sorted(drawn.kept.items()):
            by_shape.setdefault(fresh[number].pixels.shape, []).append(place)
            self._stored[place : place + 1] = [fresh[number]]
        for of_shape in by_shape.values():
            copies = torch.stack([self._stored[place].pixels for place in of_shape])
            for place, pixels in zip(of_shape, copies, strict=True):
                self._stored[place] = PooledWindow(pixels, self._stored[place].mask.copy())

    def undo(self, drawn: Exchange) -> None:
        """The step is not made: the random stream goes back to where it stood before ``draw``."""
        if drawn.before is not None:
            self._random.setstate(drawn.before)

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
