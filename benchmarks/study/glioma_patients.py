"""How many patients does guidance take? Its gain on gliomas by the number of patients a domain, table and figure."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from roi_progressive.evaluation.figures import DIRECTION_COLORS, save_figure
from roi_progressive.saving.names import DIRECTIONS

from .glioma_report import TITLES, Found, Lines, with_interval
from .tables import markdown

ALL_A_DOMAIN = 20
"""Of the 40 to train on, half give T1 and half FLAIR; a line of a run with all of them says 0."""


def found_by_patients(lines: Lines) -> dict[int, Found]:
    """The runs of plain and of regions on the patients to test on, by the number of patients a domain to train on."""
    of_count: dict[int, list[Mapping[str, Any]]] = {}
    for line in lines:
        if not line["tuning"]:
            of_count.setdefault(line["patients_a_domain"] or ALL_A_DOMAIN, []).append(line)
    by_count = {count: Found(chosen) for count, chosen in sorted(of_count.items())}
    return {n: found for n, found in by_count.items() if found.gain("regions", "A2B", "tpsnr") is not None}


def patients_table(lines: Lines) -> list[str]:
    """A row for each number of patients and direction: what plain scores, and what regions gain over it."""
    rows = []
    for count, found in found_by_patients(lines).items():
        for direction, title in zip(DIRECTIONS, TITLES, strict=True):
            gain = found.gain("regions", direction, "tpsnr")
            assert gain is not None
            rows.append([
                str(count),
                title,
                f"{found.value('plain', direction, 'tpsnr'):.2f}",
                with_interval(found.mean_gain("regions", direction)),
                ", ".join(f"{mean:+.1f}" for mean in gain.mean(axis=1)),
                f"{found.mean_gain('regions', direction, 'psnr')[0]:+.2f}",
                f"{found.failed('plain', direction):.2f} → {found.failed('regions', direction):.2f}",
            ])  # fmt: skip
    headings = ["patients a domain", "direction", "plain's tumour PSNR, dB", "gained, dB", "by seed", "whole PSNR, dB"]
    return markdown([*headings, "lost or inverted"], rows, 2) if rows else []


def draw_patients(path: Path, lines: Lines) -> bool:
    """Draw tumour PSNR gained over the number of patients; ``False`` with fewer than two numbers."""
    from matplotlib.figure import Figure

    by_count = found_by_patients(lines)
    if len(by_count) < 2:
        return False
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axis = figure.subplots()
    for shift, direction, title in zip((0.98, 1.02), DIRECTIONS, TITLES, strict=True):
        color = DIRECTION_COLORS[direction]
        at = [count * shift for count in by_count]
        means = [found.mean_gain("regions", direction) for found in by_count.values()]
        axis.plot(at, [mean for mean, _, _ in means], "o-", color=color, label=title, linewidth=1)
        axis.vlines(at, [low for _, low, _ in means], [high for _, _, high in means], color=color, linewidth=2)
        for place, found in zip(at, by_count.values(), strict=True):
            gain = found.gain("regions", direction, "tpsnr")
            assert gain is not None
            axis.plot([place] * len(gain), gain.mean(axis=1), "_", color=color, alpha=0.7)
    axis.axhline(0, color="0.4", linewidth=0.9)
    axis.set_xscale("log")
    axis.set_xticks(list(by_count), [str(count) for count in by_count])
    axis.minorticks_off()
    axis.set_xlabel("patients a domain to train on", fontsize=9)
    axis.set_ylabel("tumour PSNR gained over plain, dB", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
    return True
