"""Which adapter understands a host; where none does, what each of them missed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..config import Config
from ..errors import HostNotSupportedError
from .adapter import Adapter
from .manager import Plugins

HOW_TO = "give {'A2B': G, 'B2A': F}, or write an adapter (README, 'Your own host') and give it as plugins=[...]"


def adapter_for(host: Any, config: Config, plugins: Plugins) -> Adapter:
    """The first adapter that understands the host.

    Args:
        host: What the user gave to ``attach``.
        config: The session's.
        plugins: Asked through ``roi_adapter``.

    Raises:
        HostNotSupportedError: None does; the message names the adapters tried and what each one missed.
        PluginError: A plugin returned something else than an adapter.
    """
    adapter: Adapter | None = plugins.call("roi_adapter", host=host, config=config)
    if adapter is None:
        raise HostNotSupportedError(_refusal(host, plugins))
    return adapter


def _refusal(host: Any, plugins: Plugins) -> str:
    lacking: Mapping[str, Sequence[str]] = plugins.merged("roi_host_lacks", host=host)
    missed = "; ".join(f"{name} misses {', '.join(what)}" for name, what in lacking.items())
    tried = ", ".join(plugins.names("roi_adapter")) or "no adapter is installed"
    return (
        f"`host` must be a model an adapter understands, or a dict of generators; got {type(host).__name__}; "
        f"tried: {tried}{f' ({missed})' if missed else ''}; {HOW_TO}"
    )
