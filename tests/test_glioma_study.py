"""The study on gliomas: who is trained, tuned and tested on, what its report says, and that its command goes on."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(FOLDER))
    return lambda name: importlib.import_module(f"study.{name}")


PATIENTS = [f"P{number:02d}" for number in range(78)]


def test_no_patient_to_test_on_is_trained_or_tuned_on(study: Any) -> None:
    data = study("glioma_data")
    test = data.test_fold(PATIENTS)
    assert len(test.give_A) == len(test.give_B) == 20 and len(test.scored) == 30
    folds = [data.tuning_fold(PATIENTS, number) for number in range(6)]
    for fold in (test, *folds):
        groups = [set(fold.give_A), set(fold.give_B), set(fold.scored)]
        assert sum(map(len, groups)) == len(set.union(*groups))
    for fold in folds:
        assert not set(test.scored) & {*fold.give_A, *fold.give_B, *fold.scored}
    tuned = [patient for fold in folds for patient in fold.scored]
    assert len(tuned) == len(set(tuned)) == 48
    assert data.test_fold(PATIENTS[::-1]) == test, "the split depends on the patients alone"


def test_fewer_patients_are_a_part_of_all(study: Any) -> None:
    fold = study("glioma_data").test_fold(PATIENTS)
    few = fold.shortened(5)
    assert len(few.give_A) == len(few.give_B) == 5 and few.scored == fold.scored
    assert set(few.give_A) < set(fold.give_A) and set(few.give_B) < set(fold.give_B)


def _gliomas(study: Any) -> Any:
    rng = np.random.default_rng(0)
    names = [f"{patient}_NC_{index:03d}" for patient in PATIENTS for index in range(2)]
    images = {domain: rng.integers(0, 256, (len(names), 16, 16), dtype=np.uint8) for domain in "AB"}
    masks = rng.random((len(names), 16, 16)) < 0.2
    return study("glioma_data").Gliomas(images, masks, tuple(names), tuple(name[:3] for name in names))


def test_prepared_slices_are_read_as_they_were_saved(study: Any, tmp_path: Path) -> None:
    made = _gliomas(study)
    made.save(tmp_path / "slices.npz")
    read = study("glioma_data").Gliomas.load(tmp_path / "slices.npz")
    assert read.names == made.names and read.patients == made.patients
    assert np.array_equal(read.masks, made.masks)
    assert all(np.array_equal(read.images[domain], made.images[domain]) for domain in "AB")


def test_the_ceiling_sees_every_training_patient_in_both_domains_and_no_other_arm_does(
    study: Any, tmp_path: Path
) -> None:
    data = study("glioma_data")
    data.write_folders(tmp_path, _gliomas(study), data.test_fold(PATIENTS))
    of = {path: {file.name[:3] for file in (tmp_path / path).iterdir()} for path in (
        "data/trainA", "data/trainB", "paired/trainA", "paired/trainB", "data/testA", "paired/testB"
    )}  # fmt: skip
    assert not of["data/trainA"] & of["data/trainB"]
    assert of["paired/trainA"] == of["paired/trainB"] == of["data/trainA"] | of["data/trainB"]
    assert of["data/testA"] == of["paired/testB"] and not of["data/testA"] & of["paired/trainA"]


def test_runs_take_as_many_steps_whatever_their_slices(study: Any) -> None:
    options = study("glioma_arms").glioma_options
    for slices in (90, 180, 360):
        chosen = options(1, slices, "cpu", 64, 1560)
        assert (chosen.epochs + chosen.decay_epochs) * slices / 2 == pytest.approx(1560, rel=0.06)


# The report


def _lines(gain: float, failed: float, seeds: int = 5, **more: Any) -> list[dict[str, Any]]:
    def line(arm: str, seed: int, tpsnr: float, lost: float) -> dict[str, Any]:
        of = {"tpsnr": tpsnr, "tssim": tpsnr / 50, "psnr": 20.0, "ssim": 0.7, "texture_ratio": 1.0, "lost": lost,
              "inverted": 0.0, "invented": 1.0}  # fmt: skip
        scores = {
            d: {key: {"p1": value + 0.1 * seed, "p2": value} for key, value in of.items()} for d in ("A2B", "B2A")
        }
        return {"arm": arm, "seed": seed, "tuning": False, "patients_a_domain": 0, "scores": scores, **more}

    arms = {"plain": (10.0, 0.9), "regions": (10.0 + gain, failed), "placebo": (10.1, 0.9), "ceiling": (14.0, 0.7)}
    return [line(arm, seed, *of) for arm, of in arms.items() for seed in range(seeds)]


def _asked(study: Any, lines: list[dict[str, Any]]) -> dict[str, list[str]]:
    report = study("glioma_report")
    rows = [row.strip("| ").split(" | ") for row in report.asked_table(report.Found(lines))[2:]]
    return {asked.split(":")[0]: answers for asked, *answers in rows}


def test_what_was_asked_for_is_held_against_what_the_runs_reach(study: Any) -> None:
    good = _asked(study, _lines(5.5, 0.05))
    assert good["tumour PSNR gained"] == ["+5.50 [+5.50, +5.50]: met"] * 2
    assert good["share of the way from plain to the ceiling"] == ["1.38 (+5.50 of +4.00): met"] * 2
    assert good["placebo's gain"] == ["+0.10 [+0.10, +0.10]: met"] * 2
    assert good["tumour PSNR gained from every seed of five"] == ["5 of 5: met"] * 2
    bad = _asked(study, _lines(-0.3, 0.8))
    assert bad["tumour PSNR gained"] == ["-0.30 [-0.30, -0.30]: **missed**"] * 2
    assert bad["lesions lost or inverted"][0].endswith("**missed**")
    assert bad["tumour PSNR gained from every seed of five"] == ["0 of 5: **missed**"] * 2


def test_what_no_run_shows_is_not_called_met_or_missed(study: Any) -> None:
    few = [line for line in _lines(5.5, 0.1) if line["arm"] in ("plain", "regions")]
    asked = _asked(study, few)
    assert all(answer.endswith("not known") for answer in asked["share of the way from plain to the ceiling"])
    assert all(answer.endswith("not known") for answer in asked["tumour PSNR against constant fill"])
    of_three = _asked(study, _lines(5.5, 0.1, seeds=3))
    assert of_three["tumour PSNR gained from every seed of five"] == ["3 of 3: not known"] * 2


def test_a_gain_pairs_seeds_and_patients(study: Any) -> None:
    report = study("glioma_report")
    lines = _lines(2.0, 0.1, seeds=3)
    del lines[0]  # plain's first seed
    del lines[-1]["scores"]["A2B"]["tpsnr"]["p2"]
    gain = report.Found(lines).gain("regions", "A2B", "tpsnr")
    assert gain.shape == (2, 2) and np.allclose(gain, 2.0)
    assert report.Found(lines).gain("ceiling", "A2B", "tpsnr").shape == (2, 1)


def test_the_published_tables_are_what_the_published_runs_give(study: Any) -> None:
    report = study("glioma_report")
    lines = [json.loads(line) for line in (FOLDER / "effect" / "glioma_runs.jsonl").read_text("utf-8").splitlines()]
    published = (FOLDER / "EFFECT.md").read_text("utf-8").splitlines()
    found = report.Found(lines)
    for table in (report.asked_table(found), report.gain_table(found), report.score_table(found)):
        assert table and [row for row in table if row not in published] == []
    larger = (FOLDER / "effect" / "glioma_runs_128.jsonl").read_text("utf-8").splitlines()
    found = report.Found([json.loads(line) for line in larger])
    for table in (report.gain_table(found), report.score_table(found)):
        assert table and [row for row in table if row not in published] == []
    earlier = (FOLDER / "effect" / "glioma_runs_1080.jsonl").read_text("utf-8").splitlines()
    gains = report.gain_table(report.Found([json.loads(line) for line in earlier]))
    assert [row for row in gains if "| ceiling |" not in row and row not in published] == []


def test_the_published_gain_by_number_of_patients_is_what_the_published_runs_give(tmp_path: Path) -> None:
    published = (FOLDER / "EFFECT.md").read_text("utf-8").splitlines()
    figure = tmp_path / "patients.png"
    done = _patients("--figure", str(figure), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    table = done.stdout.splitlines()
    assert len(table) == 2 + 4 * 2 and [row for row in table if row not in published] == []
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_run_with_all_patients_counts_as_twenty_a_domain(study: Any) -> None:
    patients = study("glioma_patients")
    few = [{**line, "patients_a_domain": 5} for line in _lines(1.0, 0.5)]
    tuned = [{**line, "tuning": True} for line in _lines(9.0, 0.5)]
    rows = patients.patients_table([*_lines(2.0, 0.5), *few, *tuned])[2:]
    assert [row.strip("| ").split(" | ")[0] for row in rows] == ["5", "5", "20", "20"]
    assert "+1.00 [+1.00, +1.00]" in rows[0] and "+2.00 [+2.00, +2.00]" in rows[2]


def test_runs_that_cannot_be_compared_are_one_line(tmp_path: Path) -> None:
    done = _patients("nothing.jsonl", cwd=tmp_path)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "nothing.jsonl" in done.stderr


def _patients(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "study_patients.py"), *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, encoding="utf-8")


# The command


def _write_gliomas(folder: Path, patients: int, phantom_px: int = 24) -> Path:
    sitk = pytest.importorskip("SimpleITK")
    rng = np.random.default_rng(0)
    folder.mkdir()
    line = np.arange(phantom_px) - phantom_px / 2
    head = np.hypot(line[:, None], line[None, :]) < 0.42 * phantom_px
    for number in range(patients):
        tumour = np.zeros((4, phantom_px, phantom_px), np.uint8)
        tumour[1:3, 8:14, 9:15] = 1
        for kind, contrast in (("t1", -40), ("flair", 60)):
            volume = head * (100 + contrast * tumour.astype(float) + rng.normal(0, 5, tumour.shape))
            sitk.WriteImage(
                sitk.GetImageFromArray(volume.astype(np.float32)), str(folder / f"p{number:02d}_{kind}.nii.gz")
            )
        sitk.WriteImage(sitk.GetImageFromArray(tumour), str(folder / f"p{number:02d}_tumor.nii.gz"))
    return folder


def test_the_command_keeps_numbers_alone_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    _write_gliomas(tmp_path / "scans", 36)

    def study(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "run_study.py"), "study", "--gliomas", "scans", "--quick", "--size-px",
                   "32", "--seeds", "1", "--processes", "1", *arguments]  # fmt: skip
        return subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")

    first = study("--arms", "plain", "references")
    assert first.returncode == 0, first.stderr
    second = study("--arms", "plain", "pixels")
    assert second.returncode == 0, second.stderr
    lines = [json.loads(line) for line in (tmp_path / "study" / "runs.jsonl").read_text("utf-8").splitlines()]
    assert [line["arm"] for line in lines] == ["references", "plain", "pixels"] or [line["arm"] for line in lines] == [
        "plain",
        "references",
        "pixels",
    ]
    assert all(len(line["scores"]["A2B"]["psnr"]) == 30 for line in lines if "scores" in line)
    assert "| pixels | T1 → FLAIR | 1 |" in second.stdout and "| constant fill | FLAIR → T1 |" in second.stdout
    left = {path.name for path in (tmp_path / "study").iterdir()}
    assert left == {"study.json", "slices.npz", "runs.jsonl", "report.md", "gains.png"}
    other = study("--steps", "99", "--size-px", "64")
    assert other.returncode == 2 and "a study with other" in other.stderr and len(other.stderr.splitlines()) == 1
    wrong = study("--arms", "nothing")
    assert wrong.returncode == 2 and "`arms` must be any of" in wrong.stderr


def test_sigma_is_calibrated_on_the_patients_to_tune_on_and_only_numbers_are_kept(study: Any, tmp_path: Path) -> None:
    rng, size = np.random.default_rng(0), 32
    patients = tuple(f"P{number:02d}" for number in range(48))
    images = {domain: rng.integers(0, 256, (48, size, size), dtype=np.uint8) for domain in "AB"}
    masks = np.zeros((48, size, size), bool)
    masks[:, 10:20, 12:22] = True
    slices = study("glioma_data").Gliomas(images, masks, tuple(f"{name}_NC_000" for name in patients), patients)
    slices.save(tmp_path / "slices.npz")
    command = [sys.executable, str(FOLDER / "study_sigma.py"), "sigma.json", "--gliomas", "slices.npz", "--seeds", "1",
               "--steps", "8"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"slices.npz", "sigma.json"}
    for found in json.loads((tmp_path / "sigma.json").read_text("utf-8"))["1"].values():
        assert len(found["left_out"]) == 3, "a share for each of the patients to tune on"
        raw, right = found["raw"], found["calibrated"]
        assert raw["tpsnr"] == right["tpsnr"], "the images stay as they are"
        assert abs(right["region_coverage"] - 0.9) < abs(raw["region_coverage"] - 0.9)
        assert {"sigma", "all of them, fitted on the tuning patients"} < set(found["ranks inside the tumour"])
