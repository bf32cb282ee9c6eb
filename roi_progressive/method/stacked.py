"""PatchGANs of one build side by side: as many networks in the calls of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .discriminators import PatchDiscriminator, RegionDiscriminator
from .logit_weights import pyramid
from .side_by_side import Listeners, SideBySide, convolution_backward

EPSILON = 1e-5
"""InstanceNorm2d's own."""
SLOPE = 0.2
"""Of a PatchGAN's LeakyReLU."""
_PARTS = (nn.Conv2d, nn.InstanceNorm2d, nn.LeakyReLU)


class StackedPatchGAN:
    """Several ``PatchDiscriminator`` of one build as one network of grouped convolutions.

    InstanceNorm looks at each channel of each sample alone, so that no network sees another's windows.

    Args:
        networks: See ``of``.
        compiled: Have ``torch.compile`` make kernels of their layers.
    """

    def __init__(self, networks: Sequence[PatchDiscriminator], *, compiled: bool = False) -> None:
        self.forward = torch.compile(self._forward, dynamic=False) if compiled else self._forward
        self.backward = torch.compile(self._backward, dynamic=False) if compiled else self._backward
        self._networks = list(networks)
        self._geometry = networks[0].geometry
        convolutions = [[m for m in network.model if isinstance(m, nn.Conv2d)] for network in networks]
        layers = list(zip(*convolutions, strict=True))
        self._has_bias = [layer.bias is not None for layer in convolutions[0]]
        weights = [[layer.weight for layer in same] for same in layers]
        biases = [[layer.bias for layer in same if layer.bias is not None] for same in layers]
        self._parameters = SideBySide([same for same in (*weights, *biases) if same])
        """Weights of all layers, then their biases."""

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

    def __call__(self, pixels: Tensor, first_learnt: int) -> Tensor:
        """Judge windows.

        Args:
            pixels: ``[n, C, H, W]``, C the channels of all networks one after another.
            first_learnt: The networks' parameters get a gradient from this window on; those before it only hand theirs
                on to the pixels.

        Returns:
            Logits ``[n, len(networks), h, w]``.

        Raises:
            ShapeError: The windows are too small.
        """
        self._networks[0].check_input(pixels, len(self._networks))
        whole = self._parameters.whole()
        parameters = self._parameters.every if first_learnt < len(pixels) else ()
        logits: Tensor = _Layers.apply(self, whole, first_learnt, pixels, *parameters)
        return logits

    def _forward(self, pixels: Tensor, whole: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        """Logits, and of every layer what ``_backward`` needs: what it read, what came out of the convolution, and the
        norm's mean and inverse deviation."""
        x, kept, last = pixels, [], len(self._geometry) - 1
        biases = iter(whole[last + 1 :])
        for place, (_, stride, padding) in enumerate(self._geometry):
            kept.append(x)
            bias = next(biases) if self._has_bias[place] else None
            x = F.conv2d(x, whole[place], bias, stride, padding, groups=len(self._networks))
            if place == last:
                break
            if place == 0:
                x = F.leaky_relu_(x, SLOPE)
            else:  # InstanceNorm is a norm over a batch of one
                shape = x.shape
                normed, *statistics = torch.native_batch_norm(
                    x.reshape(1, -1, *shape[2:]), None, None, None, None, True, 0.0, EPSILON
                )
                kept += [x, *statistics]
                x = F.leaky_relu_(normed, SLOPE).view(shape)
        return x, kept

    def _backward(
        self, gradient: Tensor, whole: Sequence[Tensor], kept: Sequence[Tensor], first_learnt: int, to_pixels: bool
    ) -> tuple[Tensor | None, list[Tensor]]:
        """Gradients of the pixels, where asked for, and of ``whole``, where any window is learnt from."""
        weights: list[Tensor] = []
        biases: list[Tensor] = []
        place, rest = len(self._geometry) - 1, list(kept)
        while True:
            read, (_, stride, padding) = rest.pop(), self._geometry[place]
            handed_on, learnt = convolution_backward(
                gradient,
                read,
                whole[place],
                stride=stride,
                padding=padding,
                groups=len(self._networks),
                first_learnt=first_learnt,
                to_read=place > 0 or to_pixels,
                has_bias=self._has_bias[place],
            )
            weights += learnt[:1]
            biases += learnt[1:]
            if place == 0:
                return handed_on, [*weights[::-1], *biases[::-1]]
            gradient = torch.ops.aten.leaky_relu_backward(handed_on, read, SLOPE, True)
            if place > 1:
                inverse_deviation, mean, came_out = rest.pop(), rest.pop(), rest.pop()
                as_one = (1, -1, *gradient.shape[2:])
                gradient = torch.ops.aten.native_batch_norm_backward(
                    gradient.reshape(as_one),
                    came_out.reshape(as_one),
                    None,
                    None,
                    None,
                    mean,
                    inverse_deviation,
                    True,
                    EPSILON,
                    [True, False, False],
                )[0].view(gradient.shape)
            place -= 1


class _Layers(torch.autograd.Function):
    """All layers of a ``StackedPatchGAN``, whose networks learn from some of the windows only.

    So one pass over the windows, there and back, serves the generators' loss and the discriminators' own.
    """

    @staticmethod
    def forward(
        ctx: Any, of: StackedPatchGAN, whole: list[Tensor], first_learnt: int, pixels: Tensor, *parameters: Tensor
    ) -> Tensor:
        logits, kept = of.forward(pixels, whole)
        ctx.of, ctx.whole, ctx.first_learnt = of, whole, first_learnt
        ctx.save_for_backward(*kept)
        return logits

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_pixels, to_networks = ctx.needs_input_grad[3], any(ctx.needs_input_grad[4:])
        first_learnt = ctx.first_learnt if to_networks else len(gradient)
        of_pixels, of_whole = ctx.of.backward(gradient, ctx.whole, ctx.saved_tensors, first_learnt, to_pixels)
        n_parameters = len(ctx.needs_input_grad) - 4
        if not to_networks:
            return None, None, None, of_pixels, *[None] * n_parameters
        n_networks = n_parameters // len(of_whole)
        return None, None, None, of_pixels, *(part for found in of_whole for part in found.chunk(n_networks))


class StackedRegion:
    """The networks of one region in several directions, scale by scale side by side.

    Args:
        networks: See ``of``.
        stacks: Their networks of each scale.
    """

    def __init__(self, networks: Sequence[RegionDiscriminator], stacks: Sequence[StackedPatchGAN]) -> None:
        self._stacks = list(stacks)
        self._listeners = Listeners(networks)

    @classmethod
    def of(cls, networks: Sequence[RegionDiscriminator], *, compiled: bool = False) -> StackedRegion | None:
        """The networks side by side; ``None`` where they are not all ours, of one build."""
        by_scale = zip(*(network.scales for network in networks), strict=True)
        found = [StackedPatchGAN.of(scale, compiled=compiled) for scale in by_scale]
        stacks = [stack for stack in found if stack is not None]
        return cls(networks, stacks) if len(stacks) == len(found) else None

    def is_hooked(self) -> bool:
        """Whether somebody listens to a call of a network or of a part of one, or has compiled it."""
        return self._listeners.are_there()

    def __call__(self, pixels: Tensor, first_learnt: int) -> list[Tensor]:
        """Logits ``[n, len(networks), h, w]``, scale by scale; see ``StackedPatchGAN``."""
        levels = pyramid(pixels, len(self._stacks))
        return [stack(level, first_learnt) for stack, level in zip(self._stacks, levels, strict=True)]
