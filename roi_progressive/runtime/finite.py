"""Numbers and their limits: mixed precision, and what is infinite or NaN.

Our terms are computed in single precision whatever the host computes in. Numbers that are not finite are found on the
device and read when they have arrived; steps that held some are left out and counted, and ten in a row end the run.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from ..errors import DivergenceError

MOST_IN_A_ROW = 10

HALF = (torch.float16, torch.bfloat16)


def is_mixed(image: Tensor) -> bool:
    """Whether the host that made an image computes in half precision, so that numbers may overflow."""
    return image.dtype in HALF or _autocasts(image.device.type)


def single_precision(image: Tensor) -> torch.autocast:
    """A context in which autocast is off on the image's device.

    Our loss is differentiated before the host's scale is known, and in half precision its gradient would be off by
    several per cent.
    """
    return torch.autocast(image.device.type, enabled=False)


def _autocasts(device_type: str) -> bool:
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:  # before torch 2.4
        return torch.is_autocast_cpu_enabled() if device_type == "cpu" else torch.is_autocast_enabled()


@torch.no_grad()
def largest(tensors: Iterable[Tensor]) -> Tensor | None:
    """The largest absolute value of all tensors, or something larger; infinite or NaN where one of their numbers is.

    Three operations, whatever the number of tensors.

    Returns:
        A scalar on the tensors' device; ``None`` where there is no number.
    """
    given = [tensor for tensor in tensors if tensor.numel() and tensor.is_floating_point()]
    # The maximum norm needs no map of bools, and of a NaN it makes a NaN.
    if len(given) < 2:
        return next((torch.linalg.vector_norm(tensor, math.inf) for tensor in given), None)
    return torch.stack(torch._foreach_norm(given, math.inf)).sum()  # as torch's own clip_grad_norm_ does


def finite(tensors: Iterable[Tensor]) -> Tensor:
    """Whether no number is infinite or NaN, as a bool tensor on the tensors' device; nobody waits for it."""
    found = largest(tensors)
    return torch.tensor(True) if found is None else found < math.inf


def is_read_late(flag: Tensor) -> bool:
    """Whether a flag lies on a device, so that reading it now would wait."""
    return flag.device.type != "cpu"


def zero_where_not(is_finite: Tensor | bool, tensor: Tensor) -> Tensor:
    """The tensor itself, or zeros where ``is_finite`` is false."""
    if isinstance(is_finite, Tensor):
        if is_read_late(is_finite):
            return torch.where(is_finite, tensor, 0.0)
        is_finite = bool(is_finite)
    return tensor if is_finite else torch.zeros_like(tensor)


def drop_where_not(is_finite: Tensor, parameters: Iterable[nn.Parameter]) -> None:
    """Take the gradients away where ``is_finite`` is false; on a device, where asking would wait, they become zeros."""
    if is_read_late(is_finite):
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad = torch.where(is_finite, parameter.grad, 0.0)
    elif not is_finite:
        for parameter in parameters:
            parameter.grad = None


def first_not_finite(named: Iterable[tuple[str, Tensor]]) -> str | None:
    """The name of the first tensor that holds an infinite number or NaN; waits for the device."""
    return next((name for name, tensor in named if not finite([tensor])), None)


class LateNumber:
    """A number of a device on its way to the CPU: reading it waits for what came before it, not for what came after."""

    def __init__(self, value: Tensor) -> None:
        self._value = value
        self._arrived: torch.cuda.Event | None = None
        if value.is_cuda:
            self._value = torch.empty((), dtype=value.dtype, pin_memory=True)
            self._value.copy_(value, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def __float__(self) -> float:
        if self._arrived is not None:
            self._arrived.synchronize()
        return float(self._value)

    def __bool__(self) -> bool:
        return bool(float(self))


class LateNumbers:
    """Several numbers of a device on their way to the CPU, as one copy.

    Args:
        values: Scalars, all on one device.
    """

    def __init__(self, values: Sequence[Tensor]) -> None:
        self._values = torch.stack([value.detach().float() for value in values])
        self._arrived: torch.cuda.Event | None = None
        if self._values.is_cuda:
            there = self._values
            self._values = torch.empty(there.shape, dtype=there.dtype, pin_memory=True)
            self._values.copy_(there, non_blocking=True)
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    def read(self) -> list[float]:
        """The numbers, in the order in which they were given; waits for what came before them."""
        if self._arrived is not None:
            self._arrived.synchronize()
        numbers: list[float] = self._values.tolist()
        return numbers


class DroppedSteps:
    """Counts the training steps that were left out because their numbers were not finite.

    Attributes:
        total: All of them so far.
    """

    def __init__(self) -> None:
        self.total = 0
        self._in_a_row = 0
        self._warned_of: set[str] = set()

    def made(self) -> None:
        """A step was made."""
        self._in_a_row = 0

    def dropped(self, cause: str, files: Sequence[str] = ()) -> None:
        """A step was left out; warns, though never twice of the same file, and ever more rarely where none is known.

        Args:
            cause: What was not finite.
            files: Where it came from, when known.

        Raises:
            DivergenceError: It was the tenth in a row.
        """
        self.total += 1
        self._in_a_row += 1
        named = f" ({', '.join(files)})" if files else ""
        if self._in_a_row == MOST_IN_A_ROW:
            raise DivergenceError(
                f"`host` must train on finite numbers; {cause}{named} was infinite or NaN, as something was in each of "
                f"the last {MOST_IN_A_ROW} steps; look at these images, lower the learning rate, or go on from an "
                f"earlier checkpoint"
            )
        new = set(files) - self._warned_of
        self._warned_of |= new
        # Where no file is known: at the first, second, fourth, eighth, ...
        if new or (not files and self.total & (self.total - 1) == 0):
            warnings.warn(
                f"{cause}{named} was infinite or NaN; this step of roi_progressive is left out (so far: {self.total})",
                RuntimeWarning,
                stacklevel=2,
            )
