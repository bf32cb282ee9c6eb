"""Turn CT and MR volumes with masks into a picture data set that CycleGAN codebases read as it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..saving.names import DOMAINS, SPLITS
from ..saving.records import to_json
from .contact_sheet import contact_sheet
from .fingerprint import fingerprint
from .groups import Group, LandmarksOf
from .jobs import Progress, run_jobs
from .layout import make_folders
from .medical_packages import simpleitk
from .options import PrepareOptions
from .partial_folder import PartialFolder, partial_folder
from .pictures import DOMAIN_OF, MAIN_REGION
from .record import manifest_record, versions
from .splits import checked_split, split_by_modality
from .standardise import Landmarks, fit_standard
from .volume_list import VolumeList, VolumeRow, read_volume_list

__all__ = ["PrepareOptions", "PrepareReport", "prepare"]


@dataclass(frozen=True)
class PrepareReport:
    """What ``prepare`` did.

    Args:
        out: The folder written.
        manifest: The content of its ``manifest.json``.
        problems: One line for each volume that was left out, and why.
        notes: One line for each thing worth knowing about what was written.
        slice_counts: Pictures in each image folder, e.g. ``{"trainA": 108, ...}``.
        patient_counts: Patients with pictures in each split.
    """

    out: Path
    manifest: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    slice_counts: dict[str, int] = field(default_factory=dict)
    patient_counts: dict[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """What to show at the end: the counts, then notes and problems, one a line."""
        lines = [f"wrote {sum(self.slice_counts.values())} slices to {self.out}"]
        for split in SPLITS:
            slices = ", ".join(f"{self.slice_counts.get(f'{split}{domain}', 0)} {domain}" for domain in DOMAINS)
            lines.append(f"  {split:<5} {self.patient_counts.get(split, 0)} patients, slices: {slices}")
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"left out: {problem}" for problem in self.problems]
        return "\n".join(lines)


def prepare(
    manifest_csv: str | Path,
    out: str | Path,
    options: PrepareOptions | None = None,
    *,
    processes: int = 1,
    force: bool = False,
    report: Progress | None = None,
) -> PrepareReport:
    """Write the pictures, masks and ``manifest.json`` of a list of volumes (see ``read_volume_list``).

    Layout: ``{train,val,test}{A,B}/<patient>_<phase>_<slice>.png`` (or ``.npy``), A is CT and B is MR, and for every
    region ``{split}{domain}_<region>/`` with a mask for every picture; ``contact_sheet_<split>.png`` shows them. With
    ``paired`` also ``{train,val,test}/<name>.png``, A to the left of B, and ``{split}_<region>/`` likewise.
    Volumes are turned to LPS first; slices are
    axial and counted from the feet. The same input gives the same bytes, whatever the number of processes.

    The split is made over all patients listed, so a repaired file moves nobody from one part to another.
    A volume that cannot be used is left out and reported; the rest goes on.

    The data set grows in ``.<name>.partial`` beside ``out``. A run that was stopped leaves it, and the same call
    again goes on where it stopped.

    Args:
        manifest_csv: The list.
        out: Folder to make.
        options: How; the defaults where ``None``.
        processes: How many volumes (or pairs) are worked on at a time.
        force: Replace ``out`` if it holds files, and what is left of a stopped run with other settings.
        report: Told of volumes done, volumes in all, and what is being done; the fit of a scale counts too.

    Raises:
        ConfigError: ``processes`` is below 1.
        DataError: The list is wrong, SimpleITK is missing, ``out`` holds files and ``force`` is false, another run is
            writing it, a stopped run had other settings, a process was killed, or no volume could be used.
    """
    options = options or PrepareOptions()
    if processes < 1:
        raise ConfigError(f"`processes` must be a whole number of at least 1; got {processes!r}")
    volumes = read_volume_list(manifest_csv)
    split_of = _split(volumes, options)
    simpleitk()
    files = [path for row in volumes.rows for path in (row.image, *(mask.path for mask in row.masks.values()))]
    settings = fingerprint(manifest_csv, files, options, versions(volumes))
    with partial_folder(out, settings, force=force, keep=[Path(manifest_csv), *files]) as place:
        make_folders(place.pictures, volumes.regions, options.paired)
        slices, standard, problems, notes = _run(place, volumes, options, split_of, processes, report)
        if not slices:
            place.discard()
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise DataError(f"`manifest` must name a usable volume; none of {len(volumes.rows)} is: {shown}")
        counts = {f"{s}{d}": sum(e["split"] == s and e["domain"] == d for e in slices) for s in SPLITS for d in DOMAINS}
        notes += _empty_parts(counts)
        _write_sheets(place, slices, volumes.regions)
        manifest = manifest_record(volumes, options, split_of, slices, standard)
        text = to_json(manifest, ascii_only=False) + "\n"
        place.put(place.pictures / "manifest.json", lambda aside: aside.write_text(text, encoding="utf-8"))
    patients = {split: len({e["patient"] for e in slices if e["split"] == split}) for split in SPLITS}
    return PrepareReport(Path(out), manifest, problems, notes, counts, patients)


def _run(
    place: PartialFolder,
    volumes: VolumeList,
    options: PrepareOptions,
    split_of: Mapping[str, str],
    processes: int,
    report: Progress | None,
) -> tuple[list[dict[str, Any]], Landmarks | None, list[str], list[str]]:
    """Do all jobs: the entries of all slices, the scale of the MRs, problems and notes."""
    problems: list[str] = []
    grouped = _groups(volumes.rows, options.in_pairs, problems)
    mrs = [row for row in volumes.rows if row.modality == "MR"]
    training = [row for row in mrs if split_of[row.patient] == "train"] if "standardise" in options.mr_steps else []
    total, done = len(training) + sum(map(len, grouped)), 0

    def hear(more: int, text: str) -> None:
        nonlocal done
        done += more
        if report is not None:
            report(done, total, text)

    scales = {f"landmarks{row.line}": LandmarksOf(row, options) for row in training}
    found = [record["landmarks"] for record in run_jobs(place, scales, processes, hear)]
    usable = [np.asarray(one) for one in found if one is not None]
    if "standardise" in options.mr_steps and mrs and not usable:
        place.discard()
        raise DataError(
            f"`mr_steps` can standardise only where the training part has a usable MR; none of its {len(training)} is; "
            f"leave `standardise` out"
        )
    standard = fit_standard(usable) if usable else None
    groups = {
        f"group{rows[0].line}": Group(tuple(rows), split_of[rows[0].patient], volumes.regions, options, standard)
        for rows in grouped
    }
    earlier = sum(group.volumes for key, group in groups.items() if place.record(key) is not None)
    records = run_jobs(place, groups, processes, hear)
    notes = [f"went on with a stopped run, which had done {earlier} of {len(volumes.rows)} volumes"] if earlier else []
    for record in records:
        problems += record["problems"]
        notes += record["notes"]
    return [entry for record in records for entry in record["slices"]], standard, problems, notes


def _write_sheets(place: PartialFolder, slices: Sequence[Mapping[str, Any]], regions: Sequence[str]) -> None:
    for split in SPLITS:
        sheet = contact_sheet(place.pictures, split, slices, sorted(regions, key=lambda name: name != MAIN_REGION))
        if sheet is not None:
            place.put(place.pictures / f"contact_sheet_{split}.png", sheet.save)


def _split(volumes: VolumeList, options: PrepareOptions) -> dict[str, str]:
    patients = [row.patient for row in volumes.rows]
    column = [(row.patient, row.split) for row in volumes.rows if row.split is not None]
    if options.split_of is not None and column:
        raise DataError("`split_of` and the column `split` both assign patients; use one of them")
    if options.split_of is not None or column:
        return checked_split(column if options.split_of is None else options.split_of.items(), patients)
    modalities: dict[str, set[str]] = {}
    for row in volumes.rows:
        modalities.setdefault(row.patient, set()).add(row.modality)
    return split_by_modality(modalities, options.split, options.split_seed)


def _empty_parts(counts: dict[str, int]) -> list[str]:
    notes = []
    for domain in DOMAINS:
        empty = [f"{split}{domain}" for split in SPLITS if not counts[f"{split}{domain}"]]
        modality = next(name for name, letter in DOMAIN_OF.items() if letter == domain)
        if len(empty) == len(SPLITS):
            notes.append(f"domain {domain} is empty: no {modality} could be used; nothing can be translated to it")
        elif empty:
            notes.append(f"`{'`, `'.join(empty)}` empty: too few patients with a usable {modality}; train comes first")
    return notes


def _groups(rows: Sequence[VolumeRow], in_pairs: bool, problems: list[str]) -> list[list[VolumeRow]]:
    """Each volume for itself, or each CT with the MR of the same patient and phase."""
    if not in_pairs:
        return [[row] for row in rows]
    together: dict[tuple[str, str], list[VolumeRow]] = {}
    for row in rows:
        together.setdefault((row.patient, row.phase), []).append(row)
    for group in together.values():
        if len(group) == 1:
            other = "MR" if group[0].modality == "CT" else "CT"
            problems.append(f"{group[0]}: has no {other} of the same patient and phase to align with")
    return [sorted(group, key=lambda row: row.modality) for group in together.values() if len(group) == 2]
