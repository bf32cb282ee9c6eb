"""A discriminator of one's own at work: three steps of the bank of discriminators in every region mode."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from ..config import ROI_MODES, Config
from ..method.bank import DiscriminatorBank
from ..method.regions import RegionMask
from .discriminator_trial import Failure, Trial

_N_STEPS = 3


def three_steps_in_the_bank(trial: Trial) -> None:
    """In each region mode: three steps with finite losses move every parameter, and none moves without the region."""
    for mode in ROI_MODES:
        region = dataclasses.replace(trial.region, roi_mode=mode, stage=1)
        torch.manual_seed(0)
        bank = DiscriminatorBank(Config(regions=(region,), ggd=None), {"A2B": trial.channels[0]}, trial.factory)
        _train(bank, trial, mode)


def _train(bank: DiscriminatorBank, trial: Trial, mode: str) -> None:
    (region,) = bank.config.regions
    side = trial.side_px + 16
    inside = torch.zeros(3, 1, side, side)
    inside[:2, :, side // 2 - 6 : side // 2 + 4, side // 2 - 4 : side // 2 + 4] = 1
    masks, empty = RegionMask.from_tensor(inside), RegionMask.from_tensor(inside * 0)
    before = _copy_of(bank)
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-3)
    for step in range(_N_STEPS):
        fake, real = trial.windows(3, height=side).requires_grad_(), trial.windows(3, height=side).flip(0)
        for what, lost in (
            ("generator's", bank.generator_loss("A2B", region.name, fake, masks)),
            ("discriminator's", bank.discriminator_loss("A2B", region.name, fake, masks, real, masks)),
        ):
            _backward(lost, f"a finite {what} loss in step {step + 1} with roi_mode = {mode!r}", bank)
        optimizer.step()
        if fake.grad is None or not torch.isfinite(fake.grad).all() or not fake.grad[:2].any() or fake.grad[2].any():
            raise Failure(
                f"a gradient on the images with the region and none on the one without, roi_mode = {mode!r}",
                "another",
                "a region's term may touch its region only",
            )
    still = [name for name, value in bank.named_parameters() if torch.equal(value, before[name])]
    if still:
        raise Failure(
            f"every parameter to have moved after {_N_STEPS} steps, roi_mode = {mode!r}",
            ", ".join(f"`{name.split('.scales.', 1)[-1]}` stood still" for name in still),
            "a part that never learns misleads whoever tunes it",
        )
    if bank.generator_loss("A2B", region.name, fake, empty) is not None:
        raise Failure("no loss for a batch without the region", "one", "no region must mean no change")


def _backward(loss: Tensor | None, expected: str, bank: nn.Module) -> None:
    if loss is None or not torch.isfinite(loss):
        raise Failure(expected, "none" if loss is None else str(float(loss)), "one NaN ends the host's training")
    bank.zero_grad()
    loss.backward()


def _copy_of(bank: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in bank.named_parameters()}
