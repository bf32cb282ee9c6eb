"""Sigma put right by a few pairs: a factor for its size, and the interval that holds 90 % of the errors.

A sigma that was trained without pairs, on the cycle, is not the error of the translation. Where a few pairs are known
their errors say how far it is off, by direction, and inside and outside of each region: the factor makes the mean
square of sigma that of the error, and the interval is split-conformal: the quantile of the errors in sigmas
(Angelopoulos and Bates 2021, section 2.3). Pixels of one patient are alike, so that each patient has the same weight,
and how well the interval holds for a new one is measured on each patient in turn, with the interval of the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError, ShapeError
from ..saving.records import NUMBER, entry, of_kind
from .image_files import read_sigma
from .pairs import ImagePair

Array = npt.NDArray[Any]

COVERAGE = 0.9
"""Share of the errors that an interval is to hold."""
NORMAL_HALF_WIDTH = 1.6448536269514722
"""Half the width of that interval in sigmas where nothing was calibrated: a normal distribution's."""
LOWEST_RATIO = 2.0**-12
BINS_PER_OCTAVE = 256
N_BINS = 24 * BINS_PER_OCTAVE


def interval_coverage(error: Array, half_width: Array) -> float | None:
    """Share of the pixels whose error lies in the interval ``-half_width .. half_width``; ``None`` without pixels.

    Args:
        error: Generated minus real, any shape, grey levels.
        half_width: The same shape, at least 0.

    Example:
        >>> interval_coverage(np.array([-3.0, 1.0]), np.array([2.0, 2.0]))
        0.5
    """
    return float(np.mean(np.abs(error) <= half_width)) if error.size else None


@dataclass
class Errors:
    """The errors of one patient's pixels beside their sigma, a few numbers however many pixels there are.

    Args:
        n: Pixels.
        variance: Sum of sigma squared.
        squared: Sum of the squared error.
        ratios: How many pixels there are of each ratio of error to sigma; 256 bins an octave, so that an edge is less
            than 0.3 % from what lies in the bin.
    """

    n: int = 0
    variance: float = 0.0
    squared: float = 0.0
    ratios: npt.NDArray[np.int64] = field(default_factory=lambda: np.zeros(N_BINS + 2, dtype=np.int64))

    def add(self, error: Array, sigma: Array) -> None:
        """Count further pixels.

        Args:
            error: Any shape, grey levels.
            sigma: The same shape, at least 0.

        Raises:
            ShapeError: The shapes differ.
        """
        if error.shape != sigma.shape:
            raise ShapeError(f"`sigma` must be {error.shape}, like the error; got {sigma.shape}")
        size, predicted = np.abs(error.astype(np.float64)).ravel(), sigma.astype(np.float64).ravel()
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(size > 0, size / predicted, 0.0)
            place = np.ceil(BINS_PER_OCTAVE * np.log2(ratio / LOWEST_RATIO))
        index = np.clip(place, 0, N_BINS + 1).astype(np.intp)
        self.n += size.size
        self.variance += float(predicted @ predicted)
        self.squared += float(size @ size)
        self.ratios += np.bincount(index, minlength=N_BINS + 2)


@dataclass(frozen=True)
class Correction:
    """What makes a sigma right.

    Args:
        factor: Sigma times this is as large as the errors are, in the mean square.
        half_width: Half the width of the interval that holds 90 % of the errors, in sigmas as the network gives them.
        n_patients: How many patients it was fitted on.
        left_out: Of each patient, the share of the errors that lies in the interval fitted on the others; empty where
            there is one patient only.
    """

    factor: float
    half_width: float
    n_patients: int
    left_out: tuple[float, ...]


@dataclass(frozen=True)
class DirectionCalibration:
    """The corrections of one direction.

    Args:
        image: Where no region is known.
        inside: By region, within it.
        outside: By region, off it.
    """

    image: Correction
    inside: Mapping[str, Correction]
    outside: Mapping[str, Correction]


def fit(patients: Sequence[Errors]) -> Correction | None:
    """The correction that follows from the errors of some patients; ``None`` where none of them has a pixel.

    Raises:
        DataError: Sigma is 0, or as good as 0, where the errors are not: no factor puts that right.
    """
    known = [errors for errors in patients if errors.n]
    if not known:
        return None
    variance = math.fsum(errors.variance / errors.n for errors in known)
    squared = math.fsum(errors.squared / errors.n for errors in known)
    shares = [errors.ratios / errors.n for errors in known]
    index = _bin_of_interval(np.sum(shares, axis=0))
    if not variance or index > N_BINS:
        raise DataError(
            "`sigma` must be above 0 where there are errors, to be calibrated; it is 0 or nearly so; train longer, or "
            "with a larger [ggd] weight"
        )
    half_width = LOWEST_RATIO * 2.0 ** (index / BINS_PER_OCTAVE)
    return Correction(math.sqrt(squared / variance), half_width, len(known), _left_out(shares))


def _bin_of_interval(shares: npt.NDArray[np.float64]) -> int:
    """The first bin up to which there are as many of the pixels as asked for, given how many there are in each."""
    reached = np.cumsum(shares)
    return int(np.searchsorted(reached, COVERAGE * reached[-1] * (1 - 1e-12)))


def _left_out(shares: Sequence[npt.NDArray[np.float64]]) -> tuple[float, ...]:
    if len(shares) == 1:
        return ()
    every = np.sum(shares, axis=0)
    return tuple(float(own[: _bin_of_interval(every - own) + 1].sum()) for own in shares)


def fit_direction(pairs: Mapping[str | None, Iterable[ImagePair]]) -> DirectionCalibration | None:
    """The corrections of a direction.

    Args:
        pairs: By region, the pairs with its masks and with their sigma, the same slices each time; under ``None`` where
            there is no region.

    Returns:
        ``None`` where there are no pairs.

    Raises:
        DataError: No factor puts this sigma right.
    """
    image: Correction | None = None
    inside: dict[str, Correction] = {}
    outside: dict[str, Correction] = {}
    for region, of_region in pairs.items():
        everywhere, within, without = (_ByPatient() for _ in range(3))
        of_image = image is None  # the same slices each time
        for pair in of_region:
            assert pair.sigma is not None
            error = pair.fake.astype(np.float64) - pair.real
            if of_image:
                everywhere.of(pair).add(error, pair.sigma)
            within.of(pair).add(error[pair.mask], pair.sigma[pair.mask])
            without.of(pair).add(error[~pair.mask], pair.sigma[~pair.mask])
        image = fit(list(everywhere.values())) if of_image else image
        if region is not None:
            for place, errors in ((inside, within), (outside, without)):
                found = fit(list(errors.values()))
                if found is not None:
                    place[region] = found
    return None if image is None else DirectionCalibration(image, inside, outside)


class _ByPatient(dict[str, Errors]):
    def of(self, pair: ImagePair) -> Errors:
        return self.setdefault(pair.patient, Errors())


def calibrated(pair: ImagePair, calibration: DirectionCalibration, region: str | None) -> ImagePair:
    """A pair whose sigma is corrected, and which knows its interval.

    Args:
        pair: With its sigma, in grey levels, as the network gives it.
        calibration: Of the pair's direction.
        region: What the pair's mask shows; where it was not calibrated the correction of the whole image is taken.
    """
    if pair.sigma is None:
        return pair
    inside = calibration.inside.get(region or "", calibration.image)
    outside = calibration.outside.get(region or "", calibration.image)
    factor = np.where(pair.mask, inside.factor, outside.factor)
    half_width = np.where(pair.mask, inside.half_width, outside.half_width)
    return replace(pair, sigma=factor * pair.sigma, half_width=half_width * pair.sigma)


def with_sigma(
    pairs: Iterable[ImagePair],
    folders: Mapping[str, Path],
    calibrations: Mapping[str, DirectionCalibration] | None = None,
    region: str | None = None,
) -> Iterator[ImagePair]:
    """The pairs with their sigma, read one by one.

    Args:
        pairs: Of the directions that ``folders`` has.
        folders: Where the maps of each direction lie, under the names of the images, as the networks gave them.
        calibrations: What corrects them, by direction; ``None`` leaves them as they are.
        region: What the masks of the pairs show.

    Raises:
        DataError: On reading: a map is missing or cannot be used, as in
            :func:`~roi_progressive.evaluation.image_files.read_sigma`.
    """
    for pair in pairs:
        known = replace(pair, sigma=read_sigma(folders[pair.direction], Path(pair.name).stem, pair.real.shape))
        yield known if calibrations is None else calibrated(known, calibrations[pair.direction], region)


# -- as a record -------------------------------------------------------------------------------------------------------


def to_record(calibration: DirectionCalibration) -> dict[str, Any]:
    """As JSON holds it."""

    def plain(correction: Correction) -> dict[str, Any]:
        return {
            "factor": correction.factor,
            "half_width": correction.half_width,
            "n_patients": correction.n_patients,
            "left_out": list(correction.left_out),
        }

    regions = {name: {"inside": plain(found)} for name, found in calibration.inside.items()}
    for name, found in calibration.outside.items():
        regions.setdefault(name, {})["outside"] = plain(found)
    return {"image": plain(calibration.image), "regions": regions}


def from_record(found: Mapping[str, Any]) -> DirectionCalibration:
    """What :func:`to_record` gave.

    Raises:
        EntryError: An entry is missing, or of another kind.
    """
    regions = entry(found, "regions", dict)
    by_side: dict[str, dict[str, Correction]] = {"inside": {}, "outside": {}}
    for name, sides in regions.items():
        for side, place in by_side.items():
            if side in of_kind(sides, f"the region {name!r}", dict):
                place[name] = _correction(entry(sides, side, dict))
    return DirectionCalibration(_correction(entry(found, "image", dict)), by_side["inside"], by_side["outside"])


def _correction(found: Mapping[str, Any]) -> Correction:
    factor, half_width = (float(entry(found, name, *NUMBER)) for name in ("factor", "half_width"))
    shares = tuple(float(of_kind(share, "a share of `left_out`", *NUMBER)) for share in entry(found, "left_out", list))
    return Correction(factor, half_width, entry(found, "n_patients", int), shares)
