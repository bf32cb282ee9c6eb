"""Our terms of the generator's loss, computed beside the host's graph, as gradients to inject into it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..config import Config
from ..errors import ConfigError, MaskError
from ..method.bank import DiscriminatorBank
from ..method.regions import RegionMask
from ..method.shown import Shown, StepLosses, TermLosses
from ..method.structure import structure_loss
from ..plugins.adapter import Translation
from ..plugins.manager import Plugins
from ..runtime.distributed import n_processes, sums_over_processes
from ..runtime.finite import finite, is_read_late, largest, zero_where_not
from ..runtime.uploads import upload
from ..saving.names import REVERSE
from .tap import leaf as leaf_of
from .uncertainty import GGDWrapper
from .uncertainty import terms as ggd_terms


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


class _Leaves:
    """Detached copies of the host's tensors, one each, on which our terms are computed.

    Args:
        largest_of_images: Where a plugin sees the images, their largest number: zeros take the images' place where it
            is not finite, lest a plugin's network take up NaN in its running statistics.
    """

    def __init__(self, largest_of_images: Tensor | None) -> None:
        flag = None if largest_of_images is None else largest_of_images < math.inf
        self._are_finite: Tensor | bool = True if flag is None else flag if is_read_late(flag) else bool(flag)
        self.pairs: list[tuple[Tensor, Tensor, str, bool]] = []

    def of(self, tensor: Tensor, name: str) -> Tensor:
        for known, leaf, _, _ in self.pairs:
            if known is tensor:
                return leaf
        return self.add(tensor, leaf_of(zero_where_not(self._are_finite, tensor.detach())), name, is_image=True)

    def add(self, tensor: Tensor, leaf: Tensor, name: str, *, is_image: bool) -> Tensor:
        self.pairs.append((tensor, leaf, name, is_image))
        return leaf


class Shares:
    """What one process's means weigh among those of all, term by term; 1 where there is one process.

    A host's gradients are averaged over the processes afterwards (DDP), and so are ours. A mean over n of the N windows
    that all P processes hold together must therefore weigh n P / N: one tumour here and three there count 1 : 3.
    """

    def __init__(self) -> None:
        self._counts: dict[str, tuple[int, int]] = {}
        self._n_processes = n_processes()

    def count(self, translations: Sequence[Translation], config: Config) -> None:
        """Count a step's windows and pixels over all processes, in one small exchange.

        Args:
            translations: The same directions on every process.
            config: Tells the regions.
        """
        own: dict[str, int] = {}
        for translation in translations:
            direction = translation.direction
            own[f"ggd_{direction}"] = translation.fake.numel()
            for region in config.regions:
                own[f"fake_{direction}_{region.name}"] = _n_windows(translation.masks.get(region.name))
                own[f"real_{direction}_{region.name}"] = _n_windows(translation.real_masks.get(region.name))
        for (name, count), total in zip(own.items(), sums_over_processes(list(own.values())), strict=True):
            self._counts[name] = count, total
        self._n_processes = n_processes()

    def ggd(self, direction: str) -> float:
        """Weight of a mean over the pixels of this process's generated images."""
        return self._of(f"ggd_{direction}")

    def fake(self, region: str, direction: str) -> float:
        """Weight of a mean over this process's generated windows of a region."""
        return self._of(f"fake_{direction}_{region}")

    def of_windows(self) -> dict[str, float]:
        """Weights of the means over generated and real windows: ``fake_A2B_tumor``, ``real_A2B_tumor``, ..."""
        return {name: self._of(name) for name in self._counts if not name.startswith("ggd_")}

    def held_anywhere(self, region: str, direction: str) -> bool:
        """Whether any process holds a window of the region, generated or real."""
        return any(self._counts.get(f"{kind}_{direction}_{region}", (0, 0))[1] for kind in ("fake", "real"))

    def _of(self, name: str) -> float:
        count, total = self._counts.get(name, (1, self._n_processes))
        return count * self._n_processes / total if total else 0.0


@dataclass(frozen=True)
class _Terms:
    """Terms of one kind.

    Args:
        names: With their direction, ``G_tumor_A2B``, ...
        weights: In the sum of all.
        values: ``[len(names)]``.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    values: Tensor


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
        self._without_target: set[str] = set()
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
        leaves = _Leaves(largest(images) if self._shown_to_plugins else None)
        regions = self._config.regions
        by_patches = {region.name: weights.get(region.name, 0.0) * region.weight for region in regions}
        by_pixels = {region.name: weights.get(region.name, 0.0) * region.pixel_weight for region in regions}
        given = (translations, leaves, shares)
        of_regions, discriminators = self._network_terms("G", by_patches, self._region_losses, *given, learn=learn)
        of_pixels, classifiers = self._network_terms("G_pixels", by_pixels, self._pixel_losses, *given, learn=learn)
        learnt = {kind: of for kind, of in (("D", discriminators), ("D_pixels", classifiers)) if of is not None}
        terms = [
            *of_regions,
            *of_pixels,
            *self._structure_terms(translations, weights, leaves, shares),
            *self._ggd_terms(translations, weights, leaves, shares),
        ]
        taken = {name for term in terms for name in term.names}
        terms += self._extra_terms(translations, leaves, taken)
        losses = {name: loss for term in terms for name, loss in zip(term.names, term.values.detach(), strict=True)}
        losses = {name: losses[name] for name in sorted(losses, key=_as_shown(translations, self._config))}
        masks_are_finite = all(mask.is_finite for mask in masks_in(translations))
        if not terms and not learnt:
            return Contribution(translations[0].fake.new_zeros(()), _are_finite(images, masks_are_finite))
        total = _weighted_sum(terms) if terms else translations[0].fake.new_zeros(())
        # The generators' terms reach images and heads only, the own losses of our networks nothing but them.
        root = sum((of.values.sum() for of in learnt.values()), total)
        if not root.requires_grad:  # a plugin's constant, where the region it speaks of is absent
            is_finite = _are_finite([*images, total], masks_are_finite)
            return Contribution(zero_where_not(is_finite, total), is_finite, losses=losses)
        heads = [head.head for head in self._heads.values() if head.head is not None]
        head_parameters = [p for head in heads for p in self._parameters_of(head)]
        networks = {"D": self._bank.networks, "D_pixels": self._bank.pixels.networks}
        of_kinds = {
            kind: [p for key in of.keys for p in self._parameters_of(networks[kind][key])]
            for kind, of in learnt.items()
        }
        bank_parameters = [p for parameters in of_kinds.values() for p in parameters]
        inputs = [leaf for _, leaf, _, _ in leaves.pairs]
        every = torch.autograd.grad(root, [*inputs, *head_parameters, *bank_parameters], allow_unused=True)
        found = every[: len(inputs) + len(head_parameters)]
        of_parameter = dict(zip(bank_parameters, every[len(found) :], strict=True))
        is_finite = _are_finite([*images, total, *found], masks_are_finite)
        # On the CPU it is read once, elsewhere not at all.
        known = is_finite if is_read_late(is_finite) else bool(is_finite)
        gradients = [
            Gradient(tensor, zero_where_not(known, gradient), name, is_image)
            for (tensor, _, name, is_image), gradient in zip(leaves.pairs, found, strict=False)
            # A frozen generator's image takes no gradient, and neither do features that are the source itself.
            if gradient is not None and tensor.requires_grad
        ]
        return Contribution(
            zero_where_not(known, total.detach()),
            is_finite,
            gradients,
            losses,
            _with_gradient(head_parameters, found[len(inputs) :]),
            {
                kind: Learnt(
                    TermLosses(learnt[kind].keys, learnt[kind].values.detach()),
                    _with_gradient(parameters, [of_parameter[p] for p in parameters]),
                )
                for kind, parameters in of_kinds.items()
            },
        )

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
        leaves: _Leaves,
        shares: Shares,
        *,
        learn: bool,
    ) -> tuple[list[_Terms], TermLosses | None]:
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
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: _Leaves, shares: Shares
    ) -> Iterator[_Terms]:
        regions = {region.name: region for region in self._config.regions}
        weights = {name: weights.get(name, 0.0) * region.structure_weight for name, region in regions.items()}
        sources = {translation.direction: translation.source for translation in translations}
        for of in self._shown(translations, weights, leaves).values():
            reach_px = regions[of.region].context_px
            loss = structure_loss(of.fake, sources[of.direction], of.fake_masks, reach_px)
            if loss is not None:
                yield _terms_of("G_structure", TermLosses((of.key,), loss.reshape(1)), {of.key: of}, weights, shares)

    def _shown(
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: _Leaves
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

    def _ggd_terms(
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: _Leaves, shares: Shares
    ) -> Iterator[_Terms]:
        ggd = self._config.ggd
        weight = 0.0 if ggd is None else weights.get("ggd", 0.0) * ggd.weight
        if ggd is None or weight == 0:
            return
        asked, made, directions = [], [], []
        for translation in translations:
            residual = self._residual_of(translation, ggd.target)
            if residual is None:
                continue
            output, truth, made_by, kind = residual
            directions.append(translation.direction)
            leaf = leaves.of(output, f"the {kind} image of {translation.direction}")
            asked.append((self._heads[made_by], output, leaf - truth.detach(), leaf))
            made.append((output, made_by))
        if not asked:
            return
        found = ggd_terms(asked)
        outputs = [image for t in translations for image in (t.fake, t.reconstruction, t.identity) if image is not None]
        for head in self._heads.values():
            head.let_go(outputs)
        for (output, made_by), term in zip(made, found, strict=True):
            if term.features is not output:
                leaves.add(term.features, term.leaf, f"the features of generator {made_by}", is_image=False)
        yield _Terms(
            tuple(f"ggd_{direction}" for direction in directions),
            tuple(weight * shares.ggd(direction) for direction in directions),
            torch.stack([term.loss for term in found]),
        )

    def _residual_of(self, translation: Translation, configured: str) -> tuple[Tensor, Tensor, str, str] | None:
        """Image, its truth, which generator made it, and of which kind it is; ``None`` where there is nothing to learn
        from."""
        direction = translation.direction
        target = self._target(translation) if configured == "auto" else configured
        output, truth, made_by = {
            "paired": (translation.fake, translation.real, direction),
            "cycle": (translation.reconstruction, translation.source, REVERSE.get(direction, "")),
            "identity": (translation.identity, translation.real, direction),
        }[target]
        if output is None or made_by not in self._heads:
            missing = {"cycle": "a reconstruction", "identity": "an identity image"}.get(target, "a generated image")
            missing = missing if configured != "auto" else "a paired truth, a reconstruction or an identity image"
            missing = missing if output is None else f"generator {made_by}"
            if configured == "auto":
                self._leave_out(direction, missing)
                return None
            raise ConfigError(
                f"`ggd.target` is {configured!r} and needs {missing} for {direction}; the host gave none; "
                f"choose another target or set ggd = false"
            )
        if not self._heads[made_by].can_read(output):
            return None
        return output, truth, made_by, {"paired": "generated", "cycle": "reconstructed"}.get(target, target)

    def _leave_out(self, direction: str, missing: str) -> None:
        """Nobody has asked for a target the host has not; say once that there is no uncertainty to learn."""
        if direction not in self._without_target:
            self._without_target.add(direction)
            warnings.warn(
                f"uncertainty is left out for {direction}: `ggd.target` = 'auto' needs {missing}, and the host's "
                f"forward makes none; name a target, or set ggd = false",
                RuntimeWarning,
                stacklevel=2,
            )

    def _target(self, translation: Translation) -> str:
        """What ``auto`` stands for: the data decide."""
        if translation.paired:
            return "paired"
        cycled = translation.reconstruction is not None and REVERSE.get(translation.direction) in self._heads
        return "cycle" if cycled else "identity"

    def _extra_terms(self, translations: Sequence[Translation], leaves: _Leaves, taken: set[str]) -> Iterator[_Terms]:
        if not self._plugins.names("roi_generator_losses"):
            return
        for translation in translations:
            suffix = f"_{translation.direction}"
            own = {name.removesuffix(suffix) for name in taken if name.endswith(suffix)}
            found = self._extra(translation, leaves, own)
            for name, loss in found.items():
                yield _Terms((name + suffix,), (1.0,), loss.reshape(1))

    def _extra(self, translation: Translation, leaves: _Leaves, taken: set[str]) -> dict[str, Tensor]:
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
) -> _Terms:
    """Losses of the bank as terms, ``<kind>_<region>_<direction>``."""
    regions = [shown[key] for key in found.keys]
    return _Terms(
        tuple(f"{kind}_{of.region}_{of.direction}" for of in regions),
        tuple(weights[of.region] * shares.fake(of.region, of.direction) for of in regions),
        found.values,
    )


def _weighted_sum(terms: Sequence[_Terms]) -> Tensor:
    """Of all terms; in the widest of their types, on the device of the first."""
    values = [term.values for term in terms]
    every = values[0] if len(values) == 1 else torch.cat(values)
    weights = np.array([weight for term in terms for weight in term.weights])
    (there,) = upload([weights if every.dtype == torch.float64 else weights.astype(np.float32)], every.device)
    return (every * there).sum()


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


def _n_windows(masks: RegionMask | None) -> int:
    return 0 if masks is None else sum(box is not None for box in masks.boxes)
