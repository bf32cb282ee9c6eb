"""The results table, printed: for a terminal, in Markdown, CSV and LaTeX.

A direction at a time, so that what can be compared stands together: a row an arm, or an arm and phase where there are
several phases. Columns stand in groups, the region, the whole image, the lesions, the uncertainty; a table for a
terminal begins a new block where the next group is too wide for the line.
"""

from __future__ import annotations

import csv
import io
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ..saving.names import CT_AND_MR, ONE_PHASE, Domains
from ..saving.plain_text import in_csv, in_latex, in_markdown, printable
from .aggregation import Cell, Results, metric_of, metrics_of
from .intervals import DIFFERENCE
from .lesions import MIN_CONTRAST_GREY
from .metrics import COUNTS, FID, INVENTED, INVERTED, LESION_COUNTS, LOST, METRICS, NO_SIGMA, UCE
from .references import REFERENCE_TEXTS
from .significance import FEW_PATIENTS
from .volume_metrics import VolumeMetric

MEAN = "mean"
"""The row of the mean over phases."""
GROUPS = ("region", "whole image", "inside the body", "lesions", "uncertainty", "further", "counts")
"""The headings of the columns' groups, in their order; the first is the region's name where there is one."""
OURS = frozenset(metric.key for metric in METRICS)
EMPTY = "n/a"
LEFT_OUT = ("A row stands in the blocks alone in which it has a value.",)
WIDTH = 100
"""Of a line where it is not known how wide the terminal is."""

Name = Callable[[str], str]
"""Writes whatever a user, a data set or a plugin named as text of a format."""


def render_text(
    results: Mapping[str, Results],
    region: str | None = "tumor",
    notes: Sequence[str] = (),
    domains: Domains = CT_AND_MR,
    *,
    width: int | None = WIDTH,
    columns: Sequence[str] | None = None,
) -> str:
    """The table for a terminal, columns aligned; a row's intervals stand in the line below it.

    In a block in which it has no value, a row is left out.

    Args:
        results: What :func:`aggregate` gave, by the name of the arm; its order is kept.
        region: Name of the region, for headings and legend; without one the scores of whole images alone are shown.
        notes: More lines of the legend.
        domains: What the domains are called: directions bear their names, unless they are CT and MR.
        width: Characters a line may have; further groups of columns stand in blocks below. ``None`` for one block.
        columns: The scores and counts to show, by their names in files, also where they hold nothing; without them all
            that hold anything.
    """
    table = _lay_out(results, region, notes, domains, columns=columns)
    labels = [table.label(row) for row in table.rows]
    label_width = max((len(label) for label in labels), default=0)
    widths = _widths(table)
    lines: list[str] = []
    left_out: tuple[str, ...] = ()
    for block in _blocks(widths, table.groups, None if width is None else width - label_width):
        lines += _header_lines(table, block, widths, label_width)
        for direction, members in groupby(zip(labels, table.rows, strict=True), key=lambda of_row: of_row[1].direction):
            lines.append(direction)
            of_direction = list(members)
            known = [(label, row) for label, row in of_direction if row.has_value(block)]
            if len(known) < len(of_direction):
                left_out = LEFT_OUT
            # Where none of them has a value, the reason stands once.
            lines += [] if known else [f"  {of_direction[0][1].values[block[0]]}"]
            for label, row in known:
                lines.append(_aligned(label, [row.values[i] for i in block], block, widths, label_width))
                if any(row.intervals[i] for i in block):
                    lines.append(_aligned("", [row.intervals[i] for i in block], block, widths, label_width))
            lines.append("")
    above = "\n".join(lines)
    for note in [
        *left_out,
        *table.notes,
        *(note for mark, note in table.footnotes.items() if f"{EMPTY} {mark}" in above),
    ]:
        lines += [note] if width is None else wrapped(note, width)
    return "\n".join(lines) + "\n"


def render_markdown(
    results: Mapping[str, Results],
    region: str | None = "tumor",
    notes: Sequence[str] = (),
    domains: Domains = CT_AND_MR,
) -> str:
    """The same table in Markdown, in one block; arguments as in :func:`render_text`."""
    table = _lay_out(results, region, notes, domains, in_markdown)
    rule = ["---"] * len(table.labels) + ["---:"] * len(table.header)
    lines = ["| " + " | ".join(line) + " |" for line in [[*table.labels, *table.header], *table.joined(" ")]]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    notes = [*table.notes, *table.footnotes.values()]
    return "\n".join([*lines, "", *(f"{note}  " for note in notes)]) + "\n"


def render_csv(results: Mapping[str, Results], region: str | None = "tumor") -> str:
    """Every row, also of means over one phase, as comma-separated numbers at full precision, for other programs.

    Args:
        results: As in :func:`render_text`.
        region: Without one the scores of whole images alone.

    Returns:
        A header of names as in the JSON and a line for each row. Each score is followed by its interval, as
        ``<name>_low`` and ``<name>_high``; what does not exist is empty.
    """
    cells = [cell for _, _, _, cell in _walk(results)]
    metrics = _known_columns(cells, region)
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
    rows = [[*table.labels, *table.header], *table.joined("~")]
    lines = [" & ".join(in_latex(cell) for cell in line) + r" \\" for line in rows]
    comments = [f"% {note}" for note in [*table.notes, *table.footnotes.values()]]
    begin = rf"\begin{{tabular}}{{{'l' * len(table.labels)}{'r' * len(table.header)}}}"
    body = [begin, r"\hline", lines[0], r"\hline", *lines[1:], r"\hline", r"\end{tabular}"]
    return "\n".join([*comments, *body]) + "\n"


# --- what stands in it ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Row:
    """Strings; ``values`` and ``intervals`` have one for each column."""

    direction: str
    arm: str
    phase: str
    values: list[str]
    intervals: list[str]

    def has_value(self, columns: Iterable[int]) -> bool:
        """Whether it has one in any of these columns."""
        return not all(self.values[i].startswith(EMPTY) for i in columns)


@dataclass(frozen=True)
class _Table:
    """``header`` and ``groups`` have a title for each column; ``has_phases`` where a row is of one of several;
    ``footnotes`` say by their marks why cells are empty."""

    header: list[str]
    groups: list[str]
    rows: list[_Row]
    has_phases: bool
    notes: list[str]
    footnotes: dict[str, str]

    @property
    def labels(self) -> list[str]:
        """The heads of the columns before the scores."""
        return ["direction", "arm", *(["phase"] if self.has_phases else [])]

    def label(self, row: _Row) -> str:
        """What stands before a row in a terminal, where its direction stands above it; a first phase bears the arm."""
        if not self.has_phases:
            return f"  {row.arm}"
        of_arm = [other for other in self.rows if (other.direction, other.arm) == (row.direction, row.arm)]
        arm_width = max(len(other.arm) for other in self.rows)
        return f"  {row.arm if row is of_arm[0] else '':{arm_width}}  {row.phase}"

    def column(self, i: int) -> list[str]:
        """All that stands below a title."""
        return [text for row in self.rows for text in (row.values[i], row.intervals[i])]

    def joined(self, space: str) -> list[list[str]]:
        """The rows with each interval behind its value."""
        return [
            [
                *(row.direction, row.arm, *([row.phase] if self.has_phases else [])),
                *(
                    f"{value}{space}{pair}" if pair else value
                    for value, pair in zip(row.values, row.intervals, strict=True)
                ),
            ]
            for row in self.rows
        ]


def _lay_out(
    results: Mapping[str, Results],
    region: str | None,
    notes: Sequence[str],
    domains: Domains,
    name: Name = printable,
    columns: Sequence[str] | None = None,
) -> _Table:
    """The table as text; ``name`` writes whatever a user, a data set or a plugin named."""
    shown = list(_rows_to_show(results))
    cells = [cell for _, _, _, cell in shown]
    known = _known_columns(cells, region)
    filled = [key for key in known if any(cell.get(key) is not None for cell in cells)]
    keys = _in_groups(filled) if columns is None else list(columns)
    footnotes: dict[str, int] = {}
    rows = [
        _Row(
            _named(name(direction), domains),
            name(arm),
            name(phase),
            [_text(cell, key, footnotes, signed=arm == DIFFERENCE) for key in keys],
            [_interval(cell, key) for key in keys],
        )
        for direction, arm, phase, cell in shown
    ]
    legend = [
        *_legend(cells, keys, None if region is None else name(region)),
        *_reference_legend(results, name),
        *(_lesion_legend(results, domains) if region is not None and LOST.key in keys else []),
        *_count_legend(results, domains, region, name),
        *_direction_legend(results, domains),
        *_empty_legend(cells, [key for key in known if key not in filled and key not in keys], name),
        *map(name, notes),
    ]
    header = [COUNTS.get(key) or name(metric_of(key).title) for key in keys]
    groups = [_group(key, "region" if region is None else name(region)) for key in keys]
    marked = {f"[{mark}]": f"[{mark}] {name(why)}" for why, mark in footnotes.items()}
    return _Table(header, groups, rows, len({phase for _, _, phase, _ in shown}) > 1, legend, marked)


def _walk(results: Mapping[str, Results]) -> Iterator[tuple[str, str, str, Cell]]:
    """Arm, direction, phase and cell of every row there is."""
    for arm, directions in results.items():
        for direction, phases in directions.items():
            for phase, cell in phases.items():
                yield arm, direction, phase, cell


def _rows_to_show(results: Mapping[str, Results]) -> Iterator[tuple[str, str, str, Cell]]:
    """Direction, arm, phase and cell, a direction at a time; a mean over one phase would be that phase once more."""
    for direction in dict.fromkeys(direction for _, direction, _, _ in _walk(results)):
        for arm, directions in results.items():
            cells = directions.get(direction, {})
            phases = [phase for phase in cells if phase != MEAN]
            for phase, cell in cells.items():
                if phase != MEAN or len(phases) != 1:
                    yield direction, arm, phase, cell


def _known_columns(cells: Sequence[Cell], region: str | None) -> list[str]:
    """The scores there can be: HU only where something is known in HU, those of a region only where there is one."""
    keys = [key for key in metrics_of(cells) if region is not None or not metric_of(key).needs_region]
    of_hu = {key for key in keys if metric_of(key).needs == "hu"}
    in_hu = any(cell.get(key) is not None for cell in cells for key in of_hu)
    return [key for key in keys if in_hu or key not in of_hu]


def _in_groups(keys: Sequence[str]) -> list[str]:
    """In the order of ``METRICS``, those of a group together."""
    return sorted(keys, key=lambda key: GROUPS.index(_group(key, GROUPS[0])))


def _group(key: str, region: str) -> str:
    metric = metric_of(key)
    if key in COUNTS:
        return "counts"
    if isinstance(metric, VolumeMetric):
        return "inside the body"
    if key not in OURS:
        return "further"
    if metric.needs == "sigma":
        return "uncertainty"
    return {"region": region, "lesions": "lesions"}.get(metric.of, "whole image")


def _text(cell: Cell, key: str, footnotes: dict[str, int], *, signed: bool = False) -> str:
    value = cell.get(key)
    if value is None:
        return f"{EMPTY} [{footnotes.setdefault(_why(cell, key), len(footnotes) + 1)}]"
    if key in COUNTS:
        return str(value)
    return f"{value:{'+' if signed else ''}.{metric_of(key).digits}f}"


def _why(cell: Cell, key: str) -> str:
    """Why a score has no value."""
    reason: str = cell["reasons"].get(key, NO_SIGMA if metric_of(key).needs == "sigma" else "not computed")
    return reason


def _interval(cell: Cell, key: str) -> str:
    interval, p = cell.get("intervals", {}).get(key), cell.get("p_values", {}).get(key)
    shown = [] if interval is None else ["[{:.{d}f}, {:.{d}f}]".format(*interval, d=metric_of(key).digits)]
    shown += [] if p is None else ["p<0.001" if p < 0.001 else f"p={p:.3f}"]
    return " ".join(shown)


# --- its legend -------------------------------------------------------------------------------------------------------


def _named(direction: str, domains: Domains) -> str:
    return direction if domains == CT_AND_MR else domains.title(direction)


def _legend(cells: Sequence[Cell], keys: Sequence[str], region: str | None) -> list[str]:
    notes = ["↑ higher is better, ↓ lower is better (LPIPS, FID and KID are distances), → 1 best at 1."]
    if region is not None:
        notes.append(
            f"TPSNR and TSSIM are PSNR and SSIM of the {region} alone, as is what says region; texture is its standard "
            f"deviation, generated over real. They are means over the slices that show it."
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
    if UCE.key in keys:
        notes.append(
            "UCE: mean squared error against predicted variance, in squared grey levels; AUSE: 0 if the largest sigma "
            "is where the largest error is; sigma rank: Spearman's correlation of sigma with the error; sigma / "
            "error: 1 where sigma is as large as the error in the mean square; coverage: share of the pixels whose "
            "error lies in the 90 % interval."
        )
    with_fid = [cell["n_slices"] for cell in cells if FID.key in keys and cell.get(FID.key) is not None]
    if with_fid and min(with_fid) < 2048:
        notes.append(
            f"FID from fewer than 2048 images (here n = {min(with_fid)}) is biased upwards; compare it at equal n only."
        )
    return notes


def _reference_legend(results: Mapping[str, Results], name: Name) -> list[str]:
    texts = [f"{name(arm)}: {REFERENCE_TEXTS[arm]}" for arm in results if arm in REFERENCE_TEXTS]
    return [f"What costs nothing, to compare with: {'; '.join(texts)}."] if texts else []


def _lesion_legend(results: Mapping[str, Results], domains: Domains) -> list[str]:
    """How many lesions the shares are of; the truth, and with it what is unclear, is the same for all arms."""
    of_first = next(iter(results.values()), {})
    counts = {direction: tuple(cells[MEAN][count] for count in LESION_COUNTS) for direction, cells in of_first.items()}
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


def _count_legend(results: Mapping[str, Results], domains: Domains, region: str | None, name: Name) -> list[str]:
    """What every row is a mean of; once where all arms have been measured on the same slices."""
    texts: dict[str, dict[str, None]] = {}
    for direction, arm, _, _ in _rows_to_show(results):
        cells = results[arm][direction]
        counted = {phase: _counted(cell, region) for phase, cell in cells.items() if phase != MEAN}
        if list(counted) == [ONE_PHASE]:
            text = counted[ONE_PHASE]
        else:
            text = "; ".join(f"{name(phase)} {of_phase}" for phase, of_phase in counted.items())
        texts.setdefault(text, {})[f"{_named(name(direction), domains)}"] = None
    return [f"Measured on ({', '.join(directions)}): {text}." for text, directions in texts.items() if text]


def _counted(cell: Cell, region: str | None) -> str:
    patients, counted = cell["n_patients"], cell["n_slices"]
    what = "volume" if any(isinstance(metric_of(key), VolumeMetric) for key in metrics_of([cell])) else "slice"
    text = f"{patients} patient{'s' * (patients != 1)}, {counted} {what}{'s' * (counted != 1)}"
    return text if region is None else f"{text} ({cell['n_region_slices']} with the region)"


def _direction_legend(results: Mapping[str, Results], domains: Domains) -> list[str]:
    directions = dict.fromkeys(direction for of_arm in results.values() for direction in of_arm)
    if domains == CT_AND_MR:
        return ["A2B leads from domain A to domain B, B2A back: CT to MR unless `prepare --domains` named others."]
    named = [f"{_named(direction, domains)} is {direction}" for direction in directions]
    return [f"In files, options and logs {', '.join(named)}."] if named else []


def _empty_legend(cells: Sequence[Cell], keys: Sequence[str], name: Name) -> list[str]:
    """The columns that are left out, by the reason why they hold nothing."""
    by_reason: dict[str, list[str]] = {}
    for key in keys if cells else ():
        by_reason.setdefault(_why(cells[0], key), []).append(name(metric_of(key).heading))
    listed = "; ".join(f"{', '.join(headings)} ({name(why)})" for why, headings in by_reason.items())
    return [f"Left out, as nothing is known: {listed}."] if listed else []


# --- lines of a terminal ----------------------------------------------------------------------------------------------


def _widths(table: _Table) -> list[int]:
    """Of each column, what stands in it, and the last of a group wide enough for the group's title."""
    widths = [max(map(len, (title, *table.column(i)))) for i, title in enumerate(table.header)]
    for group, members in groupby(range(len(widths)), key=lambda i: table.groups[i]):
        columns = list(members)
        widths[columns[-1]] += max(0, len(group) - sum(widths[i] + 2 for i in columns) + 2)
    return widths


def _blocks(widths: Sequence[int], groups: Sequence[str], width: int | None) -> list[list[int]]:
    """The columns of each block: whole groups as far as they fit, a group that is too wide alone in parts."""
    together = [list(members) for _, members in groupby(range(len(widths)), key=lambda i: groups[i])]
    if width is None:
        return [[i for members in together for i in members]]

    def taken(columns: Sequence[int]) -> int:
        return sum(widths[i] + 2 for i in columns)

    blocks: list[list[int]] = [[]]
    for members in together:
        parts = [members] if taken(members) <= width else [[i] for i in members]
        for part in parts:
            if blocks[-1] and taken(blocks[-1] + part) > width:
                blocks.append([])
            blocks[-1] += part
    return blocks


def wrapped(note: str, width: int) -> list[str]:
    """A remark below or above a table, in lines of a width."""
    return textwrap.wrap(note, max(width, 40), subsequent_indent="  ", break_on_hyphens=False, break_long_words=False)


def _header_lines(table: _Table, block: Sequence[int], widths: Sequence[int], label_width: int) -> list[str]:
    """What each group of columns is of, their titles, and a rule below each group."""
    above, below = " " * label_width, " " * label_width
    for group, of_group in groupby(block, key=lambda i: table.groups[i]):
        members = list(of_group)
        span = sum(widths[i] + 2 for i in members) - 2
        above += f"  {group[:span]:{span}}"
        below += "  " + "-" * span
    titles = _aligned("", [table.header[i] for i in block], block, widths, label_width)
    return [above.rstrip(), titles, below]


def _aligned(label: str, texts: Sequence[str], block: Sequence[int], widths: Sequence[int], label_width: int) -> str:
    cells = [text.rjust(widths[i]) for text, i in zip(texts, block, strict=True)]
    return "  ".join([label.ljust(label_width), *cells]).rstrip()
