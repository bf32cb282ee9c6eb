"""What plugins answer, looked at before it is used: a wrong answer names hook and plugins where it comes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .config import Config
from .errors import PluginError
from .plugins import Plugins
from .stages import Stage


def planned_stages(plugins: Plugins, config: Config, n_epochs: int) -> Sequence[Stage] | None:
    """The plan of stages by ``roi_stages``; ``None`` where no plugin has one.

    Raises:
        PluginError: It is not a sequence of stages, or empty.
    """
    plan = plugins.call("roi_stages", config=config, n_epochs=n_epochs)
    if plan is None:
        return None
    if not isinstance(plan, (list, tuple)) or not plan or not all(isinstance(stage, Stage) for stage in plan):
        raise _wrong(
            plugins, "roi_stages", "a list of at least one Stage, or None", plan, "return None for the default"
        )
    return plan


def mask_files(plugins: Plugins, path: Path, regions: Sequence[str]) -> Mapping[str, Path | None]:
    """The mask files of an image by ``roi_masks``.

    Raises:
        PluginError: It is not a mapping from these regions to paths or ``None``.
    """
    files = plugins.call("roi_masks", path=path, regions=regions)
    if not isinstance(files, Mapping) or not all(file is None or isinstance(file, Path) for file in files.values()):
        raise _wrong(plugins, "roi_masks", "pathlib.Path or None by region", files, "return a dict, or None")
    unknown = sorted(set(map(str, files)) - set(regions))
    if unknown:
        known = f"regions among {', '.join(regions)}"
        raise _wrong(plugins, "roi_masks", known, ", ".join(unknown), "correct the name")
    return files


def _wrong(plugins: Plugins, hook: str, expected: str, came: Any, remedy: str) -> PluginError:
    shown = " ".join(repr(came).split())[:80]
    return PluginError(
        f"`{hook}` must return {expected}; got {shown} from one of {', '.join(plugins.names(hook))}; {remedy}"
    )
