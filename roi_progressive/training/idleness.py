"""Never silently idle: what keeps guidance from having an effect is said, once, when it is known."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from ..config import Config
from ..method.stages import StageController
from ..plugins.adapter import Translation

N_LOOKED_AT = 20
"""Steps after which the range of the images is judged."""
TOLERANCE = 1.01


class Idleness:
    """Watches a run for guidance that has no effect, and warns; nothing is said twice.

    Args:
        config: Tells the regions, and the grey value that is painted around them.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._said: set[str] = set()
        self._n_batches = 0
        self._n_guided = 0
        self._n_looked_at = 0
        self._n_dropped = 0
        self._held: set[str] = set()
        self._with_files: set[str] = set()
        self._ranges: list[Tensor] | None = []
        self._n_ranged = 0

    @property
    def saw_batches(self) -> bool:
        """Whether anything came in the epoch at hand."""
        return bool(self._n_batches or self._n_looked_at)

    def regions_have_files(self, regions: Iterable[str]) -> None:
        """These regions have mask files, so that an epoch without them is no matter of course."""
        self._with_files |= set(regions)

    def plan_known(self, plan: StageController) -> None:
        """The run has begun, so that it is known when each stage does."""
        for stage in plan.never_reached():
            self._say(
                f"plan {stage.number}",
                f"{stage} would begin in epoch {plan.first_epoch_of(stage)}, but the run ends with epoch "
                f"{plan.last_epoch}: it is never reached; begin it earlier (`stages.from_epochs`), or train longer",
            )

    def batch_arrived(self) -> None:
        """The host has taken a batch."""
        self._n_batches += 1

    def looked_at(self, translations: Sequence[Translation]) -> None:
        """The host has made images in a training step, for which terms may be active."""
        self._n_looked_at += 1
        for translation in translations:
            for masks in (translation.masks, translation.real_masks):
                self._held |= {name for name, mask in masks.items() if not mask.is_empty}
        if self._ranges is None or not translations:
            return
        self._n_ranged += 1
        for image in {id(i): i for t in translations for i in (t.source, t.real)}.values():
            if image.numel():
                self._ranges.append(torch.stack(torch.aminmax(image.detach())).float())
        if self._n_ranged in (1, N_LOOKED_AT):
            self._judge_range()

    def guided(self) -> None:
        """A step was guided."""
        self._n_guided += 1

    def epoch_over(self, epoch: int, active: Mapping[str, float], *, n_dropped: int) -> None:
        """An epoch has ended.

        Args:
            epoch: In the host's own count.
            active: Weight of every term that was active in it.
            n_dropped: Steps left out so far; they have been warned of themselves.
        """
        if self._ranges:
            self._judge_range()
        regions = [region.name for region in self._config.regions if active.get(region.name, 0) > 0]
        if active and self._n_guided == 0 and n_dropped == self._n_dropped and (regions or not self._n_looked_at):
            if self._n_looked_at:
                cause = "the images were made, but no backward came by, or discriminator_step() was never called"
            elif self._n_batches:
                cause = (
                    f"{self._n_batches} batches came, but no step of the model: its loop must call "
                    f"`optimize_parameters`, or `forward` and a backward with gradients enabled"
                )
            else:
                cause = "no batch came: a model takes its batches by `set_input`, a script calls generator_loss()"
            self._say("guided", f"no step was guided in epoch {epoch}; {cause}")
        elif self._n_looked_at:
            for name in regions:
                if name not in self._held:
                    files = ", although it has mask files" if name in self._with_files else ""
                    self._say(
                        f"region {name}",
                        f"region {name!r} was empty in every batch of epoch {epoch}{files}: its discriminator learns "
                        f"nothing; look at the masks (`roi-progressive check` counts them)",
                    )
        self._n_batches = self._n_guided = self._n_looked_at = 0
        self._n_dropped, self._held = n_dropped, set()

    def _judge_range(self) -> None:
        """Look at the images seen so far; waits for the device, at the first step and seldom after."""
        ranges = torch.stack(self._ranges or [])
        low, high = ranges[:, 0].min().item(), ranges[:, 1].max().item()
        final = self._n_ranged >= N_LOOKED_AT
        background = self._config.background
        if max(-low, high) > TOLERANCE:
            self._say(
                "range",
                f"images must lie in [-1, 1]; they reach from {low:.3g} to {high:.3g}; `background` = {background:g}, "
                f"painted around regions, is not their background then; scale them to [-1, 1]",
            )
            final = True
        elif final and low >= 0 and background < 0 and self._config.regions:
            self._say(
                "range",
                f"the images of the first steps lie in [{low:.3g}, {high:.3g}], not in [-1, 1]; `background` = "
                f"{background:g}, painted around regions, is none of their grey values; scale them to [-1, 1], or set "
                f"`background` = {low:.3g}",
            )
        if final:
            self._ranges = None

    def _say(self, subject: str, text: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            warnings.warn(text, RuntimeWarning, stacklevel=2)
