"""The figures, drawn without pyplot's global state.

The comparison of real and generated images (the paper's Figures 3 and 4), the losses over the training, and the
reliability diagram of the predicted standard deviation.
"""

from __future__ import annotations

import math
import textwrap
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
ARM_STYLES: tuple[dict[str, Any], ...] = (
    {"linewidth": 4.0, "alpha": 0.45},
    {"linewidth": 1.6},
    {"linewidth": 1.4, "linestyle": (0, (4, 3))},
    {"linewidth": 1.4, "linestyle": (0, (1, 2))},
)
"""A curve lies on those before it and leaves them to be seen: a broad one, a thin one, dashes and dots."""
OUTLINE_COLOR = "#00e676"
"""Of a mask's outline; it is seen on grey and on ``MAP_COLORMAP``."""
MAP_COLORMAP = "inferno"
MIN_MAGNIFICATION = 2.0
"""Of the enlarged part of an image beside the whole one; where the region is large, the whole one is drawn smaller."""
MIN_RANGE_FOR_LOG = 10.0
"""Largest over smallest value of a curve from which on its axis is logarithmic."""
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
        mask: The region, bool [H, W]; it is outlined, and the box around its largest piece is enlarged.
        maps: Maps [H, W], at least 0, by column title, e.g. the standard deviation; drawn behind the panels in colour,
            those of a row on one scale. A row may lack any of them.
        map_unit: What the maps of the row are in, for their scale.
    """

    label: str
    direction: str
    panels: Mapping[str, Grey]
    mask: Mask
    maps: Mapping[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)
    map_unit: str = "grey levels"


def comparison_figure(
    rows: Sequence[ComparisonRow], *paths: str | Path, region: str = "region", domains: Domains = CT_AND_MR
) -> None:
    """Draw real, generated and real images side by side, and below each image the region, enlarged.

    The enlarged part has twice the size at least that it has in the whole image above it. Its box and the outline of
    the mask are drawn in all of them, and explained below.

    Args:
        rows: From top to bottom.
        paths: Files to write (PNG, PDF or SVG by their endings); all of them appear together.
        region: What the masks show, for the explanation.
        domains: What the domains are called.

    Raises:
        DataError: There are no rows, rows have different columns, or a row's region is empty.
        ShapeError: A row's images, mask and maps are not all [H, W] of one size.
    """
    from matplotlib.figure import Figure

    titles = _check_rows(rows)
    map_titles = list(dict.fromkeys(title for row in rows for title in row.maps))
    places = [_Places.of(row.mask) for row in rows]
    width = _LEFT_IN + (len(titles) + len(map_titles)) * (_PANEL_IN + _GAP_IN) + _SCALE_IN * bool(map_titles)
    height = _TITLE_IN + sum(of_row.height_in for of_row in places) + _BELOW_IN
    figure = Figure(figsize=(width, height))
    top_in = _TITLE_IN
    for i, (row, of_row) in enumerate(zip(rows, places, strict=True)):
        drawn = None
        # A few outliers must not darken the maps; on one scale, one can be held against the other.
        highest = max((float(np.percentile(values, 99.5)) for values in row.maps.values()), default=0.0)
        for j, title in enumerate([*titles, *map_titles]):
            whole, zoom = of_row.axes(figure, j, top_in)
            if i == 0:
                whole.set_title(_title_lines(title), fontsize=9)
            if title in row.panels:
                _draw(row.panels[title], row, whole, zoom, cmap="gray", vmin=0, vmax=255)
            elif title in row.maps:
                drawn = _draw(row.maps[title], row, whole, zoom, cmap=MAP_COLORMAP, vmin=0, vmax=max(highest, 1e-6))
            else:
                whole.set_axis_off()
                zoom.set_axis_off()
            if j == 0:
                _label(whole, f"{domains.title(row.direction)}\n{row.label}")
                _label(zoom, f"enlarged {of_row.magnification:.1f} ×")
        if drawn is not None:
            _draw_scale(figure, drawn, row.map_unit, of_row, len(titles) + len(map_titles), top_in)
        top_in += of_row.height_in
    _explain(figure, [row.direction for row in rows], region, domains)
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


_LEFT_IN, _TITLE_IN, _BELOW_IN, _SCALE_IN = 0.5, 0.3, 0.4, 0.75
_PANEL_IN, _GAP_IN, _ROW_GAP_IN = 1.75, 0.06, 0.16


@dataclass(frozen=True)
class _Places:
    """Where the images of a row stand; all in inches, the origin at the figure's top left."""

    box: Box
    whole_in: tuple[float, float]
    zoom_in: tuple[float, float]
    magnification: float

    @classmethod
    def of(cls, mask: Mask) -> _Places:
        """The enlarged part fills a panel; the whole image does, where it then is half as large at most."""
        box = region_box(mask)
        zoom = _PANEL_IN / max(box[2:])
        whole = min(_PANEL_IN / max(mask.shape), zoom / MIN_MAGNIFICATION)
        sizes = [(height * scale, width * scale) for (height, width), scale in ((mask.shape, whole), (box[2:], zoom))]
        return cls(box, sizes[0], sizes[1], zoom / whole)

    @property
    def height_in(self) -> float:
        """Of the whole image, the enlarged part and the gaps."""
        return self.whole_in[0] + _GAP_IN + self.zoom_in[0] + _ROW_GAP_IN

    def axes(self, figure: Figure, column: int, top_in: float) -> tuple[Axes, Axes]:
        """Of the whole image and of its enlarged part."""
        left_in = _LEFT_IN + column * (_PANEL_IN + _GAP_IN)
        drawn = []
        for (height, width), top in ((self.whole_in, top_in), (self.zoom_in, top_in + self.whole_in[0] + _GAP_IN)):
            drawn.append(_axes_at(figure, left_in + (_PANEL_IN - width) / 2, top, width, height))
        return drawn[0], drawn[1]


def _axes_at(figure: Figure, left_in: float, top_in: float, width_in: float, height_in: float) -> Axes:
    width, height = figure.get_size_inches()
    return figure.add_axes((left_in / width, 1 - (top_in + height_in) / height, width_in / width, height_in / height))


def _draw(image: npt.NDArray[Any], row: ComparisonRow, whole: Axes, zoom: Axes, **scale: Any) -> Any:
    """The image and its enlarged part, with the box and the mask's outline; both in pixels of the image."""
    from matplotlib.patches import Rectangle

    color = DIRECTION_COLORS[row.direction]
    top, left, height, width = region_box(row.mask)
    whole.imshow(image, interpolation="nearest", **scale)
    whole.add_patch(Rectangle((left - 0.5, top - 0.5), width, height, fill=False, edgecolor=color, linewidth=1.2))
    part = image[top : top + height, left : left + width]
    extent = (left - 0.5, left + width - 0.5, top + height - 0.5, top - 0.5)
    drawn = zoom.imshow(part, interpolation="nearest", extent=extent, **scale)
    limits = ((-0.5, image.shape[1] - 0.5, image.shape[0] - 0.5, -0.5), extent)
    for axis, (x0, x1, y0, y1) in zip((whole, zoom), limits, strict=True):
        for outline in _outlines(row.mask):
            axis.plot(outline[:, 1], outline[:, 0], color=OUTLINE_COLOR, linewidth=0.8)
        axis.set(xlim=(x0, x1), ylim=(y0, y1), xticks=[], yticks=[])
    whole.spines[:].set_visible(False)
    zoom.spines[:].set(color=color, linewidth=1.8)
    return drawn


def _outlines(mask: Mask) -> list[npt.NDArray[np.float64]]:
    """The outlines of a mask's pieces, each [n, 2], rows and columns in pixels."""
    from skimage import measure

    find: Any = measure.find_contours
    return [np.asarray(outline) - 1 for outline in find(np.pad(mask, 1).astype(np.float64), 0.5)]


def _draw_scale(figure: Figure, drawn: Any, unit: str, places: _Places, column: int, top_in: float) -> None:
    left_in = _LEFT_IN + column * (_PANEL_IN + _GAP_IN) + 0.04
    height_in = places.height_in - _ROW_GAP_IN
    bar = figure.colorbar(drawn, cax=_axes_at(figure, left_in, top_in, 0.11, height_in), extend="max")
    bar.ax.set_label("<colorbar>")
    bar.set_label(in_figure(unit), fontsize=8)
    bar.ax.tick_params(labelsize=7)


def _label(axis: Axes, text: str) -> None:
    lines = [textwrap.shorten(line, 40, placeholder="…") for line in text.split("\n")]
    axis.set_ylabel(in_figure("\n".join(lines)), fontsize=8)


def _title_lines(title: str) -> str:
    return in_figure(textwrap.fill(textwrap.shorten(title, 60, placeholder="…"), 22))


def _explain(figure: Figure, directions: Sequence[str], region: str, domains: Domains) -> None:
    """What the colours mean, at the bottom."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    shown = list(dict.fromkeys(directions))
    handles: list[Any] = [Line2D([], [], color=OUTLINE_COLOR, linewidth=1.2, label=f"outline of the {region}")]
    for direction in shown:
        of = f" ({domains.title(direction)})" if len(shown) > 1 else ""
        color = DIRECTION_COLORS[direction]
        handles.append(Patch(fill=False, edgecolor=color, linewidth=1.5, label=f"the part enlarged below it{of}"))
    for handle in handles:
        handle.set_label(in_figure(textwrap.shorten(handle.get_label(), 60, placeholder="…")))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=8, frameon=False)


def curves_figure(
    histories: Mapping[str, Mapping[str, Sequence[float | None]]],
    stage_epochs: Mapping[str, float],
    path: str | Path,
    first_epoch: int = 1,
    units: Mapping[str, str] | None = None,
) -> None:
    """Draw every loss over the epochs in a panel of its own, one line an arm, with the stages' starts marked.

    A panel's axis is logarithmic where its values are above 0 and the largest is ten times the smallest. Arms have
    lines of different kinds, so that equal ones are all seen.

    Args:
        histories: ``{arm: {loss: value per epoch}}``; ``None`` or NaN where a loss was not active.
        stage_epochs: First epoch of a stage by its label, e.g. ``{"liver": 67, "tumor": 134}``.
        path: File to write (PNG, PDF or SVG by its ending); written aside, then renamed.
        first_epoch: The epoch of the first value.
        units: What each loss is measured in, for its axis; a loss that is not in it has none.

    Raises:
        DataError: No arm has any values.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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
            style = {"color": ARM_COLORS[i % len(ARM_COLORS)], **ARM_STYLES[i % len(ARM_STYLES)]}
            axis.plot(epochs, values, label=in_figure(arm), marker=marker, zorder=2 + 0.01 * i, **style)
        if _reads_better_in_log(history.get(loss, ()) for history in histories.values()):
            _set_log_scale(axis)
        axis.set_ylabel(in_figure((units or {}).get(loss, "")), fontsize=7)
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
    if stage_epochs:
        handles.append(Line2D([], [], **_STAGE_LINE))
        labels.append(in_figure(f"{', '.join(stage_epochs)}: a stage begins"))
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 4), fontsize=8, frameon=False)
    save_figure(figure, Path(path))


def _reads_better_in_log(curves: Iterable[Sequence[float | None]]) -> bool:
    values = [v for values in curves for v in values if v is not None and math.isfinite(v)]
    return bool(values) and min(values) > 0 and max(values) >= MIN_RANGE_FOR_LOG * min(values)


def _set_log_scale(axis: Axes) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


_STAGE_LINE: dict[str, Any] = {"color": "0.45", "linestyle": "--", "linewidth": 0.9}


def _mark_stages(axis: Axes, stage_epochs: Mapping[str, float]) -> None:
    for label, epoch in stage_epochs.items():
        axis.axvline(epoch, **_STAGE_LINE)
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
            figure.savefig(aside, dpi=RESOLUTION_DPI, format=path.suffix[1:], bbox_inches="tight", pad_inches=0.05)
