"""A run's sigma is calibrated on a split's pairs, and shown so wherever it is shown, until its networks change."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stopping import stopped

from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.phantom import make_phantom
from roi_progressive.data.preparation import Preparation
from roi_progressive.errors import DataError
from roi_progressive.evaluation.image_files import read_sigma
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.runs import figure as run_figure
from roi_progressive.runs.calibrate import FILE, SigmaCalibration, calibrate, read_calibration, uncalibrated_note
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.export import export
from roi_progressive.runs.figure import draw_run
from roi_progressive.runs.folder import Run
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runs.translate import translate
from roi_progressive.runs.volume import translate_volume
from roi_progressive.saving.checkpoint import save_checkpoint
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def run(small_networks: dict[str, Any], tmp_path: Path) -> Path:
    """A run with heads on a phantom: two patients to train on, three to validate, three to test."""
    make_phantom(tmp_path / "data", n_train=2, n_val=3, n_test=3, slices_per_patient=2, size_px=32)
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=1, save_every_epochs=1)
    train(tmp_path / "data", tmp_path / "run", options, Config(regions=(), ggd=GGDConfig(weight=1.0)))
    return tmp_path / "run"


def _kept(folder: Path) -> SigmaCalibration | None:
    run = Run.open(folder)
    return read_calibration(run.networks, run.options, run.config, run.epoch)


def test_sigma_has_the_size_of_the_error_on_the_split_it_was_calibrated_on(run: Path) -> None:
    before = evaluate_run(run, split="val", references=(), uncertainty=True)
    assert "as the networks give it" in before.notes[0] and "roi-progressive calibrate" in before.notes[0]
    calibration = calibrate(run)
    assert calibration.split == "val" and calibration.n_patients == 3
    after = evaluate_run(run, split="val", references=(), uncertainty=True)
    assert "these very slices (3 patients)" in after.notes[0]
    for direction in ("A2B", "B2A"):
        raw, put_right = (scores.results["model"][direction]["mean"] for scores in (before, after))
        assert abs(np.log(put_right["region_sigma_ratio"])) < abs(np.log(raw["region_sigma_ratio"]))
        # Means over phases of one patient each, where the calibration is one for all of them.
        assert put_right["region_sigma_ratio"] == pytest.approx(1.0, abs=0.4)
        assert put_right["region_coverage"] == pytest.approx(0.9, abs=0.06)
        assert put_right["region_sigma_rank"] == pytest.approx(raw["region_sigma_rank"])
        assert put_right["tpsnr"] == raw["tpsnr"]
    assert "pairs of val" in evaluate_run(run, references=(), uncertainty=True).notes[0]


def test_the_correction_follows_from_the_maps_on_disk(run: Path) -> None:
    calibration = calibrate(run)
    sums: dict[str, list[float]] = {}
    for pair in pairs_from_folders(run.parent / "data", "val", "A2B", run / "val" / "A2B", "tumor"):
        sigma = read_sigma(run / "val" / "A2B_sigma", Path(pair.name).stem, pair.real.shape)
        error = pair.fake.astype(np.float64) - pair.real
        of_patient = sums.setdefault(pair.patient, [0.0, 0.0, 0.0])
        of_patient[0] += float((error[pair.mask] ** 2).sum())
        of_patient[1] += float((sigma.astype(np.float64)[pair.mask] ** 2).sum())
        of_patient[2] += float(pair.mask.sum())
    ratio = sum(s / n for s, _, n in sums.values()) / sum(v / n for _, v, n in sums.values())
    assert calibration.directions["A2B"].inside["tumor"].factor == pytest.approx(np.sqrt(ratio))


def test_a_figure_shows_the_calibrated_sigma_and_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(run_figure, "comparison_figure", lambda rows, *paths, region, domains: drawn.append(rows))
    draw_run(run, sigma=True, directions=["A2B"])
    calibration = calibrate(run)
    draw_run(run, sigma=True, directions=["A2B"])
    for before, after in zip(*drawn, strict=True):
        [raw], [put_right] = before.maps.values(), after.maps.values()
        assert list(before.maps) == ["predicted σ"] and list(after.maps) == ["calibrated σ"]
        factor = calibration.directions["A2B"].image.factor  # the mask must not be seen in a map of the networks'
        np.testing.assert_allclose(put_right, factor * raw)


def test_it_is_of_the_networks_it_was_made_of(run: Path, small_networks: dict[str, Any], tmp_path: Path) -> None:
    options = TrainOptions(**small_networks, epochs=2, decay_epochs=0, save_every_epochs=1)

    with stopped(lambda done, total, text: done == total - 1) as report:
        train(run.parent / "data", tmp_path / "going", options, Config(regions=(), ggd=GGDConfig()), report=report)
    calibrate(tmp_path / "going")
    assert _kept(tmp_path / "going") is not None
    resume(tmp_path / "going")
    assert _kept(tmp_path / "going") is None
    scores = evaluate_run(tmp_path / "going", references=(), uncertainty=True)
    assert "calibrated for epoch 1, and these networks are those of epoch 2: give --epoch 1, or" in scores.notes[0]
    assert "roi-progressive calibrate RUN --epoch 2" in scores.notes[0]
    calibrate(tmp_path / "going")
    copied = torch.load(tmp_path / "going" / "networks" / "2_net_G_A.pth", weights_only=True)
    save_checkpoint(tmp_path / "going" / "networks" / "2_net_G_A.pth", {name: 0.9 * of for name, of in copied.items()})
    networks = Run.open(tmp_path / "going").networks
    assert "is of networks that it no longer has: roi-progressive calibrate RUN --epoch 2" in uncalibrated_note(
        networks, 2
    )


def test_a_sigma_that_does_not_rank_the_errors_is_named(run: Path) -> None:
    translate(run)
    notes = evaluate_run(run, references=(), uncertainty=True)
    for direction, cells in notes.results["model"].items():
        rank, title = cells["mean"]["region_sigma_rank"], notes.domains.title(direction)
        named = [note for note in notes.notes if note.startswith(f"{title}: sigma does not rank the errors inside")]
        assert bool(named) == (rank < 0.1)


def test_the_command_prints_every_correction_and_how_few_patients_there_were(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", str(run)]) == 0
    said = capsys.readouterr().out
    assert "CT → MR, inside tumor: sigma x " in said and "MR → CT, image: sigma x " in said
    assert "% of the errors within " in said and "of a patient left out" in said
    assert "note: from 3 patients; calibrate on 5 or more" in said and str(run / "networks" / FILE) in said
    assert main(["evaluate", str(run), "--uncertainty"]) == 0
    assert "Sigma is calibrated on the pairs of val" in capsys.readouterr().out


def test_what_cannot_be_calibrated_is_one_line(
    run: Path, small_networks: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(DataError, match="`split` must be val or test, slices that were not trained on"):
        calibrate(run, split="train")
    plain = tmp_path / "plain"
    train(run.parent / "data", plain, TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    for arguments, told in (
        ([str(plain)], "`run` must have uncertainty heads to be calibrated"),
        ([str(tmp_path / "none")], "must be a folder that `roi-progressive train` wrote"),
    ):
        assert main(["calibrate", *arguments]) == 2
        assert told in capsys.readouterr().err
    calibrate(run)
    record = read_json(run / "networks" / FILE)
    write_json(run / "networks" / FILE, {**record, "directions": {"A2B": record["directions"]["A2B"]}})
    with pytest.raises(DataError, match="has no `B2A`; run `roi-progressive calibrate` again"):
        evaluate_run(run, references=(), uncertainty=True)
    damaged = (run / "networks" / FILE).read_bytes()
    (run / "networks" / FILE).write_bytes(damaged.replace(b"val", b"vam", 1))
    assert main(["evaluate", str(run), "--uncertainty"]) == 2
    assert "checksum does not match" in capsys.readouterr().err


def test_files_of_others_are_not_written_over(run: Path) -> None:
    (run / "networks" / FILE).write_text("my own notes", encoding="utf-8")
    with pytest.raises(DataError, match="is not ours"):
        calibrate(run)
    assert (run / "networks" / FILE).read_text(encoding="utf-8") == "my own notes"


def test_a_new_patients_sigma_is_that_of_the_calibrated_image(run: Path, tmp_path: Path) -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    preparation = Preparation(PrepareOptions(size_px=32), {"A": True, "B": False})
    z, y, x = np.mgrid[0:3, 0:40, 0:40]
    scan = sitk.GetImageFromArray((np.hypot(y - 20, x - 20) < 15) * 1040.0 - 1000 + 10.0 * z)
    sitk.WriteImage(scan, str(tmp_path / "ct.nii.gz"))

    def sigma_of(name: str) -> tuple[Any, list[str]]:
        files = [tmp_path / f"{name}{end}.nii.gz" for end in ("", "_sigma")]
        done = translate_volume(
            tmp_path / "ct.nii.gz", files[0], run=run, direction="A2B", preparation=preparation, sigma=files[1]
        )
        notes = [note for note in done.notes if note.startswith("Sigma is")]
        return sitk.GetArrayFromImage(sitk.ReadImage(str(files[1]))), notes

    raw, [said] = sigma_of("raw")
    assert "as the networks give it" in said and "roi-progressive calibrate" in said
    calibration = calibrate(run)
    put_right, [said] = sigma_of("put_right")
    assert "calibrated on 3 patients" in said
    np.testing.assert_allclose(put_right, calibration.directions["A2B"].image.factor * raw, rtol=1e-4)


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_a_program_returns_the_calibrated_sigma_and_its_card_says_which(run: Path, tmp_path: Path) -> None:
    source = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    def program(name: str) -> tuple[list[torch.Tensor], str]:
        done = export(run, tmp_path / name, directions=["B2A"], sigma=True)
        with torch.no_grad():
            made = torch.jit.load(str(done.files[0]))(source)
        return list(made), done.files[-1].read_text(encoding="utf-8")

    (image, raw), card = program("raw")
    assert "It is as the networks give it: `roi-progressive calibrate RUN`" in card
    factor = calibrate(run).directions["B2A"].image.factor
    (same_image, put_right), card = program("put_right")
    assert "It is calibrated on the pairs of 3 patients" in card and f"{factor:.3g}" in card
    inside = calibrate(run).directions["B2A"].inside["tumor"].factor
    assert f"inside tumor it would be {inside:.3g}" in card and "region coverage" not in card
    torch.testing.assert_close(same_image, image, rtol=0, atol=0)
    torch.testing.assert_close(put_right, factor * raw)
