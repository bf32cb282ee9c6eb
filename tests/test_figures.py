"""The comparison figure shows what it is given, boxed in the direction's colour, and never leaves half a file."""

from __future__ import annotations

import math
import re
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
    monkeypatch.setattr(figures, "save_figure", lambda figure, *paths: kept.append(figure))
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


def panels_of(figure: Any, n_columns: int) -> list[tuple[Any, Any]]:
    """The axes of each image and of its enlarged part, without those of colour scales."""
    axes = [axis for axis in figure.axes if axis.get_label() != "<colorbar>"]
    assert len(axes) % (2 * n_columns) == 0
    return list(zip(axes[::2], axes[1::2], strict=True))


def test_each_image_is_shown_whole_and_enlarged_on_one_grey_scale(drawn: list[Any]) -> None:
    one = row(with_map=True)
    comparison_figure([one, row("B2A", with_map=True)], Path("unused.png"))
    panels = panels_of(drawn[0], 4)
    top, left, height, width = region_box(one.mask)
    for (whole, zoom), image in zip(panels, one.panels.values(), strict=False):
        np.testing.assert_array_equal(whole.images[0].get_array(), image)
        np.testing.assert_array_equal(zoom.images[0].get_array(), image[top : top + height, left : left + width])
        assert whole.images[0].get_clim() == zoom.images[0].get_clim() == (0, 255)
        assert whole.patches[0].get_bbox().bounds == (left - 0.5, top - 0.5, width, height)
        assert zoom.get_xlim() == (left - 0.5, left + width - 0.5)
    assert [whole.get_title() for whole, _ in panels[:4]] == ["source", "plain", "target", "uncertainty"]
    np.testing.assert_array_equal(panels[3][0].images[0].get_array(), one.maps["uncertainty"])
    assert panels[3][0].images[0].get_clim() == panels[3][1].images[0].get_clim()
    assert "CT → MR" in panels[0][0].get_ylabel() and "MR → CT" in panels[4][0].get_ylabel()
    assert any("grey levels" in axis.get_ylabel() for axis in drawn[0].axes)


def test_maps_of_a_row_share_one_scale_and_a_row_without_a_map_leaves_its_place_empty(drawn: list[Any]) -> None:
    sigma = np.full((48, 48), 4.0)
    rows = [row(maps={"sigma": sigma, "error": 3 * sigma}), row(maps={"error": sigma}, map_unit="HU")]
    comparison_figure(rows, Path("unused.png"))
    panels = panels_of(drawn[0], 5)
    assert [whole.get_title() for whole, _ in panels[3:5]] == ["sigma", "error"]
    assert panels[3][0].images[0].get_clim() == panels[4][0].images[0].get_clim() == (0, 12.0)
    assert not panels[8][0].images and not panels[8][0].axison and not panels[8][1].axison
    assert panels[9][0].images[0].get_clim() == (0, 4.0)
    scales = [axis.get_ylabel() for axis in drawn[0].axes if axis.get_label() == "<colorbar>"]
    assert scales == ["grey levels", "HU"]


@settings(deadline=None, max_examples=20)
@given(st.integers(24, 90), st.integers(24, 90), st.data())
def test_the_enlarged_part_is_at_least_twice_as_large_and_covers_no_image(
    height_px: int, width_px: int, data: st.DataObject
) -> None:
    mask = np.zeros((height_px, width_px), dtype=bool)
    bottom, right = data.draw(st.integers(1, height_px)), data.draw(st.integers(1, width_px))
    mask[data.draw(st.integers(0, bottom - 1)) : bottom, data.draw(st.integers(0, right - 1)) : right] = True
    image = np.zeros(mask.shape, np.uint8)
    kept: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "save_figure", lambda figure, *paths: kept.append(figure))
        comparison_figure([row(mask=mask, panels={"a": image, "b": image})], Path("unused.png"))
    kept[0].draw_without_rendering()
    extents = [axis.get_window_extent() for axis in kept[0].axes]
    _, _, box_height, box_width = region_box(mask)
    for (whole, zoom), label in zip(panels_of(kept[0], 2), (True, False), strict=True):
        outside, inside = whole.get_window_extent(), zoom.get_window_extent()
        magnification = (inside.width / box_width) / (outside.width / width_px)
        assert magnification >= 2 - 1e-6
        assert inside.height / box_height == pytest.approx(inside.width / box_width, rel=1e-3), "not distorted"
        assert outside.height / height_px == pytest.approx(outside.width / width_px, rel=1e-3)
        if label:
            said = re.fullmatch(r"enlarged (\d+\.\d) ×", zoom.get_ylabel())
            assert said is not None and abs(float(said[1]) - magnification) <= 0.05 + 1e-6, "to the digit it is said to"
    for i, one in enumerate(extents):
        assert not any(one.overlaps(other) for other in extents[i + 1 :])


def test_the_masks_outline_is_drawn_and_colours_are_explained(drawn: list[Any]) -> None:
    one = row(with_map=True)
    comparison_figure([one, row("B2A")], Path("unused.png"), region="cyst")
    inside = np.argwhere(one.mask)
    for whole, zoom in panels_of(drawn[0], 4)[:4]:
        for axis in (whole, zoom):
            (outline,) = axis.lines
            assert outline.get_color() == figures.OUTLINE_COLOR
            x, y = outline.get_data()
            assert (y.min(), y.max()) == (inside[:, 0].min() - 0.5, inside[:, 0].max() + 0.5)
            assert (x.min(), x.max()) == (inside[:, 1].min() - 0.5, inside[:, 1].max() + 0.5)
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == [
        "outline of the cyst", "the part enlarged below it (CT → MR)", "the part enlarged below it (MR → CT)",
    ]  # fmt: skip


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
    texts = [text.get_text() for text in drawn[0].legends[0].get_texts()]
    assert texts == ["plain", "regions", "liver, tumor: a stage begins"]


def test_equal_curves_of_several_arms_are_all_seen(tmp_path: Path) -> None:
    same = {"cycle": [3.0, 2.0, 1.0, 2.0]}
    curves_figure({"plain": same, "regions": same, "placebo": same}, {}, tmp_path / "curves.png")
    pixels = np.array(Image.open(tmp_path / "curves.png").convert("RGB")).astype(int)
    below_the_legend = pixels[pixels.shape[0] // 5 :]
    colors = [np.array([int(figures.ARM_COLORS[i][j : j + 2], 16) for j in (1, 3, 5)]) for i in range(3)]
    colors[0] = np.rint(255 + figures.ARM_STYLES[0]["alpha"] * (colors[0] - 255)).astype(int)  # over white
    for color in colors:
        assert (np.abs(below_the_legend - color).max(axis=-1) < 12).sum() > 100


@pytest.mark.parametrize(
    ("values", "scale"), [([2.0, 0.2], "log"), ([2.0, 0.3], "linear"), ([-1.0, 30.0], "linear"), ([0.0, 5.0], "linear")]
)
def test_an_axis_is_logarithmic_where_positive_values_span_a_factor_of_ten(
    drawn: list[Any], values: list[float], scale: str
) -> None:
    curves_figure({"plain": {"cycle": [None, *values]}}, {}, Path("unused.png"), units={"cycle": "grey levels"})
    (axis,) = drawn[0].axes
    assert axis.get_yscale() == scale and axis.get_ylabel() == "grey levels"


def test_curves_without_values_are_refused() -> None:
    with pytest.raises(DataError, match="train for an epoch"):
        curves_figure({"plain": {"cycle": []}}, {}, "x.png")


def test_curves_are_written_and_pyplots_global_state_is_left_alone(tmp_path: Path) -> None:
    from matplotlib import pyplot, rcParams

    before = (pyplot.get_fignums(), dict(rcParams))
    curves_figure({"plain": {"cycle": [1.0]}}, {"tumor": 1}, tmp_path / "curves.png")
    assert (pyplot.get_fignums(), dict(rcParams)) == before
    assert [path.name for path in tmp_path.iterdir()] == ["curves.png"]
