"""The folders of a data set on disk, written aside and put in place at the end."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .splits import SPLITS

DOMAINS = ("A", "B")


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
    _check_replaceable(target, force, keep)
    aside = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        aside.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"`out` must be a folder that can be written; got {str(out)!r}: {error.strerror}") from error
    try:
        yield aside
        _check_replaceable(target, force, keep)
        _put_in_place(aside, target)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def _put_in_place(aside: Path, target: Path) -> None:
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


def _check_replaceable(target: Path, force: bool, keep: Iterable[Path]) -> None:
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


def make_folders(folder: Path, regions: Sequence[str]) -> None:
    """Make every image and mask folder of the layout, also those that stay empty."""
    for split in SPLITS:
        for domain in DOMAINS:
            for suffix in ("", *(f"_{region}" for region in regions)):
                (folder / f"{split}{domain}{suffix}").mkdir()


def write_picture(
    folder: Path, name: str, grey: npt.NDArray[np.uint8], masks: Mapping[str, npt.NDArray[np.bool_]]
) -> None:
    """Write an 8-bit grey PNG, and each region's mask (0 or 255) into the sibling folder named after it.

    Args:
        folder: The image folder, e.g. ``OUT/trainA``.
        name: File name without suffix.
        grey: ``(rows, columns)``.
        masks: Region to ``(rows, columns)``.
    """
    from PIL import Image

    Image.fromarray(grey).save(folder / f"{name}.png")
    for region, mask in masks.items():
        pixels = np.where(mask, 255, 0).astype(np.uint8)
        Image.fromarray(pixels).save(folder.with_name(f"{folder.name}_{region}") / f"{name}.png")


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write ``manifest.json``."""
    text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
