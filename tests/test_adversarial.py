"""Adversarial losses against torch's own, and the mean over a map of logits."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from roi_progressive.config import ADVERSARIAL_LOSSES, Config
from roi_progressive.errors import ConfigError
from roi_progressive.method.adversarial import reduce_logits

# A busy machine is no finding.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

LOGITS = torch.linspace(-60, 60, 241, dtype=torch.float64)


def close(ours: Tensor, reference: Tensor) -> None:
    torch.testing.assert_close(ours, reference, rtol=1e-12, atol=3e-9)  # torch's softplus is linear from 20 on


def test_least_squares_is_the_squared_distance_from_one_and_from_zero() -> None:
    loss = ADVERSARIAL_LOSSES["least_squares"]
    ones, zeros = torch.ones_like(LOGITS), torch.zeros_like(LOGITS)
    close(loss.generator(LOGITS), F.mse_loss(LOGITS, ones, reduction="none"))
    close(loss.real(LOGITS), F.mse_loss(LOGITS, ones, reduction="none"))
    close(loss.fake(LOGITS), F.mse_loss(LOGITS, zeros, reduction="none"))


def test_vanilla_is_the_cross_entropy_of_a_logit_with_the_non_saturating_generator() -> None:
    loss = ADVERSARIAL_LOSSES["vanilla"]
    ones, zeros = torch.ones_like(LOGITS), torch.zeros_like(LOGITS)
    close(loss.generator(LOGITS), F.binary_cross_entropy_with_logits(LOGITS, ones, reduction="none"))
    close(loss.real(LOGITS), F.binary_cross_entropy_with_logits(LOGITS, ones, reduction="none"))
    close(loss.fake(LOGITS), F.binary_cross_entropy_with_logits(LOGITS, zeros, reduction="none"))


def test_vanilla_stays_finite_where_a_logit_is_huge() -> None:
    loss = ADVERSARIAL_LOSSES["vanilla"]
    for logits in (torch.tensor([-1e4]), torch.tensor([1e4])):
        assert all(torch.isfinite(part(logits)).all() for part in (loss.generator, loss.real, loss.fake))


def test_hinge_is_torchs_hinge_embedding_loss_with_a_linear_generator() -> None:
    loss = ADVERSARIAL_LOSSES["hinge"]
    against = -torch.ones_like(LOGITS)  # torch's hinge for the label -1 is max(0, margin - x)
    close(loss.real(LOGITS), F.hinge_embedding_loss(LOGITS, against, margin=1.0, reduction="none"))
    close(loss.fake(LOGITS), F.hinge_embedding_loss(-LOGITS, against, margin=1.0, reduction="none"))
    close(loss.generator(LOGITS), -LOGITS)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_every_configurable_loss_pulls_each_player_its_way(name: str) -> None:
    loss = ADVERSARIAL_LOSSES[name]
    for part, direction in ((loss.generator, -1.0), (loss.real, -1.0), (loss.fake, 1.0)):
        logit = torch.tensor(0.5, requires_grad=True)
        (slope,) = torch.autograd.grad(part(logit), logit)
        assert math.copysign(1.0, slope.item()) == direction
        assert slope != 0


def test_an_unknown_loss_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^`adversarial` must be one of [^\n]+; got 'wasserstein'$"):
        Config(adversarial="wasserstein")


@UNHURRIED
@given(st.integers(0, 1000))
def test_the_weighted_mean_is_numpys(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 1, 4, 5, generator=generator, dtype=torch.float64)
    weights = torch.rand(3, 1, 4, 5, generator=generator, dtype=torch.float64)
    expected = [(row**2 * weight).sum() / weight.sum() for row, weight in zip(logits, weights, strict=True)]
    torch.testing.assert_close(reduce_logits(torch.square, logits, weights), torch.stack(expected))


def test_weights_only_count_relative_to_each_other() -> None:
    logits, weights = torch.randn(2, 1, 3, 3), torch.rand(2, 1, 3, 3)
    small = reduce_logits(torch.square, logits, weights * 1e-6)
    torch.testing.assert_close(small, reduce_logits(torch.square, logits, weights))


def test_without_weights_all_logits_count_alike() -> None:
    logits = torch.randn(2, 1, 3, 3)
    torch.testing.assert_close(reduce_logits(torch.square, logits, None), logits.square().mean(dim=(1, 2, 3)))


def test_a_logit_of_no_weight_does_not_count() -> None:
    logits = torch.tensor([[[[1.0, 1000.0]]]], requires_grad=True)
    loss = reduce_logits(torch.square, logits, torch.tensor([[[[0.5, 0.0]]]]))
    assert loss.tolist() == [1.0]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.flatten().tolist() == [2.0, 0.0]


def test_a_map_that_sees_no_region_gives_zero_and_not_nan() -> None:
    logits = torch.randn(1, 1, 2, 2, requires_grad=True)
    loss = reduce_logits(torch.square, logits, torch.zeros(1, 1, 2, 2))
    assert loss.tolist() == [0.0]
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_averaging_first_is_the_printed_formula_and_lets_opposite_errors_cancel() -> None:
    least_squares = ADVERSARIAL_LOSSES["least_squares"].generator
    logits = torch.tensor([[[[0.0, 2.0], [2.0, 0.0]]]])
    assert reduce_logits(least_squares, logits, None, mean_first=True).tolist() == [0.0]
    assert reduce_logits(least_squares, logits, None).tolist() == [1.0]
    several = torch.randn(4, 1, 3, 5)
    printed = (several.mean(dim=(1, 2, 3)) - 1) ** 2
    torch.testing.assert_close(reduce_logits(least_squares, several, torch.rand(4, 1, 3, 5), mean_first=True), printed)
