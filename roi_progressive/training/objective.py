"""Our terms of the generator's loss, computed beside the host's graph, as gradients to inject into it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import MaskError
from ..method.bank import DiscriminatorBank
from ..method.regions import RegionMask
from ..method.shown import Shown, StepLosses, TermLosses
from ..method.structure import structure_loss
from ..plugins.adapter import Translation
from ..plugins.manager import Plugins
from ..runtime.finite import finite, is_read_late, largest, zero_where_not
from .shares import Shares
from .terms import Leaves, Terms, Weighted
from .uncertainty import GGDWrapper
from .uncertainty_terms import UncertaintyTerms


@dataclass(frozen=True)
class Gradient:
    """One gradient to inject.

    Args:
        tensor: Of the host's graph.
        gradient: Ours, of its shape.
        name: What the tensor is.
        is_image: Whether the balance applies.
    """

    tensor: Tensor
    gradient: Tensor
    name: str
    is_image: bool


@dataclass(frozen=True)
class Learnt:
    """What networks of one kind learn from a step.

    Args:
        losses: Their own, detached.
        gradients: Their parameters, each with its gradient.
    """

    losses: TermLosses
    gradients: list[tuple[nn.Parameter, Tensor]]


@dataclass
class Contribution:
    """What one step adds.

    Args:
        value: The weighted sum of all terms, detached.
        gradients: To inject.
        is_finite: Whether images, masks, losses and gradients are finite, on the images' device. Where they are not,
            value and gradients are zero; those for the heads' parameters are as they came.
        losses: Each term unweighted, detached, by name.
        of_heads: The parameters of the heads that the terms lead to, on every process the same, since uncertainty does
            not depend on regions; each with its gradient.
        of_bank: What discriminators (``D``) and pixel classifiers (``D_pixels``) learn, where that was asked for and
            could be had in the same pass.
    """

    value: Tensor
    is_finite: Tensor
    gradients: list[Gradient] = field(default_factory=list)
    losses: dict[str, Tensor] = field(default_factory=dict)
    of_heads: list[tuple[nn.Parameter, Tensor]] = field(default_factory=list)
    of_bank: dict[str, Learnt] = field(default_factory=dict)


class GeneratorObjective:
    """Sums region, uncertainty and plugin terms over the directions of a step.

    Args:
        config: Weights.
        bank: The region discriminators; the generators' terms give their parameters no gradient.
        heads: The uncertainty heads by the direction of their generator.
        plugins: Asked for extra terms.
    """

    def __init__(
        self, config: Config, bank: DiscriminatorBank, heads: Mapping[str, GGDWrapper], plugins: Plugins
    ) -> None:
        self._config = config
        self._bank = bank
        self._heads = heads
        self._plugins = plugins
        self._uncertainty = UncertaintyTerms(config.ggd, heads)
        self._parameters: WeakKeyDictionary[nn.Module, list[nn.Parameter]] = WeakKeyDictionary()

    def contribution(
        self,
        translations: Sequence[Translation],
        weights: Mapping[str, float],
        shares: Shares | None = None,
        *,
        learn: bool = False,
    ) -> Contribution:
        """Losses and gradients of one step.

        Args:
            translations: One a direction.
            weights: Stage weight, 0 to 1, of every active term.
            shares: What this process's means weigh among those of all; 1 by default.
            learn: Have the discriminators' own gradients made in the same pass, where their networks allow it.

        Returns:
            What to inject, and what the heads learn; nothing at all where no term applies.
        """
        shares = shares or Shares()
        images = _images_of(translations)
        leaves = Leaves(largest(images) if self._shown_to_plugins else None)
        # Uncertainty is differentiated by itself, and first: its features have the images' size, and all but their
        # gradients is gone before the regions' graph takes its place.
        of_ggd = list(self._uncertainty.of(translations, weights, leaves, shares))
        n_leaves = len(leaves.pairs)
        heads = [head.head for head in self._heads.values() if head.head is not None]
        head_parameters = [p for head in heads for p in self._parameters_of(head)]
        uncertainty = Weighted.of(of_ggd, [*leaves.tensors, *head_parameters])
        of_heads = uncertainty.gradients[n_leaves:]
        terms, learnt = self._region_terms(translations, weights, leaves, shares, learn=learn)
        terms += self._extra_terms(translations, leaves, {name for term in [*terms, *of_ggd] for name in term.names})
        of_kinds = {kind: self._bank_parameters(kind, of) for kind, of in learnt.items()}
        bank_parameters = [p for parameters in of_kinds.values() for p in parameters]
        # The generators' terms reach images alone, the own losses of our networks nothing but them.
        alongside = [of.values for of in learnt.values()]
        regions = Weighted.of(terms, [*leaves.tensors, *bank_parameters], alongside)
        of_parameter = dict(zip(bank_parameters, regions.gradients[len(leaves.pairs) :], strict=True))
        by_leaf = zip_longest(uncertainty.gradients[:n_leaves], regions.gradients[: len(leaves.pairs)])
        of_leaves = [_sum(gradients) for gradients in by_leaf]
        total = _sum([uncertainty.value, regions.value])
        total = translations[0].fake.new_zeros(()) if total is None else total
        masks_are_finite = all(mask.is_finite for mask in masks_in(translations))
        is_finite = _are_finite([*images, total, *of_leaves, *of_heads], masks_are_finite)
        # On the CPU it is read once, elsewhere not at all.
        known = is_finite if is_read_late(is_finite) else bool(is_finite)
        gradients = [
            Gradient(tensor, zero_where_not(known, gradient), name, is_image)
            for (tensor, _, name, is_image), gradient in zip(leaves.pairs, of_leaves, strict=True)
            # A frozen generator's image takes no gradient, and neither do features that are the source itself.
            if gradient is not None and tensor.requires_grad
        ]
        losses = {n: loss for of in [*terms, *of_ggd] for n, loss in zip(of.names, of.values.detach(), strict=True)}
        return Contribution(
            zero_where_not(known, total),
            is_finite,
            gradients,
            {name: losses[name] for name in sorted(losses, key=_as_shown(translations, self._config))},
            _with_gradient(head_parameters, of_heads),
            {kind: _learnt(of, of_kinds[kind], of_parameter) for kind, of in learnt.items()},
        )

    def _region_terms(
        self,
        translations: Sequence[Translation],
        weights: Mapping[str, float],
        leaves: Leaves,
        shares: Shares,
        *,
        learn: bool,
    ) -> tuple[list[Terms], dict[str, TermLosses]]:
        """The terms of every region, and the own losses of discriminators (``D``) and pixel classifiers (``D_pixels``),
        where these are asked for and to be had in the same pass."""
        regions = self._config.regions
        by_patches = {region.name: weights.get(region.name, 0.0) * region.weight for region in regions}
        by_pixels = {region.name: weights.get(region.name, 0.0) * region.pixel_weight for region in regions}
        given = (translations, leaves, shares)
        of_patches, discriminators = self._network_terms("G", by_patches, self._region_losses, *given, learn=learn)
        of_pixels, classifiers = self._network_terms("G_pixels", by_pixels, self._pixel_losses, *given, learn=learn)
        learnt = {kind: of for kind, of in (("D", discriminators), ("D_pixels", classifiers)) if of is not None}
        return [*of_patches, *of_pixels, *self._structure_terms(translations, weights, leaves, shares)], learnt

    def _bank_parameters(self, kind: str, learnt: TermLosses) -> list[nn.Parameter]:
        """Those of the networks of one kind that are to learn."""
        networks = self._bank.networks if kind == "D" else self._bank.pixels.networks
        return [parameter for key in learnt.keys for parameter in self._parameters_of(networks[key])]

    def _parameters_of(self, network: nn.Module) -> list[nn.Parameter]:
        """Those that learn; a search through its modules takes longer than many an operation, so it is made once."""
        if network not in self._parameters:
            self._parameters[network] = list(network.parameters())
        return [parameter for parameter in self._parameters[network] if parameter.requires_grad]

    @property
    def _shown_to_plugins(self) -> bool:
        """Whether a plugin's network or term sees the images."""
        return self._bank.has_foreign_networks or bool(self._plugins.names("roi_generator_losses"))

    def _network_terms(
        self,
        kind: str,
        weights: Mapping[str, float],
        losses_of: Callable[[Sequence[Shown], bool], StepLosses],
        translations: Sequence[Translation],
        leaves: Leaves,
        shares: Shares,
        *,
        learn: bool,
    ) -> tuple[list[Terms], TermLosses | None]:
        """The generators' terms by networks of one kind, and what these learn from, if that is asked for and possible.

        Args:
            kind: What the terms are called.
            weights: Of the regions.
            losses_of: What the networks say of what they are shown; whether they are to learn from it.
            translations: One a direction.
            leaves: Where the terms are computed.
            shares: What means weigh.
            learn: Whether their own losses are asked for.
        """
        shown = self._shown(translations, weights, leaves)
        found = losses_of(list(shown.values()), learn and all(of.real_masks is not None for of in shown.values()))
        terms = [] if found.generators is None else [_terms_of(kind, found.generators, shown, weights, shares)]
        return terms, found.networks

    def _region_losses(self, shown: Sequence[Shown], learn: bool) -> StepLosses:
        found = self._bank.step_losses(shown) if learn and shown else None
        return found or StepLosses(self._bank.generator_losses(shown) if shown else None, None)

    def _pixel_losses(self, shown: Sequence[Shown], learn: bool) -> StepLosses:
        return self._bank.pixel_losses(shown, for_networks=learn)

    def _structure_terms(
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: Leaves, shares: Shares
    ) -> Iterator[Terms]:
        regions = {region.name: region for region in self._config.regions}
        weights = {name: weights.get(name, 0.0) * region.structure_weight for name, region in regions.items()}
        sources = {translation.direction: translation.source for translation in translations}
        for of in self._shown(translations, weights, leaves).values():
            reach_px = regions[of.region].context_px
            loss = structure_loss(of.fake, sources[of.direction], of.fake_masks, reach_px)
            if loss is not None:
                yield _terms_of("G_structure", TermLosses((of.key,), loss.reshape(1)), {of.key: of}, weights, shares)

    def _shown(
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: Leaves
    ) -> dict[str, Shown]:
        """The images of every direction, for each region that weighs anything."""
        shown = {}
        for translation in translations:
            direction = translation.direction
            for region in self._config.regions:
                if weights[region.name] == 0:
                    continue
                fake = leaves.of(translation.fake, f"the generated image of {direction}")
                masks = masks_of(translation.masks, region.name, f"the source images of {direction}")
                real_masks = translation.real_masks.get(region.name)
                of = Shown(direction, region.name, fake, masks, translation.real, real_masks)
                shown[of.key] = of
        return shown

    def _extra_terms(self, translations: Sequence[Translation], leaves: Leaves, taken: set[str]) -> Iterator[Terms]:
        if not self._plugins.names("roi_generator_losses"):
            return
        for translation in translations:
            suffix = f"_{translation.direction}"
            own = {name.removesuffix(suffix) for name in taken if name.endswith(suffix)}
            found = self._extra(translation, leaves, own)
            for name, loss in found.items():
                yield Terms((name + suffix,), (1.0,), loss.reshape(1))

    def _extra(self, translation: Translation, leaves: Leaves, taken: set[str]) -> dict[str, Tensor]:
        direction = translation.direction

        def cut_off(image: Tensor | None, kind: str) -> Tensor | None:
            return None if image is None else leaves.of(image, f"the {kind} image of {direction}")

        seen = replace(
            translation,
            fake=leaves.of(translation.fake, f"the generated image of {direction}"),
            reconstruction=cut_off(translation.reconstruction, "reconstructed"),
            identity=cut_off(translation.identity, "identity"),
        )
        return self._plugins.merged("roi_generator_losses", taken, translation=seen)


def _terms_of(
    kind: str, found: TermLosses, shown: Mapping[str, Shown], weights: Mapping[str, float], shares: Shares
) -> Terms:
    """Losses of the bank as terms, ``<kind>_<region>_<direction>``."""
    regions = [shown[key] for key in found.keys]
    return Terms(
        tuple(f"{kind}_{of.region}_{of.direction}" for of in regions),
        tuple(weights[of.region] * shares.fake(of.region, of.direction) for of in regions),
        found.values,
    )


def _sum(tensors: Iterable[Tensor | None]) -> Tensor | None:
    """Of those that are there."""
    there = [tensor for tensor in tensors if tensor is not None]
    return functools.reduce(torch.add, there) if there else None


def _learnt(
    losses: TermLosses, parameters: Sequence[nn.Parameter], found: Mapping[nn.Parameter, Tensor | None]
) -> Learnt:
    """What networks of one kind learn, of the gradients that were found."""
    gradients = _with_gradient(parameters, [found[parameter] for parameter in parameters])
    return Learnt(TermLosses(losses.keys, losses.values.detach()), gradients)


def _with_gradient(
    parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]
) -> list[tuple[nn.Parameter, Tensor]]:
    """The parameters that were reached, each with its gradient."""
    pairs = zip(parameters, gradients, strict=True)
    return [(parameter, gradient) for parameter, gradient in pairs if gradient is not None]


def _are_finite(tensors: Sequence[Tensor | None], masks_are_finite: bool) -> Tensor:
    is_finite = finite(tensor for tensor in tensors if tensor is not None)
    return is_finite if masks_are_finite else torch.zeros_like(is_finite)


def _as_shown(translations: Sequence[Translation], config: Config) -> Callable[[str], tuple[int, int]]:
    """The order of the terms' names: a direction's regions, uncertainty and what plugins add, then the next one's."""
    directions = [translation.direction for translation in translations]
    ours = [*(f"{kind}_{region.name}" for kind in ("G", "G_pixels", "G_structure") for region in config.regions), "ggd"]

    def place(name: str) -> tuple[int, int]:
        term, _, direction = name.rpartition("_")
        return directions.index(direction), ours.index(term) if term in ours else len(ours)

    return place


def _images_of(translations: Sequence[Translation]) -> list[Tensor]:
    """Each once: one direction's source is the other's real image."""
    images = [image for t in translations for image in (t.source, t.fake, t.real, t.reconstruction, t.identity)]
    return list({id(image): image for image in images if image is not None}.values())


def masks_in(translations: Sequence[Translation]) -> list[RegionMask]:
    """Every mask of source and target images, whatever its region."""
    return [mask for t in translations for masks in (t.masks, t.real_masks) for mask in masks.values()]


def masks_of(masks: Mapping[str, RegionMask], region: str, whose: str) -> RegionMask:
    """The masks of one region.

    Raises:
        MaskError: They did not come with the batch.
    """
    if region not in masks:
        raise MaskError(
            f"`masks` of {whose} must hold region {region!r}; got {sorted(masks) or 'none'}; "
            f"give the data set to `attach`, or the masks to `generator_loss`"
        )
    return masks[region]
