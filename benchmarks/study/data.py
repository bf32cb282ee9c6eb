"""The data that the study in ``run_study.py`` trains and tests on: a frozen phantom, or a list of real scans.

In either case ``OUT/data`` is unpaired to train on, since CT and MR are of different patients, and paired to test on.
Of scans there is ``OUT/paired`` too, where every training patient gives both: what the ceiling is trained on.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from roi_progressive.data.phantom import make_phantom
from roi_progressive.data.prepare import PrepareOptions, prepare
from roi_progressive.data.splits import read_split_file, split_patients
from roi_progressive.data.volume_list import read_volume_list
from roi_progressive.errors import DataError

PHANTOM_SEED = 7000
"""Frozen; tuning used other phantoms."""
SPLIT_SEED = 0
SPLIT_OF_TWENTY = (12, 2, 6)
"""Patients to train, tune and test on, of twenty; of other numbers their proportions."""
CT_WINDOW = (500.0, -50.0)
"""From -300 HU: in the usual window of soft tissue, 400 HU around 40, fat is as black as the air around the body, and
which of the two becomes the white of an MR cannot be learnt from a patch."""
FIELD_OF_VIEW_MM = 160.0
"""One for all: the scans are cut to their tumours, so that scaling each to its own size would show no two alike."""


def make_phantom_data(out: Path, *, patients: Sequence[int], slices: int, size_px: int) -> None:
    """Make ``out/data``: a phantom of so many training and test patients."""
    (n_train, n_test) = patients
    sizes = {"n_train": n_train, "n_val": 0, "n_test": n_test, "slices_per_patient": slices}
    make_phantom(out / "data", **sizes, size_px=size_px, seed=PHANTOM_SEED)


def make_scan_data(out: Path, scans: Path, *, size_px: int) -> None:
    """Make ``out/split.csv``, ``out/paired`` and ``out/data`` from a list of scans as ``prepare`` reads it.

    Raises:
        DataError: The list cannot be used, a scan of it cannot be, or fewer than two patients are left to train on.
    """
    patients = {row.patient for row in read_volume_list(scans).rows}
    out.mkdir(parents=True, exist_ok=True)
    split_file = out / "split.csv"
    write_split(split_file, split_patients(patients, SPLIT_OF_TWENTY, SPLIT_SEED))
    options = PrepareOptions(
        size_px=size_px,
        align=True,
        split_of=read_split_file(split_file),
        ct_window=CT_WINDOW,
        field_of_view_mm=FIELD_OF_VIEW_MM,
    )
    made = prepare(scans, out / "paired", options)
    if made.problems:
        raise DataError(f"`scans` must list usable pairs alone; {made.problems[0]}; repair the scan or take it out")
    training = sorted({entry["patient"] for entry in made.manifest["slices"] if entry["split"] == "train"})
    if len(training) < 2:
        raise DataError(f"`scans` must leave two patients to train on; got {len(training)} of {len(patients)}")
    part_domains(out / "paired", out / "data", made.manifest["slices"], {"A": training[::2], "B": training[1::2]})


def write_split(path: Path, split_of: Mapping[str, str]) -> None:
    """Write a split as ``prepare --split-file`` reads it."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("patient", "split"), *split_of.items()])


def part_domains(
    paired: Path, out: Path, slices: Iterable[Mapping[str, object]], givers: Mapping[str, Sequence[str]]
) -> None:
    """Copy a prepared folder, but of the training part keep of each domain only the patients who give it."""
    kept = {domain: {str(e["name"]) for e in slices if e["patient"] in who} for domain, who in givers.items()}

    def left_out(folder: str, names: list[str]) -> set[str]:
        part = Path(folder).name.partition("_")[0]
        domain = part.removeprefix("train")
        if domain == part or domain not in kept:
            return set()
        return {name for name in names if Path(name).stem not in kept[domain]}

    shutil.copytree(paired, out, ignore=left_out)
