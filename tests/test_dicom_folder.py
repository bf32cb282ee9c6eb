"""Folders as they come from a PACS or a disc: what is no slice is passed over or named, and no slice vanishes."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.volume_list import VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "roi-progressive[medical]"')
sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans")

TRUE = scans.body_with_rod(scans.straight_points())
SC, SR = "1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.88.67"


def read(folder, modality="CT"):
    return read_volume(VolumeRow(2, "p", "NC", modality, folder, {}))


def save(content, path):
    content.save_as(path, enforce_file_format=True)


def _disc_list(folder):
    content = scans.header("1.2.840.10008.1.3.10", "OT")
    content.file_meta.MediaStorageSOPClassUID = content.SOPClassUID
    content.file_meta.MediaStorageSOPInstanceUID = content.SOPInstanceUID
    del content.Modality, content.SOPClassUID, content.SOPInstanceUID
    content.DirectoryRecordSequence = []
    save(content, folder / "DICOMDIR")
    save(content, folder / "directory.dcm")  # by any name


def _report(folder):
    save(scans.header(SR, "SR", "8"), folder / "dose_report.dcm")


def _report_that_says_ct(folder):
    save(scans.header(SR, "CT", "8"), folder / "dose_report.dcm")


def _capture(folder, series="8"):
    content = scans.header(SC, "CT", series, 99)
    scans.set_pixels(content, np.zeros((32, 36)))
    save(content, folder / "screen.dcm")


def _colour(folder, series="8"):
    def edit(index, content):
        content.SamplesPerPixel, content.PhotometricInterpretation, content.PlanarConfiguration = 3, "RGB", 0
        content.PixelData = 3 * content.PixelData

    scans.write_series(folder, series=series, name="colour{:03d}.dcm", edit=edit)


def _palette(folder):
    scans.write_series(
        folder,
        series="8",
        name="map{:03d}.dcm",
        edit=lambda i, c: setattr(c, "PhotometricInterpretation", "PALETTE COLOR"),
    )


def _scout(folder):
    turn = (1, 0, 0, 0, 0, -1)
    scans.write_series(
        folder,
        positions=scans.straight_positions(1),
        orientation=turn,
        series="8",
        name="scout.dcm",
        edit=lambda i, c: setattr(c, "ImageType", ["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    )


def _companions(folder):
    for file in list(folder.iterdir()):
        file.with_name(f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(100))
    for name in (".DS_Store", "Thumbs.db", "desktop.ini"):
        (folder / name).write_bytes(b"x")


def _others(folder):
    (folder / "README.txt").write_text("made by a viewer", encoding="utf-8")
    (folder / "viewer").mkdir()
    scans.write_series(folder, modality="MR", series="8", name="mr{:03d}.dcm")
    scans.write_rtstruct(folder / "RS.dcm", {"GTV": []})


BESIDE = {
    "a disc's list": (_disc_list, None),
    "companions of operating systems": (_companions, None),
    "a dose report": (_report, None),
    "a dose report that says CT": (_report_that_says_ct, None),
    "other series and texts": (_others, None),
    "a screenshot": (_capture, "passed over screen.dcm in ct: secondary captures"),
    "a screenshot of the same series": (lambda f: _capture(f, "1"), "passed over screen.dcm in ct: secondary captures"),
    "a map in colour": (_colour, "passed over colour000.dcm and 11 more in ct: in colour"),
    "a map with a palette": (_palette, "passed over map000.dcm and 11 more in ct: in colour"),
    "a scout": (_scout, "passed over scout.dcm in ct: a scout"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_what_lies_beside_the_slices_is_passed_over_or_named(tmp_path, case):
    scans.write_series(tmp_path / "ct")
    put, words = BESIDE[case]
    put(tmp_path / "ct")
    volume = read(tmp_path / "ct")
    assert (volume.array == TRUE).all()
    assert [note[: len(words or "")] for note in volume.notes] == ([] if words is None else [words])


def test_files_without_preamble_or_meta_header_are_slices_too(tmp_path):
    files = scans.write_series(tmp_path / "ct", name="IM{:04d}")
    for file in files[-3:]:
        file.write_bytes(file.read_bytes()[132:])
    for file in files[:3]:
        content = pydicom.dcmread(file)
        del content.file_meta
        pydicom.dcmwrite(file, content, implicit_vr=True, little_endian=True)
    assert (read(tmp_path / "ct").array == TRUE).all()


@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{:04d}", "1.2.3.{}", "slice{}.ima"])
@pytest.mark.parametrize("index", [0, 5, 11])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_no_slice_vanishes_wherever_it_lies_and_whatever_its_name(tmp_path, name, index, damage):
    file = scans.write_series(tmp_path / "ct", name=name)[index]
    whole = file.read_bytes()
    file.write_bytes({"empty": b"", "text": b"not found", "cut": whole[: len(whole) // 3]}[damage])
    with pytest.raises(DataError, match=f"{file.name} in ct") as caught:
        read(tmp_path / "ct")
    assert "\n" not in str(caught.value)


def test_a_stray_file_among_slices_without_an_ending_is_named(tmp_path):
    scans.write_series(tmp_path / "ct", name="IM{:04d}")
    (tmp_path / "ct" / "VERSION").write_text("3", encoding="utf-8")
    volume = read(tmp_path / "ct")
    assert (volume.array == TRUE).all() and volume.notes == ("passed over VERSION in ct, which is no DICOM file",)


ALONE = {
    "screenshots": (_capture, "holds Secondary Capture Image Storage only"),
    "reports": (_report_that_says_ct, "holds X-Ray Radiation Dose SR Storage only"),
    "colour": (_colour, "colour000.dcm in ct is in colour .RGB."),
    "a disc's list": (_disc_list, "ct holds none"),
}


@pytest.mark.parametrize("case", ALONE)
def test_a_folder_without_slices_is_called_what_it_holds(tmp_path, case):
    (tmp_path / "ct").mkdir()
    make, words = ALONE[case]
    make(tmp_path / "ct")
    with pytest.raises(DataError, match=f"`image`.*{words}") as caught:
        read(tmp_path / "ct")
    assert "\n" not in str(caught.value)


def _complex_numbers(folder):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.complex64)), str(folder / "bad.mha"))
    return "bad.mha"


def _vectors(folder):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6, 3), np.float32), isVector=True), str(folder / "bad.nrrd"))
    return "bad.nrrd"


def _pictures(folder):
    sitk.WriteImage(sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8)), str(folder / "bad.tif"))
    return "bad.tif"


def _in_colour(folder):
    _colour(folder / "bad")
    return "bad"


def _strange(folder):
    scans.write_series(folder / "bad", edit=lambda i, c: setattr(c, "BitsStored", 77))
    return "bad"


BAD = {
    "colour": (_in_colour, "in colour"),
    "complex numbers": (_complex_numbers, "one value a voxel"),
    "vectors": (_vectors, "one value a voxel"),
    "a stack of pictures": (_pictures, "no voxel size and no orientation"),
    "bits that are none": (_strange, "has 77 bits"),
}


@pytest.mark.parametrize(("case", "processes"), [*((case, 1) for case in BAD), ("colour", 2)])
def test_one_bad_series_is_named_and_the_others_are_prepared(tmp_path, case, processes):
    make, words = BAD[case]
    scans.write_series(tmp_path / "good")
    rows = [["p1", "NC", "CT", make(tmp_path), ""], ["p2", "NC", "CT", "good", ""]]
    with open(tmp_path / "scans.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["patient", "phase", "modality", "image", "tumor"], *rows])
    options = PrepareOptions(size_px=16, slices_each_side=1, split=(1, 0, 0))
    report = prepare(tmp_path / "scans.csv", tmp_path / "out", options, processes=processes)
    assert {entry["patient"] for entry in report.manifest["slices"]} == {"p2"}
    assert len(report.problems) == 1 and "p1" in report.problems[0] and words in report.problems[0]
    assert "bad" in report.problems[0] and "\n" not in report.problems[0]
