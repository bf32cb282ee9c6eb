"""A command as one of the processes that ``torchrun`` starts: they find each other, and end together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from ..errors import RoiProgressiveError
from ..runtime.devices import local_rank
from ..runtime.distributed import is_main_process, leave_processes

_FAILED = "roi_progressive/failed"
_STATUS = 2


@contextmanager
def process_group() -> Iterator[None]:
    """Join the processes that ``torchrun`` started: gloo on the CPU, NCCL on GPUs; alone, nothing happens.

    Where one fails it reports why, and the others, which then miss it, end silently.

    Raises:
        RoiProgressiveError: Another process is gone and did not report why.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or "RANK" not in os.environ:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank() % torch.cuda.device_count())
    store, rank, size = next(iter(rendezvous("env://")))
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    try:
        yield
    except KeyboardInterrupt:  # every process gets it, and the first one knows how to continue
        if not is_main_process():
            raise SystemExit(_STATUS) from None
        raise
    except Exception as error:  # any: of several processes that fail of one cause, one says so
        if store.add(_FAILED, 1) > 1:
            raise SystemExit(_STATUS) from None
        if isinstance(error, RuntimeError) and any(word in str(error) for word in ("gloo", "NCCL")):
            raise RoiProgressiveError(
                f"`torchrun` must keep all {size} processes; one is gone, most often for want of memory; "
                f"use fewer processes or smaller batches, and go on with --resume"
            ) from error
        raise
    leave_processes()
