"""Losses for MLflow."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..saving.whole_files import make_folder
from .installed import require_installed
from .logger import Logger

DATABASE = "mlflow.db"


class MLflowLogger(Logger):
    """Log to a run of MLflow; needs the extra ``mlflow``.

    Args:
        place: A folder, which need not exist yet and gets the database ``mlflow.db`` for
            ``mlflow ui --backend-store-uri sqlite:///FOLDER/mlflow.db``, or the address of a tracking server.
        every: Log every so many steps.
        experiment: The experiment the run belongs to.
        run_name: What the run is called; MLflow makes up a name where not given.

    Raises:
        ConfigError: MLflow is not installed, or ``every`` is no whole number of at least 1.
    """

    def __init__(
        self,
        place: str | Path,
        every: int = 50,
        *,
        experiment: str = "roi-progressive",
        run_name: str | None = None,
    ) -> None:
        require_installed("mlflow", "mlflow")
        super().__init__(_Run(place, experiment, run_name), every)


class _Run:
    def __init__(self, place: str | Path, experiment: str, run_name: str | None) -> None:
        self._database = None if "://" in str(place) else Path(place).resolve() / DATABASE
        self._address = str(place) if self._database is None else f"sqlite:///{self._database.as_posix()}"
        self._experiment = experiment
        self._run_name = run_name
        self._client: Any = None
        self._run: Any = None

    def open(self, first_step: int) -> None:
        from mlflow.tracking import MlflowClient

        if self._database is not None:
            make_folder(self._database.parent)
        with _quiet():
            self._client = MlflowClient(tracking_uri=self._address)
        known = self._client.get_experiment_by_name(self._experiment)
        place = self._client.create_experiment(self._experiment) if known is None else known.experiment_id
        self._run = self._client.create_run(place, run_name=self._run_name)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now_ms = int(1000 * time.time())
        metrics = [Metric(name, value, now_ms, step) for name, value in values.items()]
        self._client.log_batch(self._run.info.run_id, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._run.info.run_id)

    def files(self) -> list[Path]:
        return [] if self._database is None else [self._database]


@contextmanager
def _quiet() -> Iterator[None]:
    """A new database tells of every step of its making."""
    logs = [logging.getLogger(name) for name in ("alembic", "mlflow")]
    before = [log.level for log in logs]
    try:
        for log in logs:
            log.setLevel(logging.WARNING)
        yield
    finally:
        for log, level in zip(logs, before, strict=True):
            log.setLevel(level)
