"""Where a run computes, and with how many bits: the device, its name, and mixed precision."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

from ..errors import ConfigError

PRECISIONS = ("fp32", "bf16", "fp16")
"""What networks may compute in: single precision, or autocast to one of the two half precisions."""

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_NAME = re.compile(r"auto|cpu|mps|cuda(:\d+)?")


def choose_device(name: str = "auto") -> torch.device:
    """The device that a name stands for on this machine.

    Args:
        name: ``auto`` (CUDA where there is one, then MPS, then the CPU), ``cpu``, ``mps``, ``cuda`` or ``cuda:N``. Of
            several processes that ``torchrun`` started, each takes the GPU of its ``LOCAL_RANK`` for ``auto`` and
            ``cuda``.

    Raises:
        ConfigError: It is no such name, this machine has no such device, or several processes would share one GPU.

    Example:
        >>> choose_device("cpu")
        device(type='cpu')
    """
    check_device_name(name)
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        if name == "mps" and _n_local_processes() > 1:
            name = "cpu"  # torch.distributed has no way between MPS devices
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps":
        if not torch.backends.mps.is_available():
            raise ConfigError("`device` must be one that this machine has; got mps and there is none; use auto or cpu")
        return torch.device("mps")
    return _cuda(name)


def check_device_name(name: str) -> None:
    """Check that a name stands for a device on some machine.

    Raises:
        ConfigError: It does not.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ConfigError(f"`device` must be auto, cpu, mps, cuda or cuda:N; got {name!r}; auto takes a GPU if any")


def _cuda(name: str) -> torch.device:
    n_gpus, n_processes = torch.cuda.device_count() if torch.cuda.is_available() else 0, _n_local_processes()
    if n_gpus == 0:
        raise ConfigError(
            f"`device` must be one that this machine has; got {name!r}, and torch {torch.__version__} finds no GPU; "
            f"use auto or cpu, or install the driver and a torch with CUDA"
        )
    if n_processes > 1:
        if ":" in name or n_processes > n_gpus:
            raise ConfigError(
                f"`device` must give each of the {n_processes} processes a GPU of its own; got {name!r} and {n_gpus} "
                f"GPUs; start as many processes as there are GPUs with cuda or auto, or use cpu"
            )
        return torch.device("cuda", local_rank())
    index = int(name.partition(":")[2] or 0)
    if index >= n_gpus:
        raise ConfigError(
            f"`device` must be one that this machine has; got {name!r} and there are {n_gpus} GPUs, counted from 0"
        )
    return torch.device("cuda", index)


def local_rank() -> int:
    """Which of the processes that ``torchrun`` started on this machine this is, counted from 0; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def _n_local_processes() -> int:
    """Processes of this run on this machine, as ``torchrun`` tells them."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", os.environ.get("WORLD_SIZE", "1")))


def describe_device(device: torch.device) -> str:
    """The device and what it is, for people to read, e.g. ``cuda:0 (NVIDIA H100)`` or ``cpu (x86_64, 2 threads)``."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    if device.type == "cpu":
        n = torch.get_num_threads()
        return f"cpu ({platform.machine() or 'unknown'}, {n} thread{'s' if n > 1 else ''})"
    return f"{device} ({platform.machine() or 'unknown'})"


def autocasting(device: torch.device, precision: str) -> AbstractContextManager[Any]:
    """A context in which networks compute in a precision on a device; ``fp32`` changes nothing.

    Raises:
        ConfigError: The precision is unknown, or torch has no autocast to it on this device.
    """
    check_precision(precision)
    if precision == "fp32":
        return nullcontext()
    try:
        return torch.autocast(device.type, dtype=_HALF[precision])
    except RuntimeError as error:
        raise ConfigError(
            f"`precision` must be one that the device has; got {precision} on {device}: torch {torch.__version__} "
            f"cannot; use fp32"
        ) from error


def check_precision(precision: str) -> None:
    """Check the name of a precision.

    Raises:
        ConfigError: It is none of ``PRECISIONS``.
    """
    if precision not in PRECISIONS:
        raise ConfigError(f"`precision` must be one of {', '.join(PRECISIONS)}; got {precision!r}")


def grad_scaler(device: torch.device, precision: str) -> Any:
    """The scaler of losses that ``fp16`` needs, lest small gradients vanish; ``None`` for other precisions.

    Raises:
        ConfigError: torch has none for this device.
    """
    if precision != "fp16":
        return None
    try:
        if hasattr(torch.amp, "GradScaler"):  # from torch 2.3 on
            return torch.amp.GradScaler(device.type)
        if device.type == "cuda":
            return torch.cuda.amp.GradScaler()
    except RuntimeError:
        pass  # told below
    raise ConfigError(f"`precision` must be fp32 or bf16 on {device}; got fp16, for which torch has no scaler there")


@contextmanager
def deterministic(wanted: bool) -> Iterator[None]:
    """Only algorithms whose results do not differ from one run to the next, inside the block; slower on a GPU.

    On one machine, with one torch, a run on a GPU then gives the same bits again, and goes on bit for bit when it is
    resumed. On the CPU that is so anyway.

    Args:
        wanted: ``False`` changes nothing.
    """
    if not wanted:
        yield
        return
    before, benchmark = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it starts
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)
        torch.backends.cudnn.benchmark = benchmark
