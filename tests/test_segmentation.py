"""DICOM SEG files that highdicom writes, as masks: where they were drawn, or refused."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from roi_progressive.data.volume_list import MaskFile, VolumeRow, read_volume_list
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
hd = pytest.importorskip("highdicom", reason='needs highdicom: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans")

LABELS = np.zeros(scans.SHAPE, np.uint8)
LABELS[2:9, 8:26, 6:30] = 1
LABELS[4:7, 12:18, 12:20] = 2
SHARE = np.where(LABELS == 1, 0.8, np.where(LABELS == 2, 0.4, 0.0))


def whole(index, content):
    """What highdicom wants of a source image."""
    content.PatientName = "x^y"
    content.PatientID = content.AccessionNumber = content.StudyID = "x"
    content.PatientBirthDate = content.PatientSex = content.StudyDate = content.StudyTime = ""
    content.SeriesNumber, content.InstanceNumber, content.Manufacturer = 1, index + 1, "x"
    content.ReferringPhysicianName, content.SliceThickness = "", scans.SPACING[0]


def description(number, label):
    code = hd.sr.CodedConcept("123037004", "SCT", "Anatomical Structure")
    kind = hd.seg.SegmentAlgorithmTypeValues.MANUAL
    return hd.seg.SegmentDescription(number, label, code, code, kind)


def write(tmp_path, pixels=LABELS, kind="BINARY", labels=("Liver", "Tumor"), edit=None, name="seg.dcm"):
    files = scans.write_series(tmp_path / "ct", edit=whole)
    source = [scans.pydicom.dcmread(file) for file in files]
    seg = hd.seg.Segmentation(
        source, pixels, kind, [description(i, label) for i, label in enumerate(labels, start=1)],
        hd.UID(), 9, hd.UID(), 1, "x", "x", "1", "1",
    )  # fmt: skip
    if edit is not None:
        edit(seg)
    seg.save_as(tmp_path / name)
    return tmp_path / name


def read(tmp_path, segment, name="seg.dcm"):
    mask = MaskFile(tmp_path / name, contour=segment)
    return read_volume(VolumeRow(2, "p", "NC", "CT", tmp_path / "ct", {"tumor": mask}))


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_a_segment_lies_where_it_was_drawn(tmp_path, kind):
    write(tmp_path, kind=kind)
    for number, label in enumerate(("Liver", "Tumor"), start=1):
        volume = read(tmp_path, label)
        assert (volume.masks["tumor"] == (number == LABELS)).all() and volume.notes == ()


def test_of_a_fractional_segment_one_half_and_more_is_taken(tmp_path):
    write(tmp_path, SHARE, "FRACTIONAL", ("Liver",))
    assert (read(tmp_path, "Liver").masks["tumor"] == (SHARE >= 0.5)).all()


def test_a_segment_may_lie_on_a_part_of_the_slices_and_on_turned_images(tmp_path):
    """On images that are read in another order than they were drawn on."""
    files = scans.write_series(tmp_path / "ct", positions=scans.straight_positions()[::-1], edit=whole)
    source = [scans.pydicom.dcmread(file) for file in files][3:8]
    seg = hd.seg.Segmentation(
        source, LABELS[::-1][3:8], "BINARY", [description(1, "Liver"), description(2, "Tumor")],
        hd.UID(), 9, hd.UID(), 1, "x", "x", "1", "1",
    )  # fmt: skip
    seg.save_as(tmp_path / "seg.dcm")
    expected = LABELS == 2
    expected[[0, 1, 2, 3, 9, 10, 11]] = False
    assert (read(tmp_path, "Tumor").masks["tumor"] == expected).all() and expected.any()


@pytest.mark.parametrize("slices", [[5], [2, 8], [0], [11]])
def test_a_lesion_of_a_slice_or_two_lies_there(tmp_path, slices):
    labels = np.zeros_like(LABELS)
    labels[slices, 10:16, 9:20] = 1
    write(tmp_path, labels, labels=("Liver",))
    assert (read(tmp_path, "Liver").masks["tumor"] == (labels == 1)).all()


def test_a_name_that_is_not_there_is_helped(tmp_path):
    write(tmp_path)
    for wanted, words in (("Livr", "did you mean 'Liver'"), ("spleen", "it has 'Liver', 'Tumor'")):
        with pytest.raises(DataError, match=f"`tumor` must name a segment.*seg.dcm has no '{wanted}'; {words}"):
            read(tmp_path, wanted)
    write(tmp_path, labels=("Tumor", "Tumor"))
    with pytest.raises(DataError, match="has 2 called 'Tumor'"):
        read(tmp_path, "Tumor")
    (tmp_path / "scans.csv").write_text("patient,phase,modality,image,tumor\np,NC,CT,ct,seg.dcm\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"must name a contour or segment.*'Tumor', 'Tumor'; write 'seg\.dcm#Tumor'$"):
        read_volume_list(tmp_path / "scans.csv")


def test_a_segmentation_of_another_frame_of_reference_is_refused(tmp_path):
    write(tmp_path, edit=lambda seg: setattr(seg, "FrameOfReferenceUID", scans.OTHER_FRAME))
    with pytest.raises(DataError, match=r"seg\.dcm is of another frame of reference"):
        read(tmp_path, "Liver")


def test_a_damaged_file_and_one_that_is_neither_are_named(tmp_path):
    write(tmp_path)
    whole_file = (tmp_path / "seg.dcm").read_bytes()
    (tmp_path / "short.dcm").write_bytes(whole_file[: len(whole_file) // 2])
    with pytest.raises(DataError, match=r"`tumor`.*short\.dcm"):
        read(tmp_path, "Liver", "short.dcm")
    ct = next((tmp_path / "ct").iterdir())
    with pytest.raises(
        DataError, match=f"`tumor` must name a contour of an RTSTRUCT file; {ct.name} is of modality CT"
    ):
        read(tmp_path, "Liver", f"ct/{ct.name}")


def test_without_highdicom_the_error_says_what_to_install(tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    with pytest.raises(DataError, match=r"segmentations needs `highdicom`.*pip install"):
        read(tmp_path, "Liver")
