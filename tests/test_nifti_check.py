"""Files that SimpleITK takes without a word: each is refused, whole ones of any kind pass."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from roi_progressive.data.nifti_check import check_nifti
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')

VALUES = np.random.default_rng(0).integers(-1000, 1000, (5, 6, 7))


def write(path, kind="float32", values=VALUES):
    sitk.WriteImage(sitk.GetImageFromArray(values.astype(kind)), str(path))
    return path


@pytest.mark.parametrize("kind", ["int16", "uint8", "int32", "float32", "float64"])
@pytest.mark.parametrize("name", ["x.nii", "x.nii.gz", "x.mha"])
def test_a_whole_file_passes(tmp_path, name, kind):
    check_nifti("image", write(tmp_path / name, kind))


@pytest.mark.parametrize("kind", ["int16", "float32"])
def test_one_byte_less_is_refused(tmp_path, kind):
    whole = write(tmp_path / "x.nii", kind).read_bytes()
    (tmp_path / "short.nii").write_bytes(whole[:-1])
    (tmp_path / "short.nii.gz").write_bytes(gzip.compress(whole[:-1]))
    (tmp_path / "torn.nii.gz").write_bytes(gzip.compress(whole)[:-20])
    for name in ("short.nii", "short.nii.gz", "torn.nii.gz"):
        with pytest.raises(DataError, match=f"`image` cannot be read: {name} is cut short") as caught:
            check_nifti("image", tmp_path / name)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_values_that_are_no_numbers_are_counted(tmp_path, kind):
    values = VALUES.astype(kind)
    values[2, 3, 4], values[0, 0, 0] = np.nan, np.inf
    with pytest.raises(DataError, match=r"`tumor` must be finite; x.nii.gz has 2 voxels"):
        check_nifti("tumor", write(tmp_path / "x.nii.gz", kind, values))
