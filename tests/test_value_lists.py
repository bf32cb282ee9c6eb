"""slices.csv and patients.csv hold every value: what a table averages can be averaged again from them."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import pytest

from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.scoring import SliceScores
from roi_progressive.evaluation.value_lists import patients_csv, slices_csv


def scored(
    patient: str, number: int, psnr: float, tpsnr: float | None, phase: str = "ART", **changes: Any
) -> SliceScores:
    return {
        "name": f"{patient}_{phase}_{number:03d}.png",
        "patient": patient,
        "phase": phase,
        "direction": "A2B",
        "region_px": 0 if tpsnr is None else 9,
        "n_lesions": 2,
        "n_unclear_lesions": 1,
        "scores": {"psnr": psnr, "tpsnr": tpsnr, **changes},
        "reasons": {} if tpsnr is not None else {"tpsnr": "no region in the slice"},
        "fid_features": None,
    }


SLICES = [
    scored("a", 0, 20.0, 10.0, depth=1 / 3),
    scored("a", 1, 31.0, None, depth=2.0),
    scored("b", 0, math.inf, 14.0, "PV", depth=3.0),
    scored("=b", 0, 25.0, 14.5, depth=4.0),
]


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def test_every_slice_of_every_arm_has_its_line_with_values_at_full_precision() -> None:
    found = rows(slices_csv({"model": SLICES, "copy_source": SLICES[:1]}))
    assert [row["arm"] for row in found] == ["model"] * 4 + ["copy_source"]
    assert list(found[0]) == [
        *("arm", "direction", "phase", "patient", "name", "region_px", "n_lesions", "n_unclear_lesions"),
        *("tpsnr", "psnr", "depth"),
    ]
    assert found[0]["name"] == "a_ART_000.png" and float(found[0]["depth"]) == 1 / 3
    assert found[1]["tpsnr"] == "" and found[1]["region_px"] == "0" and found[0]["n_unclear_lesions"] == "1"
    assert float(found[2]["psnr"]) == math.inf
    assert found[3]["patient"] == "'=b", "no formula"


def test_a_patients_values_are_the_means_that_the_table_averages() -> None:
    found = rows(patients_csv({"model": SLICES}))
    assert [(row["phase"], row["patient"]) for row in found] == [("ART", "a"), ("ART", "'=b"), ("PV", "b")]
    first, second, third = found
    assert (first["n_slices"], first["n_region_slices"]) == ("2", "1")
    assert float(first["psnr"]) == pytest.approx((20.0 + 31.0) / 2) and float(first["tpsnr"]) == 10.0
    assert float(third["psnr"]) == 100.0, "capped, as in the table"
    cell = aggregate(SLICES)["A2B"]["ART"]
    for score in ("psnr", "tpsnr", "depth"):
        assert cell[score] == pytest.approx((float(first[score]) + float(second[score])) / 2)
