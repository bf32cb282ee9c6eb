"""One picture a split of what was prepared, so that a wrong orientation or mask is seen at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.Image import Resampling

from ..saving.names import CT_AND_MR, DOMAINS, Domains
from .layout import read_pixels

TILE_PX = 144
GAP_PX = 4
LINE_PX = 14
COLUMNS = 8
MOST_SCANS = 40
"""Rows of more would no longer be looked at."""
COLOURS = ((255, 70, 70), (70, 190, 255), (255, 210, 60), (120, 230, 120))
"""Outlines of the regions, in their order."""


def contact_sheet(
    pictures: Path,
    split: str,
    slices: Sequence[Mapping[str, Any]],
    regions: Sequence[str],
    domains: Domains = CT_AND_MR,
) -> Image.Image | None:
    """The slice with the largest first region of every patient and phase, A above B, the regions outlined.

    Args:
        pictures: The data set.
        split: Which part of it.
        slices: The entries of all slices, as in the manifest.
        regions: Names, the main one first; without any, the middle slice is shown.
        domains: What the domains are called.

    Returns:
        The sheet, of the first ``MOST_SCANS`` patients and phases by name; ``None`` where the split has no slice.
    """
    every: dict[tuple[str, str], dict[str, list[Mapping[str, Any]]]] = {}
    for entry in slices:
        if entry["split"] == split:
            every.setdefault((entry["patient"], entry["phase"]), {}).setdefault(entry["domain"], []).append(entry)
    best = {
        scan: {domain: _slice_to_show(of_domain, regions) for domain, of_domain in of_scan.items()}
        for scan, of_scan in every.items()
    }
    shown = sorted(best)[:MOST_SCANS]
    if not shown:
        return None
    columns, bands = min(COLUMNS, len(shown)), -(-len(shown) // COLUMNS)
    step_px, band_px = TILE_PX + GAP_PX, len(DOMAINS) * (TILE_PX + GAP_PX) + 2 * LINE_PX
    left_px = 2 * LINE_PX
    width_px = left_px + max(columns, 3) * step_px
    sheet = Image.new("RGB", (width_px, 2 * LINE_PX + bands * band_px), (24, 24, 24))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    more = f", the first {len(shown)}" if len(best) > len(shown) else ""
    draw.text(
        (GAP_PX, 1),
        f"{split}: {len(best)} patients and phases{more}; A is {domains.a}, B is {domains.b}",
        "white",
        font,
    )
    _legend(draw, font, regions, (GAP_PX, LINE_PX + 1))
    for number, scan in enumerate(shown):
        band, column = divmod(number, COLUMNS)
        x_px, y_px = left_px + column * step_px, 2 * LINE_PX + band * band_px
        for row, domain in enumerate(DOMAINS):
            top_px = y_px + row * step_px
            draw.text((GAP_PX, top_px + TILE_PX // 2), domain, "white", font)
            if domain in best[scan]:
                sheet.paste(_tile(pictures, best[scan][domain], regions), (x_px, top_px))
        for line, text in enumerate((scan[0], " ".join((scan[1], *_indices(best[scan]))))):
            draw.text((x_px, y_px + 2 * step_px + line * LINE_PX - GAP_PX), _fitting(text, font), "white", font)
    return sheet


def _slice_to_show(slices: Sequence[Mapping[str, Any]], regions: Sequence[str]) -> Mapping[str, Any]:
    """The first of those with the largest first region, or the middle one where there is no region at all."""
    if regions:
        return max(slices, key=lambda entry: int(entry["region_areas_px"][regions[0]]))
    return sorted(slices, key=lambda entry: int(entry["index"]))[len(slices) // 2]


def _legend(draw: ImageDraw.ImageDraw, font: Any, regions: Sequence[str], corner: tuple[int, int]) -> None:
    x_px, y_px = corner
    for number, region in enumerate(regions):
        draw.text((x_px, y_px), region, COLOURS[number % len(COLOURS)], font)
        x_px += round(font.getlength(region)) + LINE_PX


def _indices(of_scan: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{domain}{of_scan[domain]['index']}" for domain in DOMAINS if domain in of_scan]


def _fitting(text: str, font: Any) -> str:
    while font.getlength(text) > TILE_PX:
        text = text[:-2] + "~"
    return text


def _tile(pictures: Path, entry: Mapping[str, Any], regions: Sequence[str]) -> Image.Image:
    folder, size = f"{entry['split']}{entry['domain']}", (TILE_PX, TILE_PX)
    grey = Image.fromarray(read_pixels(pictures / folder, entry["name"])).resize(size, Resampling.BILINEAR)
    tile = np.stack([np.asarray(grey)] * 3, axis=-1)
    for number, region in enumerate(regions):
        mask = Image.fromarray(read_pixels(pictures / f"{folder}_{region}", entry["name"]))
        tile[outline(np.asarray(mask.resize(size, Resampling.NEAREST)) > 0)] = COLOURS[number % len(COLOURS)]
    return Image.fromarray(tile)


def outline(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """The pixels of a mask that have a neighbour outside it."""
    wide = np.pad(mask, 1)
    return mask & ~(wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:])
