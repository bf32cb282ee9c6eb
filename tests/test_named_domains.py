"""Runs on data whose domains are no CT and MR, and on data without regions: what their tables and figures say."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from roi_progressive.cli.main import main
from roi_progressive.data.phantom import make_phantom
from roi_progressive.errors import DataError
from roi_progressive.evaluation.aggregation import aggregate
from roi_progressive.evaluation.pairs import read_domains
from roi_progressive.evaluation.region_names import default_region
from roi_progressive.evaluation.scoring import SliceScores
from roi_progressive.evaluation.table import render_csv, render_latex, render_markdown, render_text
from roi_progressive.runs import figure as run_figure
from roi_progressive.runs.folder import Run
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.saving.names import CT_AND_MR, Domains
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")
BRAIN = Domains("T1", "FLAIR")


@pytest.fixture(scope="module")
def run(small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the command on data named T1 and FLAIR without any region, evaluated."""
    folder = tmp_path_factory.mktemp("named")
    make_phantom(folder / "data", n_train=2, n_val=0, n_test=3, slices_per_patient=2, size_px=32)
    name_domains(folder / "data", BRAIN, regions=[])
    for masks in folder.glob("data/*_*"):
        if masks.is_dir():
            shutil.rmtree(masks)
    options = [text for name, value in small_networks.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    once = ["--epochs", "1", "--decay-epochs", "0", "--threads", "1", "--device", "cpu"]
    assert main(["train", "--data", str(folder / "data"), "--out", str(folder / "run"), *options, *once]) == 0
    return folder / "run"


def name_domains(data: Path, domains: Domains, regions: list[str] | None = None) -> None:
    manifest = read_json(data / "manifest.json")
    named = {**manifest, "domains": {"A": domains.a, "B": domains.b}}
    write_json(data / "manifest.json", named if regions is None else {**named, "regions": regions})


def scored(direction: str) -> SliceScores:
    return {
        "name": "p_ART_000.png",
        "patient": "p",
        "phase": "ART",
        "direction": direction,
        "region_px": 9,
        "scores": {"tpsnr": 20.0, "tssim": 0.5, "psnr": 30.0, "ssim": 0.9, "texture_ratio": 1.0, "lost": 0.0},
        "reasons": {},
        "fid_features": None,
        "n_lesions": 3,
        "n_unclear_lesions": 1,
    }


TABLE = {"model": aggregate([scored("A2B"), scored("B2A")])}


def test_tables_call_directions_by_the_names_of_their_domains_and_explain_a2b_once() -> None:
    text = render_text(TABLE, "tumor", (), BRAIN, width=None)
    assert "\nT1 → FLAIR\n  model " in text and "\nFLAIR → T1\n  model " in text
    assert "in truth): T1 → FLAIR 3 (1); FLAIR → T1 3 (1)." in text
    assert text.count("A2B") == 1 and "In files, options and logs T1 → FLAIR is A2B, FLAIR → T1 is B2A." in text
    assert "| FLAIR → T1 | model | 20.00 |" in render_markdown(TABLE, "tumor", (), BRAIN)
    assert r"T1 $\to$ FLAIR & model & 20.00" in render_latex(TABLE, "tumor", (), BRAIN)
    assert "model,A2B,ART" in render_csv(TABLE)  # for other programs


def test_tables_whose_domains_were_not_named_say_a2b_and_what_it_is() -> None:
    for render in (render_text, render_markdown, render_latex):
        text = render(TABLE)
        assert text == render(TABLE, "tumor", (), CT_AND_MR) and "→ MR" not in text
        assert "A2B leads from domain A to domain B, B2A back: CT to MR unless" in text


def test_a_table_without_a_region_has_the_columns_of_whole_images() -> None:
    groups, header, *_ = render_text(TABLE, None).splitlines()
    assert groups.split() == ["whole", "image"]
    assert [word for word in header.split() if word in ("PSNR", "SSIM")] == ["PSNR", "SSIM"]
    for word in ("TPSNR", "TSSIM", "texture", "lost", "region", "lesions"):
        assert word not in render_text(TABLE, None), word
    assert render_csv(TABLE, None).splitlines()[0].startswith("arm,direction,phase,psnr,")


def test_data_without_regions_are_trained_plain_which_is_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert Run.open(run).config.regions == ()
    # A mistake that comes to light after the note.
    assert main(["train", "--data", str(run.parent / "data"), "--out", str(run), "--device", "cpu"]) == 2
    assert "data has no regions; the plain CycleGAN is trained" in capsys.readouterr().err


def test_data_without_regions_are_evaluated_on_whole_images(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(run), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert "T1 → FLAIR" in printed and "TPSNR" not in printed and "constant_fill" not in printed
    content = json.loads((run / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert content["region"] is None and content["domains"] == {"A": "T1", "B": "FLAIR"}
    assert {row["arm"] for row in content["rows"]} == {"model", "copy_source", "mean_image"}
    assert {row["direction"] for row in content["rows"]} == {"A2B", "B2A"}
    assert all(row["psnr"] is not None and row["tpsnr"] is None for row in content["rows"])


def test_a_figure_of_data_without_regions_is_refused_in_one_line(run: Path) -> None:
    with pytest.raises(
        DataError, match=r"`data` must have a region to box and enlarge; .* has none; look at"
    ) as caught:
        run_figure.draw_run(run)
    assert "\n" not in str(caught.value)


def test_figures_and_their_lines_bear_the_names_of_the_domains(
    small_networks: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make_phantom(tmp_path / "data", n_train=2, n_val=0, n_test=3, slices_per_patient=2, size_px=32)
    name_domains(tmp_path / "data", BRAIN)
    train(tmp_path / "data", tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    kept: list[Any] = []
    monkeypatch.setattr(
        run_figure, "comparison_figure", lambda rows, *paths, region, domains: kept.append((rows, domains))
    )
    assert main(["figure", str(tmp_path / "run"), "--direction", "B2A", "--device", "cpu"]) == 0
    assert "FLAIR → T1: " in capsys.readouterr().out
    [(rows, domains)] = kept
    assert domains == BRAIN and list(rows[0].panels) == ["real FLAIR", "generated T1", "real T1"]


def test_manifests_that_name_no_domains_are_of_ct_and_mr(tmp_path: Path) -> None:
    assert read_domains(tmp_path) == CT_AND_MR
    (tmp_path / "manifest.json").write_text('{"slices": []}', encoding="utf-8")
    assert read_domains(tmp_path) == read_domains(tmp_path / "manifest.json") == CT_AND_MR


@pytest.mark.parametrize("domains", ['{"A": "T1"}', '["T1", "T2"]', '{"A": "=x()", "B": "T2"}', '{"A": 1, "B": 2}'])
def test_a_manifest_whose_domains_cannot_be_names_is_refused(tmp_path: Path, domains: str) -> None:
    (tmp_path / "manifest.json").write_text(f'{{"slices": [], "domains": {domains}}}', encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.json must be a data set's manifest"):
        read_domains(tmp_path)


def test_folders_without_masks_and_without_a_word_of_it_are_still_an_error(tmp_path: Path) -> None:
    (tmp_path / "trainA").mkdir()
    with pytest.raises(DataError, match="`data` must have a region"):
        default_region(tmp_path)
    write_json(tmp_path / "manifest.json", {"regions": []})
    assert default_region(tmp_path) is None
