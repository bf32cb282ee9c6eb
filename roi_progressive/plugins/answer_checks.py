"""What each hook may return; a wrong answer is an error at once, in the name of the plugin that gave it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..errors import PluginError
from ..method.stages import Stage
from .adapter import Adapter


def check_answer(hook: str, plugin: str, answer: Any, arguments: Mapping[str, Any]) -> None:
    """Look at what a plugin returned, before it is used.

    Args:
        hook: The hook's name; the answers of events are not looked at.
        plugin: The name of the plugin that answered.
        answer: Anything but ``None``.
        arguments: What the hook was called with.

    Raises:
        PluginError: It is not what the hook's specification allows.
    """
    if hook not in _CHECKS:
        return
    came, expected, remedy = _CHECKS[hook](answer, arguments)
    if came is not None:
        raise PluginError(f"`{hook}` must return {expected}; got {came} from plugin {plugin!r}; {remedy}")


_Finding = tuple[str | None, str, str]
"""What came (``None`` where nothing is wrong with it), what was expected, and what to do."""


def _adapter(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    came = None if isinstance(answer, Adapter) else type(answer).__name__
    return came, "an Adapter or None", "subclass roi_progressive.Adapter"


def _discriminator(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    came = None if isinstance(answer, nn.Module) else f"{type(answer).__name__} for region {arguments['region'].name!r}"
    return came, "a torch.nn.Module or None", "return None to have the default network"


def _masks(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    regions = arguments["regions"]
    remedy = "return a dict, or None"
    if not isinstance(answer, Mapping) or not all(file is None or isinstance(file, Path) for file in answer.values()):
        return _in_short(answer), "pathlib.Path or None by region", remedy
    unknown = sorted(set(map(str, answer)) - set(regions))
    return ", ".join(unknown) or None, f"regions among {', '.join(regions)}", "correct the name"


def _stages(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    ok = isinstance(answer, (list, tuple)) and answer and all(isinstance(stage, Stage) for stage in answer)
    return None if ok else _in_short(answer), "a list of at least one Stage, or None", "return None for the default"


def _generator_losses(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    def wrong(loss: Any) -> str | None:
        if isinstance(loss, Tensor):
            return str(list(loss.shape)) if loss.ndim else None
        return type(loss).__name__

    return _values(answer, wrong), "scalar tensors by name, or None", "return a dict of means"


def _metrics(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    def wrong(number: Any) -> str | None:
        return None if number is None or isinstance(number, Real) else type(number).__name__

    return _values(answer, wrong), "numbers by column name, or None", "return a dict of floats"


def _host_lacks(answer: Any, arguments: Mapping[str, Any]) -> _Finding:
    def wrong(names: Any) -> str | None:
        ok = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
        return None if ok else _in_short(names)

    return _values(answer, wrong), "lists of attributes by the adapter's name, or None", "return a dict of lists"


_CHECKS: dict[str, Callable[[Any, Mapping[str, Any]], _Finding]] = {
    "roi_adapter": _adapter,
    "roi_discriminator": _discriminator,
    "roi_masks": _masks,
    "roi_stages": _stages,
    "roi_generator_losses": _generator_losses,
    "roi_metrics": _metrics,
    "roi_volume_metrics": _metrics,
    "roi_host_lacks": _host_lacks,
}


def _values(answer: Any, wrong: Callable[[Any], str | None]) -> str | None:
    """The first thing that is wrong with a mapping by name."""
    if not isinstance(answer, Mapping):
        return type(answer).__name__
    for name, value in answer.items():
        if not isinstance(name, str):
            return f"the name {name!r}"
        came = wrong(value)
        if came is not None:
            return f"{came} for {name!r}"
    return None


def _in_short(answer: Any) -> str:
    return " ".join(repr(answer).split())[:80]
