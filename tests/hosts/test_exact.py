"""With regions and uncertainty active, a real host's generators get the gradient of a loss edited by hand.

The reference is a second host in the same state, with our terms added to the loss the way one would who edits the
host's file; everything is in float64.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from roi_progressive import attach, ggd_nll
from roi_progressive.plugins.masks import masks_in_batch

TOLERANCE = 1e-10


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def _bare(net: nn.Module) -> nn.Module:
    return net.module if isinstance(net, nn.DataParallel) else net


class _LastConvolution:
    """What the last convolution of a generator read and gave, call by call; a host's generators end in it and tanh."""

    def __init__(self, generator: nn.Module) -> None:
        self.read: list[Tensor] = []
        last = [module for module in generator.modules() if isinstance(module, nn.Conv2d)][-1]
        self._handle = last.register_forward_pre_hook(lambda module, inputs: self.read.append(inputs[0]))

    def remove(self) -> None:
        self._handle.remove()


def _nll(head: nn.Module, features: Tensor, residual: Tensor, epsilon: float) -> Tensor:
    scale, shape = head(features)
    height, width = residual.shape[-2:]
    top, left = (scale.shape[-2] - height) // 2, (scale.shape[-1] - width) // 2
    rows, columns = slice(top, top + height), slice(left, left + width)
    return ggd_nll(residual, scale[..., rows, columns], shape[..., rows, columns], epsilon=epsilon)


class _Frozen:
    """The session's own networks as they stood before the step."""

    def __init__(self, session: Any) -> None:
        guidance = session._guidance
        self.bank = copy.deepcopy(guidance._learner.bank)
        self.heads = {direction: copy.deepcopy(wrapper.head) for direction, wrapper in guidance.heads().items()}
        self.config = session.config

    def regions(self, direction: str, fake: Tensor, masks: Any) -> Tensor:
        (region,) = self.config.regions
        loss = self.bank.generator_loss(direction, region.name, fake, masks[region.name])
        return fake.new_zeros(()) if loss is None else region.weight * loss

    def ggd(self, generator: str, features: Tensor, residual: Tensor) -> Tensor:
        return self.config.ggd.weight * _nll(self.heads[generator], features, residual, self.config.ggd.epsilon)


def _by_hand_cycle_gan(model: Any, masks: Any, ours: _Frozen) -> Tensor:
    opt, listen = model.opt, {"A2B": _LastConvolution(model.netG_A), "B2A": _LastConvolution(model.netG_B)}
    model.forward()
    model.set_requires_grad([model.netD_A, model.netD_B], False)
    model.optimizer_G.zero_grad()
    features = {"B2A": listen["B2A"].read[0], "A2B": listen["A2B"].read[1]}  # of the two reconstructions
    for listener in listen.values():
        listener.remove()
    share = opt.lambda_identity
    loss = model.criterionIdt(model.netG_A(model.real_B), model.real_B) * opt.lambda_B * share
    loss = loss + model.criterionIdt(model.netG_B(model.real_A), model.real_A) * opt.lambda_A * share
    loss = loss + model.criterionGAN(model.netD_A(model.fake_B), True)
    loss = loss + model.criterionGAN(model.netD_B(model.fake_A), True)
    loss = loss + model.criterionCycle(model.rec_A, model.real_A) * opt.lambda_A
    loss = loss + model.criterionCycle(model.rec_B, model.real_B) * opt.lambda_B
    loss = loss + ours.regions("A2B", model.fake_B, masks["A"]) + ours.regions("B2A", model.fake_A, masks["B"])
    loss = loss + ours.ggd("B2A", features["B2A"], model.rec_A - model.real_A)
    return loss + ours.ggd("A2B", features["A2B"], model.rec_B - model.real_B)


def _by_hand_pix2pix(model: Any, masks: Any, ours: _Frozen) -> Tensor:
    listener = _LastConvolution(model.netG)
    model.forward()
    listener.remove()
    model.set_requires_grad(model.netD, True)
    model.optimizer_D.zero_grad()
    model.backward_D()
    model.optimizer_D.step()
    model.set_requires_grad(model.netD, False)
    model.optimizer_G.zero_grad()
    loss = model.criterionGAN(model.netD(torch.cat((model.real_A, model.fake_B), 1)), True)
    loss = loss + model.criterionL1(model.fake_B, model.real_B) * model.opt.lambda_L1
    loss = loss + ours.regions("A2B", model.fake_B, masks["A"])
    return loss + ours.ggd("A2B", listener.read[0], model.fake_B - model.real_B)


def _by_hand_cut(model: Any, masks: Any, ours: _Frozen) -> Tensor:
    listener = _LastConvolution(_bare(model.netG))
    model.forward()
    listener.remove()
    model.set_requires_grad(model.netD, True)
    model.optimizer_D.zero_grad()
    model.compute_D_loss().backward()
    model.optimizer_D.step()
    model.set_requires_grad(model.netD, False)
    model.optimizer_G.zero_grad()
    mirrored = model.opt.flip_equivariance and model.flipped_for_equivariance
    n, target = len(model.real_A), torch.flip(model.real_B, [3]) if mirrored else model.real_B
    # A mirrored mask by other means than the adapter's: its pixels are turned round, its box measured anew.
    seen = {k: type(m).from_tensor(torch.flip(m.mask, [3])) if mirrored else m for k, m in masks["A"].items()}
    loss = model.compute_G_loss() + ours.regions("A2B", model.fake_B, seen)
    if model.opt.nce_idt:
        return loss + ours.ggd("A2B", listener.read[0][n:], model.idt_B - target)
    return loss + ours.ggd("A2B", listener.read[0][:n], model.fake_B - target)


BY_HAND: dict[str, Callable[[Any, Any, _Frozen], Tensor]] = {
    "classic cycle_gan": _by_hand_cycle_gan,
    "DDP cycle_gan": _by_hand_cycle_gan,
    "classic pix2pix": _by_hand_pix2pix,
    "DDP pix2pix": _by_hand_pix2pix,
    "CUT": _by_hand_cut,
    "FastCUT": _by_hand_cut,
}


@contextmanager
def _streams_kept() -> Iterator[None]:
    before = random.getstate(), np.random.get_state(), torch.get_rng_state()
    yield
    random.setstate(before[0])
    np.random.set_state(before[1])
    torch.set_rng_state(before[2])


def _gradients(model: Any) -> list[Tensor]:
    generators = [name for name in model.model_names if name.startswith("G")]
    return [p.grad.clone() for name in generators for p in getattr(model, f"net{name}").parameters()]


def _become(twin: Any, model: Any) -> None:
    for name in model.model_names:
        getattr(twin, f"net{name}").load_state_dict(getattr(model, f"net{name}").state_dict())
    for mine, theirs in zip(twin.optimizers, model.optimizers, strict=True):
        mine.load_state_dict(copy.deepcopy(theirs.state_dict()))


@pytest.mark.parametrize("kind", BY_HAND)
def test_the_gradient_is_that_of_the_loss_edited_by_hand(
    kind: str, open_host: Any, guided: Any, seed: Any, tmp_path: Any
) -> None:
    host, twin = (open_host(kind, out=tmp_path / name) for name in ("guided", "by hand"))
    model = host.model
    seed(3)
    with attach(model, host.loader, guided(kind)) as session:
        session.start_epoch(1)
        batches = [batch for _ in range(4) for batch in host.loader]
        for one in (twin, host):
            one.step(batches[0])  # our networks are built, CUT is set up
        worst, felt, mirrored = 0.0, 0.0, set()
        for batch in batches[1:4]:
            ours = _Frozen(session)
            _become(twin.model, model)
            with _streams_kept():
                twin.model.set_input(batch)
                BY_HAND[kind](twin.model, masks_in_batch(batch, session.config.regions, "cpu"), ours).backward()
                expected = _gradients(twin.model)
                mirrored.add(bool(getattr(twin.model, "flipped_for_equivariance", False)))
            with _streams_kept():  # what the host alone would have had
                _become(twin.model, model)
                twin.step(batch)
                alone = _gradients(twin.model)
            host.step(batch)
            found = _gradients(model)
            assert found[0].dtype == torch.float64
            norm = max(gradient.abs().max().item() for gradient in expected)
            pairs = zip(found, expected, strict=True)
            worst = max(worst, *((a - b).abs().max().item() / norm for a, b in pairs))
            felt = max(felt, *((a - b).abs().max().item() / norm for a, b in zip(found, alone, strict=True)))
    print(f"{kind}: {worst:.1e} of the largest gradient; our part {felt:.1e}")
    assert worst <= TOLERANCE
    assert felt > 1e-4, "otherwise the test would hold without us"
    assert kind != "FastCUT" or mirrored == {False, True}, "both ways must have come up; take another seed"
