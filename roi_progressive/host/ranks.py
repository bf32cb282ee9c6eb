"""The bundled trainer as one of several processes: DDP networks, and each process its own share of the images."""

from __future__ import annotations

import random
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import Dataset, DistributedSampler

from .options import HostOptions


def in_parallel() -> bool:
    """Whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def data_parallel(net: nn.Module, device: torch.device) -> nn.Module:
    """The network, on its device, with its gradients averaged over all processes; itself where there is one."""
    if not in_parallel():
        return net
    # The UNet's uncertainty head takes no part in the trainer's own losses.
    device_ids = [device] if device.type == "cuda" else None
    return DistributedDataParallel(net, device_ids=device_ids, find_unused_parameters=hasattr(net, "ggd_head"))


def unwrapped(net: nn.Module) -> nn.Module:
    """The network itself, whose state has the names of a checkpoint."""
    inner = net.module if isinstance(net, DistributedDataParallel) else net
    assert isinstance(inner, nn.Module)
    return inner


def sampler_for(dataset: Dataset[Any], opt: HostOptions) -> DistributedSampler[Any] | None:
    """Splits the images between the processes, equally many for each; ``None`` for a single process or for tests."""
    if not opt.isTrain or not in_parallel():
        return None
    return DistributedSampler(dataset, shuffle=not opt.serial_batches, seed=opt.seed or 0)


def part_random_streams(opt: HostOptions) -> None:
    """Let every process draw its own flips and pairs; a run that goes on draws others than it began with."""
    if in_parallel():
        seed = (opt.seed or 0) + 7919 * opt.epoch_count + 104729 * dist.get_rank()
        random.seed(seed)
        torch.manual_seed(seed)
