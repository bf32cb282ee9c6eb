"""The paper's generator: a UNet whose last features feed an image, a scale map and a shape map.

Source: Zhang, Lin and Chen, "Deterministic Guided Progressive Medical Image Cross-Modal Generation Based on Deep
Learning"; UNet after Ronneberger et al. 2015, residual blocks after He et al. 2016.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import setting_checks as check
from ..errors import ShapeError
from ..runtime.tracing import is_tracing
from .ggd import GGDHead


class Distribution(NamedTuple):
    """A generated image with the generalized Gaussian of every pixel, three tensors ``[N, out_channels, H, W]``.

    Attributes:
        image: The mean, in [-1, 1].
        scale: The scale map alpha, positive, in units of the image's range.
        shape: The shape map beta (2 is Gaussian, 1 Laplace).
    """

    image: Tensor
    scale: Tensor
    shape: Tensor


class _InstanceNorm(nn.InstanceNorm2d):
    """Instance norm that lets a single pixel through: it has no variance, and torch refuses it."""

    def forward(self, input: Tensor) -> Tensor:
        if input.shape[-2] * input.shape[-1] == 1:
            return input
        return super().forward(input)


class ResConv(nn.Module):
    """Two 3x3 convolutions (padding 1, instance norm) around a shortcut, then ReLU.

    The shortcut is not normalised: it carries the absolute grey value past the norms.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output; where they differ the shortcut is a 1x1 convolution.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False),
            _InstanceNorm(out_channels),
            nn.ReLU(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            _InstanceNorm(out_channels),
        )
        self.shortcut = nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        return functional.relu(self.shortcut(x) + self.residual(x))


class Down(nn.Module):
    """Max-pool by 2 (odd sides lose their last line), then ResConv."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ResConv(in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H // 2, W // 2]``."""
        features: Tensor = self.conv(functional.max_pool2d(x, 2))
        return features


class Up(nn.Module):
    """Bilinear x2 with aligned corners, joined with the skip, then ResConv.

    Args:
        in_channels: Channels of the coarse features.
        skip_channels: Channels of the skip, whose size the output takes.
        out_channels: Channels of the output.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = ResConv(in_channels + skip_channels, out_channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """Map ``[N, in_channels, h, w]`` and ``[N, skip_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        features: Tensor = self.conv(torch.cat([skip, doubled(x, skip)], dim=1))
        return features


def doubled(x: Tensor, skip: Tensor) -> Tensor:
    """Coarse features at twice their size, bilinear with aligned corners, of just the skip's height and width."""
    fine = functional.interpolate(x, scale_factor=2, mode="bilinear", align_corners=True)
    height_px, width_px = skip.shape[-2:]
    if is_tracing():
        # A traced program takes pictures of any size, so nothing in it may hang on whether a side was odd. A side that
        # was halved lacks one line at most; one more than is needed is cut off again.
        fine = functional.pad(fine, (0, 1, 0, 1), mode="replicate")
    fine = fine[..., :height_px, :width_px]
    missing_rows, missing_columns = height_px - fine.shape[-2], width_px - fine.shape[-1]
    if missing_rows or missing_columns:
        fine = functional.pad(fine, (0, missing_columns, 0, missing_rows), mode="replicate")
    return fine


class OutConv(nn.Module):
    """One 1x1 convolution."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        output: Tensor = self.conv(x)
        return output


class UNet(nn.Module):
    """What the heads of a UNet read: the image halved ``depth`` times and brought back, with skips in between.

    Args:
        in_channels: Channels of the image.
        base_channels: Channels at full resolution; they double with each level but the last.
        depth: How often the image is halved; both its sides must be at least ``2 ** depth`` px.

    Raises:
        ConfigError: An argument is not a whole number of at least 1.
    """

    def __init__(self, in_channels: int, base_channels: int, depth: int) -> None:
        super().__init__()
        sizes = {"in_channels": in_channels, "base_channels": base_channels, "depth": depth}
        for argument, value in sizes.items():
            check.whole("", argument, value, low=1)
        self.in_channels = in_channels
        self.depth = depth
        # The last level keeps its width, so that after upsampling both halves of a join are equally wide.
        widths = [base_channels * 2 ** min(level, depth - 1) for level in range(depth + 1)]
        self.stem = ResConv(in_channels, base_channels)
        self.downs = nn.ModuleList(Down(widths[level], widths[level + 1]) for level in range(depth))
        self.ups = nn.ModuleList(
            Up(widths[level], widths[level], widths[max(level - 1, 0)]) for level in reversed(range(depth))
        )

    def features(self, x: Tensor) -> Tensor:
        """The features that all heads read.

        Args:
            x: Images ``[N, in_channels, H, W]`` in [-1, 1], both sides at least ``2 ** depth`` px.

        Returns:
            ``[N, base_channels, H, W]``, not negative.

        Raises:
            ShapeError: ``x`` has other channels or dimensions, or is too small.
        """
        self.check_input(x)
        skips: list[Tensor] = []
        features: Tensor = self.stem(x)
        for down in self.downs:
            skips.append(features)
            features = down(features)
        for up in self.ups:
            features = up(features, skips.pop())
        return features

    def check_input(self, x: Tensor, n_networks: int = 1) -> None:
        """Check images for this network, or for several of its build side by side, their channels one after another.

        Raises:
            ShapeError: ``x`` has other channels or dimensions, or is too small.
        """
        smallest_px, channels = 2**self.depth, n_networks * self.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(
                f"`x` must have the shape [N, {channels}, H, W]; got {list(x.shape)}; "
                f"add the missing dimension or set `in_channels`"
            )
        if min(x.shape[-2:]) < smallest_px:
            raise ShapeError(
                f"`x` must be at least {smallest_px} px high and wide for depth {self.depth}; "
                f"got {x.shape[-2]} x {x.shape[-1]}; use larger images or lower `depth`"
            )


class UNetGenerator(UNet):
    """The paper's three-headed UNet.

    Called as a module it returns the image alone, as every host expects; :meth:`distribution` gives the maps too.
    The convolution of ``image_head`` and ``ggd_head`` read the same features, ``[N, base_channels, H, W]``.

    Args:
        in_channels: Channels of the source image.
        out_channels: Channels of the generated image and of each map.
        base_channels: Channels at full resolution; they double with each level but the last.
        depth: How often the image is halved; both its sides must be at least ``2 ** depth`` px.

    Raises:
        ConfigError: An argument is not a whole number of at least 1.

    Example:
        >>> generator = UNetGenerator(base_channels=8, depth=2)
        >>> source = torch.zeros(1, 1, 32, 32)
        >>> generator(source).shape
        torch.Size([1, 1, 32, 32])
        >>> image, scale, shape = generator.distribution(source)
        >>> scale.shape, bool((scale > 0).all())
        (torch.Size([1, 1, 32, 32]), True)
    """

    def __init__(self, in_channels: int = 1, out_channels: int = 1, base_channels: int = 64, depth: int = 4) -> None:
        check.whole("", "out_channels", out_channels, low=1)
        super().__init__(in_channels, base_channels, depth)
        self.image_head = OutConv(base_channels, out_channels)
        self.ggd_head = GGDHead(base_channels, out_channels, hidden_channels=0)

    def forward(self, x: Tensor) -> Tensor:
        """Translate ``[N, in_channels, H, W]`` in [-1, 1] to images ``[N, out_channels, H, W]`` in [-1, 1].

        Raises:
            ShapeError: ``x`` has other channels or dimensions, or is too small.
        """
        return torch.tanh(self.image_head(self.features(x)))

    def distribution(self, x: Tensor) -> Distribution:
        """Translate, and say how sure: the image of :meth:`forward` with the two maps of the uncertainty head.

        Raises:
            ShapeError: ``x`` has other channels or dimensions, or is too small.
        """
        features = self.features(x)
        scale, shape = self.ggd_head(features)
        return Distribution(torch.tanh(self.image_head(features)), scale, shape)
