"""One session's networks in the host's step: built when first needed, asked once a step, restored when they exist."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .adapter import Adapter, Translation
from .config import Config
from .learner import Learner
from .plugins import Plugins
from .rng import ForkedStream
from .tap import Injection, surrogate
from .uncertainty import GGDWrapper


class Guidance:
    """Lays our gradient on the host's tensors, and trains what makes it.

    The host's generators are looked up at the first step, after any wrapping; our networks are built at the first step
    with an active term, when image channels and device are known.

    Args:
        config: The session's.
        adapter: The host.
        plugins: Asked for networks and extra terms.
    """

    def __init__(self, config: Config, adapter: Adapter, plugins: Plugins) -> None:
        self._config = config
        self._adapter = adapter
        self._plugins = plugins
        self._stream = ForkedStream(config.seed)
        self._heads: dict[str, GGDWrapper] | None = None
        self._learner: Learner | None = None
        self._pending: Mapping[str, Any] | None = None
        self._translations: list[Translation] = []
        self._injections: list[Injection] = []
        self.losses: dict[str, Tensor] = {}

    def start(self) -> None:
        """A step begins: the generators' calls count from here on."""
        for head in self.heads().values():
            head.start_recording()

    def contribute(
        self, translations: Sequence[Translation], weights: Mapping[str, float], *, host_scale: bool
    ) -> Tensor:
        """Compute our terms and lay their gradients on the host's tensors.

        Args:
            translations: What the host's forward made.
            weights: Stage weight of every active term.
            host_scale: Ask the adapter for the loss's scale (otherwise the returned scalar brings it).

        Returns:
            A scalar with our value; zero where no term is active.
        """
        self.losses = {}
        if not translations or not (weights or self._plugins.names("roi_generator_losses")):
            return translations[0].fake.new_zeros(()) if translations else torch.zeros(())
        contribution = self._built(translations).contribution(translations, weights)
        self.losses = dict(contribution.losses)
        # Detached, so that the host's graph is freed as soon as the host lets go of it.
        self._translations = [dataclasses.replace(t, fake=t.fake.detach()) for t in translations]
        self._injections = [
            Injection(
                gradient.tensor,
                gradient.gradient,
                gradient.name,
                balance=self._config.balance if gradient.is_image else None,
                scale=self._adapter.loss_scale if host_scale else None,
            )
            for gradient in contribution.gradients
        ]
        if host_scale or not self._injections:
            return contribution.value
        return surrogate(contribution.value, self._injections, [g.tensor for g in contribution.gradients if g.is_image])

    def finish(self, weights: Mapping[str, float]) -> bool:
        """The step is done: check that our gradient was collected, and move our discriminators.

        Returns:
            Whether any term was active.
        """
        self._drop_injections()
        active = bool(self._translations) and self._learner is not None
        if active and self._learner is not None:
            self.losses.update(self._learner.discriminator_step(self._translations, weights))
        self._translations = []
        for head in (self._heads or {}).values():
            head.stop_recording()
        return active

    def heads(self) -> dict[str, GGDWrapper]:
        """The uncertainty heads by direction; the host's networks are looked up at the first call."""
        if self._heads is None:
            ggd = self._config.ggd
            networks = self._adapter.generators() if ggd is not None else {}
            self._heads = {d: GGDWrapper(network, ggd) for d, network in networks.items() if ggd is not None}
            for direction, state in ((self._pending or {}).get("learner") or {"heads": {}})["heads"].items():
                self._heads[direction].load_head(state)
        return self._heads

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers, pools and our random stream; tensors and plain values only."""
        if self._learner is None and self._pending is not None:
            return dict(self._pending)
        learner = None if self._learner is None else self._learner.state_dict()
        return {"learner": learner, "stream": self._stream.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken, at once or when the networks are built.

        Raises:
            CheckpointError: The state belongs to other networks.
        """
        self._pending = {"learner": state["learner"], "stream": state["stream"]}
        if self._learner is not None:
            self._restore(self._learner)

    def _built(self, translations: Sequence[Translation]) -> Learner:
        if self._learner is None:
            self._learner = Learner(
                self._config, self._adapter, self._plugins, self.heads(), self._stream, translations
            )
            self._restore(self._learner)
        return self._learner

    def _restore(self, learner: Learner) -> None:
        if self._pending is not None:
            if self._pending["learner"] is not None:
                learner.load_state_dict(self._pending["learner"])
            self._stream.load_state_dict(self._pending["stream"])
            self._pending = None

    def _drop_injections(self, *, warn: bool = True) -> None:
        for injection in self._injections:
            injection.finish(warn=warn)
        self._injections.clear()

    def close(self) -> None:
        """Take every hook off the host's tensors and generators."""
        self._drop_injections(warn=False)
        for head in (self._heads or {}).values():
            head.remove()
        self._heads = None
        self._translations = []
