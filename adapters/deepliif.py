"""DeepLIIF (``--model DeepLIIF``): one image into several modalities at once, a generator each, on aligned images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DatasetLayout, DomainMasks, Translation, hookimpl

from .dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG1")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what DeepLIIF has."""
    return None if missing(host) else DeepLIIFAdapter(host, config)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What DeepLIIF has and this host has not."""
    return {DeepLIIFAdapter.name: missing(host)}


def missing(host: Any) -> list[str]:
    """What keeps a host from being DeepLIIF."""
    counted = hasattr(getattr(host, "opt", None), "modalities_no")
    return lacking(host, NEEDED) + ([] if counted else ["opt.modalities_no"])


class DeepLIIFAdapter(DialectAdapter):
    """Directions ``A2B1``, ``A2B2``, ...: each modality has its own discriminators of every region.

    What it makes of its images afterwards, the segmentation, is left to the host.
    """

    name = "DeepLIIF"

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__(model, config)
        self._places = range(1, int(model.opt.modalities_no) + 1)
        self.directions = tuple(f"A2B{place}" for place in self._places)

    def generators(self) -> Mapping[str, nn.Module]:
        return {f"A2B{place}": getattr(self.model, f"netG{place}") for place in self._places}

    def sources(self) -> Mapping[str, Tensor]:
        return dict.fromkeys(self.directions, self.model.real_A)

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        return [
            Translation(
                f"A2B{place}",
                source=self.model.real_A,
                fake=getattr(self.model, f"fake_B_{place}"),
                real=getattr(self.model, f"real_B_{place}"),
                masks=masks["A"],
                real_masks=masks["A"],  # aligned: what is where in one modality is there in all
                paired=True,
            )
            for place in self._places
        ]

    def dataset_layout(self, dataset: Any) -> DatasetLayout | None:
        layout = super().dataset_layout(dataset)
        return None if layout is None else replace(layout, domains=("A",))  # under B it has a list
