"""Curves are the losses by epoch, one line an arm, with the stages marked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roi_progressive.errors import DataError
from roi_progressive.evaluation import curves
from roi_progressive.evaluation.curves import curves_figure


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would have been saved."""
    kept: list[Any] = []
    monkeypatch.setattr(curves, "save_figure", lambda figure, path: kept.append(figure))
    return kept


def test_curves_are_the_values_by_epoch_and_stages_are_labelled(drawn: list[Any]) -> None:
    histories = {"plain": {"cycle": [3.0, 2.0, 1.0]}, "regions": {"cycle": [3.0, 1.5, 1.0], "tumor": [None, 0.5, 0.4]}}
    curves_figure(histories, {"liver": 2, "tumor": 3}, Path("unused.png"))
    cycle, tumor = drawn[0].axes
    assert [cycle.get_title(), tumor.get_title()] == ["cycle", "tumor"]
    curves = {line.get_label(): line for line in cycle.lines[:2]}
    np.testing.assert_array_equal(curves["regions"].get_xydata(), [(1, 3.0), (2, 1.5), (3, 1.0)])
    np.testing.assert_array_equal(tumor.lines[1].get_ydata(), [math.nan, 0.5, 0.4])
    assert curves["plain"].get_color() == tumor.lines[0].get_color() != curves["regions"].get_color()
    for axis in (cycle, tumor):
        assert [text.get_text() for text in axis.texts] == ["liver", "tumor"]
        assert [line.get_xdata()[0] for line in axis.lines[2:]] == [2, 3]
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == ["plain", "regions"]


def test_curves_without_values_are_refused() -> None:
    with pytest.raises(DataError, match="train for an epoch"):
        curves_figure({"plain": {"cycle": []}}, {}, "x.png")


def test_the_file_is_written_and_pyplots_global_state_is_left_alone(tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    before = (pyplot.get_fignums(), dict(rcParams))
    curves_figure({"plain": {"cycle": [1.0]}}, {"tumor": 1}, tmp_path / "curves.png")
    assert (pyplot.get_fignums(), dict(rcParams)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
