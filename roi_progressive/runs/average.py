"""The moving average of a run's generators: what they were on average over the last steps, in place of the last one.

Adversarial training circles around its goal; the average stands nearer to it (Yazıcı et al. 2019, "The unusual
effectiveness of averaging in GAN training").
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..host import CycleGANModel
from ..host.ranks import unwrapped
from ..saving.checkpoint import read_network, write_network

GENERATORS = ("G_A", "G_B")


class AveragedGenerators:
    """Both generators of a host, averaged with weights that fall by ``decay`` a step.

    The training never sees them: they are copies, moved after each step.

    Args:
        model: The host.
        decay: Over 0 and under 1; about ``1 / (1 - decay)`` steps count, and fewer while there were fewer than ten
            times as many, so that the networks' random beginnings are soon forgotten.
    """

    def __init__(self, model: CycleGANModel, decay: float) -> None:
        self._model = model
        self._decay = decay
        self._networks = {name: copy_of_generator(model, name) for name in GENERATORS}

    @property
    def networks(self) -> Mapping[str, nn.Module]:
        """The averages themselves, by the generators' names; in evaluation mode, for nobody trains them."""
        return self._networks

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the generators as they are after the ``step``-th step of the run, from 1."""
        decay = min(self._decay, step / (step + 9))
        averages, current = list[Tensor](), list[Tensor]()
        for name, average in self._networks.items():
            now = dict(_generator(self._model, name).state_dict(keep_vars=True))
            for key, value in average.state_dict(keep_vars=True).items():
                if value.is_floating_point():
                    averages.append(value)
                    current.append(now[key])
                else:
                    value.copy_(now[key])
        torch._foreach_lerp_(averages, current, 1.0 - decay)  # one call for all: on a GPU a step is counted in launches

    def save(self, networks: Path, epoch: int) -> None:
        """Write them beside the generators themselves.

        Raises:
            CheckpointError: They cannot be written.
        """
        for name, average in self._networks.items():
            write_network(average_file(networks, epoch, name), average)

    def load(self, networks: Path, epoch: int) -> None:
        """Continue with those of an epoch.

        Raises:
            CheckpointError: They are missing, damaged, or of other networks.
        """
        for name, state in _read(self._model, networks, epoch).items():
            self._networks[name].load_state_dict(state)


def average_file(networks: Path, epoch: int, name: str) -> Path:
    """Where the average of a generator lies."""
    return networks / f"{epoch}_average_{name}.pth"


def use_averages(model: CycleGANModel, networks: Path, epoch: int) -> None:
    """Put the averages of an epoch in the place of a model's generators.

    Raises:
        CheckpointError: They are missing, damaged, or of other networks.
    """
    for name, state in _read(model, networks, epoch).items():
        _generator(model, name).load_state_dict(state)


def _read(model: CycleGANModel, networks: Path, epoch: int) -> dict[str, Mapping[str, Tensor]]:
    return {
        name: read_network(average_file(networks, epoch, name), _generator(model, name), model.device)
        for name in GENERATORS
    }


def copy_of_generator(model: CycleGANModel, name: str) -> nn.Module:
    """A generator as it is now, to look at: whatever is made with the copy, the generator knows nothing of it."""
    return copy.deepcopy(_generator(model, name)).requires_grad_(False).eval()


def _generator(model: CycleGANModel, name: str) -> nn.Module:
    return unwrapped(getattr(model, f"net{name}"))
