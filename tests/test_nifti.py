"""NIfTI files against nibabel, and those on which readers differ: each is refused, or read with a word of it."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from roi_progressive.data.nifti import check_finite, read_nifti
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans", reason='needs pydicom: pip install "roi-progressive[medical]"')
nibabel = pytest.importorskip("nibabel", reason='needs nibabel: pip install "roi-progressive[test]"')

VALUES = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7))
TO_LPS = np.diag([-1.0, -1, 1, 1])


def moved(x=0.0, y=0.0, z=0.0):
    affine = scans.RAS.copy()
    affine[:3, 3] += x, y, z
    return affine


def turned(degrees=25.0):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]) @ scans.RAS


def same_as_nibabel(path):
    read, expected = read_nifti("image", path), nibabel.load(path)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = read.grid.direction * read.grid.spacing_mm, read.grid.origin_mm
    assert affine == pytest.approx(TO_LPS @ expected.affine, abs=1e-3)
    values = np.squeeze(expected.get_fdata()).T
    assert read.array.shape == values.shape
    assert read.array == pytest.approx(values, rel=1e-6, abs=1e-5)
    return read


LEGAL = {
    "both forms": {},
    "qform alone": {"sform": (0, np.eye(4))},
    "sform alone": {"qform": (0, np.eye(4)), "pixdim": (2, 2, 3)},
    "forms apart by rounding": {"sform": (1, moved(0.01, -0.02, 0.01))},
    "other codes": {"qform": (1, scans.RAS), "sform": (4, scans.RAS)},
    "oblique": {"qform": (1, turned()), "sform": (1, turned())},
    "flipped": {"qform": (1, np.diag([2.0, 2, -3, 1])), "sform": (1, np.diag([2.0, 2, -3, 1]))},
    "big-endian": {"order": ">"},
    "scaled": {"slope": 0.37, "intercept": -1024.0},
    "slope of 0 and an intercept": {"slope": 0.0, "intercept": 5.0},
    "slope that is no number": {"slope": float("nan"), "intercept": float("nan")},
    "a fourth length of 1": {"lengths": (7, 6, 5, 1)},
    "unknown units": {"units": 0},
}


@pytest.mark.parametrize("kind", ["i2", "i4", "f4", "f8"])
@pytest.mark.parametrize("case", LEGAL)
def test_a_legal_file_is_what_nibabel_reads(tmp_path, case, kind):
    same_as_nibabel(scans.write_nifti(tmp_path / "x.nii.gz", VALUES, kind, **LEGAL[case]))


@pytest.mark.parametrize("kind", ["int8", "uint8", "uint16", "uint32", "int64", "uint64"])
def test_every_type_of_number_is_read(tmp_path, kind):
    values = np.abs(VALUES) // 10
    nibabel.save(nibabel.Nifti1Image(values.astype(kind).T, scans.RAS, dtype=kind), tmp_path / "x.nii")
    assert (same_as_nibabel(tmp_path / "x.nii").array == values).all()


SINGLE, PAIRED = (nibabel.Nifti1Image, nibabel.Nifti2Image), (nibabel.Nifti1Pair, nibabel.Nifti2Pair)
CONTAINERS = [(image, f"x{end}") for image in SINGLE for end in (".nii", ".nii.gz")]
CONTAINERS += [(image, f"x{end}") for image in PAIRED for end in (".hdr", ".hdr.gz")]


@pytest.mark.parametrize(("image", "name"), CONTAINERS)
def test_pairs_and_both_versions_are_read_by_either_name(tmp_path, image, name):
    nibabel.save(image(VALUES.astype(np.int16).T, turned()), tmp_path / name)
    same_as_nibabel(tmp_path / name)
    if ".hdr" in name:
        assert (read_nifti("image", tmp_path / name.replace(".hdr", ".img")).array == VALUES).all()


def test_an_sform_that_lost_its_voxel_size_gives_way_to_the_qform_and_it_is_said(tmp_path):
    affine = np.diag([-2.0, -2, 3, 1])
    path = scans.write_nifti(tmp_path / "x.nii", VALUES, qform=(1, affine), sform=(1, np.sign(affine)))
    read = read_nifti("image", path)
    assert read.grid.spacing_mm == pytest.approx((2, 2, 3))
    assert len(read.notes) == 1 and "sform of x.nii" in read.notes[0]


def test_forms_that_differ_are_read_with_a_word_only_where_the_readers_take_the_same(tmp_path):
    for codes in [(1, 1), (1, 2), (2, 1), (1, 4), (3, 3), (2, 2)]:
        path = scans.write_nifti(tmp_path / "x.nii", VALUES, qform=(codes[0], scans.RAS), sform=(codes[1], moved(20)))
        by_itk, by_nibabel = sitk.ReadImage(str(path)).GetOrigin()[0], -nibabel.load(path).affine[0, 3]
        if abs(by_itk - by_nibabel) > 0.1:
            with pytest.raises(DataError, match=r"qform and sform of x\.nii put voxels up to 20\.0 mm apart"):
                read_nifti("image", path)
        else:
            read = same_as_nibabel(path)
            assert len(read.notes) == 1 and "20.0 mm apart" in read.notes[0]


SHEARED = scans.RAS.copy()
SHEARED[1, 2] = 0.8
NO_NUMBER = scans.RAS.copy()
NO_NUMBER[0, 3] = np.nan
REFUSED = {
    "no place": ({"qform": (0, scans.RAS), "sform": (0, scans.RAS)}, "codes of 0"),
    "sheared sform beside a straight qform": ({"sform": (1, SHEARED)}, "not at right angles"),
    "sheared sform alone": (
        {"qform": (0, np.eye(4)), "sform": (1, SHEARED), "pixdim": (2, 2, 3)},
        "right angles",
    ),
    "no voxel size": ({"pixdim": (2, 2, 0)}, "voxel size of x.nii must be above 0.*2 x 2 x 0"),
    "no voxel size beside an sform": ({"qform": (0, np.eye(4)), "pixdim": (2, 2, 0)}, "pixdim of x.nii is 2 x 2 x 0"),
    "another voxel size": ({"qform": (0, np.eye(4)), "pixdim": (2, 2, 5)}, "pixdim.*2 x 2 x 5.*disagree"),
    "metres": ({"units": 1}, "says metres"),
    "micrometres": ({"units": 3}, "says micrometres"),
    "an affine that is none": ({"sform": (1, NO_NUMBER)}, "sform of x.nii is no affine"),
    "complex": ({"kind": "c8"}, "holds complex numbers"),
    "four-dimensional": ({"lengths": (7, 6, 1, 5)}, "three-dimensional.*7 x 6 x 1 x 5"),
    "no lengths": ({"lengths": (7, 0, 5)}, "header of x.nii is damaged"),
    "an infinite intercept": ({"slope": 2.0, "intercept": float("inf")}, "scl_inter is inf"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_readers_differ_on_is_refused_in_one_line(tmp_path, case):
    settings, words = REFUSED[case]
    path = scans.write_nifti(tmp_path / "x.nii", VALUES, **settings)
    with pytest.raises(DataError, match=f"`tumor`.*{words}") as caught:
        read_nifti("tumor", path)
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_an_analyze_file_and_half_a_pair_are_called_what_they_are(tmp_path):
    scans.write_nifti(tmp_path / "x.hdr", VALUES)
    head = bytearray((tmp_path / "x.hdr").read_bytes())
    (tmp_path / "x.img").rename(tmp_path / "y.img")
    with pytest.raises(DataError, match=r"x\.hdr is one of a pair.*x\.img"):
        read_nifti("image", tmp_path / "x.hdr")
    head[344:348] = bytes(4)
    (tmp_path / "y.hdr").write_bytes(head)
    with pytest.raises(DataError, match=r"y\.hdr is an Analyze file.*left from right"):
        read_nifti("image", tmp_path / "y.hdr")


@pytest.mark.parametrize("kind", ["i2", "f4"])
def test_one_byte_less_is_refused(tmp_path, kind):
    whole = scans.write_nifti(tmp_path / "x.nii", VALUES, kind).read_bytes()
    (tmp_path / "short.nii").write_bytes(whole[:-1])
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(whole[:-1]))
    (tmp_path / "torn.nii.gz").write_bytes(gzip.compress(whole)[:-20])
    scans.write_nifti(tmp_path / "pair.hdr", VALUES, kind)
    image = tmp_path / "pair.img"
    image.write_bytes(image.read_bytes()[:-1])
    for name in ("short.nii", "short.nii.gz", "torn.nii.gz", "pair.hdr"):
        with pytest.raises(DataError, match=f"`image` cannot be read: {name} is cut short") as caught:
            read_nifti("image", tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["f4", "f8"])
def test_values_that_are_no_numbers_are_counted(tmp_path, kind):
    values = VALUES.astype(kind)
    values[2, 3, 4], values[0, 0, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"`tumor` must be finite; x.nii.gz has 2 voxels"):
        read_nifti("tumor", scans.write_nifti(tmp_path / "x.nii.gz", values, kind))
    with pytest.raises(DataError, match="`tumor` must be finite; y has 2 voxels"):
        check_finite("tumor", "y", values)
