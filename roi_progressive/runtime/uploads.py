"""Arrays made on the CPU, on their way to the device in one copy that nobody waits for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor


def upload(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> list[Tensor]:
    """Tensors of the arrays' shapes and types on a device.

    Args:
        arrays: Those of wide types first, so that each begins where its type may.
        device: On the CPU they are looked at where they lie. Elsewhere all of them go there in one copy, from pinned
            memory to a CUDA device, so that neither the device nor the CPU waits.
    """
    plain = [np.ascontiguousarray(array) for array in arrays]
    if lies_here(device):
        return [torch.from_numpy(array) for array in plain]
    sizes = [array.nbytes for array in plain]
    packed = torch.empty(sum(sizes), dtype=torch.uint8, pin_memory=device.type == "cuda")
    # NumPy copies on this thread. Torch would wake all of its own, which go on spinning long after so small a copy.
    np.concatenate([array.reshape(-1).view(np.uint8) for array in plain], out=packed.numpy())
    there = packed.to(device, non_blocking=True)
    parts = there.split(sizes)
    return [
        part.view(torch.from_numpy(array).dtype).view(array.shape) for part, array in zip(parts, plain, strict=True)
    ]


def lies_here(device: torch.device) -> bool:
    """Whether a device reads the CPU's own memory."""
    return device.type == "cpu"
