"""Written volumes lie, for every reader, exactly where the scan lies whose grid they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roi_progressive.data.volume_list import VolumeRow
from roi_progressive.data.volume_writing import is_ours, write_volume
from roi_progressive.data.volumes import Volume, read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra `test` is not installed")
from volumes_at import geometry, mr_in_air, values, write_at  # noqa: E402

ENDINGS = ("nii", "nii.gz", "nrrd", "mha")


def read(scan: Path) -> Volume:
    return read_volume(VolumeRow(0, "", "all", "T1", scan, {}, hounsfield=False))


def written(scan: Path, out: Path, array: Any = None) -> Path:
    volume = read(scan)
    assert volume.stored is not None
    write_volume(out, values(scan) if array is None else array, volume.stored, scan)
    return out


def anywhere(path: Path, seed: int, shape: tuple[int, int, int] = (3, 20, 24)) -> Path:
    random = np.random.default_rng(seed)
    turn = Rotation.from_rotvec(random.normal(0, 1, 3)).as_matrix() * [1, 1, (-1) ** seed]
    return write_at(path, mr_in_air(shape), random.uniform(0.4, 4, 3), turn, random.normal(0, 150, 3))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_of_the_scan_s_own_format_has_its_geometry_to_the_last_digit(
    tmp_path: Path, ending: str, seed: int
) -> None:
    scan = anywhere(tmp_path / f"scan.{ending}", seed)
    out = written(scan, tmp_path / f"out.{ending}")
    assert geometry(out) == geometry(scan)
    np.testing.assert_array_equal(values(out), values(scan))


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("scan_s", ENDINGS)
def test_a_file_of_another_format_has_it_to_the_digits_that_its_format_holds(
    tmp_path: Path, scan_s: str, ending: str
) -> None:
    """MetaImage holds all of them, NRRD rounds directions to the sixteenth digit, NIfTI all to 32 bits."""
    scan = anywhere(tmp_path / f"scan.{scan_s}", 5)
    out = written(scan, tmp_path / f"out.{ending}")
    single = ending.startswith("nii") and not scan_s.startswith("nii")
    for one, other in zip(geometry(out), geometry(scan), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6 if single else 1e-14, atol=1e-7 if single else 1e-15)
    np.testing.assert_array_equal(values(out), values(scan))


@pytest.mark.parametrize("endianness", ["<", ">"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image, nibabel.Nifti1Pair])
def test_nibabel_puts_it_where_it_puts_the_scan(tmp_path: Path, kind: Any, endianness: str) -> None:
    """Also of a header that SimpleITK would not write: NIfTI-2, a pair, big-endian, a slope, other codes and text."""
    affine = nibabel.affines.from_matvec(Rotation.from_rotvec([0.1, 0.2, 0.3]).as_matrix() * [2, 2, 3], [10, -20, 30])
    header = kind.header_class(endianness=endianness)
    header.set_data_dtype(np.int16)
    image = kind(mr_in_air((3, 20, 24)).T.astype(np.int16), affine, header)
    image.set_sform(affine, 3)
    image.set_qform(affine, 3)
    image.header["descrip"], image.header["cal_max"] = b"Doe^Jane", 900
    image.header.set_slope_inter(2.0, 5.0)
    name = "scan.hdr" if kind is nibabel.Nifti1Pair else "scan.nii"
    image.to_filename(tmp_path / name)
    array = np.arange(3 * 20 * 24, dtype=np.float32).reshape(3, 20, 24)
    out = written(tmp_path / name, tmp_path / "out.nii.gz", array)
    scan, made = nibabel.load(tmp_path / name), nibabel.load(out)
    for form in ("get_sform", "get_qform"):
        (one, code), (other, same_code) = (getattr(found, form)(coded=True) for found in (scan, made))
        np.testing.assert_array_equal(one, other)
        assert code == same_code == 3
    np.testing.assert_array_equal(made.get_fdata(dtype=np.float32).T, array)
    assert made.header["descrip"].item() == b"synthetic, made by roi-progressive"
    assert made.header["cal_max"] == 0 and made.header.endianness == endianness


def test_the_same_volume_gives_the_same_bytes(tmp_path: Path) -> None:
    scan = anywhere(tmp_path / "scan.nii.gz", 1)
    for ending in ENDINGS:
        one, other = written(scan, tmp_path / f"a.{ending}"), written(scan, tmp_path / f"b.{ending}")
        assert one.read_bytes() == other.read_bytes()


def test_a_file_of_ours_says_so_and_no_other_does(tmp_path: Path) -> None:
    for ending in ENDINGS:
        scan = anywhere(tmp_path / f"scan.{ending}", 2)
        assert is_ours(written(scan, tmp_path / f"out.{ending}")) and not is_ours(scan)
    (tmp_path / "half.nii.gz").write_bytes((tmp_path / "out.nii.gz").read_bytes()[:30])
    (tmp_path / "empty.mha").touch()
    for name in ("half.nii.gz", "empty.mha", "missing.nrrd"):
        assert not is_ours(tmp_path / name)


def test_a_name_that_chooses_no_format_is_refused_and_nothing_is_left_of_a_failure(tmp_path: Path) -> None:
    scan = anywhere(tmp_path / "scan.nii", 1)
    with pytest.raises(DataError, match=r"`out` must end in \.nii\.gz, \.nii, \.nrrd, \.mha"):
        written(scan, tmp_path / "out.img")
    with pytest.raises(ValueError, match="could not convert"):
        written(scan, tmp_path / "out.nii", np.full((3, 20, 24), "x"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["scan.nii"]
