"""Images and masks of several files together: masks land on what they mark, pairs on each other, or are left out."""

from __future__ import annotations

import csv
import shutil

import numpy as np
import pytest

from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.volume_list import MaskFile, VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans", reason='needs pydicom: pip install "roi-progressive[medical]"')

POINTS = scans.straight_points()
CT = scans.body_with_rod(POINTS)
ROD = scans.in_rod(POINTS)


def as_image(array, grid=None):
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(scans.SPACING[::-1])
    image.SetOrigin(scans.ORIGIN.tolist())
    return image


@pytest.fixture
def ct(tmp_path):
    return scans.write_nifti(tmp_path / "ct.nii.gz", CT)


def read(ct, mask):
    return read_volume(VolumeRow(2, "p", "NC", "CT", ct, {"tumor": MaskFile(mask)}))


def shifted(x=0.0, y=0.0, z=0.0):
    affine = scans.RAS.copy()
    affine[:3, 3] += x, y, z
    return affine


IDENTITIES = {
    "identity": (np.eye(4), (1, 1, 1)),
    "identity, turned to DICOM's axes": (np.diag([-1.0, -1, 1, 1]), (1, 1, 1)),
}


@pytest.mark.parametrize("case", IDENTITIES)
def test_a_mask_of_its_images_shape_without_a_place_is_refused(tmp_path, ct, case):
    affine, pixdim = IDENTITIES[case]
    settings = {"qform": (0, affine), "sform": (2, affine), "pixdim": pixdim}
    mask = scans.write_nifti(tmp_path / "mask.nii.gz", ROD, "u1", **settings)
    with pytest.raises(DataError, match=r"`tumor` cannot be placed: mask\.nii\.gz has the shape.*identity affine"):
        read(ct, mask)


def test_a_mask_of_its_images_shape_that_lies_elsewhere_is_said(tmp_path, ct):
    affine = shifted(4, 0, 0)
    volume = read(ct, scans.write_nifti(tmp_path / "m.nii", ROD, "u1", qform=(1, affine), sform=(1, affine)))
    assert len(volume.notes) == 1 and "m.nii has the shape of its image, ct.nii.gz, but its affine" in volume.notes[0]
    assert (volume.masks["tumor"][:, :, :-2] == ROD[:, :, 2:]).all()


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LAI", "RPI"])
def test_a_mask_on_the_same_grid_stored_along_other_axes_lands_without_a_word(tmp_path, ct, axes):
    sitk.WriteImage(sitk.DICOMOrient(as_image(ROD.astype(np.uint8)), axes), str(tmp_path / "m.nii"))
    volume = read(ct, tmp_path / "m.nii")
    assert (volume.masks["tumor"] == ROD).all() and volume.notes == ()


def test_an_affine_that_is_rounded_is_the_images_own(tmp_path, ct):
    affine = shifted(0.01, -0.02, 0.03)
    volume = read(ct, scans.write_nifti(tmp_path / "m.nii", ROD, "u1", qform=(1, affine), sform=(1, affine)))
    assert (volume.masks["tumor"] == ROD).all() and volume.notes == ()


@pytest.mark.parametrize("name", ["m.nrrd", "m.mha", "m.mhd", "m.nhdr", "m.nii", "m.hdr"])
def test_masks_and_images_of_every_format_lie_where_they_say(tmp_path, name):
    sitk.WriteImage(as_image(ROD.astype(np.uint8)), str(tmp_path / name))
    image = name.replace("m.", "ct.")
    sitk.WriteImage(as_image(CT.astype(np.int16)), str(tmp_path / image))
    volume = read(tmp_path / image, tmp_path / name)
    assert (volume.masks["tumor"] == ROD).all() and (volume.array == CT).all()


def _strip(path, *keys):
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(line for line in lines if not line.startswith(keys)))


@pytest.mark.parametrize(("name", "keys"), [("x.mha", (b"ElementSpacing",)), ("x.nrrd", (b"space",))])
def test_a_header_without_a_voxel_size_is_refused(tmp_path, name, keys):
    sitk.WriteImage(as_image(CT.astype(np.int16)), str(tmp_path / name), useCompression=False)
    _strip(tmp_path / name, *keys)
    with pytest.raises(DataError, match=f"`image` cannot be placed: the header of {name}"):
        read_volume(VolumeRow(2, "p", "NC", "CT", tmp_path / name, {}))


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("name", ["x.mha", "x.nrrd"])
def test_a_file_cut_short_is_refused_in_every_format(tmp_path, name, compressed):
    sitk.WriteImage(as_image(CT.astype(np.int16)), str(tmp_path / name), useCompression=compressed)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(DataError, match=f"`image` cannot be read: {name} is damaged") as caught:
        read_volume(VolumeRow(2, "p", "NC", "CT", tmp_path / name, {}))
    assert "\n" not in str(caught.value)


def test_a_lesion_between_two_slices_is_called_thin_and_one_elsewhere_outside(tmp_path):
    image = as_image(CT[::2].astype(np.int16))
    image.SetSpacing((2.0, 2.0, 6.0))
    sitk.WriteImage(image, str(tmp_path / "ct.nii"))
    fine = np.zeros((34, 32, 36), np.uint8)
    fine[14:16, 12:18, 12:18] = 1  # 2.0 and 3.0 mm above a slice; the slices lie 6 mm apart
    mask = as_image(fine)
    mask.SetSpacing((2.0, 2.0, 1.0))
    sitk.WriteImage(mask, str(tmp_path / "m.nii"))
    with pytest.raises(DataError, match=r"m\.nii marks lies between them, thinner than their distance of 6 mm"):
        read(tmp_path / "ct.nii", tmp_path / "m.nii")
    mask.SetOrigin((500.0, 0.0, 0.0))
    sitk.WriteImage(mask, str(tmp_path / "m.nii"))
    with pytest.raises(DataError, match=r"m\.nii lies outside of it; check its affine"):
        read(tmp_path / "ct.nii", tmp_path / "m.nii")


def test_a_mask_that_reaches_beyond_its_image_is_said(tmp_path):
    sitk.WriteImage(as_image(CT.astype(np.int16)[:9]), str(tmp_path / "ct.nii"))
    sitk.WriteImage(as_image(ROD.astype(np.uint8)), str(tmp_path / "m.nii"))
    volume = read(tmp_path / "ct.nii", tmp_path / "m.nii")
    assert (volume.masks["tumor"] == ROD[:9]).all()
    assert volume.notes == ("25% of what m.nii marks lies beyond ct.nii; check that no slice is missing",)


def pair(tmp_path, shift=(0.0, 0.0, 0.0), frame=scans.FRAME, align=True):
    """A CT and an MR as DICOM series, the MR's anatomy moved by ``shift``."""
    scans.write_series(tmp_path / "ct")
    moved = scans.body_with_rod(POINTS - np.array(shift))
    mr = np.where(moved > -500, moved + 300 + 30 * np.sin(POINTS[..., 0]), 0.0)
    scans.write_series(tmp_path / "mr", mr, modality="MR", series="2", frame=frame)
    sitk.WriteImage(as_image(ROD.astype(np.uint8)), str(tmp_path / "m.nii"))
    with open(tmp_path / "scans.csv", "w", newline="", encoding="utf-8") as file:
        rows = [["p", "NC", "CT", "ct", "m.nii"], ["p", "NC", "MR", "mr", ""]]
        csv.writer(file).writerows([["patient", "phase", "modality", "image", "tumor"], *rows])
    options = PrepareOptions(size_px=32, slices_each_side=1, split=(1, 0, 0), align=align)
    return prepare(tmp_path / "scans.csv", tmp_path / "out", options)


def test_a_pair_of_one_frame_of_reference_or_of_an_unknown_one_is_aligned(tmp_path):
    assert pair(tmp_path).problems == []
    for folder in ("ct", "mr", "out"):
        shutil.rmtree(tmp_path / folder)
    assert pair(tmp_path, frame=None).problems == []


def test_a_pair_of_different_frames_of_reference_is_left_out_and_said(tmp_path):
    with pytest.raises(DataError, match=r"MR.*frame of reference of the CT.*different ones"):
        pair(tmp_path, frame=scans.OTHER_FRAME)
    assert pair(tmp_path, frame=scans.OTHER_FRAME, align=False).problems == []


def test_a_pair_whose_bodies_lie_apart_is_left_out_and_one_that_half_does_is_noted(tmp_path):
    with pytest.raises(DataError, match=r"overlap by a Dice of 0\.[0-4]\d"):
        pair(tmp_path, shift=(38.0, 0.0, 0.0))
    report = pair(tmp_path, shift=(14.0, 0.0, 0.0))
    assert report.problems == []
    assert any("p NC MR" in note and "its body overlaps the CT's by a Dice of 0." in note for note in report.notes)


def test_a_ct_and_a_cbct_of_one_patient_and_phase_are_no_pair(tmp_path):
    (tmp_path / "scans.csv").write_text(
        "patient,phase,modality,image,tumor\np,NC,CT,a.nii,\np,NC,CBCT,b.nii,\n", encoding="utf-8"
    )
    with pytest.raises(DataError, match="line 3 repeats p NC CBCT of line 2"):
        prepare(tmp_path / "scans.csv", tmp_path / "out", PrepareOptions(align=True))
