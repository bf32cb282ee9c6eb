"""Several processes that train one host: our networks stay the same on all of them, and nobody waits for ever.

Every function here is called by all processes alike, whether or not a process's own batch holds a region.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import nn

# Weak: a group that outlived destroy_process_group would abort the process at its end.
_beside: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()


def n_processes() -> int:
    """Processes that train together; 1 where torch.distributed is not in use."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def is_main_process() -> bool:
    """Whether this process writes files."""
    return n_processes() == 1 or dist.get_rank() == 0


def leave_processes() -> None:
    """Leave the group of processes, when the networks it trained are no longer in use.

    A network wrapped for it holds it, and a group that outlives its end aborts the process at its own, all work done
    (two of twenty runs of plain torch 2.14 on a busy machine). Networks that wait for the garbage collector go first.
    """
    gc.collect()
    dist.destroy_process_group()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Give every process the mean of all gradients, in one exchange; does nothing where there is one process.

    A process without a gradient of a parameter counts as one with zeros.

    Args:
        parameters: The same ones in the same order on every process, on one device; only those that have a gradient on
            at least one, so that an optimizer leaves the others alone.
    """
    own = list(parameters)
    if n_processes() == 1 or not own:
        return
    gradients = (torch.zeros_like(p) if p.grad is None else p.grad.detach() for p in own)
    together = torch.cat([gradient.reshape(-1) for gradient in gradients])
    dist.all_reduce(together)
    together /= n_processes()
    for parameter, mean in zip(own, together.split([p.numel() for p in own]), strict=True):
        parameter.grad = mean.view_as(parameter).to(parameter.dtype)


def sums_over_processes(counts: Sequence[int]) -> list[int]:
    """The sum of every count over all processes; exchanged on the CPU, so that nobody waits for a GPU."""
    if n_processes() == 1 or not counts:
        return list(counts)
    sums = torch.tensor(counts, dtype=torch.int64)
    dist.all_reduce(sums, group=_cpu_group(dist.group.WORLD))
    return [int(total) for total in sums.tolist()]


def _cpu_group(world: Any) -> Any:
    """A process group that takes tensors on the CPU: the host's, or one of gloo beside its NCCL."""
    if "gloo" in dist.get_backend(world):
        return world
    if world not in _beside:
        _beside[world] = dist.new_group(backend="gloo")
    return _beside[world]


def from_every_process(value: Any) -> list[Any]:
    """What every process has here, in the order of their ranks; plain values only."""
    if n_processes() == 1:
        return [value]
    values: list[Any] = [None] * n_processes()
    dist.all_gather_object(values, value)
    return values
