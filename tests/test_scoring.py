"""Every slice gets every metric or the reason why not, in order, without all images in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from roi_progressive.errors import ShapeError
from roi_progressive.evaluation.lesions import ALL_UNCLEAR
from roi_progressive.evaluation.metrics import METRICS, NO_HU
from roi_progressive.evaluation.networks import Unavailable
from roi_progressive.evaluation.pairs import ImagePair
from roi_progressive.evaluation.scoring import MAX_THREADS, score
from roi_progressive.evaluation.similarity import psnr, region_psnr, region_ssim, ssim, texture_ratio


def images(seed: int = 0, size_px: int = 32) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(seed)
    real = rng.integers(0, 256, (size_px, size_px), dtype=np.uint8)
    fake = np.clip(real + rng.normal(0, 25, real.shape), 0, 255).astype(np.uint8)
    mask = np.zeros(real.shape, dtype=bool)
    mask[5:13, 8:20] = True
    return real, fake, mask


def pair(mask: Any = None) -> ImagePair:
    real, fake, full = images()
    return ImagePair("p1_ART_001.png", "p1", "ART", "A2B", None, real, fake, full if mask is None else mask)


def test_a_slice_without_the_region_has_no_value_of_it_and_says_so() -> None:
    real, fake, mask = images()
    [scored] = score([pair(np.zeros_like(mask))])
    assert scored["region_px"] == 0
    assert scored["scores"]["psnr"] == psnr(real, fake)
    of_region = [metric for metric in METRICS if metric.needs_region and metric.needs is None]
    assert {"tpsnr", "tssim", "texture_ratio", "lost"} <= {metric.key for metric in of_region}
    for metric in of_region:
        assert scored["scores"][metric.key] is None
        assert scored["reasons"][metric.key] == "no region in the slice"


def test_scores_are_those_of_the_single_functions() -> None:
    real, fake, mask = images()
    [scored] = score([pair()])
    expected = {
        "tpsnr": region_psnr(real, fake, mask),
        "tssim": region_ssim(real, fake, mask),
        "psnr": psnr(real, fake),
        "ssim": ssim(real, fake),
        "texture_ratio": texture_ratio(real, fake, mask),
    }
    assert {key: scored["scores"][key] for key in expected} == expected


def test_each_value_that_does_not_exist_says_why() -> None:
    [scored] = score([pair()], lpips=Unavailable("no weights"))
    assert scored["scores"]["lpips"] is None and scored["fid_features"] is None
    expected = {
        **dict.fromkeys(("lpips", "region_lpips"), "no weights"),
        **dict.fromkeys(("fid", "kid"), "not asked for"),
        **dict.fromkeys(("mae_hu", "region_mae_hu"), NO_HU),
        **dict.fromkeys(("lost", "inverted", "invented"), ALL_UNCLEAR),  # noise alone
    }
    assert scored["reasons"].items() >= expected.items()
    absent = {key for key, value in scored["scores"].items() if value is None}
    assert scored["reasons"].keys() == absent | {"fid", "kid"}


def test_what_needs_a_sigma_is_left_out_without_one() -> None:
    of_sigma = {metric.key for metric in METRICS if metric.needs == "sigma"}
    assert {"uce", "region_uce", "ause", "region_sigma_rank"} <= of_sigma
    [scored] = score([pair()])
    assert of_sigma.isdisjoint(scored["scores"]) and "calibration" not in scored
    [scored] = score([dataclasses.replace(pair(), sigma=np.full((32, 32), 9.0))])
    assert {"ause", "region_ause", "sigma_rank", "region_sigma_rank"} <= scored["scores"].keys()
    assert scored["calibration"].shape[0] == 2


def test_a_flat_region_has_no_texture_and_says_so() -> None:
    real, _, mask = images()
    [scored] = score([dataclasses.replace(pair(), real=np.where(mask, np.uint8(80), real))])
    assert scored["scores"]["texture_ratio"] is None
    assert scored["reasons"]["texture_ratio"] == "the real region is flat"


def test_the_error_in_hu_is_that_of_the_values_the_grey_levels_stand_for() -> None:
    real, fake, mask = images()
    in_hu = np.abs((real * 1.6 - 160.0) - (fake * 1.6 - 160.0))
    [scored] = score([dataclasses.replace(pair(), hu_per_grey=1.6)])
    assert scored["scores"]["mae_hu"] == pytest.approx(in_hu.mean(), abs=1e-9)
    assert scored["scores"]["region_mae_hu"] == pytest.approx(in_hu[mask].mean(), abs=1e-9)
    [scored] = score([dataclasses.replace(pair(np.zeros_like(mask)), hu_per_grey=1.6)])
    assert scored["scores"]["mae_hu"] == pytest.approx(in_hu.mean(), abs=1e-9)
    assert scored["scores"]["region_mae_hu"] is None
    assert scored["reasons"]["region_mae_hu"] == "no region in the slice"


def test_score_takes_more_scores_under_new_names_only() -> None:
    [scored] = score([pair()], extra=lambda one: {"mean_grey": float(one.fake.mean()), "depth": None})
    assert scored["scores"]["mean_grey"] == images()[1].mean()
    assert scored["reasons"]["depth"] == "not defined for the slice"
    for taken in ("psnr", "fid", "uce", "patient", "n_slices", "reasons"):
        with pytest.raises(ValueError, match=f"'{taken}' is taken"):
            score([pair()], extra=lambda one, taken=taken: {taken: 1.0})


def test_threads_keep_the_order_and_change_no_score() -> None:
    pairs = []
    for seed in range(12):
        real, fake, mask = images(seed)
        pairs.append(ImagePair(f"p{seed}_ART_001.png", f"p{seed}", "ART", "A2B", None, real, fake, mask))
    together = score(iter(pairs), extra=lambda one: {"mean_grey": float(one.fake.mean())})
    assert [one["name"] for one in together] == [one.name for one in pairs]
    assert together == [score([one], extra=lambda one: {"mean_grey": float(one.fake.mean())})[0] for one in pairs]


def test_pairs_are_taken_only_a_few_ahead_and_the_first_error_is_told() -> None:
    taken: list[int] = []
    seen: list[int] = []

    def pairs() -> Iterator[ImagePair]:
        for number in range(40):
            taken.append(number)
            wrong = dataclasses.replace(pair(), mask=np.zeros((3, 3), dtype=bool))
            yield wrong if number == 30 else pair()

    def look(one: ImagePair) -> dict[str, float]:
        seen.append(len(taken))
        return {}

    with pytest.raises(ShapeError, match="`mask` must be"):
        score(pairs(), extra=look)
    assert len(seen) == 30
    assert max(ahead - number for number, ahead in enumerate(seen)) <= MAX_THREADS + 1
