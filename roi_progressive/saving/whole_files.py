"""Files that are there as a whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import DataError, system_reason


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Paths to write to, one for each of ``paths``, which take their places when all are written.

    Each lies beside its place, in a folder that is made where it is missing. When the block ends well the bytes are
    brought to the disk, and then the files are renamed: older ones stay whole until then, also where the machine stops
    in the middle. When it does not, nothing is left behind.
    """
    asides = [path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in paths]
    with ExitStack() as cleaning:
        for path, aside in zip(paths, asides, strict=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            cleaning.callback(_remove, aside)
        yield asides
        for aside in asides:
            with open(aside, "r+b") as file:
                os.fsync(file.fileno())
        for path, aside in zip(paths, asides, strict=True):
            os.replace(aside, path)


def _remove(aside: Path) -> None:
    with suppress(OSError):
        aside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Around the writing of a user's file.

    Raises:
        DataError: The system refused it.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"`out` must be a folder that can be written; {str(path)!r} cannot: {system_reason(error)}; "
            f"free the space or choose another"
        ) from error
