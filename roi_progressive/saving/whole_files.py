"""Files and folders that are there as a whole or not at all, and the one check of a folder to write into."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import DataError, system_reason
from .locks import LOCK_NAME
from .signals import signals_later

# -- files -------------------------------------------------------------------------------------------------------------


@contextmanager
def written_whole(*paths: Path) -> Iterator[list[Path]]:
    """Paths to write to, one for each of ``paths``, which take their places when all are written.

    Each lies beside its place, in a folder that is made where it is missing. When the block ends well the bytes are
    brought to the disk, and then the files are renamed: older ones stay whole until then, also where the machine stops
    in the middle. When it does not, nothing is left behind.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with written_whole(target) as (aside,):
        ...     _ = aside.write_text("1 2 3")
        ...     target.exists()
        False
        >>> target.read_text()
        '1 2 3'
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
        with signals_later():
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


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it; an older one stays whole until then.

    Raises:
        DataError: It cannot be written.
    """
    with writing(path), written_whole(path) as (aside,):
        aside.write_text(text, encoding="utf-8")


# -- folders -----------------------------------------------------------------------------------------------------------


def require_new_or_empty(folder: Path, *, force: bool, remedy: str = "use --force") -> None:
    """Check that a folder may be filled: it is new or empty, or ``force`` allows files in it.

    Args:
        folder: The folder.
        force: Whether files in it are no hindrance.
        remedy: What else a user can do than choose another folder, where files are the hindrance.

    Raises:
        DataError: It is a file, or holds files and ``force`` is false.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"`out` must be a new or empty folder; {str(folder)!r} is a file; choose another")
    if folder.is_dir() and any(path.name != LOCK_NAME for path in folder.iterdir()) and not force:
        raise DataError(
            f"`out` must be a new or empty folder; {str(folder)!r} holds files; choose another, or {remedy}"
        )


def make_folder(folder: Path) -> None:
    """Make a folder to write into.

    Raises:
        DataError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"`out` must be a folder that can be written; {str(folder)!r} cannot be made: {error.strerror}; "
            f"choose another"
        ) from error
