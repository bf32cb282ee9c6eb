"""Volumes of a run's slices and of folders are scored in their units, and the table says what they are."""

from __future__ import annotations

import json
import math
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio

from roi_progressive import hookimpl
from roi_progressive.cli.main import main
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import ConfigError, DataError, PluginError
from roi_progressive.evaluation.image_files import read_grey
from roi_progressive.evaluation.volume_similarity import ms_ssim
from roi_progressive.runs.evaluate import MODEL, evaluate_folders, evaluate_run
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.runs.volume_scores import (
    evaluate_volume_folders,
    read_volume_scores,
    volume_table,
    volumes_with_certainty,
    write_volume_scores,
)
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")


def plugin(answer: Callable[..., Any]) -> types.ModuleType:
    module = types.ModuleType("of_volumes")
    module.roi_volume_metrics = hookimpl(answer)  # type: ignore[attr-defined]
    return module


# -- a run's slices ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def own(
    write_scans: Callable[[Path], Path], small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with prepared ``data``, whose CTs are in HU, and a ``run`` on them."""
    folder = tmp_path_factory.mktemp("volumes")
    table = write_scans(folder / "scans")
    prepare(table, folder / "data", PrepareOptions(size_px=32, align=True, slices_each_side=2, split=(2, 1, 2)))
    train(folder / "data", folder / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    return folder


def test_a_runs_volumes_are_scored_in_hu_inside_the_body(own: Path) -> None:
    """Against the image files themselves, put together by their names and taken to HU by the window's two numbers."""
    seen: list[Any] = []

    def look(real: Any, fake: Any, masks: Any, spacing_mm: Any) -> None:
        seen.append({"real": real, "fake": fake, "masks": masks, "spacing_mm": spacing_mm})

    scores = evaluate_run(own / "run", plugins=[plugin(look)], references=())
    assert scores.volumes is not None
    first = next(one for one in scores.volumes.volumes[MODEL] if one["direction"] == "B2A")
    names = sorted(path.name for path in (own / "data" / "testA").glob(f"{first['patient']}_*"))
    assert len(names) == 5
    real, fake = (
        np.stack([read_grey(folder / name) for name in names]) * (400 / 255) - 160
        for folder in (own / "data" / "testA", own / "run" / "test" / "B2A")
    )
    given = next(of for of in seen if of["real"].shape == real.shape and np.allclose(of["real"], real))
    body = given["masks"]["body"]
    assert body.any() and not body.all() and set(given["masks"]) == {"body", "tumor"}
    assert (body | (real < -159)).all(), "what is not black is body"
    np.testing.assert_allclose(given["fake"], fake)
    manifest = read_json(own / "data" / "manifest.json")
    assert (
        list(given["spacing_mm"])
        == next(s for s in manifest["slices"] if s["name"] == Path(names[0]).stem)["spacing_mm"]
    )
    expected = {
        "volume_mae": np.abs(real - fake)[body].mean(),
        "volume_psnr": peak_signal_noise_ratio(real[body], fake[body], data_range=400),
        "volume_ms_ssim": ms_ssim(real, fake, body, -160, 240),
    }
    for key, value in expected.items():
        assert first["scores"][key] == pytest.approx(value)
    cell = scores.volumes.results[MODEL]["B2A"]["mean"]
    values = [one["scores"]["volume_mae"] for one in scores.volumes.volumes[MODEL] if one["direction"] == "B2A"]
    assert len(values) == cell["n_patients"] == 2 and cell["volume_mae"] == pytest.approx(np.mean(values))


def test_the_heading_tells_unit_window_and_that_they_are_no_whole_scans(own: Path) -> None:
    scores = evaluate_run(own / "run", references=())
    assert scores.volumes is not None
    text = volume_table(scores.volumes)
    assert "definitions of SynthRAD" in text
    assert "MR → CT: in HU, clipped to [-160, 240] HU, the window of the data; the peak is 400 HU" in text
    assert "CT → MR: in grey levels 0 to 255" in text
    assert "inside the body\n" in text and "2 patients, 2 volumes." in text
    assert "that the data hold, 5 of them" in text and "no whole scan" in text
    [note] = scores.notes
    assert note.startswith("MAE HU and region MAE HU, MR → CT: clipped to [-160, 240] HU, the window of the data")
    assert "off the scan by what was clipped" in note


def test_folders_of_slices_say_what_their_hu_are_clipped_to(own: Path) -> None:
    folder = str(own / "data" / "testA")
    given = {"manifest": own / "data" / "manifest.json", "directions": ["B2A"]}
    scores = evaluate_folders([folder], [folder], None, **given)  # type: ignore[arg-type]
    assert any("clipped to [-160, 240] HU" in note for note in scores.notes)


def test_a_perfect_image_of_a_wide_window_has_no_such_word(own: Path, tmp_path: Path) -> None:
    options = PrepareOptions(size_px=32, align=True, ct_window=(4095.0, 1023.5), split=(2, 1, 2))
    prepare(own / "scans" / "scans.csv", tmp_path / "data", options)
    folder = str(tmp_path / "data" / "testA")
    given = {"manifest": tmp_path / "data" / "manifest.json", "directions": ["B2A"]}
    [note] = [n for n in evaluate_folders([folder], [folder], None, **given).notes if "HU" in n]  # type: ignore[arg-type]
    assert "clipped to [-1024, 3071] HU" in note and "off the scan" not in note


def test_the_references_are_scored_as_volumes_when_asked(own: Path) -> None:
    scores = evaluate_run(own / "run", volumes=(MODEL, "copy_source"), references=("copy_source", "mean_image"))
    assert scores.volumes is not None and list(scores.volumes.results) == [MODEL, "copy_source"]
    assert evaluate_run(own / "run", volumes=(), references=()).volumes is None


def test_slices_with_gaps_or_unknown_places_make_no_volume_and_this_is_told(own: Path, tmp_path: Path) -> None:
    shutil.copytree(own, tmp_path / "own")
    described = read_json(tmp_path / "own" / "run" / "run.json")
    write_json(tmp_path / "own" / "run" / "run.json", {**described, "data": str(tmp_path / "own" / "data")})
    place = tmp_path / "own" / "data" / "manifest.json"
    manifest = read_json(place)
    of_test = [s for s in manifest["slices"] if s["split"] == "test"]
    first = of_test[0]["patient"]
    for s in of_test:  # one patient's scan was taken every second slice
        s["index"] *= 2 if s["patient"] == first else 1
    write_json(place, manifest)
    scores = evaluate_run(tmp_path / "own" / "run", references=()).volumes
    assert scores is not None and {one["patient"] for one in scores.volumes[MODEL]} == {
        s["patient"] for s in of_test
    } - {first}
    assert "Left out: 2 volumes whose slices have gaps." in scores.notes
    for s in of_test:
        del s["index"]
    write_json(place, manifest)
    scores = evaluate_run(tmp_path / "own" / "run", references=()).volumes
    assert scores is not None and scores.results == {}
    assert "does not tell where" in volume_table(scores)
    assert write_volume_scores(tmp_path / "own" / "run" / "test", scores) == ()


def test_the_command_writes_the_table_of_volumes_beside_that_of_slices(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(own / "run"), "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    assert printed.index("TPSNR") < printed.index("Volumes, inside the body") < printed.index("MS-SSIM ↑")
    content = json.loads((own / "run" / "test" / "volumes.json").read_text(encoding="utf-8"))
    assert {row["arm"] for row in content["rows"]} == {MODEL} and len(content["volumes"]) == 4
    for name in ("volumes.md", "volumes.csv", "volumes.tex"):
        assert "MS-SSIM" in (text := (own / "run" / "test" / name).read_text(encoding="utf-8")) or "ms_ssim" in text
    assert main(["evaluate", str(own / "run"), "--compare", str(own / "run"), "--device", "cpu"]) == 0
    table = capsys.readouterr().out.partition("Volumes, inside the body")[2]
    assert "difference" in table and "fewer than 10 patients" in table


# -- folders of volumes ------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Three CTs of HU with oblique axes and voxels of three sides, what was made of them, bodies and lesions."""
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    rng = np.random.default_rng(0)
    angle = 0.2
    direction = (math.cos(angle), -math.sin(angle), 0, math.sin(angle), math.cos(angle), 0, 0, 0, 1)
    for folder in ("real", "fake", "body", "lesion"):
        (tmp_path / folder).mkdir()
    z, y, x = np.mgrid[0:8, 0:32, 0:30]
    body, lesion = np.hypot(y - 16, x - 15) < 12, np.hypot(y - 12, x - 15) < 3
    for number in range(3):
        real = np.where(body, 40.0 + z + x, -1000.0) + 30 * number * lesion
        arrays = {"real": real, "fake": real + body * rng.normal(10, 20, real.shape), "body": body, "lesion": lesion}
        for folder, array in arrays.items():
            image = sitk.GetImageFromArray(array.astype(np.uint8 if array.dtype == bool else np.float32))
            image.SetSpacing((0.9, 1.1, 3.0))
            image.SetOrigin((-20.0, 7.0, 100.0))
            image.SetDirection(direction)
            ending = {"real": "nii.gz", "fake": "mha", "body": "nrrd", "lesion": "nii.gz"}[folder]
            sitk.WriteImage(image, str(tmp_path / folder / f"p{number}.{ending}"))
    return tmp_path


def _read(path: Path) -> np.ndarray:
    import SimpleITK as sitk

    return np.asarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))))


def test_folders_of_volumes_are_scored_as_synthrad_does(folders: Path) -> None:
    seen: list[Any] = []
    scores = evaluate_volume_folders(
        folders / "real",
        folders / "fake",
        body=folders / "body",
        masks=folders / "lesion",
        region="lesion",
        plugins=[
            plugin(lambda masks, spacing_mm: seen.append((masks, spacing_mm)) or {"lesions": masks["lesion"].sum()})
        ],
    )
    for number, one in enumerate(scores.volumes["generated"]):
        real, fake, body = (
            _read(folders / folder / f"p{number}.{ending}").astype(np.float64)
            for folder, ending in (("real", "nii.gz"), ("fake", "mha"), ("body", "nrrd"))
        )
        inside = body > 0
        assert one["scores"]["volume_mae"] == pytest.approx(np.abs(real - fake)[inside].mean())
        expected = peak_signal_noise_ratio(real[inside], fake[inside], data_range=4095)
        assert one["scores"]["volume_psnr"] == pytest.approx(expected)
        assert one["scores"]["volume_ms_ssim"] == pytest.approx(ms_ssim(real, fake, inside, -1024, 3071))
        assert one["scores"]["lesions"] == _read(folders / "lesion" / f"p{number}.nii.gz").sum()
        assert seen[number][1] == pytest.approx((3.0, 1.1, 0.9)) and set(seen[number][0]) == {"body", "lesion"}
    text = volume_table(volumes_with_certainty(scores))
    assert "In HU; PSNR and MS-SSIM on values clipped to [-1024, 3071], the peak is 4095. The body: as given." in text
    assert "lesions" in text


def test_without_a_body_it_is_found_as_prepare_finds_it(folders: Path) -> None:
    given, found = (
        evaluate_volume_folders(folders / "real", folders / "fake", body=body) for body in (folders / "body", None)
    )
    assert [one["scores"] for one in given.volumes["generated"]] == [
        {key: pytest.approx(value) for key, value in one["scores"].items()} for one in found.volumes["generated"]
    ]
    assert any("found in the real volume" in note for note in found.notes)


def test_a_volume_stored_along_other_axes_is_the_same_volume(folders: Path) -> None:
    import SimpleITK as sitk

    before = evaluate_volume_folders(folders / "real", folders / "fake").volumes
    for path in sorted((folders / "fake").iterdir()):
        image = sitk.ReadImage(str(path))
        sitk.WriteImage(sitk.Flip(image, (True, False, True)), str(path))
    after = evaluate_volume_folders(folders / "real", folders / "fake").volumes
    for one, other in zip(before["generated"], after["generated"], strict=True):
        assert other["scores"] == {key: pytest.approx(value) for key, value in one["scores"].items()}


def _moved(image: Any, sitk: Any) -> Any:
    image.SetOrigin((-20.0, 9.0, 100.0))
    return image


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_moved, r"up to 2\.0 mm from those of p1\.nii\.gz"),
        (lambda image, sitk: image[:, :, 1:], r"has 30 x 32 x 8, p1\.mha 30 x 32 x 7"),
        (lambda image, sitk: image * float("nan"), "NaN or infinite"),
    ],
)
def test_a_volume_on_another_grid_or_not_finite_is_refused_by_name(
    change: Callable[[Any, Any], Any], message: str, folders: Path
) -> None:
    import SimpleITK as sitk

    path = folders / "fake" / "p1.mha"
    sitk.WriteImage(change(sitk.ReadImage(str(path)), sitk), str(path))
    with pytest.raises(DataError, match=message):
        evaluate_volume_folders(folders / "real", folders / "fake")


def test_volumes_that_are_no_hu_are_refused_until_their_range_is_given(folders: Path) -> None:
    import SimpleITK as sitk

    for path in (folders / "real").iterdir():
        sitk.WriteImage((sitk.ReadImage(str(path)) + 1000) / 1100, str(path))
    for path in (folders / "fake").iterdir():
        sitk.WriteImage((sitk.ReadImage(str(path)) + 1000) / 1100, str(path))
    with pytest.raises(DataError):
        evaluate_volume_folders(folders / "real", folders / "fake")
    scores = evaluate_volume_folders(folders / "real", folders / "fake", value_range=(0.0, 1.0))
    real, fake, body = (
        _read(folders / f / f"p0.{e}") for f, e in (("real", "nii.gz"), ("fake", "mha"), ("body", "nrrd"))
    )
    expected = peak_signal_noise_ratio(
        np.clip(real[body > 0], 0, 1).astype(np.float64), np.clip(fake[body > 0], 0, 1).astype(np.float64), data_range=1
    )
    assert scores.volumes["generated"][0]["scores"]["volume_psnr"] == pytest.approx(expected)
    assert any("clipped to [0, 1], the peak is 1" in note for note in scores.notes)
    with pytest.raises(ConfigError, match="two rising numbers"):
        evaluate_volume_folders(folders / "real", folders / "fake", value_range=(1.0, 0.0))


def test_names_must_be_in_all_folders(folders: Path) -> None:
    (folders / "fake" / "p2.mha").unlink()
    with pytest.raises(DataError, match="`fake` must hold the names of `real`, 3 of them; it lacks p2"):
        evaluate_volume_folders(folders / "real", folders / "fake")
    with pytest.raises(DataError, match="`fake` must be a folder of volumes"):
        evaluate_volume_folders(folders / "real", folders / "nowhere")


def test_a_plugins_column_may_not_take_the_name_of_ours(folders: Path) -> None:
    with pytest.raises(PluginError, match="'volume_mae', which is taken"):
        evaluate_volume_folders(folders / "real", folders / "fake", plugins=[plugin(lambda real: {"volume_mae": 1.0})])


def test_the_command_prints_writes_and_compares(folders: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["evaluate", "--volumes", "--real", str(folders / "real"), "--fake", str(folders / "fake")]
    assert main([*given, "--body", str(folders / "body"), "--out", str(folders / "scores")]) == 0
    printed = capsys.readouterr().out
    assert "clipped to [-1024, 3071]" in printed and "MS-SSIM ↑" in printed
    assert read_volume_scores(folders / "scores") is not None
    again = [*given, "--out", str(folders / "again"), "--compare", str(folders / "scores")]
    assert main(again) == 0
    assert "difference" in capsys.readouterr().out
    assert main([*given, "--out", str(folders / "scores")]) == 2
    assert "`out` must be a new or empty folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["RUN", "--body", "x"], "takes RUN or folders"),
        (["--real", "a", "--fake", "b", "--out", "c", "--body", "x"], "`--body` must go with --volumes"),
        (["--volumes", "--real", "a", "--fake", "b", "--out", "c", "--sigma", "x"], "got --sigma"),
        (["--volumes", "--real", "a", "a", "--fake", "b", "--out", "c"], "`--real` must be one"),
        (["--volumes"], "must have RUN"),
    ],
)
def test_a_mistake_is_one_line(options: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *options]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


def test_intervals_stand_in_the_table_of_volumes(folders: Path) -> None:
    scores = volumes_with_certainty(evaluate_volume_folders(folders / "real", folders / "fake"))
    assert all(scores.results["generated"]["A2B"]["mean"]["intervals"].values())
