"""The results table, printed: for a terminal, in Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..saving.names import CT_AND_MR, Domains
from ..saving.plain_text import in_csv, in_latex, in_markdown, printable
from .aggregation import Cell, Results, metric_of, metrics_of
from .intervals import DIFFERENCE
from .lesions import MIN_CONTRAST_GREY
from .metrics import COUNTS, FID, INVENTED, INVERTED, LESION_COUNTS, LOST, NO_SIGMA, UCE
from .significance import FEW_PATIENTS


def render_text(
    results: Mapping[str, Results],
    region: str | None = "tumor",
    notes: Sequence[str] = (),
    domains: Domains = CT_AND_MR,
) -> str:
    """The table for a terminal, columns aligned; a row's intervals stand in the line below it.

    Args:
        results: What :func:`aggregate` gave, by the name of the arm; its order is kept.
        region: Name of the region, for the legend; without one the scores of whole images alone are shown.
        notes: More lines of the legend.
        domains: What the domains are called: directions bear their names, unless they are CT and MR.
    """
    table = _lay_out(results, region, notes, domains)
    every = [table.header, *table.rows, *(["", "", "", *line] for line in table.intervals)]
    widths = [max(len(line[i]) for line in every) for i in range(len(table.header))]
    lines = [_aligned(table.header, widths), "  ".join("-" * width for width in widths)]
    for before, row, intervals in zip([None, *table.rows[:-1]], table.rows, table.intervals, strict=True):
        if before is not None and before[:2] != row[:2]:
            lines.append("")
        repeated = before is not None and before[:2] == row[:2]
        lines.append(_aligned(["", "", *row[2:]] if repeated else row, widths))
        if any(intervals):
            lines.append(_aligned(["", "", "", *intervals], widths))
    return "\n".join([*lines, "", *table.notes]) + "\n"


def render_markdown(
    results: Mapping[str, Results],
    region: str | None = "tumor",
    notes: Sequence[str] = (),
    domains: Domains = CT_AND_MR,
) -> str:
    """The same table in Markdown; arguments as in :func:`render_text`."""
    table = _lay_out(results, region, notes, domains, in_markdown)
    rule = ["---"] * 3 + ["---:"] * (len(table.header) - 3)
    lines = ["| " + " | ".join(line) + " |" for line in [table.header, *table.joined(" ")]]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]) + "\n"


def render_csv(results: Mapping[str, Results], region: str | None = "tumor") -> str:
    """The same rows as comma-separated numbers at full precision, for other programs.

    Args:
        results: As in :func:`render_text`.
        region: Without one the scores of whole images alone.

    Returns:
        A header of names as in the JSON and a line for each row. Each score is followed by its interval, as
        ``<name>_low`` and ``<name>_high``; what does not exist is empty.
    """
    cells = [cell for _, _, _, cell in _walk(results)]
    metrics = _columns(cells, region)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    compared = any("p_values" in cell for cell in cells)
    endings = ("", "_low", "_high", *(["_p"] if compared else []))
    named = [in_csv(f"{key}{ending}") for key in metrics for ending in endings]
    writer.writerow(["arm", "direction", "phase", *named, *COUNTS])
    for arm, direction, phase, cell in _walk(results):
        numbers: list[float | None] = []
        for key in metrics:
            numbers += [cell.get(key), *(cell.get("intervals", {}).get(key) or (None, None))]
            numbers += [cell.get("p_values", {}).get(key)] if compared else []
        writer.writerow([in_csv(arm), in_csv(direction), in_csv(phase), *numbers, *(cell[key] for key in COUNTS)])
    return text.getvalue()


def render_latex(
    results: Mapping[str, Results],
    region: str | None = "tumor",
    notes: Sequence[str] = (),
    domains: Domains = CT_AND_MR,
) -> str:
    """The same table as a LaTeX ``tabular`` that needs no package; the legend stands in comments.

    Arguments as in :func:`render_text`.
    """
    table = _lay_out(results, region, notes, domains)
    lines = [" & ".join(in_latex(cell) for cell in line) + r" \\" for line in [table.header, *table.joined("~")]]
    comments = [f"% {note}" for note in table.notes]
    begin = rf"\begin{{tabular}}{{lll{'r' * (len(table.header) - 3)}}}"
    body = [begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
    return "\n".join([*comments, *body]) + "\n"


@dataclass(frozen=True)
class _Table:
    """Strings: ``rows`` begins with arm, direction and phase, ``intervals`` with the first score."""

    header: list[str]
    rows: list[list[str]]
    intervals: list[list[str]]
    notes: list[str]

    def joined(self, space: str) -> list[list[str]]:
        """The rows with each interval behind its value."""
        return [
            [
                *row[:3],
                *(f"{value}{space}{pair}" if pair else value for value, pair in zip(row[3:], intervals, strict=True)),
            ]
            for row, intervals in zip(self.rows, self.intervals, strict=True)
        ]


def _lay_out(
    results: Mapping[str, Results],
    region: str | None,
    notes: Sequence[str],
    domains: Domains,
    name: Callable[[str], str] = printable,
) -> _Table:
    """The table as text; ``name`` writes whatever a user, a data set or a plugin named."""
    cells = [cell for _, _, _, cell in _walk(results)]
    counts = [key for key in COUNTS if region is not None or key != "n_region_slices"]
    columns = [*_columns(cells, region), *counts]
    header = ["arm", "direction", "phase", *(COUNTS.get(key) or name(metric_of(key).title) for key in columns)]
    footnotes: dict[str, int] = {}
    rows = [
        [
            name(arm),
            _named(name(direction), domains),
            name(phase),
            *(_text(cell, key, footnotes, signed=arm == DIFFERENCE) for key in columns),
        ]
        for arm, direction, phase, cell in _walk(results)
    ]
    intervals = [[_interval(cell, key) for key in columns] for cell in cells]
    legend = [
        *_legend(cells, None if region is None else name(region)),
        *(_lesion_legend(results, domains) if region is not None else []),
        *_direction_legend(results, domains),
        *map(name, notes),
        *(f"[{mark}] {name(why)}" for why, mark in footnotes.items()),
    ]
    return _Table(header, rows, intervals, legend)


def _named(direction: str, domains: Domains) -> str:
    return direction if domains == CT_AND_MR else domains.title(direction)


def _direction_legend(results: Mapping[str, Results], domains: Domains) -> list[str]:
    directions = dict.fromkeys(direction for of_arm in results.values() for direction in of_arm)
    named = [f"{_named(direction, domains)} is {direction}" for direction in directions]
    return [] if domains == CT_AND_MR or not named else [f"In files, options and logs {', '.join(named)}."]


def _columns(cells: Sequence[Cell], region: str | None) -> list[str]:
    """The scores to show: HU only where something is known in HU, those of a region only where there is one."""
    keys = [key for key in metrics_of(cells) if region is not None or metric_of(key).of != "region"]
    of_hu = {key for key in keys if metric_of(key).needs == "hu"}
    in_hu = any(cell.get(key) is not None for cell in cells for key in of_hu)
    return [key for key in keys if in_hu or key not in of_hu]


def _walk(results: Mapping[str, Results]) -> Iterator[tuple[str, str, str, Cell]]:
    for arm, directions in results.items():
        for direction, phases in directions.items():
            for phase, cell in phases.items():
                yield arm, direction, phase, cell


def _legend(cells: Sequence[Cell], region: str | None) -> list[str]:
    notes = ["↑ higher is better, ↓ lower is better (LPIPS, FID and KID are distances), → 1 best at 1."]
    if region is not None:
        notes.append(
            f"TPSNR, TSSIM, texture (standard deviation, generated over real) and what says region are those of the "
            f"{region} alone, over the slices that show it (n region of n)."
        )
    if any(cell.get("intervals") for cell in cells):
        notes.append("[low, high]: 95 % of the means when patients are drawn with replacement (10,000 draws).")
    with_intervals = [cell["n_patients"] for cell in cells if any(cell.get("intervals", {}).values())]
    if min(with_intervals, default=FEW_PATIENTS) < FEW_PATIENTS:
        notes.append(
            f"Rows of fewer than {FEW_PATIENTS} patients (the smallest has {min(with_intervals)}) have weak intervals: "
            f"drawn from so few they are too narrow, and under 6 patients no p can be below 0.05."
        )
    n_tests = max((cell.get("n_tests", 0) for cell in cells), default=0)
    if n_tests:
        notes.append(
            f"p: of Wilcoxon's signed rank test of the patients' differences, two-sided, with Holm's correction for "
            f"all {n_tests} tests."
        )
    if any(cell.get(UCE.key) is not None for cell in cells):
        notes.append(
            "UCE: mean squared error against predicted variance, in squared grey levels; AUSE: 0 if the largest sigma "
            "is where the largest error is; sigma rank: Spearman's correlation of sigma with the error."
        )
    with_fid = [cell["n_slices"] for cell in cells if cell.get(FID.key) is not None]
    if with_fid and min(with_fid) < 2048:
        notes.append("FID from fewer than 2048 images (n) is biased upwards; compare it at equal n only.")
    return notes


def _lesion_legend(results: Mapping[str, Results], domains: Domains) -> list[str]:
    """How many lesions the shares are of; the truth, and with it what is unclear, is the same for all arms."""
    of_first = next(iter(results.values()), {})
    counts = {
        direction: tuple(cells["mean"][count] for count in LESION_COUNTS) for direction, cells in of_first.items()
    }
    if not any(clear + unclear for clear, unclear in counts.values()):
        return []
    listed = "; ".join(
        f"{_named(direction, domains)} {clear} ({unclear})" for direction, (clear, unclear) in counts.items()
    )
    return [
        f"{LOST.heading}, {INVERTED.heading}, {INVENTED.heading}: lesions whose contrast to their surroundings is "
        "under half of the real one, is reversed, or is not there in truth, as shares of the clear lesions.",
        f"Clear lesions (and those left out, under {MIN_CONTRAST_GREY:g} grey levels of contrast in truth): {listed}.",
    ]


def _text(cell: Cell, key: str, footnotes: dict[str, int], *, signed: bool = False) -> str:
    value = cell.get(key)
    if value is None:
        reason = cell["reasons"].get(key, NO_SIGMA if metric_of(key).needs == "sigma" else "not computed")
        return f"n/a [{footnotes.setdefault(reason, len(footnotes) + 1)}]"
    if key in COUNTS:
        return str(value)
    return f"{value:{'+' if signed else ''}.{metric_of(key).digits}f}"


def _interval(cell: Cell, key: str) -> str:
    interval, p = cell.get("intervals", {}).get(key), cell.get("p_values", {}).get(key)
    shown = [] if interval is None else ["[{:.{d}f}, {:.{d}f}]".format(*interval, d=metric_of(key).digits)]
    shown += [] if p is None else ["p<0.001" if p < 0.001 else f"p={p:.3f}"]
    return " ".join(shown)


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
    return "  ".join(cells).rstrip()
