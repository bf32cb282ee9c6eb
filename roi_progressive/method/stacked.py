"""PatchGANs of one build side by side: as many networks in the calls of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .discriminators import PatchDiscriminator, RegionDiscriminator
from .regions import pyramid

EPSILON = 1e-5
"""InstanceNorm2d's own."""
_PARTS = (nn.Conv2d, nn.InstanceNorm2d, nn.LeakyReLU)


class StackedPatchGAN:
    """Several ``PatchDiscriminator`` of one build as one network of grouped convolutions.

    The networks keep their parameters, and whatever is done to those is done to the stack: both look at the same
    memory, in which the parameters of all networks follow one another. InstanceNorm looks at each channel of each
    sample alone, so that no network sees another's windows.

    Args:
        networks: See ``of``.
        compiled: Have ``torch.compile`` make kernels of their layers.
    """

    def __init__(self, networks: Sequence[PatchDiscriminator], *, compiled: bool = False) -> None:
        self._layers = torch.compile(self._forward, dynamic=False) if compiled else self._forward
        self._networks = list(networks)
        self._geometry = networks[0].geometry
        convolutions = [[m for m in network.model if isinstance(m, nn.Conv2d)] for network in networks]
        layers = list(zip(*convolutions, strict=True))
        self._weights = [[layer.weight for layer in same] for same in layers]
        self._biases = [[layer.bias for layer in same if layer.bias is not None] for same in layers]
        self._parameters = [same for same in (*self._weights, *self._biases) if same]
        self._stacked: list[Tensor] = []
        self._places: list[tuple[nn.Parameter, int]] = []
        self._dtype = torch.float32

    @classmethod
    def of(cls, networks: Sequence[nn.Module], *, compiled: bool = False) -> StackedPatchGAN | None:
        """The networks side by side; ``None`` where they are not all ours, of one build."""
        ours = [network for network in networks if type(network) is PatchDiscriminator]
        if len(ours) < len(networks):
            return None
        if any(type(part) not in _PARTS for network in ours for part in network.model):  # e.g. a spectral norm
            return None
        builds = {
            (network.geometry, *((name, p.shape, p.dtype) for name, p in network.named_parameters()))
            for network in ours
        }
        return cls(ours, compiled=compiled) if len(builds) == 1 else None

    def __call__(self, pixels: Tensor, *, learn: bool) -> Tensor:
        """Judge windows.

        Args:
            pixels: ``[n, C, H, W]``, C the channels of all networks one after another.
            learn: Whether the networks' parameters get a gradient.

        Returns:
            Logits ``[n, len(networks), h, w]``.

        Raises:
            ShapeError: The windows are too small.
        """
        self._networks[0].check_input(pixels, len(self._networks))
        if not self._is_stacked():
            self._stack()
        stacked: Sequence[Tensor] = self._stacked
        if learn and torch.is_grad_enabled():
            stacked = _SideBySide.apply(self._stacked, *(parameter for same in self._parameters for parameter in same))
        logits: Tensor = self._layers(pixels, stacked)
        return logits

    def _forward(self, x: Tensor, stacked: Sequence[Tensor]) -> Tensor:
        n_networks, last = len(self._networks), len(self._geometry) - 1
        biases = iter(stacked[len(self._weights) :])
        for place, (_, stride, padding) in enumerate(self._geometry):
            bias = next(biases) if self._biases[place] else None
            x = F.conv2d(x, stacked[place], bias, stride, padding, groups=n_networks)
            if place == last:
                break
            if place == 0:
                x = F.leaky_relu_(x, 0.2)
            else:  # InstanceNorm is a norm over a batch of one; what it returns is no view, and may be changed in place
                shape = x.shape
                x = torch.batch_norm(
                    x.reshape(1, -1, *shape[2:]),
                    None,
                    None,
                    None,
                    None,
                    True,
                    0.0,
                    EPSILON,
                    torch.backends.cudnn.enabled,
                )
                x = F.leaky_relu_(x, 0.2).view(shape)
        return x

    def _is_stacked(self) -> bool:
        """Whether the networks' parameters still lie where they were put: a move to a device takes them elsewhere."""
        return bool(self._places) and all(
            parameter.data_ptr() == place and parameter.dtype == self._dtype for parameter, place in self._places
        )

    @torch.no_grad()
    def _stack(self) -> None:
        """Lay the parameters of all networks side by side, and let each parameter be its part of that."""
        self._stacked = [torch.cat([parameter.data for parameter in same]) for same in self._parameters]
        for stacked, same in zip(self._stacked, self._parameters, strict=True):
            for parameter, part in zip(same, stacked.chunk(len(same)), strict=True):
                parameter.data = part
        self._places = [(parameter, parameter.data_ptr()) for same in self._parameters for parameter in same]
        self._dtype = self._stacked[0].dtype


class _SideBySide(torch.autograd.Function):
    """The stacked parameters as a function of the networks' own, which get their part of the gradient back."""

    @staticmethod
    def forward(ctx: Any, stacked: Sequence[Tensor], *parameters: Tensor) -> tuple[Tensor, ...]:
        ctx.n_networks = len(parameters) // len(stacked)
        return tuple(tensor.detach() for tensor in stacked)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(part for gradient in gradients for part in gradient.chunk(ctx.n_networks))


class StackedRegion:
    """The networks of one region in several directions, scale by scale side by side.

    Args:
        networks: See ``of``.
        stacks: Their networks of each scale.
    """

    def __init__(self, networks: Sequence[RegionDiscriminator], stacks: Sequence[StackedPatchGAN]) -> None:
        self._stacks = list(stacks)
        self._parts = [part for network in networks for part in network.modules()]

    @classmethod
    def of(cls, networks: Sequence[RegionDiscriminator], *, compiled: bool = False) -> StackedRegion | None:
        """The networks side by side; ``None`` where they are not all ours, of one build."""
        by_scale = zip(*(network.scales for network in networks), strict=True)
        found = [StackedPatchGAN.of(scale, compiled=compiled) for scale in by_scale]
        stacks = [stack for stack in found if stack is not None]
        return cls(networks, stacks) if len(stacks) == len(found) else None

    def is_hooked(self) -> bool:
        """Whether somebody listens to a call of a network or of a part of one, or has compiled it."""
        return any(
            part._forward_hooks
            or part._forward_pre_hooks
            or part._backward_hooks
            or part._backward_pre_hooks
            or part._compiled_call_impl is not None
            for part in self._parts
        )

    def __call__(self, pixels: Tensor, *, learn: bool) -> list[Tensor]:
        """Logits ``[n, len(networks), h, w]``, scale by scale; see ``StackedPatchGAN``."""
        levels = pyramid(pixels, len(self._stacks))
        return [stack(level, learn=learn) for stack, level in zip(self._stacks, levels, strict=True)]
