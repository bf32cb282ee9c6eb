"""Discriminators: one scale of one region, one region, and the bank of all regions in both directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig
from ..errors import ConfigError, PluginError, ShapeError
from ..saving.names import DIRECTIONS
from .adversarial import AdversarialLoss, Elementwise, reduce_logits
from .foreign_networks import ForeignNetwork, checked_logits, naming_the_builder, weights_by_geometry
from .patch_geometry import min_size_px, patch_geometry
from .pools import WindowPool
from .regions import RegionMask, Windows, extract_windows, pyramid

DiscriminatorFactory = Callable[[RegionConfig, int, int], nn.Module | ForeignNetwork]
"""From a region, the number of input channels and the smallest input side in pixels to a network; what a plugin built
comes with the plugin's name."""


class PatchDiscriminator(nn.Module):
    """The Markovian discriminator (PatchGAN, Isola et al. 2017): 4 x 4 convolutions, no dense layer.

    Args:
        in_channels: Channels of the input.
        base_channels: Channels after the first layer; doubled by each further one, up to eight times.
        layers: Layers of stride 2 before the last two; 3 is the 70 x 70 PatchGAN.
        all_strided: Give the last two layers stride 2 too, as the paper prints.

    Shape:
        ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 1, h, w]``; H and W at least ``min_size_px``.
    """

    def __init__(
        self, in_channels: int = 1, base_channels: int = 64, layers: int = 3, *, all_strided: bool = False
    ) -> None:
        super().__init__()
        if in_channels < 1 or base_channels < 1 or layers < 1:
            raise ConfigError(
                f"`in_channels`, `base_channels` and `layers` must be at least 1; "
                f"got {in_channels}, {base_channels}, {layers}"
            )
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
        if image.ndim != 4 or image.shape[1] != self.in_channels or min(image.shape[2:]) < self.min_size_px:
            raise ShapeError(
                f"`image` must be [N, {self.in_channels}, H, W] with sides of at least {self.min_size_px} px; "
                f"got {list(image.shape)}; use fewer `layers` for small windows"
            )
        logits: Tensor = self.model(image)
        return logits


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
    """

    def __init__(
        self, region: RegionConfig, in_channels: int = 1, build: DiscriminatorFactory = patch_discriminator_for
    ) -> None:
        super().__init__()
        self.region = region
        channels = in_channels + (region.roi_mode == "concat")
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
        """Logits ``[n, 1, h, w]`` and their weights (or ``None``), one pair a scale."""
        maps: list[tuple[Tensor, Tensor | None]] = []
        levels = pyramid(windows, self.region.scales)
        for network, plugin, level in zip(self.scales, self._plugins, levels, strict=True):
            with naming_the_builder(network, plugin):
                answer = network(level.pixels)
            logits = checked_logits(network, answer, len(level.pixels), plugin)
            maps.append((logits, self._weights(network, level.mask, logits, plugin)))
        return maps

    def _weights(self, network: nn.Module, mask: Tensor, logits: Tensor, plugin: str | None) -> Tensor | None:
        if self.region.logits != "weighted":
            return None
        if getattr(network, "geometry", None) is not None:
            return weights_by_geometry(network, mask, logits, plugin)
        # Unknown receptive fields: each logit and its neighbours count by the region under them.
        under = nn.functional.adaptive_avg_pool2d(mask, (logits.shape[-2], logits.shape[-1]))
        return nn.functional.max_pool2d(under, 3, stride=1, padding=1)

    def losses(self, windows: Windows, loss: Elementwise) -> Tensor:
        """One loss a window, ``[n]``, over all scales.

        Args:
            windows: Windows of one size.
            loss: Elementwise on logits.
        """
        return self.reduce(self(windows), loss)

    def reduce(self, maps: Sequence[tuple[Tensor, Tensor | None]], loss: Elementwise) -> Tensor:
        """One loss a window, ``[n]``, from the logits of all scales."""
        mean_first = self.region.logits == "mean"
        per_scale = torch.stack([reduce_logits(loss, logits, w, mean_first=mean_first) for logits, w in maps])
        return per_scale.sum(dim=0) if self.region.scale_reduction == "sum" else per_scale.mean(dim=0)


class DiscriminatorBank(nn.Module):
    """All region discriminators of all directions, with their pools of generated windows.

    Args:
        config: Regions, loss, background, pool size and seed.
        in_channels: Image channels by direction: those of its generated images.
        build: Makes the network of one scale.
    """

    def __init__(
        self,
        config: Config,
        in_channels: Mapping[str, int] | None = None,
        build: DiscriminatorFactory = patch_discriminator_for,
    ) -> None:
        super().__init__()
        self.config = config
        self.loss = AdversarialLoss.named(config.adversarial)
        # What a mean over generated or real windows here weighs among those of all processes, by `fake_<key>`, ...
        self.shares: dict[str, float] = {}
        channels = dict.fromkeys(DIRECTIONS, 1) if in_channels is None else in_channels
        keys = [(direction, region) for direction in channels for region in config.regions]
        self.networks = nn.ModuleDict(
            {_key(d, region.name): RegionDiscriminator(region, channels[d], build) for d, region in keys}
        )
        self.pools = {
            _key(d, region.name): WindowPool(config.pool_size, seed=config.seed + place)
            for place, (d, region) in enumerate(keys)
        }

    def generator_loss(self, direction: str, region: str, fake: Tensor, masks: RegionMask) -> Tensor | None:
        """How far the generated regions are from passing for real (paper eq. 4, 6, 8).

        Args:
            direction: ``A2B`` or ``B2A``.
            region: The region's name.
            fake: Generated images ``[N, C, H, W]`` in [-1, 1].
            masks: The masks of the images they were made from.

        Returns:
            The mean over the images that hold the region; ``None`` where none does, so nothing can change.
        """
        network = self._network(direction, region)
        groups = extract_windows(fake, masks, network.region, self.config.background)
        if not groups:
            return None
        return torch.cat([network.losses(windows, self.loss.generator) for windows in groups]).mean()

    def discriminator_loss(
        self, direction: str, region: str, fake: Tensor, fake_masks: RegionMask, real: Tensor, real_masks: RegionMask
    ) -> Tensor | None:
        """How well the region's discriminator tells generated from real (paper eq. 3, 5, 7).

        Args:
            direction: ``A2B`` or ``B2A``.
            region: The region's name.
            fake: Generated images; shown through the pool of earlier ones, each with its own mask.
            fake_masks: The masks of the images they were made from.
            real: Real images of the target domain.
            real_masks: Their own masks.

        Returns:
            Half the mean over real plus half the mean over generated windows; ``None`` where neither holds the region.
        """
        network = self._network(direction, region)
        fresh = extract_windows(fake.detach(), fake_masks, network.region, self.config.background)
        generated = self.pools[_key(direction, region)].query([windows.detach() for windows in fresh])
        actual = extract_windows(real.detach(), real_masks, network.region, self.config.background)
        judged: dict[str, list[Tensor]] = {"fake": [], "real": []}
        for size in sorted({windows.size for windows in (*generated, *actual)}):
            for name, losses in self._judge(network, _of(generated, size), _of(actual, size)).items():
                judged[name].append(losses)
        weights = {name: 0.5 * self.shares.get(f"{name}_{_key(direction, region)}", 1.0) for name in judged}
        parts = [weights[name] * torch.cat(losses).mean() for name, losses in judged.items() if losses]
        return torch.stack(parts).sum() if parts else None

    def _judge(self, network: RegionDiscriminator, fake: Windows | None, real: Windows | None) -> dict[str, Tensor]:
        """Per-window losses of generated and real windows of one size, in one call of the networks."""
        present = [windows for windows in (fake, real) if windows is not None]
        maps = network(Windows(torch.cat([w.pixels for w in present]), torch.cat([w.mask for w in present])))
        n_fake = 0 if fake is None else len(fake.pixels)
        losses: dict[str, Tensor] = {}
        if fake is not None:
            losses["fake"] = network.reduce(_part(maps, slice(n_fake)), self.loss.fake)
        if real is not None:
            losses["real"] = network.reduce(_part(maps, slice(n_fake, None)), self.loss.real)
        return losses

    def _network(self, direction: str, region: str) -> RegionDiscriminator:
        network = self.networks[_key(direction, region)]
        assert isinstance(network, RegionDiscriminator)
        return network

    def pools_state_dict(self) -> dict[str, Any]:
        """The pools' windows, masks and dice; plain values only."""
        return {key: pool.state_dict() for key, pool in self.pools.items()}

    def load_pools_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the pools that ``pools_state_dict`` described."""
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        for key, pool in self.pools.items():
            pool.load_state_dict(state[key], device)


def _key(direction: str, region: str) -> str:
    return f"{direction}_{region}"


def _of(groups: Iterable[Windows], size: tuple[int, int]) -> Windows | None:
    return next((windows for windows in groups if windows.size == size), None)


def _part(maps: Sequence[tuple[Tensor, Tensor | None]], rows: slice) -> list[tuple[Tensor, Tensor | None]]:
    return [(logits[rows], None if weights is None else weights[rows]) for logits, weights in maps]
