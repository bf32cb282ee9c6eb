"""Turn CT and MR volumes with masks into a picture data set that CycleGAN codebases read as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import DataError
from .layout import DOMAINS, make_folders, new_folder, write_manifest, write_picture
from .medical_packages import simpleitk
from .options import PrepareOptions
from .pictures import DOMAIN_OF, Picture, Scan, aligned_pair, cut_pictures, mr_landmarks, read_scan
from .record import manifest_record, slice_record
from .splits import SPLITS, checked_split, split_by_modality
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
    force: bool = False,
    progress: bool = False,
) -> PrepareReport:
    """Write the pictures, masks and ``manifest.json`` of a list of volumes (see ``read_volume_list``).

    Layout: ``{train,val,test}{A,B}/<patient>_<phase>_<slice>.png``, A is CT and B is MR, and for every region
    ``{split}{domain}_<region>/`` with a mask for every picture. Volumes are turned to LPS first; slices are
    axial and counted from the feet. The same input gives the same bytes.

    The split is made over all patients listed, so a repaired file moves nobody from one part to another.
    A volume that cannot be used is left out and reported; the rest goes on.

    Args:
        manifest_csv: The list.
        out: Folder to make.
        options: How; the defaults where ``None``.
        force: Replace ``out`` if it holds files.
        progress: Show a progress bar.

    Raises:
        DataError: The list is wrong, SimpleITK is missing, ``out`` holds files and ``force`` is false, or no
            volume could be used.
    """
    options = options or PrepareOptions()
    volumes = read_volume_list(manifest_csv)
    split_of = _split(volumes, options)
    simpleitk()
    inputs = [Path(manifest_csv)]
    for row in volumes.rows:
        inputs += [row.image, *(mask.path for mask in row.masks.values())]
    problems: list[str] = []
    notes: list[str] = []
    with new_folder(out, force=force, keep=inputs) as folder:
        make_folders(folder, volumes.regions)
        standard = _standard(volumes, options, split_of, progress)
        slices = []
        for picture in _pictures(volumes, options, standard, problems, notes, progress):
            entry = slice_record(picture, split_of[picture.scan.row.patient], options.size_px)
            write_picture(folder / f"{entry['split']}{entry['domain']}", picture.name, picture.grey, picture.masks)
            slices.append(entry)
        if not slices:
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            raise DataError(f"`manifest` must name a usable volume; none of {len(volumes.rows)} is: {shown}")
        counts = {f"{s}{d}": sum(e["split"] == s and e["domain"] == d for e in slices) for s in SPLITS for d in DOMAINS}
        notes += _empty_parts(counts)
        manifest = manifest_record(volumes, options, split_of, slices, standard)
        write_manifest(folder, manifest)
    patients = {split: len({e["patient"] for e in slices if e["split"] == split}) for split in SPLITS}
    return PrepareReport(Path(out), manifest, problems, notes, counts, patients)


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


def _standard(
    volumes: VolumeList, options: PrepareOptions, split_of: Mapping[str, str], progress: bool
) -> Landmarks | None:
    """The common scale of the MRs, from those of the training part; a bad one is reported when it is prepared."""
    from tqdm import tqdm

    if "standardise" not in options.mr_steps:
        return None
    rows = [row for row in volumes.rows if row.modality == "MR" and split_of[row.patient] == "train"]
    found = []
    for row in tqdm(rows, "prepare: fitting the scale of the MRs", unit="volume", disable=not progress):
        with suppress(DataError):
            found.append(mr_landmarks(row, options))
    if not found and any(row.modality == "MR" for row in volumes.rows):
        raise DataError(
            f"`mr_steps` can standardise only where the training part has a usable MR; none of its {len(rows)} is; "
            f"leave `standardise` out"
        )
    return fit_standard(found) if found else None


def _pictures(
    volumes: VolumeList,
    options: PrepareOptions,
    standard: Landmarks | None,
    problems: list[str],
    notes: list[str],
    progress: bool,
) -> Iterator[Picture]:
    from tqdm import tqdm

    groups = _groups(volumes.rows, options.align, problems)
    with tqdm(total=sum(len(group) for group in groups), unit="volume", disable=not progress) as bar:
        for group in groups:
            scans: list[Scan] = []
            for row in group:
                bar.set_description("prepare: reading and normalising")
                try:
                    scans.append(read_scan(row, options, standard))
                except DataError as error:
                    problems.append(f"{row}: {error}")
            if len(scans) == len(group):
                bar.set_description("prepare: cutting and writing slices")
                yield from _cut(scans, volumes.regions, options, problems, notes)
            elif scans:
                problems.append(f"{scans[0].row}: left out with the other half of its pair")
            bar.update(len(group))


def _cut(
    scans: Sequence[Scan], regions: Sequence[str], options: PrepareOptions, problems: list[str], notes: list[str]
) -> list[Picture]:
    said: list[str] = []
    try:
        if len(scans) == 2:
            scans = aligned_pair(scans[0], scans[1])
        pictures = list(cut_pictures(scans, regions, options, said))
    except DataError as error:
        problems.append(f"{scans[-1].row}: {error}")
        return []
    notes += said
    return pictures


def _groups(rows: Sequence[VolumeRow], align: bool, problems: list[str]) -> list[list[VolumeRow]]:
    """Each volume for itself, or with ``align`` each CT with the MR of the same patient and phase."""
    if not align:
        return [[row] for row in rows]
    together: dict[tuple[str, str], list[VolumeRow]] = {}
    for row in rows:
        together.setdefault((row.patient, row.phase), []).append(row)
    for group in together.values():
        if len(group) == 1:
            other = "MR" if group[0].modality == "CT" else "CT"
            problems.append(f"{group[0]}: has no {other} of the same patient and phase to align with")
    return [sorted(group, key=lambda row: row.modality) for group in together.values() if len(group) == 2]
