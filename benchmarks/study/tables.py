"""The tables of the study, as Markdown: gains, their signs by seed, scores, and what was not run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from roi_progressive.evaluation.metrics import INVENTED, INVERTED, LOST, PSNR, REGION_UCE, TEXTURE, TPSNR, TSSIM, UCE
from roi_progressive.runs.evaluate import REFERENCES
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS

from .calibration import OF_SIGMA
from .gains import Arms, Lines, Slices, compared, gains, interval, seeds_of, values_by_seed

COLUMNS = {TPSNR.key: (f"{TPSNR.heading} dB", 2), TSSIM.key: (TSSIM.heading, 3), PSNR.key: (f"{PSNR.heading} dB", 2)}
SCORES = (*COLUMNS, *(metric.key for metric in (TEXTURE, LOST, INVERTED, INVENTED)))
CALIBRATION = tuple(metric.key for metric in (UCE, REGION_UCE, *OF_SIGMA))


def markdown(heading: Sequence[str], rows: Sequence[Sequence[str]], labels: int) -> list[str]:
    """The lines of a table, its first ``labels`` columns to the left and the others to the right."""
    rule = "|" + " --- |" * labels + " ---: |" * (len(heading) - labels)
    return [f"| {' | '.join(heading)} |", rule, *(f"| {' | '.join(row)} |" for row in rows)]


def gain_table(slices: Slices, arms: Arms) -> list[str]:
    """Every arm against the one it is compared with, with intervals."""
    rows = []
    for arm in compared(slices, arms):
        other = arms[arm].against
        for direction in DIRECTIONS:
            cells = [arm, other, CT_AND_MR.title(direction), str(len(seeds_of(slices, arm, other)))]
            for metric, (_, digits) in COLUMNS.items():
                gain = gains(slices, arm, other, direction, metric)
                low, high = (0.0, 0.0) if gain is None else interval(gain)
                said = "n/a" if gain is None else f"{gain.mean():+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
                cells.append(said)
            rows.append(cells)
    return markdown(["arm", "against", "direction", "seeds", *(title for title, _ in COLUMNS.values())], rows, 3)


def sign_table(slices: Slices, arms: Arms) -> list[str]:
    """Each gain from each seed alone, and whether all seeds agree on the sign of every column."""
    rows = []
    for arm in compared(slices, arms):
        other = arms[arm].against
        if len(seeds_of(slices, arm, other)) < 2:
            continue
        for direction in DIRECTIONS:
            cells = [f"{arm} − {other}", CT_AND_MR.title(direction)]
            for metric, (_, digits) in COLUMNS.items():
                gain = gains(slices, arm, other, direction, metric)
                means = [] if gain is None else list(gain.mean(axis=1))
                signs = len({mean > 0 for mean in means})
                cells.append(f"{', '.join(f'{mean:+.{digits}f}' for mean in means)}{'' if signs == 1 else ' (differ)'}")
            rows.append(cells)
    return markdown(["gain", "direction", *(title for title, _ in COLUMNS.values())], rows, 2) if rows else []


def score_table(lines: Lines, arms: Arms) -> list[str]:
    """The scores themselves, means over seeds; the references are those of the plain runs."""
    rows = []
    for name in (*REFERENCES, *arms):
        for direction in DIRECTIONS:
            of_metrics = [values_by_seed(lines, name, direction, metric) for metric in SCORES]
            if any(of_metrics):
                cells = [f"{np.mean(values):.2f}" if values else "n/a" for values in of_metrics]
                rows.append([name, CT_AND_MR.title(direction), *cells])
    return markdown(["arm", "direction", *SCORES], rows, 2)


def calibration_table(found: Mapping[tuple[str, str], Mapping[str, float | None]]) -> list[str]:
    """Scores of sigma by arm and direction, means over seeds; UCE in squared grey levels."""
    rows = [
        [arm, CT_AND_MR.title(direction), *("n/a" if of[key] is None else f"{of[key]:.2f}" for key in CALIBRATION)]
        for (arm, direction), of in found.items()
    ]
    return markdown(["arm", "direction", *CALIBRATION], rows, 2) if rows else []


def left_for_later(lines: Lines, planned: Mapping[str, int]) -> list[str]:
    """A line for each arm that lacks runs of the plan.

    Args:
        lines: The finished runs.
        planned: Seeds wanted of every arm.
    """
    done = {name: len({line["seed"] for line in lines if line["arm"] == name}) for name in planned}
    return [
        f"- *{name}*: {done[name]} of {wanted} seeds run" for name, wanted in planned.items() if done[name] < wanted
    ]
