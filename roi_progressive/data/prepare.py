"""Turn volumes of two modalities, with masks, into a picture data set that CycleGAN codebases read as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..saving.names import DOMAINS, SPLITS, Domains
from ..saving.records import to_json
from .contact_sheet import contact_sheet
from .job_runner import Progress, run_jobs
from .layout import make_folders
from .manifest_record import manifest_record, versions
from .medical_packages import simpleitk
from .options import PrepareOptions
from .partial_folder import PartialFolder, fingerprint, partial_folder
from .pictures import MAIN_REGION
from .splits import checked_split, split_by_modality
from .standardise import Landmarks, fit_standard
from .volume_jobs import CutVolumes, FindLandmarks
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

    Layout: ``{train,val,test}{A,B}/<patient>_<phase>_<slice>.png`` (or ``.npy``), A and B as in ``domains``, and for
    every region ``{split}{domain}_<region>/`` with a mask for every picture; ``contact_sheet_<split>.png`` shows them.
    With ``paired`` also ``{train,val,test}/<name>.png``, A to the left of B, and ``{split}_<region>/`` likewise. With
    ``neighbours`` also ``neighbours/{train,val,test}{A,B}/<name>.npy``, ``[2 * neighbours, size_px, size_px]``, the
    slices below and above each picture from the feet to the head, in the type of the pictures.
    A list without a column ``phase`` names the phase ``all``. Volumes are turned to LPS first; slices are
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
    domains = Domains.of(options.domains)
    volumes = read_volume_list(manifest_csv, domains, options.hounsfield)
    split_of = _split(volumes, options)
    simpleitk()
    files = [path for row in volumes.rows for path in (row.image, *(mask.path for mask in row.masks.values()))]
    settings = fingerprint(manifest_csv, files, options, versions(volumes))
    with partial_folder(out, settings, force=force, keep=[Path(manifest_csv), *files]) as place:
        make_folders(place.pictures, volumes.regions, options.paired, options.neighbours > 0)
        slices, standard, problems, notes = _run(place, volumes, options, split_of, processes, report)
        if not slices:
            place.discard()
            shown = "; ".join(problems[:3]) + (f"; and {len(problems) - 3} more" if len(problems) > 3 else "")
            hint = "".join(f"; {note}" for note in _missing(files, manifest_csv))
            raise DataError(f"`manifest` must name a usable volume; none of {len(volumes.rows)} is: {shown}{hint}")
        counts = {f"{s}{d}": sum(e["split"] == s and e["domain"] == d for e in slices) for s in SPLITS for d in DOMAINS}
        if not volumes.regions:
            notes.append("the list has no column of a region: slices come from the middle of each body, without masks")
        notes += [
            *_perhaps_hounsfield(volumes),
            *_empty_parts(counts, domains, split_of),
            *_missing(files, manifest_csv),
            *_borrowed(slices, domains),
        ]
        notes += _unpaired(counts, options, domains)
        _write_sheets(place, slices, volumes.regions, domains)
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
) -> tuple[list[dict[str, Any]], dict[str, Landmarks], list[str], list[str]]:
    """Do all jobs: the entries of all slices, the scales that MRs were brought to by domain, problems and notes."""
    problems: list[str] = []
    grouped = _groups(volumes.rows, options, problems)
    scaled = [row for row in volumes.rows if not row.in_hounsfield] if "standardise" in options.mr_steps else []
    training = [row for row in scaled if split_of[row.patient] == "train"]
    total, done = len(training) + sum(map(len, grouped)), 0

    def count(more: int, text: str) -> None:
        nonlocal done
        done += more
        if report is not None:
            report(done, total, text)

    scales = {f"landmarks{row.line}": FindLandmarks(row, options) for row in training}
    found = [record["landmarks"] for record in run_jobs(place, scales, processes, count)]
    standard: dict[str, Landmarks] = {}
    for domain in sorted({row.domain for row in scaled}):
        of_domain = [landmarks for row, landmarks in zip(training, found, strict=True) if row.domain == domain]
        usable = [np.asarray(landmarks) for landmarks in of_domain if landmarks is not None]
        if not usable:
            place.discard()
            name = Domains.of(options.domains).name(domain)
            raise DataError(
                f"`mr_steps` can standardise only where the training part has a usable {name}; none of its "
                f"{len(of_domain)} is; leave `standardise` out"
            )
        standard[domain] = fit_standard(usable)
    groups = {
        f"group{rows[0].line}": CutVolumes(tuple(rows), split_of[rows[0].patient], volumes.regions, options, standard)
        for rows in grouped
    }
    earlier = sum(group.volumes for key, group in groups.items() if place.record(key) is not None)
    records = run_jobs(place, groups, processes, count)
    notes = [f"went on with a stopped run, which had done {earlier} of {len(volumes.rows)} volumes"] if earlier else []
    for record in records:
        problems += record["problems"]
        notes += record["notes"]
    return [entry for record in records for entry in record["slices"]], standard, problems, notes


def _perhaps_hounsfield(volumes: VolumeList) -> list[str]:
    """A note of modalities that bear CT in their name and are not said to be in HU."""
    words = sorted({row.modality for row in volumes.rows if not row.in_hounsfield and "CT" in row.modality.upper()})
    return [
        f"{word} was scaled by percentiles, as an MR is; if its values are HU, prepare with --in-hu {word}"
        for word in words
        if word.upper() not in ("CT", "CBCT")  # their user took them out
    ]


def _write_sheets(
    place: PartialFolder, slices: Sequence[Mapping[str, Any]], regions: Sequence[str], domains: Domains
) -> None:
    for split in SPLITS:
        ordered = sorted(regions, key=lambda name: name != MAIN_REGION)
        sheet = contact_sheet(place.pictures, split, slices, ordered, domains)
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


def _empty_parts(counts: dict[str, int], domains: Domains, split_of: Mapping[str, str]) -> list[str]:
    notes, given = [], set(split_of.values())
    for domain in DOMAINS:
        empty = [split for split in SPLITS if not counts[f"{split}{domain}"]]
        modality = domains.name(domain)
        if len(empty) == len(SPLITS):
            notes.append(f"domain {domain} is empty: no {modality} could be used; nothing can be translated to it")
            continue
        for why, splits in (
            (
                "the split gives it no patient; `train` needs trainA and trainB, `evaluate` testA and testB",
                [split for split in empty if split not in given],
            ),
            (
                f"too few patients with a usable {modality}; train comes first",
                [split for split in empty if split in given],
            ),
        ):
            if splits:
                notes.append(f"`{'`, `'.join(f'{split}{domain}' for split in splits)}` empty: {why}")
    return notes


def _missing(files: Sequence[Path], manifest_csv: str | Path) -> list[str]:
    missing = [file for file in dict.fromkeys(files) if not file.exists()]
    if not missing:
        return []
    folder = Path(manifest_csv).resolve().parent
    are = "1 file of the list is" if len(missing) == 1 else f"{len(missing)} files of the list are"
    return [
        f"{are} not there, first {str(missing[0])!r}; its paths are relative to the folder it lies in, {str(folder)!r}"
    ]


def _borrowed(slices: Sequence[Mapping[str, Any]], domains: Domains) -> Iterator[str]:
    """A line for every region and domain whose masks come from the other scan of a pair."""
    patients: dict[tuple[str, str], set[str]] = {}
    of_domain = {domain: {s["patient"] for s in slices if s["domain"] == domain} for domain in DOMAINS}
    for found in slices:
        for region in found.get("masks_of_other_modality", ()):
            patients.setdefault((found["domain"], region), set()).add(found["patient"])
    for (domain, region), without in sorted(patients.items()):
        name, other = domains.name(domain), domains.name(next(d for d in DOMAINS if d != domain))
        yield (
            f"{len(without)} of {len(of_domain[domain])} patients have no mask of {region} on their {name}: that on "
            f"their {other} is taken for both"
        )


def _unpaired(counts: Mapping[str, int], options: PrepareOptions, domains: Domains) -> list[str]:
    if options.in_pairs or not (counts["testA"] and counts["testB"]):
        return []
    a, b = domains.names
    return [
        f"{a} and {b} of a patient lie on grids of their own: enough to train on, but `evaluate` and `figure` need "
        f"them on one; where a patient's scans show the same body, --align resamples {b} onto {a}"
    ]


def _groups(rows: Sequence[VolumeRow], options: PrepareOptions, problems: list[str]) -> list[list[VolumeRow]]:
    """Each volume for itself, or each of A with that of B of the same patient and phase."""
    if not options.in_pairs:
        return [[row] for row in rows]
    together: dict[tuple[str, str], list[VolumeRow]] = {}
    for row in rows:
        together.setdefault((row.patient, row.phase), []).append(row)
    # The list holds one volume of a domain, patient and phase.
    for group in together.values():
        if len(group) == 1:
            other = Domains.of(options.domains).name("B" if group[0].domain == "A" else "A")
            problems.append(f"{group[0]}: has no {other} of the same patient and phase to align with")
    pairs = [group for group in together.values() if len(group) == len(DOMAINS)]
    return [sorted(group, key=lambda row: row.domain) for group in pairs]
