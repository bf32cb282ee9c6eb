"""The metrics of whole volumes: what each measures, and what their table says of it; of slices, see ``metrics.py``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from . import volume_similarity
from .metrics import DECIBELS, Metric
from .volume_pairs import VolumePair


@dataclass(frozen=True, kw_only=True)
class VolumeMetric(Metric):
    """A metric that every volume has a value of, in a table of its own.

    Args:
        measure: The value of a volume, or ``None``.
        absent: Why the value is ``None``.
    """

    measure: Callable[[VolumePair], float | None]
    absent: str = "the volume shows no body"


VOLUME_METRICS: tuple[VolumeMetric, ...] = (
    VolumeMetric(
        key="volume_mae",
        heading="MAE",
        better="down",
        digits=1,
        of="image",
        measure=lambda shown: volume_similarity.mean_absolute_error(shown.real, shown.fake, shown.body),
    ),
    VolumeMetric(
        key="volume_psnr",
        heading="PSNR",
        better="up",
        digits=2,
        of="image",
        averaged=DECIBELS,
        measure=lambda shown: volume_similarity.psnr(shown.real, shown.fake, shown.body, shown.low, shown.high),
    ),
    VolumeMetric(
        key="volume_ms_ssim",
        heading="MS-SSIM",
        better="up",
        digits=4,
        of="image",
        measure=lambda shown: volume_similarity.ms_ssim(shown.real, shown.fake, shown.body, shown.low, shown.high),
        absent="the body is too small for five scales",
    ),
)
"""Those of whole volumes, inside the body; unit and range stand in the table's heading."""
