"""Discriminators: of one scale of a region, and of all scales of a region."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from .. import setting_checks as check
from ..config import RegionConfig
from ..errors import ConfigError, PluginError, ShapeError
from .adversarial import Elementwise, reduce_logits
from .foreign_networks import ForeignNetwork, checked_logits, naming_the_builder, weights_by_geometry
from .logit_weights import logit_weights_of_scales, pyramid
from .regions import Bools, Floats
from .windows import Windows

DiscriminatorFactory = Callable[[RegionConfig, int, int], nn.Module | ForeignNetwork]
"""From a region, the number of input channels and the smallest input side in pixels to a network; what a plugin built
comes with the plugin's name."""


def patch_geometry(layers: int, all_strided: bool = False) -> tuple[tuple[int, int, int], ...]:
    """Kernel, stride and padding of every convolution of a ``PatchDiscriminator``."""
    last = 2 if all_strided else 1
    return ((4, 2, 1),) * layers + ((4, last, 1),) * 2


def min_size_px(layers: int, all_strided: bool = False) -> int:
    """The smallest input side whose map of logits is not empty.

    Every normalised map then has the two pixels a side that InstanceNorm asks for, since the 4 x 4 convolution after it
    needs them too.
    """
    geometry = patch_geometry(layers, all_strided)

    def fits(side: int) -> bool:
        for kernel, stride, padding in geometry:
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                return False
        return True

    return next(side for side in range(1, 2 ** (layers + 6)) if fits(side))


class PatchDiscriminator(nn.Module):
    """The Markovian discriminator (PatchGAN, Isola et al. 2017): 4 x 4 convolutions, no dense layer.

    Args:
        in_channels: Channels of the input.
        base_channels: Channels after the first layer; doubled by each further one, up to eight times.
        layers: Layers of stride 2 before the last two; 3 is the 70 x 70 PatchGAN.
        all_strided: Give the last two layers stride 2 too, as the paper prints.

    Shape:
        ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 1, h, w]``; H and W at least ``min_size_px``.

    Raises:
        ConfigError: An argument is not a whole number of at least 1.

    Example:
        >>> discriminator = PatchDiscriminator(in_channels=1, base_channels=8, layers=3)
        >>> discriminator.min_size_px
        24
        >>> discriminator(torch.zeros(2, 1, 64, 48)).shape
        torch.Size([2, 1, 6, 4])
    """

    def __init__(
        self, in_channels: int = 1, base_channels: int = 64, layers: int = 3, *, all_strided: bool = False
    ) -> None:
        super().__init__()
        for name, value in {"in_channels": in_channels, "base_channels": base_channels, "layers": layers}.items():
            check.whole("", name, value, low=1)
        self.in_channels = in_channels
        self.geometry = patch_geometry(layers, all_strided)
        widths = [base_channels * min(2**level, 8) for level in range(layers + 1)]
        modules: list[nn.Module] = []
        channels = in_channels
        for level, (width, (kernel, stride, padding)) in enumerate(zip(widths, self.geometry, strict=False)):
            # InstanceNorm takes the mean away again, so a bias before it would never learn.
            modules.append(nn.Conv2d(channels, width, kernel, stride, padding, bias=level == 0))
            if level > 0:
                modules.append(nn.InstanceNorm2d(width))
            modules.append(nn.LeakyReLU(0.2))
            channels = width
        kernel, stride, padding = self.geometry[-1]
        modules.append(nn.Conv2d(channels, 1, kernel, stride, padding))
        self.model = nn.Sequential(*modules)
        self.min_size_px = min_size_px(layers, all_strided)
        self.apply(_initialise)

    def forward(self, image: Tensor) -> Tensor:
        self.check_input(image)
        logits: Tensor = self.model(image)
        return logits

    def check_input(self, image: Tensor, n_networks: int = 1) -> None:
        """Check images, or those of several networks side by side.

        Raises:
            ShapeError: They are no images, have other channels, or are too small.
        """
        channels = self.in_channels * n_networks
        if image.ndim != 4 or image.shape[1] != channels or min(image.shape[2:]) < self.min_size_px:
            raise ShapeError(
                f"`image` must be [N, {channels}, H, W] with sides of at least {self.min_size_px} px; "
                f"got {list(image.shape)}; use fewer `layers` for small windows"
            )


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def patch_discriminator_for(region: RegionConfig, in_channels: int, smallest_px: int) -> PatchDiscriminator:
    """The default network of one scale: the deepest ``PatchDiscriminator`` that fits its smallest window.

    Raises:
        ConfigError: Not even one layer fits.
    """
    fitting = [n for n in range(1, region.layers + 1) if min_size_px(n, region.all_strided) <= smallest_px]
    if not fitting:
        raise ConfigError(
            f"`regions[{region.name!r}].windows_px` leave {smallest_px} px at the coarsest scale, fewer than a "
            f"discriminator needs ({min_size_px(1, region.all_strided)}); enlarge the first window or lower `scales`"
        )
    return PatchDiscriminator(in_channels, region.base_channels, fitting[-1], all_strided=region.all_strided)


class RegionDiscriminator(nn.Module):
    """Judges one region at its scales 1, 1/2, 1/4, ...

    Args:
        region: Mode, scales, windows and reduction.
        in_channels: Channels of the image (``concat`` adds the mask's channel by itself).
        build: Makes the network of one scale; ``patch_discriminator_for`` by default. A network with an
            attribute ``geometry`` (kernel, stride, padding of each layer) gets exact logit weights,
            any other the mask resized to its map.

    Example:
        >>> from roi_progressive import RegionConfig
        >>> region = RegionConfig("tumor", scales=2, windows_px=(24, 32), base_channels=8)
        >>> discriminator = RegionDiscriminator(region)
        >>> [len(network.geometry) - 2 for network in discriminator.scales]  # strided layers, scale by scale
        [3, 2]
        >>> windows = Windows(torch.zeros(4, 1, 24, 24), torch.ones(4, 1, 24, 24))
        >>> discriminator.losses(windows, lambda logits: (logits - 1).square()).shape
        torch.Size([4])
    """

    def __init__(
        self, region: RegionConfig, in_channels: int = 1, build: DiscriminatorFactory = patch_discriminator_for
    ) -> None:
        super().__init__()
        self.region = region
        channels = in_channels + region.mode.extra_channels
        built = [build(region, channels, region.windows_px[0] // 2**level) for level in range(region.scales)]
        networks = [made.network if isinstance(made, ForeignNetwork) else made for made in built]
        self._plugins = [made.plugin if isinstance(made, ForeignNetwork) else None for made in built]
        for network in networks:
            if not isinstance(network, nn.Module):
                raise PluginError(
                    f"`roi_discriminator` must return a torch.nn.Module; got {type(network).__name__} for region "
                    f"{region.name!r}; return None to have the default network"
                )
        self.scales = nn.ModuleList(networks)

    def forward(self, windows: Windows) -> list[tuple[Tensor, Tensor | None]]:
        """Logits ``[n, 1, h, w]`` and their weights on the CPU (or ``None``), one pair a scale."""
        of_scales = []
        levels = pyramid(windows.pixels, self.region.scales)
        for network, plugin, level in zip(self.scales, self._plugins, levels, strict=True):
            with naming_the_builder(network, plugin):
                answer = network(level)
            of_scales.append(checked_logits(network, answer, len(level), plugin))
        weights = self.weights_of_scales(windows.mask[:, 0].numpy(), of_scales)
        return [
            (logits, None if of is None else torch.from_numpy(of[:, None].copy()))
            for logits, of in zip(of_scales, weights, strict=True)
        ]

    def weights_of_scales(self, mask: Floats | Bools, of_scales: Sequence[Tensor]) -> list[Floats | None]:
        """What each logit weighs, ``[n, h, w]`` a scale; ``None`` where all count alike.

        Args:
            mask: The region in the windows, ``[n, S, S]``.
            of_scales: Logits ``[..., h, w]`` of every scale, of which only the shape is looked at.
        """
        if self.region.logits != "weighted":
            return [None] * len(of_scales)
        ours = [network for network in self.scales if type(network) is PatchDiscriminator]
        if len(ours) == len(self.scales) and not any(self._plugins):
            found = logit_weights_of_scales(mask, [(network.geometry, level) for level, network in enumerate(ours)])
            if all(of.shape[1:] == logits.shape[-2:] for of, logits in zip(found, of_scales, strict=True)):
                return list(found)
        return [self._weights_of(level, mask, logits) for level, logits in enumerate(of_scales)]

    def _weights_of(self, level: int, mask: Floats | Bools, logits: Tensor) -> Floats:
        network = self.scales[level]
        numbers = mask.astype(np.float64)
        if getattr(network, "geometry", None) is not None:
            return weights_by_geometry(network, numbers, logits, level, self._plugins[level])
        # Unknown receptive fields: each logit and its neighbours count by the region under them.
        seen = pyramid(torch.from_numpy(numbers[:, None]), level + 1)[-1]
        under = nn.functional.adaptive_avg_pool2d(seen, (logits.shape[-2], logits.shape[-1]))
        return nn.functional.max_pool2d(under, 3, stride=1, padding=1)[:, 0].numpy()

    def losses(self, windows: Windows, loss: Elementwise) -> Tensor:
        """One loss a window, ``[n]``, over all scales.

        Args:
            windows: Windows of one size.
            loss: Elementwise on logits.
        """
        mean_first = self.region.logits == "mean"
        maps = self(windows)
        per_scale = torch.stack([reduce_logits(loss, logits, w, mean_first=mean_first) for logits, w in maps])
        return per_scale.sum(dim=0) if self.region.scale_reduction == "sum" else per_scale.mean(dim=0)
