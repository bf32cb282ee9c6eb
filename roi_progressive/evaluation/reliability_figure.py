"""The reliability diagram: how large the error was said to be, and how large it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError
from .curves import ARM_COLORS
from .figures import DIRECTION_NAMES, save_figure

MIN_PX = 50


def reliability_figure(curves: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]], *paths: str | Path) -> None:
    """Draw observed over predicted error in grey levels, a panel a direction, with the line of equality.

    A marker's area grows with the pixels behind it; bins of fewer than 50 are not drawn. Above the line the error was
    larger than said.

    Args:
        curves: By direction and ``image`` or the region's name, the points of
            :func:`~roi_progressive.evaluation.calibration.reliability`.
        *paths: Files to write (PNG, PDF or SVG by their endings); all of them appear together.

    Raises:
        DataError: There are no curves, or a file cannot be written.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogFormatter

    if not curves:
        raise DataError("`curves` must have at least one direction; there is none; score images with their sigma")
    shown = {
        direction: {name: [one for one in points if one["n"] >= MIN_PX] for name, points in of.items()}
        for direction, of in curves.items()
    }
    sizes = [
        one[key]
        for of in shown.values()
        for points in of.values()
        for one in points
        for key in ("predicted", "observed")
        if one[key] > 0
    ]
    limits = (min(sizes) / 1.4, max(sizes) * 1.4) if sizes else (1.0, 255.0)
    figure = Figure(figsize=(3.4 * len(shown), 3.7), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axis, (direction, of) in zip(axes, shown.items(), strict=True):
        axis.plot(limits, limits, color="0.5", linestyle="--", linewidth=1.0, label="equal")
        for color, (name, points) in zip(ARM_COLORS, of.items(), strict=False):
            most = max((one["n"] for one in points), default=1)
            x, y = [one["predicted"] for one in points], [one["observed"] for one in points]
            axis.plot(x, y, color=color, linewidth=1.0, alpha=0.6)
            axis.scatter(x, y, s=[6 + 54 * one["n"] / most for one in points], color=color, label=name)
        axis.set(xscale="log", yscale="log", xlim=limits, ylim=limits, box_aspect=1)
        axis.set_title(DIRECTION_NAMES[direction], fontsize=9)
        axis.set_xlabel("predicted error (sigma), grey levels", fontsize=8)
        for scale in (axis.xaxis, axis.yaxis):
            for ticks in (scale.set_major_formatter, scale.set_minor_formatter):
                ticks(LogFormatter(labelOnlyBase=False, minor_thresholds=(2, 0.6)))
        axis.tick_params(labelsize=7, which="both")
    axes[0].set_ylabel("observed error (RMS), grey levels", fontsize=8)
    axes[0].legend(fontsize=7, frameon=False, loc="lower right")
    save_figure(figure, *map(Path, paths))
