"""The generalized-Gaussian loss of the paper's eq. 1, its variance map, and the head that predicts both maps.

The loss is a hand-written autograd function that keeps only its inputs and recomputes the rest in the backward
pass: two logarithms and an exponential more, for under half of the memory that autograd would take.
"""

from __future__ import annotations

import math
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from .. import setting_checks as check
from ..config import GGDConfig
from ..errors import ConfigError, ShapeError
from ..runtime.tracing import is_tracing

#: Past ``(|r|/α)^β = exp(POWER_LOG_CAP)``, about 4e15, the loss grows linearly in ``log(|r|/α)``. Low enough
#: that squares of the parameters' gradients, which Adam and norm clipping form, stay finite in float32.
POWER_LOG_CAP = 36.0
#: Upper bound of the head's scale map: the loss is promised to be finite up to here.
MAX_SCALE = 1e3
INITIAL_SCALE, INITIAL_SHAPE = 0.25, 2.0

_REDUCTIONS = ("mean", "sum", "none")
# B_2k / 2k for k = 1, 2, ...: the tail of digamma's asymptotic series.
_DIGAMMA_SERIES = (1 / 12, -1 / 120, 1 / 252, -1 / 240, 1 / 132, -691 / 32760, 1 / 12)
# B_2k / (2k (2k - 1)): the tail of Stirling's series for log-gamma.
_LOG_GAMMA_SERIES = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)


def ggd_nll(
    residual: Tensor, scale: Tensor, shape: Tensor, *, reduction: str = "mean", epsilon: float = 1e-9
) -> Tensor:
    """Generalized-Gaussian loss of the paper's eq. 1: ``(|r|/α)^β − log(β/α) + log Γ(1/β)``.

    This is the exact negative log-likelihood of a zero-mean generalized Gaussian less the constant ``log 2``
    (``-scipy.stats.gennorm.logpdf(r, β, scale=α) - log 2``), with closed-form gradients for all three inputs (no
    double backward). Value and gradient are finite for α in [1e-6, 1e3], β in [0.1, 20] and |r| in [0, 1e4]; past
    ``POWER_LOG_CAP`` the power goes on linearly in log |r|. Values are not checked, as that would stall a GPU.

    Args:
        residual: Predicted minus true image, any shape.
        scale: α > 0, in the residual's units, broadcastable with ``residual``.
        shape: β > 0, broadcastable with ``residual`` (2 is Gaussian, 1 Laplace).
        reduction: ``mean`` or ``sum`` over all pixels, or ``none``.
        epsilon: Floor of |r|, under which the residual's gradient is zero; keep it far below the smallest scale.
            Without it the gradient is infinite at r = 0 for β < 1.

    Returns:
        A scalar, or for ``none`` the loss per pixel in the broadcast shape. Half-precision inputs are computed in,
        and give, float32, under autocast as well; their gradients come back in their own type.

    Raises:
        ShapeError: An input is no floating-point tensor, shapes do not broadcast, or the reduction is unknown.
        ConfigError: ``epsilon`` is negative or not finite.

    Example:
        >>> from scipy.stats import gennorm
        >>> residual = torch.tensor([0.5, -0.1], dtype=torch.float64)
        >>> loss = ggd_nll(residual, torch.full_like(residual, 0.25), torch.full_like(residual, 1.5), reduction="none")
        >>> expected = -gennorm.logpdf(residual.numpy(), 1.5, scale=0.25) - math.log(2)
        >>> bool(torch.allclose(loss, torch.from_numpy(expected), rtol=1e-12))
        True
    """
    if reduction not in _REDUCTIONS:
        raise ShapeError(f"`reduction` must be one of {', '.join(_REDUCTIONS)}; got {reduction!r}; choose one of them")
    if not 0.0 <= epsilon < math.inf:
        raise ConfigError(f"`epsilon` must be a finite number of at least 0; got {epsilon!r}; the default is 1e-9")
    inputs = _broadcast(residual=residual, scale=scale, shape=shape)
    loss: Tensor = _GGDNegativeLogLikelihood.apply(*inputs, epsilon)
    if reduction == "none":
        return loss
    total = loss.sum()
    return total / loss.numel() if reduction == "mean" else total  # mean()'s own backward fills a whole tensor


def ggd_variance(scale: Tensor, shape: Tensor, *, log: bool = False) -> Tensor:
    """Variance of the generalized Gaussian, ``σ² = α² Γ(3/β) / Γ(1/β)``, by a difference of log-gammas.

    Args:
        scale: α > 0, any shape.
        shape: β > 0, broadcastable with ``scale``.
        log: Give ``log σ²``, which stays finite where σ² leaves float32 (β under 0.1).

    Returns:
        σ² in squared units of ``scale``, or ``log σ²``; float32 for half-precision inputs. Differentiable.

    Raises:
        ShapeError: An input is no floating-point tensor, or shapes do not broadcast.

    Example:
        >>> ggd_variance(torch.tensor([1.0]), torch.tensor([2.0]))  # a Gaussian: half of alpha squared
        tensor([0.5000])
    """
    alpha, beta = _widened(*_broadcast(scale=scale, shape=shape))
    inverse = beta.reciprocal()
    # Γ(3x)/Γ(x) = Γ(1+3x) / 3Γ(1+x): both log-gammas stay small for large β, where Γ(x) nears its pole.
    # A traced program may become one of ONNX, which has no log-gamma.
    log_gamma = _log_gamma_above_one if is_tracing() else torch.lgamma
    log_variance = 2 * alpha.log() + log_gamma(1 + 3 * inverse) - log_gamma(1 + inverse) - math.log(3)
    return log_variance if log else log_variance.exp()


class GGDHead(nn.Module):
    """Predicts the scale map α and the shape map β of the generalized Gaussian from a feature map.

    Both are bounded by a sigmoid with algebraic tails, whose gradient does not die: log α in [log ``min_scale``,
    log 1000], β in ``shape_range``. The last weights start at zero, so that α = 0.25 and β = 2 everywhere (or the
    nearest values well inside the bounds) and the first gradients leave the features alone.

    Args:
        in_channels: Channels of the features.
        out_channels: Channels of either map, those of the image.
        hidden_channels: Width of a 3x3 convolution with LeakyReLU before the two 1x1 convolutions; 0 for none, as in
            the paper's own generator.
        min_scale: Floor of α, in the image's units, between 1e-6 and 1.
        shape_range: Bounds of β, rising, within 0.1 and 20.

    Raises:
        ConfigError: An argument is out of its range.

    Example:
        >>> head = GGDHead(in_channels=8)
        >>> scale, shape = head(torch.zeros(1, 8, 16, 16))
        >>> round(scale.mean().item(), 3), round(shape.mean().item(), 3)
        (0.25, 2.0)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int = 1,
        *,
        hidden_channels: int = 32,
        min_scale: float = 1e-3,
        shape_range: tuple[float, float] = (0.2, 8.0),
    ) -> None:
        super().__init__()
        counts = {"in_channels": in_channels, "out_channels": out_channels, "hidden_channels": hidden_channels}
        for name, count in counts.items():
            check.whole("", name, count, low=0 if name == "hidden_channels" else 1)
        GGDConfig(min_scale=min_scale, shape_range=shape_range, epsilon=0.0)  # checks the bounds of both
        self.in_channels, self.min_scale, self.shape_range = in_channels, min_scale, shape_range
        self.trunk: nn.Module = nn.Identity()
        if hidden_channels:
            # In place: at the image's full size, what the convolution made is not kept a second time.
            activation = nn.LeakyReLU(0.2, inplace=True)
            self.trunk = nn.Sequential(nn.Conv2d(in_channels, hidden_channels, 3, padding=1), activation)
        self.scale = nn.Conv2d(hidden_channels or in_channels, out_channels, 1)
        self.shape = nn.Conv2d(hidden_channels or in_channels, out_channels, 1)
        _start_at(self.scale, math.log(INITIAL_SCALE / min_scale), math.log(MAX_SCALE / min_scale))
        _start_at(self.shape, INITIAL_SHAPE - shape_range[0], shape_range[1] - shape_range[0])

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the two maps.

        Args:
            features: [N, in_channels, h, w], any finite values.

        Returns:
            α and β, each [N, out_channels, h, w], in float32 or wider also under autocast.

        Raises:
            ShapeError: The features have another shape.
        """
        scale, shape = self.bounded(self.logits(features)).chunk(2, dim=1)
        return scale, shape

    def logits(self, features: Tensor) -> Tensor:
        """What both maps are before they are bounded: ``[N, 2 * out_channels, h, w]``, those of the scale first.

        Raises:
            ShapeError: The features have another shape.
        """
        if features.dim() != 4 or features.shape[1] != self.in_channels:
            raise ShapeError(
                f"`features` must be [N, {self.in_channels}, h, w]; got {list(features.shape)}; "
                f"build the head with in_channels = the features' channels"
            )
        hidden = self.trunk(features)
        assert self.scale.bias is not None and self.shape.bias is not None
        weight = torch.cat([self.scale.weight, self.shape.weight])  # read once, the features make both maps
        (logits,) = _widened(functional.conv2d(hidden, weight, torch.cat([self.scale.bias, self.shape.bias])))
        return logits

    def bounded(self, logits: Tensor) -> Tensor:
        """Maps from logits, of one head or of several with the same bounds.

        Args:
            logits: As ``logits`` gives them, any number of samples.

        Returns:
            α, then β, of the same shape.
        """
        # Tracing cannot look into an autograd function; its forward alone is plain operations.
        apply = partial(_BoundedMaps.forward, None) if is_tracing() else _BoundedMaps.apply
        maps: Tensor = apply(logits, self.min_scale, *self.shape_range)
        return maps


class _BoundedMaps(torch.autograd.Function):
    """α and β from their logits: a sigmoid with algebraic tails, ``width / 2 * (1 + x / (1 + sqrt(1 + x^2)))`` with
    ``x = 4 logits / width``. It lies in (0, width) and has slope 1 at the middle. Both maps go through the same few
    operations; ``width / 2 * (1 + tanh(asinh(x) / 2))`` is the same."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, min_scale: float, low: float, high: float) -> Tensor:
        factors, middles, halves, one = _bounds(min_scale, low, high, logits.shape[1] // 2, logits.dtype, logits.device)
        x = logits * factors
        root = torch.addcmul(one, x, x).sqrt_()
        maps = torch.addcmul(middles, x.div_(root + 1), halves)
        maps[:, : logits.shape[1] // 2].exp_()
        if ctx is not None:  # there is none where no gradient is wanted
            ctx.save_for_backward(root, maps)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        root, maps = ctx.saved_tensors
        channels = maps.shape[1] // 2
        # d (x / (1 + root)) / dx = 1 / (root * (1 + root)); the width cancels against the factor, and leaves a 2.
        inner = gradient * torch.addcmul(root, root, root).reciprocal_().mul_(2)
        inner[:, :channels].mul_(maps[:, :channels])
        return inner, None, None, None


@lru_cache(maxsize=16)
def _bounds(
    min_scale: float, low: float, high: float, channels: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Constants of ``_BoundedMaps`` on a device, where they go once: three for each map's channels, and a one."""
    of_scale, of_shape = math.log(MAX_SCALE / min_scale), high - low
    pairs = (
        (4 / of_scale, 4 / of_shape),
        (math.log(min_scale) + of_scale / 2, low + of_shape / 2),
        (of_scale / 2, of_shape / 2),
    )
    factors, middles, halves = (
        torch.tensor(pair, dtype=dtype, device=device).repeat_interleave(channels)[:, None, None] for pair in pairs
    )
    return factors, middles, halves, torch.ones((), dtype=dtype, device=device)


class _GGDNegativeLogLikelihood(torch.autograd.Function):
    """Per-pixel loss of three tensors of one shape; in-place work is on tensors made here only.

    −log(β/α) + log Γ(1/β) is computed as log α + log Γ(1 + 1/β): no division, no cancellation near Γ's pole.
    Every step is elementwise on float32 or wider, which no autocast rule narrows, so no autocast context is needed.
    """

    @staticmethod
    def forward(residual: Tensor, scale: Tensor, shape: Tensor, epsilon: float) -> Tensor:
        residual, scale, shape = _widened(residual, scale, shape)
        loss = scale.log()
        exponent = residual.abs().clamp_min_(_floor(residual, epsilon)).log_().sub_(loss).mul_(shape)
        excess = exponent.sub(POWER_LOG_CAP).clamp_min_(0)
        power = exponent.clamp_max_(POWER_LOG_CAP).exp_()
        loss.add_(power).addcmul_(power, excess)
        return loss.add_(torch.reciprocal(shape, out=power).add_(1).lgamma_())

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])
        ctx.epsilon = inputs[3]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        residual, scale, shape = _widened(*ctx.saved_tensors)
        floor = _floor(residual, ctx.epsilon)
        gradients: list[Tensor | None] = [None, None, None]
        if ctx.needs_input_grad[2]:  # first, while little else is held: d/dβ log Γ(1 + 1/β) = −ψ(1 + 1/β)/β²
            gradients[2] = _digamma_above_one(shape.reciprocal().add_(1)).div_(shape).div_(shape).neg_()
        magnitude = residual.abs().clamp_min_(floor)
        log_ratio = magnitude.log().sub_(scale.log())
        slope = log_ratio.mul(shape).clamp_max_(POWER_LOG_CAP).exp_()
        if gradients[2] is not None:
            gradients[2].addcmul_(slope, log_ratio)
        del log_ratio
        slope.mul_(shape)  # d loss / d log|r|
        if ctx.needs_input_grad[0]:  # hardshrink is r above the floor and 0 under it
            gradients[0] = functional.hardshrink(residual, floor).div_(magnitude).div_(magnitude).mul_(slope)
        del magnitude
        if ctx.needs_input_grad[1]:
            gradients[1] = slope.neg_().add_(1).div_(scale)
        pairs = zip(gradients, ctx.saved_tensors, strict=True)
        return *(None if g is None else _narrowed(g.mul_(grad), x.dtype) for g, x in pairs), None


def _digamma_above_one(z: Tensor) -> Tensor:
    """ψ(z) for z ≥ 1, overwriting z; absolute error near 1e-15 in float64, 1e-6 in float32.

    Eight steps of recurrence, then the asymptotic series. torch.digamma is not vectorised on CPU, where it would take
    longer than the rest of the loss; elsewhere its one kernel beats these thirty.
    """
    if z.device.type != "cpu":
        return z.digamma_()
    centre = z.add_(3.5)  # ψ(z) = ψ(z+8) − Σ 1/(z+k), and 1/(z+k) + 1/(z+7−k) = 2c/(c² − (3.5−k)²), c = z + 3.5
    square = centre.mul(centre)
    result = square.sub(3.5**2).reciprocal_()
    for half_step in (2.5, 1.5, 0.5):
        result.add_(square.sub(half_step**2).reciprocal_())
    result.mul_(centre).mul_(-2)
    argument = centre.add_(4.5)
    inverse = torch.reciprocal(argument, out=square)
    result.add_(inverse, alpha=-0.5).add_(argument.log_())
    inverse_square, series = inverse.mul_(inverse), argument.zero_()
    # The argument is at least 9: three terms reach 1e-10, enough for float32.
    for coefficient in reversed(_DIGAMMA_SERIES[: 3 if z.dtype == torch.float32 else None]):
        series.add_(coefficient).mul_(inverse_square)
    return result.sub_(series)


def _log_gamma_above_one(z: Tensor) -> Tensor:
    """log Γ(z) for z ≥ 1 from elementary operations; absolute error near 1e-12 in float64, 1e-5 in float32.

    Six steps of recurrence, then Stirling's series (Abramowitz and Stegun 1964, 6.1.40).
    """
    product = z
    for step in range(1, 6):
        product = product * (z + step)
    argument = z + 6
    inverse = argument.reciprocal()
    square = inverse * inverse
    tail = torch.zeros_like(z)
    for coefficient in reversed(_LOG_GAMMA_SERIES):
        tail = tail * square + coefficient
    stirling = (argument - 0.5) * argument.log() - argument + 0.5 * math.log(2 * math.pi) + tail * inverse
    return stirling - product.log()


def _start_at(convolution: nn.Conv2d, value: float, width: float) -> None:
    fraction = min(max(value / width, 0.1), 0.9)
    assert convolution.bias is not None
    nn.init.zeros_(convolution.weight)
    nn.init.constant_(convolution.bias, math.sinh(math.log(fraction / (1 - fraction))) * width / 4)


def _broadcast(**tensors: Tensor) -> tuple[Tensor, ...]:
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise ShapeError(f"`{name}` must be a floating-point tensor; got {kind}; convert it with .float()")
    try:
        return tuple(torch.broadcast_tensors(*tensors.values()))
    except RuntimeError as error:
        names = ", ".join(f"`{name}`" for name in tensors)
        got = ", ".join(str(list(tensor.shape)) for tensor in tensors.values())
        raise ShapeError(f"{names} must have shapes that broadcast; got {got}; give all one shape") from error


def _widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    return tuple(tensor.to(wide) for tensor in tensors)


def _narrowed(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype == torch.float16:  # the one type whose range the gradient can leave
        gradient.clamp_(torch.finfo(dtype).min, torch.finfo(dtype).max)
    return gradient.to(dtype)


def _floor(residual: Tensor, epsilon: float) -> float:
    return max(epsilon, torch.finfo(residual.dtype).tiny)
