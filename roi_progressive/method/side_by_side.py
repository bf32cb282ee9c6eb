"""Networks of one build side by side: one call of grouped convolutions in place of a call for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


class SideBySide:
    """The parameters of several networks of one build, those of one place following one another in memory.

    The networks keep their parameters, and whatever is done to those is done to the whole: both look at the same
    memory. The parameters of one network alone stay where they are.

    Args:
        places: The parameters of each place, one of every network.
    """

    def __init__(self, places: Sequence[Sequence[nn.Parameter]]) -> None:
        self._places = [list(same) for same in places]
        self.every = [parameter for same in self._places for parameter in same]
        """Place by place."""
        self._whole: list[Tensor] = []
        self._found: list[tuple[nn.Parameter, int]] = []
        self._dtype = torch.float32

    def whole(self) -> list[Tensor]:
        """Of each place what all networks have there, on top of one another."""
        if not self._is_in_place():
            self._lay()
        return self._whole

    def _is_in_place(self) -> bool:
        """Whether the parameters still lie where they were put: a move to a device takes them elsewhere."""
        return bool(self._found) and all(
            parameter.data_ptr() == place and parameter.dtype == self._dtype for parameter, place in self._found
        )

    @torch.no_grad()
    def _lay(self) -> None:
        """Put the parameters beside one another, and let each be its part of that."""
        self._whole = [torch.cat([p.data for p in same]) if len(same) > 1 else same[0].data for same in self._places]
        for whole, same in zip(self._whole, self._places, strict=True):
            for parameter, part in zip(same, whole.chunk(len(same)), strict=True):
                parameter.data = part
        self._found = [(parameter, parameter.data_ptr()) for parameter in self.every]
        self._dtype = self._whole[0].dtype


class Listeners:
    """Who listens to the calls of networks and of their parts, which calls of ours would pass by.

    Args:
        networks: Those networks.
    """

    def __init__(self, networks: Iterable[nn.Module]) -> None:
        self._parts = [part for network in networks for part in network.modules()]
        self._hooks = [
            hooks
            for part in self._parts
            for hooks in (
                part._forward_hooks,
                part._forward_pre_hooks,
                part._backward_hooks,
                part._backward_pre_hooks,
            )
        ]

    def are_there(self) -> bool:
        """Whether anybody does, or has compiled one."""
        return any(self._hooks) or any(part._compiled_call_impl is not None for part in self._parts)


def convolution_backward(
    gradient: Tensor,
    read: Tensor,
    weight: Tensor,
    *,
    stride: int,
    padding: int,
    groups: int,
    first_learnt: int,
    to_read: bool,
    has_bias: bool,
) -> tuple[Tensor | None, list[Tensor]]:
    """The way back through a convolution whose parameters learn from some of the samples only.

    Args:
        gradient: Of what came out.
        read: What it read.
        weight: Its weight.
        stride: In pixels, as all of its geometry.
        padding: Likewise.
        groups: How many networks lie side by side.
        first_learnt: The parameters learn from this sample on; from none where it is their number.
        to_read: Whether the gradient of what was read is wanted.
        has_bias: Whether there is a bias.

    Returns:
        The gradient of what was read, ``None`` where it is not wanted, and those of weight and bias, if any is learnt.
    """

    def back(gradient: Tensor, read: Tensor, wanted: tuple[bool, bool, bool]) -> list[Tensor | None]:
        bias_sizes = [len(weight)] if wanted[2] else None
        geometry = [stride, stride], [padding, padding], [1, 1], False, [0, 0], groups
        return [*torch.ops.aten.convolution_backward(gradient, read, weight, bias_sizes, *geometry, wanted)]

    if first_learnt == 0:
        handed_on, *learnt = back(gradient, read, (to_read, True, has_bias))
    else:
        from_there = slice(first_learnt, None)
        learns = first_learnt < len(gradient)
        learnt = back(gradient[from_there], read[from_there], (False, True, has_bias))[1:] if learns else []
        handed_on = back(gradient, read, (True, False, False))[0] if to_read else None
    return handed_on, [found for found in learnt if found is not None]
