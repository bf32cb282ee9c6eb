"""A volume seen along other axes is what SimpleITK turns it to, and writing into the view writes into the volume."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from roi_progressive.data.orientation import seen_along
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")

EVERY = [
    "".join(letters) for order in itertools.permutations(["LR", "PA", "SI"]) for letters in itertools.product(*order)
]


@pytest.mark.parametrize("slanted", [(0.0, 0.0, 0.0), (0.3, -0.2, 0.25)])
def test_it_is_what_simpleitk_turns_it_to_from_all_48_orientations(slanted: tuple[float, float, float]) -> None:
    upright = sitk.GetImageFromArray(np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4))
    upright.SetDirection(Rotation.from_rotvec(slanted).as_matrix().ravel().tolist())
    assert len(EVERY) == 48
    for letters in EVERY:
        stored = sitk.DICOMOrient(upright, letters)
        array = sitk.GetArrayFromImage(stored)
        turned = sitk.DICOMOrient(stored, "LPS")
        view = seen_along(array, stored.GetDirection(), turned.GetDirection())
        np.testing.assert_array_equal(view, sitk.GetArrayFromImage(turned))
        view[0, 1, 2] = -7
        assert (array == -7).sum() == 1
        back = seen_along(view, turned.GetDirection(), stored.GetDirection())
        np.testing.assert_array_equal(back, array)


def test_other_axes_than_its_own_are_refused() -> None:
    slanted = Rotation.from_rotvec([0.3, 0, 0]).as_matrix()
    with pytest.raises(DataError, match="in another order or the other way round"):
        seen_along(np.zeros((2, 2, 2)), np.eye(3), slanted)
