"""The host's training steps, as an adapter reports them to a session."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ..config import Config
from ..method.stages import EpochMeans, StageController
from ..plugins.adapter import Adapter, DomainMasks
from ..plugins.manager import Plugins
from ..plugins.masks import masks_in_batch
from ..plugins.plugin_answers import planned_stages
from .guidance import Guidance


class Steps:
    """The part of a session that an adapter calls: it follows the host through a step and guides it there.

    Args:
        adapter: The host.
        config: The session's.
        plugins: Asked for the plan, networks and extra terms; told of every step.
        n_epochs: Length of the run.
    """

    def __init__(self, adapter: Adapter, config: Config, plugins: Plugins, n_epochs: int) -> None:
        self.config = config
        self._adapter = adapter
        self._plugins = plugins
        self._stages = StageController(config, n_epochs, planned_stages(plugins, config, n_epochs))
        self._guidance = Guidance(config, adapter, plugins)
        self._epoch_means = EpochMeans()
        self._batch: tuple[Mapping[str, Any], torch.device | str] | None = None
        self._shown: Mapping[str, Any] | None = None
        self._masks: DomainMasks = {"A": {}, "B": {}}
        self._in_step = False
        self._steps = 0

    def masks_arrived(self, batch: Mapping[str, Any], device: torch.device | str) -> None:
        """The host takes a batch: keep it until a training step asks for its masks (a batch to validate needs none).

        Args:
            batch: The host's, with our masks in it.
            device: Where the images are.
        """
        self._batch = batch, device

    def step_started(self) -> None:
        """The host's training step begins: its forwards count from here on.

        Raises:
            MaskError: The batch at hand carries no masks.
        """
        if self._batch is not None:
            batch, device = self._batch
            self._masks = masks_in_batch(batch, self.config.regions, device)
            self._batch, self._shown = None, batch
        self._in_step = True
        self._guidance.start()

    def translated(self) -> None:
        """The host's forward is done, its backward to come: lay our gradient on the generated images."""
        if self._in_step and torch.is_grad_enabled():
            self._guidance.contribute(self._adapter.translations(self._masks), self._weights(), host_scale=True)

    def step_finished(self) -> None:
        """The host's step is done: move our discriminators."""
        self._in_step = False
        made, self._shown = self._guidance.finish(self._weights(), self._broken_files), None
        if made:
            self._steps += 1
            if self.config.stages.trigger == "plateau":
                self._epoch_means.add(self._guidance.losses)
            self._plugins.call("roi_step_finished", step=self._steps, losses=dict(self._guidance.losses))

    def step_abandoned(self) -> None:
        """The host's step failed: forget it, so that a loop that goes on starts the next one afresh."""
        self._in_step, self._shown = False, None
        self._guidance.abandon()

    def _broken_files(self) -> list[str]:
        """The batch's image files that hold numbers that are not finite; waits for the device."""
        known = () if self._shown is None else self._adapter.image_files(self._shown)
        return [path for path, image in known if not torch.isfinite(image).all()]

    def _weights(self) -> dict[str, float]:
        return {term: weight for term, weight in self._stages.weights().items() if weight > 0}
