"""A derived DICOM series says what it is, belongs to the patient and study of its source, and reads back the same."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import roi_progressive
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.preparation import Preparation
from roi_progressive.data.volume_list import VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")
import scans  # noqa: E402
from volumes_at import body_in_air, geometry, values, write_at  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:The value length"),  # of the source, which is so on purpose
]


def to_ct(**changes: Any) -> Preparation:
    return Preparation(PrepareOptions(size_px=36, domains=("CT", "CBCT"), **changes), {"A": True, "B": True})


def to_mr() -> Preparation:
    return Preparation(PrepareOptions(size_px=36), {"A": True, "B": False})


def identity(x: torch.Tensor) -> torch.Tensor:
    return x


def of_patient(index: int, content: Any) -> None:
    content.PatientName, content.PatientID, content.PatientBirthDate = "Doe^Jane", "4711", "19500102"
    content.PatientSex, content.StudyDate, content.AccessionNumber = "F", "20200304", "A" * 17
    content.StationName, content.KVP, content.SeriesNumber = "the scanner", 120, 4
    content.SpecificCharacterSet = "ISO_IR 100"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A slanted CT of twelve slices."""
    turn = np.array([0.98, 0.199, 0.0, -0.199, 0.98, 0.0])
    turn[:3] /= np.linalg.norm(turn[:3])
    turn[3:] /= np.linalg.norm(turn[3:])
    scans.write_series(tmp_path / "ct", orientation=turn, edit=of_patient)
    return tmp_path / "ct"


def series(folder: Path) -> list[Any]:
    found = [pydicom.dcmread(path) for path in sorted(folder.glob("*.dcm"))]
    assert found
    return found


def test_it_says_that_it_is_derived_and_synthetic_and_whose_it_is(source: Path, tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        roi_progressive.translate_volume(
            source, tmp_path / "out.mha", dicom=tmp_path / "dicom", generator=identity, preparation=to_mr()
        )
    made, original = series(tmp_path / "dicom"), series(source)
    old = {str(found.SOPInstanceUID) for found in original} | {str(original[0].SeriesInstanceUID)}
    uids = {str(found.SOPInstanceUID) for found in made}
    assert len(uids) == len(made) == len(original) and not uids & old
    assert len({str(found.SeriesInstanceUID) for found in made} - old) == 1
    for found in made:
        assert list(found.ImageType)[:2] == ["DERIVED", "SECONDARY"]
        assert found.Modality == "MR" and found.SOPClassUID == pydicom.uid.MRImageStorage
        assert "Synthetic MR" in found.DerivationDescription and "from CT" in found.DerivationDescription
        assert found.SeriesDescription == "synthetic MR from CT"
        for key in ("PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyDate"):
            assert found[key].value == original[0][key].value
        assert found.FrameOfReferenceUID == original[0].FrameOfReferenceUID
        assert "StationName" not in found and "KVP" not in found, "what was true of the scanner alone"
        assert found.Manufacturer == "roi-progressive"
        (reference,) = found.SourceImageSequence
        (from_slice,) = [o for o in original if o.SOPInstanceUID == reference.ReferencedSOPInstanceUID]
        np.testing.assert_allclose(found.ImagePositionPatient, from_slice.ImagePositionPatient, atol=1e-6)


def test_simpleitk_and_our_own_reader_read_the_values_and_the_place_of_the_volume(source: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.mha", tmp_path / "dicom"
    roi_progressive.translate_volume(
        source, out, dicom=folder, generator=identity, preparation=to_ct(), direction="A2B"
    )
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    volume = values(out)
    assert series(folder)[0].Modality == "CT" and float(series(folder)[0].RescaleSlope) == 1
    assert np.abs(sitk.GetArrayFromImage(image) - volume).max() <= 0.5
    for one, other in zip(
        (image.GetOrigin(), image.GetSpacing(), image.GetDirection(), image.GetSize()), geometry(out), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)
    row = VolumeRow(0, "", "all", "CT", folder, {})
    again = read_volume(row)
    np.testing.assert_allclose(again.array, sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")), atol=1e-3)
    assert again.frame_of_reference == scans.FRAME
    by_hand = np.stack([found.pixel_array * float(found.RescaleSlope) for found in series(folder)])
    assert np.abs(by_hand - volume).max() <= 0.5


@pytest.mark.parametrize(
    ("preparation", "slope"),
    [(to_ct(), 1.0), (to_ct(ct_window=(80.0, 40.0)), 0.1), (to_ct(ct_window=(100_000.0, 0.0)), 10.0), (to_mr(), 0.01)],
)
def test_a_stored_step_is_finer_than_a_grey_level(
    source: Path, tmp_path: Path, preparation: Preparation, slope: float
) -> None:
    given = {"generator": identity, "preparation": preparation, "direction": "A2B"}
    roi_progressive.translate_volume(source, tmp_path / "out.mha", dicom=tmp_path / "dicom", **given)
    made = series(tmp_path / "dicom")
    assert float(made[0].RescaleSlope) == pytest.approx(slope)
    stored = np.stack([found.pixel_array * float(found.RescaleSlope) for found in made])
    assert np.abs(stored - values(tmp_path / "out.mha")).max() <= slope / 2 + 1e-3


def test_of_a_scan_in_another_format_it_names_nobody_and_lies_where_the_scan_lies(tmp_path: Path) -> None:
    turn = np.diag([1.0, -1.0, -1.0])[:, [0, 2, 1]]  # stored front to back, and left-handed
    scan = write_at(tmp_path / "Doe^Jane.nii.gz", np.ascontiguousarray(body_in_air((36, 36, 36))), direction=turn)
    given = {"generator": identity, "preparation": to_ct(), "direction": "A2B"}
    roi_progressive.translate_volume(scan, tmp_path / "out.nii.gz", dicom=tmp_path / "dicom", **given)
    made = series(tmp_path / "dicom")
    assert (
        len({str(found.StudyInstanceUID) for found in made} | {str(found.FrameOfReferenceUID) for found in made}) == 2
    )
    assert all(found.PatientName == "" and "SourceImageSequence" not in found for found in made)
    assert b"Doe" not in (tmp_path / "dicom" / "0001.dcm").read_bytes()
    again = read_volume(VolumeRow(0, "", "all", "CT", tmp_path / "dicom", {}))
    upright = sitk.DICOMOrient(sitk.ReadImage(str(tmp_path / "out.nii.gz")), "LPS")
    assert np.abs(again.array - sitk.GetArrayFromImage(upright)).max() <= 0.5
    np.testing.assert_allclose(again.image.GetOrigin(), upright.GetOrigin(), atol=1e-4)


def test_a_tilted_series_lies_where_its_straightened_stack_lies(tmp_path: Path) -> None:
    positions = scans.ORIGIN + np.arange(12)[:, None] * [0, 0.9, 3]
    scans.write_series(tmp_path / "tilted", positions=positions)
    out, folder = tmp_path / "out.mha", tmp_path / "dicom"
    given = {"generator": identity, "preparation": to_ct(), "direction": "A2B"}
    report = roi_progressive.translate_volume(tmp_path / "tilted", out, dicom=folder, **given)
    assert any("are tilted by 16.7 degrees" in note for note in report.notes)
    straight = read_volume(VolumeRow(0, "", "all", "CT", tmp_path / "tilted", {}))
    for path in (out, folder):
        made = read_volume(VolumeRow(0, "", "all", "CT", path, {}, hounsfield=False)).image
        for part in ("Origin", "Spacing", "Direction", "Size"):
            expected = getattr(straight.image, f"Get{part}")()
            np.testing.assert_allclose(getattr(made, f"Get{part}")(), expected, atol=1e-4)
    rod = straight.array > 120
    assert (values(out)[rod] > 60).all() and rod.any(), "the rod stands upright in both"


def test_a_multi_frame_file_is_named_as_the_source(tmp_path: Path) -> None:
    scan = scans.write_multiframe(tmp_path / "scan.dcm")
    given = {"generator": identity, "preparation": to_mr()}
    roi_progressive.translate_volume(scan, tmp_path / "out.nrrd", dicom=tmp_path / "dicom", **given)
    uid = pydicom.dcmread(scan).SOPInstanceUID
    assert {found.SourceImageSequence[0].ReferencedSOPInstanceUID for found in series(tmp_path / "dicom")} == {uid}


def test_a_folder_that_holds_files_is_not_written_into(source: Path, tmp_path: Path) -> None:
    (tmp_path / "dicom").mkdir()
    (tmp_path / "dicom" / "mine.txt").write_text("mine", encoding="utf-8")
    given = {"generator": identity, "preparation": to_mr(), "dicom": tmp_path / "dicom"}
    with pytest.raises(DataError, match=r"must be a new or empty folder; .*dicom' holds files"):
        roi_progressive.translate_volume(source, tmp_path / "out.mha", **given)
    assert not (tmp_path / "out.mha").exists()
    roi_progressive.translate_volume(source, tmp_path / "out.mha", **given, force=True)
    assert (tmp_path / "dicom" / "mine.txt").read_text(encoding="utf-8") == "mine" and len(
        series(tmp_path / "dicom")
    ) == 12


def test_a_target_that_is_neither_ct_nor_mr_is_refused(tmp_path: Path) -> None:
    scan = write_at(tmp_path / "scan.nii.gz", body_in_air())
    preparation = Preparation(PrepareOptions(size_px=36, domains=("CT", "PET")), {"A": True, "B": False})
    given = {"generator": identity, "preparation": preparation, "direction": "A2B", "dicom": tmp_path / "dicom"}
    with pytest.raises(DataError, match="`dicom` can be written of a CT or an MR; PET is neither"):
        roi_progressive.translate_volume(scan, tmp_path / "out.nii.gz", **given)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii.gz"]


@pytest.mark.parametrize(
    ("direction", "said"),
    [("B2A", "must be of modality MR for MR → CT; ct is of modality CT; give --direction A2B, or another scan")],
)
def test_a_header_that_contradicts_the_direction_is_refused(
    source: Path, tmp_path: Path, direction: str, said: str
) -> None:
    given = {"generator": identity, "preparation": to_mr()}
    with pytest.raises(DataError, match=said):
        roi_progressive.translate_volume(source, tmp_path / "out.mha", direction=direction, **given)
    pet = Preparation(PrepareOptions(size_px=36, domains=("PET", "MR")), {"A": False, "B": False})
    with pytest.raises(DataError, match="`scan` must be of modality PT or MR; ct is of CT"):
        roi_progressive.translate_volume(source, tmp_path / "out.mha", generator=identity, preparation=pet)
