"""The window of HU that a data set's grey levels stand for: what errors in HU cannot see."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..saving.names import Domains, target_of
from .metrics import MAE_HU, REGION_MAE_HU
from .pairs import reading_manifest, slices_in
from .volume_pairs import window_of
from .volume_similarity import FULL_RANGE_HU

Window = tuple[float, float]


def hu_window(manifest: Path, domain: str) -> Window | None:
    """The window of all slices of a domain; the widest ends where they differ, ``None`` where none is in HU.

    Args:
        manifest: A data set's ``manifest.json``; where there is none, nothing is known.
        domain: ``A`` or ``B``.

    Raises:
        DataError: The manifest cannot be used.
    """
    if not manifest.is_file():
        return None
    with reading_manifest(manifest):
        windows = {window_of(found) for _, found in slices_in(manifest, None) if found.get("domain") == domain}
    known = [window for window in windows if window is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def hu_windows(manifest: Path, directions: Mapping[str, object]) -> dict[str, Window]:
    """The windows of the directions that lead to HU."""
    found = {direction: hu_window(manifest, target_of(direction)) for direction in directions}
    return {direction: window for direction, window in found.items() if window is not None}


def window_notes(windows: Mapping[str, Window], domains: Domains) -> list[str]:
    """What a table of slices says of its errors in HU.

    Args:
        windows: By direction.
        domains: What the domains are called.
    """
    return [
        f"{MAE_HU.heading} and {REGION_MAE_HU.heading}, {domains.title(direction)}: {clipped(window)}, the window of "
        f"the data, over whole slices with their air and over the region; what lies beyond counts as its border, so "
        f"that a perfect image shows 0{'' if is_full(window) else ' and is off the scan by what was clipped'}."
        for direction, window in windows.items()
    ]


def is_full(window: Window) -> bool:
    """Whether a window holds all that SynthRAD looks at."""
    return window[0] <= FULL_RANGE_HU[0] and window[1] >= FULL_RANGE_HU[1]


def clipped(window: Window) -> str:
    """A window in words.

    Example:
        >>> clipped((-160.0, 240.0))
        'clipped to [-160, 240] HU'
    """
    return f"clipped to [{window[0]:g}, {window[1]:g}] HU"
