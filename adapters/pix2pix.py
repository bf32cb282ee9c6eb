"""pix2pix in the junyanz dialect, forks of it (pGAN and ResViT too), and the one generator of ``--model test``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, Translation, hookimpl

from .dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG")
TRAINING = ("netD", "criterionL1")
OTHERS = ("netF", "data_dependent_initialize", "netG_A", "netG_B", "lab2rgb")
"""What CUT, CycleGAN and colorization have: the first two are other adapters', the last makes no images of a domain."""


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what a junyanz pix2pix has, or ``--model test``."""
    return None if missing(host) else Pix2PixAdapter(host, config)


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What a junyanz pix2pix has and this host has not."""
    return {Pix2PixAdapter.name: missing(host)}


def missing(host: Any) -> list[str]:
    """What keeps a host from being a pix2pix."""
    needed = (*NEEDED, *TRAINING) if getattr(host, "isTrain", True) else NEEDED
    if getattr(host, "isTrain", True):
        others = [f"the absence of {name}" for name in OTHERS if hasattr(host, name)]
    else:  # `--model test` holds its generator under a second name
        unlike = ("netF", "data_dependent_initialize", "lab2rgb")
        others = [f"the absence of {name}" for name in unlike if hasattr(host, name)]
        both = hasattr(host, "netG_A") and hasattr(host, "netG_B")
        others += ["the absence of netG_B"] if both else []
    return lacking(host, needed) + others


class Pix2PixAdapter(DialectAdapter):
    """One generator on aligned images: the real target is the truth of the generated one."""

    name = "junyanz pix2pix"
    pools = ("fake_AB_pool",)

    def generators(self) -> Mapping[str, nn.Module]:
        return {self._direction(): self.model.netG}

    def sources(self) -> Mapping[str, Tensor]:
        model = self.model
        return {self._direction(): model.real_A if hasattr(model, "real_A") else model.real}

    def _direction(self) -> str:
        # `--model test --model_suffix _B` loads a CycleGAN's way back.
        return "B2A" if getattr(self.model.opt, "model_suffix", "") == "_B" else "A2B"

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self.model
        a, b = self.masks_of_model(masks)
        return (
            Translation(
                "A2B",
                source=model.real_A,
                fake=model.fake_B,
                real=model.real_B,
                masks=a,
                real_masks=b,
                paired=True,
            ),
        )
