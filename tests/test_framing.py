"""Slices and squares: which are chosen, and that nothing is lost or bent in them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roi_progressive.data.framing import Square, choose_slices, resize_image, resize_mask, square_around
from roi_progressive.errors import DataError

AREAS = st.lists(st.integers(0, 50), min_size=1, max_size=40)
MASKS = hnp.arrays(np.bool_, st.tuples(st.integers(1, 40), st.integers(1, 40)))


def _box(rows: slice, columns: slice, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(shape, dtype=bool)
    mask[rows, columns] = True
    return mask


@given(AREAS, st.integers(0, 6))
def test_chosen_slices_are_consecutive_distinct_and_around_the_largest(areas, each_side):
    chosen = choose_slices(areas, each_side)
    if max(areas) == 0:
        assert chosen == []
        return
    largest = areas.index(max(areas))
    assert chosen == [i for i in range(largest - each_side, largest + each_side + 1) if 0 <= i < len(areas)]


def test_nine_slices_are_taken_by_four_on_each_side():
    areas = np.zeros(30)
    areas[[11, 12, 13]] = 5, 9, 7
    assert choose_slices(areas, 4) == list(range(8, 17))


def test_slices_that_are_not_allowed_are_neither_chosen_nor_asked():
    areas = [0, 3, 9, 5, 4, 0]
    assert choose_slices(areas, 1, [True, True, False, True, True, True]) == [3, 4]
    assert choose_slices(areas, 1, [True, False, False, False, False, True]) == []


def test_square_without_a_given_side_holds_the_whole_body_around_its_middle():
    square = square_around(_box(slice(10, 50), slice(30, 50)), _box(slice(0, 0), slice(0, 0)), (1.0, 1.0))
    assert square == Square(top=10, left=20, height=40, width=40)


def test_square_is_square_in_millimetres():
    square = square_around(_box(slice(10, 50), slice(30, 50)), _box(slice(0, 0), slice(0, 0)), (1.0, 2.0))
    assert (square.height * 1.0, square.width * 2.0) == (40.0, 40.0)


@given(st.integers(0, 59), st.integers(0, 79), st.integers(5, 60))
def test_a_region_that_fits_is_never_cut(row, column, side):
    region = _box(slice(row, row + 5), slice(column, column + 5))
    square = square_around(_box(slice(5, 40), slice(20, 70)), region, (1.0, 1.0), float(side))
    assert square.cut(region, 0).sum() == region.sum()
    assert (square.height, square.width) == (side, side)


def test_a_picture_without_body_and_region_is_refused():
    with pytest.raises(DataError, match="`body`"):
        square_around(_box(slice(0, 0), slice(0, 0)), _box(slice(0, 0), slice(0, 0)), (1.0, 1.0))


@given(st.integers(-20, 70), st.integers(-20, 90), st.integers(1, 100), st.integers(1, 100))
def test_a_cut_equals_padding_first_and_slicing_then(top, left, height, width):
    picture = np.arange(60 * 80).reshape(60, 80)
    padded = np.pad(picture, 200, constant_values=-1)
    expected = padded[200 + top : 200 + top + height, 200 + left : 200 + left + width]
    assert (Square(top, left, height, width).cut(picture, -1) == expected).all()


@given(hnp.arrays(np.bool_, st.tuples(st.integers(1, 8), st.just(12))), st.sampled_from([2, 3, 4]))
def test_mask_resizing_is_the_majority_of_each_block(mask, factor):
    measure = pytest.importorskip("skimage.measure")
    square = np.resize(mask, (12, 12))
    share = measure.block_reduce(square.astype(float), (factor, factor), np.mean)
    assert (resize_mask(square, 12 // factor) == (share > 0.5)).all()


@given(MASKS, st.integers(1, 4))
def test_enlarging_a_mask_by_a_whole_factor_repeats_its_pixels(mask, factor):
    square = np.resize(mask, (9, 9))
    assert (resize_mask(square, 9 * factor) == np.kron(square, np.ones((factor, factor))).astype(bool)).all()


@given(MASKS, st.integers(1, 64))
def test_full_and_empty_masks_stay_so_and_complements_share_no_pixel(mask, size_px):
    assert resize_mask(np.ones_like(mask), size_px).all()
    assert not (resize_mask(mask, size_px) & resize_mask(~mask, size_px)).any()


@pytest.mark.parametrize(("length", "size_px"), [(173, 128), (75, 128), (512, 128), (128, 128)])
def test_image_and_mask_are_resized_about_the_same_points(length, size_px):
    rows, columns = np.mgrid[:length, :length] / length
    disc = np.hypot(rows - 0.4, columns - 0.6) < 0.25
    image = resize_image(np.where(disc, 1.0, -1.0).astype(np.float32), size_px)
    mask = resize_mask(disc, size_px)
    where = lambda weight: [(np.indices(weight.shape)[a] * weight).sum() / weight.sum() for a in (0, 1)]  # noqa: E731
    assert np.allclose(where(mask.astype(float)), where((image + 1) / 2), atol=0.1)
    assert np.mean((image > 0) != mask) < 0.005
    assert mask.mean() == pytest.approx(disc.mean(), rel=0.01)


def test_image_of_the_right_size_is_left_alone_and_ranges_are_kept():
    image = np.random.default_rng(0).uniform(-1, 1, (32, 32)).astype(np.float32)
    assert np.allclose(resize_image(image, 32), image, atol=1e-6)
    small = resize_image(image, 12)
    assert small.shape == (12, 12) and np.abs(small).max() <= 1
    assert small.std() < image.std()  # smoothed before it shrinks
