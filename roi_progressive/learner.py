"""Everything of ours that learns: the discriminator bank, the uncertainty heads, and their optimizers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import Adapter, Translation
from .config import Config, RegionConfig
from .discriminators import DiscriminatorBank, patch_discriminator_for
from .errors import CheckpointError
from .objective import Contribution, GeneratorObjective, masks_of
from .plugins import Plugins
from .rng import ForkedStream
from .uncertainty import GGDWrapper


class Learner:
    """Our networks and their optimizers; the optimizers' rates are the host's, copied at every step.

    Args:
        config: The session's.
        adapter: Tells rates and betas.
        plugins: Asked for networks and extra terms.
        heads: The uncertainty wrappers by direction.
        stream: Our random stream; all drawing happens in it.
        first: The first step's translations: they show channels and device.
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
        self._stream = stream
        self._heads = dict(heads)
        device = first[0].fake.device
        with stream.active():
            channels = {translation.direction: translation.fake.shape[1] for translation in first}
            self.bank = DiscriminatorBank(config, channels, _factory(plugins)).to(device)
            for translation in first:
                if translation.direction in self._heads:
                    self._heads[translation.direction].build_head(translation.fake)
        betas = adapter.betas()
        self._bank_optimizer = _adam(self.bank.parameters, betas)
        self._head_optimizer = _adam(self._head_parameters, betas)
        self._objective = GeneratorObjective(config, self.bank, self._heads, plugins)

    def _head_parameters(self) -> list[nn.Parameter]:
        return [p for head in self._heads.values() if head.head is not None for p in head.head.parameters()]

    def contribution(self, translations: Sequence[Translation], weights: Mapping[str, float]) -> Contribution:
        """Our losses and gradients for the generators; the heads are moved one step on the way."""
        with self._stream.active():
            contribution = self._objective.contribution(translations, weights)
        factor = self._config.ggd.learning_rate_factor if self._config.ggd is not None else 1.0
        _step(self._head_optimizer, factor * self._adapter.learning_rates()["generator"])
        return contribution

    def discriminator_step(
        self, translations: Sequence[Translation], weights: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """Move the region discriminators one step; those whose region no image holds stay as they are (promise 6).

        Returns:
            Their losses, detached, by name.
        """
        losses: dict[str, Tensor] = {}
        with self._stream.active():
            for translation in translations:
                for region in self._config.regions:
                    if region.name not in weights or region.weight == 0:
                        continue
                    loss = self._discriminator_loss(translation, region.name)
                    if loss is not None:
                        losses[f"D_{region.name}_{translation.direction}"] = loss
        if losses:
            torch.stack(list(losses.values())).sum().backward()
        _step(self._bank_optimizer, self._adapter.learning_rates()["discriminator"])
        return {name: loss.detach() for name, loss in losses.items()}

    def _discriminator_loss(self, translation: Translation, region: str) -> Tensor | None:
        direction = translation.direction
        return self.bank.discriminator_loss(
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
            "head_optimizer": None if self._head_optimizer is None else self._head_optimizer.state_dict(),
            "pools": self.bank.pools_state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            CheckpointError: It belongs to other networks.
        """
        try:
            self.bank.load_state_dict(state["bank"])
            for direction, head in state["heads"].items():
                self._heads[direction].load_head(head)
            for optimizer, saved in (
                (self._bank_optimizer, state["bank_optimizer"]),
                (self._head_optimizer, state["head_optimizer"]),
            ):
                if optimizer is not None and saved is not None:
                    optimizer.load_state_dict(saved)
            self.bank.load_pools_state_dict(state["pools"])
        except (KeyError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"`state` must belong to the same regions and networks; it does not fit: {reason}; "
                f"use the configuration it was trained with"
            ) from error


def _factory(plugins: Plugins) -> Callable[[RegionConfig, int, int], nn.Module]:
    def build(region: RegionConfig, in_channels: int, smallest_px: int) -> nn.Module:
        network: nn.Module | None = plugins.call(
            "roi_discriminator", region=region, in_channels=in_channels, smallest_px=smallest_px
        )
        return patch_discriminator_for(region, in_channels, smallest_px) if network is None else network

    return build


def _adam(parameters: Callable[[], Any], betas: tuple[float, float]) -> torch.optim.Adam | None:
    trainable = [parameter for parameter in parameters() if parameter.requires_grad]
    return torch.optim.Adam(trainable, lr=0.0, betas=betas) if trainable else None


def _step(optimizer: torch.optim.Adam | None, learning_rate: float) -> None:
    """One step at the host's rate; parameters without a gradient, and their moments, stay untouched."""
    if optimizer is None:
        return
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
