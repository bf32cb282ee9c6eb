"""A run's figures show the median patient of each phase, as images of the run's last networks, and say which."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from roi_progressive.config import Config, GGDConfig
from roi_progressive.data.phantom import make_phantom
from roi_progressive.errors import ConfigError, DataError, MaskError
from roi_progressive.evaluation.figures import ComparisonRow
from roi_progressive.evaluation.image_files import read_grey, read_mask
from roi_progressive.runs import figure as run_figure
from roi_progressive.runs.figure import draw_run
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.translate import translate
from roi_progressive.saving.records import read_json, write_json
from roi_progressive.saving.written import checksum_of

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def run(small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with uncertainty heads on nine patients to test on, three a phase, already translated."""
    folder = tmp_path_factory.mktemp("made")
    make_phantom(folder / "data", n_train=2, n_val=0, n_test=9, slices_per_patient=2, size_px=32)
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=0)
    train(folder / "data", folder / "run", options, Config(regions=(), ggd=GGDConfig()))
    translate(folder / "run")
    return folder / "run"


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[list[ComparisonRow]]:
    """The rows of every figure that would have been drawn."""
    kept: list[list[ComparisonRow]] = []
    monkeypatch.setattr(run_figure, "comparison_figure", lambda rows, *paths, region, domains: kept.append(rows))
    return kept


@pytest.fixture
def never_translates(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("translated again")

    monkeypatch.setattr(run_figure, "translate", refuse)


def test_png_and_pdf_are_written_beside_the_images(run: Path, never_translates: None) -> None:
    figures = draw_run(run, sigma=True, error=True)
    assert [figure.direction for figure in figures] == ["A2B", "B2A"]
    for figure in figures:
        png, pdf = figure.files
        assert png == run / "test" / f"figure_{figure.direction}.png" and png.read_bytes().startswith(b"\x89PNG")
        assert pdf.suffix == ".pdf" and pdf.read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_each_phase_shows_the_patient_of_median_tumour_psnr(
    run: Path, drawn: list[list[ComparisonRow]], direction: str
) -> None:
    """By hand: the mean of its slices' PSNR over the tumour, ranked within the phase."""
    (figure,) = draw_run(run, directions=[direction])
    data, own = run.parent / "data", {}
    for path in sorted((run / "test" / direction).glob("*.png")):
        mask = read_mask(data / f"test{direction[0]}_tumor" / path.name, (32, 32))
        if mask.any():
            patient, phase, _ = path.stem.rsplit("_", 2)
            error = read_grey(data / f"test{direction[2]}" / path.name)[mask].astype(float) - read_grey(path)[mask]
            psnr = 10 * np.log10(255**2 / np.mean(error**2))
            own.setdefault(phase, {}).setdefault(patient, []).append(psnr)
    assert [row.label.split(", ")[0] for row in drawn[0]] == ["ART", "PV", "NC"]
    for row, said in zip(drawn[0], figure.rows, strict=True):
        phase, patient = row.label.split(", ")
        means = {name: np.mean(values) for name, values in own[phase].items()}
        assert len(means) == 3 and patient == sorted(means, key=lambda name: means[name])[1]
        assert f"{phase}: {patient}, the median patient" in said
        assert any(f"{value:.2f} dB" in said for value in own[phase][patient])


def test_panels_are_source_generated_and_target_with_maps_where_asked(
    run: Path, drawn: list[list[ComparisonRow]]
) -> None:
    (figure,) = draw_run(run, directions=["B2A"], sigma=True, error=True)
    row, name = drawn[0][0], figure.rows[0].split("; ")[1].split(",")[0]
    data = run.parent / "data"
    assert list(row.panels) == ["real MR", "generated CT", "real CT"]
    files = (data / "testB" / name, run / "test" / "B2A" / name, data / "testA" / name)
    for image, file in zip(row.panels.values(), files, strict=True):
        np.testing.assert_array_equal(image, read_grey(file))
    np.testing.assert_array_equal(row.mask, read_mask(data / "testB_tumor" / name, (32, 32)))
    sigma, error = row.maps.values()
    assert row.map_unit == "grey levels (0 to 255)"
    np.testing.assert_array_equal(sigma, np.load((run / "test" / "B2A_sigma" / name).with_suffix(".npy")))
    np.testing.assert_array_equal(error, np.abs(row.panels["generated CT"].astype(int) - row.panels["real CT"]))


def test_maps_of_a_ct_are_in_hu_where_its_window_is_known_and_those_of_an_mr_are_not(
    run: Path, drawn: list[list[ComparisonRow]], tmp_path: Path
) -> None:
    own, data = (
        Path(shutil.copytree(run, tmp_path / "run")),
        Path(shutil.copytree(run.parent / "data", tmp_path / "data")),
    )
    write_json(own / "run.json", {**read_json(own / "run.json"), "data": str(data)})
    manifest = read_json(data / "manifest.json")
    windowed = {"a": 400 / 255, "b": -160.0, "unit": "HU"}
    slices = [{**one, "intensity": windowed} if one["domain"] == "A" else one for one in manifest["slices"]]
    write_json(data / "manifest.json", {**manifest, "slices": slices})
    draw_run(own, sigma=True, error=True)
    to_mr, to_ct = (rows[0] for rows in drawn)
    for row, unit, factor in ((to_mr, "grey levels (0 to 255)", 1.0), (to_ct, "HU", 400 / 255)):
        generated, real = list(row.panels.values())[1:]
        assert row.map_unit == unit
        np.testing.assert_allclose(row.maps["|generated − real|"], factor * np.abs(generated.astype(float) - real))
        assert 0 < row.maps["predicted σ"].max() <= factor * 255


def test_a_patient_who_is_asked_for_is_shown(run: Path, drawn: list[list[ComparisonRow]]) -> None:
    (by_chance,) = draw_run(run, directions=["A2B"])
    patient = drawn[0][0].label.split(", ")[1]
    (figure,) = draw_run(run, directions=["A2B"], patient=patient)
    assert len(drawn[1]) == 1 and drawn[1][0].label == drawn[0][0].label
    assert figure.rows[0] == by_chance.rows[0].replace("the median patient", "as asked")


def test_images_of_older_networks_are_made_anew(run: Path, drawn: list[list[ComparisonRow]], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    image = next((copy / "test" / "A2B").glob("*.png"))
    before = image.read_bytes()
    image.write_bytes((run.parent / "data" / "testA" / image.name).read_bytes())
    (copy / "test" / "A2B" / ".DS_Store").write_text("newer than any network", encoding="utf-8")
    record = read_json(copy / "test" / "A2B" / "written.json")
    made_by, files = record["made_by"], {**record["files"], image.name: checksum_of(image)}
    older = {name: checksum_of(image) for name in made_by["networks"]}
    write_json(copy / "test" / "A2B" / "written.json", {"made_by": {**made_by, "networks": older}, "files": files})
    draw_run(copy)
    assert image.read_bytes() == before
    assert (copy / "test" / "A2B" / ".DS_Store").exists()


def test_a_missing_image_is_made(run: Path, drawn: list[list[ComparisonRow]], tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    image = next((copy / "test" / "A2B").glob("*.png"))
    image.unlink()
    draw_run(copy)
    assert image.is_file()


WRONG: dict[str, tuple[Callable[[Path, Path], Any], str]] = {
    "no direction": (lambda run, out: draw_run(run, directions=[]), "`direction` must be A2B, B2A or both.*got none"),
    "a direction twice": (lambda run, out: draw_run(run, directions=["A2B", "A2B"]), "each once; got A2B, A2B"),
    "no run": (lambda run, out: draw_run(out), "`run` must be a folder that `roi-progressive train` wrote"),
    "an unknown patient": (lambda run, out: draw_run(run, patient="nobody"), "`patient` must be one whose slices"),
    "an unknown region": (lambda run, out: draw_run(run, region="kidney"), "`region` 'kidney' needs the mask folder"),
    "an unknown split": (lambda run, out: draw_run(run, split="val"), "valA, which is missing|PNG images in"),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_mistake_is_said_and_draws_nothing(
    run: Path, tmp_path: Path, drawn: list[list[ComparisonRow]], mistake: str
) -> None:
    call, message = WRONG[mistake]
    with pytest.raises((ConfigError, DataError, MaskError), match=message) as raised:
        call(run, tmp_path / "out")
    assert "\n" not in str(raised.value) and not drawn and not (tmp_path / "out").exists()


def test_sigma_needs_a_run_with_uncertainty_heads(
    small_data: Path, small_networks: dict[str, Any], tmp_path: Path
) -> None:
    train(small_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    with pytest.raises(DataError, match="`--sigma` must go with a run that has uncertainty heads"):
        draw_run(tmp_path / "run", sigma=True)


def test_figures_of_the_user_are_never_replaced(run: Path, tmp_path: Path) -> None:
    (tmp_path / "figure_A2B.pdf").write_bytes(b"mine")
    with pytest.raises(DataError, match="`out` must not hold the figures yet"):
        draw_run(run, directions=["A2B"], out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["figure_A2B.pdf"]
    with pytest.raises(DataError, match=r"figure_A2B\.pdf' is not ours, by the record written\.json"):
        draw_run(run, directions=["A2B"], out=tmp_path, force=True)
    assert (tmp_path / "figure_A2B.pdf").read_bytes() == b"mine"


def test_figures_of_ours_are_replaced_with_force_only(run: Path, tmp_path: Path) -> None:
    draw_run(run, directions=["A2B"], out=tmp_path)
    with pytest.raises(DataError, match="`out` must not hold the figures yet"):
        draw_run(run, directions=["A2B"], out=tmp_path)
    draw_run(run, directions=["A2B"], out=tmp_path, force=True)
    assert (tmp_path / "figure_A2B.pdf").read_bytes().startswith(b"%PDF")
