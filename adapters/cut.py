"""CUT and FastCUT (``--model cut``): one direction, no reconstruction, and a set-up inside the training loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from roi_progressive import (
    Adapter,
    Config,
    DomainMasks,
    GuidedSession,
    Patches,
    RandomState,
    RegionMask,
    Translation,
    hookimpl,
)

from ._dialect import MODEL, DialectAdapter, lacking

NEEDED = (*MODEL, "netG", "netF", "data_dependent_initialize")


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

    Its uncertainty is learnt from the identity image (``nce_idt``), or with ``ggd.target = "paired"`` from data that
    are aligned. FastCUT mirrors a batch at random before it translates it; masks, sources and targets follow.
    """

    name = "CUT"

    def __init__(self, model: Any, config: Config) -> None:
        super().__init__(model, config)
        self._late_state: Mapping[str, Any] | None = None

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self._model.netG}

    def sources(self) -> Mapping[str, Tensor]:
        return {"A2B": self._mirrored(self._model.real_A)}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self._model
        a, b = (self._mirrored_masks(masks[domain]) for domain in self.batch_domains())
        real_A, real_B = self._mirrored(model.real_A), self._mirrored(model.real_B)
        identity = model.idt_B if model.opt.nce_idt else None
        return (
            Translation("A2B", source=real_A, fake=model.fake_B, real=real_B, identity=identity, masks=a, real_masks=b),
        )

    def _mirrored(self, images: Tensor) -> Tensor:
        return torch.flip(images, [3]) if self._is_mirrored() else images

    def _mirrored_masks(self, masks: Mapping[str, RegionMask]) -> dict[str, RegionMask]:
        return {name: mask.mirrored() if self._is_mirrored() else mask for name, mask in masks.items()}

    def _is_mirrored(self) -> bool:
        return bool(self._model.opt.flip_equivariance and getattr(self._model, "flipped_for_equivariance", False))

    def load_folder(self) -> Path:
        pretrained = getattr(self._model.opt, "pretrained_name", None)
        own = Path(self._model.save_dir)
        return own.with_name(pretrained) if pretrained is not None and self.is_training() else own

    # -- `resume = "exact"`: one optimizer is only made at the first batch, by a forward that draws ------------------

    def install(self, session: GuidedSession, patches: Patches) -> None:
        super().install(session, patches)
        if self.is_training() and self._config.resume == "exact":
            patches.wrap(self._model, "data_dependent_initialize", self._without_drawing)

    def _without_drawing(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """The run that is continued did this long ago: its random streams must go on from where they stood."""
        before = RandomState.now() if self._late_state is not None else None
        result = original(*args, **kwargs)
        if before is not None:
            before.restore()
        return result

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        self._late_state = state if self.is_training() and state else None

    def step_begins(self) -> None:
        super().step_begins()
        if self._late_state is not None:
            super().load_host_state(self._late_state)
            self._late_state = None
