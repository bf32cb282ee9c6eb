"""PSNR, SSIM and texture are those of scikit-image where it has them, and of masked pixels counted by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from roi_progressive.errors import ShapeError
from roi_progressive.evaluation import similarity

IMAGES = hnp.arrays(np.uint8, (12, 10))
MASKS = hnp.arrays(np.bool_, (12, 10)).filter(lambda mask: bool(mask.any()))


def images(seed: int = 0, size_px: int = 32) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (size_px, size_px), dtype=np.uint8)
    fake = np.clip(real + rng.normal(0, 25, real.shape), 0, 255).astype(np.uint8)
    mask = np.zeros(real.shape, dtype=bool)
    mask[5:13, 8:20] = True
    return real, fake, mask


def test_whole_image_scores_are_those_of_scikit_image() -> None:
    real, fake, _ = images()
    assert similarity.psnr(real, fake) == pytest.approx(peak_signal_noise_ratio(real, fake, data_range=255), abs=1e-9)
    assert similarity.ssim(real, fake) == pytest.approx(structural_similarity(real, fake, data_range=255), abs=1e-9)


@settings(deadline=None)
@given(IMAGES, IMAGES, MASKS)
def test_region_psnr_counts_the_regions_pixels_by_hand(real: Any, fake: Any, mask: Any) -> None:
    squares = [(int(real[i, j]) - int(fake[i, j])) ** 2 for i, j in np.argwhere(mask)]
    mse = sum(squares) / len(squares)
    expected = math.inf if mse == 0 else 10 * math.log10(255 * 255 / mse)
    assert similarity.region_psnr(real, fake, mask) == pytest.approx(expected, abs=1e-9)


def test_region_psnr_is_scikit_images_on_a_cut_out_rectangle() -> None:
    real, fake, mask = images()
    expected = peak_signal_noise_ratio(real[5:13, 8:20], fake[5:13, 8:20], data_range=255)
    assert similarity.region_psnr(real, fake, mask) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(IMAGES, IMAGES, MASKS, st.integers(0, 255))
def test_what_lies_outside_the_region_changes_neither_psnr_nor_texture(
    real: Any, fake: Any, mask: Any, grey: int
) -> None:
    repainted = np.where(mask, fake, np.uint8(grey))
    assert similarity.region_psnr(real, repainted, mask) == similarity.region_psnr(real, fake, mask)
    assert similarity.texture_ratio(real, repainted, mask) == similarity.texture_ratio(real, fake, mask)


def test_region_ssim_is_the_unmasked_map_averaged_over_the_region() -> None:
    real, fake, mask = images()
    _, alike = structural_similarity(real, fake, data_range=255, full=True)
    by_hand = sum(alike[i, j] for i, j in np.argwhere(mask)) / mask.sum()
    assert similarity.region_ssim(real, fake, mask) == pytest.approx(by_hand, abs=1e-9)
    assert similarity.region_ssim(real, fake, mask) != pytest.approx(
        similarity.ssim(real * mask, fake * mask), abs=1e-2
    )


def test_dark_regions_do_not_wrap_around_in_eight_bits() -> None:
    real, fake = np.full((8, 8), 10, dtype=np.uint8), np.full((8, 8), 250, dtype=np.uint8)
    everywhere = np.ones((8, 8), dtype=bool)
    assert similarity.region_psnr(real, fake, everywhere) == pytest.approx(20 * math.log10(255 / 240), abs=1e-9)


def test_texture_is_the_ratio_of_standard_deviations() -> None:
    real, fake, mask = images()
    assert similarity.texture_ratio(real, fake, mask) == pytest.approx(
        np.std(fake[mask]) / np.std(real[mask]), abs=1e-9
    )
    assert similarity.texture_ratio(real, np.where(mask, np.uint8(80), fake), mask) == 0.0
    assert similarity.texture_ratio(np.where(mask, np.uint8(80), real), fake, mask) is None


def test_equal_images_are_infinitely_alike() -> None:
    real, _, mask = images()
    assert similarity.region_psnr(real, real, mask) == similarity.psnr(real, real) == math.inf
    assert similarity.region_ssim(real, real, mask) == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("real", "fake", "mask"),
    [
        (np.zeros((8, 8)), np.zeros((8, 9)), np.ones((8, 8), bool)),
        (np.zeros((3, 8, 8)), np.zeros((3, 8, 8)), np.ones((3, 8, 8), bool)),
        (np.zeros((8, 8)), np.zeros((8, 8)), np.ones((8, 8), np.uint8)),
        (np.zeros((8, 8)), np.zeros((8, 8)), np.ones((4, 8), bool)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(real: Any, fake: Any, mask: Any) -> None:
    for metric in (similarity.region_psnr, similarity.region_ssim, similarity.texture_ratio):
        with pytest.raises(ShapeError, match="must be"):
            metric(real, fake, mask)


def test_images_smaller_than_the_ssim_window_are_refused() -> None:
    with pytest.raises(ShapeError, match="7 px"):
        similarity.ssim(np.zeros((6, 20)), np.zeros((6, 20)))


def test_the_error_in_hu_is_that_of_the_values_the_grey_levels_stand_for() -> None:
    real, fake, mask = images()
    in_hu = np.abs((real * 1.6 - 160.0) - (fake * 1.6 - 160.0))
    assert similarity.mean_absolute_error_hu(real, fake, 1.6) == pytest.approx(in_hu.mean(), abs=1e-9)
    assert similarity.mean_absolute_error_hu(real, fake, 1.6, mask) == pytest.approx(in_hu[mask].mean(), abs=1e-9)


def test_an_empty_region_has_no_value() -> None:
    real, fake, mask = images()
    empty = np.zeros_like(mask)
    for metric in (similarity.region_psnr, similarity.region_ssim, similarity.texture_ratio):
        assert metric(real, fake, empty) is None
    assert similarity.mean_absolute_error_hu(real, fake, 1.6, empty) is None
