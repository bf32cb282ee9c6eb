"""The curves of one training: what every loss and every validation was, epoch by epoch, both directions in a panel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..saving.names import CT_AND_MR, DIRECTIONS, Domains
from ..saving.plain_text import in_figure
from .aggregation import metric_of
from .figures import DIRECTION_COLORS, save_figure
from .metrics import PSNR, TPSNR

if TYPE_CHECKING:
    from matplotlib.axes import Axes

N_COLUMNS = 3
_OF_HOST = {
    "G": "whole image, generator",
    "D": "whole image, discriminator",
    "cycle": "cycle: L1 times its weight",
    "idt": "identity: L1 times its weight",
}
"""What the bundled host's terms are; they stand under these names and the network's letter, ``G_A``."""
_ON_LOG_SCALE = ("cycle", "idt")
_DIRECTION_OF_NETWORK = dict(zip("AB", DIRECTIONS, strict=True))
_DECIBELS = (TPSNR.key, PSNR.key)


@dataclass
class _Panel:
    title: str
    unit: str
    log: bool = False
    lines: dict[str, tuple[list[int], list[float]]] = field(default_factory=dict)

    def add(self, direction: str, epoch: int, value: float | None) -> None:
        epochs, values = self.lines.setdefault(direction, ([], []))
        epochs.append(epoch)
        values.append(math.nan if value is None else value)

    @property
    def is_flat_zero(self) -> bool:
        return all(value == 0 for _, values in self.lines.values() for value in values)


def training_curves(
    epochs: Sequence[Mapping[str, Any]],
    validations: Sequence[Mapping[str, Any]],
    path: Path,
    *,
    stages: Mapping[int, str],
    best: int | None = None,
    domains: Domains = CT_AND_MR,
) -> None:
    """Draw the validations, then a panel for each loss, one line a direction; terms that are 0 throughout are left out.

    Args:
        epochs: A run's history: ``epoch``, ``stage`` and ``losses`` by name.
        validations: Its validations: ``epoch``, ``metric`` and ``scores`` by direction.
        path: File to write (PNG, PDF or SVG by its ending).
        stages: What joins in each stage, by the stage's number.
        best: The best epoch, which is marked.
        domains: What the domains are called.

    Raises:
        DataError: It cannot be written.
    """
    from matplotlib.figure import Figure

    panels = [*_validation_panels(validations), *_loss_panels(epochs)]
    n_rows = -(-len(panels) // N_COLUMNS)
    figure = Figure(figsize=(4.0 * N_COLUMNS, 2.6 * n_rows + 0.5), layout="constrained")
    axes = list(figure.subplots(n_rows, N_COLUMNS, squeeze=False).flat)
    starts = _stage_starts(epochs, stages)
    span = (epochs[0]["epoch"], max(epochs[-1]["epoch"], epochs[0]["epoch"] + 1))
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel, domains, starts, best)
        axis.set_xlim(*span)
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, fontsize=9, frameon=False)
    save_figure(figure, path)


def _validation_panels(validations: Sequence[Mapping[str, Any]]) -> list[_Panel]:
    keys = dict.fromkeys([*(line["metric"] for line in validations), *([PSNR.key] if validations else [])])
    panels = []
    for key in keys:
        metric, unit = metric_of(key), "dB" if key in _DECIBELS else metric_of(key).heading
        panel = _Panel(f"validation: {metric.title}", unit)
        for line in validations:
            for direction, scores in line["scores"].items():
                panel.add(direction, line["epoch"], scores.get(key))
        if panel.lines:
            panels.append(panel)
    return panels


def _loss_panels(epochs: Sequence[Mapping[str, Any]]) -> list[_Panel]:
    panels: dict[str, _Panel] = {}
    for line in epochs:
        for name, value in line["losses"].items():
            term, direction = _term_of(name)
            panel = panels.setdefault(term, _Panel(_title_of(term), "loss", log=term in _ON_LOG_SCALE))
            panel.add(direction, line["epoch"], value)
    order = list(panels)
    if order[:2] == ["D", "G"]:  # as the bundled host lists them; ours begin with the generator
        order[:2] = ["G", "D"]
    return [panels[term] for term in order if not panels[term].is_flat_zero]


def _term_of(name: str) -> tuple[str, str]:
    """Term and direction of a loss: ours end in the direction, the host's in the letter of the generator."""
    term, _, end = name.rpartition("_")
    return (term, _DIRECTION_OF_NETWORK.get(end, end)) if term else (name, "")


def _title_of(term: str) -> str:
    network, _, region = term.partition("_")
    if region and network in ("G", "D"):
        return f"{region}, {'generator' if network == 'G' else 'discriminator'}"
    return _OF_HOST.get(term, "uncertainty: negative log-likelihood" if term == "ggd" else term)


def _stage_starts(epochs: Sequence[Mapping[str, Any]], stages: Mapping[int, str]) -> dict[int, str]:
    """What joins at which epoch, the first stage left out."""
    first: dict[int, int] = {}
    for line in epochs:
        first.setdefault(line["stage"], line["epoch"])
    return {epoch: stages.get(number, f"stage {number}") for number, epoch in first.items() if number > 1}


def _on_log_axis(value: float, place: int | None = None) -> str:
    """Numbers as people write them, and no more than three a decade."""
    leading = 0 if value <= 0 else round(value / 10.0 ** math.floor(math.log10(value)))
    return f"{value:g}" if leading in (1, 2, 5, 10) else ""


def _draw(axis: Axes, panel: _Panel, domains: Domains, starts: Mapping[int, str], best: int | None) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    for direction, (epochs, values) in sorted(panel.lines.items()):
        of_validation = panel.title.startswith("validation")
        axis.plot(
            epochs,
            values,
            color=DIRECTION_COLORS.get(direction, "#555555"),
            label=in_figure(domains.title(direction) if direction in DIRECTIONS else direction),
            linewidth=1.4,
            marker="o" if of_validation or sum(map(math.isfinite, values)) == 1 else None,
            markersize=3,
        )
    if best is not None and panel.title.startswith("validation"):
        axis.axvline(best, color="#009e73", linewidth=1.4, label=f"best epoch, {best}" if panel.lines else None)
    for epoch, text in starts.items():
        axis.axvline(epoch, color="0.6", linestyle="--", linewidth=0.9)
        axis.annotate(
            in_figure(text),
            (epoch, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(3, -3),
            textcoords="offset points",
            va="top",
            fontsize=7,
            color="0.35",
        )
    if panel.log:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(FuncFormatter(_on_log_axis))
        axis.yaxis.set_minor_formatter(FuncFormatter(_on_log_axis))
        axis.tick_params(which="minor", labelsize=7)
    axis.set_title(in_figure(panel.title), fontsize=9)
    axis.set_ylabel(in_figure(panel.unit), fontsize=8)
    axis.set_xlabel("epoch", fontsize=8)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
