"""What a user may set about ``prepare``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError
from ..saving.names import CT_AND_MR, Domains
from .ct_windows import CT_WINDOWS
from .hounsfield import IN_HOUNSFIELD
from .splits import split_counts

MR_STEPS = ("denoise", "bias", "standardise", "clip", "zscore")
DTYPES = ("uint8", "float32")
MOST_MM = 10_000
"""Of a field of view: no scanner has more."""
MOST_HU = 1e6
MOST_NEIGHBOURS = 16
"""Above a slice, and below: 33 channels."""


@dataclass(frozen=True)
class PrepareOptions:
    """How volumes become pictures; the defaults are the paper's where it gives a value.

    Args:
        size_px: Side of the square pictures.
        ct_window: Width and level of the window, HU, of what is in HU.
        mr_percentiles: Percentiles of the body to which an MR, and all else that is not in HU, is clipped.
        slices_each_side: Slices on each side of the one with the largest region (paper: four).
        neighbours: For each picture, so many slices above and below it are written too, as further channels of what a
            network is given (2.5-D); where the volume ends its last slice repeats.
        split: Shares of train, val and test; proportions, or counts that sum to the number of patients.
        split_seed: Seed of the split.
        split_of: A given split: patient to ``train``, ``val`` or ``test``; or a column ``split`` in the CSV.
        align: Bring every volume of B onto the grid of that of A of the same patient and phase; write pairs only.
        field_of_view_mm: Side of the square that is cut out; ``None`` takes the body's longer side, a scale
            of its own for each volume.
        mr_steps: What is done to an MR, and to all else that is not in HU, any of ``MR_STEPS`` in their order,
            whatever the order here. The first three are off, because many published series have been corrected
            already: ``denoise`` (non-local means) and ``bias`` (N4) take seconds to minutes each, ``standardise``
            fits one scale a domain to the training part. Without ``clip`` the body's extremes take the place of
            ``mr_percentiles``; ``zscore`` records the body's mean and standard deviation.
        paired: ``align``, and every pair side by side too, as pix2pix code reads them.
        dtype: ``uint8`` writes 8-bit PNGs, ``float32`` arrays (``.npy``) in [-1, 1], which nothing is lost in by
            rounding; masks are PNGs in either case.
        domains: What the list's column ``modality`` calls A and B: the names of two modalities, or two of any kind.
        hounsfield: The modalities whose values are HU; all others are treated as an MR is.
    """

    size_px: int = 256
    ct_window: tuple[float, float] = CT_WINDOWS["soft"]
    mr_percentiles: tuple[float, float] = (0.5, 99.5)
    slices_each_side: int = 4
    split: tuple[float, float, float] = (0.6, 0.2, 0.2)
    split_seed: int = 0
    split_of: Mapping[str, str] | None = None
    align: bool = False
    field_of_view_mm: float | None = None
    mr_steps: tuple[str, ...] = ("clip", "zscore")
    paired: bool = False
    dtype: str = "uint8"
    domains: tuple[str, str] = CT_AND_MR.names
    hounsfield: tuple[str, ...] = IN_HOUNSFIELD
    neighbours: int = 0

    def __post_init__(self) -> None:
        check.whole("", "size_px", self.size_px, 8, check.MOST_PX)
        check.whole("", "slices_each_side", self.slices_each_side, 0, check.MOST_PX)
        check.whole("", "split_seed", self.split_seed, 0)
        check.whole("", "neighbours", self.neighbours, 0, MOST_NEIGHBOURS)
        if not _numbers(self.ct_window, 2) or self.ct_window[0] <= 0 or max(map(abs, self.ct_window)) > MOST_HU:
            raise ConfigError(
                f"`ct_window` must be (width, level) in HU, width above 0, both up to {MOST_HU:g}; "
                f"got {self.ct_window!r}"
            )
        if not _numbers(self.mr_percentiles, 2) or not 0 <= self.mr_percentiles[0] < self.mr_percentiles[1] <= 100:
            raise ConfigError(f"`mr_percentiles` must be two rising numbers in 0 to 100; got {self.mr_percentiles!r}")
        side = self.field_of_view_mm
        if side is not None and (not _numbers((side,), 1) or not 0 < side <= MOST_MM):
            raise ConfigError(
                f"`field_of_view_mm` must be a number above 0, up to {MOST_MM}, or None for the body's size; "
                f"got {side!r}"
            )
        for name in ("align", "paired"):
            if not isinstance(getattr(self, name), bool):
                raise ConfigError(f"`{name}` must be true or false; got {getattr(self, name)!r}")
        if self.paired and self.neighbours:
            raise ConfigError(
                f"`neighbours` cannot go with `paired`, whose pictures side by side hold single slices; got "
                f"{self.neighbours}; use --align"
            )
        if self.dtype not in DTYPES:
            raise ConfigError(f"`dtype` must be one of {', '.join(DTYPES)}; got {self.dtype!r}")
        if not isinstance(self.mr_steps, (tuple, list)) or not set(self.mr_steps) <= set(MR_STEPS):
            raise ConfigError(f"`mr_steps` must be any of {', '.join(MR_STEPS)}; got {self.mr_steps!r}")
        split_counts(0, self.split)
        if not isinstance(self.domains, (tuple, list)):
            raise ConfigError(f"`domains` must be the names of A and B; got {self.domains!r}; e.g. ('T1', 'FLAIR')")
        Domains.of(self.domains)
        if isinstance(self.hounsfield, str) or not all(isinstance(word, str) for word in self.hounsfield):
            raise ConfigError(f"`hounsfield` must be names of modalities; got {self.hounsfield!r}; e.g. ('CT',)")

    @property
    def in_pairs(self) -> bool:
        """Whether each volume of A is cut with that of B."""
        return self.align or self.paired


def _numbers(values: Any, count: int) -> bool:
    ok = isinstance(values, (tuple, list)) and len(values) == count
    return ok and all(isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < float("inf") for v in values)
