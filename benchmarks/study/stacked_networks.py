"""Many equal networks as one: the paper's UNet and the PatchGAN, each layer of all of them in one grouped convolution.

A training at 64 px leaves a GPU idle between the starts of its kernels. Stacked, dozens of trainings share the starts.
A stack of S networks ("slots") maps ``[N, S * channels, H, W]``, slot by slot, and no slot sees another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roi_progressive.method.discriminators import patch_geometry

INIT_STD = 0.02


class StackedConv(nn.Module):
    """A convolution a slot.

    Args:
        seeds: One a slot: slots of equal seeds begin with equal weights.
        number: Of the convolution in its network, so that its layers begin with different ones.
    """

    unfolded = False
    """Whether to multiply matrices of unfolded patches, where that is faster than grouped convolutions."""

    def __init__(
        self, seeds: Sequence[int], number: int, cin: int, cout: int, kernel: int, stride: int, padding: int, bias: bool
    ) -> None:
        super().__init__()
        self.slots, self.shape = len(seeds), (cin, cout, kernel, stride, padding)
        drawn: dict[int, Tensor] = {}
        for seed in set(seeds):
            stream = torch.Generator().manual_seed(seed * 1009 + number)
            drawn[seed] = torch.randn(cout, cin, kernel, kernel, generator=stream) * INIT_STD
        self.weight = nn.Parameter(torch.cat([drawn[seed] for seed in seeds]))
        self.bias = nn.Parameter(torch.zeros(self.slots * cout)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        cin, cout, kernel, stride, padding = self.shape
        if not StackedConv.unfolded:
            return F.conv2d(x, self.weight, self.bias, stride, padding, groups=self.slots)
        n, _, height, width = x.shape
        rows, columns = ((side + 2 * padding - kernel) // stride + 1 for side in (height, width))
        patches = x if kernel == 1 else F.unfold(x, kernel, padding=padding, stride=stride)
        patches = patches.reshape(n, self.slots, cin * kernel * kernel, rows * columns)
        y = torch.matmul(self.weight.reshape(self.slots, cout, -1), patches)
        y = y.reshape(n, self.slots * cout, rows, columns)
        return y if self.bias is None else y + self.bias[None, :, None, None]


class StackedNetwork(nn.Module):
    """Counts its convolutions, so that each has its own start."""

    def __init__(self, seeds: Sequence[int]) -> None:
        super().__init__()
        self.seeds, self._made = list(seeds), 0

    def conv(
        self, cin: int, cout: int, kernel: int, stride: int = 1, padding: int = 0, bias: bool = True
    ) -> StackedConv:
        self._made += 1
        return StackedConv(self.seeds, self._made, cin, cout, kernel, stride, padding, bias)

    def join(self, *images: Tensor) -> Tensor:
        """Concatenate channels slot by slot."""
        slots = len(self.seeds)
        parts = [image.unflatten(1, (slots, -1)) for image in images]
        return torch.cat(parts, dim=2).flatten(1, 2)


class _ResConv(nn.Module):
    def __init__(self, net: StackedNetwork, cin: int, cout: int) -> None:
        super().__init__()
        self.first = net.conv(cin, cout, 3, padding=1, bias=False)
        self.second = net.conv(cout, cout, 3, padding=1, bias=False)
        self.shortcut = nn.Identity() if cin == cout else net.conv(cin, cout, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = F.instance_norm(self.second(F.relu(F.instance_norm(self.first(x)))))
        return F.relu(self.shortcut(x) + y)


class StackedUNet(StackedNetwork):
    """The generator; ``final`` is applied to its image head's output."""

    def __init__(self, seeds: Sequence[int], out_channels: int = 1, base: int = 16, depth: int = 3) -> None:
        super().__init__(seeds)
        widths = [base * 2 ** min(level, depth - 1) for level in range(depth + 1)]
        self.stem = _ResConv(self, 1, base)
        self.downs = nn.ModuleList(_ResConv(self, widths[k], widths[k + 1]) for k in range(depth))
        self.ups = nn.ModuleList(_ResConv(self, 2 * widths[k], widths[max(k - 1, 0)]) for k in reversed(range(depth)))
        self.head = self.conv(base, out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        features = self.stem(x)
        for down in self.downs:
            skips.append(features)
            features = down(F.max_pool2d(features, 2))
        for up in self.ups:
            fine = F.interpolate(features, scale_factor=2, mode="bilinear", align_corners=True)
            features = up(self.join(skips.pop(), fine))
        logits: Tensor = self.head(features)
        return logits


class StackedPatchGAN(StackedNetwork):
    """The Markovian discriminator; ``features`` gives the map after every layer, the logits last."""

    def __init__(self, seeds: Sequence[int], base: int, layers: int, in_channels: int = 1, norm: bool = True) -> None:
        super().__init__(seeds)
        self.geometry, self.norm = patch_geometry(layers, False), norm
        widths = [base * min(2**level, 8) for level in range(layers + 1)]
        channels, convs = in_channels, []
        for level, (width, (kernel, stride, padding)) in enumerate(zip(widths, self.geometry, strict=False)):
            convs.append(self.conv(channels, width, kernel, stride, padding, bias=level == 0 or not norm))
            channels = width
        kernel, stride, padding = self.geometry[-1]
        self.layers = nn.ModuleList(convs)
        self.last = self.conv(channels, 1, kernel, stride, padding)

    def features(self, x: Tensor) -> list[Tensor]:
        maps = []
        for level, conv in enumerate(self.layers):
            x = conv(x)
            x = F.leaky_relu(F.instance_norm(x) if level and self.norm else x, 0.2)
            maps.append(x)
        return [*maps, self.last(x)]

    def forward(self, x: Tensor) -> Tensor:
        return self.features(x)[-1]
