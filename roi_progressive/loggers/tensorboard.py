"""Losses for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .installed import require_installed
from .logger import Logger

EVENT_FILES = "events.out.tfevents.*"


class TensorBoardLogger(Logger):
    """Log to event files that ``tensorboard --logdir FOLDER`` shows; needs the extra ``tensorboard``.

    Of a run that goes on in the same folder, TensorBoard leaves out what an earlier life of it logged of later steps.

    Args:
        folder: Where the event files lie; it need not exist yet.
        every: Log every so many steps.

    Raises:
        ConfigError: TensorBoard is not installed, or ``every`` is no whole number of at least 1.
    """

    def __init__(self, folder: str | Path, every: int = 50) -> None:
        require_installed("tensorboard", "tensorboard")
        super().__init__(_Events(Path(folder)), every)


class _Events:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._before: set[Path] = set()
        self._writer: Any = None

    def open(self, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._before = set(self._folder.glob(EVENT_FILES))
        # Earlier events of these steps are of a life of the run that was cut off.
        purge = {"purge_step": first_step} if self._before else {}
        self._writer = SummaryWriter(str(self._folder), **purge)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()

    def files(self) -> list[Path]:
        self._writer.flush()
        return sorted(set(self._folder.glob(EVENT_FILES)) - self._before)
