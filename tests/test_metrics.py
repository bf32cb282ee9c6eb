"""The entries of the metrics agree with each other, and say what a table needs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import gmean

from roi_progressive.evaluation.aggregation import metric_of
from roi_progressive.evaluation.metrics import ARITHMETIC, DECIBELS, METRICS, RATIO


def test_keys_and_headings_are_each_used_once() -> None:
    assert len({metric.key for metric in METRICS}) == len({metric.heading for metric in METRICS}) == len(METRICS)


def test_an_entry_says_which_way_is_better() -> None:
    titles = {metric.key: metric.title for metric in METRICS}
    assert titles["tpsnr"] == "TPSNR ↑"
    assert titles["fid"] == "FID ↓"
    assert titles["texture_ratio"] == "texture → 1"
    assert titles["coverage"] == "coverage → 0.9"
    assert all(metric.better in ("up", "down", "1", "0.9") and metric.digits >= 0 for metric in METRICS)


def test_a_score_that_is_no_metric_of_ours_has_its_name_for_a_heading() -> None:
    assert metric_of("tssim").title == "TSSIM ↑"
    assert (metric_of("depth").title, metric_of("depth").digits) == ("depth", 4)
    assert metric_of("depth").averaged.mean([1.0, 2.0]) == 1.5


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=9))
def test_means_are_those_of_scipy_and_the_standard_library(values: list[float]) -> None:
    assert ARITHMETIC.mean(values) == DECIBELS.mean(values) == math.fsum(values) / len(values)
    assert RATIO.mean(values) == pytest.approx(gmean(values))


def test_decibels_end_at_a_hundred_and_a_ratio_of_nought_is_not_the_end() -> None:
    assert DECIBELS.mean([math.inf, 20.0]) == 60.0
    assert RATIO.mean([0.0, 0.1]) == pytest.approx(0.01)
