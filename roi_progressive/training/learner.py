"""Everything of ours that learns: the discriminator bank and the uncertainty heads, moved by one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig
from ..errors import CheckpointError, one_line
from ..method.bank import DiscriminatorBank
from ..method.discriminators import DiscriminatorFactory, patch_discriminator_for
from ..method.foreign_networks import ForeignNetwork
from ..method.shown import Shown, TermLosses
from ..plugins.adapter import Adapter, Translation
from ..plugins.manager import Plugins
from ..runtime.distributed import average_gradients, n_processes
from ..runtime.finite import drop_where_not, finite, is_mixed, single_precision
from ..runtime.rng import ForkedStream
from ..saving.names import REVERSE
from .objective import Contribution, GeneratorObjective, Learnt, masks_of
from .optimizer import SharedAdam
from .shares import Shares
from .tap import leaf
from .uncertainty import GGDWrapper

BANK = "bank"
"""Its name in the optimizer; a head has its direction's."""


class Learner:
    """Our networks and their optimizer; its rates are the host's, copied at every step.

    Args:
        config: The session's.
        adapter: Tells rates and betas.
        plugins: Asked for networks and extra terms.
        heads: The uncertainty wrappers by direction.
        stream: Our random stream; all drawing happens in it.
        first: The first step's translations: they show channels, device and precision.

    Attributes:
        were_finite: Whether the discriminators' last gradients were, on the images' device.
    """

    def __init__(
        self,
        config: Config,
        adapter: Adapter,
        plugins: Plugins,
        heads: Mapping[str, GGDWrapper],
        stream: ForkedStream,
        first: Sequence[Translation],
    ) -> None:
        self._config = config
        self._adapter = adapter
        self._plugins = plugins
        self._stream = stream
        self._heads = dict(heads)
        image = leaf(first[0].fake)
        with stream.active():
            bank = DiscriminatorBank(config, _channels(adapter.generators(), first), _factory(plugins))
        self.bank = bank.to(image.device, image.dtype)
        self._parameters = {
            kind: {key: list(network.parameters()) for key, network in networks.items()}
            for kind, networks in (("D", self.bank.networks), ("D_pixels", self.bank.pixels.networks))
        }
        self._optimizer = SharedAdam(adapter.betas())
        self._optimizer.add(BANK, self.bank.parameters())
        self._of_heads: list[tuple[nn.Parameter, Tensor]] = []
        """Parameters of the heads, and their gradients, which wait for the step."""
        self._of_heads_is_finite = torch.tensor(True)
        self._n_forwards = 0
        """Contributions to the step at hand."""
        self._has_several_forwards = False
        """Whether the step before had more than one."""
        self._learnt: dict[str, Learnt] = {}
        """By kind of network the losses and gradients of the step's only forward, where made with the contribution."""
        self._learnt_of: dict[str, set[tuple[str, str]]] = {}
        """The directions and regions that they are of."""
        self._objective = GeneratorObjective(config, self.bank, self._heads, plugins)
        self._shares = Shares()
        self._mixed = False
        self.were_finite = torch.tensor(True)

    def contribution(self, translations: Sequence[Translation], weights: Mapping[str, float]) -> Contribution:
        """Our losses and gradients for the generators.

        What they have for the heads waits for ``discriminator_step``, which moves everything of ours at once; where a
        step of the host has several forwards, the heads are moved before the next one. What the discriminators learn is
        made on the way, but for such steps, whose forwards they learn from together.
        """
        for translation in translations:
            self._build_heads(translation)
        self._move(self._heads_to_move(), [], self._of_heads_is_finite)
        self._mixed = is_mixed(translations[0].fake)
        self.count(translations)
        self._n_forwards += 1
        self._learnt = {}
        learn = self._n_forwards == 1 and not self._has_several_forwards
        with self._drawing(), single_precision(translations[0].fake):
            contribution = self._objective.contribution(translations, weights, self._shares, learn=learn)
        self._learnt = contribution.of_bank
        self._learnt_of = {
            "D": _directions_and_regions(self._active(translations, weights)),
            "D_pixels": _directions_and_regions(self._named(translations, weights)),
        }
        self._of_heads, self._of_heads_is_finite = contribution.of_heads, contribution.is_finite
        return contribution

    def _heads_to_move(self) -> list[tuple[nn.Parameter, Tensor]]:
        waiting, self._of_heads = self._of_heads, []
        return waiting

    def forget(self) -> None:
        """The step at hand is over, or is not made: what it has taught nobody yet is lost."""
        self._of_heads, self._learnt = [], {}
        self.bank.forget_windows()
        self._forwards_are_over()

    def _forwards_are_over(self) -> None:
        if self._n_forwards:
            self._has_several_forwards = self._n_forwards > 1
        self._n_forwards = 0

    def _active(
        self, translations: Sequence[Translation], weights: Mapping[str, float]
    ) -> list[tuple[Translation, str]]:
        """What discriminators judge: translations, each with a region."""
        active = [region.name for region in self._config.regions if region.name in weights and region.weight > 0]
        return [(translation, region) for translation in translations for region in active]

    def _named(
        self, translations: Sequence[Translation], weights: Mapping[str, float]
    ) -> list[tuple[Translation, str]]:
        """What pixel classifiers name the pixels of: translations, each with a region."""
        active = [region.name for region in self._config.regions if region.name in weights and region.pixel_weight > 0]
        return [(translation, region) for translation in translations for region in active]

    def count(self, translations: Sequence[Translation]) -> None:
        """Count the windows and pixels that losses are means over, on all processes."""
        self._shares.count(translations, self._config)
        self.bank.shares.update(self._shares.of_windows())

    def _drawing(self) -> AbstractContextManager[None]:
        """Our random stream, for what may draw from one: networks and terms of plugins. Ours do not."""
        foreign = self.bank.has_foreign_networks or bool(self._plugins.names("roi_generator_losses"))
        return self._stream.active() if foreign else nullcontext()

    def _build_heads(self, translation: Translation) -> None:
        direction = translation.direction
        outputs = (
            (direction, translation.fake),
            (REVERSE.get(direction, ""), translation.reconstruction),
            (direction, translation.identity),
        )
        for made_by, output in outputs:
            if output is not None and made_by in self._heads and self._heads[made_by].can_read(output):
                self._heads[made_by].build_head(output)
                self._optimize_head(made_by)

    def _optimize_head(self, direction: str) -> None:
        head = self._heads[direction].head
        if head is not None and direction not in self._optimizer:
            self._optimizer.add(direction, head.parameters())

    def discriminator_step(
        self,
        translations: Sequence[Translation],
        weights: Mapping[str, float],
        *,
        overflowed: bool = False,
        is_finite: bool = True,
    ) -> dict[str, Tensor] | None:
        """Move the region discriminators and the heads one step; discriminators whose region no image holds stay as
        they are ("No region, no change").

        Args:
            translations: One a direction.
            weights: Stage weight of every active term.
            overflowed: Whether the host's numbers did, so that its own step is left out and ours must be, on all
                processes alike.
            is_finite: Whether this process's numbers are, so that there is something to learn from; what the other
                processes have is learnt without it.

        Returns:
            Their losses, detached, by name; ``None`` where nothing of this process was learnt from.
        """
        self._forwards_are_over()
        judged, named = self._active(translations, weights), self._named(translations, weights)
        of_heads = self._heads_to_move()
        moving = [
            parameter
            for kind, pairs in (("D", judged), ("D_pixels", named))
            for translation, region in pairs
            if self._shares.held_anywhere(region, translation.direction)
            for parameter in self._parameters[kind][f"{translation.direction}_{region}"]
        ]
        found: dict[str, Tensor] = {}
        if overflowed:
            if n_processes() == 1:
                return None
            for parameter in moving:  # tells the other processes
                parameter.grad = torch.full_like(parameter, torch.nan)
            of_heads = [(parameter, torch.full_like(parameter, torch.nan)) for parameter, _ in of_heads]
        elif is_finite:
            found = _by_name("D", judged, self._learnt_losses("D", judged))
            found |= _by_name("D_pixels", named, self._learnt_losses("D_pixels", named))
        self.were_finite = finite(parameter.grad for parameter in moving if parameter.grad is not None)
        moved = self._move(of_heads, moving, self.were_finite if is_finite else torch.tensor(False))
        if not moved or not is_finite:
            return None
        return found

    def _learnt_losses(self, kind: str, pairs: Sequence[tuple[Translation, str]]) -> TermLosses | None:
        """The losses of all networks of a kind, whose gradients are left on their parameters."""
        learnt = self._learnt.pop(kind, None)
        if learnt is None or _directions_and_regions(pairs) != self._learnt_of[kind]:
            return self._learn(self.bank.discriminator_losses if kind == "D" else self._naming_losses, pairs)
        for parameter, gradient in learnt.gradients:
            parameter.grad = gradient
        if kind == "D":
            self.bank.keep_windows()
        return learnt.losses

    def _naming_losses(self, shown: Sequence[Shown]) -> TermLosses | None:
        return self.bank.pixel_losses(shown, for_generators=False).networks

    def _learn(
        self, losses_of: Callable[[Sequence[Shown]], TermLosses | None], pairs: Sequence[tuple[Translation, str]]
    ) -> TermLosses | None:
        """The losses of networks of ours on translations and regions, whose gradients are left on their parameters."""
        if not pairs:
            return None
        with self._drawing(), single_precision(pairs[0][0].fake):
            found = losses_of([self._shown(*pair) for pair in pairs])
            if found is not None:
                found.values.sum().backward()
        return found

    def _move(
        self, of_heads: Sequence[tuple[nn.Parameter, Tensor]], of_bank: Sequence[nn.Parameter], is_finite: Tensor
    ) -> bool:
        """One step at the host's rates; what is not named, and its moments, stay untouched.

        Args:
            of_heads: Parameters of the heads, with their gradients.
            of_bank: Parameters of the bank that have a gradient on some process.
            is_finite: Whether this process's gradients are, on the parameters' device. Where not, this process gives
                none; where no process gives any, the step is left out. In mixed precision it is left out on all
                processes alike where the gradient of one is not finite: that is how a GradScaler finds its scale.

        Returns:
            Whether the step was made, as far as can be told without waiting for a device.
        """
        given = dict(of_heads)
        moving = [*given, *of_bank]
        if not moving:
            return True
        # A generator's own head is a part of the host, which may be collecting gradients there.
        of_host = [(parameter, parameter.grad) for parameter in self._optimizer.parameters(but=BANK)]
        for parameter, _ in of_host:
            parameter.grad = given.get(parameter)
        if n_processes() > 1:
            if not self._mixed:
                drop_where_not(is_finite, moving)
            average_gradients(moving)
            is_finite = finite(parameter.grad for parameter in moving if parameter.grad is not None)
        made = self._optimizer.step(self._rates(), is_finite)
        for parameter in of_bank:
            parameter.grad = None
        for parameter, gradient in of_host:
            parameter.grad = gradient
        return made or not self._mixed

    def _rates(self) -> dict[str, float]:
        of_host = self._adapter.learning_rates()
        factor = 1.0 if self._config.ggd is None else self._config.ggd.learning_rate_factor
        return {**dict.fromkeys(self._heads, factor * of_host["generator"]), BANK: of_host["discriminator"]}

    def _shown(self, translation: Translation, region: str) -> Shown:
        direction = translation.direction
        return Shown(
            direction,
            region,
            translation.fake,
            masks_of(translation.masks, region, f"the source images of {direction}"),
            translation.real,
            masks_of(translation.real_masks, region, f"the target images of {direction}"),
        )

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimizers and pools; tensors and plain values only."""
        return {
            "bank": self.bank.state_dict(),
            "heads": {d: h.head.state_dict() for d, h in self._heads.items() if h.owns_head and h.head is not None},
            "bank_optimizer": self._optimizer.state_of(BANK),
            "head_optimizers": {d: self._optimizer.state_of(d) for d in self._optimizer.names if d != BANK},
            "pools": self.bank.pools_state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            CheckpointError: It belongs to other networks.
        """
        try:
            self.bank.load_state_dict(state["bank"])
            if BANK in self._optimizer:
                self._optimizer.load(BANK, state["bank_optimizer"])
            if self._config.ggd is not None:  # switched off, a saved head is left behind
                self._load_heads(state["heads"], state["head_optimizers"])
            self.bank.load_pools_state_dict(state["pools"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = one_line(error)[:200]
            raise CheckpointError(
                f"`state` must belong to the same regions and networks; it does not fit: {reason}; "
                f"use the configuration it was trained with"
            ) from error

    def _load_heads(self, heads: Mapping[str, Any], optimizers: Mapping[str, Any]) -> None:
        for direction, head in heads.items():
            self._heads[direction].load_head(head)
        for direction, saved in optimizers.items():
            self._optimize_head(direction)
            self._optimizer.load(direction, saved)


def _directions_and_regions(pairs: Sequence[tuple[Translation, str]]) -> set[tuple[str, str]]:
    return {(translation.direction, region) for translation, region in pairs}


def _by_name(kind: str, pairs: Sequence[tuple[Translation, str]], losses: TermLosses | None) -> dict[str, Tensor]:
    """Losses of networks under their names, detached; ``kind`` is ``D`` or ``D_pixels``."""
    if losses is None:
        return {}
    names = {
        f"{translation.direction}_{region}": f"{kind}_{region}_{translation.direction}" for translation, region in pairs
    }
    return dict(zip((names[key] for key in losses.keys), losses.values.detach(), strict=True))


def _channels(generators: Iterable[str], first: Sequence[Translation]) -> dict[str, int]:
    """Image channels of every direction that trains, also of those that the first step does not show."""
    channels = {REVERSE[t.direction]: t.source.shape[1] for t in first if t.direction in REVERSE}
    channels.update({translation.direction: translation.fake.shape[1] for translation in first})
    training = {*generators, *(translation.direction for translation in first)}
    return {d: channels[d] for d in (*REVERSE, *sorted(training - set(REVERSE))) if d in training}


def _factory(plugins: Plugins) -> DiscriminatorFactory:
    def build(region: RegionConfig, in_channels: int, smallest_px: int) -> nn.Module | ForeignNetwork:
        plugin, network = plugins.first(
            "roi_discriminator", region=region, in_channels=in_channels, smallest_px=smallest_px
        )
        if plugin is None:
            return patch_discriminator_for(region, in_channels, smallest_px)
        return ForeignNetwork(network, plugin)

    return build
