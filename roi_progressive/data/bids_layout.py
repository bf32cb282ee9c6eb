"""Folders of the Brain Imaging Data Structure (BIDS): raw scans by subject, masks beside them or in derivatives."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import DataError
from .found_scans import FoundMask, FoundScan, same_grid
from .label_names import label_names, stem_of

DATA_TYPES = ("anat", "ct", "pet", "perf", "dwi")
_MASKS = ("mask", "dseg", "probseg")
_NO_SCANS = ("bold", "dwi", "asl", "asllabeling", "m0scan", "events", "physio", "defacemask", "sbref")
_NATIVE = ("orig", "individual", "scanner", "native")
"""Spaces of BIDS in which a mask lies on the scan it was drawn on."""
_WORDS = {"t1w": "T1", "t2w": "T2", "pdw": "PD", "inplanet1": "T1", "inplanet2": "T2"}
_ENTITY = re.compile(r"([a-zA-Z0-9]+)-([a-zA-Z0-9+]+)")


@dataclass(frozen=True)
class _File:
    """A file's name taken apart: ``sub-01_ses-1_T1w.nii.gz``."""

    path: Path
    entities: dict[str, str]
    words: tuple[str, ...]

    @property
    def suffix(self) -> str:
        return self.words[-1] if self.words else ""

    @property
    def place(self) -> tuple[str, str]:
        return self.entities.get("sub", ""), self.entities.get("ses", "")


def bids_scans(folder: Path, notes: list[str]) -> list[FoundScan]:
    """The scans of a BIDS data set, a session as a phase, and their masks.

    The modality is the name's suffix without the ``w`` of a weighting (``T1w`` is T1), and ``ce`` where a contrast
    agent was given (T1ce). A mask (``_mask``, ``_dseg``, ``_probseg``) of the same subject and session belongs to a
    scan where its name (``space-T1w``, or the suffix itself), its sidecar (``Sources``) or its grid says so; what lies
    in a template's space belongs to none.

    Args:
        folder: The data set, with folders ``sub-...`` and, perhaps, ``derivatives``.
        notes: What the user should know is appended here.

    Raises:
        DataError: There is no subject, or no scan.
    """
    subjects = sorted(path for path in folder.glob("sub-*") if path.is_dir())
    if not subjects:
        raise DataError(f"{folder} must hold folders sub-...; it has none; give the data set's own folder")
    raw = [file for subject in subjects for file in _files(subject)]
    places = [place for place in sorted(folder.glob("derivatives/**/sub-*")) if place.is_dir()]
    derived = {file.path: file for place in places for file in _files(place)}.values()
    scans = _scans([file for file in raw if file.suffix not in (*_MASKS, *_NO_SCANS)], notes)
    if not scans:
        raise DataError(f"{folder} must hold scans such as sub-01/anat/sub-01_T1w.nii.gz; it has none; check the path")
    masks = [file for file in (*raw, *derived) if file.suffix in _MASKS]
    found = []
    used: set[Path] = set()
    for scan, file in scans:
        own = [mask for mask in masks if mask.place == file.place and _belongs(mask, file)]
        used.update(mask.path for mask in own)
        found.append(scan.with_masks(tuple(_found_mask(mask) for mask in own)))
    unused = [mask for mask in masks if mask.path not in used]
    if unused:
        notes.append(
            f"{len(unused)} of {len(masks)} masks belong to no scan by name, sidecar or grid, the first "
            f"{unused[0].path.name}; they are left out"
        )
    return found


def _files(folder: Path) -> Iterator[_File]:
    for path in sorted(folder.rglob("sub-*")):
        stem = stem_of(path.name)
        if stem is None or not path.is_file() or path.parent.name not in (*DATA_TYPES, *_parents(folder)):
            continue
        parts = stem.split("_")
        entities = {match[1]: match[2] for part in parts if (match := _ENTITY.fullmatch(part)) is not None}
        yield _File(path, entities, tuple(part for part in parts if not _ENTITY.fullmatch(part)))


def _parents(folder: Path) -> tuple[str, ...]:
    """Folders of a subject whose files count although no data type is named: the subject's and its sessions' own."""
    return folder.name, *(path.name for path in folder.glob("ses-*"))


def _scans(files: list[_File], notes: list[str]) -> list[tuple[FoundScan, _File]]:
    """One scan of a subject, session and modality: the first run; of the others it is said that they are left out."""
    chosen: dict[tuple[str, str, str], _File] = {}
    others = []
    for file in sorted(files, key=lambda file: (file.place, _run(file), file.path.name)):
        if chosen.setdefault((*file.place, _modality(file)), file) is not file:
            others.append(file)
    if others:
        notes.append(
            f"{len(others)} further scans of the same subject, session and modality are left out, the first "
            f"{others[0].path.name}; list them by hand with a `phase` of their own"
        )
    sessions = any(session for _, session, _ in chosen)
    return [
        (FoundScan(f"sub-{subject}", modality, file.path.absolute(), (session or "none") if sessions else None), file)
        for (subject, session, modality), file in chosen.items()
    ]


def _run(file: _File) -> int:
    run = file.entities.get("run", "0")
    return int(run) if run.isdigit() else 0


def _modality(file: _File) -> str:
    word = _WORDS.get(file.suffix.lower(), file.suffix.upper() if file.suffix.islower() else file.suffix)
    return f"{word}ce" if "ce" in file.entities else word


def _belongs(mask: _File, scan: _File) -> bool:
    space = mask.entities.get("space")
    if any(mask.entities[key] != scan.entities.get(key) for key in ("acq", "ce", "rec", "run") if key in mask.entities):
        return False
    named = [word for word in (*mask.words[:-1], space or "") if word]
    if any(word.lower() == scan.suffix.lower() for word in named):
        return True
    if mask.words[:-1] or (space is not None and space.lower() not in _NATIVE):
        return False  # it names another scan, or a template
    sources = _sources(mask)
    if sources:
        return any(Path(source.rpartition(":")[2]).name == scan.path.name for source in sources)
    return same_grid(mask.path, scan.path)


def _sources(mask: _File) -> list[str]:
    """The scans that a sidecar says a mask was made from."""
    stem = stem_of(mask.path.name)
    try:
        content = json.loads(mask.path.with_name(f"{stem}.json").read_text(encoding="utf-8"))
        given = [content.get(key) or [] for key in ("Sources", "RawSources", "SpatialReference")]
    except (OSError, ValueError, AttributeError):
        return []
    listed = [source for sources in given for source in (sources if isinstance(sources, list) else [sources])]
    return [source for source in listed if isinstance(source, str) and source not in _NATIVE]


def _found_mask(mask: _File) -> FoundMask:
    path = mask.path.absolute()
    if mask.suffix == "dseg" and "label" not in mask.entities:
        return FoundMask(path, label_names(path))
    return FoundMask(path, {mask.entities.get("label") or mask.entities.get("desc") or "mask": ()})
