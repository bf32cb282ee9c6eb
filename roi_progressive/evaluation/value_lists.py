"""Every value behind a table, as comma-separated lists: of each slice, and of each patient."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from ..saving.plain_text import in_csv
from .aggregation import metrics_of, patient_values, phase_order
from .metrics import LESION_COUNTS, METRICS, SliceMetric
from .scoring import SliceScores

Arms = Mapping[str, Sequence[SliceScores]]


def slices_csv(arms: Arms) -> str:
    """A line for each arm and slice.

    Args:
        arms: What :func:`~roi_progressive.evaluation.scoring.score` returned, by the name of the arm.

    Returns:
        The columns ``arm``, ``direction``, ``phase``, ``patient``, ``name``, ``region_px``, ``n_lesions``,
        ``n_unclear_lesions``, then every score at full precision; empty where there is none, ``inf`` for the PSNR of
        identical pixels.
    """
    keys = _scores_of(arms)
    lines: list[list[object]] = [["arm", "direction", "phase", "patient", "name", "region_px", *LESION_COUNTS, *keys]]
    for arm, slices in arms.items():
        for scored in slices:
            labels = [arm, scored["direction"], scored["phase"], scored["patient"], scored["name"]]
            counts = [scored["region_px"], *(scored.get(count) for count in LESION_COUNTS)]
            lines.append([*labels, *counts, *(scored["scores"].get(key) for key in keys)])
    return _written(lines)


def patients_csv(arms: Arms) -> str:
    """A line for each arm, direction, phase and patient: the means over the patient's slices that a row is a mean of.

    Args:
        arms: As in :func:`slices_csv`.

    Returns:
        The columns ``arm``, ``direction``, ``phase``, ``patient``, ``n_slices``, ``n_region_slices``, then every score,
        averaged as in the table (PSNR values capped at 100 dB).
    """
    keys = _scores_of(arms)
    lines: list[list[object]] = [["arm", "direction", "phase", "patient", "n_slices", "n_region_slices", *keys]]
    for arm, slices in arms.items():
        of_row: dict[tuple[str, str], list[SliceScores]] = {}
        for scored in slices:
            of_row.setdefault((scored["direction"], scored["phase"]), []).append(scored)
        for direction, phase in sorted(of_row, key=lambda row: (row[0], phase_order(row[1]))):
            members = of_row[direction, phase]
            values = {key: patient_values(members, key) for key in keys}
            for patient in dict.fromkeys(scored["patient"] for scored in members):
                theirs = [scored for scored in members if scored["patient"] == patient]
                counts = [len(theirs), sum(scored["region_px"] > 0 for scored in theirs)]
                lines.append([arm, direction, phase, patient, *counts, *(values[key].get(patient) for key in keys)])
    return _written(lines)


def _scores_of(arms: Arms) -> list[str]:
    """The scores that slices have, in the table's order."""
    found = {key for slices in arms.values() for scored in slices for key in scored["scores"]}
    of_sets = {metric.key for metric in METRICS if not isinstance(metric, SliceMetric)}
    return [key for key in metrics_of([dict.fromkeys(found)]) if key in found - of_sets]


def _written(lines: Iterable[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([in_csv(cell) if isinstance(cell, str) else cell for cell in line] for line in lines)
    return text.getvalue()
