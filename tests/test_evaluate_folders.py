"""Folders of anybody's images give the table that their masked pixels give by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from roi_progressive.cli.main import main
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.evaluation.file_pairs import pairs_from_files
from roi_progressive.runs.evaluate import PATIENTS_UNKNOWN, evaluate_folders

NAMES = [f"{patient}_{phase}_{k:03d}" for phase in ("ART", "PV") for patient in ("p1", "p2", "p3") for k in range(2)]
WITHOUT = "p2_PV_001"
HU_PER_GREY = 400 / 255


@pytest.fixture(autouse=True)
def no_weights_in_torchs_cache(tmp_path: Path) -> Any:
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield
    torch.hub.set_dir(before)


@pytest.fixture
def arrays() -> dict[str, tuple[Any, Any, Any]]:
    """Real, generated and mask by name, 40 px; one slice shows no region."""
    rng = np.random.default_rng(0)
    made = {}
    for name in NAMES:
        real = rng.integers(0, 256, (40, 40), dtype=np.uint8)
        fake = np.clip(real + rng.normal(0, 20, real.shape), 0, 255).astype(np.uint8)
        mask = np.zeros(real.shape, dtype=bool)
        mask[5 : 12 + len(made), 8:20] = name != WITHOUT
        made[name] = (real, fake, mask)
    return made


@pytest.fixture
def folders(arrays: dict[str, tuple[Any, Any, Any]], tmp_path: Path) -> Path:
    for name, (real, fake, mask) in arrays.items():
        for folder, values in (("real", real), ("fake", fake), ("masks", mask.astype(np.uint8) * 255)):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(tmp_path / folder / f"{name}.png")
    return tmp_path


def test_the_organ_bounds_what_a_lesion_is_compared_with(folders: Path, tmp_path: Path) -> None:
    organs = tmp_path / "organs"
    organs.mkdir()
    for path in (folders / "masks").iterdir():
        organ = np.zeros((40, 40), dtype=np.uint8)
        organ[:, :30] = 255
        Image.fromarray(organ).save(organs / path.name)
    given = (folders / "real", folders / "fake", folders / "masks")
    for pair in pairs_from_files(*given, organs=organs):
        assert pair.organ is not None and pair.organ.sum() == 40 * 30 and pair.organ[:, :30].all()
    assert next(iter(pairs_from_files(*given))).organ is None
    next(organs.iterdir()).unlink()
    with pytest.raises(DataError, match="`organs` must hold the names of `real`"):
        pairs_from_files(*given, organs=organs)


def manifest(folder: Path, unit: str = "HU", domain: str = "A", **changes: Any) -> Path:
    slices = [
        {
            "name": name,
            "patient": f"Patient {name[:2]}",
            "phase": name.split("_")[1],
            "domain": domain,
            "intensity": {"a": HU_PER_GREY, "b": -160.0, "unit": unit},
            **changes,
        }
        for name in NAMES
    ]
    (folder / "manifest.json").write_text(json.dumps({"slices": slices}), encoding="utf-8")
    return folder / "manifest.json"


def evaluate(folder: Path, *more: str, out: str = "out") -> int:
    given = [f"--{name}={folder / name}" for name in ("real", "fake", "masks")]
    return main(["evaluate", *given, "--out", str(folder / out), *more])


def read(folder: Path, out: str = "out") -> Any:
    return json.loads((folder / out / "metrics.json").read_text(encoding="utf-8"))


def test_every_row_and_slice_is_what_scikit_image_and_counting_give(
    folders: Path, arrays: dict[str, tuple[Any, Any, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folders) == 0
    content, of_patient = read(folders), dict[str, list[float]]()
    assert [one["name"] for one in content["slices"]] == sorted(f"{name}.png" for name in NAMES)
    for one in content["slices"]:
        real, fake, mask = arrays[one["name"].removesuffix(".png")]
        _, similarity = structural_similarity(real, fake, data_range=255, full=True)
        assert one["psnr"] == pytest.approx(peak_signal_noise_ratio(real, fake, data_range=255), abs=1e-9)
        assert one["ssim"] == pytest.approx(structural_similarity(real, fake, data_range=255), abs=1e-9)
        if not mask.any():
            assert one["tpsnr"] is one["tssim"] is None and one["reasons"]["tpsnr"] == "no region in the slice"
            continue
        error = real[mask].astype(float) - fake[mask]
        assert one["tpsnr"] == pytest.approx(10 * math.log10(255**2 / np.mean(error**2)), abs=1e-9)
        assert one["tssim"] == pytest.approx(similarity[mask].mean(), abs=1e-9)
        of_patient.setdefault(f"{one['phase']} {one['patient']}", []).append(one["tpsnr"])
    rows = {row["phase"]: row for row in content["rows"]}
    assert list(rows) == ["ART", "PV", "mean"]
    for phase in ("ART", "PV"):
        expected = np.mean([np.mean(of_patient[f"{phase} {patient}"]) for patient in ("p1", "p2", "p3")])
        assert rows[phase]["tpsnr"] == pytest.approx(expected)
        low, high = rows[phase]["intervals"]["tpsnr"]
        assert low < rows[phase]["tpsnr"] < high
    assert (rows["PV"]["n_slices"], rows["PV"]["n_region_slices"], rows["PV"]["n_without_region"]) == (6, 5, 1)
    assert rows["mean"]["lpips"] is None and "no weights" in rows["mean"]["reasons"]["lpips"]
    shown = capsys.readouterr().out
    assert "generated" in shown and "TPSNR" in shown and "MAE HU" not in shown
    assert {path.name for path in (folders / "out").iterdir()} == {
        "table.md",
        "table.csv",
        "table.tex",
        "slices.csv",
        "patients.csv",
        "written.json",
        "metrics.json",
    }


def test_a_manifest_tells_patients_and_hu(folders: Path, arrays: dict[str, tuple[Any, Any, Any]]) -> None:
    assert evaluate(folders, "--manifest", str(manifest(folders)), "--direction", "B2A") == 0
    content = read(folders)
    for one in content["slices"]:
        real, fake, mask = arrays[one["name"].removesuffix(".png")]
        in_hu = [image * HU_PER_GREY - 160.0 for image in (real.astype(float), fake.astype(float))]
        assert one["mae_hu"] == pytest.approx(np.abs(in_hu[0] - in_hu[1]).mean())
        if mask.any():
            assert one["region_mae_hu"] == pytest.approx(np.abs(in_hu[0] - in_hu[1])[mask].mean())
    assert {one["patient"] for one in content["slices"]} == {"Patient p1", "Patient p2", "Patient p3"}
    assert "MAE HU" in (folders / "out" / "table.md").read_text(encoding="utf-8")


def test_an_mr_has_no_error_in_hu(folders: Path) -> None:
    for out, path in (("mr", manifest(folders, domain="B")), ("unit", manifest(folders, unit="source"))):
        assert evaluate(folders, "--manifest", str(path), "--direction", "B2A", out=out) == 0
        [first, *_] = read(folders, out)["slices"]
        assert first["mae_hu"] is None and "no map" in first["reasons"]["mae_hu"]


def test_two_directions_stand_in_one_table(folders: Path) -> None:
    twice = [str(folders / name) for name in ("real", "fake")]
    arguments = ["--real", *twice, "--fake", *twice[::-1], "--masks", *[str(folders / "masks")] * 2]
    assert main(["evaluate", *arguments, "--direction", "A2B", "B2A", "--out", str(folders / "out")]) == 0
    rows = {(row["direction"], row["phase"]): row["psnr"] for row in read(folders)["rows"]}
    assert len(rows) == 6 and rows["A2B", "mean"] == pytest.approx(rows["B2A", "mean"])


def test_deep_images_score_as_their_eight_bit_copies(folders: Path) -> None:
    eight = evaluate_folders([folders / "real"], [folders / "fake"], [folders / "masks"]).slices["generated"]
    for path in (folders / "fake").iterdir():
        values = np.array(Image.open(path))
        path.unlink()
        np.save(path.with_suffix(".npy"), values / 127.5 - 1.0)
    for path in (folders / "real").iterdir():
        Image.fromarray(np.array(Image.open(path)).astype(np.uint16) * 257).save(path)
    deep = evaluate_folders([folders / "real"], [folders / "fake"], [folders / "masks"]).slices["generated"]
    for one, other in zip(eight, deep, strict=True):
        for key in ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio"):
            assert one["scores"][key] == pytest.approx(other["scores"][key], abs=1e-9)


def test_names_without_patients_make_every_image_its_own_and_say_so(folders: Path) -> None:
    for folder in ("real", "fake", "masks"):
        for k, path in enumerate(sorted((folders / folder).iterdir())):
            path.rename(path.with_name(f"{k}.png"))
    assert evaluate(folders) == 0
    content = read(folders)
    assert content["notes"] == [PATIENTS_UNKNOWN] and content["rows"][0]["n_patients"] == len(NAMES)
    assert PATIENTS_UNKNOWN in (folders / "out" / "table.md").read_text(encoding="utf-8")
    for folder in ("real", "fake", "masks"):
        (folders / folder / "0.png").rename(folders / folder / "p1_ART_000.png")
    with pytest.raises(DataError, match=r"`real` must name all images .* or none; .* has 1 among 1 that are"):
        pairs_from_files(folders / "real", folders / "fake", folders / "masks")


def test_nothing_is_overwritten_unless_forced_and_then_only_ours(
    folders: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(folders) == 0
    (folders / "out" / "letter.txt").write_text("mine", encoding="utf-8")
    before = {path.name: path.stat().st_mtime_ns for path in (folders / "out").iterdir()}
    assert evaluate(folders, "--seed", "1") == 2
    assert "--force" in capsys.readouterr().err
    assert {path.name: path.stat().st_mtime_ns for path in (folders / "out").iterdir()} == before
    assert evaluate(folders, "--force", "--compare", str(folders / "out")) == 0
    assert (folders / "out" / "letter.txt").read_text(encoding="utf-8") == "mine"
    [row] = [row for row in read(folders)["rows"] if row["arm"] == "difference" and row["phase"] == "mean"]
    assert row["tpsnr"] == 0.0 and row["intervals"]["tpsnr"] == [0.0, 0.0]


def test_folders_that_do_not_fit_are_said_by_name(folders: Path) -> None:
    real, fake, masks = (folders / name for name in ("real", "fake", "masks"))
    with pytest.raises(ConfigError, match="got 1 for --real, 2 for --fake"):
        evaluate_folders([real], [fake, fake], [masks])
    with pytest.raises(ConfigError, match="each another"):
        evaluate_folders([real] * 2, [fake] * 2, [masks] * 2, directions=("A2B", "A2B"))
    path = manifest(folders)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({"slices": content["slices"][1:]}), encoding="utf-8")
    with pytest.raises(DataError, match=rf"`manifest` must list every image; .* lacks {NAMES[0]} and 0 more of 12"):
        pairs_from_files(real, fake, masks, manifest=path)
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(fake / f"{NAMES[0]}.png")
    with pytest.raises(DataError, match=r"must have the size of the real image, 40 x 40 px; got 9 x 8 px"):
        list(pairs_from_files(real, fake, masks))
    (fake / f"{NAMES[0]}.png").unlink()
    with pytest.raises(DataError, match=rf"`fake` must hold the names .* lacks {NAMES[0]} \(missing 1, extra 0\)"):
        pairs_from_files(real, fake, masks)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        ({"intensity": {"unit": "HU"}}, "it has no `a`"),
        ({"intensity": {"unit": "HU", "a": 0}}, "the factor 0 to HU"),
        ({"intensity": 3}, "`intensity` is a whole number, not a table"),
        ({"name": NAMES[0], "phase": "x"}, None),
    ],
)
def test_a_manifest_that_cannot_be_used_is_said(spoil: dict[str, Any], said: str | None, folders: Path) -> None:
    path = manifest(folders, **spoil)
    if said is None:  # the same name, with another phase
        slices = json.loads(path.read_text(encoding="utf-8"))["slices"]
        path.write_text(json.dumps({"slices": [*slices, {**slices[0], "phase": "y"}]}), encoding="utf-8")
        said = "the patients and phases"
    with pytest.raises(DataError, match=f"must be a data set's manifest; .*{said}"):
        pairs_from_files(*(folders / name for name in ("real", "fake", "masks")), direction="B2A", manifest=path)
