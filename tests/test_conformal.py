"""A calibrated sigma has the size of the errors, and its interval holds 90 % of a new patient's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gennorm

from roi_progressive.errors import DataError, ShapeError
from roi_progressive.evaluation.conformal import (
    COVERAGE,
    NORMAL_HALF_WIDTH,
    Correction,
    DirectionCalibration,
    Errors,
    calibrated,
    fit,
    fit_direction,
    from_record,
    interval_coverage,
    to_record,
)
from roi_progressive.evaluation.pairs import ImagePair
from roi_progressive.evaluation.scoring import score
from roi_progressive.saving.records import EntryError, from_json, to_json

RIGHT = Correction(2.0, 3.0, 12, (0.9, 0.8))


def errors_of(error: Any, sigma: Any) -> Errors:
    found = Errors()
    found.add(np.asarray(error, dtype=float), np.asarray(sigma, dtype=float))
    return found


def patients(n: int, n_px: int = 4000, seed: int = 0, shape: float = 1.0) -> list[tuple[Any, Any]]:
    """Errors and sigmas of patients, each of whom is harder or easier than the next."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(n):
        sigma = rng.uniform(1.0, 10.0, n_px)
        hardness = rng.uniform(1.0, 4.0)
        made.append((hardness * sigma * gennorm(shape).rvs(n_px, random_state=rng), sigma))
    return made


def test_the_factor_makes_the_mean_square_of_sigma_that_of_the_error_each_patient_counting_once() -> None:
    first, second = (np.array([3.0, -4.0]), np.array([1.0, 1.0])), (np.array([10.0]), np.array([2.0]))
    found = fit([errors_of(*first), errors_of(*second)])
    assert found is not None and found.n_patients == 2
    assert found.factor == pytest.approx(math.sqrt((12.5 + 100) / (1 + 4)))


def quantile(made: list[tuple[Any, Any]]) -> float:
    """The ratio of error to sigma that 90 % of the pixels do not exceed, each patient having the same weight."""
    ratios = np.concatenate([np.abs(error) / sigma for error, sigma in made])
    weights = np.concatenate([np.full(error.size, 1 / error.size / len(made)) for error, _ in made])
    order = np.argsort(ratios)
    return float(ratios[order][np.searchsorted(np.cumsum(weights[order]), COVERAGE - 1e-9)])


@settings(deadline=None, max_examples=25)
@given(st.integers(2, 15), st.integers(0, 1000))
def test_the_interval_is_the_quantile_of_pixels_weighted_by_patient(n: int, seed: int) -> None:
    made = patients(n, n_px=50, seed=seed)
    made[0] = (made[0][0][:20], made[0][1][:20])
    found = fit([errors_of(*one) for one in made])
    assert found is not None
    assert quantile(made) * 0.9999 <= found.half_width <= quantile(made) * 1.003


def test_each_patient_is_tried_with_the_interval_of_the_others() -> None:
    made = patients(6, n_px=500)
    found = fit([errors_of(*one) for one in made])
    assert found is not None and len(found.left_out) == 6
    for i, (error, sigma) in enumerate(made):
        half_width = quantile(made[:i] + made[i + 1 :]) * sigma
        assert found.left_out[i] == pytest.approx(np.mean(np.abs(error) <= half_width), abs=0.005)
    alone = fit([errors_of(*made[0])])
    assert alone is not None and alone.left_out == ()


def test_new_patients_errors_lie_in_the_interval_as_often_as_it_says() -> None:
    held = []
    for seed in range(200):
        *known, (error, sigma) = patients(13, n_px=300, seed=seed)
        found = fit([errors_of(*one) for one in known])
        assert found is not None
        held.append(np.mean(np.abs(error) <= found.half_width * sigma))
    assert np.mean(held) == pytest.approx(COVERAGE, abs=0.015)


def test_pixels_may_come_in_any_pieces_and_an_error_of_nought_asks_for_no_sigma() -> None:
    error, sigma = patients(1)[0]
    pieces = Errors()
    for part in (slice(0, 7), slice(7, None)):
        pieces.add(error[part], sigma[part])
    whole = errors_of(error, sigma)
    assert pieces.n == whole.n and (pieces.ratios == whole.ratios).all()
    assert pieces.squared == pytest.approx(whole.squared)
    nought = fit([errors_of([0.0] * 99 + [1.0], [0.0] * 99 + [1.0])])
    assert nought is not None and nought.half_width < 1e-3
    assert fit([Errors()]) is None
    with pytest.raises(ShapeError, match="`sigma` must be"):
        Errors().add(np.zeros(3), np.zeros(2))


@pytest.mark.parametrize("sigma", [0.0, 1e-30])
def test_a_sigma_that_is_nought_where_errors_are_cannot_be_put_right(sigma: float) -> None:
    with pytest.raises(DataError, match="`sigma` must be above 0"):
        fit([errors_of(np.ones(10), np.full(10, sigma))])


def pair(patient: str = "p0", seed: int = 0, scale: float = 1.0) -> ImagePair:
    """A slice whose errors are thrice sigma inside the region and half of it outside."""
    rng = np.random.default_rng(seed)
    sigma = rng.uniform(1.0, 4.0, (64, 64))
    mask = np.zeros((64, 64), dtype=bool)
    mask[20:40, 20:40] = True
    real = rng.uniform(60.0, 190.0, (64, 64))
    fake = real + scale * np.where(mask, 3.0, 0.5) * sigma * rng.normal(size=sigma.shape)
    return ImagePair(f"{patient}_PV_0.png", patient, "PV", "A2B", None, real, fake, mask, sigma=sigma)


def test_inside_and_outside_of_a_region_each_have_their_own_correction() -> None:
    found = fit_direction({"tumor": [pair(f"p{seed}", seed) for seed in range(12)]})
    assert found is not None
    assert found.inside["tumor"].factor == pytest.approx(3.0, rel=0.04)
    assert found.outside["tumor"].factor == pytest.approx(0.5, rel=0.04)
    assert found.outside["tumor"].factor < found.image.factor < found.inside["tumor"].factor
    # The errors are normal: 90 % of them lie within 1.645 of their standard deviations.
    assert found.inside["tumor"].half_width == pytest.approx(3.0 * 1.645, rel=0.03)


def test_scores_of_a_calibrated_sigma_say_that_it_is_right() -> None:
    known = fit_direction({"tumor": [pair(f"p{seed}", seed) for seed in range(12)]})
    assert known is not None
    shown = [pair(f"q{seed}", 100 + seed) for seed in range(3)]
    before, after = score(shown), score([calibrated(one, known, "tumor") for one in shown])
    for first, second in zip(before, after, strict=True):
        assert first["scores"]["region_coverage"] == pytest.approx(0.42, abs=0.08)  # within 1.645 / 3 sigma
        assert second["scores"]["region_coverage"] == pytest.approx(0.9, abs=0.04)
        assert second["scores"]["coverage"] == pytest.approx(0.9, abs=0.02)
        assert first["scores"]["region_sigma_rank"] == second["scores"]["region_sigma_rank"]


def test_where_the_region_is_unknown_the_correction_of_the_image_is_taken() -> None:
    shown = pair()
    assert shown.sigma is not None
    known = DirectionCalibration(RIGHT, {"liver": Correction(9.0, 9.0, 9, ())}, {})
    for region in (None, "tumor"):
        found = calibrated(shown, known, region)
        assert found.sigma is not None and found.half_width is not None
        np.testing.assert_allclose(found.sigma, 2.0 * shown.sigma)
        np.testing.assert_allclose(found.half_width, 3.0 * shown.sigma)
    found = calibrated(shown, known, "liver")
    assert found.sigma is not None and found.sigma[30, 30] == pytest.approx(9.0 * shown.sigma[30, 30])


def test_an_uncalibrated_interval_is_that_of_a_normal_distribution() -> None:
    error, sigma = np.random.default_rng(0).normal(size=20000), np.ones(20000)
    assert interval_coverage(error, NORMAL_HALF_WIDTH * sigma) == pytest.approx(0.9, abs=0.01)
    assert interval_coverage(np.array([]), np.array([])) is None


def test_a_record_gives_back_what_was_written_and_refuses_what_was_not() -> None:
    known = DirectionCalibration(RIGHT, {"tumor": RIGHT}, {"tumor": Correction(1.0, 1.5, 3, ())})
    assert from_record(from_json(to_json(to_record(known)))) == known
    with pytest.raises(EntryError, match="`left_out` is a text, not a number"):
        from_record({"image": {**to_record(known)["image"], "left_out": ["all"]}, "regions": {}})
    with pytest.raises(EntryError, match="`half_width`"):
        from_record({"image": {"factor": 1.0}, "regions": {}})
