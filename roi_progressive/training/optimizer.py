"""One Adam over everything of ours, saved as one a network."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..runtime.finite import drop_where_not, is_read_late

HOW = ("fused", "foreach", "capturable")
"""Settings of an optimizer that say how a step is made, and not which."""


class SharedAdam:
    """Moves several networks in one step, each at a rate of its own, and saves each as an Adam that stands alone.

    So a network may join later, or be left out of a run that goes on, and files of one Adam a network are read as they
    are. Parameters without a gradient, and their moments, stay untouched.

    Args:
        betas: Of all networks.
    """

    def __init__(self, betas: tuple[float, float]) -> None:
        self._betas = betas
        self._adam: torch.optim.Adam | None = None
        self._places: dict[str, int] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._places

    @property
    def names(self) -> tuple[str, ...]:
        """Of the networks that joined."""
        return tuple(self._places)

    def parameters(self, *, but: str) -> list[nn.Parameter]:
        """Of all networks but one."""
        groups = [] if self._adam is None else self._adam.param_groups
        return [p for name, place in self._places.items() if name != but for p in groups[place]["params"]]

    def add(self, name: str, parameters: Iterable[nn.Parameter]) -> None:
        """A network joins; one without parameters does not."""
        own = list(parameters)
        if not own:
            return
        if self._adam is None:
            self._adam = _adam(own, self._betas)
        else:
            self._adam.add_param_group({"params": own})
        self._places[name] = len(self._places)

    def step(self, rates: Mapping[str, float], is_finite: Tensor) -> bool:
        """Move what has a gradient.

        Args:
            rates: Learning rate of every network, by name.
            is_finite: Whether all gradients are; where not, nothing moves. On a device nobody waits to hear of it.

        Returns:
            Whether the step was made, as far as can be told without waiting for a device.
        """
        late = is_read_late(is_finite)
        made = late or bool(is_finite)
        if self._adam is None or not made:
            return made
        for name, place in self._places.items():
            self._adam.param_groups[place]["lr"] = rates[name]
        if late:
            _step_if(is_finite, self._adam)
        else:
            self._adam.step()
        return made

    def state_of(self, name: str) -> dict[str, Any] | None:
        """What ``torch.optim.Adam`` over this network alone would save; ``None`` where it has no parameters."""
        if self._adam is None or name not in self._places:
            return None
        saved = self._adam.state_dict()
        group = saved["param_groups"][self._places[name]]
        state = {n: saved["state"][place] for n, place in enumerate(group["params"]) if place in saved["state"]}
        return {"state": state, "param_groups": [{**group, "params": list(range(len(group["params"])))}]}

    def load(self, name: str, saved: Mapping[str, Any]) -> None:
        """Go on with the moments that an Adam over this network saved.

        Raises:
            ValueError: They belong to parameters of another number or shape.
        """
        assert self._adam is not None
        whole = self._adam.state_dict()
        own = whole["param_groups"][self._places[name]]
        (given,) = saved["param_groups"]
        if len(given["params"]) != len(own["params"]) or not set(saved["state"]) <= set(range(len(own["params"]))):
            raise ValueError(
                f"an optimizer of {len(given['params'])} parameters was saved, and the network has {len(own['params'])}"
            )
        # How a step is made is this machine's affair.
        as_here = {how: own[how] for how in HOW if how in own}
        whole["param_groups"][self._places[name]] = {**copy.deepcopy(given), **as_here, "params": own["params"]}
        for place in own["params"]:
            whole["state"].pop(place, None)
        # An optimizer goes on with the very tensors it is given, and looks at them in its next step only.
        for n, moments in copy.deepcopy(dict(saved["state"])).items():
            whole["state"][own["params"][n]] = moments
        self._adam.load_state_dict(whole)
        for parameter in self._adam.param_groups[self._places[name]]["params"]:
            moments = self._adam.state.get(parameter, {})
            for of in ("exp_avg", "exp_avg_sq"):
                if moments and moments[of].shape != parameter.shape:
                    shapes = f"{list(moments[of].shape)} and {list(parameter.shape)}"
                    raise ValueError(f"{of} of an optimizer and its parameter are of shapes {shapes}")


def _adam(parameters: list[nn.Parameter], betas: tuple[float, float]) -> torch.optim.Adam:
    """Adam that moves all parameters in one operation, where this torch has one for their device."""
    try:
        return torch.optim.Adam(parameters, lr=0.0, betas=betas, fused=True)
    except RuntimeError:  # e.g. torch before 2.4 on the CPU
        return torch.optim.Adam(parameters, lr=0.0, betas=betas)


def _step_if(is_finite: Tensor, optimizer: torch.optim.Adam) -> None:
    """A step that is left out where ``is_finite`` turns out false on the device; nobody waits to hear of it."""
    if optimizer.param_groups[0].get("fused"):
        optimizer.found_inf = (~is_finite).float()  # type: ignore[attr-defined]  # torch's GradScaler does the same
        optimizer.step()
        del optimizer.found_inf  # type: ignore[attr-defined]
        return
    # Without that, what was learnt before still moves the parameters a little.
    drop_where_not(is_finite, [parameter for group in optimizer.param_groups for parameter in group["params"]])
    optimizer.step()
