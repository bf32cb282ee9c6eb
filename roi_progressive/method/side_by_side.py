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
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of what a convolution read, of its weight and of its bias, those that are wanted."""
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient,
        read,
        weight,
        [len(weight)] if wanted[2] else None,
        [stride, stride],
        [padding, padding],
        [1, 1],
        False,
        [0, 0],
        groups,
        wanted,
    )
    return found
