"""The list of volumes to prepare: one CSV row each, checked before anything is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .csv_table import read_table
from .dicom_files import drawn_names, read_named
from .hounsfield import in_hounsfield

REQUIRED_COLUMNS = ("patient", "phase", "modality", "image")
SPLIT_COLUMN = "split"
MODALITIES = ("CT", "CBCT", "MR")

_PATIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
# No underscore: the last two underscores of a picture's name then always part patient, phase and index.
_PHASE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")


_RTSTRUCT = re.compile(r"(?P<file>.*?\.dcm)(#(?P<name>.*))?", re.IGNORECASE)
_LABEL_MARKS = "0123456789+- "


@dataclass(frozen=True)
class MaskFile:
    """A mask on disk.

    Args:
        path: A volume file, or an RTSTRUCT file.
        labels: The voxels equal to one of these; all above zero where there are none.
        contour: The structure of this name in an RTSTRUCT file, or the segment of this label in a DICOM SEG file;
            empty where the list names none.
        choice: What follows the mark, as written: a file without an ending may turn out to hold contours.
    """

    path: Path
    labels: tuple[int, ...] = ()
    contour: str | None = None
    choice: str = field(default="", compare=False)


@dataclass(frozen=True)
class VolumeRow:
    """One row of the list: a volume, its masks, and the line of the file for messages."""

    line: int
    patient: str
    phase: str
    modality: str
    image: Path
    masks: dict[str, MaskFile]
    split: str | None = None

    def __str__(self) -> str:
        return f"line {self.line} ({self.patient} {self.phase} {self.modality})"


@dataclass(frozen=True)
class VolumeList:
    """All rows, and the names of the region columns in their order."""

    rows: tuple[VolumeRow, ...]
    regions: tuple[str, ...]


def read_volume_list(path: str | Path) -> VolumeList:
    """Read the CSV: columns patient, phase, modality (CT, CBCT or MR), image, and one column for each region.

    An image is a volume file, a multi-frame DICOM file or a folder with a DICOM series. A region's cell is ``file``
    (its voxels above zero, or of one half and more where it holds shares), ``file#label``, ``file#label+label``, or
    ``file.dcm#name`` for a contour of an RTSTRUCT file or a segment of a DICOM SEG file; empty where the volume has no
    mask of it. What follows the mark is a contour's name too where the part before it is a file
    and the whole is none. An optional column ``split`` (train, val or test) assigns the patients. Relative paths start
    at the CSV's folder.

    Raises:
        DataError: The file cannot be read or is empty, a column is missing, misspelled or doubled, a cell is
            not what its column takes, or a patient's phase and modality come twice.
    """
    path = Path(path)
    header, records = read_table("manifest", path)
    regions = _check_columns(header)
    rows: list[VolumeRow] = []
    seen: dict[tuple[str, str, bool], int] = {}
    for line, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"`manifest` line {line} must have {len(header)} cells, one for each column; got {len(cells)}; "
                f"quote cells that hold a comma"
            )
        row = _row(line, dict(zip(header, cells, strict=True)), regions, path.parent)
        key = (row.patient, row.phase, in_hounsfield(row.modality))  # a CT and a CBCT are of one domain
        if key in seen:
            raise DataError(
                f"`manifest` line {line} repeats {row.patient} {row.phase} {row.modality} of line {seen[key]} (columns "
                f"`patient`, `phase`, `modality`); give them different phases or remove one"
            )
        seen[key] = line
        rows.append(row)
    if not rows:
        raise DataError(f"`manifest` must have at least one row below its header; {str(path)!r} has none")
    return VolumeList(tuple(rows), regions)


def _check_columns(header: Sequence[str]) -> tuple[str, ...]:
    for name in header:
        if header.count(name) > 1:
            raise DataError(
                f"`manifest` must name each column once; got `{name}` {header.count(name)} times; rename one"
            )
    if len(header) == 1 and any(mark in header[0] for mark in ";\t"):
        raise DataError("`manifest` must be separated by commas; got semicolons or tabs; save it as comma-separated")
    others = [name for name in header if name not in REQUIRED_COLUMNS]
    for name in REQUIRED_COLUMNS:
        if name not in header:
            near = difflib.get_close_matches(name, [other.lower() for other in others], n=1, cutoff=0.6)
            wrong = next((other for other in others if near and other.lower() == near[0]), None)
            hint = f"did you mean it by `{wrong}`?" if wrong else f"add it; got {', '.join(header)}"
            raise DataError(f"`manifest` lacks the column `{name}`; {hint}")
    regions = tuple(name for name in others if name != SPLIT_COLUMN)
    for name in regions:
        if not (name.isidentifier() and name.isascii()):
            raise DataError(
                f"`manifest` column `{name}` must be a region's name of letters, digits and underscores; rename it"
            )
    if not regions:
        raise DataError("`manifest` needs a column for at least one region, e.g. `tumor`; got none; add one")
    return regions


def _row(line: int, cells: dict[str, str], regions: Sequence[str], folder: Path) -> VolumeRow:
    for name in REQUIRED_COLUMNS:
        if not cells[name]:
            raise DataError(f"`manifest` line {line}, column `{name}` must not be empty; fill it in")
    for name, pattern, marks in (("patient", _PATIENT, "._-"), ("phase", _PHASE, ".-")):
        if not pattern.fullmatch(cells[name]):
            raise DataError(
                f"`manifest` line {line}, column `{name}` becomes part of file names: letters, digits and {marks}, "
                f"starting with a letter or digit; got {cells[name]!r}; rename it"
            )
    modality = cells["modality"].upper()
    if modality not in MODALITIES:
        near = difflib.get_close_matches(modality, MODALITIES, n=1, cutoff=0.5)
        # Another kind of CT is no CT: the values of a cone beam's are not calibrated.
        hint = f"; did you mean {near[0]!r}?" if near and not (modality.endswith("CT") and len(modality) > 2) else ""
        raise DataError(
            f"`manifest` line {line}, column `modality` must be CT or MR, or CBCT; got {cells['modality']!r}{hint}"
        )
    masks = {name: _mask(line, name, cells[name], folder) for name in regions if cells[name]}
    split = cells.get(SPLIT_COLUMN) or None
    return VolumeRow(line, cells["patient"], cells["phase"], modality, folder / cells["image"], masks, split)


def _mask(line: int, column: str, cell: str, folder: Path) -> MaskFile:
    rtstruct = _RTSTRUCT.fullmatch(cell)
    if rtstruct:
        return MaskFile(folder / rtstruct["file"], contour=_drawn_name(line, column, cell, folder, rtstruct))
    marks = [] if (folder / cell).exists() else [at for at, letter in enumerate(cell) if letter == "#" and at]
    # The first mark after a file that is there; a contour's name may hold more of them.
    split_at = next((at for at in marks if (folder / cell[:at]).is_file()), None)
    name, mark, chosen = cell.rpartition("#") if split_at is None else (cell[:split_at], "#", cell[split_at + 1 :])
    labels = [part.strip() for part in chosen.split("+")]
    if mark and name and all(label.isascii() and label.isdigit() and int(label) > 0 for label in labels):
        return MaskFile(folder / name, tuple(dict.fromkeys(int(label) for label in labels)), choice=chosen.strip())
    if mark and not chosen.strip(_LABEL_MARKS):
        raise DataError(
            f"`manifest` line {line}, column `{column}` must be `file`, `file#label` or `file#label+label` with labels "
            f"of 1 or more, or `file.dcm#contour`; got {cell!r}; correct it"
        )
    return MaskFile(folder / cell) if split_at is None else MaskFile(folder / name, contour=chosen.strip())


def _drawn_name(line: int, column: str, cell: str, folder: Path, parts: re.Match[str]) -> str:
    """The contour or segment that a cell names; where it names none, the error lists what there is."""
    name = (parts["name"] or "").strip()
    if not name:
        try:
            there = drawn_names(read_named(column, folder / parts["file"]))
        except DataError:  # it is missing or damaged, which is said once it is to be read
            there = []
        it_has = f"; it has {', '.join(map(repr, there))}" if there else ""
        raise DataError(
            f"`manifest` line {line}, column `{column}` must name a contour or segment of its DICOM file; got "
            f"{cell!r}{it_has}; write `file.dcm#contour`"
        )
    return name
