"""States compared bit for bit: of a host, and as a checkpoint would bring them back."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.rng import RandomState


def state_of(host: Any) -> Any:
    """Every network and optimizer a host holds, copied, and the random streams."""
    held = dict(host) if isinstance(host, Mapping) else vars(host)
    with_state = {name: value for name, value in held.items() if isinstance(value, (nn.Module, torch.optim.Optimizer))}
    states = {name: value.state_dict() for name, value in with_state.items()}
    return read(written({"states": states, "streams": RandomState.now().to_plain()}))


def attributes_of(thing: Any) -> dict[str, Any]:
    """An object's own attributes, as they stand."""
    return dict(vars(thing)) if hasattr(thing, "__dict__") else {}


def differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> set[str]:
    """The names that only one of them has, or that stand for another object."""
    missing = object()
    return {name for name in {*one, *other} if one.get(name, missing) is not other.get(name, missing)}


def n_hooks_of(host: Any) -> int:
    """How many hooks hang on the networks a host holds."""
    held = dict(host) if isinstance(host, Mapping) else attributes_of(host)
    modules = (module for value in held.values() if isinstance(value, nn.Module) for module in value.modules())
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in modules for kind in kinds)


def written(state: Any) -> io.BytesIO:
    """A state saved as our checkpoints are."""
    file = io.BytesIO()
    torch.save(state, file)
    return file


def read(file: io.BytesIO) -> Any:
    """What ``written`` saved, loaded without running anything."""
    file.seek(0)
    return torch.load(file, weights_only=True)


def same(one: Any, other: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return torch.equal(one, other)
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)
