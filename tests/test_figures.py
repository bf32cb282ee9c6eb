"""The comparison figure shows what it is given, boxed in the direction's colour, and never leaves half a file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roi_progressive.errors import DataError, ShapeError
from roi_progressive.evaluation import figures
from roi_progressive.evaluation.figures import (
    DIRECTION_COLORS,
    ComparisonRow,
    comparison_figure,
    curves_figure,
    median_patient,
    region_box,
)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The figures that would have been saved."""
    kept: list[Any] = []
    monkeypatch.setattr(figures, "save_figure", lambda figure, path: kept.append(figure))
    return kept


def row(direction: str = "A2B", with_map: bool = False, size_px: int = 48, **changes: Any) -> ComparisonRow:
    rng = np.random.default_rng(0)
    mask = np.zeros((size_px, size_px), dtype=bool)
    mask[10:16, 20:30] = True
    panels = {title: rng.integers(60, 200, mask.shape, dtype=np.uint8) for title in ("source", "plain", "target")}
    maps = {"uncertainty": rng.random(mask.shape) * 20} if with_map else {}
    values: dict[str, Any] = {"panels": panels, "mask": mask, "maps": maps} | changes
    return ComparisonRow("p1, ART", direction, **values)


def color_pixels(path: Path, color: str) -> int:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(np.array(Image.open(path).convert("RGB")).astype(int) - wanted).max(axis=-1) < 8).sum())


@pytest.mark.parametrize(("direction", "other"), [("A2B", "B2A"), ("B2A", "A2B")])
def test_the_region_is_boxed_in_the_directions_color(tmp_path: Path, direction: str, other: str) -> None:
    comparison_figure([row(direction)], tmp_path / "figure.png")
    assert color_pixels(tmp_path / "figure.png", DIRECTION_COLORS[direction]) > 1000
    assert color_pixels(tmp_path / "figure.png", DIRECTION_COLORS[other]) == 0


def test_each_image_is_shown_whole_and_enlarged_on_one_grey_scale(drawn: list[Any]) -> None:
    one = row(with_map=True)
    comparison_figure([one, row("B2A")], Path("unused.png"))
    axes = drawn[0].axes
    top, left, height, width = region_box(one.mask)
    for j, image in enumerate(one.panels.values()):
        whole, zoom = axes[j].images[0], axes[4 + j].images[0]
        np.testing.assert_array_equal(whole.get_array(), image)
        np.testing.assert_array_equal(zoom.get_array(), image[top : top + height, left : left + width])
        assert whole.get_clim() == zoom.get_clim() == (0, 255)
        assert axes[j].patches[0].get_bbox().bounds == (left - 0.5, top - 0.5, width, height)
    assert [axis.get_title() for axis in axes[:4]] == ["source", "plain", "target", "uncertainty"]
    np.testing.assert_array_equal(axes[3].images[0].get_array(), one.maps["uncertainty"])
    assert axes[3].images[0].get_clim() == axes[7].images[0].get_clim()
    assert "CT → MR" in axes[0].get_ylabel() and "MR → CT" in axes[8].get_ylabel()
    assert any("grey levels" in axis.get_ylabel() for axis in axes)


def test_maps_of_a_row_share_one_scale_and_a_row_without_a_map_leaves_its_place_empty(drawn: list[Any]) -> None:
    sigma = np.full((48, 48), 4.0)
    comparison_figure([row(maps={"sigma": sigma, "error": 3 * sigma}), row(maps={"error": sigma})], Path("unused.png"))
    axes = np.array(drawn[0].axes[:20]).reshape(4, 5)
    assert [axis.get_title() for axis in axes[0, 3:]] == ["sigma", "error"]
    assert axes[0, 3].images[0].get_clim() == axes[0, 4].images[0].get_clim() == (0, 12.0)
    assert not axes[2, 3].images and not axes[2, 3].axison and not axes[3, 3].axison
    assert axes[2, 4].images[0].get_clim() == (0, 4.0)


@pytest.mark.parametrize(
    ("rows", "columns", "corner"),
    [
        (slice(4, 12), slice(4, 12), (1, 1)),
        (slice(36, 44), slice(36, 44), (1, 0)),
        (slice(20, 28), slice(20, 28), (1, 1)),
        (slice(34, 42), slice(10, 38), (0, 1)),
    ],
)
def test_an_inset_lies_in_the_corner_that_hides_least_of_the_region(
    drawn: list[Any], rows: slice, columns: slice, corner: tuple[int, int]
) -> None:
    mask = np.zeros((48, 48), dtype=bool)
    mask[rows, columns] = True
    one = row(mask=mask, with_map=True)
    comparison_figure([one], Path("unused.png"), inset=True)
    top, left, height, width = region_box(mask)
    assert len(drawn[0].axes) == 5  # three panels, a map, its bar
    for axis, image in zip(drawn[0].axes, [*one.panels.values(), one.maps["uncertainty"]], strict=False):
        (zoom,) = axis.child_axes
        np.testing.assert_array_equal(zoom.images[0].get_array(), image[top : top + height, left : left + width])
        drawn[0].draw_without_rendering()
        inside = zoom.get_window_extent().transformed(axis.transAxes.inverted())
        down, right = corner
        assert (inside.y0 < 0.01, inside.y1 > 0.99, inside.x1 > 0.99, inside.x0 < 0.01) == (
            bool(down),
            not down,
            bool(right),
            not right,
        )


@settings(deadline=None)
@given(st.integers(0, 39), st.integers(0, 29), st.integers(1, 25), st.integers(1, 25))
def test_the_box_lies_in_the_image_and_holds_the_region(y: int, x: int, height: int, width: int) -> None:
    mask = np.zeros((40, 30), dtype=bool)
    mask[y : y + height, x : x + width] = True
    top, left, box_height, box_width = region_box(mask)
    assert min(top, left) >= 0 and top + box_height <= 40 and left + box_width <= 30
    assert mask[top : top + box_height, left : left + box_width].sum() == mask.sum()


def test_of_several_lesions_the_largest_is_boxed() -> None:
    mask = np.zeros((96, 96), dtype=bool)
    mask[4:8, 4:8] = mask[60:80, 50:70] = mask[8:14, 80:84] = True
    assert region_box(mask, margin_px=2) == (58, 48, 24, 24)


def test_rows_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="at least one slice"):
        comparison_figure([], "x.png")
    with pytest.raises(DataError, match="must all have the columns"):
        comparison_figure([row(), row(panels={"source": np.zeros((48, 48), np.uint8)})], "x.png")
    with pytest.raises(DataError, match="is empty"):
        comparison_figure([row(mask=np.zeros((48, 48), bool))], "x.png")
    with pytest.raises(ShapeError, match=r"\(48, 48\); got \(8, 8\)"):
        comparison_figure([row(maps={"sigma": np.zeros((8, 8))})], "x.png")
    with pytest.raises(DataError, match="'AtoB'"):
        comparison_figure([row("AtoB")], "x.png")


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_figures_are_written_in_the_format_of_their_ending(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"figure.{ending}"
    comparison_figure([row()], path)
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")
    assert list(tmp_path.iterdir()) == [path]


def test_a_figure_that_fails_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.figure import Figure

    def fail(self: Any, path: Path, **_: Any) -> None:
        Path(path).write_bytes(b"half")
        raise OSError("disk full")

    path = tmp_path / "figure.png"
    path.write_bytes(b"old")
    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(DataError, match=r"^`out` must be a folder that can be written; .+: disk full; free .+$"):
        comparison_figure([row()], path)
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("figure.png", b"old")]


def test_pyplots_global_state_is_left_alone(tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    before = (pyplot.get_fignums(), dict(rcParams))
    comparison_figure([row(with_map=True)], tmp_path / "figure.png")
    assert (pyplot.get_fignums(), dict(rcParams)) == before


def test_the_median_patient_is_the_middle_one_by_tumour_psnr() -> None:
    def scores(patient: str, tpsnr: float | None) -> Any:
        return {"patient": patient, "scores": {"tpsnr": tpsnr}}

    slices = [scores("worst", 5.0), scores("best", math.inf), scores("blank", None)]
    slices += [scores("middle", 10.0), scores("middle", 30.0)]
    assert median_patient(slices) == "middle"
    assert median_patient([*slices, scores("good", 25.0)]) == "middle"
    with pytest.raises(DataError, match="none does"):
        median_patient([scores("blank", None)])


# --- losses over the training -----------------------------------------------------------------------------------------


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


def test_curves_are_written_and_pyplots_global_state_is_left_alone(tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    before = (pyplot.get_fignums(), dict(rcParams))
    curves_figure({"plain": {"cycle": [1.0]}}, {"tumor": 1}, tmp_path / "curves.png")
    assert (pyplot.get_fignums(), dict(rcParams)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
