"""Every score of a slice, with a reason for each that does not exist."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from .calibration import POOLED_METRICS, bin_statistics, calibration_scores
from .lesions import Shares, audit_lesions
from .metrics import mean_absolute_error_hu, slice_scores
from .networks import Inception, Lpips, Unavailable
from .pairs import ImagePair

REGION_METRICS = ("tpsnr", "tssim", "texture_ratio")
LESION_METRICS: tuple[Shares, ...] = ("lost", "inverted", "invented")
RESERVED_NAMES = (
    "fid",
    "kid",
    "reasons",
    "n_patients",
    "n_slices",
    "n_region_slices",
    "n_without_region",
    "n_lesions",
    "n_unclear_lesions",
    *POOLED_METRICS,
)
MAX_THREADS = 4
NO_HU = "no map from the real image's grey levels to HU is known"
NOT_ASKED = Unavailable("not asked for")


class _NotAlways(TypedDict, total=False):
    calibration: npt.NDArray[np.float64]
    n_lesions: int
    n_unclear_lesions: int


class SliceScores(_NotAlways):
    """What :func:`score` returns for a slice; missing scores are ``None`` and have a line in ``reasons``.

    ``fid_features`` holds the network's features of the real and of the generated image, from which FID and KID of
    any group of slices follow; drop it before writing JSON. ``psnr`` and ``tpsnr`` are infinite for identical pixels.
    ``n_lesions`` counts those behind ``lost``, ``inverted`` and ``invented``, ``n_unclear_lesions`` those left out.
    ``calibration``, where there is a sigma, holds the statistics behind UCE; drop it too.
    """

    name: str
    patient: str
    phase: str
    direction: str
    region_px: int
    scores: dict[str, float | None]
    reasons: dict[str, str]
    fid_features: tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]] | None


def score(
    pairs: Iterable[ImagePair],
    lpips: Lpips | Unavailable | None = None,
    fid: Inception | Unavailable | None = None,
    extra: Callable[[ImagePair], Mapping[str, float | None]] | None = None,
) -> list[SliceScores]:
    """Score every pair, a few at a time in threads; no more images than those are in memory.

    Args:
        pairs: What to score.
        lpips: The perceptual distance, or why there is none.
        fid: The feature network of FID and KID, or why there is none.
        extra: More scores of a pair by name, e.g. what plugins return; a name of ours is an error.

    Returns:
        One entry a slice, in the order of ``pairs``.

    Raises:
        ShapeError: A pair's arrays do not fit each other.
        ValueError: ``extra`` returns a name that is taken.
    """
    lpips = NOT_ASKED if lpips is None else lpips
    fid = NOT_ASKED if fid is None else fid
    every = []
    for pair, scored in _ahead(pairs, _without_networks):
        _add_networks(scored, pair, lpips, fid)
        _add_extra(scored, {} if extra is None else extra(pair))
        every.append(scored)
    return every


def _ahead(
    pairs: Iterable[ImagePair], function: Callable[[ImagePair], SliceScores]
) -> Iterator[tuple[ImagePair, SliceScores]]:
    """Each pair with its result, in order; the next few are worked on meanwhile, in threads.

    Threads are enough: most of the time is spent in compiled code that lets the others run.
    """
    n_threads = min(MAX_THREADS, os.cpu_count() or 1)
    waiting: deque[tuple[ImagePair, Future[SliceScores]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for pair in pairs:
                waiting.append((pair, pool.submit(function, pair)))
                if len(waiting) > n_threads:
                    first, result = waiting.popleft()
                    yield first, result.result()
            while waiting:
                first, result = waiting.popleft()
                yield first, result.result()
        finally:
            for _, result in waiting:
                result.cancel()


def _without_networks(pair: ImagePair) -> SliceScores:
    scores = slice_scores(pair)
    why = _why_no_region_score(pair)
    reasons = {key: why for key in REGION_METRICS if scores[key] is None}
    audit = audit_lesions(pair.real, pair.fake, pair.mask, pair.organ)
    for outcome in LESION_METRICS:
        scores[outcome] = audit.share(outcome)
        if scores[outcome] is None:
            reasons[outcome] = audit.reason if pair.mask.any() else why
    scores["mae_hu"], scores["region_mae_hu"] = mean_absolute_error_hu(pair)
    if pair.hu_per_grey is None:
        reasons["mae_hu"] = reasons["region_mae_hu"] = NO_HU
    elif scores["region_mae_hu"] is None:
        reasons["region_mae_hu"] = why
    scored: SliceScores = {
        "name": pair.name,
        "patient": pair.patient,
        "phase": pair.phase,
        "direction": pair.direction,
        "region_px": int(pair.mask.sum()),
        "n_lesions": audit.n_clear,
        "n_unclear_lesions": len(audit.lesions) - audit.n_clear,
        "scores": scores,
        "reasons": reasons,
        "fid_features": None,
    }
    if pair.sigma is not None:
        of_sigma, why_not = calibration_scores(pair.real, pair.fake, pair.sigma, pair.mask)
        scores |= of_sigma
        reasons |= why_not
        scored["calibration"] = bin_statistics(pair.real, pair.fake, pair.sigma, pair.mask)
    return scored


def _add_networks(
    scored: SliceScores, pair: ImagePair, lpips: Lpips | Unavailable, fid: Inception | Unavailable
) -> None:
    scores, reasons = scored["scores"], scored["reasons"]
    scores["lpips"] = scores["region_lpips"] = None
    if isinstance(lpips, Unavailable):
        reasons["lpips"] = reasons["region_lpips"] = lpips.reason
    else:
        scores["lpips"] = lpips(pair.real, pair.fake)
        scores["region_lpips"] = lpips.region(pair.real, pair.fake, pair.mask)
        if scores["region_lpips"] is None:
            reasons["region_lpips"] = _why_no_region_score(pair)
    if isinstance(fid, Unavailable):
        reasons["fid"] = reasons["kid"] = fid.reason
    else:
        both = fid(np.stack([pair.real, pair.fake]))
        scored["fid_features"] = (both[0], both[1])


def _add_extra(scored: SliceScores, extra: Mapping[str, float | None]) -> None:
    for key, value in extra.items():
        if key in scored["scores"] or key in RESERVED_NAMES:
            raise ValueError(f"`extra` must return new names; {key!r} is taken; rename the score")
        scored["scores"][key] = value
        if value is None:
            scored["reasons"][key] = "not defined for the slice"


def _why_no_region_score(pair: ImagePair) -> str:
    return "the real region is flat" if pair.mask.any() else "no region in the slice"
