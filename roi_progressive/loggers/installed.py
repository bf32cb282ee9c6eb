"""Whether the program that a logger writes for is installed."""

from __future__ import annotations

from importlib.util import find_spec

from ..errors import ConfigError


def require_installed(module: str, extra: str) -> None:
    """Check for a package without importing it.

    Args:
        module: What it is imported as.
        extra: The extra of ours that brings it.

    Raises:
        ConfigError: It is not there.
    """
    if find_spec(module) is None:
        raise ConfigError(
            f"`logger` {extra} needs a package that is not installed; pip install 'roi-progressive[{extra}]', or take "
            f"another logger"
        )
