"""What is in Hounsfield units is taken, crops and odd scanners included; what only looks so is refused by name."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from roi_progressive.data.hounsfield import checked_hounsfield
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import DataError

RNG = np.random.default_rng(0)
Z, Y, X = np.meshgrid(np.arange(12), np.arange(64), np.arange(64), indexing="ij")
IN_BODY = ((X - 31.5) / 26) ** 2 + ((Y - 31.5) / 21) ** 2 < 1
SKIN = IN_BODY & (((X - 31.5) / 22) ** 2 + ((Y - 31.5) / 17) ** 2 >= 1)
SPINE = np.hypot(X - 32, Y - 43) < 4
LUNG = np.hypot(X - 20, Y - 28) < 8
PHANTOM = np.where(IN_BODY, 45.0, -1000.0)
for _where, _hu in ((SKIN, -100.0), (LUNG, -820.0), (SPINE, 600.0)):
    PHANTOM = np.where(_where, _hu, PHANTOM)
CT = np.rint(PHANTOM + RNG.normal(0, 12, PHANTOM.shape))
CLEAN = PHANTOM
ABDOMEN = np.where(LUNG, CT + 865, CT)
ROUND = np.hypot(X - 31.5, Y - 31.5) > 31
INSIDE = np.s_[:, 20:44, 24:52]


def window(hu, width=400, level=40):
    return np.clip((hu - (level - width / 2)) / width, 0, 1)


TAKEN = {
    "a CT": CT,
    "without noise": CLEAN,
    "without lung": ABDOMEN,
    "clipped at air": np.maximum(CT, -1000),
    "clipped at -1024": np.clip(CT, -1024, 3071),
    "cropped to the inside": ABDOMEN[INSIDE],
    "cropped to the inside, smooth": np.rint(ABDOMEN[INSIDE] / 20) * 20,
    "cropped to liver and fat": np.where(X > 30, 60.0, -100.0)[INSIDE] + RNG.normal(0, 15, CT[INSIDE].shape),
    "a head with much bone": np.where(SKIN, 1000.0, CT) + RNG.normal(0, 150, CT.shape) * SKIN,
    "with metal": np.where(SPINE, 3071, CT),
    "contrast in vessels": np.where(SPINE, 350, CT),
    "mostly air": np.where(np.hypot(X - 32, Y - 32) < 8, CT, -1000),
    "padded with -2000 around a round field": np.where(ROUND, -2000, CT),
    "padded with -3024 around a round field": np.where(ROUND, -3024, CT),
    "padded with -32768 in a corner": np.where((X < 9) & (Y < 9), -32768, CT),
    "windowed widely": np.clip(CT, -200, 300),
}


@pytest.mark.parametrize("case", TAKEN)
def test_hounsfield_units_are_taken_and_padding_is_air(case):
    values, notes = checked_hounsfield("ct.nii", "CT", TAKEN[case].astype(np.float32))
    assert notes == []
    assert (values == np.where(TAKEN[case] < -1500, -1000, TAKEN[case]).astype(np.float32)).all()


REFUSED = {
    "no intercept": (CT + 1024, "intercept"),
    "no intercept, unsigned": (np.maximum(CT + 1024, 0), "none below 0"),
    "no intercept, noisy air": (np.rint(CT + 1024 + RNG.normal(0, 20, CT.shape)), "body at 10[0-9][0-9].*intercept"),
    "no intercept, padded with -2000": (np.where(ROUND, -2000, np.maximum(CT + 1024, 0)), "intercept"),
    "no intercept, padded with -1024": (np.where(ROUND, -1024, np.maximum(CT + 1024, 0)), "intercept"),
    "no intercept, without noise, padded": (np.where(ROUND, -2000, CLEAN + 1024), "intercept"),
    "an intercept of 1000 not applied, padded": (np.where(ROUND, -2000, ABDOMEN + 1000), "intercept"),
    "no intercept, a crop with streaks": (np.where(Z[INSIDE] == 3, -5, ABDOMEN[INSIDE] + 1024), "intercept"),
    "scaled to -1 and 1": (window(CT) * 2 - 1, "after scaling"),
    "scaled by 1000": (CT / 1000, "after scaling"),
    "z-scored": ((CT - CT.mean()) / CT.std(), "after scaling"),
    "scaled to 0 and 1": (window(CT), "none below 0, like values scaled to 0 and 1"),
    "a picture of 0 to 255": (np.rint(window(CT) * 255), "none below 0, like a picture of 8 bits"),
    "a picture of 0 to 255, ringing": (np.where(Z == 2, -3, np.rint(window(CT) * 255)), "background of 0"),
    "a picture of 0 to 255, padded": (np.where(ROUND & (Z > 3), -1, np.rint(window(CT) * 255)), "background|below 0"),
    "a picture of -128 to 127": (np.rint(window(CT) * 255) - 128, "picture of 8 bits"),
    "the intercept applied twice": (CT - 1024, "no tissue"),
    "0 around the body": (np.where(IN_BODY, CT, 0), "background of 0"),
    "nothing but padding": (np.full(CT.shape, -2000.0), "nothing above"),
    "one value": (np.full(CT.shape, -50.0), "after scaling"),
}


@pytest.mark.parametrize("modality", ["CT", "CBCT"])
@pytest.mark.parametrize("case", REFUSED)
def test_other_units_are_refused_and_called_what_they_look_like(case, modality):
    values, words = REFUSED[case]
    with pytest.raises(DataError, match=f"Hounsfield units for modality {modality}; ct.nii .*({words})") as caught:
        checked_hounsfield("ct.nii", modality, values.astype(np.float32))
    assert "\n" not in str(caught.value)


def test_padding_that_the_file_marks_is_air_only_beyond_all_tissue():
    """A padding value of 0 is what many headers say of files whose 0 is water; -2000 without its sign is far above."""
    values = np.where(ROUND, 62512, CT).astype(np.float32)
    assert (checked_hounsfield("ct", "CT", values, ROUND)[0][ROUND] == -1000).all()
    values = np.where(ROUND, -1020, CT).astype(np.float32)
    assert (checked_hounsfield("ct", "CT", values, ROUND)[0][ROUND] == -1000).all()
    water = np.where(IN_BODY & (CT == 0), 0, CT).astype(np.float32)
    assert (checked_hounsfield("ct", "CT", water, water == 0)[0] == water).all()


def test_a_cbct_is_taken_when_it_is_said_to_be_one_and_noted(tmp_path):
    sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
    sitk.WriteImage(sitk.GetImageFromArray((CT + 80).astype(np.int16)), str(tmp_path / "cbct.nii.gz"))
    with open(tmp_path / "scans.csv", "w", newline="", encoding="utf-8") as file:
        rows = [["patient", "phase", "modality", "image", "tumor"], ["p", "NC", "cbct", "cbct.nii.gz", ""]]
        csv.writer(file).writerows(rows)
    report = prepare(tmp_path / "scans.csv", tmp_path / "out", PrepareOptions(32, split=(1, 0, 0)))
    entry = report.manifest["slices"][0]
    assert (entry["modality"], entry["domain"], entry["intensity"]["unit"]) == ("CBCT", "A", "HU")
    assert any("cbct.nii.gz are those of a CBCT, whose HU are not calibrated" in note for note in report.notes)


@pytest.mark.parametrize("word", ["CBCT2", "CBC", "kVCT", "C-arm CT"])
def test_nobody_is_told_that_a_cbct_is_a_ct(tmp_path, word):
    (tmp_path / "scans.csv").write_text(f"patient,phase,modality,image,tumor\np,NC,{word},x.nii,\n", encoding="utf-8")
    with pytest.raises(DataError) as caught:
        prepare(tmp_path / "scans.csv", tmp_path / "out")
    assert "did you mean 'CT'" not in str(caught.value)
