"""Who may write a folder: one process at a time."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from .signals import signals_later

if TYPE_CHECKING:
    from filelock import FileLock

LOCK_NAME = ".lock"
"""The end of a lock's name beside its folder, and its whole name in it."""

_held: dict[Path, int] = {}
"""The thread that holds a lock, by the lock's file: a command takes its folder's lock again where it calls another."""


@contextmanager
def only_writer(folder: str | Path, *, within_another: bool = True) -> Iterator[None]:
    """Be the only one who writes a folder, which need not exist yet.

    The lock is a file beside the folder, for which the system vouches: it frees it however its holder ends, also on
    another machine that shares the disk. The file is gone when the block ends. Where nobody may write beside the folder
    it lies in it, and where nobody may write there either there is nothing to keep apart.

    Args:
        folder: The folder.
        within_another: Whether it may be held already by the command that calls this one.

    Raises:
        DataError: Another process, or another thread, is writing the folder, or the way to it cannot be made.
    """
    import filelock

    target = resolved(folder)
    me = threading.get_ident()
    with _parents_of(target):
        place = _lock_file(target)
        if place is None or (within_another and _held.get(place) == me):
            yield
            return
        if place in _held:
            raise _busy(folder)
        with ExitStack() as stack:
            lock = filelock.FileLock(place)
            try:
                with signals_later():  # so that nothing comes between the lock and its end
                    lock.acquire(timeout=0)
                    _held[place] = me
                    stack.callback(_free, lock, place)
            except filelock.Timeout as error:
                raise _busy(folder) from error
            except OSError as error:
                raise DataError(
                    f"`out` must be a folder that can be written; got {str(folder)!r}: {error.strerror}"
                ) from error
            yield


def _free(lock: FileLock, place: Path) -> None:
    with signals_later():
        del _held[place]
        with suppress(OSError):  # while it is held: whoever waits for it finds it gone, and takes another
            place.unlink()
        lock.release()


def _busy(folder: str | Path) -> DataError:
    return DataError(
        f"`out` must be written by one command at a time; {str(folder)!r} is being written by another run; wait for "
        f"its end, or choose another folder"
    )


def resolved(path: str | Path, argument: str = "out") -> Path:
    """An absolute path without links.

    Raises:
        DataError: Links lead in a circle.
    """
    try:
        return Path(path).resolve()
    except (OSError, RuntimeError) as error:  # until Python 3.13 a circle is a RuntimeError
        raise DataError(
            f"`{argument}` must be a path that leads somewhere; {str(path)!r} is a circle of links; give another"
        ) from error


def _lock_file(target: Path) -> Path | None:
    if os.access(target.parent, os.W_OK):
        return target.with_name(f".{target.name}{LOCK_NAME}")
    return target / LOCK_NAME if os.access(target, os.W_OK) else None


@contextmanager
def _parents_of(target: Path) -> Iterator[None]:
    """The folders on the way to one that is to be made; those that stay empty are gone when the block ends."""
    missing = [parent for parent in target.parents if not parent.exists()]
    try:
        try:
            if not target.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(
                f"`out` must be a folder that can be written; {str(target)!r} cannot be made: {error.strerror}; "
                f"choose another"
            ) from error
        yield
    finally:
        with suppress(OSError):
            for parent in missing:
                parent.rmdir()
