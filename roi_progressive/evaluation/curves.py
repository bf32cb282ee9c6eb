"""Loss curves: one panel a loss, one line an arm, the stages marked."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import DataError
from .figures import save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ARM_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito


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
