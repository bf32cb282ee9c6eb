"""The comparison figure (the paper's Figures 3 and 4) and the loss curves, drawn without pyplot's global state."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ShapeError
from .aggregation import patient_values
from .image_files import Grey, Mask
from .scoring import SliceScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[int, int, int, int]

DIRECTION_COLORS = {"A2B": "#2f8fff", "B2A": "#ff3b30"}
DIRECTION_NAMES = {"A2B": "CT → MR", "B2A": "MR → CT"}
UNCERTAINTY_COLORMAP = "inferno"
PANEL_INCHES = 1.75
RESOLUTION_DPI = 200
ARM_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One slice in the comparison figure.

    Args:
        label: Written at the left under the direction, e.g. ``p07, ART``.
        direction: ``A2B`` (boxed in blue) or ``B2A`` (boxed in red).
        panels: Grey images by column title, in order, each [H, W] with values 0..255, e.g. ``source``, ``plain``,
            ``regions``, ``target``. All rows have the same titles.
        mask: The region, bool [H, W]; its box is enlarged below each panel.
        uncertainty: Standard deviation map [H, W] in grey levels, drawn as the last column, or ``None``.
    """

    label: str
    direction: str
    panels: Mapping[str, Grey]
    mask: Mask
    uncertainty: npt.NDArray[np.floating[Any]] | None = None


def comparison_figure(rows: Sequence[ComparisonRow], path: str | Path) -> None:
    """Draw real, generated and real images side by side, the region boxed and enlarged below each.

    Args:
        rows: From top to bottom.
        path: File to write (PNG, PDF or SVG by its ending); written aside, then renamed.

    Raises:
        DataError: There are no rows, rows have different columns, or a row's region is empty.
        ShapeError: A row's images, mask and map are not all [H, W] of one size.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    titles = _check_rows(rows)
    with_map = any(row.uncertainty is not None for row in rows)
    n_columns = len(titles) + with_map
    size = (PANEL_INCHES * n_columns + 0.45 + 0.65 * with_map, 2 * PANEL_INCHES * len(rows) + 0.15 * len(rows) + 0.3)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0))
    axes = figure.subplots(2 * len(rows), n_columns, squeeze=False)
    for i, row in enumerate(rows):
        box = region_box(row.mask)
        color = DIRECTION_COLORS[row.direction]
        for j, title in enumerate(titles):
            _panel(axes[2 * i, j], axes[2 * i + 1, j], row.panels[title], box, color, cmap="gray", vmin=0, vmax=255)
        axes[2 * i, 0].set_ylabel(f"{DIRECTION_NAMES[row.direction]}\n{row.label}", fontsize=8)
        axes[2 * i + 1, 0].set_ylabel("enlarged", fontsize=8)
        if with_map:
            _uncertainty_panels(figure, axes[2 * i, -1], axes[2 * i + 1, -1], row, box)
    for axis, title in zip(axes[0], [*titles, "uncertainty"], strict=False):
        axis.set_title(title, fontsize=9)
    save_figure(figure, Path(path))


def curves_figure(
    histories: Mapping[str, Mapping[str, Sequence[float | None]]],
    stage_epochs: Mapping[str, float],
    path: str | Path,
    first_epoch: int = 1,
) -> None:
    """Draw every loss over the epochs in a panel of its own, one line an arm, with the stages' starts marked.

    Args:
        histories: ``{arm: {loss: value per epoch}}``; ``None`` or NaN where a loss was not active.
        stage_epochs: First epoch of a stage by its label, e.g. ``{"liver": 67, "tumor": 134}``.
        path: File to write (PNG, PDF or SVG by its ending); written aside, then renamed.
        first_epoch: The epoch of the first value.

    Raises:
        DataError: No arm has any values.
    """
    from matplotlib.figure import Figure

    losses = list(dict.fromkeys(name for history in histories.values() for name, values in history.items() if values))
    if not losses:
        raise DataError("`histories` must hold at least one loss with values; there is none; train for an epoch first")
    n_columns = min(3, len(losses))
    n_rows = math.ceil(len(losses) / n_columns)
    figure = Figure(figsize=(3.2 * n_columns, 2.3 * n_rows + 0.4), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, squeeze=False, sharex=True).flat)
    for axis, loss in zip(axes, losses, strict=False):
        for i, (arm, history) in enumerate(histories.items()):
            values = np.array([math.nan if v is None else v for v in history.get(loss, ())], dtype=np.float64)
            epochs = np.arange(first_epoch, first_epoch + len(values))
            marker = "o" if np.isfinite(values).sum() == 1 else None
            axis.plot(epochs, values, color=ARM_COLORS[i % len(ARM_COLORS)], label=arm, linewidth=1.2, marker=marker)
        _mark_stages(axis, stage_epochs)
        axis.set_title(loss, fontsize=9, pad=14 if stage_epochs else 6)
        axis.tick_params(labelsize=8, labelbottom=True)
        axis.spines[["top", "right"]].set_visible(False)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes[len(losses) :]:
        axis.set_visible(False)
    for axis in axes[max(0, len(losses) - n_columns) : len(losses)]:
        axis.set_xlabel("epoch", fontsize=8)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), fontsize=8, frameon=False)
    save_figure(figure, Path(path))


def median_patient(slices: Iterable[SliceScores]) -> str:
    """The patient whose tumour PSNR is the median, which is the honest one to show.

    Args:
        slices: Scores of one arm and direction; with an even number of patients the lower of the middle two wins.

    Raises:
        DataError: No slice shows the region.
    """
    values = patient_values(slices, "tpsnr")
    if not values:
        raise DataError("`slices` must show the region in at least one slice to have a median patient; none does")
    ranked = sorted(values, key=lambda patient: (values[patient], patient))
    return ranked[(len(ranked) - 1) // 2]


def region_box(mask: Mask, margin_px: int = 6, min_side_px: int = 24) -> Box:
    """The square around a region that is boxed and enlarged, inside the image wherever that is possible.

    Returns:
        ``(top, left, height, width)``, square unless the image is narrower.
    """
    ys, xs = np.nonzero(mask)
    side = max(int(np.ptp(ys)) + 1 + 2 * margin_px, int(np.ptp(xs)) + 1 + 2 * margin_px, min_side_px)
    box = []
    for positions, length in ((ys, mask.shape[0]), (xs, mask.shape[1])):
        extent = min(side, length)
        start = (int(positions.min()) + int(positions.max()) + 1 - extent) // 2
        box.append((min(max(start, 0), length - extent), extent))
    return box[0][0], box[1][0], box[0][1], box[1][1]


def _check_rows(rows: Sequence[ComparisonRow]) -> list[str]:
    if not rows:
        raise DataError("`rows` must hold at least one slice to compare; it is empty")
    titles = list(rows[0].panels)
    for row in rows:
        if list(row.panels) != titles or not titles:
            raise DataError(f"`rows` must all have the columns {titles}; {row.label!r} has {list(row.panels)}")
        if row.direction not in DIRECTION_COLORS:
            raise DataError(f"`rows` must have the direction A2B or B2A; {row.label!r} has {row.direction!r}")
        for image in [*row.panels.values(), *([] if row.uncertainty is None else [row.uncertainty])]:
            if image.ndim != 2 or image.shape != row.mask.shape:
                raise ShapeError(f"`rows` must have images of their mask's size {row.mask.shape}; got {image.shape}")
        if not row.mask.any():
            raise DataError(f"`rows` must show the region to enlarge it; the mask of {row.label!r} is empty")
    return titles


def _panel(whole: Axes, zoom: Axes, image: npt.NDArray[Any], box: Box, color: str, **scale: Any) -> Any:
    from matplotlib.patches import Rectangle

    top, left, height, width = box
    whole.imshow(image, interpolation="nearest", **scale)
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=color, linewidth=1.2))
    part = image[top : top + height, left : left + width]
    drawn = zoom.imshow(part, interpolation="nearest", **scale)
    for axis in (whole, zoom):
        axis.set_xticks([])
        axis.set_yticks([])
    whole.spines[:].set_visible(False)
    zoom.spines[:].set(color=color, linewidth=1.8)
    return drawn


def _uncertainty_panels(figure: Figure, whole: Axes, zoom: Axes, row: ComparisonRow, box: Box) -> None:
    if row.uncertainty is None:
        whole.set_axis_off()
        zoom.set_axis_off()
        return
    highest = max(float(np.percentile(row.uncertainty, 99.5)), 1e-6)  # a few outliers must not darken the map
    color = DIRECTION_COLORS[row.direction]
    drawn = _panel(whole, zoom, row.uncertainty, box, color, cmap=UNCERTAINTY_COLORMAP, vmin=0, vmax=highest)
    bar = figure.colorbar(drawn, ax=[whole, zoom], shrink=0.9, aspect=28, pad=0.02, extend="max")
    bar.set_label("standard deviation, grey levels", fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _mark_stages(axis: Axes, stage_epochs: Mapping[str, float]) -> None:
    for label, epoch in stage_epochs.items():
        axis.axvline(epoch, color="0.45", linestyle="--", linewidth=0.9)
        axis.annotate(
            label,
            (epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color="0.3",
        )


def save_figure(figure: Figure, path: Path) -> None:
    """Write beside ``path`` and rename, so that a broken run leaves no half picture."""
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    try:
        figure.savefig(aside, dpi=RESOLUTION_DPI)
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
