"""What we wrote into a folder, by name; nothing else in it is ever removed or replaced.

Every folder that a command writes into has a record, ``written.json``: the names of our files in it and, of files that
carry no checksum of their own, the checksum. A name is in it before its file is, so that what a killed process left is
known as ours.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from ..errors import DataError
from .locks import resolved
from .records import entry, fault_of, read_json, write_json
from .signals import signals_later
from .whole_files import make_folder, require_new_or_empty

FOLDER_RECORD = "written.json"


# -- the record --------------------------------------------------------------------------------------------------------


def written_names(folder: Path) -> set[str] | None:
    """The names of our files in a folder, relative to it; ``None`` where it has no record.

    Raises:
        DataError: The record is damaged.
    """
    record = _record(folder)
    return None if record is None else set(record["files"])


@contextmanager
def recorded(folder: Path, *paths: Path) -> Iterator[None]:
    """Around the writing of files: their names are in the folder's record before; what was not written, not after.

    Raises:
        DataError: A file of this name is there that is not ours, the record is damaged, or it cannot be written.
    """
    check_foreign(folder, paths)
    names = {path.relative_to(folder).as_posix() for path in paths}
    known = written_names(folder) or set()
    if not names <= known:
        make_folder(folder)
        _write(folder, known | names)
    try:
        yield
    finally:
        if any(not (folder / name).exists() for name in names - known):
            _write(folder, known | names)


def record_written(folder: Path, paths: Iterable[Path]) -> None:
    """Put files of ours into a folder's record that another program has written for us, under names of its own.

    Raises:
        DataError: The record is damaged, or cannot be written.
    """
    names = {path.relative_to(folder).as_posix() for path in paths}
    known = written_names(folder) or set()
    if not names <= known:
        _write(folder, known | names)


def check_foreign(folder: Path, paths: Iterable[Path]) -> None:
    """Check that files to be written take the places of none but our own.

    Raises:
        DataError: A file of this name is there that is not ours, or the record is damaged.
    """
    there = [path for path in paths if os.path.lexists(path)]
    known = written_names(folder) or set() if there else set()
    for path in there:
        if path.relative_to(folder).as_posix() not in known:
            raise DataError(
                f"`out` must not hold other files of the names to be written; {str(path)!r} is not ours, by the record "
                f"{FOLDER_RECORD}; move it away, or choose another folder"
            )


def remove_written(folder: Path, names: Iterable[str] | None = None) -> None:
    """Remove files of ours from a folder, all of them where no names are given; others stay.

    Raises:
        DataError: The record is damaged, or cannot be written.
    """
    known = written_names(folder)
    if known is None:
        return
    chosen = known if names is None else known & set(names)
    with signals_later():
        _unlink(folder, chosen)
        _write(folder, known - chosen)
        if chosen == known:
            _remove_empty_folders(folder)


def remove_half_written(folder: Path) -> None:
    """Remove what a killed process left beside files of ours that it was writing.

    Raises:
        DataError: The record is damaged.
    """
    for name in (*(written_names(folder) or ()), FOLDER_RECORD):
        remove_half_written_of(folder / name)


def remove_half_written_of(path: Path) -> None:
    """Remove what killed processes left beside a file of ours that they were writing."""
    for aside in _half_written(path):
        aside.unlink(missing_ok=True)


def _half_written(path: Path) -> list[Path]:
    """What ``written_whole`` has begun for a file and not brought to its place."""
    found = path.parent.glob(f".{glob.escape(path.name)}.*.tmp")
    return [aside for aside in found if aside.name.removeprefix(f".{path.name}.").removesuffix(".tmp").isdigit()]


def _record(folder: Path) -> Mapping[str, Any] | None:
    path = folder / FOLDER_RECORD
    try:
        record: dict[str, Any] = read_json(path)
        for name in entry(record, "files", dict):
            if Path(name).is_absolute() or ".." in Path(name).parts:
                raise ValueError(f"{name!r} does not lie in its folder")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path} cannot be used: {fault_of(error)}; remove it, and what `roi-progressive` wrote into "
            f"{str(folder)!r}, to have it made anew"
        ) from error
    return record


def _write(folder: Path, names: Iterable[str]) -> None:
    """Write the record, in which checksums stay; of names that were in it before, those of which nothing is left go."""
    record = _record(folder) or {"files": {}}
    before = record["files"]
    left = (name for name in names if name not in before or (folder / name).exists() or _half_written(folder / name))
    files = {name: before.get(name) for name in sorted(left)}
    if files == before and before:
        return
    if not files:
        (folder / FOLDER_RECORD).unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()
        return
    write_json(folder / FOLDER_RECORD, {**{key: record[key] for key in record if key != "files"}, "files": files})


# -- folders whose files carry no checksums of their own ---------------------------------------------------------------


def write_checksums(folder: Path, **about: Any) -> None:
    """Leave a record of all files in a folder with their checksums, for :func:`check_files`.

    Args:
        folder: The folder.
        **about: More entries, such as what the files were made by.

    Raises:
        DataError: It cannot be written.
    """
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != FOLDER_RECORD)
    write_json(folder / FOLDER_RECORD, {**about, "files": {path.name: checksum_of(path) for path in files}})


def write_names(folder: Path) -> None:
    """Leave a record of the names of all files below a folder, all of which are ours.

    Raises:
        DataError: It cannot be written.
    """
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    write_json(folder / FOLDER_RECORD, {"files": dict.fromkeys(files)})


def check_files(folder: Path) -> None:
    """Compare the files of a folder with the record in it; what has no record, or no checksum in it, passes.

    Raises:
        DataError: A file, or the record, is not what was written.
    """
    record = _record(folder)
    for name, checksum in ({} if record is None else record["files"]).items():
        file = folder / name
        if checksum is not None and file.is_file() and checksum_of(file) != checksum:
            raise DataError(
                f"{file} must be as it was written; its checksum does not match; remove {str(folder)!r} to have it "
                f"made anew, or {FOLDER_RECORD} in it if you changed the file"
            )


def made_by(folder: Path) -> Any:
    """What the record of a folder says its files were made by; ``None`` where it does not.

    Raises:
        DataError: The record is damaged.
    """
    record = _record(folder)
    return None if record is None else record.get("made_by")


def checksum_of(path: Path) -> str:
    """The SHA-256 of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return f"sha256:{digest.hexdigest()}"


# -- folders that take another's place ---------------------------------------------------------------------------------


@contextmanager
def new_folder(out: str | Path, *, force: bool, keep: Iterable[Path] = ()) -> Iterator[Path]:
    """A folder to write into that becomes ``out`` when the block ends well, and vanishes when it does not.

    Whoever calls it is the only writer of ``out`` (:func:`~roi_progressive.saving.locks.only_writer`); what is left of
    one who was killed is put away first. Files in ``out`` that are not ours stay in it.

    Args:
        out: The folder to make. It may exist if it is empty.
        force: Replace what we wrote into a folder that holds files.
        keep: Files that must not be lost: replacing a folder that holds one of them is refused.

    Raises:
        DataError: ``out`` is a file, holds files and ``force`` is false, holds a file of ``keep``, or cannot be
            written, or a file in it that is not ours has the name of one of ours.
    """
    target = resolved(out)
    keep = list(keep)
    put_away_leftovers(target)
    check_replaceable(target, force, keep)
    aside = target.with_name(f".{target.name}.roi_progressive.partial")
    shutil.rmtree(aside, ignore_errors=True)
    try:
        try:
            aside.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"`out` must be a folder that can be written; got {str(out)!r}: {error.strerror}"
            ) from error
        yield aside
        check_replaceable(target, force, keep)
        put_in_place(aside, target)
    except BaseException:  # also of a signal: nothing half-made stays; it goes on as it came
        with signals_later():
            shutil.rmtree(aside, ignore_errors=True)
        raise


def check_replaceable(target: Path, force: bool, keep: Iterable[Path], *, data_set: bool = False) -> None:
    """Check that a folder may take the place of ``target``: it is new or empty, or ``force`` replaces it.

    Args:
        target: The place.
        force: Replace what we wrote there.
        keep: Files that must not be lost.
        data_set: Refuse a folder in which we wrote nothing.

    Raises:
        DataError: It may not, or it holds a file of ``keep``.
    """
    require_new_or_empty(target, force=force)
    if os.path.ismount(target):
        raise DataError(
            f"`out` must be a folder that another can take the place of; {str(target)!r} is the root of a disk; name a "
            f"folder in it"
        )
    for file in keep if target.is_dir() else ():
        if target in resolved(file).parents:
            raise DataError(f"`out` must not hold the input; {str(target)!r} holds {file.name}; choose another folder")
    if data_set and target.is_dir() and any(target.iterdir()) and written_names(target) is None:
        raise DataError(
            f"`out` must be a new or empty folder, or with --force one that we wrote; {str(target)!r} has no record of "
            f"that, {FOLDER_RECORD}; choose another folder"
        )


def put_in_place(aside: Path, target: Path) -> None:
    """Rename a finished folder to its place; of what was there, our files are removed after it, and others stay.

    Raises:
        DataError: A file that is not ours has the name of one of ours.
    """
    ours = (written_names(target) or set()) | {FOLDER_RECORD}
    for path in _files_below(target):
        name = path.relative_to(target)
        if name.as_posix() not in ours and os.path.lexists(aside / name):
            raise DataError(
                f"`out` must not hold other files of the names to be written; {str(path)!r} is not ours; move it away, "
                f"or choose another folder"
            )
    with signals_later():
        if target.exists():
            old = _old(target)
            target.rename(old)
            try:
                aside.rename(target)
            except BaseException:  # whatever it is, what was there is there again before it goes on
                old.rename(target)
                raise
            _merge(old, target)
        else:
            aside.rename(target)


def put_away_leftovers(target: Path) -> None:
    """Finish what a process did not that was killed while one folder took another's place.

    Raises:
        DataError: The system refuses it, or a record is damaged.
    """
    old = _old(target)
    if not old.is_dir():
        return
    try:
        with signals_later():
            if target.exists():
                _merge(old, target)
            else:
                old.rename(target)
    except OSError as error:
        raise DataError(f"`out` must be a folder that can be written; {str(old)!r}: {error.strerror}") from error
    if old.is_dir():  # files of others, whose places in `target` others have taken meanwhile
        raise DataError(
            f"`out` must be a folder whose files can be kept; {str(old)!r} holds some that were in {str(target)!r}, "
            f"where others have their names now; move them where you want them"
        )


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.roi_progressive.old")


def _merge(old: Path, target: Path) -> None:
    """Bring the files of others from ``old`` to ``target``, and remove ours."""
    ours = written_names(old) or set()
    for path in _files_below(old):
        name = path.relative_to(old)
        if name.as_posix() not in ours | {FOLDER_RECORD} and not os.path.lexists(target / name):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            path.rename(target / name)
    _unlink(old, ours)
    (old / FOLDER_RECORD).unlink(missing_ok=True)
    _remove_empty_folders(old)


def _files_below(folder: Path) -> list[Path]:
    """Everything but folders, links to folders included."""
    return [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]


def _unlink(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        with suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
            (folder / name).unlink()


def _remove_empty_folders(folder: Path) -> None:
    for path in sorted((path for path in folder.rglob("*") if path.is_dir() and not path.is_symlink()), reverse=True):
        with suppress(OSError):
            path.rmdir()
    with suppress(OSError):
        folder.rmdir()
