"""Pixel classifiers: small UNets that name every pixel of an image "rest", "region" or "generated".

After the segmenting discriminator of Sushko et al. (2021, "You Only Need Adversarial Supervision for Semantic Image
Synthesis", OASIS). A classifier learns from real images and their masks, and from generated images, of which every
pixel is "generated"; the generator is asked for pixels that are named as the mask of their source says. Images without
the region are not looked at: no region, no change.

The term is one of the whole image, unless ``pixel_reach_px`` keeps it to the region and its surroundings.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config, RegionConfig
from ..runtime.uploads import upload
from .generator import OutConv, UNet
from .held_images import HeldImages
from .regions import Bools, Floats
from .shown import Shown, StepLosses, TermLosses
from .stacked_unets import StackedUNets
from .windows import in_full

REST, REGION, GENERATED = range(3)
"""The classes, in the order of a classifier's logits."""
DEPTH = 3
"""How often a classifier halves its image."""
REGION_SHARE = 0.5
"""Of all weights of an image's pixels, so that a small region counts as much as what surrounds it."""


class PixelClassifier(UNet):
    """The paper's UNet with one map of logits a class.

    Args:
        in_channels: Channels of the image.
        base_channels: Channels at full resolution.

    Shape:
        ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 3, H, W]``; H and W at least 8 px.

    Example:
        >>> PixelClassifier(base_channels=4)(torch.zeros(2, 1, 32, 24)).shape
        torch.Size([2, 3, 32, 24])
    """

    def __init__(self, in_channels: int = 1, base_channels: int = 8) -> None:
        super().__init__(in_channels, base_channels, DEPTH)
        self.class_head = OutConv(base_channels, 3)

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.class_head(self.features(image))
        return logits


def class_weights(inside: Bools, visible: Bools | None = None) -> Floats:
    """What the classes "rest" and "region" count at each pixel.

    Args:
        inside: The region, ``[n, H, W]``, of which every image holds some.
        visible: What counts, ``[n, H, W]``, the region among it; ``None`` for every pixel.

    Returns:
        ``[n, 2, H, W]``, 1 in sum for each image: ``REGION_SHARE`` for its region, the other part for the visible rest.
        An image that is nothing but region gives all of it to that.
    """
    rest = ~inside if visible is None else visible & ~inside
    both = np.stack([rest, inside], axis=1).astype(np.float64)
    counts = both.sum(axis=(2, 3))
    wanted = np.where(counts[:, :1] > 0, [1 - REGION_SHARE, REGION_SHARE], [0.0, 1.0])
    weights: Floats = both * (wanted / np.maximum(counts, 1))[:, :, None, None]
    return weights


@dataclass(frozen=True)
class _Named:
    """Images whose pixels one classifier names.

    Args:
        kind: ``generator``: generated ones, whose gradient goes back to the images; ``real`` or ``fake``: those that
            the classifier learns from.
        images: ``[n, C, H, W]``, in single precision or better.
        counts: What each class counts at each pixel, ``[n, 3, H, W]``.
    """

    kind: str
    images: Tensor
    counts: Floats


class PixelClassifiers(nn.Module):
    """The pixel classifiers of all regions and directions that ask for one, those of a region asked together.

    Args:
        config: Regions.
        in_channels: Image channels by direction: those of its generated images.

    Attributes:
        networks: By ``<direction>_<region>``.
    """

    def __init__(self, config: Config, in_channels: Mapping[str, int]) -> None:
        super().__init__()
        self._regions: dict[str, RegionConfig] = {
            f"{direction}_{region.name}": region
            for direction in in_channels
            for region in config.regions
            if region.pixel_weight > 0
        }
        self.networks = nn.ModuleDict(
            {
                key: PixelClassifier(in_channels[key.removesuffix(f"_{region.name}")], region.pixel_channels)
                for key, region in self._regions.items()
            }
        )
        self._stacks: dict[tuple[str, ...], StackedUNets] = {}

    def losses(
        self,
        shown: Sequence[Shown],
        *,
        for_generators: bool = True,
        for_networks: bool = True,
        shares: Mapping[str, float] | None = None,
    ) -> StepLosses:
        """How pixels are named, in one pass over the images that hold a region.

        The generators' losses: how far generated pixels are from being named as the masks of their sources say, the
        mean over the images. The classifiers' own: half the mean over real images, named as their masks say, plus half
        the mean over generated ones, all of whose pixels are "generated".

        Both directions of a region share their calls where as many images of one size hold it. A gradient of both
        losses at once is right for each: that of the first reaches images only, that of the second networks only.

        Args:
            shown: Of regions that have a pixel classifier; what has no real images teaches nothing.
            for_generators: Whether the generators' losses are wanted.
            for_networks: Whether those that the classifiers learn from are.
            shares: What the means over generated and real images here weigh among those of all processes, by
                ``fake_<key>`` and ``real_<key>``; 1 where it says nothing.
        """
        calls: dict[tuple[str, torch.Size], dict[str, list[_Named]]] = {}
        for of in shown:
            for named in self._named(of, shares or {}, for_generators, for_networks):
                calls.setdefault((of.region, named.images.shape[1:]), {}).setdefault(of.key, []).append(named)
        found: dict[bool, list[tuple[tuple[str, ...], Tensor]]] = {True: [], False: []}
        for call in calls.values():
            for keys in self._asked_together(call):
                n_generated = sum(len(of.images) for of in call[keys[0]] if of.kind == "generator")
                of_images = self._losses_of_images([call[key] for key in keys], keys, n_generated)
                for is_generated, part in ((True, of_images[:n_generated]), (False, of_images[n_generated:])):
                    if len(part):
                        found[is_generated].append((keys, part.sum(dim=0)))
        return StepLosses(_by_key(found[True]), _by_key(found[False]))

    def _named(
        self, of: Shown, shares: Mapping[str, float], for_generators: bool, for_networks: bool
    ) -> Iterator[_Named]:
        held = HeldImages.of(of.fake_masks, self._regions[of.key].pixel_reach_px) if for_generators else None
        if held is not None:
            counts = _counts(held, class_weights(held.inside, held.visible))
            yield _Named("generator", held.chosen(in_full(of.fake)), counts)
        if not for_networks or of.real is None or of.real_masks is None:
            return
        held = HeldImages.of(of.real_masks, None)
        if held is not None:
            counts = 0.5 * shares.get(f"real_{of.key}", 1.0) * _counts(held, class_weights(held.inside))
            yield _Named("real", held.chosen(in_full(of.real.detach())), counts)
        held = HeldImages.of(of.fake_masks, None)
        if held is not None:
            counts = 0.5 * shares.get(f"fake_{of.key}", 1.0) * _counts(held)
            yield _Named("fake", held.chosen(in_full(of.fake.detach())), counts)

    def _asked_together(self, call: Mapping[str, list[_Named]]) -> list[tuple[str, ...]]:
        """The networks of one region and size of images that are asked in one call: all of them, or each alone."""
        keys = tuple(call)
        region = self._regions[keys[0]]
        every = tuple(key for key, of in self._regions.items() if of is region)
        same = len({tuple((of.kind, len(of.images)) for of in named) for named in call.values()}) == 1
        if same and set(keys) == set(every) and not self._stack(every).is_hooked():
            return [every]
        return [(key,) for key in keys]

    def _losses_of_images(self, named: Sequence[Sequence[_Named]], keys: tuple[str, ...], n_generated: int) -> Tensor:
        """``[n, len(keys)]``: what each image adds to the loss of each network."""
        images = torch.cat([of.images for of_key in named for of in of_key])
        if len(keys) > 1:
            images = images.view(len(keys), -1, *images.shape[1:]).transpose(0, 1).flatten(1, 2)
        counts = np.stack([np.concatenate([of.counts for of in of_key]) for of_key in named], axis=1)
        logits = self._logits(keys, images, n_generated)
        (counted,) = upload([counts.astype(np.float64 if logits.dtype == torch.float64 else np.float32)], logits.device)
        return -(logits.log_softmax(dim=2) * counted).sum(dim=(2, 3, 4))

    def _logits(self, keys: tuple[str, ...], images: Tensor, n_generated: int) -> Tensor:
        """Logits ``[n, len(keys), 3, H, W]``; the networks learn from the images after the generated ones."""
        stack = self._stack(keys)
        if not stack.is_hooked():
            return stack(images, n_generated)
        (key,) = keys
        network = self.networks[key]
        learns = [parameter for parameter in network.parameters() if parameter.requires_grad]
        found = []
        for part, learn in ((images[:n_generated], False), (images[n_generated:], True)):
            for parameter in learns:
                parameter.requires_grad_(learn)
            found += [network(part)] if len(part) else []
        for parameter in learns:
            parameter.requires_grad_(True)
        return torch.cat(found)[:, None]

    def _stack(self, keys: tuple[str, ...]) -> StackedUNets:
        if keys not in self._stacks:
            networks = [cast(PixelClassifier, self.networks[key]) for key in keys]
            self._stacks[keys] = StackedUNets(networks, [network.class_head for network in networks])
        return self._stacks[keys]


def _counts(held: HeldImages, weights: Floats | None = None) -> Floats:
    """What the classes count at each pixel of a mean over images, ``[n, 3, H, W]``; ``None`` has all be generated."""
    counts = np.zeros((len(held), 3, *held.inside.shape[1:]))
    if weights is None:
        counts[:, GENERATED] = 1 / held.inside.size
    else:
        counts[:, :GENERATED] = weights / len(held)
    return counts


def _by_key(found: Sequence[tuple[tuple[str, ...], Tensor]]) -> TermLosses | None:
    """Losses of several calls, those of one network in one sum."""
    if len(found) < 2:
        return TermLosses(*found[0]) if found else None
    keys = [key for of_call, _ in found for key in of_call]
    distinct = list(dict.fromkeys(keys))
    values = torch.cat([values for _, values in found])
    if len(distinct) < len(keys):
        parts: dict[str, list[Tensor]] = {}
        for key, value in zip(keys, values.unbind(), strict=True):
            parts.setdefault(key, []).append(value)
        values = torch.stack([torch.stack(of_key).sum() for of_key in parts.values()])
    return TermLosses(tuple(distinct), values)
