"""One backward of the host: where it starts, where it passes by, and by how much the host multiplies its loss in it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.hooks import RemovableHandle


class Place:
    """A tensor's place in the autograd graph, which stays its place whatever is done to the tensor afterwards."""

    def __init__(self, tensor: Tensor) -> None:
        node = tensor.grad_fn
        # A leaf's gradient arrives at the node that accumulates it, which torch shows to those that use the leaf only.
        self.node: Any = tensor.view_as(tensor).grad_fn.next_functions[0][0] if node is None else node  # type: ignore[union-attr]
        self._output = tensor.output_nr

    def watch(self, arrived: Callable[[Tensor | None], Tensor | None]) -> RemovableHandle:
        """Tell of every gradient that arrives; what is returned takes its place, where it is not ``None``."""

        def hook(gradients: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
            new = arrived(gradients[self._output])
            return None if new is None else (*gradients[: self._output], new, *gradients[self._output + 1 :])

        handle: RemovableHandle = self.node.register_prehook(hook)
        return handle


class Pass:
    """One ``torch.autograd.backward`` of the host, while it runs.

    Attributes:
        root: The autograd node it starts from.
        loss_gradient: The gradient that arrived at the loss the host names, which is the factor the host has put on it;
            ``None`` until then, and where the pass does not come by.
        root_gradient: The same for what is taken for the loss of a host that names none, see ``_loss_below``.
        assumption: What that is, where the host's code can be read in two ways.
    """

    def __init__(self, roots: Sequence[Tensor], gradients: Sequence[Tensor | None]) -> None:
        self.root: Any = roots[0].grad_fn
        self.loss_gradient: Tensor | float | None = None
        first = gradients[0]
        self.root_gradient: Tensor | float = 1.0 if first is None or first.numel() != 1 else first.reshape(())
        self.assumption: str | None = None

    def watch_loss(self, loss: Tensor | None, kept: Callable[[], Mapping[str, Tensor]]) -> list[RemovableHandle]:
        """Have ``loss_gradient`` and ``root_gradient`` told before any generated image is reached.

        Args:
            loss: The scalar that the host trains its generators on, where it names it.
            kept: Tells all scalars that the host keeps as losses, by name.
        """
        handles = []
        if loss is not None and loss.grad_fn is not None:
            if loss.grad_fn is self.root:
                self.loss_gradient = self.root_gradient
                return []
            handles.append(Place(loss).watch(self._loss_reached))
        found, self.assumption = _loss_below(self.root, kept)
        if found is not self.root:
            handles.append(found.register_prehook(self._found_reached))
        return handles

    def _loss_reached(self, gradient: Tensor | None) -> None:
        self.loss_gradient = gradient

    def _found_reached(self, gradients: tuple[Tensor | None, ...]) -> None:
        if gradients[0] is not None:
            self.root_gradient = gradients[0]


# -- which loss a backward starts from ---------------------------------------------------------------------------------

_FACTORS = ("MulBackward0", "DivBackward0", "NegBackward0")
_SAME = ("CloneBackward0", "AliasBackward0", "ToCopyBackward0", "ViewBackward0", "SqueezeBackward0")
scaled_from: dict[Any, Any] = {}
"""What a GradScaler was given, by what it gave; for the time of a step."""


def _loss_below(root: Any, kept: Callable[[], Mapping[str, Tensor]]) -> tuple[Any, str | None]:
    """The node of the loss that a backward starts from, behind factors; and what was assumed of these, if anything.

    It is the first of these from the root on: a loss that the host keeps under a name; a sum, for factors in front of a
    sum are scale; what a GradScaler was given. Other factors in front of a single term may be its weight or a scale,
    which no graph tells: they are scale where the term has a name, and its weight where it has none.
    """
    if root is None or (_inner(root) is None):
        return root, None
    names = {loss.grad_fn: name for name, loss in kept().items()}
    found, node, n_factors = root, root, 0
    while node is not None:
        if node in names:
            told = f"the host's loss is taken to be `{names[node]}`, and the factor in front of it for a scale"
            return node, f"{told}, which is put on our terms too" if n_factors else None
        if _is_sum(node):
            return node, None
        n_factors += node.name() in _FACTORS and node not in scaled_from
        if node in scaled_from:
            found, n_factors = scaled_from[node], 0
        node = _inner(node)
    told = "the host's loss is taken to be a single term, and the factor in front of it for its weight"
    return found, f"{told}, which is not put on our terms" if n_factors else None


def _inner(node: Any) -> Any:
    """The node of the one tensor that this node's is a multiple or a copy of; ``None`` where it is no such thing."""
    if node in scaled_from:
        return scaled_from[node]
    if node.name() not in (*_FACTORS, *_SAME):
        return None
    followed = [following for following, _ in node.next_functions if following is not None]
    return followed[0] if len(followed) == 1 else None


def _is_sum(node: Any) -> bool:
    """Whether losses are added up here, one by one or out of a list; a number added to one is no second loss."""
    if node.name() in ("SumBackward0", "MeanBackward0"):
        node = node.next_functions[0][0]
        if node is None or node.name() not in ("StackBackward0", "CatBackward0"):
            return False
    elif node.name() not in ("AddBackward0", "SubBackward0"):
        return False
    return sum(following is not None for following, _ in node.next_functions) > 1
