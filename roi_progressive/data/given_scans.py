"""Which scans a user means by a path: one, those of a folder, or those of a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError, UnreadableError, parsed
from ..saving.stray_files import is_stray
from .csv_table import read_table
from .dicom_files import is_dicom

_VOLUMES = (".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd")
_LISTS = (".csv", ".txt")
_COLUMNS = ("scan", "image")
"""What a list calls the column of the scans; a list for ``prepare`` has the second."""
_MOST_PARENTS = 6


@dataclass(frozen=True)
class GivenScan:
    """One scan.

    Args:
        path: A volume file or the folder of a DICOM series.
        name: Another for each, after its file or folder.
        modality: What a list says of it.
    """

    path: Path
    name: str
    modality: str | None = None


def given_scans(paths: Sequence[Path]) -> tuple[list[GivenScan], bool]:
    """The scans that are meant, and whether they were given as many, be they one.

    A folder that holds DICOM files is one scan; any other one holds volume files, and folders with DICOM files. A CSV
    file has a column ``scan`` or ``image`` and may have one ``modality``; a TXT file has a path a line; relative paths
    start at the list's folder.

    Args:
        paths: What the user gave, one or more.

    Raises:
        DataError: A list or a folder holds no scan, or two scans cannot be told apart by name.
    """
    first = paths[0]
    found: list[tuple[Path, str | None]]
    if len(paths) > 1:
        found = [(path, None) for path in paths]
    elif first.suffix.lower() in _LISTS and first.is_file():
        found = _listed(first)
    elif first.is_dir() and not _holds_dicom(first):
        found = [(path, None) for path in sorted(first.iterdir()) if _is_scan(path)]
        if not found:
            raise DataError(
                f"`scan` must be a volume file, a folder of DICOM files, or a folder or list of such; {str(first)!r} "
                f"holds none"
            )
    else:
        return [GivenScan(first, _stem(first))], False
    names = _names([path for path, _ in found])
    return [GivenScan(path, name, modality) for (path, modality), name in zip(found, names, strict=True)], True


def _is_scan(path: Path) -> bool:
    if is_stray(path):
        return False
    return _holds_dicom(path) if path.is_dir() else path.name.lower().endswith(_VOLUMES) or is_dicom(path)


def _holds_dicom(folder: Path) -> bool:
    return any(is_dicom(file) for file in folder.iterdir() if file.is_file() and not file.name.startswith("."))


def _listed(path: Path) -> list[tuple[Path, str | None]]:
    found: list[tuple[Path, str | None]]
    if path.suffix.lower() == ".txt":
        try:
            lines = parsed(path.read_text, encoding="utf-8-sig").splitlines()
        except UnreadableError as error:
            raise DataError(f"`scan` must be a list in UTF-8; {str(path)!r} is not: {error.line}") from error
        found = [(path.parent / line.strip(), None) for line in lines if line.strip()]
    else:
        header, rows = read_table("scan", path)
        column = next((name for name in _COLUMNS if name in header), None)
        if column is None:
            raise DataError(
                f"`scan` must be a list with a column `scan` or `image`; {str(path)!r} has {', '.join(header)}"
            )
        cells = [dict(zip(header, row, strict=False)) for _, row in rows]
        found = [(path.parent / row[column], row.get("modality") or None) for row in cells if row.get(column)]
    if not found:
        raise DataError(f"`scan` must be a list of at least one scan; {str(path)!r} names none")
    return found


def _stem(path: Path) -> str:
    name = path.name
    return next((name[: -len(end)] for end in sorted(_VOLUMES, key=len)[::-1] if name.lower().endswith(end)), name)


def _names(paths: Sequence[Path]) -> list[str]:
    """A name for each, with as many of its folders as it takes to tell them apart."""
    for parents in range(_MOST_PARENTS):
        names = ["_".join([*path.parent.parts[len(path.parent.parts) - parents :], _stem(path)]) for path in paths]
        if len({name.casefold() for name in names}) == len(names):
            return names
    seen: dict[Path, Path] = {}
    twice = next(path for path in paths if seen.setdefault(path, path) is not path or paths.count(path) > 1)
    raise DataError(f"`scan` must name each scan once; {str(twice)!r} comes twice, or another is called alike")
