"""Terms of the generators' loss, and the detached copies of the host's tensors that they are computed on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..runtime.finite import is_read_late, zero_where_not
from ..runtime.uploads import upload
from .tap import leaf as leaf_of


class Leaves:
    """Detached copies of the host's tensors, one each, on which our terms are computed.

    Args:
        largest_of_images: Where a plugin sees the images, their largest number: zeros take the images' place where it
            is not finite, lest a plugin's network take up NaN in its running statistics.
    """

    def __init__(self, largest_of_images: Tensor | None) -> None:
        flag = None if largest_of_images is None else largest_of_images < math.inf
        self._are_finite: Tensor | bool = True if flag is None else flag if is_read_late(flag) else bool(flag)
        self.pairs: list[tuple[Tensor, Tensor, str, bool]] = []

    @property
    def tensors(self) -> list[Tensor]:
        """The copies, in the order in which they were made."""
        return [leaf for _, leaf, _, _ in self.pairs]

    def of(self, tensor: Tensor, name: str) -> Tensor:
        """The copy of a host's image."""
        for known, leaf, _, _ in self.pairs:
            if known is tensor:
                return leaf
        return self.add(tensor, leaf_of(zero_where_not(self._are_finite, tensor.detach())), name, is_image=True)

    def add(self, tensor: Tensor, leaf: Tensor, name: str, *, is_image: bool) -> Tensor:
        """Take a copy that was made elsewhere."""
        self.pairs.append((tensor, leaf, name, is_image))
        return leaf


@dataclass(frozen=True)
class Terms:
    """Terms of one kind.

    Args:
        names: With their direction, ``G_tumor_A2B``, ...
        weights: In the sum of all.
        values: ``[len(names)]``.
    """

    names: tuple[str, ...]
    weights: tuple[float, ...]
    values: Tensor


@dataclass(frozen=True)
class Weighted:
    """A weighted sum of terms, and its gradients.

    Args:
        value: Detached, in the widest of the terms' types, on the device of the first; ``None`` where there are none.
        gradients: Of each tensor it was asked for; ``None`` for those it does not depend on.
    """

    value: Tensor | None
    gradients: Sequence[Tensor | None]

    @classmethod
    def of(cls, terms: Sequence[Terms], tensors: Sequence[Tensor], alongside: Sequence[Tensor] = ()) -> Weighted:
        """Differentiate terms; their graph is gone afterwards.

        Args:
            terms: What is summed.
            tensors: To differentiate by.
            alongside: Losses ``[n]``, each of weight 1, whose gradients are wanted too; they are no part of the value.
        """
        values = [*(term.values for term in terms), *alongside]
        if not values:
            return cls(None, [None] * len(tensors))
        weights = np.array([weight for term in terms for weight in term.weights])
        is_double = any(value.dtype == torch.float64 for value in values)
        every = np.concatenate([weights, np.ones(sum(map(len, alongside)))])
        (there,) = upload([every if is_double else every.astype(np.float32)], values[0].device)
        parts = there.split([len(value) for value in values])
        # A plugin's constant has no gradient, where the region it speaks of is absent.
        led = [place for place, value in enumerate(values) if value.requires_grad]
        found: Sequence[Tensor | None] = [None] * len(tensors)
        if led and tensors:
            # A backward begins with the weights: no product of them with the values needs one of its own.
            begun = [parts[place].to(values[place].dtype) for place in led]
            found = torch.autograd.grad([values[place] for place in led], tensors, begun, allow_unused=True)
        summed = [value.detach() for value in values[: len(terms)]]
        total = (joined(summed) * there[: len(weights)]).sum() if terms else None
        return cls(total, found)


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """All of them one after the other; a single one as it is, without a copy."""
    return tensors[0] if len(tensors) == 1 else torch.cat(list(tensors))
