"""Mean loss of every term over an epoch: what the plateau trigger looks at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..runtime.distributed import from_every_process
from ..saving.state_checks import tensor, whole


class EpochMeans:
    """Sums the losses of an epoch's steps on their own device; reading the means is the only wait."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the losses of one step: detached scalars by name, ``G_tumor_A2B``, ``ggd_A2B``, ..."""
        for name, loss in losses.items():
            total, count = self._sums.get(name, (loss.new_zeros(()), 0))
            self._sums[name] = total + loss, count + 1

    def take(self) -> dict[str, float]:
        """Means so far by term (``tumor``, ``ggd``, ...), over steps, directions and processes, and start anew."""
        own = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        sums: dict[str, tuple[float, int]] = {}
        for of_process in from_every_process(own):  # so that all processes change stage together
            for name, (total, count) in of_process.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = before + total, counted + count
        means: dict[str, list[float]] = {}
        for name, (total, count) in sums.items():
            term = name.removeprefix("G_").rsplit("_", 1)[0]
            means.setdefault(term, []).append(total / count)
        return {term: sum(values) / len(values) for term, values in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts; tensors and plain values only."""
        return {name: {"total": total, "count": count} for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            TypeError, ValueError: A value is of another kind.
        """
        self._sums = {
            str(name): (tensor("total", saved["total"], ndim=0), whole("count", saved["count"]))
            for name, saved in state.items()
        }
