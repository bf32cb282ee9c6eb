"""CycleGAN in the junyanz dialect: its own codebase, classic and DDP, forks of it, and the bundled host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, Translation, hookimpl

from ._dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG_A", "netG_B")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what a junyanz CycleGAN has."""
    return None if lacking(host, NEEDED) else CycleGANAdapter(host, config)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What a junyanz CycleGAN has and this host has not."""
    return {CycleGANAdapter.name: lacking(host, NEEDED)}


class CycleGANAdapter(DialectAdapter):
    """Two generators that translate both ways and back."""

    name = "junyanz cycle_gan"
    directions = ("A2B", "B2A")
    pools = ("fake_A_pool", "fake_B_pool")

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self._model.netG_A, "B2A": self._model.netG_B}

    def sources(self) -> Mapping[str, Tensor]:
        return {"A2B": self._model.real_A, "B2A": self._model.real_B}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self._model
        a, b = (masks[domain] for domain in self.batch_domains())
        return (
            Translation(
                "A2B",
                source=model.real_A,
                fake=model.fake_B,
                real=model.real_B,
                reconstruction=model.rec_A,
                masks=a,
                real_masks=b,
            ),
            Translation(
                "B2A",
                source=model.real_B,
                fake=model.fake_A,
                real=model.real_A,
                reconstruction=model.rec_B,
                masks=b,
                real_masks=a,
            ),
        )
