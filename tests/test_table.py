"""The table says which way is better, how sure a value is, and why a cell is empty."""

from __future__ import annotations

import csv
import io
from typing import Any

import numpy as np
import pytest

from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.distances import frechet_distance, kernel_distance
from roi_progressive.evaluation.intervals import paired_difference, with_intervals
from roi_progressive.evaluation.metrics import COUNTS, METRICS
from roi_progressive.evaluation.scoring import SliceScores
from roi_progressive.evaluation.table import render_csv, render_latex, render_markdown, render_text

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


def test_fid_and_kid_are_one_distance_over_all_slices_of_the_phase() -> None:
    rng = np.random.default_rng(0)
    real, fake = rng.normal(size=(7, 5)).astype(np.float32), rng.normal(size=(7, 5)).astype(np.float32)
    slices = [scored(f"p{i % 2}", features=(real[i], fake[i])) for i in range(7)]
    rows = aggregate(slices)["A2B"]
    assert rows["ART"]["fid"] == rows["mean"]["fid"] == pytest.approx(frechet_distance(real, fake))
    assert rows["ART"]["kid"] == rows["mean"]["kid"] == pytest.approx(kernel_distance(real, fake))
    assert rows["ART"]["n_slices"] == 7
    assert "fewer than 2048 images" in render_text({"plain": aggregate(slices)})


def test_lesions_are_counted_and_their_shares_averaged_as_other_scores() -> None:
    slices = [scored("a", lost=1.0), scored("a", lost=0.0), scored("b", lost=0.0), scored("b", lost=None)]
    counted = [{**one, "n_lesions": 2, "n_unclear_lesions": i} for i, one in enumerate(slices)]
    results = aggregate(counted)  # type: ignore[arg-type]
    mean = results["A2B"]["mean"]
    assert (mean["lost"], mean["n_lesions"], mean["n_unclear_lesions"]) == (0.25, 8, 6)
    text = render_text({"plain": results})
    assert "lost ↓  inverted ↓  invented ↓" in text and "in truth): A2B 8 (6)." in text
    assert "Clear lesions" not in render_text({"plain": aggregate(slices)})


def test_extra_scores_become_columns() -> None:
    results = {"plain": aggregate([scored("a", depth=1.0), scored("b", depth=2.0)])}
    assert results["plain"]["A2B"]["mean"]["depth"] == 1.5
    header, _, row, *_ = render_text(results).splitlines()
    assert header.split()[-5:] == ["depth", "patients", "n", "n", "region"] and "1.5000" in row


def two_arms() -> dict[str, Any]:
    slices = [scored("a", 10.123, "ART"), scored("a", None, "PV"), scored("b", 12.0, "ART", direction="B2A")]
    return {"plain": aggregate(slices), "regions | GGD": aggregate(slices)}


def test_headers_say_which_way_is_better() -> None:
    text = render_text(two_arms(), region="lesion")
    header = text.splitlines()[0]
    for title in (
        "TPSNR ↑",
        "TSSIM ↑",
        "PSNR ↑",
        "SSIM ↑",
        "texture → 1",
        "region LPIPS ↓",
        "FID ↓",
        "KID ↓",
        "patients",
        "n region",
    ):
        assert title in header
    assert "↓ lower is better" in text and "those of the lesion alone" in text


def test_every_reason_is_printed_once() -> None:
    for text in (render_text(two_arms()), render_markdown(two_arms())):
        assert text.count(NO_WEIGHTS) == 1
        mark = next(line for line in text.splitlines() if NO_WEIGHTS in line).split()[0]
        assert text.count(f"n/a {mark}") == 10


def test_text_columns_are_aligned() -> None:
    lines = render_text(two_arms()).splitlines()
    rule = lines[1]
    ends = [i for i, dash in enumerate(rule) if dash == "-" and rule[i + 1 : i + 2] != "-"]
    rows = [line for line in lines[2 : lines.index(next(line for line in lines if line.startswith("↑")))] if line]
    assert len(rows) == 10
    for line in [lines[0], *rows]:
        assert all(line[end + 1 : end + 3].strip() == "" and line[end] != " " for end in ends[3:])


def test_markdown_rows_have_one_cell_per_column() -> None:
    lines = [line for line in render_markdown(two_arms()).splitlines() if line.startswith("|")]
    assert len(lines) == 12
    shown = [metric for metric in METRICS if metric.needs not in ("hu", "sigma")]
    assert {line.replace("\\|", "").count("|") for line in lines} == {3 + len(shown) + len(COUNTS) + 1}
    assert "| plain | A2B | ART | 10.12 |" in lines[2]
    assert lines[-1].startswith("| regions \\| GGD | B2A | mean | 12.00 |")


def with_three_patients() -> tuple[dict[str, Any], list[SliceScores]]:
    slices = [scored(patient, value) for patient, value in (("a", 10.0), ("b", 20.0), ("c", 33.0))]
    return {"our_net": with_intervals(aggregate(slices), slices)}, slices


def test_intervals_stand_below_their_row_or_behind_their_value() -> None:
    results, _ = with_three_patients()
    low, high = results["our_net"]["A2B"]["ART"]["intervals"]["tpsnr"]
    shown = f"[{low:.2f}, {high:.2f}]"
    row, below = render_text(results).splitlines()[2:4]
    assert "21.00" in row and shown in below and below.index(shown) + len(shown) == row.index("21.00") + 5
    assert f"| our_net | A2B | ART | 21.00 {shown} |" in render_markdown(results)
    assert "95 %" in render_text(results) and "95 %" not in render_text({"our_net": aggregate([scored("a")])})


def test_csv_holds_full_numbers_with_their_intervals() -> None:
    results, _ = with_three_patients()
    [first, mean] = csv.DictReader(io.StringIO(render_csv(results)))
    cell = results["our_net"]["A2B"]["ART"]
    assert (first["arm"], first["phase"], mean["phase"]) == ("our_net", "ART", "mean")
    assert [float(first[f"tpsnr{end}"]) for end in ("", "_low", "_high")] == [
        cell["tpsnr"],
        *cell["intervals"]["tpsnr"],
    ]
    assert first["lpips"] == first["lpips_low"] == "" and first["n_region_slices"] == "3"


def test_latex_rows_have_one_cell_per_column_and_no_bare_special_character() -> None:
    results, _ = with_three_patients()
    lines = render_latex(results, region="gross_tumor").splitlines()
    body = [line for line in lines if not line.startswith("%")]
    columns = body[0].partition("{lll")[2].count("r") + 3
    rows = [line for line in body if line.endswith(r"\\")]
    assert body[0].startswith(r"\begin{tabular}") and body[-1] == r"\end{tabular}" and len(rows) == 3
    assert {line.count(" & ") + 1 for line in rows} == {columns}
    assert r"our\_net & A2B & ART & 21.00~[" in rows[1] and r"TPSNR $\uparrow$" in rows[0]
    assert any("gross_tumor" in line for line in lines if line.startswith("%"))


def test_a_difference_is_printed_with_its_sign() -> None:
    _, slices = with_three_patients()
    better = [{**one, "scores": {**one["scores"], "tpsnr": (one["scores"]["tpsnr"] or 0.0) + 0.5}} for one in slices]
    difference, _, _ = paired_difference([*better], slices)  # type: ignore[list-item]
    text = render_markdown({"difference": difference})
    assert "| difference | A2B | ART | +0.50 [0.50, 0.50] p=0.250 |" in text and "| 3 | 3 | 3 |" in text
