"""Everything of ours that learns: the discriminator bank, the uncertainty heads, and their optimizers."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig
from ..errors import CheckpointError, one_line
from ..method.bank import DiscriminatorBank, Shown
from ..method.discriminators import DiscriminatorFactory, patch_discriminator_for
from ..method.foreign_networks import ForeignNetwork
from ..plugins.adapter import Adapter, Translation
from ..plugins.manager import Plugins
from ..runtime.distributed import average_gradients, n_processes
from ..runtime.finite import drop_where_not, finite, is_mixed, is_read_late, single_precision
from ..runtime.rng import ForkedStream
from ..saving.names import REVERSE
from .objective import Contribution, GeneratorObjective, Shares, masks_of
from .tap import leaf
from .uncertainty import GGDWrapper

HOW = ("fused", "foreach", "capturable")
"""Settings of an optimizer that say how a step is made, and not which."""


class Learner:
    """Our networks and their optimizers; the optimizers' rates are the host's, copied at every step.

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
        self._bank_optimizer = self._adam(self.bank)
        # One a head: a direction that joins later brings its head, and its optimizer, then.
        self._head_optimizers: dict[str, torch.optim.Adam] = {}
        self._objective = GeneratorObjective(config, self.bank, self._heads, plugins)
        self._shares = Shares()
        self._mixed = False
        self.were_finite = torch.tensor(True)

    def contribution(self, translations: Sequence[Translation], weights: Mapping[str, float]) -> Contribution:
        """Our losses and gradients for the generators; the heads are moved one step on the way."""
        for translation in translations:
            self._build_heads(translation)
        self._mixed = is_mixed(translations[0].fake)
        self.count(translations)
        with self._drawing(), single_precision(translations[0].fake):
            contribution = self._objective.contribution(translations, weights, self._shares)
        if self._config.ggd is not None and self._head_optimizers:
            _step(
                list(self._head_optimizers.values()),
                contribution.reached,
                self._config.ggd.learning_rate_factor * self._adapter.learning_rates()["generator"],
                contribution.is_finite,
                mixed=self._mixed,
            )
        return contribution

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
        optimizer = None if head is None or direction in self._head_optimizers else self._adam(head)
        if optimizer is not None:
            self._head_optimizers[direction] = optimizer

    def _adam(self, network: nn.Module) -> torch.optim.Adam | None:
        parameters = list(network.parameters())
        return _adam(parameters, self._adapter.betas()) if parameters else None

    def discriminator_step(
        self,
        translations: Sequence[Translation],
        weights: Mapping[str, float],
        *,
        overflowed: bool = False,
        is_finite: bool = True,
    ) -> dict[str, Tensor] | None:
        """Move the region discriminators one step; those whose region no image holds stay as they are ("No region, no
        change").

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
        active = [region for region in self._config.regions if region.name in weights]
        learning = {
            "D": [(t, region.name) for t in translations for region in active if region.weight > 0],
            "D_pixels": [(t, region.name) for t in translations for region in active if region.pixel_weight > 0],
        }
        moving = [
            parameter
            for kind, pairs in learning.items()
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
        elif is_finite:
            with self._drawing(), single_precision(translations[0].fake):
                found = self._learn(learning)
        self.were_finite = finite(parameter.grad for parameter in moving if parameter.grad is not None)
        optimizers = [] if self._bank_optimizer is None else [self._bank_optimizer]
        rate = self._adapter.learning_rates()["discriminator"]
        moved = _step(optimizers, moving, rate, self.were_finite, mixed=self._mixed)
        if not moved or not is_finite:
            return None
        return found

    def _learn(self, learning: Mapping[str, Sequence[tuple[Translation, str]]]) -> dict[str, Tensor]:
        """The losses of discriminators and pixel classifiers by name, detached; their gradients are left on them.

        Args:
            learning: Directions and regions by the kind of network, ``D`` or ``D_pixels``.
        """
        asked = {"D": self.bank.discriminator_losses, "D_pixels": self.bank.pixel_learning_losses}
        losses: dict[str, Tensor] = {}
        sums = []
        for kind, pairs in learning.items():
            shown = [self._shown(*pair) for pair in pairs]
            found = asked[kind](shown) if shown else None
            if found is not None:
                names = {of.key: f"{kind}_{of.region}_{of.direction}" for of in shown}
                losses |= dict(zip((names[key] for key in found.keys), found.values.detach(), strict=True))
                sums.append(found.values.sum())
        if sums:
            (sums[0] if len(sums) == 1 else sums[0] + sums[1]).backward()
        return losses

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
            "bank_optimizer": None if self._bank_optimizer is None else self._bank_optimizer.state_dict(),
            "head_optimizers": {d: optimizer.state_dict() for d, optimizer in self._head_optimizers.items()},
            "pools": self.bank.pools_state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            CheckpointError: It belongs to other networks.
        """
        try:
            self.bank.load_state_dict(state["bank"])
            if self._bank_optimizer is not None:
                _restore(self._bank_optimizer, state["bank_optimizer"])
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
            _restore(self._head_optimizers[direction], saved)


def _restore(optimizer: torch.optim.Adam, saved: Mapping[str, Any]) -> None:
    """Continue with saved moments; ``ValueError`` where they belong to parameters of another shape."""
    # An optimizer goes on with the very tensors it is given, and looks at them in its next step only.
    given = copy.deepcopy(dict(saved))
    for group, own in zip(given["param_groups"], optimizer.param_groups, strict=False):
        group.update({how: own[how] for how in HOW if how in own})  # how a step is made is this machine's affair
    optimizer.load_state_dict(given)
    for parameter, moments in optimizer.state.items():
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameter.shape:
                shapes = f"{list(moments[name].shape)} and {list(parameter.shape)}"
                raise ValueError(f"{name} of an optimizer and its parameter are of shapes {shapes}")


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


def _adam(parameters: Sequence[nn.Parameter], betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam that moves all parameters in one operation, where this torch has one for their device."""
    try:
        return torch.optim.Adam(parameters, lr=0.0, betas=betas, fused=True)
    except RuntimeError:  # e.g. torch before 2.4 on the CPU
        return torch.optim.Adam(parameters, lr=0.0, betas=betas)


def _step(
    optimizers: Sequence[torch.optim.Adam],
    moving: Sequence[nn.Parameter],
    learning_rate: float,
    is_finite: Tensor,
    *,
    mixed: bool,
) -> bool:
    """One step at the host's rate; parameters without a gradient, and their moments, stay untouched.

    Args:
        optimizers: Of one kind of our networks.
        moving: Those of their parameters that have a gradient on some process.
        learning_rate: The host's.
        is_finite: Whether this process's gradients are, on the parameters' device. Where not, this process gives none;
            where no process gives any, the step is left out.
        mixed: Leave the step out on all processes alike where the gradient of one is not finite: that is how a
            GradScaler finds its scale.

    Returns:
        Whether the step was made, as far as can be told without waiting for a device.
    """
    if n_processes() > 1:
        if not mixed:
            drop_where_not(is_finite, moving)
        average_gradients(moving)
        is_finite = finite(parameter.grad for parameter in moving if parameter.grad is not None)
    late = is_read_late(is_finite)
    made = late or bool(is_finite)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        if late:
            _step_if(is_finite, optimizer)
        elif made:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return made or not mixed


def _step_if(is_finite: Tensor, optimizer: torch.optim.Adam) -> None:
    """A step that is left out where ``is_finite`` turns out false on the device; nobody waits to hear of it."""
    if optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # torch's GradScaler does the same
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        return
    # Without that, what was learnt before still moves the parameters a little.
    drop_where_not(is_finite, [parameter for group in optimizer.param_groups for parameter in group["params"]])
    optimizer.step()
