"""CycleGAN in the junyanz dialect: its own codebase, classic and DDP, forks of it (DCLGAN too), and the bundled host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, Translation, hookimpl

from .dialect import MODEL, DialectAdapter, lacking

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
        return {"A2B": self.model.netG_A, "B2A": self.model.netG_B}

    def sources(self) -> Mapping[str, Tensor]:
        return {"A2B": self.model.real_A, "B2A": self.model.real_B}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self.model
        a, b = self.masks_of_model(masks)
        return (
            Translation(
                "A2B",
                source=model.real_A,
                fake=model.fake_B,
                real=model.real_B,
                reconstruction=self.made("rec_A"),
                identity=self.made("idt_A"),
                masks=a,
                real_masks=b,
            ),
            Translation(
                "B2A",
                source=model.real_B,
                fake=model.fake_A,
                real=model.real_A,
                reconstruction=self.made("rec_B"),
                identity=self.made("idt_B"),
                masks=b,
                real_masks=a,
            ),
        )
