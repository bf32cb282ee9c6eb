"""Losses for Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..saving.whole_files import make_folder
from .installed import require_installed
from .logger import Logger


class WandbLogger(Logger):
    """Log to a run of Weights & Biases; needs the extra ``wandb``.

    It stays on this machine, in ``FOLDER/wandb/offline-run-...``, until ``wandb sync`` sends it, unless ``mode`` or the
    environment variable ``WANDB_MODE`` says ``online``: no connection is made that nobody asked for.

    Args:
        folder: Where the run's files lie; it need not exist yet.
        every: Log every so many steps.
        project: The project it belongs to.
        mode: ``offline``, ``online`` or ``disabled``; ``None`` is what ``WANDB_MODE`` says, or ``offline``.
        **more: Further arguments of ``wandb.init``, such as ``name``.

    Raises:
        ConfigError: Weights & Biases is not installed, or ``every`` is no whole number of at least 1.
    """

    def __init__(
        self,
        folder: str | Path,
        every: int = 50,
        *,
        project: str = "roi-progressive",
        mode: str | None = None,
        **more: Any,
    ) -> None:
        require_installed("wandb", "wandb")
        chosen = mode or os.environ.get("WANDB_MODE") or "offline"
        super().__init__(_Run(Path(folder), {"project": project, "mode": chosen, **more}), every)


class _Run:
    def __init__(self, folder: Path, given: Mapping[str, Any]) -> None:
        self._folder = folder
        self._given = given
        self._run: Any = None
        self._place: Path | None = None

    def open(self, first_step: int) -> None:
        import wandb

        make_folder(self._folder)
        # Its copy of what is printed would put another stream in the place of ours.
        quiet = {"settings": wandb.Settings(console="off")}
        self._run = wandb.init(dir=str(self._folder), **{**quiet, **self._given})
        # Its own step may not fall, and ours may: a validation is logged after steps that are on their way.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        self._place = Path(self._run.dir).parent

    def write(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()

    def files(self) -> list[Path]:
        return [] if self._place is None else sorted(path for path in self._place.rglob("*") if path.is_file())
