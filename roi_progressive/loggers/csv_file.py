"""Losses as a CSV file: one line a value, so that what joins later needs no new column."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from ..errors import DataError
from ..saving.plain_text import in_csv
from ..saving.whole_files import make_folder, write_text, writing
from .logger import Logger

FILE = "losses.csv"
HEAD = ("step", "name", "value")


class CSVLogger(Logger):
    """Log to ``losses.csv`` in a folder: step, name, value.

    A file that is there is gone on with: lines of the step that comes first now, and of later ones, are dropped.

    Args:
        folder: Where the file lies; it need not exist yet.
        every: Log every so many steps.

    Raises:
        ConfigError: ``every`` is no whole number of at least 1.

    Example:
        >>> import tempfile, torch
        >>> from roi_progressive.loggers import CSVLogger
        >>> folder = tempfile.mkdtemp()
        >>> with CSVLogger(folder, every=1) as logger:
        ...     logger.roi_step_finished(step=1, losses={"G_tumor_A2B": torch.tensor(0.25)})
        >>> print((Path(folder) / "losses.csv").read_text(), end="")
        step,name,value
        1,roi/G_tumor_A2B,0.25
    """

    def __init__(self, folder: str | Path, every: int = 50) -> None:
        super().__init__(_Lines(Path(folder) / FILE), every)


class _Lines:
    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, first_step: int) -> None:
        make_folder(self._path.parent)
        kept = [",".join(HEAD)]
        if self._path.is_file():
            head, *lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines() or [""]
            if head != kept[0]:
                raise DataError(
                    f"`folder` must hold no other {FILE}; {str(self._path)!r} does not begin with {kept[0]}; move it "
                    f"away, or choose another folder"
                )
            kept += [line for line in lines if _is_before(line, first_step)]
        write_text(self._path, "".join(line + "\n" for line in kept))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        rows = ((step, in_csv(name), repr(value)) for name, value in values.items())
        with writing(self._path), open(self._path, "a", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)

    def close(self) -> None:
        """Nothing is open."""

    def files(self) -> list[Path]:
        return [self._path]


def _is_before(line: str, first_step: int) -> bool:
    """Whether a line is whole, and of an earlier step."""
    step, *rest = line.split(",")
    return len(rest) >= 2 and step.isdecimal() and int(step) < first_step
