"""The pictures of the study in ``run_study.py``: gains by arm, median test slices, and sigma against error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from roi_progressive.evaluation.aggregation import patient_values
from roi_progressive.evaluation.figures import (
    DIRECTION_COLORS,
    ComparisonRow,
    comparison_figure,
    reliability_figure,
    save_figure,
    slice_to_show,
)
from roi_progressive.evaluation.metrics import TPSNR
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS

from .calibration import Curves
from .gains import Arms, Slices, compared, gains, interval, seeds_of

SHOWN = ("plain", "placebo", "regions", "ceiling")
SLICES_A_DIRECTION = 2


def draw_gains(path: Path, slices: Slices, arms: Arms) -> bool:
    """Tumour PSNR gained by each arm, with its interval; ``False`` where nothing can be compared."""
    from matplotlib.figure import Figure

    names = compared(slices, arms)
    if not names:
        return False
    figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(names)), layout="constrained")
    axis = figure.subplots()
    for shift, direction in zip((-0.14, 0.14), DIRECTIONS, strict=True):
        for place, arm in enumerate(names):
            gain = gains(slices, arm, arms[arm].against, direction, TPSNR.key)
            if gain is None:
                continue
            low, high = interval(gain)
            label = CT_AND_MR.title(direction) if place == 0 else None
            color = DIRECTION_COLORS[direction]
            axis.plot([low, high], [place + shift] * 2, color=color, linewidth=2)
            axis.plot(gain.mean(), place + shift, "o", color=color, label=label)
    axis.axvline(0, color="0.4", linewidth=0.9)
    axis.set_yticks(range(len(names)), [f"{arm} − {arms[arm].against}" for arm in names], fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("tumour PSNR gained, dB", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
    return True


def draw_slices(path: Path, out: Path, slices: Slices, arms: Arms) -> bool:
    """Side by side, of the first seed that has them all: in each direction the two patients around the median of
    tumour PSNR under guidance; ``False`` where no seed has them."""
    shown = [arm for arm in SHOWN if arm in arms]
    seeds = seeds_of(slices, *shown)
    if not seeds:
        return False
    rows = []
    for direction in DIRECTIONS:
        scored = [one for one in slices["regions", seeds[0]] if one["direction"] == direction]
        for patient in middle_patients(scored, SLICES_A_DIRECTION):
            chosen = slice_to_show(scored, patient)
            made = {
                arm: pairs_from_folders(
                    out / arms[arm].data, "test", direction, out / "runs" / f"{arm}-{seeds[0]}" / "test" / direction
                )[chosen["name"]]
                for arm in shown
            }
            first = made["plain"]
            assert first.source is not None
            panels = {"real": first.source, **{arm: pair.fake for arm, pair in made.items()}, "real target": first.real}
            rows.append(ComparisonRow(f"{patient}, {chosen['phase']}", direction, panels, first.mask))
    comparison_figure(rows, path)
    return True


def middle_patients(scored: Sequence[Any], count: int) -> list[str]:
    """So many patients around the median of tumour PSNR, the lower first."""
    values = patient_values(scored, TPSNR.key)
    ranked = sorted(values, key=lambda patient: (values[patient], patient))
    first = max((len(ranked) - count) // 2, 0)
    return ranked[first : first + count]


def draw_sigma(path: Path, curves: Curves | None) -> bool:
    """Observed over predicted error of the preset; ``False`` where it has not run."""
    if curves:
        reliability_figure(curves, path)
    return bool(curves)
