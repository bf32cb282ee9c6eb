"""Files and folders that are there as a whole or not at all, and the one check of a folder to write into."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ..errors import DataError, system_reason

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


def require_new_or_empty(folder: Path, *, force: bool, remedy: str = "use force") -> None:
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
    if folder.is_dir() and any(folder.iterdir()) and not force:
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


@contextmanager
def new_folder(out: str | Path, *, force: bool, keep: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` when the block ends well, and vanishes when it does not.

    Args:
        out: The folder to make. It may exist if it is empty.
        force: Replace a folder that holds files.
        keep: Files that must not be lost: replacing a folder that holds one of them is refused.

    Raises:
        DataError: ``out`` is a file, holds files and ``force`` is false, holds a file of ``keep``, or cannot be
            written.
    """
    target = Path(out).resolve()
    check_replaceable(target, force, keep)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"`out` must be a folder that can be written; got {str(out)!r}: {error.strerror}") from error
    try:
        yield aside
        check_replaceable(target, force, keep)
        put_in_place(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def put_in_place(aside: Path, target: Path) -> None:
    """Rename a finished folder to its place; what was there is removed after it."""
    if not target.exists():
        aside.rename(target)
        return
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    target.rename(old)
    try:
        aside.rename(target)
    except BaseException:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_replaceable(target: Path, force: bool, keep: Iterable[Path]) -> None:
    """Check that a folder may take the place of ``target``: it is new or empty, or ``force`` replaces it.

    Raises:
        DataError: It may not, or it holds a file of ``keep``.
    """
    require_new_or_empty(target, force=force)
    for file in keep if target.is_dir() else ():
        if target in file.resolve().parents:
            raise DataError(f"`out` must not hold the input; {str(target)!r} holds {file.name}; choose another folder")
