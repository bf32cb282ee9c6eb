"""For ``resume = "exact"``: what a host forgets when it is stopped, its optimizers' moments, its pools and the scales
of its gradient scalers."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, optim


def moments_of(optimizers: Iterable[optim.Optimizer]) -> list[Any]:
    """The moments of every optimizer; rates and groups belong to the host's own schedule."""
    return [optimizer.state_dict()["state"] for optimizer in optimizers]


def load_moments(optimizers: Sequence[optim.Optimizer], moments: Sequence[Any]) -> None:
    """Restore what ``moments_of`` gave; rates and groups stay as they are.

    Raises:
        TypeError, ValueError: They are of another optimizer or of other networks.
    """
    for optimizer, saved in zip(optimizers, moments, strict=True):
        _check(optimizer, saved)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(saved)})


def _check(optimizer: optim.Optimizer, saved: Mapping[int, Mapping[str, Any]]) -> None:
    """Torch itself takes any moments, and fails at the first step."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for place, moments in saved.items():
        if isinstance(optimizer, optim.Adam) and not {"step", "exp_avg", "exp_avg_sq"} <= moments.keys():
            raise ValueError("the moments are not Adam's")
        for name in ("exp_avg", "exp_avg_sq", "max_exp_avg_sq", "momentum_buffer"):
            value = moments.get(name)
            if value is None and (name not in moments or name == "momentum_buffer"):
                continue
            if not isinstance(value, Tensor) or not value.is_floating_point():
                raise TypeError(f"{name} is {type(value).__name__}, not a tensor of floating point")
            if value.shape != parameters[place].shape:
                raise ValueError(
                    f"{name} is of shape {list(value.shape)}, its weights of {list(parameters[place].shape)}"
                )
        step = moments.get("step", 0)
        if not isinstance(step, Tensor) and (not isinstance(step, (int, float)) or isinstance(step, bool)):
            raise TypeError(f"step is {type(step).__name__}, not a number")
        if not float(step) >= 0:
            raise ValueError(f"step is {float(step)}")


def pools_of(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """The generated images that the model's pools hold, by the pool's name."""
    pools = {name: getattr(model, name) for name in names}
    return {name: list(pool.images) if pool.pool_size else [] for name, pool in pools.items()}


def load_pools(model: Any, pools: Mapping[str, Any], device: torch.device) -> None:
    """Restore what ``pools_of`` gave, on the device of the model's images."""
    for name, saved in pools.items():
        pool = getattr(model, name)
        if pool.pool_size:
            pool.images = [image.to(device) for image in saved]
            pool.num_imgs = len(saved)


GRAD_SCALER: Any = getattr(torch.amp, "GradScaler", None) or torch.cuda.amp.GradScaler  # torch.amp's from torch 2.3 on
_OF_SCALER = ("scale", "_growth_tracker")


def scales_of(scalers: Mapping[str, Any]) -> dict[str, Any]:
    """The scale of every ``GradScaler``, and for how many steps nothing has overflowed; waits for the device.

    Args:
        scalers: By name. One that is switched off has nothing to tell.
    """
    states = {name: scaler.state_dict() for name, scaler in scalers.items()}
    return {name: {key: state[key] for key in _OF_SCALER} for name, state in states.items() if state}


def load_scales(scalers: Mapping[str, Any], saved: Mapping[str, Any]) -> None:
    """Restore what ``scales_of`` gave, where a scaler of the name is there and at work; its factors stay as they are.

    Raises:
        KeyError, TypeError, ValueError: It is no state of a scaler.
    """
    for state in saved.values():
        scale, steps = (state[key] for key in _OF_SCALER)
        if not isinstance(scale, float) or not 0 < scale < math.inf:
            raise ValueError(f"scale of a gradient scaler is {scale!r}")
        if not isinstance(steps, int) or isinstance(steps, bool) or steps < 0:
            raise ValueError(f"_growth_tracker of a gradient scaler is {steps!r}")
    for name, scaler in scalers.items():
        if name in saved and scaler.is_enabled():
            scaler.load_state_dict({**scaler.state_dict(), **{key: saved[name][key] for key in _OF_SCALER}})
