"""What every logger does: it takes the losses of a step, and writes them when they have arrived.

A loss lies where it was computed, and reading it would have the CPU wait for a GPU. So its copy to the CPU is started
in its own step, and read in the next one.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Protocol

from torch import Tensor

from .. import setting_checks as check
from ..method.stages import Stage
from ..plugins.hookspecs import hookimpl
from ..runtime.distributed import is_main_process
from ..runtime.finite import LateNumbers
from ..runtime.rng import undisturbed_streams
from .names import curve_name

STAGE = "stage"


class Sink(Protocol):
    """Where a logger writes; made at once, opened when there is something to write."""

    def open(self, first_step: int) -> None:
        """Begin, with this step; what is drawn from random streams here, the training does not notice."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write the values of a step by their curves' names."""

    def close(self) -> None:
        """Finish; nothing is written afterwards."""

    def files(self) -> list[Path]:
        """The files it has written so far."""


class LateLog:
    """Values on their way to a sink.

    Args:
        sink: Where they go.
    """

    def __init__(self, sink: Sink) -> None:
        self.sink = sink
        self._is_open = False
        self._on_their_way: list[tuple[int, list[str], LateNumbers]] = []

    def put(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Take scalars, all on one device, and start to fetch them."""
        if values:
            self._on_their_way.append((step, list(values), LateNumbers(list(values.values()))))

    def write_arrived(self) -> None:
        """Write what was put before; waits where it has not arrived."""
        arrived, self._on_their_way = self._on_their_way, []
        for step, names, numbers in arrived:
            self.write(step, dict(zip(names, numbers.read(), strict=True)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write plain numbers at once."""
        if not self._is_open:
            with undisturbed_streams():
                self.sink.open(step)
            self._is_open = True
        self.sink.write(step, values)

    def files(self) -> list[Path]:
        """The files that were written so far."""
        return self.sink.files() if self._is_open else []

    def close(self) -> None:
        """Write the rest, and finish."""
        self.write_arrived()
        if self._is_open:
            self.sink.close()


class Logger:
    """A plugin that logs the losses of guidance; give one of those that end in ``Logger`` to ``attach``.

    The last step is written when the logger is closed, dropped, or the program ends. Of several processes the first one
    logs.

    Args:
        sink: Where it writes.
        every: Log every so many steps; ``train --log-every`` on the command line.

    Raises:
        ConfigError: ``every`` is no whole number of at least 1.
    """

    def __init__(self, sink: Sink, every: int) -> None:
        check.whole("", "every", every, 1)
        self.every = every
        self._stage: int | None = None
        self._log = LateLog(sink)
        self._finish = weakref.finalize(self, self._log.close)

    @hookimpl
    def roi_stage_started(self, stage: Stage) -> None:
        """Remember the stage, which is logged with the losses."""
        self._stage = stage.number

    @hookimpl
    def roi_step_finished(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """Log our losses of a step, where one is due."""
        self.log(step, {curve_name(name): loss for name, loss in losses.items()})

    def log(self, step: int, values: Mapping[str, Tensor]) -> None:
        """Log the values of a step where one is due, a step later; nobody waits for a device.

        Args:
            step: From 1.
            values: Scalars on one device by the names of their curves.
        """
        if not is_main_process() or not self._finish.alive:
            return
        self._log.write_arrived()
        if step % self.every == 0:
            self._log.put(step, values)
            if self._stage is not None:
                self._log.write(step, {curve_name(STAGE): float(self._stage)})

    def log_now(self, step: int, values: Mapping[str, float]) -> None:
        """Log plain numbers at once, whatever step it is.

        Args:
            step: From 1.
            values: By the names of their curves.
        """
        if is_main_process() and self._finish.alive:
            self._log.write_arrived()
            self._log.write(step, values)

    def files(self) -> list[Path]:
        """The files it has written so far."""
        return self._log.files()

    def close(self) -> None:
        """Write what is on its way, and finish; a second call does nothing."""
        self._finish()

    def __enter__(self) -> Logger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
