"""The list of volumes to prepare: one CSV row each, checked before anything is read."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from ..saving.names import CT_AND_MR, DOMAINS, ONE_PHASE, Domains
from .csv_table import read_table
from .dicom_files import drawn_names, read_named
from .hounsfield import IN_HOUNSFIELD, in_hounsfield
from .label_names import labels_by_name

REQUIRED_COLUMNS = ("patient", "modality", "image")
PHASE_COLUMN = "phase"
SPLIT_COLUMN = "split"
COLUMNS = (*REQUIRED_COLUMNS, PHASE_COLUMN, SPLIT_COLUMN)
"""What is no region's column."""
_CONE_BEAM = "CBCT"
"""Counts as CT, unless it has a domain of its own."""

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
    """One row of the list: a volume, its masks, and the line of the file for messages.

    Args:
        line: Of the file.
        patient: Whose volume it is.
        phase: Contrast phase, or whatever else tells volumes of a patient apart.
        modality: The name of its domain, or CBCT.
        image: Where it lies.
        masks: By region.
        split: Where the list assigns it.
        domain: ``A`` or ``B``.
        hounsfield: Whether its values are said to be HU; where ``None``, its modality says so.
    """

    line: int
    patient: str
    phase: str
    modality: str
    image: Path
    masks: dict[str, MaskFile]
    split: str | None = None
    domain: str = ""
    hounsfield: bool | None = None

    @property
    def in_hounsfield(self) -> bool:
        """Whether its values are said to be Hounsfield units."""
        return in_hounsfield(self.modality) if self.hounsfield is None else self.hounsfield

    def __str__(self) -> str:
        phase = "" if self.phase == ONE_PHASE else f" {self.phase}"
        return f"line {self.line} ({self.patient}{phase} {self.modality})"


@dataclass(frozen=True)
class VolumeList:
    """All rows, and the names of the region columns in their order."""

    rows: tuple[VolumeRow, ...]
    regions: tuple[str, ...]


def read_volume_list(
    path: str | Path, domains: Domains = CT_AND_MR, hounsfield: Sequence[str] = IN_HOUNSFIELD
) -> VolumeList:
    """Read the CSV: columns patient, modality, image and, where there are any, phase and one column for each region.

    A modality is the name of a domain, in capitals or not; CBCT belongs to the domain CT where none is called so.
    Without the column ``phase`` a patient has one volume of a domain, of the phase ``all``.
    An image is a volume file, a multi-frame DICOM file or a folder with a DICOM series. A region's cell is ``file``
    (its voxels above zero, or of one half and more where it holds shares), ``file#label``, ``file#label+label``, or
    ``file.dcm#name`` for a contour of an RTSTRUCT file or a segment of a DICOM SEG file; empty where the volume has no
    mask of it. A label may be a name where ``labels_by_name`` finds one. What follows the mark is a contour's name too
    where the part before it is a file and the whole is none. An optional column ``split`` (train, val or test) assigns
    the patients. Relative paths start at the CSV's folder.

    Args:
        path: The CSV file.
        domains: What it calls A and B.
        hounsfield: The modalities whose values are HU.

    Raises:
        DataError: The file cannot be read or is empty, a column is missing, misspelled or doubled, a cell is
            not what its column takes, or a patient's phase and modality come twice.
    """
    path = Path(path)
    header, records = read_table("manifest", path)
    regions = _check_columns(header)
    rows: list[VolumeRow] = []
    seen: dict[tuple[str, str, str], int] = {}
    at = header.index("modality")
    modalities = _Modalities(
        domains, tuple(hounsfield), tuple(dict.fromkeys(cells[at] for _, cells in records if at < len(cells)))
    )
    modalities.check_hounsfield()
    for line, cells in records:
        if len(cells) != len(header):
            raise DataError(
                f"`manifest` line {line} must have {len(header)} cells, one for each column; got {len(cells)}; "
                f"quote cells that hold a comma"
            )
        row = _row(line, dict(zip(header, cells, strict=True)), regions, path.parent, modalities)
        key = (row.patient, row.phase, row.domain)  # a CT and a CBCT are of one domain
        if key in seen:
            named = (row.patient, row.phase, row.modality) if PHASE_COLUMN in header else (row.patient, row.modality)
            columns = "`, `".join(name for name in ("patient", PHASE_COLUMN, "modality") if name in header)
            remedy = "give them different phases" if PHASE_COLUMN in header else "tell them apart in a column `phase`"
            raise DataError(
                f"`manifest` line {line} repeats {' '.join(named)} of line {seen[key]} (columns `{columns}`); "
                f"{remedy} or remove one"
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
    others = [name for name in header if name not in COLUMNS]
    for name in REQUIRED_COLUMNS:
        if name not in header:
            near = difflib.get_close_matches(name, [other.lower() for other in others], n=1, cutoff=0.6)
            wrong = next((other for other in others if near and other.lower() == near[0]), None)
            hint = f"did you mean the column `{wrong}`? rename it" if wrong else f"add it; got {', '.join(header)}"
            raise DataError(f"`manifest` lacks the column `{name}`; {hint}")
    for name in others:
        near = difflib.get_close_matches(name.lower(), (PHASE_COLUMN, SPLIT_COLUMN), n=1, cutoff=0.8)
        if near and near[0] not in header:
            raise DataError(
                f"`manifest` column `{name}` must be a region, or {PHASE_COLUMN} or {SPLIT_COLUMN}; did you mean "
                f"`{near[0]}`? rename it"
            )
    regions = tuple(others)
    for name in regions:
        if not (name.isidentifier() and name.isascii()):
            raise DataError(
                f"`manifest` column `{name}` must be a region's name of letters, digits and underscores; rename it"
            )
    return regions


@dataclass(frozen=True)
class _Modalities:
    """What the column ``modality`` may say, and the words that it holds."""

    domains: Domains
    hounsfield: tuple[str, ...]
    there: tuple[str, ...]

    def known(self) -> dict[str, str]:
        """The domain of each word that is known, spelled as their user spells it."""
        known = dict(zip(self.domains.names, DOMAINS, strict=True))
        of_ct = next((domain for name, domain in known.items() if name.casefold() == "ct"), None)
        if of_ct is not None and _CONE_BEAM.casefold() not in {name.casefold() for name in known}:
            known[_CONE_BEAM] = of_ct
        return known

    def check_hounsfield(self) -> None:
        """Check that every word said to be in HU is one that a row may have.

        Raises:
            DataError: One is not.
        """
        known = [*self.known(), *IN_HOUNSFIELD]
        for word in self.hounsfield:
            if not in_hounsfield(word, known):
                near = difflib.get_close_matches(word.casefold(), [name.casefold() for name in known], n=1, cutoff=0.5)
                hint = "".join(f"did you mean {name!r}? " for name in known if name.casefold() in near)
                raise DataError(f"`hounsfield` must be of {', '.join(self.known())}; got {word!r}; {hint}correct it")

    def read(self, line: int, cell: str) -> tuple[str, str]:
        """The modality that a cell names, and its domain."""
        known = {name.casefold(): (name, domain) for name, domain in self.known().items()}
        if cell.casefold() in known:
            return known[cell.casefold()]
        names = self.domains.names
        cone_beam = f", or {_CONE_BEAM}" if _CONE_BEAM in self.known() and _CONE_BEAM not in names else ""
        near = difflib.get_close_matches(cell.casefold(), known, n=1, cutoff=0.6)
        # Another kind of CT is no CT: the values of a cone beam's are not calibrated.
        other_ct = cell.upper().endswith("CT") and len(cell) > 2
        hint = f"; did you mean {known[near[0]][0]!r}?" if near and not other_ct else ""
        there = ", ".join(self.there[:6]) + (", ..." if len(self.there) > 6 else "")
        strange = len(self.there) == 2 and not {word.casefold() for word in self.there} & set(known)
        option = f"--domains {' '.join(self.there)}" if strange else "--domains"
        raise DataError(
            f"`manifest` line {line}, column `modality` must be {names[0]} or {names[1]}{cone_beam}; got "
            f"{cell!r}{hint}; correct it, or name A and B by `{option}` (the column has {there})"
        )


def _row(line: int, cells: dict[str, str], regions: Sequence[str], folder: Path, modalities: _Modalities) -> VolumeRow:
    for name in (*REQUIRED_COLUMNS, PHASE_COLUMN):
        if name in cells and not cells[name]:
            raise DataError(f"`manifest` line {line}, column `{name}` must not be empty; fill it in")
    cells = {PHASE_COLUMN: ONE_PHASE} | cells
    for name, pattern, marks in (("patient", _PATIENT, "._-"), (PHASE_COLUMN, _PHASE, ".-")):
        if not pattern.fullmatch(cells[name]):
            example = "; any such word will do, for contrast phases ART, PV, NC" if name == PHASE_COLUMN else ""
            raise DataError(
                f"`manifest` line {line}, column `{name}` becomes part of file names: letters, digits and {marks}, "
                f"starting with a letter or digit{example}; got {cells[name]!r}; rename it"
            )
    modality, domain = modalities.read(line, cells["modality"])
    masks = {name: _mask(line, name, cells[name], folder) for name in regions if cells[name]}
    split = cells.get(SPLIT_COLUMN) or None
    in_hu = in_hounsfield(modality, modalities.hounsfield)
    image = folder / cells["image"]
    return VolumeRow(line, cells["patient"], cells[PHASE_COLUMN], modality, image, masks, split, domain, in_hu)


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
    try:
        named = labels_by_name(folder / name, chosen) if mark and name else None
    except DataError as error:
        raise DataError(f"`manifest` line {line}, column `{column}` {error}") from error
    if named is not None:
        return MaskFile(folder / name, named, choice=chosen.strip())
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
            f"{cell!r}{it_has}; write '{cell.strip().rstrip('#')}#{there[0] if there else 'NAME'}'"
        )
    return name
