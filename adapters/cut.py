"""CUT and its kin, one generator on unaligned images without a way back: CUT, FastCUT, query-selected attention, UNSB,
and F-LSeSim's ``sc``. They are set up inside the training loop, at the first batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, RegionMask, Translation, hookimpl

from .dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG", "data_dependent_initialize")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what CUT has."""
    return None if lacking(host, NEEDED) else CUTAdapter(host, config)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What CUT has and this host has not."""
    return {CUTAdapter.name: lacking(host, NEEDED)}


class CUTAdapter(DialectAdapter):
    """One generator on unaligned images.

    Its uncertainty is learnt from the identity image, where the host makes one in its forward (``nce_idt``), or with
    ``ggd.target = "paired"`` from data that are aligned. FastCUT mirrors a batch at random before it translates it;
    masks, sources and targets follow.
    """

    name = "CUT"
    pools = ("fake_B_pool",)

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self.model.netG}

    def sources(self) -> Mapping[str, Tensor]:
        return {"A2B": self._mirrored(self.model.real_A)}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self.model
        a, b = (self._mirrored_masks(of_domain) for of_domain in self.masks_of_model(masks))
        return (
            Translation(
                "A2B",
                source=self._mirrored(model.real_A),
                fake=model.fake_B,
                real=self._mirrored(model.real_B),
                identity=self.made("idt_B"),
                masks=a,
                real_masks=b,
            ),
        )

    def _mirrored(self, images: Tensor) -> Tensor:
        return torch.flip(images, [3]) if self._is_mirrored() else images

    def _mirrored_masks(self, masks: Mapping[str, RegionMask]) -> dict[str, RegionMask]:
        return {name: mask.mirrored() if self._is_mirrored() else mask for name, mask in masks.items()}

    def _is_mirrored(self) -> bool:
        mirrors = getattr(self.model.opt, "flip_equivariance", False)
        return bool(mirrors and getattr(self.model, "flipped_for_equivariance", False))
