"""The generalized-Gaussian loss against scipy and autograd, and the head that predicts its two maps."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import gennorm
from torch import Tensor

from roi_progressive.errors import ConfigError, ShapeError
from roi_progressive.method.ggd import MAX_SCALE, POWER_LOG_CAP, GGDHead, ggd_nll, ggd_variance

SCALES = st.floats(-6, 3).map(lambda exponent: 10.0**exponent)
SHAPES = st.floats(0.1, 20)
RESIDUALS = st.tuples(st.sampled_from((-1.0, 1.0)), st.floats(-8.9, 4)).map(lambda r: r[0] * 10.0 ** r[1])

# Corners of the promised box, with points inside and on both sides of the floor.
BOX_RESIDUALS = (0.0, 1e-12, -1e-9, 1e-5, 1.0, -1e4)
BOX_SCALES = (1e-6, 1e-3, 1.0, 1e3)
BOX_SHAPES = (0.1, 0.5, 1.0, 2.0, 8.0, 20.0)


def box(dtype: torch.dtype) -> list[Tensor]:
    rows = torch.tensor(list(itertools.product(BOX_RESIDUALS, BOX_SCALES, BOX_SHAPES)), dtype=torch.float64)
    return [column.to(dtype).requires_grad_() for column in rows.T]


def doubles(*values: float) -> list[Tensor]:
    return [torch.tensor([value], dtype=torch.float64, requires_grad=True) for value in values]


def random_maps(shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    residual = torch.randn(shape, generator=generator, dtype=torch.float64)
    scale = torch.rand(shape, generator=generator, dtype=torch.float64) + 0.1
    beta = 4 * torch.rand(shape, generator=generator, dtype=torch.float64) + 0.3
    return [tensor.to(dtype).requires_grad_() for tensor in (residual, scale, beta)]


def printed_formula(residual: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """Eq. 1 letter by letter, for autograd."""
    return (residual.abs() / scale) ** shape - torch.log(shape / scale) + torch.lgamma(1 / shape)


def formula_in_circulation(residual: Tensor, scale: Tensor, shape: Tensor) -> Tensor:
    """The published code's loss: a product where the likelihood has a power."""
    return residual.abs() * (1 / scale) * shape - torch.log(shape / scale) + torch.lgamma(1 / shape)


@settings(max_examples=300, deadline=None)
@given(residual=RESIDUALS, scale=SCALES, shape=SHAPES)
def test_loss_is_the_negative_log_likelihood_of_scipy_less_log_two(residual: float, scale: float, shape: float) -> None:
    assume(shape * math.log(abs(residual) / scale) < POWER_LOG_CAP)
    reference = -gennorm.logpdf(residual, shape, scale=scale) - math.log(2)
    loss = ggd_nll(*doubles(residual, scale, shape)).item()
    assert abs(loss - reference) <= 1e-10 * max(1.0, abs(reference))


@settings(max_examples=300, deadline=None)
@given(residual=RESIDUALS, scale=SCALES, shape=SHAPES)
def test_gradients_are_those_of_autograd_on_the_printed_formula(residual: float, scale: float, shape: float) -> None:
    assume(shape * math.log(abs(residual) / scale) < POWER_LOG_CAP)
    ours, theirs = doubles(residual, scale, shape), doubles(residual, scale, shape)
    ggd_nll(*ours, reduction="sum").backward()
    printed_formula(*theirs).sum().backward()
    # Each gradient is a difference of two terms: the larger one sets the accuracy either way can have.
    power = (abs(residual) / scale) ** shape
    sizes = (shape * power / abs(residual), (1 + shape * power) / scale, (1 + power) * 25 + 10 / shape**2)
    for mine, reference, size in zip(ours, theirs, sizes, strict=True):
        assert mine.grad is not None and reference.grad is not None
        assert abs(mine.grad - reference.grad).item() <= 1e-11 * size


def test_gradients_pass_gradcheck_in_float64() -> None:
    for reduction in ("mean", "sum", "none"):
        maps = random_maps((2, 1, 3, 4))
        assert torch.autograd.gradcheck(lambda *x, r=reduction: ggd_nll(*x, reduction=r), maps)


def test_gradients_of_broadcast_inputs_are_summed_back() -> None:
    residual, scale, shape = random_maps((2, 3, 4, 5))
    shapes = ((2, 3, 4, 5), (3, 1, 1), (2, 1, 4, 5)), ((4, 5), (2, 3, 4, 5), ()), ((1,), (2, 1, 1, 1), (3, 4, 5))
    for sizes in shapes:
        pairs = zip((residual, scale, shape), sizes, strict=True)
        ours = [x.detach().flatten()[: math.prod(n)].reshape(n).clone().requires_grad_() for x, n in pairs]
        theirs = [x.detach().clone().requires_grad_() for x in ours]
        loss = ggd_nll(*ours)
        loss.backward()
        reference = printed_formula(*theirs).mean()
        reference.backward()
        torch.testing.assert_close(loss, reference, rtol=1e-12, atol=0)
        for mine, other in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine.grad, other.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("autocast", [False, True])
def test_value_and_gradients_are_finite_over_the_whole_box(dtype: torch.dtype, reduction: str, autocast: bool) -> None:
    maps = box(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        loss = ggd_nll(*maps, reduction=reduction)
        loss.sum().backward()
    assert torch.isfinite(loss).all()
    for tensor in maps:
        assert tensor.grad is not None and tensor.grad.dtype == dtype and torch.isfinite(tensor.grad).all()


def test_the_worst_parameter_gradient_can_be_squared_in_float32() -> None:
    # Adam's second moment would otherwise become infinite, and the parameter would never move again.
    logs = torch.tensor([math.log(1e-6), math.log(20.0)], requires_grad=True)
    ggd_nll(torch.tensor(1e4), logs[0].exp(), logs[1].exp()).backward()
    assert logs.grad is not None and torch.isfinite(logs.grad.square()).all() and logs.grad[0] < -1e15


def test_exactly_zero_residuals_without_epsilon_stay_finite() -> None:
    for dtype in (torch.float32, torch.float64):
        maps = box(dtype)
        loss = ggd_nll(*maps, reduction="sum", epsilon=0.0)
        loss.backward()
        assert torch.isfinite(loss) and all(torch.isfinite(x.grad).all() for x in maps if x.grad is not None)


def test_under_the_floor_the_loss_is_flat_in_the_residual() -> None:
    for residual in (0.0, 5e-4, -9e-4):
        maps = doubles(residual, 0.01, 0.5)
        loss = ggd_nll(*maps, epsilon=1e-3)
        loss.backward()
        assert loss.item() == ggd_nll(*doubles(1e-3, 0.01, 0.5)).item()
        assert maps[0].grad is not None and maps[0].grad.item() == 0.0


def test_past_the_cap_the_loss_goes_on_in_a_straight_line_of_log_residual() -> None:
    scale, shape = 0.01, 8.0

    def loss_and_slope(log_power: float) -> tuple[float, float]:
        maps = doubles(scale * math.exp(log_power / shape), scale, shape)
        loss = ggd_nll(*maps)
        loss.backward()
        assert maps[0].grad is not None
        return loss.item(), maps[0].grad.item() * maps[0].item()

    below, slope_below = loss_and_slope(POWER_LOG_CAP - 1e-9)
    above, slope_above = loss_and_slope(POWER_LOG_CAP + 1e-9)
    assert above == pytest.approx(below, rel=1e-8) and slope_above == pytest.approx(slope_below, rel=1e-8)
    far, slope_far = loss_and_slope(POWER_LOG_CAP + 5)
    assert slope_far == pytest.approx(slope_above, rel=1e-8)
    assert far - above == pytest.approx(5 * slope_above / shape, rel=1e-8)


def test_reductions_agree_with_each_other() -> None:
    maps = random_maps((2, 1, 8, 8))
    per_pixel = ggd_nll(*maps, reduction="none")
    assert per_pixel.shape == (2, 1, 8, 8)
    torch.testing.assert_close(ggd_nll(*maps), per_pixel.mean(), rtol=1e-14, atol=0)
    torch.testing.assert_close(ggd_nll(*maps, reduction="sum"), per_pixel.sum(), rtol=1e-14, atol=0)


def test_nothing_but_the_three_inputs_is_kept_for_the_backward_pass() -> None:
    for reduction in ("mean", "sum", "none"):
        maps = random_maps((2, 1, 8, 8), torch.float32)
        kept: list[int] = []

        def keep(tensor: Tensor, into: list[int] = kept) -> Tensor:
            into.append(tensor.data_ptr())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            ggd_nll(*maps, reduction=reduction)
        assert sorted(kept) == sorted(x.data_ptr() for x in maps)


def test_inputs_are_left_as_they_were_and_a_graph_can_be_used_twice() -> None:
    maps = random_maps((2, 1, 8, 8))
    before = [x.detach().clone() for x in maps]
    loss = ggd_nll(*maps)
    first = torch.autograd.grad(loss, maps, retain_graph=True)
    second = torch.autograd.grad(loss, maps)
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_only_the_gradients_asked_for_are_computed() -> None:
    full = torch.autograd.grad(ggd_nll(*(maps := random_maps((2, 1, 8, 8)))), maps)
    for wanted in itertools.product((False, True), repeat=3):
        inputs = [x.detach().requires_grad_(flag) for x, flag in zip(maps, wanted, strict=True)]
        loss = ggd_nll(*inputs)
        assert loss.requires_grad == any(wanted)
        if any(wanted):
            loss.backward()
        for x, reference in zip(inputs, full, strict=True):
            assert x.grad is None if not x.requires_grad else torch.equal(x.grad, reference)


def test_a_second_derivative_is_refused() -> None:
    maps = random_maps((4,))
    weight = torch.ones((), dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(weight * ggd_nll(*maps), maps[:1], create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_inputs_are_computed_in_float32(dtype: torch.dtype) -> None:
    halves = random_maps((2, 1, 8, 8), dtype)
    floats = [x.detach().float().requires_grad_() for x in halves]
    loss, reference = ggd_nll(*halves), ggd_nll(*floats)
    assert loss.dtype == torch.float32 and loss.item() == reference.item()
    loss.backward()
    reference.backward()
    for half, exact in zip(halves, floats, strict=True):
        assert half.grad is not None and exact.grad is not None
        assert torch.equal(half.grad, exact.grad.to(dtype))


def test_mixed_types_compute_in_the_widest_and_return_gradients_in_their_own() -> None:
    residual, scale, shape = random_maps((4,))
    maps = [residual, scale.detach().float().requires_grad_(), shape.detach().bfloat16().requires_grad_()]
    loss = ggd_nll(*maps)
    loss.backward()
    assert loss.dtype == torch.float64
    assert [x.grad.dtype for x in maps if x.grad is not None] == [torch.float64, torch.float32, torch.bfloat16]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_cuda_gives_what_the_cpu_gives_and_stays_finite_under_autocast(dtype: torch.dtype) -> None:
    maps = random_maps((2, 1, 8, 8))
    moved = [x.detach().cuda().requires_grad_() for x in maps]
    reference = torch.autograd.grad(ggd_nll(*maps), maps)
    for mine, theirs in zip(torch.autograd.grad(ggd_nll(*moved), moved), reference, strict=True):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-9, atol=1e-12)
    corners = [x.detach().cuda().requires_grad_() for x in box(dtype)]
    with torch.autocast("cuda", dtype=dtype):
        loss = ggd_nll(*corners)
        gradients = torch.autograd.grad(loss, corners)
    assert torch.isfinite(loss) and all(torch.isfinite(g).all() for g in gradients)


def test_wrong_inputs_are_named_in_one_line() -> None:
    good = torch.ones(2, 3)
    wrong: tuple[tuple[type[Exception], str, Callable[[], Tensor]], ...] = (
        (ShapeError, "`reduction`.*'avg'", lambda: ggd_nll(good, good, good, reduction="avg")),
        (ShapeError, "`scale`.*torch.int64", lambda: ggd_nll(good, good.long(), good)),
        (ShapeError, "`shape`.*float", lambda: ggd_nll(good, good, 2.0)),  # type: ignore[arg-type]
        (ShapeError, r"broadcast.*\[2, 3\], \[2, 3\], \[4, 3\]", lambda: ggd_nll(good, good, torch.ones(4, 3))),
        (ShapeError, r"broadcast.*\[2, 3\], \[2\]", lambda: ggd_variance(good, torch.ones(2))),
        (ShapeError, "`scale`.*complex", lambda: ggd_variance(good.to(torch.complex64), good)),
        (ConfigError, "`epsilon`.*-1", lambda: ggd_nll(good, good, good, epsilon=-1.0)),
        (ConfigError, "`epsilon`.*nan", lambda: ggd_nll(good, good, good, epsilon=math.nan)),
    )
    for error, message, call in wrong:
        with pytest.raises(error, match=message) as caught:
            call()
        assert "\n" not in str(caught.value)


@settings(max_examples=100, deadline=None)
@given(scale=SCALES, shape=SHAPES)
def test_variance_is_that_of_scipy(scale: float, shape: float) -> None:
    alpha, beta = doubles(scale, shape)
    reference = float(gennorm.var(shape, scale=scale))
    assert ggd_variance(alpha, beta).item() == pytest.approx(reference, rel=1e-11)
    assert ggd_variance(alpha, beta, log=True).item() == pytest.approx(math.log(reference), rel=1e-11, abs=1e-11)


def test_variance_knows_the_textbook_cases_and_is_differentiable() -> None:
    sigma = torch.tensor([0.1, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(ggd_variance(sigma * math.sqrt(2), torch.full_like(sigma, 2.0)), sigma**2)
    torch.testing.assert_close(ggd_variance(sigma, torch.ones_like(sigma)), 2 * sigma**2)
    assert torch.autograd.gradcheck(ggd_variance, random_maps((5,))[1:])
    corners = [x.detach() for x in box(torch.float32)[1:]]
    assert torch.isfinite(ggd_variance(*corners)).all()
    assert ggd_variance(*[x.half() for x in corners], log=True).dtype == torch.float32


def fitted_shape(loss_of: Callable[[Tensor, Tensor, Tensor], Tensor], true_shape: float) -> float:
    """The β that a loss likes best, with its own best α, on a perfect sample of a known distribution."""
    quantiles = (np.arange(8000) + 0.5) / 8000
    residual = torch.from_numpy(gennorm.ppf(quantiles, true_shape, scale=0.3))
    logs = torch.tensor([math.log(0.1), math.log(1.4)], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logs], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = loss_of(residual, logs[0].exp(), logs[1].exp()).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    return math.exp(logs[1].item())


@pytest.mark.parametrize("true_shape", [2.0, 1.0, 0.5])
def test_the_loss_recovers_gaussian_laplace_and_heavier_tails(true_shape: float) -> None:
    assert fitted_shape(lambda *x: ggd_nll(*x, reduction="none"), true_shape) == pytest.approx(true_shape, rel=0.05)


@pytest.mark.parametrize("true_shape", [2.0, 1.0, 0.5])
def test_the_formula_in_circulation_finds_the_same_shape_whatever_the_data(true_shape: float) -> None:
    # With m = mean |r| its best scale is α = βm, which leaves 1 + log m + log Γ(1/β): the data are gone from β's
    # part, which is least where digamma(1/β) = 0, at 1/β = 1.46163.
    assert fitted_shape(formula_in_circulation, true_shape) == pytest.approx(1 / 1.4616321449683623, rel=1e-3)


@pytest.mark.parametrize("hidden_channels", [0, 32])
def test_a_fresh_head_predicts_a_quarter_and_two_everywhere(hidden_channels: int) -> None:
    head = GGDHead(6, 3, hidden_channels=hidden_channels)
    scale, shape = head(torch.randn(2, 6, 5, 7) * 100)
    assert scale.shape == shape.shape == (2, 3, 5, 7)
    torch.testing.assert_close(scale, torch.full_like(scale, 0.25))
    torch.testing.assert_close(shape, torch.full_like(shape, 2.0))


def test_a_fresh_head_starts_inside_unusual_bounds() -> None:
    for min_scale, shape_range in ((1.0, (0.5, 1.0)), (1e-6, (3.0, 20.0)), (0.25, (1.9, 2.1))):
        scale, shape = GGDHead(2, min_scale=min_scale, shape_range=shape_range)(torch.zeros(1, 2, 1, 1))
        assert 1.5 * min_scale < scale.item() < 3
        assert shape_range[0] < shape.item() < shape_range[1]


@pytest.mark.parametrize("hidden_channels", [0, 8])
def test_every_parameter_of_the_head_learns(hidden_channels: int) -> None:
    torch.manual_seed(0)
    head = GGDHead(4, hidden_channels=hidden_channels)
    optimizer = torch.optim.Adam(head.parameters(), lr=3e-2)
    features = torch.randn(2, 4, 8, 8)
    residual = 0.02 * torch.randn(2, 1, 8, 8)
    losses = []
    for _ in range(60):
        optimizer.zero_grad()
        loss = ggd_nll(residual, *head(features))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name
    assert losses[-1] < losses[0] - 1


@pytest.mark.parametrize("size", [1.0, 1e3, 1e5, 1e12, 1e30])
def test_the_maps_keep_their_ranges_for_any_features(size: float) -> None:
    torch.manual_seed(0)
    head = GGDHead(4, hidden_channels=0, min_scale=1e-2, shape_range=(0.3, 7.0))
    torch.nn.init.normal_(head.scale.weight)
    torch.nn.init.normal_(head.shape.weight)
    features = (size * torch.randn(2, 4, 16, 16)).requires_grad_()
    scale, shape = head(features)
    assert scale.min() >= 1e-2 * (1 - 1e-6) and scale.max() <= MAX_SCALE * (1 + 1e-4)
    assert shape.min() >= 0.3 * (1 - 1e-6) and shape.max() <= 7.0 * (1 + 1e-6)
    ggd_nll(torch.ones(2, 1, 16, 16), scale, shape).backward()
    assert features.grad is not None and torch.isfinite(features.grad).all()


@pytest.mark.parametrize("logit", [-1e5, -30.0, 30.0, 1e5])
def test_a_head_thrown_far_off_is_still_pulled_back(logit: float) -> None:
    head = GGDHead(1, hidden_channels=0)
    for convolution in (head.scale, head.shape):
        assert convolution.bias is not None
        torch.nn.init.constant_(convolution.bias, logit)
    residual = torch.tensor([0.05, -0.2, 0.4, -0.1]).reshape(1, 1, 2, 2)
    scale, shape = head(torch.zeros(1, 1, 2, 2))
    (ggd_nll(residual, scale, torch.full_like(shape, 2.0)) + (shape * math.copysign(1.0, logit)).sum()).backward()
    for convolution in (head.scale, head.shape):
        assert convolution.bias is not None and convolution.bias.grad is not None
        assert convolution.bias.grad.item() * math.copysign(1.0, logit) > 0


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bounds", [(1e-3, (0.2, 8.0)), (1e-6, (0.1, 20.0)), (1.0, (1.0, 2.0))])
def test_maps_and_their_gradients_are_those_of_autograd_on_the_plain_formula(
    bounds: tuple[float, tuple[float, float]], channels: int
) -> None:
    min_scale, (low, high) = bounds
    head = GGDHead(3, min_scale=min_scale, shape_range=(low, high)).double()
    ours = (torch.randn(4, 2 * channels, 5, 6, dtype=torch.float64) * 3).requires_grad_()
    plain = ours.detach().clone().requires_grad_()

    def bounded(logits: Tensor, width: float) -> Tensor:
        return torch.sigmoid(torch.asinh(logits * (4 / width))) * width

    scale = min_scale * bounded(plain[:, :channels], math.log(MAX_SCALE / min_scale)).exp()
    expected = torch.cat([scale, low + bounded(plain[:, channels:], high - low)], dim=1)
    maps = head.bounded(ours)
    torch.testing.assert_close(maps, expected, rtol=1e-13, atol=0)
    upstream = torch.randn_like(maps)
    found, reference = (torch.autograd.grad((m * upstream).sum(), x)[0] for m, x in ((maps, ours), (expected, plain)))
    torch.testing.assert_close(found, reference, rtol=1e-11, atol=1e-15)


def test_the_head_gives_float32_maps_under_autocast_and_float64_ones_in_float64() -> None:
    head = GGDHead(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = head(torch.randn(1, 4, 8, 8))
    assert [x.dtype for x in maps] == [torch.float32] * 2
    assert [x.dtype for x in head.double()(torch.randn(1, 4, 8, 8).double())] == [torch.float64] * 2


def test_wrong_head_arguments_are_named() -> None:
    for arguments, name in (
        ({"in_channels": 0}, "in_channels"),
        ({"in_channels": 4, "out_channels": True}, "out_channels"),
        ({"in_channels": 4, "hidden_channels": -1}, "hidden_channels"),
        ({"in_channels": 4, "min_scale": 0.0}, "min_scale"),
        ({"in_channels": 4, "shape_range": (2.0, 1.0)}, "shape_range"),
    ):
        with pytest.raises(ConfigError, match=name):
            GGDHead(**arguments)  # type: ignore[arg-type]
    for features in (torch.zeros(1, 3, 8, 8), torch.zeros(4, 8, 8)):
        with pytest.raises(ShapeError, match="features"):
            GGDHead(4)(features)
