"""The gradient tap: our gradient joins the host's on its way through the generator.

A host builds its loss and calls ``backward`` inside its own method. Our terms are computed on a detached copy of the
generated image before that, and their gradient is added where the host's passes by. By the sum rule this is exactly
the gradient of the summed loss, in the one pass the host pays for anyway.

By how much the host multiplies its loss, how often it calls ``backward`` and on what is seen, never guessed: while a
step has something to add, every ``torch.autograd.backward`` of the process is seen before it runs. Hooks live for one
such pass; a host's ``autograd.grad`` meets none of them, and nothing of ours stays on its tensors.
"""

from __future__ import annotations

import functools
import math
import threading
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ..runtime.finite import LateNumber, is_mixed, is_read_late, largest
from .passes import Pass, Place, scaled_from


def leaf(tensor: Tensor) -> Tensor:
    """A copy of a host's tensor, cut off its graph, on which our terms are computed and differentiated.

    Half-precision tensors become float32, so that small gradients survive until the host's scale is applied.
    """
    copy = tensor.detach()
    return (copy.float() if copy.dtype in (torch.float16, torch.bfloat16) else copy).requires_grad_()


# -- seeing every backward ---------------------------------------------------------------------------------------------

_watching: weakref.WeakSet[Tap] = weakref.WeakSet()
"""Weakly, so that a session that was dropped in the middle of a step is not kept by it."""
_lock = threading.Lock()
_running = threading.local()
_restore: Callable[[], None] | None = None
_Scaler: Any = getattr(torch.amp, "GradScaler", torch.cuda.amp.GradScaler)
"""The base of all of them; torch before 2.3 has the one for CUDA only."""


def _patch() -> Callable[[], None]:
    """Stand for ``torch.autograd.backward``, which ``Tensor.backward`` calls, and for a GradScaler's ``scale``; returns
    what undoes it."""
    own_backward, own_scale = torch.autograd.backward, _Scaler.scale

    def backward(tensors: Any, grad_tensors: Any = None, *args: Any, **kwargs: Any) -> Any:
        # A pass within a pass, such as a reentrant checkpoint's, is no pass of its own.
        if getattr(_running, "inside", False):
            return own_backward(tensors, grad_tensors, *args, **kwargs)
        roots = [tensors] if isinstance(tensors, Tensor) else list(tensors)
        gradients = [grad_tensors] if isinstance(grad_tensors, Tensor) else list(grad_tensors or [None] * len(roots))
        _running.inside = True
        handles: list[RemovableHandle] = []
        try:
            if roots and all(isinstance(root, Tensor) for root in roots):
                for tap in tuple(_watching):
                    handles += tap.begin(Pass(roots, gradients))
            return own_backward(tensors, grad_tensors, *args, **kwargs)
        finally:
            _running.inside = False
            for handle in handles:
                handle.remove()

    def scale(self: Any, outputs: Any) -> Any:
        scaled = own_scale(self, outputs)
        if isinstance(outputs, Tensor) and outputs.grad_fn is not None and scaled is not outputs:
            scaled_from[scaled.grad_fn] = outputs.grad_fn
        return scaled

    def restore() -> None:
        # Where somebody has put a patch of their own over ours, it stays in their chain and does nothing.
        if torch.autograd.backward is backward:
            torch.autograd.backward = own_backward
        if _Scaler.scale is scale:
            _Scaler.scale = own_scale
        scaled_from.clear()

    torch.autograd.backward = backward
    _Scaler.scale = scale
    return restore


def _watch(tap: Tap) -> None:
    global _restore
    with _lock:
        if _restore is None:
            _restore = _patch()
        _watching.add(tap)


def _unwatch(tap: Tap) -> None:
    global _restore
    with _lock:
        _watching.discard(tap)
        if not _watching and _restore is not None:
            _restore()
            _restore = None


# -- what is added -----------------------------------------------------------------------------------------------------


_HANDED_OVER = torch.empty(0)
"""In place of a gradient that is held elsewhere."""


class Injection:
    """One fixed gradient of ours for one tensor of the host's graph.

    Args:
        tensor: Of the host's graph; requires a gradient.
        gradient: Ours, of the tensor's shape.
        name: What the tensor is, for the warning where no backward ever reaches it.
        balance: Cap of our gradient's norm as a share of the host's own gradient at this tensor; ``None`` for none.

    Attributes:
        fired: Whether any of it was added.
        assumption: What was assumed of the host's loss when it was, where the host names none.
        is_mixed: Whether the tensor was made in half precision.
    """

    def __init__(self, tensor: Tensor, gradient: Tensor, name: str, *, balance: float | None = None) -> None:
        self.name = name
        self.fired = False
        self.assumption: str | None = None
        self.is_mixed = is_mixed(tensor)
        self.place = Place(tensor)
        self.gradient = gradient
        self.balance = balance
        self.in_loss = False
        """Whether a ``surrogate`` brings it; the host's backward need not be asked for the scale then."""
        self._largest: list[LateNumber] = []
        # What was met so far in this step. All passes of a step together add what one pass of their sum would.
        self._by_loss = False
        self._root: Any = None
        self._scale: Tensor | float = 0.0
        self._added: Tensor | float = 0.0
        self._host: Tensor | None = None
        self._from_loss: Tensor | float | None = None

    def arrives(self, passing: Pass, host_gradient: Tensor | None) -> Tensor | None:
        """The host's gradient passes by.

        Args:
            passing: Its pass.
            host_gradient: What has arrived; ``None`` for nothing, which only our own term makes pass here.

        Returns:
            What takes its place; ``None`` where that is the same.
        """
        here = self._scale_of(passing)
        if self.in_loss and self.balance is None:
            ours = None  # the surrogate has brought it already
        elif self.balance is None:
            ours = None if here is None else self.gradient
        else:
            ours = self._balanced(host_gradient, here)
        if ours is not None:
            self.fired = True
            scale = 1.0 if here is None or self.balance is not None else here
            if host_gradient is None:
                summed = _times(ours, scale)
            elif ours.dtype == host_gradient.dtype:
                summed = _plus(host_gradient, ours, scale)
            else:
                summed = host_gradient + _times(ours, scale).to(host_gradient.dtype)
        elif host_gradient is None:
            return None
        else:
            summed = host_gradient
        found = largest([summed]) if self.fired else None
        if found is not None:
            self._largest.append(LateNumber(found))
        return None if ours is None else summed

    def _scale_of(self, passing: Pass) -> Tensor | float | None:
        """The factor on our term in this pass; ``None`` where the pass is of another loss."""
        if self.in_loss:
            here, self._from_loss = self._from_loss, None
        elif passing.loss_gradient is not None:
            if not self._by_loss:  # what was added to other losses before was not for this one
                self._scale, self._added, self._host = 0.0, 0.0, None
            self._by_loss, here = True, passing.loss_gradient
        elif self._by_loss or (self._root is not None and self._root is not passing.root):
            here = None
        else:
            self._root, here, self.assumption = passing.root, passing.root_gradient, passing.assumption
        if here is not None and self.balance is not None:
            self._scale = self._scale + here
        return here

    def _balanced(self, host_gradient: Tensor | None, here: Tensor | float | None) -> Tensor | None:
        """What is to be added now so that all passes together have added ours under the cap of all of the host's."""
        if host_gradient is not None:
            wide = host_gradient.float() if host_gradient.dtype in (torch.float16, torch.bfloat16) else host_gradient
            self._host = wide if self._host is None else self._host + wide
        if here is None and not self.fired:
            return None
        assert self.balance is not None
        ours = _times(self.gradient, self._scale)
        host = torch.zeros_like(ours) if self._host is None else self._host
        total = self._scale * balance_factor(ours, host, self.balance)
        step = total - self._added
        self._added = total
        return _times(self.gradient, step)

    def is_brought(self) -> None:
        """The surrogate has taken our gradient over, and frees it with its graph; a balance still needs it here."""
        if self.balance is None:
            self.gradient = _HANDED_OVER

    def told_by_loss(self, scale: Tensor) -> None:
        """The surrogate's backward has come by with the factor that is on the script's loss."""
        if self.balance is None:
            self.fired = True
        else:
            self._from_loss = scale

    def was_finite(self) -> bool:
        """Whether the gradient that arrived was, with ours under its scale; also where none has arrived."""
        return all(math.isfinite(float(number)) for number in self._largest)

    def warn_if_unused(self) -> None:
        """Warn where the host's backward never came by."""
        if not self.fired:
            warnings.warn(
                f"the gradient for {self.name} was never collected: no backward pass reached it in this step; "
                f"add generator_loss(...) to the loss that is backpropagated",
                RuntimeWarning,
                stacklevel=2,
            )


def _times(gradient: Tensor, scale: Tensor | float) -> Tensor:
    """The product, or the gradient itself where the scale is known to be 1."""
    if (isinstance(scale, float) or not is_read_late(scale)) and float(scale) == 1.0:
        return gradient
    return gradient * (scale if isinstance(scale, float) else scale.to(gradient.dtype))


def _plus(host: Tensor, ours: Tensor, scale: Tensor | float) -> Tensor:
    """``host + scale * ours`` in one operation."""
    if isinstance(scale, Tensor):
        return torch.addcmul(host, ours, scale.to(ours.dtype))
    return torch.add(host, ours, alpha=scale)


def balance_factor(ours: Tensor, host: Tensor, share: float) -> Tensor:
    """The factor at most 1 that keeps our gradient's norm within a share of the host's; stays on the device."""
    wide = torch.promote_types(ours.dtype, torch.float32)
    own = torch.linalg.vector_norm(ours.to(wide))
    allowed = share * torch.linalg.vector_norm(host.to(wide))
    factor: Tensor = (allowed / own.clamp_min(torch.finfo(own.dtype).tiny)).clamp_max(1.0)
    return factor.to(ours.dtype)


class Tap:
    """Adds the injections of one step to the passes of the host's backward that reach them.

    Args:
        loss: Tells the scalar that the host trains its generators on, as it is when a backward begins; ``None`` where
            the host does not name it, so that what the backward starts from stands for it.
        kept: Tells all scalars that the host keeps as losses, by name.
    """

    def __init__(
        self, loss: Callable[[], Tensor | None], kept: Callable[[], Mapping[str, Tensor]] = dict[str, Tensor]
    ) -> None:
        self._loss = loss
        self._kept = kept
        self._injections: list[Injection] = []
        self._awaiting: Callable[[], None] | None = None

    def await_backward(self, then: Callable[[], None]) -> None:
        """Call this once before the next backward of the host runs, to lay what it is to take along."""
        self._awaiting = then
        _watch(self)

    def lay(self, injections: Sequence[Injection]) -> None:
        """Add these from the next backward on."""
        self._injections += injections
        if self._injections:
            _watch(self)

    def retire_used(self) -> None:
        """A new forward begins: what was added to the ones before it needs no watching any more."""
        self._injections = [injection for injection in self._injections if not injection.fired]

    def begin(self, passing: Pass) -> list[RemovableHandle]:
        """A backward begins: what is to be removed when it is over."""
        awaiting, self._awaiting = self._awaiting, None
        if awaiting is not None:
            awaiting()
        asked = any(not injection.in_loss for injection in self._injections)
        handles = passing.watch_loss(self._loss(), self._kept) if asked else []
        for injection in self._injections:
            handles.append(injection.place.watch(functools.partial(injection.arrives, passing)))
        return handles

    def lift(self) -> None:
        """The step is over: stop watching, and forget what was laid."""
        _unwatch(self)
        self._injections, self._awaiting = [], None


# -- a script's loss ---------------------------------------------------------------------------------------------------


class _Surrogate(torch.autograd.Function):
    """A scalar with our value and our gradient, which was computed beforehand."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, injections: Sequence[Injection], *tensors: Tensor) -> Tensor:
        ctx.injections = injections
        ctx.dtypes = [tensor.dtype for tensor in tensors]
        ctx.save_for_backward(*(injection.gradient for injection in injections))
        for injection in injections:
            injection.is_brought()
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (scale,) = gradients
        found = []
        for injection, ours, dtype in zip(ctx.injections, ctx.saved_tensors, ctx.dtypes, strict=True):
            injection.told_by_loss(scale)
            # Under a balance the host's own gradient must be known first. Zeros, not None: it must pass by there.
            brought = torch.zeros_like(ours) if injection.balance is not None else _times(ours, scale)
            found.append(brought.to(dtype))
        return (None, None, *found)


def surrogate(value: Tensor, injections: Sequence[Injection], tensors: Sequence[Tensor]) -> Tensor:
    """A scalar to add to a loss: it has our value, and its backward brings our gradient under the loss's own scale.

    Whatever is done with the loss it is added to (scaled, summed over batches, differentiated twice) is done with ours.
    A balance is kept where the backward is seen by the ``Tap`` the injections lie in.

    Args:
        value: Our loss, detached.
        injections: What it brings.
        tensors: The tensors they are for, in the same order.
    """
    for injection in injections:
        injection.in_loss = True
    scalar: Tensor = _Surrogate.apply(value.detach(), list(injections), *tensors)
    return scalar
