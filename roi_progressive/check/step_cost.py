"""What a training step costs: floating-point operations, and memory that lives through it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

BYTES_A_PARAMETER = 16
"""Single precision: the weight, its gradient, and Adam's two moments."""


@dataclass(frozen=True)
class StepCost:
    """The cost of one step.

    Args:
        n_parameters: Of all networks that take part.
        flops: Floating-point operations of convolutions and matrix products, forward and backward.
        memory_bytes: Parameters with their optimizer, and what autograd keeps for the backward pass.
    """

    n_parameters: int
    flops: int
    memory_bytes: int

    def percent_of(self, other: StepCost) -> StepCost:
        """Each number as whole per cent of another step's."""
        pairs = zip(
            (self.n_parameters, self.flops, self.memory_bytes),
            (other.n_parameters, other.flops, other.memory_bytes),
            strict=True,
        )
        return StepCost(*(round(100 * own / max(base, 1)) for own, base in pairs))

    def beyond(self, other: StepCost) -> StepCost:
        """What this step costs more than another."""
        return StepCost(
            self.n_parameters - other.n_parameters, self.flops - other.flops, self.memory_bytes - other.memory_bytes
        )


def count_parameters(networks: Iterable[nn.Module]) -> int:
    """Parameters of networks, each counted once."""
    return sum(p.numel() for p in {id(p): p for net in networks for p in net.parameters()}.values())


def measured(step: Callable[[], None], networks: Callable[[], Iterable[nn.Module]]) -> StepCost:
    """Take a step and measure it.

    Args:
        step: Trains once.
        networks: All networks that took part; asked after the step, which may build some.
    """
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = flop_counter()
    with counter, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        step()
    n_parameters = count_parameters(networks())
    return StepCost(n_parameters, counter.get_total_flops(), sum(kept.values()) + BYTES_A_PARAMETER * n_parameters)


def flop_counter() -> FlopCounterMode:
    """Counts the floating-point operations of convolutions and matrix products, those of grouped convolutions too.

    Torch's own counter takes the weights' gradient of a grouped convolution for that of a full one.
    """
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution_backward: _of_backward})


def _of_backward(
    gradient: Sequence[int],
    image: Sequence[int],
    weight: Sequence[int],
    bias: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    output_padding: Any,
    groups: int,
    wanted: Sequence[bool],
    out_shape: Any,
    **_: Any,
) -> int:
    """Each of the two gradients takes as many operations as the convolution itself."""
    places = (image if transposed else gradient)[2:]
    return 2 * image[0] * prod(places) * prod(weight) * sum(wanted[:2])
