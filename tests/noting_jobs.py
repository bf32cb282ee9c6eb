"""Jobs for `test_jobs.py`, in a module of their own: a new process must be able to import what it is to do."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from pathlib import Path

from roi_progressive.errors import DataError


@dataclass(frozen=True)
class Noting:
    """A job that leaves a file for every time it is done."""

    folder: Path
    number: int
    volumes = 2

    def __str__(self):
        return f"job {self.number}"

    def __call__(self, place):
        (self.folder / f"{self.number}-{uuid.uuid4().hex}").touch()
        return {"square": self.number**2}


@dataclass(frozen=True)
class Failing(Noting):
    """A job that the user's data make impossible."""

    def __call__(self, place):
        raise DataError("`number` must be another")
