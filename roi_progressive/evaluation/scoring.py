"""Every metric of every slice, with a reason for each value that does not exist."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypedDict

import numpy as np
import numpy.typing as npt

from .calibration import bin_statistics
from .metrics import COUNTS, LESION_COUNTS, METRICS, NOT_ASKED, SetMetric, Slice, SliceMetric
from .networks import Inception, Lpips, Unavailable
from .pairs import ImagePair
from .volume_metrics import VOLUME_METRICS
from .volume_pairs import VolumePair

MAX_THREADS = 4


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


LABELS = ("name", "patient", "phase", "direction", "region_px")
"""What identifies a slice, beside its scores."""
RESERVED_NAMES = frozenset(
    {
        *(metric.key for metric in (*METRICS, *VOLUME_METRICS)),
        *(*LABELS, *COUNTS, *LESION_COUNTS, "n_without_region"),
        *("arm", "reasons", "intervals", "interval_reasons", "p_values", "n_tests"),
    }
)
"""What a further score may not be called: metrics, and whatever else stands beside scores in a file."""


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

    Example:
        >>> real = np.arange(64.0).reshape(8, 8)
        >>> pair = ImagePair("p1_ART_000.png", "p1", "ART", "A2B", None, real, real + 1, real < 0)
        >>> [scored] = score([pair])
        >>> round(scored["scores"]["psnr"], 2), scored["scores"]["tpsnr"], scored["reasons"]["tpsnr"]
        (48.13, None, 'no region in the slice')
    """
    perceptual = NOT_ASKED if lpips is None else lpips
    inception = NOT_ASKED if fid is None else fid

    def without_networks(pair: ImagePair) -> tuple[Slice, SliceScores]:
        measured = Slice(pair, perceptual)
        return measured, _scores_without_networks(measured)

    every = []
    for measured, scored in _ahead(pairs, without_networks):
        _measure(measured, scored, networks=True)
        _add_features(scored, measured.pair, inception)
        _add_extra(scored, {} if extra is None else extra(measured.pair))
        every.append(scored)
    return every


def score_volumes(
    pairs: Iterable[VolumePair],
    extra: Callable[[VolumePair], Mapping[str, float | None]] | None = None,
) -> list[SliceScores]:
    """Score every volume; one at a time is in memory.

    Args:
        pairs: What to score.
        extra: More scores of a volume by name, e.g. what plugins return; a name of ours is an error.

    Returns:
        One entry a volume, as for a slice; ``region_px`` counts the voxels of the body.

    Raises:
        ValueError: ``extra`` returns a name that is taken.
    """
    every = []
    for pair in pairs:
        scored: SliceScores = {
            "name": pair.name,
            "patient": pair.patient,
            "phase": pair.phase,
            "direction": pair.direction,
            "region_px": int(pair.body.sum()),
            "scores": {},
            "reasons": {},
            "fid_features": None,
        }
        for metric in VOLUME_METRICS:
            scored["scores"][metric.key] = metric.measure(pair)
            if scored["scores"][metric.key] is None:
                scored["reasons"][metric.key] = metric.absent
        _add_extra(scored, {} if extra is None else extra(pair), of="volume")
        every.append(scored)
    return every


def _ahead(
    pairs: Iterable[ImagePair], function: Callable[[ImagePair], tuple[Slice, SliceScores]]
) -> Iterator[tuple[Slice, SliceScores]]:
    """The results in order; the next few are worked on meanwhile, in threads.

    Threads are enough: most of the time is spent in compiled code that lets the others run.
    """
    n_threads = min(MAX_THREADS, os.cpu_count() or 1)
    waiting: deque[Future[tuple[Slice, SliceScores]]] = deque()
    with ThreadPoolExecutor(n_threads) as pool:
        try:
            for pair in pairs:
                waiting.append(pool.submit(function, pair))
                if len(waiting) > n_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for result in waiting:
                result.cancel()


def _scores_without_networks(measured: Slice) -> SliceScores:
    pair, lesions = measured.pair, measured.lesions
    scored: SliceScores = {
        "name": pair.name,
        "patient": pair.patient,
        "phase": pair.phase,
        "direction": pair.direction,
        "region_px": int(pair.mask.sum()),
        "n_lesions": lesions.n_clear,
        "n_unclear_lesions": len(lesions.lesions) - lesions.n_clear,
        "scores": {},
        "reasons": {},
        "fid_features": None,
    }
    _measure(measured, scored, networks=False)
    if pair.sigma is not None:
        scored["calibration"] = bin_statistics(pair.real, pair.fake, pair.sigma, pair.mask)
    return scored


def _measure(measured: Slice, scored: SliceScores, *, networks: bool) -> None:
    """Add the metrics that take a network, which do not run in threads, or the others."""
    for metric in METRICS:
        if not isinstance(metric, SliceMetric) or (metric.needs == "lpips") != networks:
            continue
        if metric.needs == "sigma" and measured.lacks("sigma"):
            continue  # no column for what nobody predicted
        value, reason = metric.of_slice(measured)
        scored["scores"][metric.key] = value
        if value is None:
            scored["reasons"][metric.key] = reason


def _add_features(scored: SliceScores, pair: ImagePair, inception: Inception | Unavailable) -> None:
    if isinstance(inception, Unavailable):
        of_set = (metric.key for metric in METRICS if isinstance(metric, SetMetric))
        scored["reasons"].update(dict.fromkeys(of_set, inception.reason))
    else:
        real, fake = inception(np.stack([pair.real, pair.fake]))
        scored["fid_features"] = (real, fake)


def _add_extra(scored: SliceScores, extra: Mapping[str, float | None], of: str = "slice") -> None:
    for key, value in extra.items():
        if key in RESERVED_NAMES:
            raise ValueError(f"`extra` must return new names; {key!r} is taken; rename the score")
        scored["scores"][key] = value
        if value is None:
            scored["reasons"][key] = f"not defined for the {of}"
