"""Names are text: read by a CSV reader, rendered as Markdown or drawn by matplotlib they show themselves, no more."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.figures import ComparisonRow, comparison_figure
from roi_progressive.evaluation.scoring import SliceScores
from roi_progressive.evaluation.table import render_csv, render_latex, render_markdown, render_text
from roi_progressive.saving.plain_text import in_csv, in_figure, in_latex, in_markdown, printable

NASTY = [
    "=HYPERLINK(\"http://x\")", "@SUM(A1)", "|cmd", "+1", "-2+3", "\t=1", " =1", "<script>alert(1)</script>",
    "[x](javascript:alert(1))", "![x](http://x)", "http://evil.example", "www.evil.example", "a|b", "`rm`",
    "\x1b[2J\x1b]0;t\x07",
    "\u202eabc", "$\\frac$", "a$b$c", "\ud800", "p\n\n# title", "50%", "\\input{x}", "a\u2028b", "*b* _c_", "# x",
]  # fmt: skip


def slices(name: str) -> list[SliceScores]:
    return [
        SliceScores(
            name=f"{name}.png", patient=name, phase=name, direction="A2B", region_px=3,
            scores={"psnr": 20.0, "tpsnr": 10.0}, reasons={"tssim": name}, fid_features=None,
        )
    ]  # fmt: skip


@pytest.mark.parametrize("name", NASTY)
def test_no_cell_of_a_csv_table_is_a_formula(name: str) -> None:
    results = {name: aggregate(slices(name))}
    for row in csv.reader(io.StringIO(render_csv(results))):
        for cell in row[:3]:
            assert not cell.lstrip().startswith(tuple("=+-@|%\t\r")) and "\x1b" not in cell


@pytest.mark.parametrize("name", NASTY)
def test_a_table_in_markdown_keeps_its_cells_and_has_no_markup_of_others(name: str) -> None:
    text = render_markdown({name: aggregate(slices(name))}, name, [name])
    header, rule, *rows = text.partition("\n\n")[0].split("\n")
    columns = rule.count("|")
    for row in (header, *rows):
        assert len(re.findall(r"(?<!\\)\|", row)) == columns
    assert "<" not in text.replace("&lt;", "") and not re.search(r"(?<!\\)\]\(|(?i:javascript:)|https?://|www\.", text)
    assert not re.search(r"^# ", text, flags=re.MULTILINE) and text.isprintable() is False  # but for the lines' ends
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("name", NASTY)
def test_a_table_for_a_terminal_and_for_latex_has_no_codes_of_others(name: str) -> None:
    results = {name: aggregate(slices(name))}
    for text in (render_text(results, name, [name]), render_latex(results, name, [name])):
        assert text.replace("\n", "").isprintable()
        text.encode()
    latex = render_latex(results, name, [name])
    assert all(line.startswith(("%", "\\", "arm")) or line.endswith(r"\\") for line in latex.splitlines())
    assert "\\input" not in "".join(line for line in latex.splitlines() if not line.startswith("%"))


@pytest.mark.parametrize("name", NASTY)
def test_a_figure_of_any_name_is_drawn(name: str, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), dtype=bool)
    mask[10:20, 10:20] = True
    image = np.zeros((32, 32), dtype=np.uint8)
    comparison_figure([ComparisonRow(name, "A2B", {name: image}, mask)], tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


@given(st.text())
def test_every_form_is_one_line_that_a_file_takes(text: str) -> None:
    for form in (printable, in_csv, in_markdown, in_latex):
        shown = form(text)
        assert shown.encode("utf-8") is not None and not {"\n", "\r", "\x1b"} & set(shown)
    in_figure(text).encode("utf-8")


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N"])))
def test_plain_words_stay_what_they_are(text: str) -> None:
    assert printable(text) == in_csv(text) == in_latex(text) == in_figure(text) == text
