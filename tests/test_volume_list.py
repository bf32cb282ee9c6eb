"""The CSV of volumes: what it may say, and that each mistake is named with its line and column."""

from __future__ import annotations

import pytest

from roi_progressive.data.volume_list import MaskFile, read_volume_list
from roi_progressive.errors import DataError

GOOD = (
    "patient,phase,modality,image,liver,tumor\np1,ART,CT,ct.nii.gz,seg.nii.gz#5,t.nii.gz\np1,ART,mr,/abs/mr.nii.gz,,\n"
)


def _read(tmp_path, text, encoding="utf-8"):
    (tmp_path / "volumes.csv").write_bytes(text.encode(encoding))
    return read_volume_list(tmp_path / "volumes.csv")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_rows_hold_paths_from_the_folder_of_the_csv_and_masks_with_labels(tmp_path, encoding):
    volumes = _read(tmp_path, GOOD, encoding)
    assert volumes.regions == ("liver", "tumor")
    ct, mr = volumes.rows
    assert ct.image == tmp_path / "ct.nii.gz" and str(mr.image) == "/abs/mr.nii.gz"
    assert ct.masks == {"liver": MaskFile(tmp_path / "seg.nii.gz", (5,)), "tumor": MaskFile(tmp_path / "t.nii.gz")}
    assert (mr.modality, mr.masks, mr.line) == ("MR", {}, 3)


def test_columns_may_come_in_any_order_and_blank_lines_are_skipped(tmp_path):
    volumes = _read(tmp_path, "tumor,image,split,modality,phase,patient\n\nt.nii,i.nii,val,CT,NC,p\n,,,,,\n")
    assert volumes.regions == ("tumor",)
    assert volumes.rows[0].split == "val"


def test_a_hash_without_a_number_belongs_to_the_file_name(tmp_path):
    row = _read(tmp_path, "patient,phase,modality,image,tumor\np,NC,CT,i.nii,mask#a.nii\n").rows[0]
    assert row.masks["tumor"] == MaskFile(tmp_path / "mask#a.nii")


@pytest.mark.parametrize(
    ("cell", "labels", "contour"),
    [
        ("seg.nii.gz#1+2", (1, 2), None),
        ("seg.nii.gz#3 + 1 + 3", (3, 1), None),
        ("a/RS.dcm#GTV_Mass", (), "GTV_Mass"),
        ("RS.DCM#GTV #2", (), "GTV #2"),
        ("RS.dcm#5", (), "5"),
        ("RS.1.2.3#GTV", (), "GTV"),
    ],
)
def test_a_mask_is_labels_of_a_map_or_a_contour_by_name(tmp_path, cell, labels, contour):
    (tmp_path / "RS.1.2.3").touch()
    mask = _read(tmp_path, f"{HEADER}p,NC,CT,i.nii,{cell}\n").rows[0].masks["tumor"]
    assert mask == MaskFile(tmp_path / cell.partition("#")[0], labels, contour)


HEADER = "patient,phase,modality,image,tumor\n"
MISTAKES = {
    "empty file": ("", "is empty"),
    "header only": (HEADER, "at least one row"),
    "misspelled column": ("patient,phase,modailty,image,tumor\np,NC,CT,i,t\n", "`modality`.*did you mean.*`modailty`"),
    "missing column": ("patient,phase,image,tumor\np,NC,i,t\n", "lacks the column `modality`"),
    "misspelled phase": ("patient,phse,modality,image,tumor\np,NC,CT,i,t\n", "`phse`.*did you mean `phase`"),
    "doubled column": ("patient,phase,modality,image,tumor,tumor\np,NC,CT,i,t,t\n", "`tumor` 2 times"),
    "bad region": ("patient,phase,modality,image,liver tumor\np,NC,CT,i,t\n", "column `liver tumor`"),
    "semicolons": ("patient;phase;modality;image;tumor\np;NC;CT;i;t\n", "commas"),
    "modality": (HEADER + "p,NC,MRI,i,t\n", "line 2, column `modality`.*'MRI'.*did you mean 'MR'"),
    "odd modality": (HEADER + "p,NC,CT,i,t\np,NC,ultrasound,i,t\n", "line 3, column `modality`.*CT or MR"),
    "no image": (HEADER + "p,NC,CT,,t\n", "line 2, column `image`"),
    "patient with a slash": (HEADER + "../p,NC,CT,i,t\n", "line 2, column `patient`.*'../p'"),
    "phase with an underscore": (HEADER + "p,late_art,CT,i,t\n", "line 2, column `phase`.*such word.*ART, PV, NC"),
    "label nought": (HEADER + "p,NC,CT,i,t.nii#0\n", "line 2, column `tumor`.*'t.nii#0'"),
    "no label": (HEADER + "p,NC,CT,i,t.nii#\n", "line 2, column `tumor`.*'t.nii#'"),
    "half a sum": (HEADER + "p,NC,CT,i,t.nii#1+\n", "line 2, column `tumor`.*'t.nii#1\\+'"),
    "no contour": (HEADER + "p,NC,CT,i,RS.dcm\n", "line 2, column `tumor`.*write 'RS.dcm#NAME'"),
    "too few cells": (HEADER + "p,NC,CT,i\n", "line 2 must have 5 cells.*got 4"),
    "doubled row": (HEADER + "p,NC,CT,i,t\nq,NC,CT,i,t\np,NC,ct,j,t\n", "line 4 repeats p NC CT of line 2"),
    "open quote": (HEADER + 'p,NC,CT,"i,t\n', "CSV"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_in_one_line(tmp_path, mistake):
    text, words = MISTAKES[mistake]
    with pytest.raises(DataError, match=words) as caught:
        _read(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_not_text_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere\.csv"):
        read_volume_list(tmp_path / "nowhere.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(DataError, match="UTF-8"):
        read_volume_list(tmp_path / "binary.csv")
