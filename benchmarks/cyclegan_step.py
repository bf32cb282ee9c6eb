"""A CycleGAN's training step as people write it, alone, with us, and with a full-size masked bank."""

from __future__ import annotations

import abc
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from published_networks import patch_gan
from torch import Tensor, nn

import roi_progressive
from roi_progressive import Config

Masks = dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Images ``[N, C, H, W]`` in [-1, 1] and region masks ``[N, 1, H, W]`` of both domains."""

    real_A: Tensor
    real_B: Tensor
    masks_A: Masks
    masks_B: Masks

    def to(self, device: torch.device) -> Batch:
        """Its images on a device; masks stay on the CPU, where a loader has them."""
        return replace(self, real_A=self.real_A.to(device), real_B=self.real_B.to(device))


def phantom_batch(size_px: int, tumor_px: float, *, n: int = 1, seed: int = 0) -> Batch:
    """Noise with an elliptic liver of 100 x 90 px in 256 px (in proportion otherwise) and a round tumour in it."""
    random = torch.Generator().manual_seed(seed)
    unit = size_px / 256
    liver = _ellipse(size_px, 120 * unit, 110 * unit, 45 * unit, 50 * unit)
    tumor = _ellipse(size_px, 125 * unit, 105 * unit, tumor_px / 2, tumor_px / 2)
    masks = {name: mask.expand(n, 1, -1, -1).clone() for name, mask in (("liver", liver), ("tumor", tumor))}
    images = torch.rand(2, n, 1, size_px, size_px, generator=random) * 2 - 1
    return Batch(images[0], images[1], masks, masks)


def _ellipse(size_px: int, row: float, column: float, half_height: float, half_width: float) -> Tensor:
    rows, columns = torch.meshgrid(*(torch.arange(size_px) + 0.5,) * 2, indexing="ij")
    return (((rows - row) / half_height) ** 2 + ((columns - column) / half_width) ** 2 <= 1)[None, None]


def toward(logits: Tensor, target: float) -> Tensor:
    """Least-squares GAN loss."""
    return (logits - target).square().mean()


class CycleGAN:
    """Two generators and two PatchGANs with the step of Zhu et al. 2017, no identity loss and no image pool.

    Args:
        generator: Builds one.
        ndf: Channels of the PatchGANs' first layer.
        device: Where it trains.
    """

    def __init__(self, generator: Callable[[], nn.Module], ndf: int = 64, device: torch.device | str = "cpu") -> None:
        torch.manual_seed(0)
        networks = generator(), generator(), patch_gan(1, ndf), patch_gan(1, ndf)
        self.A2B, self.B2A, self.D_A, self.D_B = (network.to(device) for network in networks)
        self.optimizer_G = _adam(self.A2B, self.B2A)
        self.optimizer_D = _adam(self.D_A, self.D_B)

    def step(self, batch: Batch, added: Added | None = None) -> None:
        """Train once; ``added`` brings a term of the generators' loss and a discriminator's step of its own."""
        real_A, real_B = batch.real_A, batch.real_B
        fake_B, fake_A = self.A2B(real_A), self.B2A(real_B)
        rec_A, rec_B = self.B2A(fake_B), self.A2B(fake_A)
        _train(self.D_A, self.D_B, learn=False)
        loss = toward(self.D_B(fake_B), 1.0) + toward(self.D_A(fake_A), 1.0)
        loss = loss + 10.0 * ((rec_A - real_A).abs().mean() + (rec_B - real_B).abs().mean())
        if added is not None:
            loss = loss + added.generator_loss(batch, fake_B, fake_A, rec_A, rec_B)
        self.optimizer_G.zero_grad()
        loss.backward()
        self.optimizer_G.step()
        _train(self.D_A, self.D_B, learn=True)
        self.optimizer_D.zero_grad()
        for network, real, fake in ((self.D_A, real_A, fake_A), (self.D_B, real_B, fake_B)):
            (0.5 * (toward(network(real), 1.0) + toward(network(fake.detach()), 0.0))).backward()
        self.optimizer_D.step()
        if added is not None:
            added.discriminator_step()


class Added(abc.ABC):
    """What is added to the step; the base class counts the processor's seconds spent in it."""

    seconds = 0.0

    def generator_loss(self, batch: Batch, fake_B: Tensor, fake_A: Tensor, rec_A: Tensor, rec_B: Tensor) -> Tensor:
        """A term of the generators' loss."""
        start = time.process_time()
        loss = self._generator_loss(batch, fake_B, fake_A, rec_A, rec_B)
        self.seconds += time.process_time() - start
        return loss

    def discriminator_step(self) -> None:
        """After the host's own."""
        start = time.process_time()
        self._discriminator_step()
        self.seconds += time.process_time() - start

    @abc.abstractmethod
    def _generator_loss(self, batch: Batch, fake_B: Tensor, fake_A: Tensor, rec_A: Tensor, rec_B: Tensor) -> Tensor: ...

    @abc.abstractmethod
    def _discriminator_step(self) -> None: ...


class Regions(Added):
    """This package: a session of a plain script, at a given epoch of three."""

    def __init__(self, host: CycleGAN, config: Config, epoch: int = 2) -> None:
        self.session = roi_progressive.attach({"A2B": host.A2B, "B2A": host.B2A}, config=config, n_epochs=3)
        for passed in range(epoch + 1):
            self.session.start_epoch(passed)

    def _generator_loss(self, batch: Batch, fake_B: Tensor, fake_A: Tensor, rec_A: Tensor, rec_B: Tensor) -> Tensor:
        forth = {"real_A": batch.real_A, "fake_B": fake_B, "rec_A": rec_A, "masks_A": batch.masks_A}
        back = {"real_B": batch.real_B, "fake_A": fake_A, "rec_B": rec_B, "masks_B": batch.masks_B}
        return self.session.generator_loss(**forth, **back)  # type: ignore[arg-type]  # images and masks by name

    def _discriminator_step(self) -> None:
        self.session.discriminator_step()


class MaskedBank(Added):
    """A full-size masked bank as people write it: a 70 x 70 PatchGAN a region and direction on the whole image times
    the mask. Their terms go through the host's graph, and so through its one backward pass."""

    def __init__(self, ndf: int = 64, device: torch.device | str = "cpu") -> None:
        names = [f"{region}_{domain}" for region in ("liver", "tumor") for domain in "AB"]
        self.networks = nn.ModuleDict({name: patch_gan(1, ndf) for name in names}).to(device)
        self.optimizer = _adam(self.networks)
        self._shown: list[tuple[str, Tensor, Tensor]] = []

    def _generator_loss(self, batch: Batch, fake_B: Tensor, fake_A: Tensor, rec_A: Tensor, rec_B: Tensor) -> Tensor:
        _train(self.networks, learn=False)
        loss = fake_B.new_zeros(())
        of_A, of_B = (
            {name: mask.to(fake_B.device, non_blocking=True) for name, mask in masks.items()}
            for masks in (batch.masks_A, batch.masks_B)
        )
        pairs = (("B", fake_B, batch.real_B, of_A, of_B), ("A", fake_A, batch.real_A, of_B, of_A))
        for domain, fake, real, of_fake, of_real in pairs:
            for region in ("liver", "tumor"):
                seen = fake * of_fake[region]
                loss = loss + toward(self.networks[f"{region}_{domain}"](seen), 1.0)
                self._shown.append((f"{region}_{domain}", seen.detach(), real * of_real[region]))
        return loss

    def _discriminator_step(self) -> None:
        _train(self.networks, learn=True)
        self.optimizer.zero_grad()
        for name, fake, real in self._shown:
            network = self.networks[name]
            (0.5 * (toward(network(real), 1.0) + toward(network(fake), 0.0))).backward()
        self._shown.clear()
        self.optimizer.step()


def _adam(*networks: nn.Module) -> torch.optim.Adam:
    parameters = itertools.chain.from_iterable(network.parameters() for network in networks)
    return torch.optim.Adam(parameters, lr=2e-4, betas=(0.5, 0.999))


def _train(*networks: nn.Module, learn: bool) -> None:
    for network in networks:
        network.requires_grad_(learn)
