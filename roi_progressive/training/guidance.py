"""One session's networks in the host's step: built when first needed, asked once a step, restored when they exist."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..plugins.adapter import Adapter, Translation
from ..plugins.manager import Plugins
from ..runtime.finite import DroppedSteps, LateNumber, first_not_finite
from ..runtime.rng import ForkedStream
from ..saving.checkpoint import fitting
from ..saving.state_checks import adam
from .learner import Learner
from .objective import masks_in
from .tap import Injection, leaf, surrogate
from .uncertainty import GGDWrapper


class Guidance:
    """Lays our gradient on the host's tensors, and trains what makes it.

    The host's generators are looked up at the first step, after any wrapping; our networks are built at the first step
    with an active term, when image channels and device are known.

    Args:
        config: The session's.
        adapter: The host.
        plugins: Asked for networks and extra terms.

    Attributes:
        losses: Of the last step, by name; NaN where it was left out.
        dropped: The steps that were left out because their numbers were not finite.
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
        self._contributions_were_finite: list[LateNumber] = []
        self._discriminators_were_finite: LateNumber | None = None
        self.losses: dict[str, Tensor] = {}
        self.dropped = DroppedSteps()

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
        if {t.direction for t in translations} & {t.direction for t in self._translations}:
            self._begin_again(from_script=not host_scale)
        if not self._translations:
            self.losses = {}
        if not translations or not (weights or self._plugins.names("roi_generator_losses")):
            return translations[0].fake.new_zeros(()) if translations else torch.zeros(())
        contribution = self._built(translations).contribution(translations, weights)
        self.losses.update(contribution.losses)
        self._contributions_were_finite.append(LateNumber(contribution.is_finite))
        self._translations += [_for_discriminators(translation) for translation in translations]
        injections = [
            Injection(
                gradient.tensor,
                gradient.gradient,
                gradient.name,
                balance=self._config.balance if gradient.is_image else None,
                scale=self._adapter.loss_scale if host_scale else None,
            )
            for gradient in contribution.gradients
        ]
        self._injections += injections
        if host_scale or not injections:
            return contribution.value
        return surrogate(contribution.value, injections, [g.tensor for g in contribution.gradients if g.is_image])

    def _begin_again(self, *, from_script: bool) -> None:
        """A direction came twice: its step was never finished, or the host's forward ran a second time."""
        self._drop_injections(warn=from_script)
        self._translations = []
        self._contributions_were_finite = []
        if from_script and self._config.regions:
            warnings.warn(
                "discriminator_step() was not called since the last generator_loss(...), so that the region "
                "discriminators do not learn; call it after your own discriminator's step",
                RuntimeWarning,
                stacklevel=4,
            )

    def finish(self, weights: Mapping[str, float], files: Callable[[], Sequence[str]] = tuple) -> bool:
        """The step is done: check that our gradient was collected, and move our discriminators.

        Args:
            weights: Stage weight of every active term.
            files: Tells which of the batch's image files hold numbers that are not finite, if any is known.

        Returns:
            Whether any term was active, and the step not left out for an overflow or for numbers that are not finite.

        Raises:
            DivergenceError: It was left out, as were the last ones.
        """
        arrived_broken = [injection for injection in self._injections if not injection.was_finite()]
        # A GradScaler meets overflows as a matter of course, and leaves such steps out without a word.
        overflowed = any(injection.is_mixed for injection in arrived_broken)
        broken = None if all(self._contributions_were_finite) else "a reconstructed image or a loss or gradient of ours"
        if broken is None and arrived_broken and not overflowed:
            broken = f"the host's gradient for {arrived_broken[0].name}"
        self._drop_injections()
        translations, learner, losses = self._translations, self._learner, None
        if translations and learner is not None:
            losses = learner.discriminator_step(translations, weights, overflowed=overflowed, is_finite=broken is None)
        self.losses.update(losses or {})
        self.abandon()
        if translations and learner is not None:
            self._count(translations, learner, broken, files)
        return losses is not None

    def _count(
        self,
        translations: Sequence[Translation],
        learner: Learner,
        broken: str | None,
        files: Callable[[], Sequence[str]],
    ) -> None:
        """Whether the step counts as left out; the discriminators' gradient is known a step later only."""
        before = self._discriminators_were_finite
        self._discriminators_were_finite = LateNumber(learner.were_finite) if broken is None else None
        if broken is not None:
            self.losses = {name: torch.full_like(loss, torch.nan) for name, loss in self.losses.items()}
            self.dropped.dropped(*_cause(translations, broken, files()))
        elif before is not None and not before:
            self.dropped.dropped("the gradient of our discriminators in the step before")
        else:
            self.dropped.made()

    def abandon(self) -> None:
        """Forget the step at hand: nothing of it is collected, learnt or recorded any more."""
        self._drop_injections(warn=False)
        self._translations = []
        self._contributions_were_finite = []
        for head in (self._heads or {}).values():
            head.stop_recording()

    def heads(self) -> dict[str, GGDWrapper]:
        """The uncertainty heads by direction; the host's networks are looked up at the first call."""
        if self._heads is None:
            ggd = self._config.ggd
            networks = self._adapter.generators() if ggd is not None else {}
            self._heads = {
                direction: GGDWrapper(network, ggd, seed=self._config.seed + place)
                for place, (direction, network) in enumerate(networks.items())
                if ggd is not None
            }
            saved = ((self._pending or {}).get("learner") or {}).get("heads", {})
            with fitting():
                for direction, head in self._heads.items():
                    if direction in saved and head.owns_head:
                        head.load_head(saved[direction])
        return self._heads

    def networks(self) -> list[nn.Module]:
        """Our own networks that were built so far."""
        heads = [wrapper.head for wrapper in (self._heads or {}).values() if wrapper.owns_head and wrapper.head]
        return [*heads, *([] if self._learner is None else [self._learner.bank])]

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
        _check_optimizers(state["learner"])
        self._pending = {"learner": state["learner"], "stream": state["stream"]}
        if state["learner"] is None:
            self._start_over()
        elif self._learner is not None:
            self._restore(self._learner)

    def _start_over(self) -> None:
        """Back to before the first step: networks are drawn anew when they are needed, from the stream as it stood."""
        self._learner = None
        for head in (self._heads or {}).values():
            head.head = None if head.owns_head else head.head
        if self._pending is not None:
            self._stream.load_state_dict(self._pending["stream"])
            self._pending = None

    def _built(self, translations: Sequence[Translation]) -> Learner:
        if self._learner is None:
            learner = Learner(self._config, self._adapter, self._plugins, self.heads(), self._stream, translations)
            self._restore(learner)
            self._learner = learner
        return self._learner

    def _restore(self, learner: Learner) -> None:
        if self._pending is not None:
            with fitting():
                learner.load_state_dict(self._pending["learner"])
                self._stream.load_state_dict(self._pending["stream"])
            self._pending = None

    def _drop_injections(self, *, warn: bool = True) -> None:
        for injection in self._injections:
            injection.finish(warn=warn)
        self._injections.clear()

    def close(self) -> None:
        """Take every hook off the host's tensors and generators."""
        self.abandon()
        for head in (self._heads or {}).values():
            head.remove()
        self._heads = None


def _check_optimizers(learner: Mapping[str, Any] | None) -> None:
    """Look at saved optimizers: torch takes whatever it is given, and fails at the first step."""
    if learner is None:
        return
    for saved in (learner["bank_optimizer"], *learner["head_optimizers"].values()):
        if saved is not None:
            adam(saved)


def _for_discriminators(translation: Translation) -> Translation:
    """What the discriminators' step needs, without the host's graph, so that nothing of it outlives the host's step."""
    fake, real = leaf(translation.fake).detach(), leaf(translation.real).detach()
    return dataclasses.replace(translation, fake=fake, real=real, reconstruction=None, identity=None)


def _cause(translations: Sequence[Translation], broken: str, files: Sequence[str]) -> tuple[str, Sequence[str]]:
    """What was not finite, as exactly as can be told."""
    if files:
        return "an image", files
    for t in translations:
        if not all(mask.is_finite for mask in masks_in([t])):
            return f"a mask of {t.direction}", ()
    images = [
        (f"the {kind} image of {t.direction}", image)
        for t in translations
        for kind, image in (("source", t.source), ("real", t.real), ("generated", t.fake))
    ]
    return first_not_finite(images) or broken, ()
