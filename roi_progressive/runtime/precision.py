"""Mixed precision: our terms in single precision, and steps that overflowed left out, as the host's GradScaler does."""

from __future__ import annotations

import torch
from torch import Tensor

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
