"""The metrics: what each of them measures, and what a table says of it.

:data:`METRICS` is the one list. An entry holds the key of a metric in files, its heading, which way is better, its
digits, what it is of, how it is averaged, and the reason that is printed where it has no value. Scoring, averaging,
intervals, tables and figures read them there; the functions stand by subject in the other files of this folder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from . import calibration, conformal, distances, similarity
from .lesions import LesionAudit, audit_lesions
from .networks import Lpips, Unavailable
from .pairs import ImagePair

Array = npt.NDArray[Any]
Better = Literal["up", "down", "1", "0.9"]
Need = Literal["hu", "lpips", "sigma"]

PSNR_CAP_DB = 100.0
TEXTURE_FLOOR = 1e-3
ARROWS: dict[Better, str] = {"up": "↑", "down": "↓", "1": "→ 1", "0.9": "→ 0.9"}

NO_REGION = "no region in the slice"
NO_HU = "no map from the real image's grey levels to HU is known"
NO_SIGMA = "no sigma was predicted"
NOT_ASKED = Unavailable("not asked for")

COUNTS = {"n_patients": "patients", "n_slices": "n", "n_region_slices": "n region"}
"""What a row counts, and its headings."""
LESION_COUNTS = ("n_lesions", "n_unclear_lesions")


@dataclass(frozen=True, eq=False)
class Slice:
    """A pair as the metrics see it; what several of them need is computed once.

    Args:
        pair: The generated image beside its truth.
        lpips: The perceptual distance, or why there is none.

    Raises:
        ShapeError: The pair's images, masks and sigma do not fit each other.
    """

    pair: ImagePair
    lpips: Lpips | Unavailable = NOT_ASKED

    def __post_init__(self) -> None:
        similarity.check_images(self.real, self.fake, self.mask, self.pair.organ)
        if self.pair.sigma is not None:
            calibration.check_sigma(self.real, self.fake, self.pair.sigma, self.mask)

    @property
    def real(self) -> Array:
        """The truth, [H, W] in 0..255."""
        return self.pair.real

    @property
    def fake(self) -> Array:
        """What was generated, likewise."""
        return self.pair.fake

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """The region, bool [H, W]."""
        return self.pair.mask

    @property
    def hu_per_grey(self) -> float:
        """What a grey level is in HU; for metrics that need ``"hu"``."""
        assert self.pair.hu_per_grey is not None
        return self.pair.hu_per_grey

    @property
    def sigma(self) -> Array:
        """The predicted standard deviation, [H, W] in grey levels; for metrics that need ``"sigma"``."""
        assert self.pair.sigma is not None
        return self.pair.sigma

    @property
    def half_width(self) -> Array:
        """Half the width of the interval that is to hold 90 % of the errors, [H, W] in grey levels.

        Where sigma was not calibrated it is a normal distribution's.
        """
        known = self.pair.half_width
        return conformal.NORMAL_HALF_WIDTH * self.sigma if known is None else known

    @property
    def perceptual(self) -> Lpips:
        """The perceptual distance; for metrics that need ``"lpips"``."""
        assert not isinstance(self.lpips, Unavailable)
        return self.lpips

    @cached_property
    def error(self) -> npt.NDArray[np.float64]:
        """Generated minus real, [H, W] in grey levels."""
        return self.fake.astype(np.float64) - self.real

    @cached_property
    def ssim(self) -> tuple[float, npt.NDArray[np.float64]]:
        """Mean and map [H, W] of the structural similarity."""
        return similarity.ssim_map(self.real, self.fake)

    @cached_property
    def lesions(self) -> LesionAudit:
        """What became of every lesion."""
        return audit_lesions(self.real, self.fake, self.mask, self.pair.organ)

    def lacks(self, need: Need | None) -> str | None:
        """Why the slice has not what a metric needs; ``None`` where it has."""
        if need == "hu" and self.pair.hu_per_grey is None:
            return NO_HU
        if need == "sigma" and self.pair.sigma is None:
            return NO_SIGMA
        if need == "lpips" and isinstance(self.lpips, Unavailable):
            return self.lpips.reason
        return None


@dataclass(frozen=True)
class Averaging:
    """How values become one.

    Args:
        at_least: A smaller value counts as this.
        at_most: A larger value counts as this.
        geometric: Take the geometric mean, so that half and double cancel.

    Example:
        >>> Averaging(geometric=True).mean([0.5, 2.0])
        1.0
        >>> Averaging(at_most=100.0).mean([math.inf, 20.0])
        60.0
    """

    at_least: float = -math.inf
    at_most: float = math.inf
    geometric: bool = False

    def mean(self, values: Sequence[float]) -> float:
        """The mean of at least one value."""
        limited = [min(max(value, self.at_least), self.at_most) for value in values]
        if self.geometric:
            return math.exp(math.fsum(math.log(value) for value in limited) / len(limited))
        return math.fsum(limited) / len(limited)


ARITHMETIC = Averaging()
DECIBELS = Averaging(at_most=PSNR_CAP_DB)
"""Identical pixels, infinite in decibels, must not make a mean infinite."""
RATIO = Averaging(at_least=TEXTURE_FLOOR, geometric=True)
"""Half and double cancel, and flat paint, with a ratio of 0, does not make a mean 0."""


@dataclass(frozen=True, kw_only=True)
class Metric:
    """What is known of every metric.

    Args:
        key: Its name in ``metrics.json`` and CSV.
        heading: Its name at the head of a column.
        better: ``up`` where higher is better, ``down`` where lower is, ``1`` or ``0.9`` where it is best there;
            ``None`` where that is not known.
        digits: Decimal places in a table.
        of: The ``region``, its ``lesions``, the ``image``, or a ``set`` of images.
        averaged: How its values are averaged, over slices, patients and phases.
        needs: What a pair does not always have and the metric needs: a map to ``hu``, a ``sigma``, the network of
            ``lpips``.
    """

    key: str
    heading: str
    better: Better | None
    digits: int
    of: Literal["region", "lesions", "image", "set"]
    averaged: Averaging = ARITHMETIC
    needs: Need | None = None

    @property
    def needs_region(self) -> bool:
        """Whether it is measured where there is a region alone."""
        return self.of in ("region", "lesions")

    @property
    def title(self) -> str:
        """The heading, with which way is better."""
        return self.heading if self.better is None else f"{self.heading} {ARROWS[self.better]}"


@dataclass(frozen=True, kw_only=True)
class SliceMetric(Metric):
    """A metric that every slice has a value of.

    Args:
        measure: The value of a slice, or ``None``.
        absent: Why the value is ``None`` although the slice has what the metric needs and, for one of the region,
            shows the region.
    """

    measure: Callable[[Slice], float | None]
    absent: str | Callable[[Slice], str] = "not defined for the slice"

    def of_slice(self, shown: Slice) -> tuple[float | None, str]:
        """The value of a slice, and why there is none where it is ``None``."""
        lacking = shown.lacks(self.needs)
        value = None if lacking else self.measure(shown)
        if value is not None:
            return value, ""
        if lacking or (self.needs_region and not shown.mask.any()):
            return None, lacking or NO_REGION
        return None, self.absent if isinstance(self.absent, str) else self.absent(shown)


@dataclass(frozen=True, kw_only=True)
class SetMetric(Metric):
    """A metric with one value for all slices of a phase together, from their Inception features.

    Args:
        distance: The distance of two sets of features [N, dims], real and generated.
    """

    distance: Callable[[Array, Array], float]


@dataclass(frozen=True, kw_only=True)
class PooledMetric(Metric):
    """A metric whose pixels are pooled over all slices of a phase.

    Args:
        part: Which part of :func:`~roi_progressive.evaluation.calibration.bin_statistics` it is of.
        pooled: The value of pooled pixels, from their statistics [48, 3]; ``None`` without pixels.
        resampled: The values of many draws of patients, from the statistics of each and how often it was drawn.
    """

    part: int
    pooled: Callable[[calibration.Bins], float | None] = calibration.expected_calibration_error
    resampled: Callable[[Sequence[calibration.Bins], calibration.Bins], calibration.Bins] = (
        calibration.resampled_calibration_error
    )


# --- the entries, in the order of a table's columns -------------------------------------------------------------------

TPSNR = SliceMetric(
    key="tpsnr",
    heading="TPSNR",
    better="up",
    digits=2,
    of="region",
    averaged=DECIBELS,
    measure=lambda shown: similarity.region_psnr(shown.real, shown.fake, shown.mask),
)
TSSIM = SliceMetric(
    key="tssim",
    heading="TSSIM",
    better="up",
    digits=4,
    of="region",
    measure=lambda shown: float(shown.ssim[1][shown.mask].mean()) if shown.mask.any() else None,
)
PSNR = SliceMetric(
    key="psnr",
    heading="PSNR",
    better="up",
    digits=2,
    of="image",
    averaged=DECIBELS,
    measure=lambda shown: similarity.psnr(shown.real, shown.fake),
)
SSIM = SliceMetric(key="ssim", heading="SSIM", better="up", digits=4, of="image", measure=lambda shown: shown.ssim[0])
TEXTURE = SliceMetric(
    key="texture_ratio",
    heading="texture",
    better="1",
    digits=2,
    of="region",
    averaged=RATIO,
    measure=lambda shown: similarity.texture_ratio(shown.real, shown.fake, shown.mask),
    absent="the real region is flat",
)
LOST = SliceMetric(
    key="lost",
    heading="lost",
    better="down",
    digits=2,
    of="lesions",
    measure=lambda shown: shown.lesions.share("lost"),
    absent=lambda shown: shown.lesions.reason,
)
INVERTED = SliceMetric(
    key="inverted",
    heading="inverted",
    better="down",
    digits=2,
    of="lesions",
    measure=lambda shown: shown.lesions.share("inverted"),
    absent=lambda shown: shown.lesions.reason,
)
INVENTED = SliceMetric(
    key="invented",
    heading="invented",
    better="down",
    digits=2,
    of="lesions",
    measure=lambda shown: shown.lesions.share("invented"),
    absent=lambda shown: shown.lesions.reason,
)
LPIPS = SliceMetric(
    key="lpips",
    heading="LPIPS",
    better="down",
    digits=4,
    of="image",
    needs="lpips",
    measure=lambda shown: shown.perceptual(shown.real, shown.fake),
)
REGION_LPIPS = SliceMetric(
    key="region_lpips",
    heading="region LPIPS",
    better="down",
    digits=4,
    of="region",
    needs="lpips",
    measure=lambda shown: shown.perceptual.region(shown.real, shown.fake, shown.mask),
)
FID = SetMetric(key="fid", heading="FID", better="down", digits=2, of="set", distance=distances.frechet_distance)
KID = SetMetric(key="kid", heading="KID", better="down", digits=4, of="set", distance=distances.kernel_distance)
MAE_HU = SliceMetric(
    key="mae_hu",
    heading="MAE HU",
    better="down",
    digits=1,
    of="image",
    needs="hu",
    measure=lambda shown: similarity.mean_absolute_error_hu(shown.real, shown.fake, shown.hu_per_grey),
)
REGION_MAE_HU = SliceMetric(
    key="region_mae_hu",
    heading="region MAE HU",
    better="down",
    digits=1,
    of="region",
    needs="hu",
    measure=lambda shown: similarity.mean_absolute_error_hu(shown.real, shown.fake, shown.hu_per_grey, shown.mask),
)
UCE = PooledMetric(key="uce", heading="UCE", better="down", digits=1, of="image", needs="sigma", part=0)
REGION_UCE = replace(UCE, key="region_uce", heading="region UCE", of="region", part=1)
AUSE = SliceMetric(
    key="ause",
    heading="AUSE",
    better="down",
    digits=3,
    of="image",
    needs="sigma",
    measure=lambda shown: calibration.sparsification_error(shown.sigma, shown.error),
    absent="AUSE needs an error somewhere; there is none",
)
REGION_AUSE = SliceMetric(
    key="region_ause",
    heading="region AUSE",
    better="down",
    digits=3,
    of="region",
    needs="sigma",
    measure=lambda shown: calibration.sparsification_error(shown.sigma[shown.mask], shown.error[shown.mask]),
    absent=AUSE.absent,
)
SIGMA_RANK = SliceMetric(
    key="sigma_rank",
    heading="sigma rank",
    better="up",
    digits=3,
    of="image",
    needs="sigma",
    measure=lambda shown: calibration.rank_correlation(shown.sigma, shown.error),
    absent="a rank correlation needs a sigma and an error that vary",
)
REGION_SIGMA_RANK = SliceMetric(
    key="region_sigma_rank",
    heading="region sigma rank",
    better="up",
    digits=3,
    of="region",
    needs="sigma",
    measure=lambda shown: calibration.rank_correlation(shown.sigma[shown.mask], shown.error[shown.mask]),
    absent=SIGMA_RANK.absent,
)
SIGMA_RATIO = PooledMetric(
    key="sigma_ratio",
    heading="sigma / error",
    better="1",
    digits=2,
    of="image",
    needs="sigma",
    part=0,
    pooled=calibration.sigma_over_error,
    resampled=calibration.resampled_sigma_over_error,
)
REGION_SIGMA_RATIO = replace(SIGMA_RATIO, key="region_sigma_ratio", heading="region sigma / error", of="region", part=1)
COVERAGE = SliceMetric(
    key="coverage",
    heading="coverage",
    better="0.9",
    digits=3,
    of="image",
    needs="sigma",
    measure=lambda shown: conformal.interval_coverage(shown.error, shown.half_width),
)
REGION_COVERAGE = SliceMetric(
    key="region_coverage",
    heading="region coverage",
    better="0.9",
    digits=3,
    of="region",
    needs="sigma",
    measure=lambda shown: conformal.interval_coverage(shown.error[shown.mask], shown.half_width[shown.mask]),
)
METRICS: tuple[Metric, ...] = (
    *(TPSNR, TSSIM, PSNR, SSIM, TEXTURE, LOST, INVERTED, INVENTED),
    *(LPIPS, REGION_LPIPS, FID, KID, MAE_HU, REGION_MAE_HU),
    *(UCE, REGION_UCE, AUSE, REGION_AUSE, SIGMA_RANK, REGION_SIGMA_RANK),
    *(SIGMA_RATIO, REGION_SIGMA_RATIO, COVERAGE, REGION_COVERAGE),
)
