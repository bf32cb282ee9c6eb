"""Values of a saved state, looked at when the file is read: a wrong one would fail steps later, or not at all.

Each check raises ``TypeError`` or ``ValueError``, which ``checkpoint.fitting`` turns into one line.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
SETTINGS = {"lr", "betas", "eps", "weight_decay"}


def whole(name: str, value: Any) -> int:
    """A whole number."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}, not a whole number")
    return value


def number(name: str, value: Any) -> float:
    """A number."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} is {type(value).__name__}, not a number")
    return float(value)


def tensor(name: str, value: Any, ndim: int) -> Tensor:
    """A tensor of floating-point numbers of so many dimensions."""
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} is {type(value).__name__}, not a tensor")
    if value.ndim != ndim or not value.is_floating_point():
        raise ValueError(f"{name} is {value.dtype} of shape {list(value.shape)}, not {ndim}-dimensional floating point")
    return value


def python_stream(plain: Mapping[str, Any]) -> tuple[Any, ...]:
    """The state of a ``random.Random`` whose words are kept as a tensor."""
    gauss = None if plain["gauss"] is None else number("gauss", plain["gauss"])
    state = (plain["version"], tuple(plain["words"].tolist()), gauss)
    random.Random().setstate(state)
    return state


def adam(saved: Mapping[str, Any]) -> None:
    """The ``state_dict`` of one of our optimizers: the kinds of its settings, and moments that are tensors."""
    like: dict[str, Any] = torch.optim.Adam([torch.zeros(1, requires_grad=True)]).state_dict()["param_groups"][0]
    for group in saved["param_groups"]:
        lacking = SETTINGS - group.keys()
        if lacking:
            raise ValueError(f"an optimizer lacks {', '.join(sorted(lacking))}")
        for key in (like.keys() & group.keys()) - {"params"}:
            is_missing = group[key] is None and like[key] is not None  # torch chooses some switches by itself, not all
            if is_missing or _kind(group[key]) != _kind(like[key]):
                raise TypeError(f"{key} of an optimizer is {type(group[key]).__name__}")
        # Adam itself looks at what it is made with, but not at what it is given afterwards.
        torch.optim.Adam([torch.zeros(1, requires_grad=True)], **{name: group[name] for name in SETTINGS})
    order = [whole("a parameter's place", place) for group in saved["param_groups"] for place in group["params"]]
    if order != list(range(len(order))):  # torch would give the moments to other parameters
        raise ValueError("the parameters of an optimizer are out of order")
    for moments in saved["state"].values():
        _moments(moments)


def adam_state(saved: Mapping[Any, Mapping[str, Any]], parameters: Sequence[Tensor]) -> None:
    """The ``state`` in the ``state_dict`` of an Adam over these parameters: moments of their shapes.

    Torch takes those of any other network, and fails at the first step, or learns from them.
    """
    for place, moments in saved.items():
        if whole("a parameter's place", place) not in range(len(parameters)):
            raise ValueError(f"the optimizer moves {len(parameters)} parameters, and the moments are of number {place}")
        _moments(moments)
        for name in ("exp_avg", "exp_avg_sq"):
            if moments[name].shape != parameters[place].shape:
                found, expected = list(moments[name].shape), list(parameters[place].shape)
                raise ValueError(f"{name} of parameter {place} is of shape {found}, the parameter of {expected}")


def _moments(moments: Mapping[str, Any]) -> None:
    """The moments of one parameter."""
    for name in MOMENTS:
        if not isinstance(moments[name], Tensor) or not moments[name].is_floating_point():
            raise TypeError(f"{name} of an optimizer is no tensor of floating point")
    if not float(moments["step"]) >= 0:
        raise ValueError(f"step of an optimizer is {float(moments['step'])}")


def _kind(setting: Any) -> Any:
    """What tells settings of an optimizer apart: switches, numbers, or the kinds of several."""
    if isinstance(setting, (tuple, list)):
        return [_kind(part) for part in setting]
    if setting is None or isinstance(setting, bool):
        return "switch"
    if isinstance(setting, int) and abs(setting) >= 2**63:
        return "more than torch can take"
    return "number" if isinstance(setting, (int, float)) else type(setting)
