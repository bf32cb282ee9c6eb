"""Lists from folders in public layouts, made up here in each layout, and what `prepare` makes of the lists."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest

from roi_progressive.cli.main import main
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.scan_lists import scan_list
from roi_progressive.data.volume_list import read_volume_list
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.saving.names import Domains

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')

Z, Y, X = np.mgrid[:6, :32, :32] * 2.0
BODY = np.hypot(X - 31, Y - 31) < 26
LIVER, LESION = np.hypot(X - 26, Y - 31) < 12, np.hypot(X - 24, Y - 31) < 6
SCAN = np.where(BODY, 200.0 + X, 0.0).astype(np.float32)
CT = np.where(BODY, 40.0, -1000.0).astype(np.float32)
LABELS = (LIVER.astype(np.uint8) + LESION).astype(np.uint8)


def write(path: Path, values, shift=(0.0, 0.0, 0.0)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(values.astype(np.uint8) if values.dtype == bool else values, isVector=False)
    image.SetSpacing((2.0, 2.0, 2.0) if values.ndim == 3 else (2.0, 2.0, 2.0, 1.0))
    if values.ndim == 3:
        image.SetOrigin(shift)
    sitk.WriteImage(image, str(path))
    return path


def describe(folder: Path, **content) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset.json").write_text(json.dumps(content), encoding="utf-8")


def listed(folder: Path, layout: str, **options):
    """The rows of a list as mappings, and its notes."""
    found = scan_list(folder, layout, **options)
    return list(csv.DictReader(io.StringIO(found.csv()))), found.notes


def prepared(tmp_path: Path, folder: Path, layout: str, domains: tuple[str, str], **options):
    """What `prepare` makes of the list, saved elsewhere: its paths are absolute."""
    (tmp_path / "elsewhere").mkdir()
    table = tmp_path / "elsewhere" / "scans.csv"
    table.write_text(scan_list(folder, layout, **options).csv(), encoding="utf-8")
    return prepare(table, tmp_path / "out", PrepareOptions(size_px=32, domains=domains, split=(1, 0, 0)))


@pytest.fixture
def bids(tmp_path: Path) -> Path:
    """Two subjects with T1w and FLAIR, one of them of two runs; masks in derivatives, names in a table."""
    root = tmp_path / "bids"
    for subject in ("01", "02"):
        for suffix in ("T1w", "FLAIR"):
            write(root / f"sub-{subject}" / "anat" / f"sub-{subject}_{suffix}.nii.gz", SCAN)
        derived = root / "derivatives" / "seg" / f"sub-{subject}" / "anat"
        write(derived / f"sub-{subject}_space-orig_dseg.nii.gz", LABELS)
    write(root / "sub-02" / "anat" / "sub-02_run-2_T1w.nii.gz", SCAN)
    write(root / "sub-02" / "func" / "sub-02_task-rest_bold.nii.gz", SCAN)
    (root / "dataset_description.json").write_text("{}", encoding="utf-8")
    (root / "derivatives" / "seg" / "dseg.tsv").write_text(
        "index\tname\n0\tbackground\n1\tliver\n2\tliver tumour\n", encoding="utf-8"
    )
    return root


def test_bids_scans_have_their_subject_their_suffix_and_masks_by_name(bids: Path) -> None:
    rows, notes = listed(bids, "bids")
    assert [(row["patient"], row["modality"]) for row in rows] == [
        (f"sub-{subject}", word) for subject in ("01", "02") for word in ("FLAIR", "T1")
    ]
    mask = bids / "derivatives" / "seg" / "sub-01" / "anat" / "sub-01_space-orig_dseg.nii.gz"
    assert rows[0]["image"] == str(bids / "sub-01" / "anat" / "sub-01_FLAIR.nii.gz")
    assert rows[0]["liver"] == f"{mask}#liver" and rows[0]["liver_tumour"] == f"{mask}#liver tumour"
    assert any("sub-02_run-2_T1w.nii.gz" in note and "left out" in note for note in notes)
    assert "phase" not in rows[0]


def test_prepare_reads_the_list_of_a_bids_folder(bids: Path, tmp_path: Path) -> None:
    report = prepared(tmp_path, bids, "bids", ("T1", "FLAIR"))
    assert report.problems == [] and report.manifest["regions"] == ["liver", "liver_tumour"]
    entry = report.manifest["slices"][0]
    assert entry["region_areas_px"]["liver"] > 2 * entry["region_areas_px"]["liver_tumour"] > 0


def test_sessions_become_phases_and_contrast_a_word_of_its_own(tmp_path: Path) -> None:
    for session in ("pre", "post"):
        for name in ("T1w", "ce-gad_T1w", "T2w"):
            write(tmp_path / "sub-1" / f"ses-{session}" / "anat" / f"sub-1_ses-{session}_{name}.nii.gz", SCAN)
    rows, notes = listed(tmp_path, "bids")
    assert {(row["phase"], row["modality"]) for row in rows} == {
        (session, word) for session in ("pre", "post") for word in ("T1", "T1ce", "T2")
    }
    assert any("`prepare` takes two: choose them with --domains" in note for note in notes)
    rows, _ = listed(tmp_path, "bids", domains=("T1", "t2"))
    assert {row["modality"] for row in rows} == {"T1", "T2"}


def test_a_bids_mask_belongs_to_the_scan_that_name_sidecar_or_grid_say(tmp_path: Path) -> None:
    anat, derived = tmp_path / "sub-1" / "anat", tmp_path / "derivatives" / "x" / "sub-1" / "anat"
    write(anat / "sub-1_T1w.nii.gz", SCAN)
    write(anat / "sub-1_FLAIR.nii.gz", SCAN, shift=(4.0, 0.0, 0.0))
    write(derived / "sub-1_space-T1w_label-named_mask.nii.gz", LIVER)
    write(derived / "sub-1_label-grid_mask.nii.gz", LIVER, shift=(4.0, 0.0, 0.0))
    write(derived / "sub-1_label-source_mask.nii.gz", LIVER)
    (derived / "sub-1_label-source_mask.json").write_text(
        '{"Sources": ["bids::sub-1/anat/sub-1_FLAIR.nii.gz"]}', encoding="utf-8"
    )
    write(derived / "sub-1_space-MNI152_label-template_mask.nii.gz", LIVER)
    rows, notes = listed(tmp_path, "bids")
    has = {row["modality"]: {name for name in row if row[name].startswith(str(derived))} for row in rows}
    assert has == {"T1": {"named"}, "FLAIR": {"grid", "source"}}
    assert any("1 of 4 masks belong to no scan" in note and "MNI152" in note for note in notes)


def nnunet(folder: Path, labels, **more) -> Path:
    for case in ("liver_001", "liver_002"):
        write(folder / "imagesTr" / f"{case}_0000.nii.gz", SCAN)
        write(folder / "imagesTr" / f"{case}_0001.nii.gz", SCAN + 1)
        write(folder / "labelsTr" / f"{case}.nii.gz", LABELS)
    (folder / "imagesTr" / "._liver_001_0000.nii.gz").write_bytes(b"\0")
    describe(folder, labels=labels, **more)
    return folder


VERSIONS = {
    "1": {"labels": {"0": "background", "1": "liver", "2": "tumor"}, "modality": {"0": "T1", "1": "T2"}},
    "2": {
        "labels": {"background": 0, "liver": [1, 2], "tumor": 2, "ignore": 3},
        "channel_names": {"0": "T1", "1": "T2"},
        "file_ending": ".nii.gz",
    },
}


@pytest.mark.parametrize("version", VERSIONS)
def test_nnunet_channels_are_modalities_and_labels_have_names(tmp_path: Path, version: str) -> None:
    rows, notes = listed(nnunet(tmp_path / "task", **VERSIONS[version]), "nnunet")
    assert [(row["patient"], row["modality"]) for row in rows] == [
        (case, word) for case in ("liver_001", "liver_002") for word in ("T1", "T2")
    ]
    labels = tmp_path / "task" / "labelsTr" / "liver_001.nii.gz"
    assert rows[0]["liver"] == f"{labels}#liver" and rows[1]["tumor"] == f"{labels}#tumor"
    assert notes == ("prepare it with --domains T1 T2, or the other way round",)


@pytest.mark.parametrize(("version", "liver"), [("1", LABELS == 1), ("2", LABELS > 0)])
def test_a_label_by_name_is_its_numbers_in_prepare(tmp_path: Path, version: str, liver) -> None:
    report = prepared(tmp_path, nnunet(tmp_path / "task", **VERSIONS[version]), "nnunet", ("T1", "T2"))
    assert report.problems == []
    row = read_volume_list(tmp_path / "elsewhere" / "scans.csv", Domains("T1", "T2")).rows[0]
    assert row.masks["liver"].labels == ((1,) if version == "1" else (1, 2)) and row.masks["tumor"].labels == (2,)
    entry = report.manifest["slices"][0]
    px = entry["square_px"]["height"] / 32
    assert entry["region_areas_px"]["liver"] * px**2 == pytest.approx(liver[3].sum(), rel=0.12)


def test_regions_are_joined_and_renamed_as_asked(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "task", **VERSIONS["1"])
    rows, _ = listed(folder, "nnunet", regions=["organ=liver+tumor", "lesion=2"])
    labels = folder / "labelsTr" / "liver_001.nii.gz"
    assert (rows[0]["organ"], rows[0]["lesion"]) == (f"{labels}#1+2", f"{labels}#2")
    assert set(rows[0]) == {"patient", "modality", "image", "organ", "lesion"}


def test_a_case_whose_mask_lacks_a_label_has_an_empty_cell_which_is_said(tmp_path: Path) -> None:
    folder = nnunet(tmp_path / "task", **VERSIONS["1"])
    write(folder / "labelsTr" / "liver_002.nii.gz", LIVER)
    rows, notes = listed(folder, "nnunet")
    assert [bool(row["tumor"]) for row in rows] == [True, True, False, False] and all(row["liver"] for row in rows)
    assert any("tumor is not in" in note and "liver_002.nii.gz" in note for note in notes)
    assert prepared(tmp_path, folder, "nnunet", ("T1", "T2")).problems == []


def decathlon(folder: Path, modality, image=CT) -> Path:
    pairs = []
    for case in ("liver_0", "liver_1"):
        write(folder / "imagesTr" / f"{case}.nii.gz", image)
        write(folder / "labelsTr" / f"{case}.nii.gz", LABELS)
        pairs.append({"image": f"./imagesTr/{case}.nii.gz", "label": f"./labelsTr/{case}.nii.gz"})
    describe(folder, modality=modality, labels={"0": "background", "1": "liver", "2": "cancer"}, training=pairs)
    return folder


def test_a_decathlon_task_is_listed_and_prepared(tmp_path: Path) -> None:
    folder = decathlon(tmp_path / "Task03_Liver", {"0": "CT"})
    rows, notes = listed(folder, "msd")
    assert [row["patient"] for row in rows] == ["liver_0", "liver_1"] and rows[0]["modality"] == "CT"
    assert rows[0]["cancer"] == f"{folder / 'labelsTr' / 'liver_0.nii.gz'}#cancer"
    assert any("all scans are CT" in note for note in notes)
    report = prepared(tmp_path, folder, "msd", ("CT", "MR"))
    assert report.problems == [] and report.manifest["regions"] == ["liver", "cancer"]


@pytest.mark.parametrize("modality", [{"0": "FLAIR", "1": "T1w"}, {"0": "FLAIR"}])
def test_four_dimensional_files_of_the_decathlon_are_named_with_the_way_to_split_them(tmp_path, modality) -> None:
    folder = decathlon(tmp_path / "Task01", modality, np.stack([SCAN, SCAN]))
    with pytest.raises(DataError, match=r"nnUNetv2_convert_MSD_dataset.*--layout nnunet") as caught:
        scan_list(folder, "msd")
    assert "three-dimensional" in str(caught.value) and "\n" not in str(caught.value)


def label_map_of_totalsegmentator(path: Path, values, names) -> None:
    """A NIfTI file with the names of its labels in an extension of its header, as TotalSegmentator writes them."""
    plain = write(path.with_name("plain.nii"), values).read_bytes()
    rows = "\n".join(
        f'<Label Key="{key}" Red="0.1" Green="0.2" Blue="0.3" Alpha="1"><![CDATA[{name}]]></Label>'
        for key, name in names.items()
    )
    text = f'<?xml version="1.0"?> <CaretExtension><LabelTable>\n{rows}\n</LabelTable></CaretExtension>'.encode()
    size = -(-(len(text) + 8) // 16) * 16
    extension = struct.pack("<2i", size, 0) + text.ljust(size - 8, b"\0")
    head = bytearray(plain[:348])
    struct.pack_into("<f", head, 108, 352 + size)
    path.write_bytes(gzip.compress(bytes(head) + b"\1\0\0\0" + extension + plain[352:]))
    path.with_name("plain.nii").unlink()


def test_totalsegmentator_gives_masks_from_a_folder_of_files(bids: Path, tmp_path: Path) -> None:
    for subject in ("01", "02"):
        for word in ("T1", "FLAIR"):
            place = tmp_path / "ts" / f"sub-{subject}_{word}"
            write(place / "liver.nii.gz", LIVER)
            write(place / "spleen.nii.gz", np.zeros_like(LIVER))
    options = {"regions": ["liver"], "totalsegmentator": tmp_path / "ts"}
    rows, _ = listed(bids, "bids", **options)
    assert rows[0]["liver"] == str(tmp_path / "ts" / "sub-01_FLAIR" / "liver.nii.gz")
    assert set(rows[0]) == {"patient", "modality", "image", "liver"}
    assert prepared(tmp_path, bids, "bids", ("T1", "FLAIR"), **options).problems == []


def test_totalsegmentator_gives_masks_from_one_label_map(bids: Path, tmp_path: Path) -> None:
    (tmp_path / "ts").mkdir()
    for path in bids.glob("sub-*/anat/*_FLAIR.nii.gz"):
        name = path.name.removesuffix(".nii.gz")
        file = tmp_path / "ts" / f"{name}.nii.gz"
        label_map_of_totalsegmentator(file, LABELS, {1: "liver", 2: "liver_vessels"})
    rows, notes = listed(bids, "bids", regions=["liver_vessels"], totalsegmentator=tmp_path / "ts")
    file = tmp_path / "ts" / "sub-01_FLAIR.nii.gz"
    assert {row["modality"]: row["liver_vessels"] for row in rows if row["patient"] == "sub-01"} == {
        "FLAIR": f"{file}#liver_vessels",
        "T1": "",
    }
    assert any("2 of 4 scans have no output of TotalSegmentator" in note for note in notes)


def test_output_of_another_grid_is_that_of_another_scan(bids: Path, tmp_path: Path) -> None:
    write(tmp_path / "ts" / "sub-01" / "liver.nii.gz", LIVER, shift=(30.0, 0.0, 0.0))
    with pytest.raises(DataError, match=r"on its grid"):
        scan_list(bids, "bids", regions=["liver"], totalsegmentator=tmp_path / "ts")


def test_the_command_writes_the_list_to_standard_output_and_notes_to_standard_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = decathlon(tmp_path / "Task03_Liver", {"0": "CT"})
    assert main(["scan", str(folder), "--layout", "msd", "--regions", "tumor=cancer"]) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[0] == "patient,modality,image,tumor" and printed.err.startswith("note: all scans")
    assert main(["scan", str(folder), "--layout", "msd", "--regions", "tumor=cancr"]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "did you mean 'cancer'" in printed.err


MISTAKES = {
    "no such layout": (lambda f: scan_list(f, "dicom"), ConfigError, "`layout` must be one of bids, nnunet, msd"),
    "no such folder": (lambda f: scan_list(f / "x", "bids"), DataError, "`folder` must be a data set.*does not exist"),
    "no subjects": (lambda f: scan_list(f, "bids"), DataError, "must hold folders sub-"),
    "no dataset.json": (lambda f: scan_list(f, "nnunet"), DataError, r"dataset\.json must say what the folder holds"),
    "no regions of many": (
        lambda f: scan_list(f, "msd", totalsegmentator=f),
        ConfigError,
        "`regions` must name what to take of TotalSegmentator",
    ),
    "no name of a region": (
        lambda f: scan_list(f, "msd", regions=["liver tumour=2"]),
        ConfigError,
        "`regions` must be NAME",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(tmp_path: Path, mistake: str) -> None:
    call, kind, words = MISTAKES[mistake]
    with pytest.raises(kind, match=words) as caught:
        call(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"labels": {"liver": 1}}, "must name its channels"),
        ({"channel_names": {"0": "CT"}, "labels": {"liver": "one"}, "file_ending": ".nii.gz"}, "must have `labels`"),
        ({"channel_names": {"0": "R", "1": "G"}, "labels": {}, "file_ending": ".png"}, "must be of volumes"),
    ],
)
def test_a_description_that_cannot_be_used_is_named(tmp_path: Path, content, words: str) -> None:
    folder = nnunet(tmp_path / "task", **VERSIONS["1"])
    describe(folder, **content)
    with pytest.raises(DataError, match=words):
        scan_list(folder, "nnunet")


def test_a_name_of_a_label_that_nothing_tells_is_an_error_of_its_row(tmp_path: Path) -> None:
    write(tmp_path / "ct.nii.gz", CT)
    write(tmp_path / "seg.nii.gz", LABELS)
    (tmp_path / "scans.csv").write_text(
        "patient,modality,image,liver\np,CT,ct.nii.gz,seg.nii.gz#liver\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"line 2, column `liver` names a label, 'liver', but.*give the label's number"):
        read_volume_list(tmp_path / "scans.csv")
    (tmp_path / "seg_dseg.tsv").write_text("", encoding="utf-8")
    (tmp_path / "seg.tsv").write_text("index\tname\n1\tlever\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"names a label, 'liver', that seg\.nii\.gz has not; it has lever"):
        read_volume_list(tmp_path / "scans.csv")
    (tmp_path / "seg.tsv").write_text("index\tname\n1\tliver\n2\ttumour\n", encoding="utf-8")
    assert read_volume_list(tmp_path / "scans.csv").rows[0].masks["liver"].labels == (1,)
    (tmp_path / "scans.csv").write_text(
        "patient,modality,image,liver\np,CT,ct.nii.gz,seg.nii.gz#liver+tumour\n", encoding="utf-8"
    )
    assert read_volume_list(tmp_path / "scans.csv").rows[0].masks["liver"].labels == (1, 2)
