"""The figures, drawn without pyplot's global state.

The comparison of real and generated images (the paper's Figures 3 and 4), the losses over the training, and the
reliability diagram of the predicted standard deviation.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ShapeError
from ..saving.names import CT_AND_MR, DIRECTIONS, Domains
from ..saving.plain_text import in_figure
from ..saving.whole_files import writing, written_whole
from .aggregation import patient_values
from .image_files import Grey, Mask
from .metrics import TPSNR
from .scoring import SliceScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Box = tuple[int, int, int, int]

DIRECTION_COLORS = dict(zip(DIRECTIONS, ("#2f8fff", "#ff3b30"), strict=True))
ARM_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito
MAP_COLORMAP = "inferno"
PANEL_INCHES = 1.75
INSET_SHARE = 0.42
"""Side of an inset, as a share of its panel's shorter side."""
RESOLUTION_DPI = 200
MIN_BIN_PX = 50
"""Fewer pixels make no point of the reliability diagram."""


@dataclass(frozen=True, eq=False)
class ComparisonRow:
    """One slice in the comparison figure.

    Args:
        label: Written at the left under the direction, e.g. ``p07, ART``.
        direction: ``A2B`` (boxed in blue) or ``B2A`` (boxed in red).
        panels: Grey images by column title, in order, each [H, W] with values 0..255, e.g. ``source``, ``plain``,
            ``regions``, ``target``. All rows have the same titles.
        mask: The region, bool [H, W]; its box is enlarged.
        maps: Maps [H, W] in grey levels, at least 0, by column title, e.g. the standard deviation; drawn behind the
            panels in colour, those of a row on one scale. A row may lack any of them.
    """

    label: str
    direction: str
    panels: Mapping[str, Grey]
    mask: Mask
    maps: Mapping[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)


def comparison_figure(
    rows: Sequence[ComparisonRow], *paths: str | Path, inset: bool = False, domains: Domains = CT_AND_MR
) -> None:
    """Draw real, generated and real images side by side, the region boxed and enlarged.

    Args:
        rows: From top to bottom.
        paths: Files to write (PNG, PDF or SVG by their endings); all of them appear together.
        inset: Enlarge the region in a corner of each image, the one that hides least of it; otherwise below.
        domains: What the domains are called.

    Raises:
        DataError: There are no rows, rows have different columns, or a row's region is empty.
        ShapeError: A row's images, mask and maps are not all [H, W] of one size.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    titles = _check_rows(rows)
    map_titles = list(dict.fromkeys(title for row in rows for title in row.maps))
    lines, n_columns = (1 if inset else 2), len(titles) + len(map_titles)
    width = PANEL_INCHES * n_columns + 0.45 + 0.65 * bool(map_titles)
    size = (width, (lines * PANEL_INCHES + 0.15) * len(rows) + 0.3)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0))
    axes = figure.subplots(lines * len(rows), n_columns, squeeze=False)
    for row, of_row in zip(rows, np.split(axes, len(rows)), strict=True):
        zooms = [_inset(axis, row.mask) for axis in of_row[0]] if inset else list(of_row[1])
        _draw_panels(row, titles, list(of_row[0]), zooms)
        of_row[0, 0].set_ylabel(in_figure(f"{domains.title(row.direction)}\n{row.label}"), fontsize=8)
        _draw_maps(row, map_titles, list(of_row[0, len(titles) :]), zooms[len(titles) :])
        if not inset:
            zooms[0].set_ylabel("enlarged", fontsize=8)
    for axis, title in zip(axes[0], [*titles, *map_titles], strict=True):
        axis.set_title(in_figure(title), fontsize=9)
    save_figure(figure, *map(Path, paths))


def median_patient(slices: Iterable[SliceScores]) -> str:
    """The patient whose tumour PSNR is the median, which is the honest one to show.

    Args:
        slices: Scores of one arm and direction; with an even number of patients the lower of the middle two wins.

    Raises:
        DataError: No slice shows the region.
    """
    values = patient_values(slices, TPSNR.key)
    if not values:
        raise DataError("`slices` must show the region in at least one slice to have a median patient; none does")
    ranked = sorted(values, key=lambda patient: (values[patient], patient))
    return ranked[(len(ranked) - 1) // 2]


def slice_to_show(slices: Sequence[SliceScores], patient: str | None = None) -> SliceScores:
    """Of the median patient, or a given one, the slice with the largest region.

    Args:
        slices: Scores of one arm and direction; the patient must be among them.
        patient: ``None`` for the one whose tumour PSNR is the median.

    Raises:
        DataError: No slice shows the region.
    """
    chosen = median_patient(slices) if patient is None else patient
    return max((scored for scored in slices if scored["patient"] == chosen), key=lambda scored: scored["region_px"])


def region_box(mask: Mask, margin_px: int = 6, min_side_px: int = 24) -> Box:
    """The square around a region's largest piece, which is boxed and enlarged; inside the image where that is possible.

    Returns:
        ``(top, left, height, width)``, square unless the image is narrower.

    Example:
        >>> mask = np.zeros((64, 64), dtype=bool)
        >>> mask[30:34, 40:44] = True
        >>> region_box(mask)
        (20, 30, 24, 24)
    """
    from skimage import measure

    label: Any = measure.label
    pieces = label(mask)
    ys, xs = np.nonzero(pieces == 1 + np.bincount(pieces[mask])[1:].argmax())
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
        for image in [*row.panels.values(), *row.maps.values()]:
            if image.ndim != 2 or image.shape != row.mask.shape:
                raise ShapeError(f"`rows` must have images of their mask's size {row.mask.shape}; got {image.shape}")
        if not row.mask.any():
            raise DataError(f"`rows` must show the region to enlarge it; the mask of {row.label!r} is empty")
    return titles


def _draw_panels(row: ComparisonRow, titles: Sequence[str], wholes: Sequence[Axes], zooms: Sequence[Axes]) -> None:
    box, color = region_box(row.mask), DIRECTION_COLORS[row.direction]
    for title, whole, zoom in zip(titles, wholes, zooms, strict=False):
        _panel(whole, zoom, row.panels[title], box, color, cmap="gray", vmin=0, vmax=255)


def _draw_maps(row: ComparisonRow, titles: Sequence[str], wholes: Sequence[Axes], zooms: Sequence[Axes]) -> None:
    """On one scale for the row, so that a map of errors can be held against the standard deviation beside it."""
    box, color = region_box(row.mask), DIRECTION_COLORS[row.direction]
    # A few outliers must not darken the maps.
    highest = max((float(np.percentile(values, 99.5)) for values in row.maps.values()), default=0.0)
    drawn = None
    for title, whole, zoom in zip(titles, wholes, zooms, strict=True):
        if title in row.maps:
            scale = {"cmap": MAP_COLORMAP, "vmin": 0, "vmax": max(highest, 1e-6)}
            drawn = _panel(whole, zoom, row.maps[title], box, color, **scale)
        else:
            whole.set_axis_off()
            zoom.set_axis_off()
    if drawn is not None:
        beside = [axis for axis in (*wholes, *zooms) if axis.get_subplotspec() is not None]  # an inset has no place
        bar = wholes[0].figure.colorbar(drawn, ax=beside, shrink=0.9, aspect=28, pad=0.02, extend="max")
        bar.set_label("grey levels", fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _inset(axis: Axes, mask: Mask) -> Axes:
    """Axes in the corner of an image's axes that hides least of the region's box; bottom right if all are alike."""
    top, left, height, width = region_box(mask)
    side = INSET_SHARE * min(mask.shape)

    def hidden(corner: tuple[int, int]) -> float:
        y, x = (at * (length - side) for at, length in zip(corner, mask.shape, strict=True))
        rows: float = min(y + side, top + height) - max(y, top)
        columns: float = min(x + side, left + width) - max(x, left)
        return max(rows, 0.0) * max(columns, 0.0)

    down, right = min(((1, 1), (1, 0), (0, 1), (0, 0)), key=hidden)
    share_y, share_x = side / mask.shape[0], side / mask.shape[1]
    drawn: Axes = axis.inset_axes((right * (1 - share_x), (1 - down) * (1 - share_y), share_x, share_y))
    return drawn


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
            axis.plot(
                epochs,
                values,
                color=ARM_COLORS[i % len(ARM_COLORS)],
                label=in_figure(arm),
                linewidth=1.2,
                marker=marker,
            )
        _mark_stages(axis, stage_epochs)
        axis.set_title(in_figure(loss), fontsize=9, pad=14 if stage_epochs else 6)
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


def _mark_stages(axis: Axes, stage_epochs: Mapping[str, float]) -> None:
    for label, epoch in stage_epochs.items():
        axis.axvline(epoch, color="0.45", linestyle="--", linewidth=0.9)
        axis.annotate(
            in_figure(label),
            (epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color="0.3",
        )


def reliability_figure(
    curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], *paths: str | Path, domains: Domains = CT_AND_MR
) -> None:
    """Draw observed over predicted error in grey levels, a panel a direction, with the line of equality.

    A marker's area grows with the pixels behind it; bins of fewer than 50 are not drawn. Above the line the error was
    larger than predicted.

    Args:
        curves: By direction and ``image`` or the region's name, the points of
            :func:`~roi_progressive.evaluation.calibration.reliability`.
        *paths: Files to write (PNG, PDF or SVG by their endings); all of them appear together.
        domains: What the domains are called.

    Raises:
        DataError: There are no curves, or a file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    if not curves:
        raise DataError("`curves` must have at least one direction; there is none; score images with their sigma")
    shown = {
        direction: {
            name: [point for point in points if point["n"] >= MIN_BIN_PX] for name, points in of_direction.items()
        }
        for direction, of_direction in curves.items()
    }
    sizes = [
        point[key]
        for of_direction in shown.values()
        for points in of_direction.values()
        for point in points
        for key in ("predicted", "observed")
        if point[key] > 0
    ]
    limits = (min(sizes) / 1.4, max(sizes) * 1.4) if sizes else (1.0, 255.0)
    figure = Figure(figsize=(3.4 * len(shown), 3.7), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, (direction, of_direction) in zip(axes, shown.items(), strict=True):
        axis.plot(limits, limits, color="0.5", linestyle="--", linewidth=1.0, label="equal")
        for color, (name, points) in zip(ARM_COLORS, of_direction.items(), strict=False):
            most = max((point["n"] for point in points), default=1)
            x, y = [point["predicted"] for point in points], [point["observed"] for point in points]
            axis.plot(x, y, color=color, linewidth=1.0, alpha=0.6)
            axis.scatter(x, y, s=[6 + 54 * point["n"] / most for point in points], color=color, label=in_figure(name))
        axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, box_aspect=1)
        axis.set_title(in_figure(domains.title(direction)), fontsize=9)
        axis.set_xlabel("predicted error (sigma), grey levels", fontsize=8)
        for scale in (axis.xaxis, axis.yaxis):
            for ticks in (scale.set_major_formatter, scale.set_minor_formatter):
                ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.6)))
        axis.tick_params(labelsize=7, which="both")
    axes[0].set_ylabel("observed error (RMS), grey levels", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False, loc="lower right")
    save_figure(figure, *map(Path, paths))


def save_figure(figure: Figure, *paths: Path) -> None:
    """Write a figure, in the formats that the endings say; all files appear together, or none does.

    Raises:
        DataError: One cannot be written.
    """
    with writing(paths[0].parent), written_whole(*paths) as asides:
        for path, aside in zip(paths, asides, strict=True):
            figure.savefig(aside, dpi=RESOLUTION_DPI, format=path.suffix[1:])
