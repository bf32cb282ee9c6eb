"""The recipes of ``docs/collections.md``, each on a small folder that was made up in the collection's layout."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from roi_progressive.cli.main import main

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra `medical` is not installed")

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "collections.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", PAGE, flags=re.MULTILINE | re.DOTALL))
SIZE_PX, SLICES = 40, 10
Array = npt.NDArray[Any]


def body(number: int) -> tuple[Array, Array]:
    """A body in air and a lump in it, bool ``[z, y, x]``; each patient's lies elsewhere."""
    z, y, x = np.mgrid[0:SLICES, 0:SIZE_PX, 0:SIZE_PX]
    middle = SIZE_PX / 2
    inside = np.hypot(y - middle, x - middle) < 0.42 * SIZE_PX
    lump = np.hypot(np.hypot(y - middle + 4, x - middle - number % 4), 2 * (z - SLICES / 2)) < 5
    return inside, lump


def scan(number: int, air: float, tissue: float, lump_adds: float, zero_outside: bool = False) -> Array:
    inside, lump = body(number)
    noise = np.random.default_rng(number).normal(0, 4, inside.shape)
    values = np.where(inside, tissue + lump_adds * lump + noise, air)
    return np.asarray(np.where(inside, values, 0) if zero_outside else values, np.float32)


def write(path: Path, array: Array) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((2.0, 2.0, 4.0))
    sitk.WriteImage(image, str(path))


def write_pictures(folder: Path, drawn: Array, names: list[str]) -> None:
    folder.mkdir(parents=True)
    for plane, name in zip(drawn, names, strict=True):
        Image.fromarray(plane.astype(np.uint8)).save(folder / name)


# --- the layouts ------------------------------------------------------------------------------------------------------


def chaos(root: Path) -> None:
    """CTs are stored from the head down and so lie in space the other way round than by their names."""
    import scans

    positions = np.array([[-40.0, -40.0, 4.0 * n] for n in range(SLICES)])
    for number in range(1, 6):
        lump = body(number)[1]
        ct, mr = scan(number, -1000, 40, 80), scan(number, 2, 300, 200)
        case = root / "Train_Sets" / "CT" / str(number)
        scans.write_series(
            case / "DICOM_anon", ct[::-1], positions[::-1], mm=(2, 2), name="i{:04d},0000b.dcm", series=f"1.{number}"
        )
        write_pictures(case / "Ground", lump[::-1] * 255, [f"liver_GT_{n:03d}.png" for n in range(SLICES)])
        case = root / "Train_Sets" / "MR" / str(number) / "T2SPIR"
        kinds = {"modality": "MR", "name": "IMG-0002-{:05d}.dcm", "series": f"2.{number}"}
        scans.write_series(case / "DICOM_anon", mr, positions, mm=(2, 2), **kinds)
        organs = np.where(lump, 63, 0) + np.where(np.roll(lump, 12, axis=2) & ~lump, 252, 0)  # and a spleen
        write_pictures(case / "Ground", organs, [f"IMG-0002-{n:05d}.png" for n in range(SLICES)])


def synthrad(root: Path, folder: str, stem: str, ending: str) -> None:
    for number in range(1, 6):
        case = root / folder / f"{stem}{number:03d}"
        write(case / f"ct{ending}", scan(number, -1000, 40, 80))
        write(case / f"mr{ending}", scan(number, 2, 300, 200))
        write(case / f"mask{ending}", body(number)[0].astype(np.uint8))
    (root / folder / "overview").mkdir()


def synthrad_2023(root: Path) -> None:
    synthrad(root, "Task1/pelvis", "1PA", ".nii.gz")


def synthrad_2025(root: Path) -> None:
    synthrad(root, "Task1/AB", "1ABA", ".mha")


def brats(root: Path) -> None:
    for number in range(5):
        for time_point in ("000", "001")[: 2 if number == 0 else 1]:
            name = f"BraTS-GLI-{number:05d}-{time_point}"
            _inside, lump = body(number)
            write(root / name / f"{name}-t1n.nii.gz", scan(number, 0, 300, -120, zero_outside=True))
            write(root / name / f"{name}-t2f.nii.gz", scan(number, 0, 200, 250, zero_outside=True))
            labels = np.where(lump, 2, 0)
            labels[:, ::2][lump[:, ::2]] = 1 if number else 3  # not every tumour has every part
            write(root / name / f"{name}-seg.nii.gz", labels.astype(np.uint8))


def sarcoma(root: Path) -> None:
    import scans

    positions = np.array([[-40.0, -40.0, 4.0 * n] for n in range(SLICES)])
    for number in range(1, 6):
        patient = root / "Soft-tissue-Sarcoma" / f"STS_{number:03d}"
        for kind, modality, values, description in (
            (1, "CT", scan(number, -1000, 40, 80), "CT IMAGES - RESEARCH"),
            (2, "MR", scan(number, 2, 300, 200), "AX T1"),
            (3, "MR", scan(number, 2, 100, 300), "AX T2 FS"),
        ):
            study = patient / ("09-07-2000-NA-PET CT-63929" if modality == "CT" else "09-02-2000-NA-MR-12345")
            folder = study / f"{kind}.000000-{description}-38601"
            uid, frame = f"{kind}.{number}", f"{scans.ROOT}8.{kind}"

            def describe(index: int, content: Any, description: str = description) -> None:
                content.SeriesDescription = description

            kinds = {"modality": modality, "series": uid, "frame": frame, "name": "1-{:03d}.dcm"}
            scans.write_series(folder, values, positions, mm=(2, 2), edit=describe, **kinds)
            contours = study / f"{kind}.500000-RTstruct-77278" / "1-1.dcm"
            contours.parent.mkdir()
            scans.write_rtstruct(contours, {"GTV_Edema": outlines(number), "GTV_Mass": outlines(number)}, frame)
            add_reference(contours, frame, f"{scans.ROOT}{uid}")


def outlines(number: int) -> list[tuple[str, Array]]:
    """A square around the lump in the slices that show it, in mm."""
    lines = []
    for n in range(3, 8):
        x, y, half = (2 * (SIZE_PX / 2 + number % 4) - 40, 2 * (SIZE_PX / 2 - 4) - 40, 8.0)
        corners = [(x - half, y - half), (x + half, y - half), (x + half, y + half), (x - half, y + half)]
        lines.append(("CLOSED_PLANAR", np.array([[*corner, 4.0 * n] for corner in corners])))
    return lines


def add_reference(path: Path, frame: str, series: str) -> None:
    import scans

    content = pydicom.dcmread(path)
    study = scans.item(RTReferencedSeriesSequence=[scans.item(SeriesInstanceUID=series)])
    content.ReferencedFrameOfReferenceSequence = [
        scans.item(FrameOfReferenceUID=frame, RTReferencedStudySequence=[study])
    ]
    content.save_as(path)


def liver_hcc_seg(root: Path) -> None:
    for number in range(1, 7):
        exam = root / "nifti_and_segms" / f"TCGA-BC-{number:04d}" / "01-31-2000"
        _inside, lump = body(number)
        for name, adds in (("art_pre", 20), ("art", 250), ("pre", 20), ("pv", 100)):
            write(exam / f"{name}.nii.gz", scan(number, 2, 300, adds))
        write(exam / "rater1_liver.nii.gz", (np.roll(lump, 2, axis=1) | lump).astype(np.uint8))
        if number < 6:  # one without a tumour
            upper = np.zeros_like(lump)
            upper[: SLICES // 2] = True
            write(exam / "rater1_tumor1.nii.gz", (lump & upper).astype(np.uint8))
            write(exam / "rater1_tumor2.nii.gz", (lump & ~upper).astype(np.uint8))


LAYOUTS: dict[str, tuple[Callable[[Path], None], int, tuple[str, ...]]] = {
    "CHAOS": (chaos, 10, ("liver",)),
    "SynthRAD 2023": (synthrad_2023, 5, ("outline",)),
    "SynthRAD 2025": (synthrad_2025, 5, ("outline",)),
    "BraTS": (brats, 5, ("tumor",)),
    "Soft-tissue-Sarcoma": (sarcoma, 5, ("tumor",)),
    "LiverHccSeg": (liver_hcc_seg, 5, ("liver", "tumor")),
}
"""Who writes a collection's layout, how many patients have a scan of it, and the regions."""


# --- the recipes ------------------------------------------------------------------------------------------------------


def test_every_recipe_is_tried_here() -> None:
    assert list(RECIPES) == list(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_recipe_takes_its_layout_to_slices_of_both_domains(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, patients, regions = LAYOUTS[name]
    make(tmp_path)
    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(r"```python\n(.*?)```", RECIPES[name], flags=re.DOTALL)
    exec(compile(source, f"the recipe of {name}", "exec"), {"__name__": "recipe"})
    (line,) = re.findall(r"```console\n(.*?)\n```", RECIPES[name], flags=re.DOTALL)
    command = shlex.split(line)[1:]
    assert main([*command, "--size", "32", "--strict"]) == 0, capsys.readouterr().err
    capsys.readouterr()
    with open("scans.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len({row["patient"] for row in rows}) == patients
    manifest = json.loads(Path("data/manifest.json").read_text(encoding="utf-8"))
    assert len({entry["patient"] for entry in manifest["slices"]}) == patients
    for domain in ("A", "B"):
        images = sorted(path.stem for path in Path(f"data/train{domain}").iterdir())
        assert images
        for region in regions:
            masks = sorted(Path(f"data/train{domain}_{region}").iterdir())
            assert [path.stem for path in masks] == images
            assert max(np.array(Image.open(path)).max() for path in masks) == 255


def test_a_livers_pictures_lie_on_the_slices_they_were_drawn_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The CT's files are named from the head down: by name alone the mask would stand on its head."""
    chaos(tmp_path)
    monkeypatch.chdir(tmp_path)
    (source,) = re.findall(r"```python\n(.*?)```", RECIPES["CHAOS"], flags=re.DOTALL)
    exec(compile(source, "the recipe of CHAOS", "exec"), {"__name__": "recipe"})
    for modality, inner in (("CT", ""), ("MR", "T2SPIR")):
        folder = tmp_path / "Train_Sets" / modality / "2" / inner / "DICOM_anon"
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
        image = sitk.GetArrayFromImage(reader.Execute())
        mask = sitk.GetArrayFromImage(sitk.ReadImage(f"masks/{modality}2.nii.gz")) > 0
        bright = image > (80 if modality == "CT" else 400)
        assert mask.sum() > 100 and (mask & bright).sum() > 0.98 * max(mask.sum(), bright.sum())
