"""Intensities against scikit-image, scipy and the laws they must obey."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roi_progressive.data.mr_cleaning import correct_bias, denoise_mr, noise_level
from roi_progressive.data.preprocessing import (
    IntensityMapping,
    ct_mapping,
    foreground_mask,
    normalise_mr,
    to_grey,
    unwindow_ct,
    window_ct,
)
from roi_progressive.errors import DataError, ShapeError

WIDTHS = st.floats(1.0, 4000.0)
LEVELS = st.floats(-1000.0, 1000.0)
HU = hnp.arrays(np.float64, st.integers(1, 30), elements=st.floats(-2000.0, 4000.0))


def _leg(rng: np.random.Generator, fat: float = 1000.0, muscle: float = 300.0, noise: float = 8.0) -> np.ndarray:
    """Two slices of a round limb: a rim of fat, muscle, a black ring of bone with marrow inside, noisy air."""
    rows, columns = np.mgrid[:96, :96]
    radius = np.hypot(rows - 48, columns - 48)
    plane = np.select([radius < 5, radius < 9, radius < 30, radius < 40], [fat, 0.0, muscle, fat], 0.0)
    return np.abs(np.stack([plane, plane]) + rng.normal(0, noise, (2, 96, 96)))


@given(HU, WIDTHS, LEVELS)
def test_window_agrees_with_scikit_image(hu, width, level):
    exposure = pytest.importorskip("skimage.exposure")
    expected = exposure.rescale_intensity(hu, (level - width / 2, level + width / 2), (-1.0, 1.0))
    assert np.allclose(window_ct(hu, width, level), expected, atol=1e-5)


@given(HU, WIDTHS, LEVELS)
def test_window_never_turns_the_order_of_tissues_round(hu, width, level):
    shown = window_ct(np.sort(hu), width, level)
    assert (np.diff(shown) >= 0).all()
    assert shown.min() >= -1 and shown.max() <= 1


@given(WIDTHS, LEVELS)
def test_window_shows_its_level_as_zero_and_its_ends_as_minus_one_and_one(width, level):
    shown = window_ct([level - width / 2, level, level + width / 2], width, level)
    assert np.allclose(shown, [-1, 0, 1], atol=1e-6)


@given(WIDTHS, LEVELS, st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_inverse_recovers_hounsfield_units_inside_the_window(width, level, shares):
    hu = level - width / 2 + np.array(shares) * width
    assert np.abs(unwindow_ct(window_ct(hu, width, level), width, level) - hu).max() <= 1e-6 * width


@given(WIDTHS, LEVELS, st.floats(0.0, 1.0))
def test_hounsfield_units_come_back_from_8_bit_grey_to_half_a_grey_step(width, level, share):
    hu = level - width / 2 + share * width
    a, b = ct_mapping(width, level).of_grey()
    grey = float(to_grey(window_ct(hu, width, level)))
    assert abs(a * grey + b - hu) <= a / 2 + 1e-6 * width


def test_grey_follows_the_convention_of_the_data_set():
    assert to_grey([-1.0, 0.0, 1.0, -3.0, 3.0]).tolist() == [0, 128, 255, 0, 255]


def test_a_window_without_width_is_refused():
    with pytest.raises(DataError, match="`width`"):
        window_ct([0.0], width=0.0)


def test_mr_is_z_scored_clipped_and_scaled_in_this_order():
    stats = pytest.importorskip("scipy.stats")
    volume = _leg(np.random.default_rng(0))
    body = foreground_mask(volume)
    scaled, mapping = normalise_mr(volume, (0.5, 99.5), body)

    z = stats.zscore(volume[body].astype(np.float32).astype(np.float64))
    low, high = np.percentile(z, (0.5, 99.5))
    assert np.allclose(scaled[body], (np.clip(z, low, high) - low) / (high - low) * 2 - 1, atol=1e-5)
    assert mapping.low == pytest.approx(mapping.mean + low * mapping.std, rel=1e-5)
    assert mapping.high == pytest.approx(mapping.mean + high * mapping.std, rel=1e-5)


def test_background_of_an_mr_stays_minus_one():
    volume = _leg(np.random.default_rng(1), noise=30.0)
    scaled, _ = normalise_mr(volume)
    rows, columns = np.mgrid[:96, :96]
    assert (scaled[:, np.hypot(rows - 48, columns - 48) > 44] == -1).all()


@given(gain=st.floats(0.05, 50.0), seed=st.integers(0, 99))
def test_the_scanners_gain_does_not_change_a_normalised_mr(gain, seed):
    volume = _leg(np.random.default_rng(seed))
    assert np.allclose(normalise_mr(volume)[0], normalise_mr(gain * volume)[0], atol=1e-3)


@given(offset=st.floats(-500.0, 500.0))
def test_an_offset_does_not_change_an_mr_normalised_over_the_same_body(offset):
    volume = _leg(np.random.default_rng(2))
    body = foreground_mask(volume)
    assert np.allclose(
        normalise_mr(volume, foreground=body)[0], normalise_mr(volume + offset, foreground=body)[0], atol=1e-3
    )


def test_one_bright_voxel_does_not_darken_the_rest():
    volume = _leg(np.random.default_rng(3))
    spoiled = volume.copy()
    spoiled[0, 48, 20] = 1e5
    others = np.ones(volume.shape, dtype=bool)
    others[0, 48, 20] = False
    assert np.abs(normalise_mr(volume)[0] - normalise_mr(spoiled)[0])[others].max() < 0.01


def test_mr_mapping_gives_the_scanners_values_back():
    volume = _leg(np.random.default_rng(4))
    scaled, mapping = normalise_mr(volume)
    inside = foreground_mask(volume) & (volume > mapping.low) & (volume < mapping.high)
    assert inside.sum() > 1000
    assert np.allclose(mapping.invert(scaled)[inside], volume[inside], atol=1e-3 * mapping.high)


def test_an_mr_of_one_value_is_refused():
    with pytest.raises(DataError):
        normalise_mr(np.full((1, 8, 8), 7.0))
    with pytest.raises(DataError):
        normalise_mr(np.zeros((1, 8, 8)))


def test_foreground_must_fit_its_volume():
    with pytest.raises(ShapeError, match="`foreground`"):
        normalise_mr(np.ones((1, 8, 8)), foreground=np.ones((1, 8, 9), dtype=bool))
    with pytest.raises(ShapeError, match="`volume`"):
        foreground_mask(np.ones((8, 8)))


def test_foreground_is_the_whole_limb_where_otsu_sees_only_its_fat():
    filters = pytest.importorskip("skimage.filters")
    volume = _leg(np.random.default_rng(5))
    rows, columns = np.mgrid[:96, :96]
    limb = np.broadcast_to(np.hypot(rows - 48, columns - 48) < 40, volume.shape)
    dice = lambda mask: 2 * (mask & limb).sum() / (mask.sum() + limb.sum())  # noqa: E731
    assert dice(volume > filters.threshold_otsu(volume)) < 0.7
    assert dice(foreground_mask(volume)) > 0.99


def test_foreground_fills_holes_as_scipy_does_and_drops_specks():
    ndimage = pytest.importorskip("scipy.ndimage")
    rng = np.random.default_rng(6)
    volume = ndimage.gaussian_filter(rng.normal(size=(4, 60, 60)), (0, 2, 2))
    filled = foreground_mask(volume, threshold=0.05, min_piece_fraction=0.0)
    for plane, mask in zip(volume > np.float32(0.05), filled, strict=True):
        assert (ndimage.binary_fill_holes(plane) == mask).all()
    large = foreground_mask(volume, threshold=0.05, min_piece_fraction=0.5)
    assert large.sum() < filled.sum() and (large <= filled).all()


def test_an_empty_slice_has_no_foreground():
    volume = _leg(np.random.default_rng(7))
    volume[1] = 0
    assert foreground_mask(volume)[0].any() and not foreground_mask(volume)[1].any()


def test_a_mapping_needs_two_ends():
    for low, high in ((1.0, 1.0), (2.0, 1.0), (0.0, float("nan"))):
        with pytest.raises(DataError, match="`high`"):
            IntensityMapping(low, high)


@pytest.mark.parametrize("sigma", [2.0, 20.0])
def test_noise_level_is_the_noise_that_was_added(sigma):
    rng = np.random.default_rng(8)
    smooth = np.broadcast_to(np.hypot(*np.mgrid[:96, :96]) * 3.0, (3, 96, 96))
    noisy = (smooth + rng.normal(0, sigma, smooth.shape)).astype(np.float32)
    assert noise_level(noisy, np.ones(smooth.shape, dtype=bool)) == pytest.approx(sigma, rel=0.05)


def test_denoising_brings_an_mr_nearer_to_the_truth():
    rng = np.random.default_rng(9)
    clean = _leg(rng, noise=0.0)
    noisy = (clean + rng.normal(0, 40, clean.shape)).astype(np.float32)
    body = clean > 100
    denoised = denoise_mr(noisy, body)
    error = lambda volume: np.sqrt(((volume - clean)[body] ** 2).mean())  # noqa: E731
    assert error(denoised) < 0.6 * error(noisy)


def test_bias_correction_flattens_a_tissue_and_keeps_the_mean():
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(10)
    rows, columns = np.mgrid[:96, :96]
    clean = np.repeat(_leg(rng, noise=4.0), 4, axis=0)
    biased = (clean * (0.6 + 0.8 * columns / 95)).astype(np.float32)
    body = clean > 100
    corrected = correct_bias(biased, body, sitk.GetImageFromArray(biased))
    muscle = np.broadcast_to(
        (np.hypot(rows - 48, columns - 48) > 11) & (np.hypot(rows - 48, columns - 48) < 28), clean.shape
    )
    spread = lambda volume: volume[muscle].std() / volume[muscle].mean()  # noqa: E731
    assert spread(corrected) < 0.5 * spread(biased)
    assert corrected[body].mean() == pytest.approx(biased[body].mean(), rel=1e-4)


def test_bias_correction_gives_the_same_bytes_however_many_threads_the_machine_has():
    sitk = pytest.importorskip("SimpleITK")
    volume = np.repeat(_leg(np.random.default_rng(11), noise=4.0), 4, axis=0)
    biased = (volume * (0.6 + 0.8 * np.arange(96) / 95)).astype(np.float32)
    settings, corrected = sitk.ProcessObject, []
    before = settings.GetGlobalDefaultNumberOfThreads()
    try:
        for threads in (1, 4):
            settings.SetGlobalDefaultNumberOfThreads(threads)
            corrected.append(correct_bias(biased, volume > 100, sitk.GetImageFromArray(biased)))
            assert settings.GetGlobalDefaultNumberOfThreads() == threads
    finally:
        settings.SetGlobalDefaultNumberOfThreads(before)
    assert (corrected[0] == corrected[1]).all()
