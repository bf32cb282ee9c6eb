"""Intervals come from drawing patients, not slices, and a paired difference draws both arms alike."""

from __future__ import annotations

import itertools
import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap

from roi_progressive.errors import DataError
from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.intervals import NO_VALUE, OF_ALL_SLICES, TOO_FEW, paired_difference, with_intervals
from roi_progressive.evaluation.scoring import SliceScores


def scored(patient: str, psnr: float | None, phase: str = "ART", slice_index: int = 0, **more: Any) -> SliceScores:
    reasons = {"fid": "not asked for", "kid": "not asked for"} | ({} if psnr is not None else {"psnr": "left out"})
    return {
        "name": f"{patient}_{phase}_{slice_index:03d}.png",
        "patient": patient,
        "phase": phase,
        "direction": "A2B",
        "region_px": 9,
        "scores": {"psnr": psnr, **more},
        "reasons": reasons,
        "fid_features": None,
    }


def rows(slices: list[SliceScores], seed: int = 0) -> dict[str, Any]:
    return with_intervals(aggregate(slices), slices, seed)["A2B"]


def test_the_interval_is_scipys_percentile_bootstrap_of_the_patients_means() -> None:
    rng = np.random.default_rng(0)
    of_patient = rng.normal(25.0, 3.0, size=30)
    slices = [
        scored(f"p{i}", value + shift, slice_index=k)
        for i, value in enumerate(of_patient)
        for k, shift in enumerate((-1.0, 1.0))
    ]
    low, high = rows(slices)["ART"]["intervals"]["psnr"]
    expected = bootstrap(
        (of_patient,), np.mean, n_resamples=20_000, method="percentile", random_state=1
    ).confidence_interval
    spread = of_patient.std(ddof=1) / math.sqrt(30)
    assert (low, high) == pytest.approx(tuple(expected), abs=0.12 * spread)
    assert high - low == pytest.approx(2 * 1.96 * spread, rel=0.12)


def test_three_patients_give_the_percentiles_of_all_twenty_seven_draws() -> None:
    values = {"a": 10.0, "b": 20.0, "c": 60.0}
    every = [np.mean(draw) for draw in itertools.product(values.values(), repeat=3)]
    expected = np.percentile(every, (2.5, 97.5), method="inverted_cdf")  # the law itself, not an estimate
    found = rows([scored(patient, value) for patient, value in values.items()])["ART"]["intervals"]["psnr"]
    assert found == pytest.approx(expected)


def test_a_patients_slices_do_not_narrow_its_interval() -> None:
    once = [scored("a", 10.0), scored("b", 20.0), scored("c", 33.0)]
    often = [scored(one["patient"], one["scores"]["psnr"], slice_index=k) for one in once for k in range(9)]
    assert rows(once)["ART"]["intervals"] == rows(often)["ART"]["intervals"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(5.0, 50.0), min_size=2, max_size=8), st.integers(0, 1000))
def test_an_interval_lies_within_the_patients_and_a_seed_repeats_it(values: list[float], seed: int) -> None:
    slices = [scored(f"p{i}", value) for i, value in enumerate(values)]
    low, high = rows(slices, seed)["ART"]["intervals"]["psnr"]
    assert min(values) - 1e-9 <= low <= high <= max(values) + 1e-9
    assert rows(slices[::-1], seed) == rows(slices, seed)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(5.0, 50.0), min_size=2, max_size=8), st.floats(-4.0, 4.0))
def test_a_constant_gain_is_a_difference_without_width(values: list[float], gain: float) -> None:
    others = [scored(f"p{i}", value) for i, value in enumerate(values)]
    ours = [scored(f"p{i}", value + gain) for i, value in enumerate(values)]
    difference, _, _ = paired_difference(ours, others[::-1])
    for cell in difference["A2B"].values():
        assert cell["psnr"] == pytest.approx(gain, abs=1e-9)
        assert cell["intervals"]["psnr"] == pytest.approx([gain, gain], abs=1e-9)


def test_the_paired_interval_is_that_of_the_patients_differences() -> None:
    rng = np.random.default_rng(1)
    hard = rng.normal(25.0, 5.0, size=12)
    gain = rng.normal(0.5, 0.2, size=12)
    others = [scored(f"p{i:02d}", hard[i]) for i in range(12)]
    ours = [scored(f"p{i:02d}", hard[i] + gain[i]) for i in range(12)]
    difference, _, _ = paired_difference(ours, others)
    of_gain = rows([scored(f"p{i:02d}", gain[i]) for i in range(12)])["ART"]
    assert difference["A2B"]["ART"]["psnr"] == pytest.approx(of_gain["psnr"])
    assert difference["A2B"]["ART"]["intervals"]["psnr"] == pytest.approx(of_gain["intervals"]["psnr"])


def test_the_mean_row_draws_patients_with_all_their_phases() -> None:
    """Where every patient is equally good in all phases, a draw gives each phase the same mean."""
    values = {"a": 10.0, "b": 20.0, "c": 33.0, "d": 41.0}
    found = rows([scored(patient, value, phase) for patient, value in values.items() for phase in ("ART", "PV", "NC")])
    assert found["mean"]["intervals"]["psnr"] == pytest.approx(found["ART"]["intervals"]["psnr"])


def test_patients_of_one_phase_each_give_a_mean_row_that_is_narrower_than_its_phases() -> None:
    rng = np.random.default_rng(2)
    slices = [
        scored(f"{phase}{i}", float(rng.normal(25, 3)), phase) for phase in ("ART", "PV", "NC") for i in range(20)
    ]
    found = {phase: high - low for phase, (low, high) in ((p, c["intervals"]["psnr"]) for p, c in rows(slices).items())}
    assert found["mean"] == pytest.approx(np.mean([found[p] for p in ("ART", "PV", "NC")]) / math.sqrt(3), rel=0.2)


def test_what_has_no_interval_says_why() -> None:
    cells = rows([scored("a", 10.0), scored("b", 20.0), scored("a", 30.0, "PV"), scored("b", None, "PV", lpips=0.1)])
    assert cells["ART"]["interval_reasons"].items() >= {"fid": OF_ALL_SLICES, "lpips": NO_VALUE}.items()
    for row in ("PV", "mean"):
        assert cells[row]["psnr"] is not None and cells[row]["intervals"]["psnr"] is None
        assert cells[row]["interval_reasons"]["psnr"] == TOO_FEW
    assert json.loads(json.dumps(cells, allow_nan=False)) == cells


def test_texture_is_drawn_geometrically() -> None:
    found = rows([scored("a", 1.0, texture_ratio=0.5), scored("b", 1.0, texture_ratio=2.0)])["ART"]
    assert found["intervals"]["texture_ratio"] == pytest.approx([0.5, 2.0])
    assert found["texture_ratio"] == pytest.approx(1.0)


def test_a_slice_counts_in_a_difference_where_both_have_a_value() -> None:
    ours = [scored("a", 10.0), scored("b", 20.0), scored("c", 90.0)]
    others = [scored("a", 9.0), scored("b", 18.0), scored("c", None)]
    difference, kept, against = paired_difference(ours, others)
    assert [rows["A2B"]["ART"]["psnr"] for rows in (difference, kept, against)] == [1.5, 15.0, 13.5]
    assert difference["A2B"]["ART"]["fid"] is None
    nothing, _, _ = paired_difference([scored("a", None)], [scored("a", 1.0)])
    assert nothing["A2B"]["ART"]["psnr"] is None and nothing["A2B"]["ART"]["reasons"]["psnr"] == "left out"


def test_other_slices_cannot_be_compared() -> None:
    with pytest.raises(DataError, match=r"`compare` must hold .* same 2 slices; A2B b_ART_000.png and 0 more"):
        paired_difference([scored("a", 1.0), scored("b", 1.0)], [scored("a", 1.0)])
    with pytest.raises(DataError, match=r"A2B b_ART_000.png and 0 more"):
        paired_difference([scored("a", 1.0)], [scored("a", 1.0), scored("b", 1.0)])
