"""A data set in the making: a folder beside its place that outlives an interruption, and what is done in it so far."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..saving.locks import only_writer, resolved
from ..saving.records import entry, fault_of, of_kind, read_json, to_json
from ..saving.signals import signals_later
from ..saving.written import check_replaceable, checksum_of, put_away_leftovers, put_in_place, write_names
from .options import PrepareOptions

FOLDERS = ("pictures", "records", "arrays", "aside")


@dataclass(frozen=True)
class PartialFolder:
    """Where a run of ``prepare`` writes; picklable, so that its workers share it.

    Every file is written aside and renamed, so that a file that is there is whole. A job is done when its record is
    there, which is written last; its files are written again where it is not, to the same bytes.

    Args:
        path: The folder itself; the data set grows in ``pictures`` below it.
    """

    path: Path

    @property
    def pictures(self) -> Path:
        """What becomes the data set."""
        return self.path / "pictures"

    def put(self, target: Path, save: Callable[[Path], object]) -> None:
        """Write a file: ``save`` is given another path with the same ending, which then becomes ``target``.

        Raises:
            DataError: It cannot be written.
        """
        aside = self.path / "aside" / f"{os.getpid()}{target.suffix}"
        try:
            save(aside)
            if target.is_dir():  # in this folder of ours no file's place is a folder
                shutil.rmtree(target)
            os.replace(aside, target)
        except OSError as error:
            raise DataError(
                f"`out` must be a folder that can be written; {target.name!r} cannot: {error.strerror or error}; free "
                f"the space, and the same command goes on where this one stopped"
            ) from error

    def cache(self, key: str) -> Path:
        """Where the array that a job leaves to a later one lies, if it does."""
        return self.path / "arrays" / f"{key}.npy"

    def record(self, key: str) -> dict[str, Any] | None:
        """What the job of this name had to say; ``None`` where it is not done, or not all of it there any more."""
        try:
            found: dict[str, Any] = of_kind(read_json(self._record_file(key)), "its content", dict)
            files = entry({"files": {}, **found}, "files", dict)
            whole = all(checksum_of(self.path / name) == checksum for name, checksum in files.items())
        except (OSError, ValueError):  # what is damaged is made again
            return None
        return found if whole else None

    def keep(self, key: str, record: Mapping[str, Any]) -> None:
        """Take down that a job is done, and what it had to say.

        Args:
            key: The name of its record.
            record: What it had to say; under ``files`` the names of what it wrote, from this folder on, which must be
                as they are now for the job to count as done.
        """
        files = {name: checksum_of(self.path / name) for name in record.get("files", ())}
        text = to_json({**record, "files": files}, indent=None, ascii_only=False)
        self.put(self._record_file(key), lambda aside: aside.write_text(text, encoding="utf-8"))

    def forget_claims(self) -> None:
        """Before workers start: those of an earlier run may have been stopped in the middle."""
        _remove(self.path / "claims")
        (self.path / "claims").mkdir()

    def claim(self, key: str) -> bool:
        """Whether this worker is the first to ask for the job."""
        try:
            os.close(os.open(self.path / "claims" / key, os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            return False
        return True

    def discard(self) -> None:
        """Remove everything."""
        with signals_later():
            shutil.rmtree(self.path, ignore_errors=True)

    def start(self, settings: Mapping[str, str], *, force: bool) -> None:
        """Go on with what an earlier run left, or start anew where there is nothing.

        Raises:
            DataError: What is there was begun with other settings, and ``force`` is false.
        """
        settings_file = self.path / "settings.json"
        try:
            begun = of_kind(read_json(settings_file), "its content", dict) if os.path.lexists(settings_file) else None
        except (OSError, ValueError) as error:
            if not force:
                raise DataError(
                    f"`out` has an unfinished run beside it, {self.path.name}, whose {settings_file.name} is damaged: "
                    f"{fault_of(error)}; use --force to start anew"
                ) from error
            begun = None
        if self.pictures.is_dir() and begun is not None:
            changed = [name for name, value in settings.items() if begun.get(name) != value]
            if not changed:
                self._make_folders()
                return
            if not force:
                raise DataError(
                    f"`out` has an unfinished run beside it, {self.path.name}, begun with other "
                    f"{' and '.join(changed)}; repeat that command to go on with it, or use --force to start anew"
                )
        _remove(settings_file)
        for name in FOLDERS:
            _remove(self.path / name)
        self._make_folders()
        self.put(settings_file, lambda aside: aside.write_text(to_json(settings), encoding="utf-8"))

    def _make_folders(self) -> None:
        """Have all of them there, empty where something else stood in their place."""
        for name in FOLDERS:
            if not (self.path / name).is_dir() or (self.path / name).is_symlink():
                _remove(self.path / name)
                (self.path / name).mkdir()

    def _record_file(self, key: str) -> Path:
        return self.path / "records" / f"{key}.json"


def _remove(path: Path) -> None:
    """Whatever it is, if it is; a link without what it leads to."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def partial_folder(
    out: str | Path, settings: Mapping[str, str], *, force: bool, keep: Iterable[Path] = ()
) -> Iterator[PartialFolder]:
    """A folder to write into that becomes ``out`` when the block ends well, and stays beside it when it does not.

    Args:
        out: The folder to make. It may exist if it is empty.
        settings: All that decides what is written, by name; a run goes on only where they are the same.
        force: Replace what we wrote into a folder, where other files stay, and an unfinished run with other settings.
        keep: Files that must not be lost: replacing a folder that holds one of them is refused.

    Raises:
        DataError: ``out`` is a file, holds files and ``force`` is false, holds a file of ``keep``, or cannot be
            written; another run is writing it; or an unfinished run has other settings and ``force`` is false.
    """
    target = resolved(out)
    keep = list(keep)
    with only_writer(target, within_another=False):
        put_away_leftovers(target)
        place = PartialFolder(target.with_name(f".{target.name}.partial"))
        if place.path.is_dir() and not place.pictures.is_dir():  # killed when all was done but this
            place.discard()
        check_replaceable(target, force, keep, data_set=True)
        try:
            place.path.mkdir(exist_ok=True)
        except OSError as error:
            raise DataError(
                f"`out` must be a folder that can be written; got {str(out)!r}: {error.strerror}"
            ) from error
        place.start(settings, force=force)
        yield place
        check_replaceable(target, force, keep, data_set=True)
        write_names(place.pictures)
        with signals_later():
            put_in_place(place.pictures, target)
            place.discard()


# -- what decides the bytes that are written ---------------------------------------------------------------------------


def fingerprint(
    manifest_csv: str | Path, files: Iterable[Path], options: PrepareOptions, versions: Mapping[str, str]
) -> dict[str, str]:
    """The list's text, the options, size and time of every file, and the versions used, each as a digest.

    Args:
        manifest_csv: The list.
        files: The files and folders it names; of a folder, the files in it.
        options: How.
        versions: Of the packages that compute.
    """
    settings = asdict(options) | {"mr_steps": sorted(options.mr_steps)}
    return {
        "list": _digest(Path(manifest_csv).read_text(encoding="utf-8-sig")),
        "options": _digest(json.dumps(settings, sort_keys=True)),
        "files": _digest("\n".join(line for file in files for line in _stamps(file.absolute()))),
        "versions": _digest(json.dumps(versions, sort_keys=True)),
    }


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _stamps(path: Path) -> Iterator[str]:
    try:
        status = path.stat()
    except OSError:
        yield f"{path} is not there"
        return
    if path.is_dir():
        for file in sorted(path.iterdir()):
            yield from [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}"] if file.exists() else _stamps(file)
    else:
        yield f"{path} {status.st_size} {status.st_mtime_ns}"
