"""Make the regions that matter right in image translation, in the training script you already have.

Every public name is loaded when it is first used, so that ``import roi_progressive`` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .adapter import Adapter, Translation
    from .config import Config, GGDConfig, RegionConfig, StageConfig
    from .discriminators import DiscriminatorBank, PatchDiscriminator, RegionDiscriminator
    from .errors import (
        CheckpointError,
        ConfigError,
        DataError,
        DivergenceError,
        HostNotSupportedError,
        MaskError,
        PluginError,
        RoiProgressiveError,
        ShapeError,
    )
    from .generator import UNetGenerator
    from .ggd import GGDHead, ggd_nll, ggd_variance
    from .hookspecs import hookimpl
    from .session import Session, attach
    from .stages import StageController

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "DiscriminatorBank",
    "DivergenceError",
    "GGDConfig",
    "GGDHead",
    "HostNotSupportedError",
    "MaskError",
    "PatchDiscriminator",
    "PluginError",
    "RegionConfig",
    "RegionDiscriminator",
    "RoiProgressiveError",
    "Session",
    "ShapeError",
    "StageConfig",
    "StageController",
    "Translation",
    "UNetGenerator",
    "attach",
    "ggd_nll",
    "ggd_variance",
    "hookimpl",
]

_MODULE_OF = {
    "Adapter": "adapter",
    "CheckpointError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "DataError": "errors",
    "DivergenceError": "errors",
    "DiscriminatorBank": "discriminators",
    "GGDConfig": "config",
    "GGDHead": "ggd",
    "HostNotSupportedError": "errors",
    "MaskError": "errors",
    "PatchDiscriminator": "discriminators",
    "PluginError": "errors",
    "RegionConfig": "config",
    "RegionDiscriminator": "discriminators",
    "RoiProgressiveError": "errors",
    "Session": "session",
    "ShapeError": "errors",
    "StageConfig": "config",
    "StageController": "stages",
    "Translation": "adapter",
    "UNetGenerator": "generator",
    "attach": "session",
    "ggd_nll": "ggd",
    "ggd_variance": "ggd",
    "hookimpl": "hookspecs",
}

if not TYPE_CHECKING:  # a type checker that saw a module-level __getattr__ would accept any misspelled name

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
