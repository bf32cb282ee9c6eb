"""Losses of guidance for the programs in which people watch their trainings: plugins for ``attach`` and ``train``.

    session = roi_progressive.attach(model, dataset, "roi.toml", plugins=[TensorBoardLogger("logs", every=50)])

Each imports its library when it first writes; the extras ``tensorboard``, ``wandb`` and ``mlflow`` bring them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from .csv_file import CSVLogger
from .logger import Logger
from .mlflow import MLflowLogger
from .names import curve_name
from .tensorboard import TensorBoardLogger
from .wandb import WandbLogger

__all__ = ["LOGGERS", "CSVLogger", "Logger", "MLflowLogger", "TensorBoardLogger", "WandbLogger", "curve_name"]

LOGGERS: dict[str, Callable[[Path, int], Logger]] = {
    "csv": CSVLogger,
    "tensorboard": TensorBoardLogger,
    "wandb": WandbLogger,
    "mlflow": MLflowLogger,
}
"""By the names of ``train --logger``: from a folder and every how many steps to a logger."""
