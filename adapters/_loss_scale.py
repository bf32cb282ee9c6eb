"""By how much a host scales its loss before backward, so that our gradient is scaled alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from roi_progressive import Patches

LOSS_METHODS = ("backward_G", "compute_G_loss")
"""Methods that leave the generators' loss in ``loss_G``; some forks call backward themselves, later and scaled."""


class LossScale:
    """Reads the scale where the host applies it: the gradient that arrives at ``loss_G`` is the factor.

    A host that calls backward inside the method that makes the loss is asked for its ``GradScaler`` instead.

    Args:
        model: The host's.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._arrived: float | None = None

    def install(self, patches: Patches) -> None:
        """Listen at ``loss_G`` from here on."""
        for name in LOSS_METHODS:
            if hasattr(self._model, name):
                patches.wrap(self._model, name, self._listen)

    def _listen(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        loss = getattr(self._model, "loss_G", None)
        loss = result if isinstance(result, Tensor) else loss
        if isinstance(loss, Tensor) and loss.requires_grad:
            loss.register_hook(self._note)
        return result

    def _note(self, gradient: Tensor) -> None:
        self._arrived = float(gradient)

    def step_begins(self) -> None:
        """Forget the last step's."""
        self._arrived = None

    def now(self) -> float:
        """The factor; 1 where nothing scales."""
        if self._arrived is not None:
            return self._arrived
        scalers = (value for value in vars(self._model).values() if _is_grad_scaler(value))
        return next((float(scaler.get_scale()) for scaler in scalers), 1.0)


def _is_grad_scaler(value: Any) -> bool:
    # By what it has: torch has moved the class, and forks bring their own.
    return all(hasattr(type(value), name) for name in ("scale", "unscale_", "get_scale"))
