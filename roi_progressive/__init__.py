"""Make the regions that matter right in image translation, in the training script you already have.

Every public name is loaded when it is first used, so that ``import roi_progressive`` costs next to nothing.
"""

from __future__ import annotations

import os.path
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .config import Config, GGDConfig, RegionConfig, StageConfig
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
    from .method.bank import DiscriminatorBank
    from .method.discriminators import PatchDiscriminator, RegionDiscriminator
    from .method.generator import UNetGenerator
    from .method.ggd import GGDHead, ggd_nll, ggd_variance
    from .method.regions import RegionMask
    from .method.stages import Stage, StageController
    from .plugins.adapter import Adapter, DatasetLayout, DomainMasks, GuidedSession, Translation, Uncertainty
    from .plugins.hookspecs import hookimpl
    from .plugins.mask_reader import MaskReader
    from .plugins.patching import Patches
    from .runs.commands import evaluate, figure, prepare, train
    from .runs.export import export
    from .runs.volume import translate_volume
    from .runtime.rng import RandomState
    from .saving.checkpoint import checkpoint_name
    from .training.session import Session, attach

__version__ = "0.1.0"

__all__ = [
    "Adapter",
    "CheckpointError",
    "Config",
    "ConfigError",
    "DataError",
    "DatasetLayout",
    "DiscriminatorBank",
    "DivergenceError",
    "DomainMasks",
    "GGDConfig",
    "GGDHead",
    "GuidedSession",
    "HostNotSupportedError",
    "MaskError",
    "MaskReader",
    "PatchDiscriminator",
    "Patches",
    "PluginError",
    "RandomState",
    "RegionConfig",
    "RegionDiscriminator",
    "RegionMask",
    "RoiProgressiveError",
    "Session",
    "ShapeError",
    "Stage",
    "StageConfig",
    "StageController",
    "Translation",
    "UNetGenerator",
    "Uncertainty",
    "attach",
    "checkpoint_name",
    "evaluate",
    "export",
    "figure",
    "ggd_nll",
    "ggd_variance",
    "hookimpl",
    "prepare",
    "train",
    "translate_volume",
]

_MODULE_OF = {
    "Adapter": "plugins.adapter",
    "CheckpointError": "errors",
    "Config": "config",
    "ConfigError": "errors",
    "DataError": "errors",
    "DatasetLayout": "plugins.adapter",
    "DiscriminatorBank": "method.bank",
    "DivergenceError": "errors",
    "DomainMasks": "plugins.adapter",
    "GGDConfig": "config",
    "GGDHead": "method.ggd",
    "GuidedSession": "plugins.adapter",
    "HostNotSupportedError": "errors",
    "MaskError": "errors",
    "MaskReader": "plugins.mask_reader",
    "PatchDiscriminator": "method.discriminators",
    "Patches": "plugins.patching",
    "PluginError": "errors",
    "RandomState": "runtime.rng",
    "RegionConfig": "config",
    "RegionDiscriminator": "method.discriminators",
    "RegionMask": "method.regions",
    "RoiProgressiveError": "errors",
    "Session": "training.session",
    "ShapeError": "errors",
    "Stage": "method.stages",
    "StageConfig": "config",
    "StageController": "method.stages",
    "Translation": "plugins.adapter",
    "UNetGenerator": "method.generator",
    "Uncertainty": "plugins.adapter",
    "attach": "training.session",
    "checkpoint_name": "saving.checkpoint",
    "evaluate": "runs.commands",
    "export": "runs.export",
    "figure": "runs.commands",
    "ggd_nll": "method.ggd",
    "ggd_variance": "method.ggd",
    "hookimpl": "plugins.hookspecs",
    "prepare": "runs.commands",
    "train": "runs.commands",
    "translate_volume": "runs.volume",
}

if not TYPE_CHECKING:  # a type checker that saw a module-level __getattr__ would accept any misspelled name

    def __getattr__(name):
        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        globals()[name] = value
        return value


class _AdaptersBesideThePackage:
    """Finds ``roi_progressive.adapters`` in a checkout without symbolic links and in an unpacked source distribution.

    An installation has the adapters within the package, a checkout has a link there. Git writes a text file in the
    link's place where links are not allowed, as Windows has it by default.
    """

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """The folder beside the package, for that name alone; asked first, as another checkout may be installed."""
        folder = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "adapters")
        start = os.path.join(folder, "__init__.py")
        if name != f"{__name__}.adapters" or not os.path.isfile(start):
            return None
        return spec_from_file_location(name, start, submodule_search_locations=[folder])


if not os.path.isdir(os.path.join(os.path.dirname(os.path.abspath(__file__)), "adapters")):
    sys.meta_path.insert(0, _AdaptersBesideThePackage)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
