"""The hooks that plan a run and find its masks, asked with types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from ..config import Config
from ..errors import PluginError
from ..method.stages import Stage
from .manager import Plugins


def planned_stages(plugins: Plugins, config: Config, n_epochs: int) -> Sequence[Stage] | None:
    """The plan of stages by ``roi_stages``; ``None`` where no plugin has one.

    Raises:
        PluginError: It is not a sequence of stages, or empty.
    """
    plan: Sequence[Stage] | None = plugins.call("roi_stages", config=config, n_epochs=n_epochs)
    return plan


def mask_files(plugins: Plugins, path: Path, regions: Sequence[str]) -> Mapping[str, Path | None]:
    """The mask files of an image by ``roi_masks``.

    Raises:
        PluginError: It is not a mapping from these regions to paths or ``None``, or no plugin answered.
    """
    files: Mapping[str, Path | None] | None = plugins.call("roi_masks", path=path, regions=regions)
    if files is None:
        asked = ", ".join(plugins.names("roi_masks")) or "none"
        raise PluginError(
            f"`roi_masks` must return pathlib.Path or None by region; got nothing from {asked}; return a dict"
        )
    return files
