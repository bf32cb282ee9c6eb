"""For ``resume = "exact"``: what a host forgets when it is stopped, its optimizers' moments and its pools."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import optim


def moments_of(optimizers: Iterable[optim.Optimizer]) -> list[Any]:
    """The moments of every optimizer; rates and groups belong to the host's own schedule."""
    return [optimizer.state_dict()["state"] for optimizer in optimizers]


def load_moments(optimizers: Sequence[optim.Optimizer], moments: Sequence[Any]) -> None:
    """Restore what ``moments_of`` gave; rates and groups stay as they are."""
    for optimizer, saved in zip(optimizers, moments, strict=True):
        optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(saved)})


def pools_of(model: Any, names: Iterable[str]) -> dict[str, Any]:
    """The generated images that the model's pools hold, by the pool's name."""
    pools = {name: getattr(model, name) for name in names}
    return {name: list(pool.images) if pool.pool_size else [] for name, pool in pools.items()}


def load_pools(model: Any, pools: Mapping[str, Any]) -> None:
    """Restore what ``pools_of`` gave, on the model's device."""
    for name, saved in pools.items():
        pool = getattr(model, name)
        if pool.pool_size:
            pool.images = [image.to(model.device) for image in saved]
            pool.num_imgs = len(saved)
