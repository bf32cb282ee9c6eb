"""The published networks that the benchmarks compare with, written out compactly.

Sources: resnet_9blocks, unet_256 and the 70 x 70 PatchGAN of junyanz/pytorch-CycleGAN-and-pix2pix (Zhu et al. 2017,
Isola et al. 2017) with InstanceNorm and without dropout, as its CycleGAN trains them; the three-scale discriminator of
pix2pixHD (Wang et al. 2018); MultiScalePatchDiscriminator of MONAI comes from its package.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional


def resnet_generator(channels: int = 1, ngf: int = 64, blocks: int = 9) -> nn.Sequential:
    """``resnet_9blocks``: c7s1-ngf, two strided layers, residual blocks, two transposed ones, c7s1."""
    layers: list[nn.Module] = [nn.ReflectionPad2d(3), *_normalised(nn.Conv2d(channels, ngf, 7))]
    for width in (ngf, 2 * ngf):
        layers += _normalised(nn.Conv2d(width, 2 * width, 3, stride=2, padding=1))
    layers += [_ResnetBlock(4 * ngf) for _ in range(blocks)]
    for width in (4 * ngf, 2 * ngf):
        up = nn.ConvTranspose2d(width, width // 2, 3, stride=2, padding=1, output_padding=1)
        layers += _normalised(up)
    return nn.Sequential(*layers, nn.ReflectionPad2d(3), nn.Conv2d(ngf, channels, 7), nn.Tanh())


def _normalised(convolution: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [convolution, nn.InstanceNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


class _ResnetBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        first = [nn.ReflectionPad2d(1), *_normalised(nn.Conv2d(width, width, 3))]
        second = [nn.ReflectionPad2d(1), nn.Conv2d(width, width, 3), nn.InstanceNorm2d(width)]
        self.block = nn.Sequential(*first, *second)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = features + self.block(features)
        return result


def unet_generator(channels: int = 1, ngf: int = 64, depth: int = 8) -> nn.Module:
    """``unet_256``: eight halvings, widths ngf times 1, 2, 4, 8, 8, 8, 8, 8, skips by concatenation."""
    widths = [ngf * min(2**level, 8) for level in range(depth)]
    block: nn.Module | None = None
    for outer, inner in reversed(list(pairwise(widths))):
        block = _UnetBlock(outer, outer, inner, block)
    return _UnetBlock(channels, channels, widths[0], block, outermost=True)


class _UnetBlock(nn.Module):
    def __init__(self, read: int, made: int, inner: int, within: nn.Module | None, *, outermost: bool = False) -> None:
        super().__init__()
        self.outermost = outermost
        down: list[nn.Module] = [nn.Conv2d(read, inner, 4, 2, 1)]
        if not outermost:
            down.insert(0, nn.LeakyReLU(0.2))
            if within is not None:
                down.append(nn.InstanceNorm2d(inner))
        up: list[nn.Module] = [nn.ReLU(), nn.ConvTranspose2d(inner if within is None else 2 * inner, made, 4, 2, 1)]
        up.append(nn.Tanh() if outermost else nn.InstanceNorm2d(made))
        self.model = nn.Sequential(*down, *([] if within is None else [within]), *up)

    def forward(self, features: Tensor) -> Tensor:
        result: Tensor = self.model(features)
        return result if self.outermost else torch.cat([features, result], dim=1)


def patch_gan(channels: int = 1, ndf: int = 64, layers: int = 3) -> nn.Sequential:
    """The PatchGAN of pix2pix and CycleGAN; 70 x 70 with three layers."""
    modules: list[nn.Module] = [nn.Conv2d(channels, ndf, 4, 2, 1), nn.LeakyReLU(0.2)]
    widths = [ndf * min(2**level, 8) for level in range(layers + 1)]
    for level, (before, width) in enumerate(pairwise(widths), start=1):
        stride = 2 if level < layers else 1
        modules += [nn.Conv2d(before, width, 4, stride, 1), nn.InstanceNorm2d(width), nn.LeakyReLU(0.2)]
    return nn.Sequential(*modules, nn.Conv2d(widths[-1], 1, 4, 1, 1))


class Pix2PixHDDiscriminator(nn.Module):
    """pix2pixHD's ``MultiscaleDiscriminator``: PatchGANs on the image and on its 3 x 3 means of stride 2."""

    def __init__(self, channels: int = 1, ndf: int = 64, layers: int = 3, scales: int = 3) -> None:
        super().__init__()
        self.scales = nn.ModuleList(patch_gan(channels, ndf, layers) for _ in range(scales))

    def forward(self, image: Tensor) -> list[Tensor]:
        maps = []
        for network in self.scales:
            maps.append(network(image))
            image = functional.avg_pool2d(image, 3, stride=2, padding=1, count_include_pad=False)
        return maps


class _MonaiOwn(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.network(image)[0]
        return maps


def monai_discriminator(channels: int, width: int, layers: int, count: int) -> tuple[str, nn.Module] | None:
    """MONAI's own ``MultiScalePatchDiscriminator`` with InstanceNorm, and its version; ``None`` without MONAI."""
    try:
        import monai
        from monai.networks.nets import MultiScalePatchDiscriminator
    except ImportError:
        return None
    network = MultiScalePatchDiscriminator(
        num_d=count, num_layers_d=layers, spatial_dims=2, channels=width, in_channels=channels, norm="INSTANCE"
    )
    return f"MONAI {monai.__version__}", _MonaiOwn(network)
