"""The results table, printed: for a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from .aggregation import COUNTS, Cell, Results, metrics_of

_HEADERS = {
    "tpsnr": ("TPSNR ↑", 2),
    "tssim": ("TSSIM ↑", 4),
    "psnr": ("PSNR ↑", 2),
    "ssim": ("SSIM ↑", 4),
    "texture_ratio": ("texture → 1", 2),
    "lpips": ("LPIPS ↓", 4),
    "region_lpips": ("region LPIPS ↓", 4),
    "fid": ("FID ↓", 2),
    "kid": ("KID ↓", 4),
    "n_patients": ("patients", 0),
    "n_slices": ("n", 0),
    "n_region_slices": ("n region", 0),
}


def render_text(results: Mapping[str, Results], region: str = "tumor") -> str:
    """The table for a terminal, columns aligned.

    Args:
        results: What :func:`aggregate` gave, by the name of the arm; its order is kept.
        region: Name of the region, for the legend.
    """
    table = _lay_out(results, region)
    widths = [max(len(line[i]) for line in [table.header, *table.rows]) for i in range(len(table.header))]
    lines = [_aligned(table.header, widths), "  ".join("-" * width for width in widths)]
    for before, row in zip([None, *table.rows], table.rows, strict=False):
        if before is not None and before[:2] != row[:2]:
            lines.append("")
        repeated = before is not None and before[:2] == row[:2]
        lines.append(_aligned(["", "", *row[2:]] if repeated else row, widths))
    return "\n".join([*lines, "", *table.notes]) + "\n"


def render_markdown(results: Mapping[str, Results], region: str = "tumor") -> str:
    """The same table in Markdown; arguments as in :func:`render_text`."""
    table = _lay_out(results, region)
    rule = ["---"] * 3 + ["---:"] * (len(table.header) - 3)
    lines = [
        "| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in [table.header, *table.rows]
    ]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join([*lines, "", *(f"{note}  " for note in table.notes)]) + "\n"


@dataclass(frozen=True)
class _Table:
    header: list[str]
    rows: list[list[str]]
    notes: list[str]


def _lay_out(results: Mapping[str, Results], region: str) -> _Table:
    cells = [cell for _, _, _, cell in _walk(results)]
    columns = [*metrics_of(cells), *COUNTS]
    header = ["arm", "direction", "phase", *(_HEADERS.get(key, (key, 4))[0] for key in columns)]
    footnotes: dict[str, int] = {}
    rows = [
        [arm, way, phase, *(_shown(cell, key, footnotes) for key in columns)]
        for arm, way, phase, cell in _walk(results)
    ]
    return _Table(header, rows, [*_legend(cells, region), *(f"[{mark}] {why}" for why, mark in footnotes.items())])


def _walk(results: Mapping[str, Results]) -> Iterator[tuple[str, str, str, Cell]]:
    for arm, directions in results.items():
        for direction, phases in directions.items():
            for phase, cell in phases.items():
                yield arm, direction, phase, cell


def _legend(cells: Sequence[Cell], region: str) -> list[str]:
    notes = [
        "↑ higher is better, ↓ lower is better (LPIPS, FID and KID are distances), → 1 best at 1.",
        f"TPSNR, TSSIM, texture (standard deviation, generated over real) and region LPIPS are those of the {region} "
        f"alone, over the slices that show it (n region of n).",
    ]
    with_fid = [cell["n_slices"] for cell in cells if cell["fid"] is not None]
    if with_fid and min(with_fid) < 2048:
        notes.append("FID from fewer than 2048 images (n) is biased upwards; compare it at equal n only.")
    return notes


def _shown(cell: Cell, key: str, footnotes: dict[str, int]) -> str:
    value = cell.get(key)
    if value is None:
        reason = cell["reasons"].get(key, "not computed")
        return f"n/a [{footnotes.setdefault(reason, len(footnotes) + 1)}]"
    return f"{value:.{_HEADERS.get(key, (key, 4))[1]}f}"


def _aligned(line: Sequence[str], widths: Sequence[int]) -> str:
    cells = [cell.ljust(w) if i < 3 else cell.rjust(w) for i, (cell, w) in enumerate(zip(line, widths, strict=True))]
    return "  ".join(cells).rstrip()
