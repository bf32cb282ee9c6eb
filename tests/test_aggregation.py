"""Slices are averaged within patients first, then over patients, by direction and phase."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from roi_progressive.evaluation.aggregation import aggregate, patient_values
from roi_progressive.evaluation.scoring import SliceScores

NO_WEIGHTS = "no weights: put the file into --weights DIR"


def scored(patient: str, tpsnr: float | None = 20.0, phase: str = "ART", **changes: Any) -> SliceScores:
    direction = changes.pop("direction", "A2B")
    features = changes.pop("features", None)
    region = None if tpsnr is None else 1.0
    scores = {"tpsnr": tpsnr, "tssim": region, "psnr": 30.0, "ssim": 0.9, "texture_ratio": region}
    scores |= {"lpips": None, "region_lpips": None}
    reasons = {"lpips": NO_WEIGHTS} | ({} if features else dict.fromkeys(("fid", "kid"), "not asked for"))
    if tpsnr is None:
        reasons |= dict.fromkeys(("tpsnr", "tssim", "texture_ratio"), "no region in the slice")
    return {
        "name": f"{patient}_{phase}_000.png",
        "patient": patient,
        "phase": phase,
        "direction": direction,
        "region_px": 0 if tpsnr is None else 9,
        "scores": scores | changes,
        "reasons": reasons,
        "fid_features": features,
    }


def test_a_patient_with_many_slices_counts_once() -> None:
    cell = aggregate([scored("big", 10.0)] * 8 + [scored("small", 30.0)])["A2B"]["ART"]
    assert cell["tpsnr"] == pytest.approx(20.0)
    assert (cell["n_slices"], cell["n_patients"]) == (9, 2)


def test_slices_without_the_region_are_left_out_and_counted() -> None:
    cell = aggregate([scored("a", 10.0), scored("a", None, psnr=40.0), scored("b", None)])["A2B"]["ART"]
    assert cell["tpsnr"] == 10.0
    assert cell["psnr"] == pytest.approx((35.0 + 30.0) / 2)
    assert (cell["n_region_slices"], cell["n_without_region"], cell["n_patients"]) == (1, 2, 2)


def test_identical_pixels_count_as_a_hundred_decibels() -> None:
    cell = aggregate([scored("a", math.inf), scored("b", 20.0, psnr=math.inf)])["A2B"]["ART"]
    assert cell["tpsnr"] == pytest.approx(60.0)
    assert cell["psnr"] == pytest.approx(65.0)


def test_texture_is_averaged_geometrically_and_flat_paint_does_not_end_it() -> None:
    cells = aggregate([scored("a", texture_ratio=0.5), scored("b", texture_ratio=2.0)])["A2B"]
    assert cells["ART"]["texture_ratio"] == pytest.approx(1.0)
    flat = aggregate([scored("a", texture_ratio=0.0), scored("b", texture_ratio=0.1)])["A2B"]["ART"]
    assert flat["texture_ratio"] == pytest.approx(0.01)


def test_the_mean_row_is_the_mean_over_phases_and_counts_patients_once() -> None:
    slices = [scored("a", 10.0, "NC"), scored("a", 20.0, "ART"), scored("b", 40.0, "ART"), scored("b", 33.0, "PV")]
    rows = aggregate(slices)["A2B"]
    assert list(rows) == ["ART", "PV", "NC", "mean"]
    assert rows["mean"]["tpsnr"] == pytest.approx((30.0 + 33.0 + 10.0) / 3)
    assert (rows["mean"]["n_slices"], rows["mean"]["n_patients"]) == (4, 2)


def test_the_mean_row_is_empty_where_a_phase_is() -> None:
    mean = aggregate([scored("a", 10.0, "ART"), scored("a", None, "PV")])["A2B"]["mean"]
    assert mean["tpsnr"] is None
    assert mean["reasons"]["tpsnr"] == "no value for PV: no region in the slice"
    assert mean["reasons"]["lpips"] == NO_WEIGHTS


def test_directions_are_kept_apart() -> None:
    results = aggregate([scored("a", 10.0), scored("a", 20.0, direction="B2A")])
    assert (results["A2B"]["ART"]["tpsnr"], results["B2A"]["ART"]["tpsnr"]) == (10.0, 20.0)


def test_fid_of_a_single_image_is_missing_with_its_reason() -> None:
    cell = aggregate([scored("a", features=(np.zeros(4, np.float32), np.zeros(4, np.float32)))])["A2B"]["ART"]
    assert cell["fid"] is None and cell["reasons"]["fid"] == "FID needs at least two images"


def test_results_are_plain_json() -> None:
    results = aggregate([scored("a", math.inf), scored("b", None, "PV")])
    assert json.loads(json.dumps(results, allow_nan=False)) == results


def test_patients_without_the_region_have_no_value() -> None:
    assert patient_values([scored("a", 10.0), scored("a", 20.0), scored("b", None)], "tpsnr") == {"a": 15.0}
