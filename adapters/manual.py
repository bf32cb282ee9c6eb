"""Plain scripts, which call the session's ``generator_loss`` and ``discriminator_step`` themselves."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from roi_progressive import (
    Adapter,
    Config,
    ConfigError,
    DomainMasks,
    GuidedSession,
    Patches,
    Translation,
    hookimpl,
)

from ._host_state import GRAD_SCALER, load_moments, load_scales, moments_of, scales_of

DIRECTIONS = ("A2B", "B2A")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands ``{"A2B": generator, "B2A": generator}``; one direction alone will do."""
    return ManualAdapter(host) if isinstance(host, Mapping) else None


@hookimpl
def roi_host_lacks(host: Any) -> dict[str, list[str]]:
    """What a host lacks that is no mapping."""
    return {ManualAdapter.name: ["a dict of generators"]}


class ManualAdapter(Adapter):
    """Generators by direction, and the optimizers that train them, found by their parameters.

    Rate and betas are those of the first generator that has one. The script's discriminators are not known here:
    ``resume = "exact"`` restores the generators' optimizers only.

    Args:
        generators: By direction.

    Raises:
        ConfigError: A direction is unknown, a generator is no module, or no optimizer holds its parameters.
    """

    name = "plain script"

    def __init__(self, generators: Mapping[str, nn.Module]) -> None:
        wrong = [key for key in generators if key not in DIRECTIONS]
        if wrong or not generators:
            raise ConfigError(
                f"`host` must name generators by direction, 'A2B' and 'B2A'; "
                f"got {sorted(map(str, generators)) or 'none'}"
            )
        for direction, generator in generators.items():
            if not isinstance(generator, nn.Module):
                raise ConfigError(f"`host[{direction!r}]` must be a torch module; got {type(generator).__name__}")
        self._generators = dict(generators)
        self._optimizers = _optimizers_of(generators.values())

    def generators(self) -> Mapping[str, nn.Module]:
        return self._generators

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        return ()

    def install(self, session: GuidedSession, patches: Patches) -> None:
        session.step_started()

    def learning_rates(self) -> Mapping[str, float]:
        rate = float(self._group()["lr"])
        return {"generator": rate, "discriminator": rate}

    def betas(self) -> tuple[float, float]:
        first, second = self._group().get("betas", super().betas())
        return (float(first), float(second))

    def _group(self) -> dict[str, Any]:
        # Asked for anew each time: an optimizer that loads a state makes new groups.
        groups = (_group_of(self._optimizers[0], generator) for generator in self._generators.values())
        return next(group for group in groups if group)

    def host_state(self) -> dict[str, Any]:
        return {"moments": moments_of(self._optimizers), "scales": scales_of(_scalers())}

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        load_moments(self._optimizers, state["moments"])
        scales, scalers = state.get("scales", {}), _scalers()  # files of older versions have no scales
        if scales and not scalers:
            warnings.warn(
                "the checkpoint holds the scale of a GradScaler, and this process has none: make the script's scaler "
                "before the checkpoint is loaded",
                RuntimeWarning,
                stacklevel=2,
            )
        load_scales(scalers, scales)


def _scalers() -> dict[str, Any]:
    """The script's gradient scaler, which nothing of what a script gives us leads to: the only one that is at work."""
    living = (thing for thing in gc.get_objects() if issubclass(type(thing), GRAD_SCALER))
    scalers = [scaler for scaler in living if scaler.is_enabled()]
    if len(scalers) > 1:
        warnings.warn(
            f"this process has {len(scalers)} GradScalers: whose scale `resume` = 'exact' is to keep is not known, and "
            f"none is saved or restored; keep one of them alive, or restore them yourself",
            RuntimeWarning,
            stacklevel=2,
        )
    return {"scaler": scalers[0]} if len(scalers) == 1 else {}


def _optimizers_of(generators: Iterable[nn.Module]) -> list[torch.optim.Optimizer]:
    """The script's optimizers of its generators: a script gives us its networks only, and made its optimizers before.

    Raises:
        ConfigError: There is none.
    """
    # `isinstance` would ask every object for its `__class__`, which dead weak proxies answer with an error.
    living = [thing for thing in gc.get_objects() if issubclass(type(thing), torch.optim.Optimizer)]
    found: list[torch.optim.Optimizer] = []
    for generator in generators:
        own = (optimizer for optimizer in living if _group_of(optimizer, generator))
        found += [optimizer for optimizer in own if not any(optimizer is known for known in found)]
    if not found:
        raise ConfigError(
            "`host` must hold generators that an optimizer trains; found none in this process; "
            "make the optimizers before calling `attach`, so that our learning rate can follow theirs"
        )
    return found


def _group_of(optimizer: torch.optim.Optimizer, generator: nn.Module) -> dict[str, Any]:
    """The optimizer's first group with parameters of a generator; empty where there is none."""
    # An uncertainty head is also held by our own optimizer, which an earlier session may have left alive.
    groups: list[dict[str, Any]] = optimizer.param_groups
    for group in groups:
        trained = {id(parameter) for parameter in group["params"]}
        # Asked in every step: as a rule the generator's first parameter is among them.
        for name, parameter in generator.named_parameters():
            if id(parameter) in trained and "ggd_head" not in name.split("."):
                return group
    return {}
