"""What one process's means weigh among those of all processes."""

from __future__ import annotations

from collections.abc import Sequence

from ..config import Config
from ..method.regions import RegionMask
from ..plugins.adapter import Translation
from ..runtime.distributed import n_processes, sums_over_processes


class Shares:
    """What one process's means weigh among those of all, term by term; 1 where there is one process.

    A host's gradients are averaged over the processes afterwards (DDP), and so are ours. A mean over n of the N windows
    that all P processes hold together must therefore weigh n P / N: one tumour here and three there count 1 : 3.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}
        self._n_processes = n_processes()

    def count(self, translations: Sequence[Translation], config: Config) -> None:
        """Count a step's windows and pixels over all processes, in one small exchange.

        Args:
            translations: The same directions on every process.
            config: Tells the regions.
        """
        own: dict[str, int] = {}
        for translation in translations:
            direction = translation.direction
            own[f"ggd_{direction}"] = translation.fake.numel()
            for region in config.regions:
                own[f"fake_{direction}_{region.name}"] = _n_windows(translation.masks.get(region.name))
                own[f"real_{direction}_{region.name}"] = _n_windows(translation.real_masks.get(region.name))
        for (name, count), total in zip(own.items(), sums_over_processes(list(own.values())), strict=True):
            self._counts[name] = count, total
        self._n_processes = n_processes()

    def ggd(self, direction: str) -> float:
        """Weight of a mean over the pixels of this process's generated images."""
        return self._of(f"ggd_{direction}")

    def fake(self, region: str, direction: str) -> float:
        """Weight of a mean over this process's generated windows of a region."""
        return self._of(f"fake_{direction}_{region}")

    def of_windows(self) -> dict[str, float]:
        """Weights of the means over generated and real windows: ``fake_A2B_tumor``, ``real_A2B_tumor``, ..."""
        return {name: self._of(name) for name in self._counts if not name.startswith("ggd_")}

    def held_anywhere(self, region: str, direction: str) -> bool:
        """Whether any process holds a window of the region, generated or real."""
        return any(self._counts.get(f"{kind}_{direction}_{region}", (0, 0))[1] for kind in ("fake", "real"))

    def _of(self, name: str) -> float:
        count, total = self._counts.get(name, (1, self._n_processes))
        return count * self._n_processes / total if total else 0.0


def _n_windows(masks: RegionMask | None) -> int:
    return 0 if masks is None else sum(box is not None for box in masks.boxes)
