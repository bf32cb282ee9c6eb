"""The bank: all region discriminators of all directions, asked together, with their pools of generated windows.

Pixel classifiers, which judge the regions that ask for one besides, are kept with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import ADVERSARIAL_LOSSES, Config
from ..saving.names import DIRECTIONS
from .adversarial import Elementwise, JudgedMap, shares, term_losses
from .discriminators import DiscriminatorFactory, PatchDiscriminator, RegionDiscriminator, patch_discriminator_for
from .pixels import PixelClassifiers
from .pools import PooledWindow, WindowPool
from .regions import Bools, Floats, RegionMask, WindowGroup, Windows, cut, in_full, mask_tensor
from .stacked import StackedRegion


@dataclass(frozen=True)
class Shown:
    """What one direction of a step shows the discriminator of one region.

    Args:
        direction: ``A2B`` or ``B2A``.
        region: The region's name.
        fake: Generated images ``[N, C, H, W]`` in [-1, 1].
        fake_masks: The masks of the images they were made from.
        real: Real images of the target domain; the generators' losses need none.
        real_masks: Their own masks.
    """

    direction: str
    region: str
    fake: Tensor
    fake_masks: RegionMask
    real: Tensor | None = None
    real_masks: RegionMask | None = None

    @property
    def key(self) -> str:
        """Of its network and its pool in the bank."""
        return f"{self.direction}_{self.region}"


@dataclass(frozen=True)
class TermLosses:
    """Losses by the key of their network, ``A2B_tumor``, ...

    Args:
        keys: Those with a window.
        values: ``[len(keys)]``, in their order.
    """

    keys: tuple[str, ...]
    values: Tensor


@dataclass(frozen=True)
class _Placed:
    """Windows of one size that are still to be cut.

    Args:
        key: Of the network that judges them.
        region: The region's name.
        kind: ``fake`` or ``real``.
        image: The place of their images among all.
        group: Where they lie.
    """

    key: str
    region: str
    kind: str
    image: int
    group: WindowGroup

    def __len__(self) -> int:
        return len(self.group.inside)

    def part(self, windows: slice) -> _Placed:
        """Some of the windows."""
        return replace(self, group=self.group.part(windows))


@dataclass(frozen=True)
class _Judged:
    """Windows of one size that the networks of one region judge in one call, each its own channels.

    Args:
        keys: Of the networks.
        masks: For each network the region in its windows, ``[n, S, S]``.
        n_fake: For each network how many of its windows, the first ones, are generated; the others are real.
    """

    keys: tuple[str, ...]
    masks: list[Bools]
    n_fake: list[int]

    def of_kind(self, kind: str, place: int) -> slice:
        """The windows of one kind that a network judges."""
        return slice(self.n_fake[place]) if kind == "fake" else slice(self.n_fake[place], len(self.masks[place]))


class DiscriminatorBank(nn.Module):
    """All region discriminators of all directions, with their pools of generated windows, and the pixel classifiers.

    Args:
        config: Regions, loss, background, pool size and seed.
        in_channels: Image channels by direction: those of its generated images.
        build: Makes the network of one scale.

    Example:
        >>> from roi_progressive import Config, RegionConfig
        >>> tumor = RegionConfig("tumor", scales=2, windows_px=(24, 32), base_channels=8)
        >>> bank = DiscriminatorBank(Config(regions=(tumor,)))
        >>> fake, mask = torch.zeros(1, 1, 64, 64, requires_grad=True), torch.zeros(1, 1, 64, 64)
        >>> bank.generator_loss("A2B", "tumor", fake, RegionMask.from_tensor(mask)) is None  # no region, no change
        True
        >>> mask[..., 20:30, 24:36] = 1
        >>> loss = bank.generator_loss("A2B", "tumor", fake, RegionMask.from_tensor(mask))
        >>> (gradient,) = torch.autograd.grad(loss, fake)
        >>> bool((gradient[mask == 0] == 0).all())  # region terms touch the region only
        True
    """

    def __init__(
        self,
        config: Config,
        in_channels: Mapping[str, int] | None = None,
        build: DiscriminatorFactory = patch_discriminator_for,
    ) -> None:
        super().__init__()
        self.config = config
        self.loss = ADVERSARIAL_LOSSES[config.adversarial]
        # What a mean over generated or real windows here weighs among those of all processes, by `fake_<key>`, ...
        self.shares: dict[str, float] = {}
        channels = dict.fromkeys(DIRECTIONS, 1) if in_channels is None else in_channels
        keys = [(direction, region) for direction in channels for region in config.regions]
        self.networks = nn.ModuleDict(
            {f"{d}_{region.name}": RegionDiscriminator(region, channels[d], build) for d, region in keys}
        )
        self.pools = {
            f"{d}_{region.name}": WindowPool(config.pool_size, seed=config.seed + place)
            for place, (d, region) in enumerate(keys)
        }
        self.has_foreign_networks = any(
            type(scale) is not PatchDiscriminator for key in self.networks for scale in self._network(key).scales
        )
        """Whether a network is not of our making."""
        self.pixels = PixelClassifiers(config, channels)
        """The pixel classifiers of the regions that ask for one."""
        self._regions = {region.name: region for region in config.regions}
        self._stacks: dict[tuple[str, ...], StackedRegion | None] = {}
        self._in_use: dict[tuple[str, ...], StackedRegion | None] = {}

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
        found = self.generator_losses([Shown(direction, region, fake, masks)])
        return None if found is None else found.values[0]

    def generator_losses(self, shown: Sequence[Shown]) -> TermLosses | None:
        """``generator_loss`` of several regions and directions at once; ``None`` where no image holds any region.

        Windows of one size are judged together, those of both directions in one call.
        """
        images, placed = self._placed([(of.key, of.region, "fake", of.fake, of.fake_masks) for of in shown])
        if not placed:
            return None
        judged, groups = [], []
        for keys, parts in self._side_by_side(placed):
            groups.append([(place.image, place.group) for place in parts])
            masks = [place.group.inside for place in parts]
            judged.append(_Judged(keys, masks, [len(mask) for mask in masks]))
        with_pixels = zip(judged, cut(images, groups), strict=True)
        return self._losses(list(with_pixels), {"fake": self.loss.generator}, lambda kind, key: 1.0, learn=False)

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
        found = self.discriminator_losses([Shown(direction, region, fake, fake_masks, real, real_masks)])
        return None if found is None else found.values[0]

    def discriminator_losses(self, shown: Sequence[Shown]) -> TermLosses | None:
        """``discriminator_loss`` of several regions and directions at once; ``None`` where no image holds any region.

        Generated and real windows of one size are judged together, those of both directions in one call.
        """
        wanted = [(of.key, of.region, "fake", of.fake.detach(), of.fake_masks) for of in shown]
        wanted += [
            (of.key, of.region, "real", of.real.detach(), of.real_masks)
            for of in shown
            if of.real is not None and of.real_masks is not None
        ]
        images, placed = self._placed(wanted)
        if not placed:
            return None
        pixels = cut(images, [[(place.image, place.group)] for place in placed])
        by_size: dict[tuple[str, tuple[int, int]], dict[str, list[tuple[PooledWindow, str]]]] = {}

        def show(region: str, key: str, window: PooledWindow, kind: str) -> None:
            sizes = by_size.setdefault((region, window.size), {})
            sizes.setdefault(key, []).append((window, kind))

        for of in shown:
            fresh = [
                PooledWindow(*window)
                for place, seen in zip(placed, pixels, strict=True)
                if place.key == of.key and place.kind == "fake"
                for window in zip(seen, place.group.inside, strict=True)
            ]
            for window in self.pools[of.key].exchange(fresh):
                show(of.region, of.key, window, "fake")
        for place, seen in zip(placed, pixels, strict=True):
            if place.kind == "real":
                for pair in zip(seen, place.group.inside, strict=True):
                    show(place.region, place.key, PooledWindow(*pair), "real")
        judged = [
            (_judged(keys, windows), _stacked_pixels([[w for w, _ in of] for of in windows]))
            for _, sizes in sorted(by_size.items(), key=lambda item: item[0][1])
            for keys, windows in self._pairs(sizes)
        ]
        losses = {"fake": self.loss.fake, "real": self.loss.real}
        return self._losses(judged, losses, lambda kind, key: 0.5 * self.shares.get(f"{kind}_{key}", 1.0), learn=True)

    def pixel_generator_losses(self, shown: Sequence[Shown]) -> TermLosses | None:
        """How far generated pixels are from being named as the masks of their sources say.

        Args:
            shown: Of regions that have a pixel classifier.

        Returns:
            A mean over the images that hold the region for each; ``None`` where no image holds any.
        """
        return _together({of.key: self.pixels.generator_loss(of.key, of.fake, of.fake_masks) for of in shown})

    def pixel_learning_losses(self, shown: Sequence[Shown]) -> TermLosses | None:
        """How well the pixel classifiers name pixels; ``None`` where no image holds any region."""
        return _together(
            {
                of.key: self.pixels.learning_loss(
                    of.key, of.fake, of.fake_masks, of.real, of.real_masks, shares=self.shares
                )
                for of in shown
                if of.real is not None and of.real_masks is not None
            }
        )

    def _placed(self, wanted: Sequence[tuple[str, str, str, Tensor, RegionMask]]) -> tuple[list[Tensor], list[_Placed]]:
        """The images that hold a region, each once, and where its windows lie in them."""
        self._in_use.clear()  # a pass begins
        images: dict[int, tuple[int, Tensor]] = {}
        placed = []
        for key, region, kind, image, masks in wanted:
            groups = masks.window_groups(image.shape, self._regions[region], self.config.background)
            for group in groups:
                place, _ = images.setdefault(id(image), (len(images), image))
                placed.append(_Placed(key, region, kind, place, group))
        return [in_full(image) for _, image in images.values()], placed

    def _side_by_side(self, placed: Sequence[_Placed]) -> Iterator[tuple[tuple[str, ...], list[_Placed]]]:
        """Windows of one region and size of several directions side by side, as many as all of them have."""
        by_size: dict[tuple[str, tuple[int, int]], list[_Placed]] = {}
        for place in placed:
            by_size.setdefault((place.region, place.group.size), []).append(place)
        for places in by_size.values():
            keys = tuple(place.key for place in places)
            if len(keys) > 1 and self._stack(keys) is not None:
                least = min(len(place) for place in places)
                yield keys, [place.part(slice(least)) for place in places]
                places = [place.part(slice(least, None)) for place in places if len(place) > least]
            for place in places:
                yield (place.key,), [place]

    def _pairs(
        self, windows: Mapping[str, list[tuple[PooledWindow, str]]]
    ) -> Iterator[tuple[tuple[str, ...], list[list[tuple[PooledWindow, str]]]]]:
        """The same for windows that were cut already."""
        keys, rest = tuple(windows), dict(windows)
        if len(keys) > 1 and self._stack(keys) is not None:
            least = min(len(of) for of in windows.values())
            yield keys, [of[:least] for of in windows.values()]
            rest = {key: of[least:] for key, of in windows.items() if len(of) > least}
        for key, of in rest.items():
            yield (key,), [of]

    def _stack(self, keys: tuple[str, ...]) -> StackedRegion | None:
        """The networks of one region in several directions, side by side.

        ``None`` where they are not all ours and alike, or where hooks want to be called with what they were hooked to.
        """
        if keys not in self._in_use:
            if keys not in self._stacks:
                networks = [self._network(key) for key in keys]
                self._stacks[keys] = StackedRegion.of(networks, compiled=self.config.compile)
            stack = self._stacks[keys]
            self._in_use[keys] = None if stack is None or stack.is_hooked() else stack
        return self._in_use[keys]

    def _losses(
        self,
        judged: Sequence[tuple[_Judged, Tensor]],
        losses: Mapping[str, Elementwise],
        weight: Callable[[str, str], float],
        *,
        learn: bool,
    ) -> TermLosses:
        """Means over the windows of each kind and network, weighted and summed over the kinds."""
        n_windows: Counter[tuple[str, str]] = Counter()
        parts: list[list[tuple[int, str, str, slice]]] = []
        for of, _ in judged:
            named = [
                (place, key, kind, of.of_kind(kind, place)) for place, key in enumerate(of.keys) for kind in losses
            ]
            parts.append([part for part in named if part[3].start != part[3].stop and part[3].stop != 0])
            n_windows.update({(kind, key): part.stop - (part.start or 0) for _, key, kind, part in parts[-1]})
        maps: dict[tuple[str, str], list[JudgedMap]] = {}
        for (of, pixels), of_kinds in zip(judged, parts, strict=True):
            region = self._network(of.keys[0]).region
            per_scale = 1.0 if region.scale_reduction == "sum" else 1.0 / region.scales
            for level, logits in enumerate(self._logits(of, pixels, learn=learn)):
                means = logits.flatten(2).mean(dim=2, keepdim=True) if region.logits == "mean" else logits
                n_logits = means.shape[2:].numel()
                counts = self._counts(of, level, logits, n_logits) * per_scale
                places = np.arange(means.numel()).reshape(len(means), len(of.keys), n_logits)
                for place, key, kind, part in of_kinds:
                    factor = weight(kind, key) / n_windows[kind, key]
                    found = JudgedMap(means, places[part, place], counts[place, part] * factor)
                    maps.setdefault((kind, key), []).append(found)
        keys = tuple(key for key in self.networks if any((kind, key) in maps for kind in losses))
        values = term_losses([(loss, maps.get((kind, key), [])) for kind, loss in losses.items() for key in keys])
        return TermLosses(keys, values if len(losses) == 1 else values.view(len(losses), len(keys)).sum(dim=0))

    def _logits(self, of: _Judged, pixels: Tensor, *, learn: bool) -> list[Tensor]:
        """Logits ``[n, len(keys), h, w]``, scale by scale."""
        stack = self._stack(of.keys)
        if stack is not None:
            return stack(pixels, learn=learn)
        (key,) = of.keys
        return [logits for logits, _ in self._network(key)(Windows(pixels, mask_tensor(of.masks[0], pixels.dtype)))]

    def _counts(self, of: _Judged, level: int, logits: Tensor, n_logits: int) -> Floats:
        """What each logit of a scale counts in its window, ``[len(keys), n, n_logits]``; a window's are 1 together."""
        n = len(of.masks[0])
        # Networks side by side have one geometry.
        weights = self._network(of.keys[0]).weights(level, np.concatenate(of.masks), logits)
        if weights is None:
            return np.full((len(of.keys), n, n_logits), 1.0 / n_logits)
        return shares(weights).reshape(len(of.keys), n, n_logits)

    def _network(self, key: str) -> RegionDiscriminator:
        network = self.networks[key]
        assert isinstance(network, RegionDiscriminator)
        return network

    def pools_state_dict(self) -> dict[str, Any]:
        """The pools' windows, masks and random streams; plain values only."""
        return {key: pool.state_dict() for key, pool in self.pools.items()}

    def load_pools_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue with the pools that ``pools_state_dict`` described."""
        device = next((parameter.device for parameter in self.parameters()), torch.device("cpu"))
        for key, pool in self.pools.items():
            pool.load_state_dict(state[key], device)


def _together(losses: Mapping[str, Tensor | None]) -> TermLosses | None:
    found = {key: loss for key, loss in losses.items() if loss is not None}
    return TermLosses(tuple(found), torch.stack(list(found.values()))) if found else None


def _judged(keys: tuple[str, ...], windows: Sequence[Sequence[tuple[PooledWindow, str]]]) -> _Judged:
    masks = [np.stack([w.mask for w, _ in of]) for of in windows]
    return _Judged(keys, masks, [sum(kind == "fake" for _, kind in of) for of in windows])


def _stacked_pixels(windows: Sequence[Sequence[PooledWindow]]) -> Tensor:
    """``[n, C, S, S]`` from as many windows of each network, whose channels follow one another."""
    every = [of[row].pixels for row in range(len(windows[0])) for of in windows]
    channels, *size = every[0].shape
    return torch.stack(every).view(len(windows[0]), len(windows) * channels, *size)
