"""Networks that plugins build for the bank: whose each is, and what it may return."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn

from ..errors import PluginError, add_note, one_line
from .logit_weights import logit_weights
from .regions import Floats


class ForeignNetwork(NamedTuple):
    """A network, and the name of the plugin that built it."""

    network: nn.Module
    plugin: str


@contextmanager
def naming_the_builder(network: nn.Module, plugin: str | None) -> Iterator[None]:
    """An error inside a plugin's network keeps its type and gets a note that names plugin and hook.

    Args:
        network: The network that is called in the block.
        plugin: Who built it; ``None`` where no plugin did.
    """
    try:
        yield
    except Exception as error:  # any of a plugin's: it gets a note, and goes on
        if plugin is not None:
            add_note(error, f"raised in {_whose(network, plugin)}, hook roi_discriminator")
        raise


def checked_logits(network: nn.Module, logits: Any, n: int, plugin: str | None) -> Tensor:
    """The logits of ``n`` windows.

    Raises:
        PluginError: They are not ``[n, 1, h, w]``.
    """
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[:2] != (n, 1):
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise PluginError(
            f"`roi_discriminator` must build a network that returns logits [N, 1, h, w], here N = {n}; "
            f"{_whose(network, plugin)} returned {came}; end it with a convolution to one channel"
        )
    return logits


def weights_by_geometry(network: nn.Module, mask: Floats, logits: Tensor, level: int, plugin: str | None) -> Floats:
    """What each logit weighs, by the network's ``geometry``.

    Args:
        network: One that has it.
        mask: The region in its windows, ``[n, S, S]``, before any halving.
        logits: Its answer.
        level: How often its windows were halved.
        plugin: Who built it; ``None`` where no plugin did.

    Raises:
        PluginError: The geometry is none, or gives another map than the logits'.
    """
    try:
        weights = logit_weights(mask, network.geometry, level)  # type: ignore[arg-type]  # anything of theirs
        wanted = (len(mask), *logits.shape[2:])
        gives = None if weights.shape == wanted else str([len(weights), 1, *weights.shape[1:]])
    except (RuntimeError, TypeError, ValueError, ArithmeticError) as error:  # a kernel too large; no list of three
        gives = f"none: {one_line(error)}"[:160]
    if gives is not None:
        raise PluginError(
            f"`geometry` of {_whose(network, plugin)} must give its map of logits, {list(logits.shape)}; "
            f"it gives {gives}; list kernel, stride and padding of each layer, or leave it out"
        )
    return weights


def _whose(network: nn.Module, plugin: str | None) -> str:
    return type(network).__name__ + ("" if plugin is None else f" of plugin {plugin!r}")
