"""The bank: all region discriminators of all directions, asked together, with their pools of generated windows.

Pixel classifiers, which judge the regions that ask for one besides, are kept with them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config import ADVERSARIAL_LOSSES, Config
from ..saving.names import DIRECTIONS
from .adversarial import JudgedMap, shares, term_losses
from .discriminators import DiscriminatorFactory, PatchDiscriminator, RegionDiscriminator, patch_discriminator_for
from .pixels import PixelClassifiers
from .pools import Exchange, PooledWindow, WindowPool
from .regions import Bools, Floats, RegionMask, WindowGroup
from .shown import Shown, StepLosses, TermLosses
from .stacked import StackedRegion
from .windows import Windows, cut, in_full, mask_tensor


@dataclass(frozen=True)
class _Placed:
    """Windows of one size that are still to be cut.

    Args:
        key: Of the network that judges them.
        region: The region's name.
        kind: ``generator``: generated ones, whose gradient goes back to the images; ``fake`` or ``real``: those that
            the network learns from.
        image: The place of their images among all.
        group: Where they lie.
    """

    key: str
    region: str
    kind: str
    image: int
    group: WindowGroup

    def __len__(self) -> int:
        return len(self.group)

    def part(self, windows: slice) -> _Placed:
        """Some of the windows."""
        return replace(self, group=self.group.part(windows))


_Windows = list[_Placed]
"""What one network judges in one call, windows of one size: those of kind ``generator`` first."""


@dataclass(frozen=True)
class _Kept:
    """What a pool is to keep, once the step is made."""

    pool: WindowPool
    drawn: Exchange
    masks: dict[int, Bools]
    places: dict[int, int]
    """Of each window among those that were cut for the pools."""


class _Images:
    """All images and older windows that windows of a pass are cut out of, each once."""

    def __init__(self) -> None:
        self.all: list[Tensor] = []
        self._places: dict[int, int] = {}

    def place_of(self, image: Tensor, *, cut_off: bool = True) -> int:
        """Of an image among all; those whose gradient is asked for come first."""
        if id(image) not in self._places:
            self._places[id(image)] = len(self.all)
            self.all.append(in_full(image.detach() if cut_off else image))
        return self._places[id(image)]


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
        self._waiting: list[tuple[_Kept, list[Tensor]]] = []
        """What the pools are to keep, and the windows that were cut for them."""

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
        return self._judged(shown, for_generators=True, for_networks=False).generators

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
        found = self._judged(shown, for_generators=False, for_networks=True).networks
        self.keep_windows()
        return found

    def step_losses(self, shown: Sequence[Shown]) -> StepLosses | None:
        """``generator_losses`` and ``discriminator_losses`` in one pass over the windows.

        A gradient of both at once is right for each: that of the generators' losses reaches images only, that of the
        discriminators' own the networks only. The pools keep nothing before ``keep_windows``.

        Returns:
            ``None`` where a network is not ours, or is hooked: it may tell one pass from two.
        """
        self._in_use.clear()
        if any(self._stack((of.key,)) is None for of in shown):
            return None
        return self._judged(shown, for_generators=True, for_networks=True)

    def keep_windows(self) -> None:
        """The step is made: generated windows that were shown take their places in the pools."""
        waiting, self._waiting = self._waiting, []
        for of, pixels in waiting:
            fresh = {number: PooledWindow(pixels[place][0], of.masks[number]) for number, place in of.places.items()}
            of.pool.keep(of.drawn, fresh)

    def forget_windows(self) -> None:
        """The step is not made: the pools stay as they were."""
        waiting, self._waiting = self._waiting, []
        for of, _ in waiting:
            of.pool.undo(of.drawn)

    def pixel_losses(
        self, shown: Sequence[Shown], *, for_generators: bool = True, for_networks: bool = True
    ) -> StepLosses:
        """How pixel classifiers name the pixels of a step's images: see :meth:`PixelClassifiers.losses`."""
        return self.pixels.losses(shown, for_generators=for_generators, for_networks=for_networks, shares=self.shares)

    def _judged(self, shown: Sequence[Shown], *, for_generators: bool, for_networks: bool) -> StepLosses:
        self.forget_windows()
        self._in_use.clear()  # a pass begins
        images = _Images()
        windows: dict[tuple[str, tuple[int, int]], dict[str, _Windows]] = {}
        kept: list[tuple[_Kept, list[_Placed]]] = []

        def show(placed: Sequence[_Placed]) -> None:
            for of in placed:
                windows.setdefault((of.region, of.group.size), {}).setdefault(of.key, []).append(of)

        fakes = [images.place_of(of.fake, cut_off=not for_generators) for of in shown]
        for of, place in zip(shown, fakes, strict=True):
            generated = self._placed(of, "generator", place, of.fake.shape, of.fake_masks)
            if for_generators:
                show(generated)
            if for_networks:
                show(self._exchanged(of, generated, images, kept))
        for of in shown if for_networks else ():
            if of.real is not None and of.real_masks is not None:
                show(self._placed(of, "real", images.place_of(of.real), of.real.shape, of.real_masks))
        calls = [
            call
            for _, by_key in sorted(windows.items(), key=lambda item: item[0][1])
            for call in self._side_by_side(by_key)
        ]
        if not calls:
            return StepLosses(None, None)
        groups = [[[(of.image, of.group) for of in placed] for placed in call.values()] for call in calls]
        for of_pool, placed in kept:
            first = len(groups) - len(calls)
            of_pool.places.update(zip(of_pool.masks, range(first, first + len(placed)), strict=True))
            groups += [[[(of.image, of.group)]] for of in placed]
        pixels = cut(images.all, groups, self.config.background, len(calls))
        self._waiting = [(of_pool, pixels[len(calls) :]) for of_pool, _ in kept]
        return self._losses(list(zip(calls, pixels, strict=False)))

    def _placed(self, of: Shown, kind: str, place: int, shape: torch.Size, masks: RegionMask) -> list[_Placed]:
        """Where the windows of one kind lie in images of a shape."""
        groups = masks.window_groups(shape, self._regions[of.region])
        if kind != "generator":
            groups = [group.without_gradient() for group in groups]
        return [_Placed(of.key, of.region, kind, place, group) for group in groups]

    def _exchanged(
        self, of: Shown, generated: Sequence[_Placed], images: _Images, kept: list[tuple[_Kept, list[_Placed]]]
    ) -> list[_Placed]:
        """What the pool shows in place of generated windows."""
        pool = self.pools[of.key]
        fresh = [
            replace(placed, kind="fake", group=placed.group.without_gradient().part(slice(n, n + 1)))
            for placed in generated
            for n in range(len(placed))
        ]
        drawn = pool.draw(len(fresh))
        numbers = sorted(set(drawn.kept.values()))
        masks = {number: fresh[number].group.inside[0] for number in numbers}
        kept.append((_Kept(pool, drawn, masks, {}), [fresh[number] for number in numbers]))
        return [
            fresh[window]
            if isinstance(window, int)
            else _Placed(
                of.key,
                of.region,
                "fake",
                images.place_of(window.pixels),
                WindowGroup.of_window(len(window.pixels), window.mask),
            )
            for window in drawn.shown
        ]

    def _side_by_side(self, windows: Mapping[str, _Windows]) -> Iterator[dict[str, _Windows]]:
        """Windows of one region and size of several networks side by side, as many as all of them have."""
        keys, rest = tuple(windows), dict(windows)
        if len(keys) > 1 and self._stack(keys) is not None:
            numbers = [_n_of_generators(of) for of in windows.values()]
            least = min(generated for generated, _ in numbers), min(learnt for _, learnt in numbers)
            split = {key: _split(of, *least) for key, of in windows.items()}
            if sum(least):
                yield {key: together for key, (together, _) in split.items()}
            rest = {key: alone for key, (_, alone) in split.items() if alone}
        for key, of in rest.items():
            yield {key: of}

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

    def _losses(self, judged: Sequence[tuple[dict[str, _Windows], Tensor]]) -> StepLosses:
        """Means over the windows of each kind and network, weighted and summed over the kinds that networks learn."""
        n_windows: Counter[tuple[str, str]] = Counter()
        for call, _ in judged:
            for key, placed in call.items():
                for of in placed:
                    n_windows[of.kind, key] += len(of)
        maps: dict[tuple[str, str], list[JudgedMap]] = {}
        for call, pixels in judged:
            keys = tuple(call)
            region = self._network(keys[0]).region
            per_scale = 1.0 if region.scale_reduction == "sum" else 1.0 / region.scales
            factors = [
                [(of.kind, len(of), self._weight(of) / n_windows[of.kind, key]) for of in call[key]] for key in keys
            ]
            of_scales = self._logits(call, pixels)
            for logits, weights in zip(of_scales, self._weights(call, of_scales), strict=True):
                means = logits.flatten(2).mean(dim=2, keepdim=True) if region.logits == "mean" else logits
                n_logits = means.shape[2:].numel()
                counts = np.full((len(keys), len(means), n_logits), 1.0 / n_logits) if weights is None else weights
                counts = counts.reshape(len(keys), len(means), n_logits) * per_scale
                places = np.arange(means.numel()).reshape(len(means), len(keys), n_logits)
                for column, (key, parts) in enumerate(zip(keys, factors, strict=True)):
                    end = 0
                    for kind, n, factor in parts:
                        part, end = slice(end, end + n), end + n
                        found = JudgedMap(means, places[part, column], counts[column, part] * factor)
                        maps.setdefault((kind, key), []).append(found)
        of_generators = tuple(key for key in self.networks if ("generator", key) in maps)
        learnt = tuple(key for key in self.networks if ("fake", key) in maps or ("real", key) in maps)
        terms = [(self.loss.generator, maps["generator", key]) for key in of_generators]
        terms += [(self.loss.fake, maps.get(("fake", key), [])) for key in learnt]
        terms += [(self.loss.real, maps.get(("real", key), [])) for key in learnt]
        generated, halves = term_losses(terms).split([len(of_generators), 2 * len(learnt)])
        return StepLosses(
            TermLosses(of_generators, generated) if of_generators else None,
            TermLosses(learnt, halves.view(2, len(learnt)).sum(dim=0)) if learnt else None,
        )

    def _weight(self, of: _Placed) -> float:
        return 1.0 if of.kind == "generator" else 0.5 * self.shares.get(f"{of.kind}_{of.key}", 1.0)

    def _logits(self, call: Mapping[str, _Windows], pixels: Tensor) -> list[Tensor]:
        """Logits ``[n, len(call), h, w]``, scale by scale."""
        keys = tuple(call)
        stack = self._stack(keys)
        if stack is not None:
            first_learnt, _ = _n_of_generators(call[keys[0]])
            return stack(pixels, first_learnt)
        (key,) = keys
        mask = np.concatenate([of.group.inside for of in call[key]])
        return [logits for logits, _ in self._network(key)(Windows(pixels, mask_tensor(mask, pixels.dtype)))]

    def _weights(self, call: Mapping[str, _Windows], of_scales: Sequence[Tensor]) -> list[Floats | None]:
        """What each logit of a scale counts in its window, ``[len(call) * n, n_logits]``; a window's are 1 together.

        A mask describes several windows: a generated one of each kind, and a real one in the other direction.
        """
        masks = [mask for placed in call.values() for of in placed for mask in of.group.inside]
        places: dict[int, int] = {}
        # Two windows at one place in memory are one.
        of_each = [places.setdefault(mask.__array_interface__["data"][0], len(places)) for mask in masks]
        distinct = np.stack([masks[of_each.index(place)] for place in range(len(places))])
        # Networks side by side have one geometry.
        weights = self._network(next(iter(call))).weights_of_scales(distinct, of_scales)
        return [None if of is None else shares(of)[of_each] for of in weights]

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


def _n_of_generators(windows: _Windows) -> tuple[int, int]:
    """How many windows hand a gradient to the images, and from how many the network learns."""
    generated = sum(len(of) for of in windows if of.kind == "generator")
    return generated, sum(map(len, windows)) - generated


def _split(windows: _Windows, n_generated: int, n_learnt: int) -> tuple[_Windows, _Windows]:
    """The first windows of both sorts, and the others."""
    first: _Windows = []
    others: _Windows = []
    left = {True: n_generated, False: n_learnt}
    for of in windows:
        n = min(len(of), left[of.kind == "generator"])
        left[of.kind == "generator"] -= n
        first += [] if n == 0 else [of if n == len(of) else of.part(slice(n))]
        others += [] if n == len(of) else [of.part(slice(n, None))]
    return first, others
