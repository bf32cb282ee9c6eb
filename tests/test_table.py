"""The table says which way is better, how sure a value is, and why a cell is empty."""

from __future__ import annotations

import csv
import io
import re
from typing import Any

import numpy as np
import pytest

from roi_progressive.cli.command import line_width
from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.distances import frechet_distance, kernel_distance
from roi_progressive.evaluation.intervals import paired_difference, with_intervals
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
    assert "fewer than 2048 images (here n = 7)" in render_text({"plain": aggregate(slices)})


def test_lesions_are_counted_and_their_shares_averaged_as_other_scores() -> None:
    slices = [scored("a", lost=1.0), scored("a", lost=0.0), scored("b", lost=0.0), scored("b", lost=None)]
    counted = [{**one, "n_lesions": 2, "n_unclear_lesions": i} for i, one in enumerate(slices)]
    results = aggregate(counted)  # type: ignore[arg-type]
    mean = results["A2B"]["mean"]
    assert (mean["lost"], mean["n_lesions"], mean["n_unclear_lesions"]) == (0.25, 8, 6)
    text = unwrapped({"plain": results})
    assert "lesions" in text.splitlines()[0] and "lost ↓" in text.splitlines()[1]
    assert "in truth): A2B 8 (6)." in text
    assert "Clear lesions" not in render_text({"plain": aggregate(slices)})


def test_extra_scores_become_columns_of_a_group_of_their_own() -> None:
    results = {"plain": aggregate([scored("a", depth=1.0), scored("b", depth=2.0)])}
    assert results["plain"]["A2B"]["mean"]["depth"] == 1.5
    groups, titles, _, _, row, *_ = render_text(results).splitlines()
    assert groups.endswith("further") and titles.split()[-1] == "depth" and row.split()[-1] == "1.5000"


def two_arms() -> dict[str, Any]:
    slices = [scored("a", 10.123, "ART"), scored("a", None, "PV"), scored("b", 12.0, "ART", direction="B2A")]
    return {"plain": aggregate(slices), "regions | GGD": aggregate(slices)}


def unwrapped(results: dict[str, Any], **changes: Any) -> str:
    """The table for a terminal as wide as it takes."""
    return render_text(results, width=None, **changes)


def body(text: str) -> list[str]:
    """The lines of a table for a terminal above its legend, without empty ones."""
    lines = text.splitlines()
    return [line for line in lines[: next(i for i, line in enumerate(lines) if line.startswith("↑"))] if line]


def test_headers_say_what_is_measured_and_which_way_is_better() -> None:
    slices = [scored("a", lost=0.5, lpips=0.2), scored("b", lost=0.5, lpips=0.2)]
    groups, titles, *_ = unwrapped({"plain": aggregate(slices)}, region="cyst").splitlines()
    shown = [title for title in re.split(r"\s{2,}", titles) if title]
    assert shown == ["TPSNR ↑", "TSSIM ↑", "texture → 1", "PSNR ↑", "SSIM ↑", "LPIPS ↓", "lost ↓"]
    places = [groups.index(group) for group in ("cyst", "whole image", "lesions")]
    assert (
        places[0] <= titles.index("TPSNR") < places[1] <= titles.index(" PSNR") + 1 < places[2] <= titles.index("lost")
    )
    text = unwrapped(two_arms(), region="lesion")
    assert "↓ lower is better" in text and "PSNR and SSIM of the lesion alone" in text


def test_no_line_is_longer_than_the_width_and_every_column_has_its_place(capsys: pytest.CaptureFixture[str]) -> None:
    slices = [
        scored(patient, 20.0 + i, phase, lpips=0.1, region_lpips=0.2, lost=0.1, inverted=0.2, invented=0.3)
        for i, patient in enumerate("abcd")
        for phase in ("ART", "PV")
    ]
    results = {name: with_intervals(aggregate(slices), slices) for name in ("model", "constant_fill", "copy_source")}
    headings = {"TPSNR", "TSSIM", "PSNR", "SSIM", "texture", "LPIPS", "region", "lost", "inverted", "invented"}
    for width in (100, 80, 60):
        text = render_text(results, width=width)
        assert max(map(len, text.splitlines())) <= width
        titles = {word for line in text.splitlines() if "↑" in line or "↓" in line for word in line.split()}
        assert headings <= titles
    wide = body(unwrapped(results))
    assert sum("TPSNR" in line for line in wide) == 1 and "invented" in wide[1]


@pytest.mark.parametrize(("is_terminal", "width"), [(True, 72), (False, 100)])
def test_the_terminal_decides_how_wide_lines_are_and_a_hundred_columns_where_it_is_none(
    is_terminal: bool, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "72")
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    assert line_width() == width


def test_a_row_of_one_phase_stands_once_and_several_phases_below_one_another_with_their_mean() -> None:
    one = {"model": aggregate([scored("a", 10.0, "PV"), scored("b", 12.0, "PV")])}
    lines = body(render_text(one))
    assert lines[3:] == ["A2B", lines[4]] and lines[4].split()[:2] == ["model", "11.00"]
    assert "Measured on (A2B): PV 2 patients, 2 slices (2 with the region)." in render_text(one)
    several = {"model": aggregate([scored("a", 10.0, "PV"), scored("b", 12.0, "ART")])}
    rows = [line.split()[:3] for line in body(render_text(several))[4:]]
    assert rows == [["model", "ART", "12.00"], ["PV", "10.00", "1.0000"], ["mean", "11.00", "1.0000"]]


def test_what_can_be_compared_stands_together() -> None:
    lines = body(unwrapped(two_arms()))
    assert [line for line in lines if line in ("A2B", "B2A")] == ["A2B", "B2A"]
    assert [line.split()[0] for line in lines[3:] if "ART" in line] == ["plain", "regions", "plain", "regions"]


def test_columns_that_hold_nothing_are_left_out_and_named_once_with_their_reason() -> None:
    for text in (unwrapped(two_arms()), render_markdown(two_arms())):
        table = text.partition("↑ higher")[0]
        assert "LPIPS" not in table and "FID" not in table
        (line,) = [line for line in text.splitlines() if line.startswith("Left out")]
        assert f"LPIPS ({NO_WEIGHTS})" in line and "lost, inverted, invented, region LPIPS, FID, KID" in line
        assert "(not asked for)" in line
        assert text.count(NO_WEIGHTS) == 1


def test_every_reason_for_an_empty_cell_is_printed_once() -> None:
    for text in (unwrapped(two_arms()), render_markdown(two_arms())):
        marks = [line.split()[0] for line in text.splitlines() if line.strip().endswith("] no region in the slice")]
        assert marks == ["[1]"] and text.count("n/a [1]") == 6


def test_rows_without_a_value_in_a_block_are_left_out_of_it_and_the_reason_stands_once() -> None:
    with_lesions = [scored("a", 10.0, lost=0.5), scored("a", 11.0, direction="B2A", lost=None)]
    without = [scored("a", 12.0), scored("a", 13.0, direction="B2A")]
    results = {"model": aggregate(with_lesions), "other": aggregate(without)}
    text = render_text(results, width=60)
    lesions = text[text.index("lesions") : text.index("A row stands")].splitlines()
    assert [line.split()[0] for line in lesions[3:] if line] == ["A2B", "model", "B2A", "n/a"]
    assert "[1] not asked for" in text and "A row stands in the blocks alone in which it has a value." in text
    assert "A row stands" not in render_text({"model": aggregate(without)}, width=60)


def test_columns_that_are_asked_for_are_shown_also_where_they_hold_nothing() -> None:
    text = render_text(two_arms(), columns=["psnr", "lpips", "n_slices"])
    assert [title for title in re.split(r"\s{2,}", body(text)[1]) if title] == ["PSNR ↑", "LPIPS ↓", "n"]
    assert "n/a [1]" in text and f"[1] {NO_WEIGHTS}" in text and "TPSNR ↑" not in text


def test_text_columns_are_aligned() -> None:
    lines = body(unwrapped(two_arms()))
    rule = lines[2]
    rows = [line for line in lines[3:] if line not in ("A2B", "B2A")]
    titles = re.split(r"\s{2,}", lines[1].strip())
    ends, at = [], 0
    for title in titles:
        at = lines[1].index(title, at) + len(title)
        ends.append(at)
    assert len(rows) == 8 and len(rule) == ends[-1]
    for line in rows:
        assert all(line[end - 1] != " " and line[end : end + 2].strip() == "" for end in ends)


def test_markdown_rows_have_one_cell_per_column() -> None:
    lines = [line for line in render_markdown(two_arms()).splitlines() if line.startswith("|")]
    assert len(lines) == 10
    assert {line.replace("\\|", "").count("|") for line in lines} == {3 + 5 + 1}
    assert lines[2].startswith("| A2B | plain | ART | 10.12 |")
    assert lines[-1].startswith("| B2A | regions \\| GGD | ART | 12.00 |")


def with_three_patients() -> tuple[dict[str, Any], list[SliceScores]]:
    slices = [scored(patient, value) for patient, value in (("a", 10.0), ("b", 20.0), ("c", 33.0))]
    return {"our_net": with_intervals(aggregate(slices), slices)}, slices


def test_intervals_stand_below_their_row_or_behind_their_value() -> None:
    results, _ = with_three_patients()
    low, high = results["our_net"]["A2B"]["ART"]["intervals"]["tpsnr"]
    shown = f"[{low:.2f}, {high:.2f}]"
    row, below = body(render_text(results))[4:6]
    assert "21.00" in row and shown in below and below.index(shown) + len(shown) == row.index("21.00") + 5
    assert f"| A2B | our_net | 21.00 {shown} |" in render_markdown(results)
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
    columns = body[0].partition("{ll")[2].count("r") + 2
    rows = [line for line in body if line.endswith(r"\\")]
    assert body[0].startswith(r"\begin{tabular}") and body[-1] == r"\end{tabular}" and len(rows) == 2
    assert {line.count(" & ") + 1 for line in rows} == {columns}
    assert r"A2B & our\_net & 21.00~[" in rows[1] and r"TPSNR $\uparrow$" in rows[0]
    assert any("gross_tumor" in line for line in lines if line.startswith("%"))


def test_a_difference_is_printed_with_its_sign() -> None:
    _, slices = with_three_patients()
    better = [{**one, "scores": {**one["scores"], "tpsnr": (one["scores"]["tpsnr"] or 0.0) + 0.5}} for one in slices]
    difference, _, _ = paired_difference([*better], slices)  # type: ignore[list-item]
    text = render_markdown({"difference": difference})
    assert "| A2B | difference | +0.50 [0.50, 0.50] p=0.250 |" in text
    assert "Measured on (A2B): ART 3 patients, 3 slices (3 with the region)." in text
