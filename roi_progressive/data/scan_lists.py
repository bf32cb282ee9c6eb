"""The list that ``prepare`` reads, written from a folder in a public layout."""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import ConfigError, DataError
from ..saving.names import Domains
from .bids_layout import bids_scans
from .found_scans import FoundMask, FoundScan, has_voxels, same_grid
from .label_names import Labels, label_names, stem_of
from .nnunet_layout import decathlon_scans, nnunet_scans
from .volume_list import COLUMNS, PHASE_COLUMN

_READERS: dict[str, Callable[[Path, list[str]], list[FoundScan]]] = {
    "bids": bids_scans,
    "nnunet": nnunet_scans,
    "msd": decathlon_scans,
}
LAYOUTS = tuple(_READERS)
_NAMED_BESIDE = ("", "_seg", "_segmentations", "_totalseg", "_total")
"""What TotalSegmentator's users let its file of all labels end in, after the name of scan or patient."""
_MOST_NAMES = 12


@dataclass(frozen=True)
class ScanList:
    """A list for ``prepare``.

    Args:
        header: The columns.
        rows: The cells, paths absolute.
        notes: What the user should know, one line each.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def csv(self) -> str:
        """As comma-separated text."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerows([self.header, *self.rows])
        return text.getvalue()


def scan_list(
    folder: str | Path,
    layout: str,
    *,
    domains: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    totalsegmentator: str | Path | None = None,
) -> ScanList:
    """List the scans of a folder, with a column for each region.

    A label map's cell names its label where the layout tells names (``seg.nii.gz#liver``), otherwise its numbers
    (``seg.nii.gz#1+2``). The cell is empty where the mask has no voxel of the region.

    Args:
        folder: The data set.
        layout: One of ``LAYOUTS``: BIDS, nnU-Net, or Medical Segmentation Decathlon.
        domains: Take scans of these two modalities alone.
        regions: Which regions, ``NAME``, ``NAME=LABEL`` or ``NAME=LABEL+LABEL``, a label by name or number; all by
            default.
        totalsegmentator: TotalSegmentator's output, in place of the masks of the layout: for every scan or patient a
            folder of files such as ``liver.nii.gz``, or one label map, on the scan's own grid.

    Raises:
        ConfigError: ``layout`` is unknown, or ``domains`` or ``regions`` are not what they should be.
        DataError: The folder is not of the layout, or nothing in it can be listed.
    """
    if layout not in _READERS:
        raise ConfigError(f"`layout` must be one of {', '.join(LAYOUTS)}; got {layout!r}")
    wanted = None if regions is None else _wanted(regions)
    if totalsegmentator is not None and wanted is None:
        raise ConfigError(
            "`regions` must name what to take of TotalSegmentator's many masks; got none; give e.g. --regions liver"
        )
    place = Path(folder)
    if not place.is_dir():
        what = "is a file" if place.exists() else "does not exist"
        raise DataError(f"`folder` must be a data set in a folder; {str(place)!r} {what}; check the path")
    notes: list[str] = []
    scans = _READERS[layout](place.absolute(), notes)
    scans = _of_domains(scans, domains, notes)
    if totalsegmentator is not None:
        scans = _with_totalsegmentator(scans, Path(totalsegmentator), notes)
    if wanted is None:
        wanted = _all_regions(scans, notes)
    cells = [{column: _cell(scan, labels, column) for column, labels in wanted.items()} for scan in scans]
    _check_found(wanted, cells, scans)
    _leave_empty(cells, notes)
    phases = any(scan.phase is not None for scan in scans)
    header = ("patient", *((PHASE_COLUMN,) if phases else ()), "modality", "image", *wanted)
    rows = [
        (
            _in_letters(scan.patient, "._-"),
            *((_in_letters(scan.phase or "none", ".-"),) if phases else ()),
            scan.modality,
            str(scan.image),
            *(text for _, _, text in of_scan.values()),
        )
        for scan, of_scan in zip(scans, cells, strict=True)
    ]
    return ScanList(header, tuple(rows), tuple(notes))


_Cell = tuple[Path | None, tuple[int, ...], str]
"""The mask file, its labels, and what the list says of both."""
_NO_CELL: _Cell = (None, (), "")


# -- which scans -------------------------------------------------------------------------------------------------------


def _of_domains(scans: list[FoundScan], domains: Sequence[str] | None, notes: list[str]) -> list[FoundScan]:
    there = list(dict.fromkeys(scan.modality for scan in scans))
    if domains is None:
        if len(there) > 2:
            notes.append(
                f"the list has {len(there)} modalities, {', '.join(there)}; `prepare` takes two: choose them with "
                f"--domains here, e.g. --domains {there[0]} {there[1]}"
            )
        elif len(there) == 2 and {name.upper() for name in there} != {"CT", "MR"}:
            notes.append(f"prepare it with --domains {' '.join(there)}, or the other way round")
        elif len(there) == 1:
            notes.append(f"all scans are {there[0]}; append the rows of a data set of the other modality")
        return scans
    names = Domains.of(domains).names
    known = {name.casefold() for name in there}
    for name in names:
        if name.casefold() not in known:
            near = difflib.get_close_matches(name.casefold(), known, n=1, cutoff=0.5)
            hint = next((f"did you mean {word!r}? " for word in there if near and word.casefold() == near[0]), "")
            raise DataError(f"`domains` must name modalities that are there, {', '.join(there)}; got {name!r}; {hint}")
    chosen = {name.casefold() for name in names}
    return [scan for scan in scans if scan.modality.casefold() in chosen]


# -- which regions -----------------------------------------------------------------------------------------------------


def _wanted(regions: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """The labels of each column, from ``NAME``, ``NAME=LABEL`` or ``NAME=LABEL+LABEL``."""
    wanted: dict[str, tuple[str, ...]] = {}
    for region in regions:
        column, given, labels = region.partition("=")
        parts = tuple(part.strip() for part in labels.split("+")) if given else (column,)
        if not column.isidentifier() or not column.isascii() or column in COLUMNS or column in wanted or not all(parts):
            raise ConfigError(
                f"`regions` must be NAME, NAME=LABEL or NAME=LABEL+LABEL, NAME of letters, digits and underscores, "
                f"each once; got {region!r}; write e.g. tumor=2"
            )
        wanted[column] = parts
    return wanted


def _all_regions(scans: Sequence[FoundScan], notes: list[str]) -> dict[str, tuple[str, ...]]:
    names = dict.fromkeys(name for scan in scans for mask in scan.masks for name in mask.labels)
    wanted: dict[str, tuple[str, ...]] = {}
    for name in names:
        column = _column(name)
        while column in wanted or column in COLUMNS:
            column += "_"
        wanted[column] = (name,)
    unnamed = next((mask for scan in scans for mask in scan.masks if not mask.labels), None)
    if unnamed is not None:
        notes.append(
            f"nothing tells the names of the labels of {unnamed.path.name}; name them by number, e.g. --regions tumor=1"
        )
    if not wanted:
        notes.append("no mask was found; the list has no regions")
    return wanted


def _column(name: str) -> str:
    """A label's name as that of a column: letters, digits and underscores."""
    column = re.sub(r"\W+", "_", name.strip(), flags=re.ASCII).strip("_") or "region"
    return column if column.isidentifier() else f"label_{column}"


def _cell(scan: FoundScan, labels: tuple[str, ...], column: str) -> _Cell:
    """The mask of a scan that holds all labels."""
    numbers = all(label.isascii() and label.isdigit() for label in labels)
    maps = [mask for mask in scan.masks if () not in mask.labels.values()]
    holding: list[tuple[FoundMask, tuple[int, ...]]] = []
    if numbers:
        holding = [(mask, tuple(int(label) for label in labels)) for mask in maps]
    for mask in [] if numbers else scan.masks:
        known = _by_any_name(mask.labels)
        if all(label in known for label in labels):
            holding.append((mask, tuple(dict.fromkeys(number for label in labels for number in known[label]))))
    if len(holding) > 1:
        files = ", ".join(mask.path.name for mask, _ in holding)
        raise DataError(
            f"`regions` must be told apart: {column!r} of {scan.image.name} is in {files}; move all but one of them "
            f"out of the data set"
        )
    if not holding:
        return _NO_CELL
    mask, found = holding[0]
    raw = next((name for name in mask.labels if labels == (name,) or labels == (_column(name),)), None)
    return mask.path, found, mask.cell(found, raw)


def _by_any_name(labels: Labels) -> Labels:
    return {_column(name): numbers for name, numbers in labels.items()} | labels


def _check_found(
    wanted: dict[str, tuple[str, ...]], cells: Sequence[dict[str, _Cell]], scans: Sequence[FoundScan]
) -> None:
    known = list(dict.fromkeys(name for scan in scans for mask in scan.masks for name in mask.labels))
    for column, labels in wanted.items():
        if not any(of_scan[column][0] for of_scan in cells):
            near = difflib.get_close_matches(labels[0], known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            listed = ", ".join(known[:_MOST_NAMES]) + (", ..." if len(known) > _MOST_NAMES else "") or "none by name"
            if len(labels) > 1:
                hint += "labels that are joined must be of one file; "
            raise DataError(
                f"`regions` must name labels that a mask has; got {'+'.join(labels)!r}; {hint}there are: {listed}"
            )


def _leave_empty(cells: Sequence[dict[str, _Cell]], notes: list[str]) -> None:
    """Empty the cells whose mask has no voxel of its region: `prepare` takes such a cell for a mistake."""
    emptied: dict[str, list[str]] = {}
    known: dict[tuple[Path, tuple[int, ...]], bool] = {}
    for of_scan in cells:
        for column, (path, labels, _) in of_scan.items():
            if path is None:
                continue
            if (path, labels) not in known:
                known[path, labels] = has_voxels(path, labels)
            if not known[path, labels]:
                of_scan[column] = _NO_CELL
                emptied.setdefault(column, []).append(path.name)
    for column, files in emptied.items():
        notes.append(f"{column} is not in {len(files)} masks, the first {files[0]}; their cells are empty")


def _in_letters(name: str, marks: str) -> str:
    """A name as part of file names: letters, digits and some marks, a letter or digit first."""
    return re.sub(rf"[^A-Za-z0-9{re.escape(marks)}]+", "-", name).strip("._-") or "none"


# -- TotalSegmentator --------------------------------------------------------------------------------------------------


def _with_totalsegmentator(scans: Sequence[FoundScan], folder: Path, notes: list[str]) -> list[FoundScan]:
    if not folder.is_dir():
        raise DataError(f"`totalsegmentator` must be a folder of its output; {str(folder)!r} is none; check the path")
    found = [scan.with_masks(tuple(_masks_beside(scan, folder.absolute()))) for scan in scans]
    without = [scan.image.name for scan in found if not scan.masks]
    if len(without) == len(found):
        raise DataError(
            f"`totalsegmentator` must hold output named after scans or patients; {folder} has none for "
            f"{without[0]}, such as {stem_of(without[0])}/liver.nii.gz or {stem_of(without[0])}.nii.gz, on its grid"
        )
    if without:
        notes.append(f"{len(without)} of {len(found)} scans have no output of TotalSegmentator, the first {without[0]}")
    return found


def _masks_beside(scan: FoundScan, folder: Path) -> list[FoundMask]:
    """The masks of a scan, by its name or its patient's; on another grid they are those of another scan."""
    names = dict.fromkeys((str(stem_of(scan.image.name)), f"{scan.patient}_{scan.modality}", scan.patient))
    for name in names:
        for place in (folder / name / "segmentations", folder / name):
            files = [path for path in sorted(place.glob("*.nii.gz")) if path.resolve() != scan.image.resolve()]
            files = [path for path in files if not path.name.startswith(".")]
            if files and same_grid(files[0], scan.image):
                return [FoundMask(path, label_names(path) or {str(stem_of(path.name)): ()}) for path in files]
        for ending in _NAMED_BESIDE:
            path = folder / f"{name}{ending}.nii.gz"
            if path.is_file() and same_grid(path, scan.image) and path.resolve() != scan.image.resolve():
                return [FoundMask(path, label_names(path))]
    return []
