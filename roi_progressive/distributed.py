"""Several processes that train one host: our networks stay the same on all of them, and nobody waits for ever.

Every function here is called by all processes alike, whether or not a process's own batch holds a region.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def n_processes() -> int:
    """Processes that train together; 1 where torch.distributed is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes files."""
    return n_processes() == 1 or dist.get_rank() == 0


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all gradients; does nothing where there is one process.

    The mean is over the processes that have a gradient: one whose batch holds no region neither halves nor delays the
    others. A parameter without a gradient anywhere keeps none, so that its optimizer leaves it alone.

    Args:
        parameters: The same ones in the same order on every process, on one device.
    """
    own = list(parameters)
    if n_processes() == 1 or not own:
        return
    held = own[0].new_tensor([0.0 if parameter.grad is None else 1.0 for parameter in own])
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in own]
    together = torch.cat([held, *(gradient.detach().reshape(-1) for gradient in gradients)])
    dist.all_reduce(together)
    holders, values = together[: len(own)].tolist(), together[len(own) :]
    for parameter, count, value in zip(own, holders, values.split([p.numel() for p in own]), strict=True):
        mean: Tensor | None = (value / count).view_as(parameter).clone() if count else None
        parameter.grad = mean


def from_every_process(value: Any) -> list[Any]:
    """What every process has here, in the order of their ranks; plain values only."""
    if n_processes() == 1:
        return [value]
    values: list[Any] = [None] * n_processes()
    dist.all_gather_object(values, value)
    return values
