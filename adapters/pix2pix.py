"""pix2pix in the junyanz dialect, classic and DDP, and the one generator that ``--model test`` loads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, DomainMasks, Translation, hookimpl

from ._dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG")
TRAINING = ("netD", "criterionL1")
OTHERS = ("netF", "netG_A", "netG_B", "lab2rgb")
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
        others = [f"the absence of {name}" for name in ("netF", "lab2rgb") if hasattr(host, name)]
        both = hasattr(host, "netG_A") and hasattr(host, "netG_B")
        others += ["the absence of netG_B"] if both else []
    return lacking(host, needed) + others


class Pix2PixAdapter(DialectAdapter):
    """One generator on aligned images: the real target is the truth of the generated one."""

    name = "junyanz pix2pix"

    def generators(self) -> Mapping[str, nn.Module]:
        return {self._direction(): self._model.netG}

    def sources(self) -> Mapping[str, Tensor]:
        model = self._model
        return {self._direction(): model.real_A if hasattr(model, "real_A") else model.real}

    def _direction(self) -> str:
        # `--model test --model_suffix _B` loads a CycleGAN's way back.
        return "B2A" if getattr(self._model.opt, "model_suffix", "") == "_B" else "A2B"

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self._model
        a, b = (masks[domain] for domain in self.batch_domains())
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
