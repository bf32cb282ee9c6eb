"""Plain scripts: the session is told everything by ``generator_loss`` and ``discriminator_step``."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from roi_progressive import Adapter, Config, ConfigError, Session, Translation, hookimpl
from roi_progressive.adapter import DomainMasks
from roi_progressive.patching import Patches

DIRECTIONS = ("A2B", "B2A")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands ``{"A2B": generator, "B2A": generator}``; one direction alone will do."""
    return ManualAdapter(host) if isinstance(host, Mapping) else None


class ManualAdapter(Adapter):
    """Generators by direction, and the optimizer that trains them, found by its parameters.

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
        self._optimizer = _optimizer_of(next(iter(generators.values())))

    def generators(self) -> Mapping[str, nn.Module]:
        return self._generators

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        return ()

    def install(self, session: Session, patches: Patches) -> None:
        session.step_started()

    def learning_rates(self) -> Mapping[str, float]:
        rate = float(self._optimizer.param_groups[0]["lr"])
        return {"generator": rate, "discriminator": rate}

    def betas(self) -> tuple[float, float]:
        first, second = self._optimizer.param_groups[0].get("betas", super().betas())
        return (float(first), float(second))

    def host_state(self) -> dict[str, Any]:
        return {"moments": [self._optimizer.state_dict()["state"]]}

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state["moments"][0]})


def _optimizer_of(generator: nn.Module) -> torch.optim.Optimizer:
    """The script's optimizer of a generator: a script gives us its networks only, and made its optimizers before."""
    known = {id(parameter) for parameter in generator.parameters()}
    for thing in gc.get_objects():
        if isinstance(thing, torch.optim.Optimizer) and any(
            id(parameter) in known for group in thing.param_groups for parameter in group["params"]
        ):
            return thing
    raise ConfigError(
        "`host` must hold generators that an optimizer trains; found none in this process; "
        "make the optimizers before calling `attach`, so that our learning rate can follow theirs"
    )
