"""Which voxels a mask's values mark, as nibabel reads them, and which values are no mask's."""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.mask_values import marked
from roi_progressive.data.nifti import read_nifti
from roi_progressive.errors import DataError

LABELS = np.zeros((6, 20, 20), int)
LABELS[1:5, 3:17, 3:17] = 1
LABELS[2:4, 6:12, 6:12] = 2


def soft(mask, sigma=1.0):
    from scipy import ndimage

    return ndimage.gaussian_filter(mask.astype(float), sigma)


SOFT = soft(LABELS > 0)
MANY = np.add.outer(np.arange(6) // 3 * 40, np.add.outer(np.arange(20) // 4 * 5, np.arange(20) // 4))
WELL_MARKED = {
    "0 and 1": (LABELS > 0, (), LABELS > 0),
    "0 and 255": (255 * (LABELS > 0), (), LABELS > 0),
    "-1 and 1": (np.where(LABELS > 0, 1, -1), (), LABELS > 0),
    "labels": (LABELS, (), LABELS > 0),
    "one label": (LABELS, (2,), LABELS == 2),
    "two labels": (LABELS, (2, 1), LABELS > 0),
    "many labels": (LABELS * 58 + (LABELS > 0), (117,), LABELS == 2),
    "labels and a void of 255": (np.where(LABELS == 2, 255, LABELS), (1,), LABELS == 1),
    "many labels, all of them": (MANY, (), None),
    "floats": (LABELS.astype(np.float32), (1,), LABELS == 1),
    "shares": (SOFT, (), SOFT >= 0.5),
    "shares of single precision": (SOFT.astype(np.float32), (), SOFT.astype(np.float32) >= 0.5),
    "shares that overshoot": (SOFT * 1.2 - 0.1, (), SOFT * 1.2 - 0.1 >= 0.5),
    "probabilities": (np.where(LABELS > 0, 1.0, 1e-7), (), LABELS > 0),
    "probabilities near 0 and 1": (np.where(LABELS > 0, 0.97, 0.04), (), LABELS > 0),
    "labels that a header scaled": (LABELS * 0.9961, (1,), LABELS == 1),
    "labels that arithmetic left nearly whole": (LABELS + 1e-6, (1, 2), LABELS > 0),
}


@pytest.mark.parametrize("case", WELL_MARKED)
def test_a_mask_marks_what_its_values_mean(case):
    values, labels, expected = WELL_MARKED[case]
    expected = values > 0 if expected is None else expected
    assert (marked("tumor", "m.nii", np.asarray(values), labels) == expected).all()


NO_MASK = {
    "labels resampled by interpolation": (soft(LABELS), (), "between labels.*nearest neighbour"),
    "a label of shares": (SOFT, (1,), "between labels"),
    "labels resampled, a label asked": (soft(LABELS), (1,), "between labels"),
    "shares of 255": (np.rint(SOFT * 255), (), "soft edges in whole numbers up to 239"),
    "shares of 1000": (np.rint(SOFT * 1000), (), "soft edges in whole numbers up to 9"),
    "shares of 65535": (np.rint(SOFT * 65535).astype(np.uint16), (), "soft edges in whole numbers up to 6"),
    "shares of 255 as floats": (SOFT * 255, (), "between labels, of .* to 238"),
    "per cent": (SOFT * 100, (), "between labels"),
    "scores below and above 0": (SOFT * 20 - 10, (), "between labels"),
    "nothing": (LABELS * 0, (), "no voxel above zero; leave the cell empty"),
    "no such label": (LABELS, (3, 4), r"no voxel of label 3\+4"),
    "shares below one half": (SOFT * 0.4, (), "no voxel of one half or more"),
    "below zero": (-LABELS, (), "no voxel above zero"),
}


@pytest.mark.parametrize("case", NO_MASK)
def test_values_that_may_mean_several_things_are_refused(case):
    values, labels, words = NO_MASK[case]
    with pytest.raises(DataError, match=f"`tumor`.*m.nii.*{words}") as caught:
        marked("tumor", "m.nii", np.asarray(values), labels)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["uint8", "int16"])
@pytest.mark.parametrize("highest", [1, 2, 4])
def test_labels_that_nibabel_scaled_are_the_labels_that_it_was_given(tmp_path, kind, highest):
    nibabel = pytest.importorskip("nibabel", reason='needs nibabel: pip install "roi-progressive[test]"')
    pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
    given = np.minimum(LABELS * 2, highest).astype(float)
    image = nibabel.Nifti1Image(given.T, np.eye(4))
    image.set_data_dtype(kind)
    nibabel.save(image, tmp_path / "m.nii.gz")
    values = read_nifti("tumor", tmp_path / "m.nii.gz").array
    for label in set(given.ravel()) - {0.0}:
        assert (marked("tumor", "m", values, (int(label),)) == (given == label)).all()
    assert (marked("tumor", "m", values) == (given > 0)).all()
