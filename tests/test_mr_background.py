"""Where the body of an MR is found and what its grey values become, whatever lies around it.

The truth is the body as drawn: whatever was done to the values outside it, inside they must be scaled as without that.
"""

from __future__ import annotations

import csv

import numpy as np
import pytest

from roi_progressive.data.mr_background import body_mask, without_padding
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.preprocessing import foreground_mask

Z, Y, X = np.meshgrid(np.arange(10), np.arange(48), np.arange(56), indexing="ij")
BODY = ((X - 27.5) / 22) ** 2 + ((Y - 23.5) / 18) ** 2 < 1
TUMOR = (X - 34) ** 2 + (Y - 20) ** 2 + (3 * (Z - 5)) ** 2 < 40
RNG = np.random.default_rng(0)
TISSUE = np.where(TUMOR, 450.0, 250.0 + 100.0 * ((X // 9 + Y // 7) % 2)) + RNG.normal(0, 12, BODY.shape)
MR = np.where(BODY, TISSUE, 0.0).astype(np.float32)
AIR = np.abs(RNG.normal(0, 6, BODY.shape)) + np.abs(RNG.normal(0, 6, BODY.shape))
NOISY = np.where(BODY, TISSUE, AIR).astype(np.float32)
CORNER = (X < 9) & (Y < 9)
TURNED = (X + Y < 22) | (X + Y > 80)
Z_SCORED = np.where(BODY, (MR - MR[BODY].mean()) / MR[BODY].std(), 0.0).astype(np.float32)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def edges(volume, fill):
    """As a registration by linear interpolation leaves the border of its field."""
    from scipy import ndimage

    outside = ndimage.gaussian_filter(np.where(TURNED, 1.0, 0.0), (0, 0.6, 0.6))
    return (volume * (1 - outside) + fill * outside).astype(np.float32)


VOLUMES = {
    "0 around": MR,
    "noise around": NOISY,
    "padded far below": np.where(CORNER, -32768, np.maximum(MR, 5)),
    "padded far below, noise around": np.where(CORNER, -32768, NOISY),
    "-1000 beyond a turned field": np.where(TURNED, -1000, MR),
    "-1000 beyond a turned field, noise around": np.where(TURNED, -1000, NOISY),
    "-1000 beyond a turned field, interpolated": edges(NOISY, -1000.0),
    "-1000 all around": np.where(BODY, MR, -1000),
    "-1 all around": np.where(BODY, MR, -1),
    "z-scored, 0 around": Z_SCORED,
    "z-scored, the lowest around": np.where(BODY, Z_SCORED, -4),
    "z-scored, far below around": np.where(BODY, Z_SCORED, -1000),
    "z-scored, 0 around, -1000 beyond a turned field": np.where(TURNED, -1000, Z_SCORED),
    "z-scored, 0 around, saved in whole numbers": np.rint(Z_SCORED * 1000),
    "mean taken off, 0 around": np.where(BODY, MR - MR[BODY].mean(), 0),
    "scaled to -1 and 1": MR / MR.max() * 2 - 1,
    "darker than its background": np.where(BODY, -MR, 0),
    "z-scored and stored in 8 bits with noise, the air in the middle": np.round(
        np.where(BODY, 60 + 40 * Z_SCORED, 60 + RNG.integers(0, 3, BODY.shape))
    ),
}


@pytest.mark.parametrize("case", VOLUMES)
def test_the_body_is_found_whatever_lies_around_it(case):
    clean = without_padding(VOLUMES[case].astype(np.float32))
    assert dice(body_mask(clean), BODY) > 0.97
    assert clean[BODY] == pytest.approx(VOLUMES[case][BODY], abs=1e-3)


@pytest.mark.parametrize("value", [-32768, -1, 0, 32767])
@pytest.mark.parametrize("volume", ["0 around", "noise around", "z-scored, 0 around"])
def test_what_the_file_calls_padding_is_none_of_the_body(volume, value):
    padded = np.where(CORNER, value, VOLUMES[volume]).astype(np.float32)
    clean = without_padding(padded, CORNER)
    assert dice(body_mask(clean), BODY) > 0.97
    assert clean.min() >= VOLUMES[volume].min() and clean.max() <= VOLUMES[volume].max()


@pytest.mark.parametrize("case", ["0 around", "noise around", "-1 all around", "z-scored, the lowest around"])
def test_where_the_background_is_the_lowest_nothing_changes(case):
    volume = VOLUMES[case].astype(np.float32)
    if case != "-1 all around":
        assert (without_padding(volume) == volume).all()
    assert (body_mask(volume) == foreground_mask(volume)).all()


def test_a_crop_that_is_body_to_its_borders_keeps_its_values():
    crop = TISSUE[:, 15:33, 18:38].astype(np.float32)
    assert (without_padding(crop) == crop).all()
    assert (body_mask(crop) == foreground_mask(crop)).all()
    few_greys = np.clip(np.rint(NOISY / 4 + RNG.normal(0, 1, NOISY.shape)), 0, 255).astype(np.float32)  # 8 bits
    assert (body_mask(few_greys) == foreground_mask(few_greys)).all()
    centred = np.rint((crop - crop.mean()) / 40)  # few values, many shared, none of them a background
    assert (without_padding(centred) == centred).all()


@pytest.mark.parametrize("case", [name for name in VOLUMES if name != "darker than its background"])
def test_grey_values_are_those_of_the_body_without_padding(tmp_path, case):
    sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
    sitk.WriteImage(sitk.GetImageFromArray(VOLUMES[case].astype(np.float32)), str(tmp_path / "mr.nii.gz"))
    sitk.WriteImage(sitk.GetImageFromArray(TUMOR.astype(np.uint8)), str(tmp_path / "t.nii.gz"))
    with open(tmp_path / "scans.csv", "w", newline="", encoding="utf-8") as file:
        rows = [["patient", "phase", "modality", "image", "tumor"], ["p", "NC", "MR", "mr.nii.gz", "t.nii.gz"]]
        csv.writer(file).writerows(rows)
    options = PrepareOptions(56, split=(1, 0, 0), slices_each_side=9, field_of_view_mm=56.0, dtype="float32")
    report = prepare(tmp_path / "scans.csv", tmp_path / "out", options)
    low, high = np.percentile(TISSUE[BODY], (0.5, 99.5))
    expected = np.clip((TISSUE - low) / (high - low) * 2 - 1, -1, 1)
    for entry in report.manifest["slices"]:
        written = np.load(tmp_path / "out" / "trainB" / f"{entry['name']}.npy")[4:-4]  # 48 rows in 56
        index = entry["index"]
        inside = BODY[index] & (np.hypot((X[0] - 27.5) / 22, (Y[0] - 23.5) / 18) < 0.9)
        assert np.abs(written - expected[index])[inside].max() < 0.15
        assert (written[~BODY[index]] == -1).mean() > 0.95
