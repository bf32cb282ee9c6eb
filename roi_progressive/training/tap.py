"""The gradient tap: our gradient joins the host's on its way through the generator.

A host builds its loss and calls ``backward`` inside its own method. Our terms are computed on a detached copy of the
generated image before that, and their gradient is added by a tensor hook when the host's arrives there. By the
sum rule this is exactly the gradient of the summed loss, in the one pass the host pays for anyway.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..runtime.finite import LateNumber, is_mixed, largest


def leaf(tensor: Tensor) -> Tensor:
    """A copy of a host's tensor, cut off its graph, on which our terms are computed and differentiated.

    Half-precision tensors become float32, so that small gradients survive until the host's scale is applied.
    """
    copy = tensor.detach()
    return (copy.float() if copy.dtype in (torch.float16, torch.bfloat16) else copy).requires_grad_()


class Injection:
    """Adds one fixed gradient to a tensor's gradient, once.

    Args:
        tensor: A tensor of the host's graph that requires a gradient.
        gradient: Ours, of the tensor's shape.
        name: What the tensor is, for the warning where no backward ever reaches it.
        balance: Cap of our gradient's norm as a share of the host's own gradient at this tensor; ``None`` for none.
        scale: Factor of the host's loss (a GradScaler's), read when the host's gradient arrives;
            ``None`` means that a ``Surrogate`` tells it.
    """

    def __init__(
        self,
        tensor: Tensor,
        gradient: Tensor,
        name: str,
        *,
        balance: float | None = None,
        scale: Callable[[], float] | None = None,
    ) -> None:
        self.name = name
        self.fired = False
        self.is_mixed = is_mixed(tensor)
        self._largest: LateNumber | None = None
        self.scale: Tensor | None = None
        self._gradient: Tensor | None = gradient
        self._balance = balance
        self._host_scale = scale
        self._handle = tensor.register_hook(self._fire)

    def _fire(self, host_gradient: Tensor) -> Tensor | None:
        scale = self._host_scale() if self._host_scale is not None else self.scale
        if self.fired or scale is None or self._gradient is None:
            return None
        self.fired = True
        ours, self._gradient = self._gradient, None
        if self._balance is None and ours.dtype == host_gradient.dtype:
            summed = _plus(host_gradient, ours, scale)
        else:
            ours = (ours * scale).to(host_gradient.dtype)
            if self._balance is not None:
                ours = ours * balance_factor(ours, host_gradient, self._balance)
            summed = host_gradient + ours
        found = largest([summed])
        self._largest = None if found is None else LateNumber(found)
        return summed

    def was_finite(self) -> bool:
        """Whether the gradient that arrived was, with ours under its scale; also where none has arrived."""
        return self._largest is None or math.isfinite(float(self._largest))

    def finish(self, *, warn: bool = True) -> None:
        """Take the hook away; ``warn`` where the host's backward never came by."""
        self._handle.remove()
        self._gradient = None
        if warn and not self.fired:
            warnings.warn(
                f"the gradient for {self.name} was never collected: no backward pass reached it in this step; "
                f"add generator_loss(...) to the loss that is backpropagated",
                RuntimeWarning,
                stacklevel=2,
            )


def _plus(host: Tensor, ours: Tensor, scale: Tensor | float) -> Tensor:
    """``host + scale * ours`` in one operation."""
    return torch.addcmul(host, ours, scale) if isinstance(scale, Tensor) else torch.add(host, ours, alpha=scale)


def balance_factor(ours: Tensor, host: Tensor, share: float) -> Tensor:
    """The factor at most 1 that keeps our gradient's norm within a share of the host's; stays on the device."""
    own = torch.linalg.vector_norm(ours.float())
    allowed = share * torch.linalg.vector_norm(host.float())
    factor: Tensor = (allowed / own.clamp_min(torch.finfo(own.dtype).tiny)).clamp_max(1.0)
    return factor.to(ours.dtype)


class _Surrogate(torch.autograd.Function):
    """A scalar with our value that tells the injections how much the host scales its loss."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, injections: Sequence[Injection], *anchors: Tensor) -> Tensor:
        ctx.injections = injections
        ctx.shapes = [(anchor.shape, anchor.dtype, anchor.device) for anchor in anchors]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        for injection in ctx.injections:
            injection.scale = gradients[0]
        # Zeros, not None: a tensor that only our term uses must still get a gradient for its hook to see.
        zeros = (torch.zeros((), dtype=dtype, device=device).expand(shape) for shape, dtype, device in ctx.shapes)
        return (None, None, *zeros)


def surrogate(value: Tensor, injections: Sequence[Injection], anchors: Sequence[Tensor]) -> Tensor:
    """A scalar to add to a loss: it has our value, and its backward arms the injections with the loss's scale.

    Args:
        value: Our loss, detached.
        injections: Made with ``scale=None``.
        anchors: The tensors they sit on; ties the scalar into the graph, before the hooks fire.
    """
    scalar: Tensor = _Surrogate.apply(value.detach(), injections, *anchors)
    return scalar
