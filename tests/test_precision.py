"""Mixed precision in a plain loop: our gradient carries the scaler's scale, and overflow steps are left out."""

from __future__ import annotations

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive import Config, GGDConfig, RegionConfig, attach
from roi_progressive.runtime.finite import finite, is_mixed

pytestmark = pytest.mark.usefixtures("one_thread")
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class _Overflow(torch.autograd.Function):
    """The identity, whose gradient is infinite while ``armed``."""

    armed = False

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return gradients[0] * (torch.inf if _Overflow.armed else 1.0)


class _Loop:
    """A script as torch's AMP recipe writes it: autocast around forward and loss, a GradScaler around the step."""

    def __init__(self, dtype: torch.dtype | None, scale: float = 2.0**10) -> None:
        if not hasattr(torch.amp, "GradScaler"):
            pytest.skip("torch before 2.3 scales no gradient on the CPU")
        torch.manual_seed(0)
        self.nets = {d: _generator() for d in ("A2B", "B2A")}
        parameters = itertools.chain(*(net.parameters() for net in self.nets.values()))
        self.optimizer = torch.optim.SGD(parameters, lr=1e-2)
        self.scaler = torch.amp.GradScaler("cpu", init_scale=scale, enabled=dtype is not None)
        self.dtype = dtype
        self.real_A, self.real_B = (torch.rand(2, 1, 32, 32) * 2 - 1 for _ in range(2))
        mask = torch.zeros(2, 1, 32, 32)
        mask[0, :, 8:18, 10:20] = 1
        self.masks = {"tumor": mask}
        small: dict[str, Any] = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "stage": 1}
        # Our term alone is large enough to see; the host's is left out of the images' gradient.
        tumour = RegionConfig("tumor", weight=100.0, **small)
        config = Config(regions=(tumour,), ggd=GGDConfig(hidden_channels=4), pool_size=4, balance=None)
        self.session = attach(self.nets, config=config, n_epochs=1)
        self.session.start_epoch(0)

    def step(self, *, broken: Tensor | None = None, ours_in_autocast: bool = True) -> dict[str, float]:
        """One step; the gradient of every generator's weights before the scaler's step, unscaled, stays on them."""
        with self._autocast():
            real_A = self.real_A if broken is None else broken
            fake_B, fake_A = self.nets["A2B"](real_A), self.nets["B2A"](self.real_B)
            rec_A, rec_B = self.nets["B2A"](fake_B), self.nets["A2B"](fake_A)
            forth = {"real_A": real_A, "fake_B": fake_B, "rec_A": rec_A, "masks_A": self.masks}
            back = {"real_B": self.real_B, "fake_A": fake_A, "rec_B": rec_B, "masks_B": self.masks}
            seen = _Overflow.apply(fake_B)
            loss = (rec_A - real_A).abs().mean() + (rec_B - self.real_B).abs().mean() + seen.float().square().mean()
        with self._autocast(ours_in_autocast):
            loss = loss + self.session.generator_loss(**forth, **back)
        self.optimizer.zero_grad()
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with self._autocast(ours_in_autocast):
            self.session.discriminator_step()
        return self.session.losses()

    def _autocast(self, wanted: bool = True) -> torch.autocast:
        return torch.autocast("cpu", dtype=self.dtype or torch.bfloat16, enabled=wanted and self.dtype is not None)

    def gradient(self) -> Tensor:
        return torch.cat(
            [p.grad.flatten() for net in self.nets.values() for p in net.parameters() if p.grad is not None]
        )

    def host_weights(self) -> dict[str, Any]:
        return copy.deepcopy({d: net.state_dict() for d, net in self.nets.items()})

    def our_weights(self) -> dict[str, Any]:
        return copy.deepcopy(self.session.state_dict()["guidance"]["learner"])


def _generator() -> nn.Sequential:
    first = (nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.InstanceNorm2d(4), nn.LeakyReLU(0.2))
    return nn.Sequential(*first, nn.Conv2d(4, 1, 3, padding=1), nn.Tanh())


@pytest.mark.parametrize("name", HALF)
def test_the_gradient_is_the_unscaled_one_of_single_precision(name: str) -> None:
    mixed, single = _Loop(HALF[name]), _Loop(None)
    losses, expected = mixed.step(), single.step()
    tolerance = 0.02 if name == "bf16" else 0.003
    assert losses == pytest.approx(expected, rel=tolerance)
    difference = torch.linalg.vector_norm(mixed.gradient() - single.gradient())
    assert difference <= tolerance * torch.linalg.vector_norm(single.gradient())


@pytest.mark.parametrize("name", HALF)
def test_our_terms_are_in_single_precision_inside_autocast_too(name: str, differing: Any) -> None:
    inside, outside = _Loop(HALF[name]), _Loop(HALF[name])
    for _ in range(2):
        assert inside.step() == outside.step(ours_in_autocast=False)
    assert differing(inside.our_weights(), outside.our_weights()) == []


@pytest.mark.parametrize("cause", ["gradient", "image", "scale"])
@pytest.mark.parametrize("name", HALF)
def test_an_overflow_leaves_the_step_out_and_the_next_one_is_right(
    name: str, cause: str, differing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cause == "scale" and name == "bf16":
        pytest.skip("bfloat16 has the range of float32: no scale overflows it")
    loop = _Loop(HALF[name])
    loop.step()
    host, ours = loop.host_weights(), loop.our_weights()
    steps = loop.session.state_dict()["steps"]
    with monkeypatch.context() as broken:
        broken.setattr(_Overflow, "armed", cause == "gradient")
        if cause == "scale":
            loop.scaler.update(2.0**40)
        image = torch.full_like(loop.real_A, torch.inf) if cause == "image" else None
        loop.step(broken=image)
    assert differing(loop.host_weights(), host) == []
    after = loop.our_weights()
    for part in ("bank", "bank_optimizer", "heads", "head_optimizers"):
        assert differing(after[part], ours[part]) == [], part
    assert loop.session.state_dict()["steps"] == steps
    assert finite(window for pool in after["pools"].values() for window in pool["pixels"])
    loop.scaler.update(2.0**10)
    losses = loop.step()
    assert all(abs(value) < float("inf") for value in losses.values()) and "D_tumor_A2B" in losses
    assert finite([loop.gradient()]) and differing(loop.host_weights(), host) != []
    assert differing(loop.our_weights()["bank"], ours["bank"]) != []


def test_half_precision_and_autocast_are_mixed_and_plain_tensors_are_not() -> None:
    image = torch.zeros(1)
    assert not is_mixed(image) and is_mixed(image.half()) and is_mixed(image.bfloat16())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert is_mixed(image)
