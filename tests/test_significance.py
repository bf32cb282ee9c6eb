"""The p values beside paired differences are SciPy's, corrected as Holm did by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import wilcoxon

from roi_progressive.evaluation.intervals import paired_difference
from roi_progressive.evaluation.scoring import SliceScores
from roi_progressive.evaluation.significance import holm, signed_rank_p
from roi_progressive.evaluation.table import render_csv, render_markdown, render_text


def scored(patient: str, phase: str, k: int, direction: str = "A2B", **scores: float | None) -> SliceScores:
    return {
        "name": f"{patient}_{phase}_{k:03d}.png",
        "patient": patient,
        "phase": phase,
        "direction": direction,
        "region_px": 9,
        "scores": dict(scores),
        "reasons": {},
        "fid_features": None,
    }


def test_the_p_value_is_scipys_and_by_hand_that_of_all_signs() -> None:
    rng = np.random.default_rng(3)
    differences = rng.normal(0.4, 1.0, 9)
    assert signed_rank_p(differences.tolist()) == wilcoxon(differences).pvalue
    ranks = np.abs(differences).argsort().argsort() + 1
    smaller = min(ranks[differences > 0].sum(), ranks[differences < 0].sum())
    signs = np.array(np.meshgrid(*[[0, 1]] * 9)).reshape(9, -1)
    share = np.mean(np.minimum(ranks @ signs, ranks @ (1 - signs)) <= smaller)
    assert signed_rank_p(differences.tolist()) == pytest.approx(share)


@pytest.mark.parametrize("differences", [[], [1.0], [0.0, 0.0, 0.0], [0.0, 2.0]])
def test_where_fewer_than_two_patients_differ_there_is_no_p(differences: list[float]) -> None:
    assert signed_rank_p(differences) is None


def test_holm_by_hand() -> None:
    # Holm's own steps: the smallest times 4, the next times 3, ..., none below the one before, none above 1.
    found = holm({"w": 0.02, "x": 0.005, "y": 0.9, "z": 0.015})
    assert found == pytest.approx({"w": 0.045, "x": 0.02, "y": 0.9, "z": 0.045})
    assert list(found) == ["w", "x", "y", "z"]
    assert holm({"a": 0.6, "b": 0.7}) == pytest.approx({"a": 1.0, "b": 1.0})
    assert holm({}) == {}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12), st.floats(0.001, 0.5))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values: list[float], level: float) -> None:
    corrected = holm(dict(enumerate(p_values)))
    rejected = set()
    for place, (p, test) in enumerate(sorted((p, test) for test, p in enumerate(p_values))):
        if p * (len(p_values) - place) > level:
            break
        rejected.add(test)
    assert {test for test, p in corrected.items() if p <= level} == rejected


def _arms(n_patients: int) -> tuple[list[SliceScores], list[SliceScores]]:
    """Two phases and two slices a patient, both directions; texture is averaged geometrically."""
    rng = np.random.default_rng(0)
    ours, others = [], []
    for direction in ("A2B", "B2A"):
        for i in range(n_patients):
            for phase in ("ART", "PV"):
                for k in range(2):
                    names = (f"p{i:02d}", phase, k, direction)
                    ours.append(scored(*names, psnr=rng.normal(25.5, 1), texture_ratio=rng.uniform(0.5, 1.5)))
                    others.append(scored(*names, psnr=rng.normal(25, 1), texture_ratio=rng.uniform(0.5, 1.5)))
    return ours, others


def _by_patient(slices: list[SliceScores], direction: str, key: str, geometric: bool) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, list[float]]] = {}
    for one in slices:
        if one["direction"] == direction:
            value = one["scores"][key]
            assert value is not None
            of_phase = found.setdefault(one["patient"], {}).setdefault(one["phase"], [])
            of_phase.append(math.log(value) if geometric else value)
    return {patient: {phase: float(np.mean(v)) for phase, v in phases.items()} for patient, phases in found.items()}


def test_the_p_values_of_a_paired_difference_are_those_of_the_patients_differences() -> None:
    ours, others = _arms(12)
    rows, _, _ = paired_difference(ours, others)
    plain: dict[tuple[str, str], float] = {}
    for direction in ("A2B", "B2A"):
        for key, geometric in (("psnr", False), ("texture_ratio", True)):
            first, second = (_by_patient(arm, direction, key, geometric) for arm in (ours, others))
            differences = [np.mean([first[p][phase] - second[p][phase] for phase in ("ART", "PV")]) for p in first]
            plain[direction, key] = wilcoxon(differences).pvalue
    expected = holm(plain)
    for (direction, key), p in expected.items():
        assert rows[direction]["mean"]["p_values"][key] == pytest.approx(p)
    assert "p_values" not in rows["A2B"]["ART"], "a phase's patients are few, and each test costs the others"
    assert rows["A2B"]["mean"]["p_values"]["tpsnr"] is None


def test_the_tables_show_them_and_say_what_they_are() -> None:
    ours, others = _arms(12)
    rows: dict[str, Any] = {"difference": paired_difference(ours, others)[0]}
    p = rows["difference"]["A2B"]["mean"]["p_values"]["psnr"]
    for text in (render_text(rows), render_markdown(rows)):
        assert f"p={p:.3f}" in text or (p < 0.001 and "p<0.001" in text)
        text = " ".join(text.split())  # a terminal's lines are broken
        assert "Wilcoxon's signed rank test" in text and "Holm's correction for all 4 tests" in text
        assert "fewer than 10 patients" not in text
    header, *lines = render_csv(rows).splitlines()
    place = header.split(",").index("psnr_p")
    mean = next(line.split(",") for line in lines if ",A2B,mean," in line)
    assert float(mean[place]) == pytest.approx(p)


def test_fewer_than_ten_patients_are_said_to_make_intervals_weak() -> None:
    ours, others = _arms(5)
    rows, _, _ = paired_difference(ours, others)
    text = render_text({"difference": rows})
    assert "Rows of fewer than 10 patients (the smallest has 5) have weak intervals" in text


def test_an_arm_compared_with_itself_differs_nowhere() -> None:
    ours, _ = _arms(10)
    rows, _, _ = paired_difference(ours, ours)
    assert set(rows["A2B"]["mean"]["p_values"].values()) == {None}
    assert "signed rank" not in render_text({"difference": rows})


def test_a_single_phase_has_the_p_values_of_its_mean() -> None:
    ours, others = ([one for one in arm if one["phase"] == "PV"] for arm in _arms(11))
    rows, _, _ = paired_difference(ours, others)
    assert rows["A2B"]["PV"]["p_values"] == rows["A2B"]["mean"]["p_values"]
    assert rows["A2B"]["PV"]["n_tests"] == 4
