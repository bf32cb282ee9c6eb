"""A CycleGAN as small as it gets, in the junyanz dialect, for tests that need a host to attach to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.rng import RandomState
from .batches import phantom_batch


class ToyHost:
    """Two generators and two discriminators of a few hundred weights, on the CPU; ``attach`` takes it as it is.

    ``for batch in host.batches(3): host.step(batch)`` trains it. It has what the adapter for junyanz's CycleGAN asks
    for: ``set_input``, ``forward``, ``optimize_parameters``, ``save_networks``, losses and visuals.

    Args:
        folder: Where ``save_networks`` writes.
        channels: Width of every network.
        seed: Of the weights; the random streams are left where they stood.
        n_epochs: What it says of the length of its run.

    Example:
        >>> from roi_progressive.testing import ToyHost
        >>> host = ToyHost()
        >>> for batch in host.batches(2):
        ...     host.step(batch)
        >>> host.fake_B.shape
        torch.Size([2, 1, 32, 32])
    """

    def __init__(self, folder: str | Path = ".", *, channels: int = 4, seed: int = 0, n_epochs: int = 3) -> None:
        self.opt = SimpleNamespace(direction="AtoB", n_epochs=n_epochs, n_epochs_decay=0, continue_train=False)
        self.isTrain, self.device, self.save_dir = True, torch.device("cpu"), str(folder)
        self.model_names = ["G_A", "G_B", "D_A", "D_B"]
        self.loss_names, self.visual_names = ["G", "D"], ["real_A", "fake_B", "real_B", "fake_A"]
        before = RandomState.now()
        torch.manual_seed(seed)
        self.netG_A, self.netG_B = _generator(channels), _generator(channels)
        self.netD_A, self.netD_B = _discriminator(channels), _discriminator(channels)
        before.restore()
        self.optimizer_G = _adam(self.netG_A, self.netG_B)
        self.optimizer_D = _adam(self.netD_A, self.netD_B)
        self.optimizers = [self.optimizer_G, self.optimizer_D]
        self.fake_A_pool, self.fake_B_pool = _NoPool(), _NoPool()

    def batches(self, n_batches: int = 3, n: int = 2, size_px: int = 32) -> Iterator[dict[str, Any]]:
        """Batches to train on, always the same: ``phantom_batch`` under rising seeds."""
        return (phantom_batch(n, size_px=size_px, seed=seed) for seed in range(n_batches))

    def step(self, batch: Mapping[str, Any]) -> None:
        """One training step."""
        self.set_input(batch)
        self.optimize_parameters()

    def set_input(self, batch: Mapping[str, Any]) -> None:
        """Take a batch: ``A`` and ``B``, ``[N, 1, H, W]`` in [-1, 1]."""
        self.real_A, self.real_B = batch["A"], batch["B"]

    def forward(self) -> None:
        """Translate both ways and back."""
        self.fake_B, self.fake_A = self.netG_A(self.real_A), self.netG_B(self.real_B)
        self.rec_A, self.rec_B = self.netG_B(self.fake_B), self.netG_A(self.fake_A)

    def backward_G(self) -> None:
        """Least squares and ten times the cycle."""
        judged = ((self.netD_A(self.fake_B) - 1) ** 2).mean() + ((self.netD_B(self.fake_A) - 1) ** 2).mean()
        cycle = (self.rec_A - self.real_A).abs().mean() + (self.rec_B - self.real_B).abs().mean()
        self.loss_G: Tensor = judged + 10.0 * cycle
        self.loss_G.backward()

    def optimize_parameters(self) -> None:
        """A step of the generators, then one of the discriminators."""
        self.forward()
        self.optimizer_G.zero_grad()
        self.backward_G()
        self.optimizer_G.step()
        self.optimizer_D.zero_grad()
        self.loss_D: Tensor = self._judge(self.netD_A, self.real_B, self.fake_B)
        self.loss_D = self.loss_D + self._judge(self.netD_B, self.real_A, self.fake_A)
        self.loss_D.backward()
        self.optimizer_D.step()

    def _judge(self, network: nn.Module, real: Tensor, fake: Tensor) -> Tensor:
        loss: Tensor = ((network(real) - 1) ** 2).mean() + (network(fake.detach()) ** 2).mean()
        return loss

    def compute_visuals(self) -> None:
        """Nothing is shown beyond what the step made."""

    def get_current_visuals(self) -> dict[str, Any]:
        """The images of the last step, by name."""
        return {name: getattr(self, name) for name in self.visual_names}

    def get_current_losses(self) -> dict[str, float]:
        """The losses of the last step, by name."""
        return {name: float(torch.as_tensor(getattr(self, f"loss_{name}")).detach()) for name in self.loss_names}

    def save_networks(self, epoch: int | str) -> None:
        """Write each network as ``<epoch>_net_<name>.pth``."""
        folder = Path(self.save_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name in self.model_names:
            torch.save(getattr(self, f"net{name}").state_dict(), folder / f"{epoch}_net_{name}.pth")


class _NoPool:
    """An image pool of size 0, as the dialect has it: every generated image is judged once."""

    pool_size = 0


def _generator(channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 1, 3, padding=1), nn.Tanh()
    )


def _discriminator(channels: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, channels, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(channels, 1, 4, 2, 1))


def _adam(*networks: nn.Module) -> torch.optim.Adam:
    return torch.optim.Adam([p for net in networks for p in net.parameters()], lr=1e-3, betas=(0.5, 0.999))
