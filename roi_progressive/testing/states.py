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


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> set[str]:
    """The names that only one of the two has, or that stand for another object in each."""
    missing = object()
    return {name for name in {*before, *after} if before.get(name, missing) is not after.get(name, missing)}


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


def same(first: Any, second: Any) -> bool:
    """Whether two nested states are equal bit for bit."""
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return torch.equal(first, second)
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, (list, tuple)) and isinstance(second, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)
