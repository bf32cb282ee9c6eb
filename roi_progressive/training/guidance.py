"""One session's networks in the host's step: built when first needed, asked once a step, restored when they exist."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config
from ..method.regions import RegionMask
from ..plugins.adapter import Adapter, Translation
from ..plugins.manager import Plugins
from ..runtime.distributed import sums_over_processes
from ..runtime.finite import DroppedSteps, LateNumber, first_not_finite
from ..runtime.rng import ForkedStream
from ..saving.checkpoint import fitting
from ..saving.state_checks import adam
from .learner import Learner
from .objective import masks_in
from .tap import Injection, Tap, leaf, surrogate
from .uncertainty import GGDWrapper

MOST_FORWARDS = 16
"""Forwards of one step that are remembered for the discriminators; a step of more is learnt from by its last ones."""

NAME_IT = "keep the loss to which ours is to be added as `loss_G` on the model to have it otherwise"


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
        self._tap = Tap(adapter.generator_loss, adapter.kept_losses)
        self._translations: list[list[Translation]] = []
        """What every forward of the step made, for the discriminators."""
        self._injections: list[Injection] = []
        self._contributions_were_finite: list[LateNumber] = []
        self._discriminators_were_finite: LateNumber | None = None
        self._assumptions: set[str | None] = set()
        """What was assumed of the host's loss, and said."""
        self.losses: dict[str, Tensor] = {}
        self.dropped = DroppedSteps()

    def start(self) -> None:
        """A step begins: the generators' calls count from here on."""
        for head in self.heads().values():
            head.start_recording()

    def contribute(self, translations: Sequence[Translation], weights: Mapping[str, float], *, in_loss: bool) -> Tensor:
        """Compute our terms and lay their gradients on the host's tensors.

        A step may hold several forwards: micro-batches, or several steps of the generators. All of them are guided, and
        the discriminators learn from all.

        Args:
            translations: What the host's forward made.
            weights: Stage weight of every active term.
            in_loss: Whether the returned scalar is added to the loss, as a script does; otherwise our gradients join
                the host's in its own backward.

        Returns:
            A scalar with our value; zero where no term is active.
        """
        if not self._translations:
            self.losses = {}
        if not translations or not self.has_terms(weights):
            return translations[0].fake.new_zeros(()) if translations else torch.zeros(())
        contribution = self._built(translations).contribution(translations, weights)
        self.losses.update(contribution.losses)
        self._contributions_were_finite.append(LateNumber(contribution.is_finite))
        self._translations.append([_for_discriminators(translation) for translation in translations])
        # A script that never ends its step must not pile up the images of all earlier ones.
        del self._translations[:-MOST_FORWARDS], self._contributions_were_finite[:-MOST_FORWARDS]
        injections = [
            Injection(
                gradient.tensor,
                gradient.gradient,
                gradient.name,
                balance=self._config.balance if gradient.is_image else None,
            )
            for gradient in contribution.gradients
        ]
        self._tap.retire_used()
        self._injections += injections
        del self._injections[: -MOST_FORWARDS * max(1, len(injections))]
        value = contribution.value
        if in_loss and injections:
            value = surrogate(value, injections, [gradient.tensor for gradient in contribution.gradients])
        self._tap.lay(injections)
        return value

    def await_backward(self, then: Callable[[], None]) -> None:
        """Call this once before the next backward of the host runs."""
        self._tap.await_backward(then)

    def has_terms(self, weights: Mapping[str, float]) -> bool:
        """Whether anything may be asked of a step: an active term, or a plugin that brings terms of its own."""
        return bool(weights or self._plugins.names("roi_generator_losses"))

    @property
    def is_collected(self) -> bool:
        """Whether a backward of the host's has come by in this step."""
        return any(injection.fired for injection in self._injections)

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
        used = {injection.name for injection in self._injections if injection.fired}
        unused = {injection.name: injection for injection in self._injections if injection.name not in used}
        assumptions = {injection.assumption for injection in self._injections} - {None, *self._assumptions}
        self._lift()
        for injection in unused.values():
            injection.warn_if_unused()
        for assumption in assumptions:
            self._assumptions.add(assumption)
            warnings.warn(f"{assumption}; {NAME_IT}", RuntimeWarning, stacklevel=2)
        made, learner = self._translations, self._learner
        losses: dict[str, Tensor] | None = None
        if made and learner is not None:
            rounds, is_recounted = _rounds(made)
            for translations in rounds:
                if is_recounted:
                    learner.count(translations)
                found = learner.discriminator_step(
                    translations, weights, overflowed=overflowed, is_finite=broken is None
                )
                losses = losses if found is None else {**(losses or {}), **found}
        self.losses.update(losses or {})
        self.abandon()
        if made and learner is not None:
            self._count([translation for forward in made for translation in forward], learner, broken, files)
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
        self._lift()
        self._translations = []
        self._contributions_were_finite = []
        if self._learner is not None:
            self._learner.forget()
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

    def _lift(self) -> None:
        self._tap.lift()
        self._injections = []

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


def _rounds(made: Sequence[Sequence[Translation]]) -> tuple[list[list[Translation]], bool]:
    """What the discriminators learn from in one step each: all forwards of the host's step as one batch, or one after
    the other where their sizes differ on any process; and whether a direction came more than once."""
    by_direction: dict[str, list[Translation]] = {}
    for translation in (translation for forward in made for translation in forward):
        by_direction.setdefault(translation.direction, []).append(translation)
    if all(len(translations) == 1 for translations in by_direction.values()):
        return [[translation for (translation,) in by_direction.values()]], False
    joined = [_joined(translations) for translations in by_direction.values()]
    # Whether all can is the same answer on all processes, which must make as many steps as each other.
    (n_apart,) = sums_over_processes([sum(translation is None for translation in joined)])
    if n_apart:
        return [list(forward) for forward in made], True
    return [[translation for translation in joined if translation is not None]], True


def _joined(translations: Sequence[Translation]) -> Translation | None:
    """Several batches of one direction as one; ``None`` where they differ in more than their number of images."""
    first = translations[0]
    alike = {
        (
            *(tuple(image.shape[1:]) for image in (t.source, t.fake, t.real)),
            *(tuple(masks) for masks in (t.masks, t.real_masks)),
        )
        for t in translations
    }
    if len(alike) > 1:
        return None
    return dataclasses.replace(
        first,
        source=torch.cat([t.source.detach() for t in translations]),
        fake=torch.cat([t.fake for t in translations]),
        real=torch.cat([t.real for t in translations]),
        masks={name: RegionMask.joined([t.masks[name] for t in translations]) for name in first.masks},
        real_masks={name: RegionMask.joined([t.real_masks[name] for t in translations]) for name in first.real_masks},
    )


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
