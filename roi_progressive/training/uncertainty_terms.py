"""The uncertainty heads' terms: which image of a step has a truth to compare it with, and what its head says of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from ..config import GGDConfig
from ..errors import ConfigError
from ..plugins.adapter import Translation
from ..saving.names import REVERSE
from .shares import Shares
from .terms import Leaves, Terms
from .uncertainty import GGDWrapper
from .uncertainty import terms as ggd_terms


class UncertaintyTerms:
    """Says how likely an image's residual is under the maps its generator's head predicts (paper eq. 1).

    Args:
        config: Weight and target; ``None`` for no such terms.
        heads: By the direction of their generator.
    """

    def __init__(self, config: GGDConfig | None, heads: Mapping[str, GGDWrapper]) -> None:
        self._config = config
        self._heads = heads
        self._without_target: set[str] = set()

    def of(
        self, translations: Sequence[Translation], weights: Mapping[str, float], leaves: Leaves, shares: Shares
    ) -> Iterator[Terms]:
        """The terms of one step, ``ggd_<direction>``.

        Args:
            translations: One a direction.
            weights: Stage weight, 0 to 1, of every active term.
            leaves: Where they are computed; the features that heads read are added to them.
            shares: What this process's means weigh among those of all.

        Raises:
            ConfigError: `ggd.target` names what the host does not make.
        """
        ggd = self._config
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
        yield Terms(
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
