"""The folders of a data set on disk, written aside and put in place at the end."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..saving.names import DOMAINS, SPLITS
from .preprocessing import to_grey


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
    """Rename a finished folder to its place; what was there goes away after it."""
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
    """Check that a folder may be written to ``target``: it is new or empty, or ``force`` replaces it.

    Raises:
        DataError: It may not.
    """
    if target.exists() and not target.is_dir():
        raise DataError(f"`out` must be a folder; {str(target)!r} is a file; choose another")
    if not target.exists() or not any(target.iterdir()):
        return
    if not force:
        raise DataError(
            f"`out` must be a new or empty folder; {str(target)!r} holds files; choose another or use force"
        )
    for file in keep:
        if target in file.resolve().parents:
            raise DataError(f"`out` must not hold the input; {str(target)!r} holds {file.name}; choose another folder")


def make_folders(folder: Path, regions: Sequence[str], side_by_side: bool = False) -> None:
    """Make every image and mask folder of the layout, also those that stay empty."""
    for split in SPLITS:
        for domain in (*DOMAINS, "") if side_by_side else DOMAINS:
            for suffix in ("", *(f"_{region}" for region in regions)):
                (folder / f"{split}{domain}{suffix}").mkdir(exist_ok=True)


def read_pixels(folder: Path, name: str) -> npt.NDArray[np.uint8]:
    """A written picture or mask in 8-bit grey, ``(rows, columns)``; ``name`` has no ending."""
    from PIL import Image

    array = folder / f"{name}.npy"
    if array.exists():
        return to_grey(np.load(array))
    with Image.open(folder / f"{name}.png") as image:
        return np.array(image)
