"""UNets of one build side by side: as many networks in the calls of one, which learn from some of the images only."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .generator import Down, OutConv, ResConv, UNet, Up, doubled
from .side_by_side import Listeners, SideBySide, convolution_backward


class StackedUNets:
    """Several ``UNet`` of one build, each with one head, as one network of grouped convolutions.

    InstanceNorm looks at each channel of each image alone, so that no network sees another's images.

    Args:
        networks: The networks.
        heads: The head of each, a module of it.
    """

    def __init__(self, networks: Sequence[UNet], heads: Sequence[OutConv]) -> None:
        self._unet, self._head, self._n = networks[0], heads[0], len(networks)
        convolutions = [[part for part in network.modules() if isinstance(part, nn.Conv2d)] for network in networks]
        self._place_of: dict[nn.Module, tuple[int, int | None]] = {}
        """Of each convolution of the first network: where its weight and its bias are among the parameters."""
        places: list[list[nn.Parameter]] = []
        for same in zip(*convolutions, strict=True):
            biases = [part.bias for part in same if part.bias is not None]
            self._place_of[same[0]] = len(places), len(places) + 1 if biases else None
            places += [[part.weight for part in same], *([biases] if biases else [])]
        self._parameters = SideBySide(places)
        self._listeners = Listeners(networks)

    def is_hooked(self) -> bool:
        """Whether somebody listens to a call of a network or of a part of one, or has compiled it."""
        return self._listeners.are_there()

    def __call__(self, images: Tensor, first_learnt: int) -> Tensor:
        """What the heads make of images.

        Args:
            images: ``[n, C, H, W]``, C the channels of all networks one after another.
            first_learnt: The networks' parameters get a gradient from this image on; those before it only hand theirs
                on to the image.

        Returns:
            ``[n, len(networks), channels, H, W]``.

        Raises:
            ShapeError: The images are too small, or have other channels.
        """
        self._unet.check_input(images, self._n)
        run = _Pass(self._parameters.whole(), self._parameters.every, self._place_of, self._n, first_learnt)
        skips: list[Tensor] = []
        features = run.residual(self._unet.stem, images)
        for down in cast("Iterable[Down]", self._unet.downs):
            skips.append(features)
            features = run.residual(down.conv, F.max_pool2d(features, 2))
        for up in cast("Iterable[Up]", self._unet.ups):
            skip = skips.pop()
            features = run.residual(up.conv, run.joined(skip, doubled(features, skip)))
        made = run.convolution(self._head.conv, features)
        return made.view(len(made), self._n, -1, *made.shape[2:])


class _Pass:
    """One call of the stack."""

    def __init__(
        self,
        whole: Sequence[Tensor],
        every: Sequence[nn.Parameter],
        place_of: dict[nn.Module, tuple[int, int | None]],
        n_networks: int,
        first_learnt: int,
    ) -> None:
        self._whole, self._every, self._place_of = whole, every, place_of
        self._n, self._first_learnt = n_networks, first_learnt

    def convolution(self, of: nn.Module, read: Tensor) -> Tensor:
        """What the convolutions of all networks make of ``read``; ``of`` is the first network's."""
        of_weight, of_bias = self._place_of[of]
        weight, bias = self._whole[of_weight], None if of_bias is None else self._whole[of_bias]
        parameters: list[nn.Parameter] = []
        if self._first_learnt < len(read):
            for place in (of_weight, of_bias):
                parameters += [] if place is None else self._every[place * self._n : (place + 1) * self._n]
        made: Tensor = _Convolution.apply(read, weight, bias, of.padding[0], self._n, self._first_learnt, *parameters)  # type: ignore[index]
        return made

    def residual(self, block: ResConv, read: Tensor) -> Tensor:
        """What the residual blocks of all networks make of ``read``."""
        first, _, _, second, _ = block.residual
        inner = self.convolution(second, F.relu(_normed(self.convolution(first, read))))
        shortcut = read if isinstance(block.shortcut, nn.Identity) else self.convolution(block.shortcut, read)
        return F.relu(shortcut + _normed(inner))

    def joined(self, skip: Tensor, fine: Tensor) -> Tensor:
        """Skips and features beside one another, network by network."""
        if self._n == 1:
            return torch.cat([skip, fine], dim=1)
        of_each = [part.view(len(part), self._n, -1, *part.shape[2:]) for part in (skip, fine)]
        return torch.cat(of_each, dim=2).flatten(1, 2)


def _normed(x: Tensor) -> Tensor:
    """As a ``ResConv`` norms: a single pixel has no variance, and is let through."""
    return x if x.shape[-2] * x.shape[-1] == 1 else F.instance_norm(x)


class _Convolution(torch.autograd.Function):
    """A grouped convolution (stride 1) whose parameters learn from some of the images only.

    Args of ``forward``:
        read: ``[n, C, H, W]``.
        weight: Of all networks.
        bias: Likewise.
        padding: In pixels.
        groups: How many networks.
        first_learnt: The first image that the parameters learn from.
        parameters: Those that the gradients go to: the networks' weights, then their biases.
    """

    @staticmethod
    def forward(
        ctx: Any,
        read: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        padding: int,
        groups: int,
        first_learnt: int,
        *parameters: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(read, weight)
        ctx.padding, ctx.groups, ctx.first_learnt = padding, groups, first_learnt
        return F.conv2d(read, weight, bias, 1, padding, groups=groups)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        read, weight = ctx.saved_tensors
        to_read, to_parameters = ctx.needs_input_grad[0], ctx.needs_input_grad[6:]
        handed_on, found = convolution_backward(
            gradient,
            read,
            weight,
            stride=1,
            padding=ctx.padding,
            groups=ctx.groups,
            first_learnt=ctx.first_learnt if any(to_parameters) else len(gradient),
            to_read=to_read,
            has_bias=len(to_parameters) > ctx.groups,
        )
        of_parameters = [part for whole in found for part in whole.chunk(ctx.groups)]
        nothing: list[Tensor | None] = [None] * len(to_parameters)
        return (handed_on, *[None] * 5, *(of_parameters or nothing))
