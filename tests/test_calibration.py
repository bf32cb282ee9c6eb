"""A sigma that tells the truth scores so, one that is twice too large scores what a line of algebra says."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy.stats import rankdata

from roi_progressive.errors import DataError, ShapeError
from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.calibration import (
    bin_statistics,
    expected_calibration_error,
    rank_correlation,
    reliability,
    resampled_calibration_error,
    sparsification_error,
)
from roi_progressive.evaluation.figures import reliability_figure
from roi_progressive.evaluation.intervals import paired_difference, with_intervals
from roi_progressive.evaluation.pairs import ImagePair
from roi_progressive.evaluation.scoring import SliceScores, score

SIZE_PX = 256


def gaussian(seed: int = 0) -> tuple[Any, Any, Any, Any]:
    """Real, generated, sigma and region, the errors drawn from just this sigma."""
    rng = np.random.default_rng(seed)
    sigma = np.exp(rng.uniform(math.log(2.0), math.log(32.0), (SIZE_PX, SIZE_PX)))
    real = rng.uniform(0, 255, sigma.shape)
    mask = np.zeros(sigma.shape, dtype=bool)
    mask[40:120, 60:200] = True
    return real, real + sigma * rng.normal(size=sigma.shape), sigma, mask


@pytest.mark.parametrize("part", [0, 1])
def test_uce_of_a_true_sigma_is_nearly_nought_and_of_a_doubled_one_three_variances(part: int) -> None:
    real, fake, sigma, mask = gaussian()
    variance = float((sigma**2)[mask if part else np.ones_like(mask)].mean())
    true = expected_calibration_error(bin_statistics(real, fake, sigma, mask)[part])
    doubled = expected_calibration_error(bin_statistics(real, fake, 2 * sigma, mask)[part])
    assert true is not None and true < 0.05 * variance
    assert doubled == pytest.approx(3 * variance, rel=0.03)  # |sigma^2 - 4 sigma^2|


def test_uce_is_its_definition_bin_by_bin() -> None:
    real, fake, sigma, mask = (one[:40, :40] for one in gaussian(1))
    total = 0.0
    edges = [2.0 ** (-4 + k / 4) for k in range(49)]
    for low, high in itertools.pairwise(edges):
        members = (sigma >= low) & (sigma < high)
        if members.any():
            squared = np.mean((fake - real)[members] ** 2)
            total += members.sum() / sigma.size * abs(squared - np.mean(sigma[members] ** 2))
    assert expected_calibration_error(bin_statistics(real, fake, sigma, mask)[0]) == pytest.approx(total, rel=1e-9)


def test_statistics_of_slices_add_up_to_those_of_their_pixels() -> None:
    whole = bin_statistics(*gaussian())
    halves = [bin_statistics(*(one[rows] for one in gaussian())) for rows in (slice(0, 90), slice(90, None))]
    np.testing.assert_allclose(halves[0] + halves[1], whole)
    assert (whole[:, :, 0].sum(axis=1) == [SIZE_PX**2, 80 * 140]).all()


def test_a_sigma_beyond_the_bins_counts_in_the_last_ones() -> None:
    zeros, mask = np.zeros((4, 4)), np.zeros((4, 4), dtype=bool)
    for sigma, place in ((0.0, 0), (1e-9, 0), (1e4, -1)):
        bins = bin_statistics(zeros, zeros, np.full((4, 4), sigma), mask)[0]
        assert bins[place].tolist() == pytest.approx([16, 16 * sigma**2, 0])
    assert expected_calibration_error(bin_statistics(zeros, zeros, zeros, mask)[1]) is None


# Next to the smallest numbers there are, a mean has few digits left.
ERRORS = hnp.arrays(np.float64, st.integers(2, 60), elements=st.floats(0, 100, allow_subnormal=False))


@settings(deadline=None)
@given(ERRORS, st.randoms(use_true_random=False))
def test_sparsification_is_the_area_between_the_curves_by_hand(size: Any, random: Any) -> None:
    sigma = np.arange(1.0, len(size) + 1)
    random.shuffle(sigma)
    if not size.any():
        assert sparsification_error(sigma, size) is None
        return
    gaps = []
    for removed in range(len(size)):
        kept = len(size) - removed
        by_sigma = [size[i] for i in sorted(range(len(size)), key=lambda i: sigma[i])[:kept]]
        gaps.append((np.mean(by_sigma) - np.mean(sorted(size)[:kept])) / np.mean(size))
    assert sparsification_error(sigma, -size) == pytest.approx(max(np.mean(gaps), 0.0), abs=1e-9)


def test_sparsification_needs_an_error_whose_mean_is_a_number_above_nought() -> None:
    assert sparsification_error(np.array([1.0, 2.0]), np.array([5e-324, 0.0])) is None
    assert sparsification_error(np.array([]), np.array([])) is None


def test_sparsification_is_nought_where_sigma_is_the_error_and_largest_where_it_is_its_opposite() -> None:
    error = np.random.default_rng(0).normal(size=500)
    assert sparsification_error(np.abs(error), error) == 0.0
    assert sparsification_error(np.abs(error) ** 3, error) == 0.0
    constant, opposite = sparsification_error(np.ones(500), error), sparsification_error(-np.abs(error), error)
    assert constant is not None and opposite is not None and 0.0 < constant < opposite


def test_equal_sigmas_count_as_a_random_order_does_on_average() -> None:
    rng = np.random.default_rng(0)
    error, sigma = rng.normal(size=40), rng.integers(1, 4, 40).astype(float)
    broken = [sparsification_error(sigma + rng.uniform(0, 0.5, 40), error) for _ in range(3000)]
    assert sparsification_error(sigma, error) == pytest.approx(np.mean(np.array(broken, dtype=float)), rel=0.01)


def test_the_rank_correlation_is_that_of_the_ranks() -> None:
    real, fake, sigma, _ = (one[:30, :30] for one in gaussian())
    sigma = np.round(sigma)  # with ties
    ranks = np.corrcoef(rankdata(sigma), rankdata(np.abs(fake - real)))[0, 1]
    assert rank_correlation(sigma, fake - real) == pytest.approx(ranks, abs=1e-9)
    assert rank_correlation(np.ones(9), np.arange(9.0)) is rank_correlation(np.arange(9.0), np.ones(9)) is None


def test_what_cannot_be_said_of_a_slice_has_a_reason() -> None:
    real, fake, sigma, mask = (values[:20, :20] for values in gaussian())
    of_sigma = ("ause", "region_ause", "sigma_rank", "region_sigma_rank")

    def found(fake: Any, mask: Any) -> tuple[dict[str, float | None], dict[str, str]]:
        [scored] = score([ImagePair("p_PV_0.png", "p", "PV", "A2B", None, real, fake, mask, sigma=sigma)])
        scores, reasons = scored["scores"], scored["reasons"]
        return {key: scores[key] for key in of_sigma}, {key: reasons[key] for key in of_sigma if key in reasons}

    scores, reasons = found(fake, np.zeros_like(mask))
    assert scores["region_ause"] is scores["region_sigma_rank"] is None
    assert reasons == dict.fromkeys(("region_ause", "region_sigma_rank"), "no region in the slice")
    scores, reasons = found(real, ~np.zeros_like(mask))
    assert set(scores.values()) == {None} and set(reasons) == set(scores)
    assert "needs an error" in reasons["ause"] and "that vary" in reasons["sigma_rank"]


def test_arrays_that_do_not_fit_are_refused() -> None:
    real, fake, sigma, mask = gaussian()
    for arguments in ((real, fake, sigma[1:], mask), (real, fake[1:], sigma, mask), (real, fake, sigma, sigma)):
        with pytest.raises(ShapeError, match="must be"):
            bin_statistics(*arguments)


# --- over slices, patients and phases ---------------------------------------------------------------------------------


def scored() -> list[SliceScores]:
    pairs = []
    for k in range(8):
        real, fake, sigma, mask = (one[:64, :64] for one in gaussian(k))
        sigma = sigma * (1 + 0.2 * (k % 4))
        label = (f"p{k % 4}_PV_{k}.png", f"p{k % 4}", ("ART", "PV")[k // 4], "A2B", None)
        pairs.append(ImagePair(*label, real, fake, mask if k else np.zeros_like(mask), sigma=sigma))
    return score(pairs)


def test_uce_pools_the_pixels_of_the_phase_and_its_interval_those_of_drawn_patients() -> None:
    slices = scored()
    rows = with_intervals(aggregate(slices), slices, seed=5)["A2B"]
    art = [one["calibration"][0] for one in slices[:4]]
    assert rows["ART"]["uce"] == expected_calibration_error(np.sum(art, axis=0))
    assert rows["mean"]["uce"] == pytest.approx((rows["ART"]["uce"] + rows["PV"]["uce"]) / 2)
    rng = np.random.default_rng(0)
    drawn = [rng.integers(0, 4, 4) for _ in range(4000)]
    by_hand = [expected_calibration_error(np.sum([art[i] for i in draw], axis=0)) for draw in drawn]
    low, high = np.percentile(np.array(by_hand, dtype=float), (2.5, 97.5))
    assert rows["ART"]["intervals"]["uce"] == pytest.approx([low, high], rel=0.05)
    low, high = rows["mean"]["intervals"]["region_uce"]
    assert low < rows["mean"]["region_uce"] < high
    assert rows["ART"]["ause"] == pytest.approx(np.mean([one["scores"]["ause"] for one in slices[:4]]))


def test_each_draw_gives_the_uce_of_its_pixels() -> None:
    bins = [one["calibration"][0] for one in scored()[:3]]
    drawn = np.array([[1.0, 1.0, 1.0], [0.0, 2.0, 1.0], [3.0, 0.0, 0.0]])
    expected = [expected_calibration_error(sum(n * b for n, b in zip(draw, bins, strict=True))) for draw in drawn]
    np.testing.assert_allclose(resampled_calibration_error(bins, drawn), expected)


def test_uce_has_no_paired_difference_and_says_why() -> None:
    slices = scored()
    difference, _, _ = paired_difference(slices, slices)
    cell = difference["A2B"]["ART"]
    assert cell["uce"] is None and "not paired" in cell["reasons"]["uce"] and cell["ause"] == 0.0


def test_the_diagram_lies_on_the_line_where_sigma_is_true(tmp_path: Path) -> None:
    bins = bin_statistics(*gaussian())
    points = [one for one in reliability(bins[0]) if one["n"] > 500]
    assert sum(one["n"] for one in reliability(bins[1])) == 80 * 140
    assert len(points) > 10
    for one in points:
        assert one["observed"] == pytest.approx(one["predicted"], rel=0.15)
    path = tmp_path / "reliability.png"
    reliability_figure({"A2B": {"image": reliability(bins[0]), "tumor": reliability(bins[1])}}, path)
    with Image.open(path) as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    few = tmp_path / "few.png"
    reliability_figure({"A2B": {"image": [{"n": 3, "predicted": 1.0, "observed": 1.0}], "tumor": []}}, few)
    assert few.is_file()
    with pytest.raises(DataError, match="`curves` must have"):
        reliability_figure({}, path)
