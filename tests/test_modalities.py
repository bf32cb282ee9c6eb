"""Any two modalities: what the list's words mean, what is in HU, and that nothing but the words is CT and MR."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi_progressive.cli.main import main
from roi_progressive.data.hounsfield import looks_like_hounsfield
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.volume_list import read_volume_list
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.saving.names import Domains

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')

Z, Y, X = np.mgrid[:8, :40, :40] * np.array([3.0, 2.0, 2.0]).reshape(3, 1, 1, 1)
BODY = ((X - 39) / 30) ** 2 + ((Y - 39) / 34) ** 2 < 1
TUMOR = np.hypot(X - 50, Y - 36) < 9
T1 = np.where(TUMOR, 90.0, np.where(BODY, 200.0 + X, 0.0))
FLAIR = np.where(TUMOR, 800.0, np.where(BODY, 300.0 + 2 * Y, 0.0))
CT = np.where(TUMOR, 120.0, np.where(BODY, 40.0, -1000.0))


def write(path: Path, values, shift=(0.0, 0.0, 0.0)) -> None:
    image = sitk.GetImageFromArray(np.asarray(values, dtype=np.uint8 if values.dtype == bool else np.float32))
    image.SetSpacing((2.0, 2.0, 3.0))
    image.SetOrigin(shift)
    sitk.WriteImage(image, str(path))


def table(folder: Path, rows, columns=("patient", "modality", "image", "tumor")) -> Path:
    with open(folder / "scans.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "scans.csv"


@pytest.fixture
def brains(tmp_path: Path) -> Path:
    """Five patients with a T1 and a FLAIR each."""
    for name, values in (("t1", T1), ("flair", FLAIR), ("tumor", TUMOR)):
        write(tmp_path / f"{name}.nii.gz", values)
    rows = [(f"p{i}", word, f"{word.lower()}.nii.gz", "tumor.nii.gz") for i in range(5) for word in ("T1", "FLAIR")]
    return table(tmp_path, rows)


def first_picture(folder: Path):
    with Image.open(min(folder.iterdir())) as image:
        return np.array(image)


SMALL = PrepareOptions(size_px=32, slices_each_side=1, domains=("T1", "FLAIR"))


def test_two_mrs_become_the_domains_that_their_user_names(brains: Path, tmp_path: Path) -> None:
    report = prepare(brains, tmp_path / "out", SMALL)
    manifest = report.manifest
    assert manifest["domains"] == {"A": "T1", "B": "FLAIR"} and report.problems == []
    assert {(entry["domain"], entry["modality"]) for entry in manifest["slices"]} == {("A", "T1"), ("B", "FLAIR")}
    assert {entry["intensity"]["unit"] for entry in manifest["slices"]} == {"source"}
    # Each by percentiles of its own body: dark tumour in one, bright in the other.
    grey = {domain: first_picture(report.out / f"train{domain}") for domain in "AB"}
    mask = first_picture(report.out / "trainA_tumor") > 0
    assert grey["A"][mask].mean() < 20 and grey["B"][mask].mean() > 240


def test_without_a_column_of_phases_slices_are_of_the_phase_all(brains: Path, tmp_path: Path) -> None:
    report = prepare(brains, tmp_path / "out", SMALL)
    assert report.manifest["phases"] == ["all"]
    assert all(entry["name"].startswith(f"{entry['patient']}_all_") for entry in report.manifest["slices"])


@pytest.mark.parametrize("swapped", [False, True])
def test_b_is_brought_onto_the_grid_of_a_whatever_they_are(brains: Path, tmp_path: Path, swapped: bool) -> None:
    write(tmp_path / "flair.nii.gz", FLAIR, shift=(4.0, 0.0, 0.0))
    names = ("FLAIR", "T1") if swapped else ("T1", "FLAIR")
    options = PrepareOptions(size_px=32, slices_each_side=1, domains=names, align=True)
    slices = prepare(brains, tmp_path / "out", options).manifest["slices"]
    a, b = (next(e for e in slices if e["domain"] == d and e["patient"] == "p0") for d in "AB")
    assert (a["modality"], b["modality"]) == names and a["name"] == b["name"] and a["square_px"] == b["square_px"]


def test_a_missing_half_of_a_pair_is_named_by_its_domain(brains: Path, tmp_path: Path) -> None:
    brains.write_text(
        brains.read_text(encoding="utf-8").replace("p4,FLAIR,flair.nii.gz,tumor.nii.gz\n", ""), encoding="utf-8"
    )
    report = prepare(brains, tmp_path / "out", PrepareOptions(size_px=32, domains=("T1", "FLAIR"), align=True))
    assert report.problems == ["line 10 (p4 T1): has no FLAIR of the same patient and phase to align with"]


def test_each_domain_is_standardised_by_its_own_scale(brains: Path, tmp_path: Path) -> None:
    options = PrepareOptions(
        size_px=32, domains=("T1", "FLAIR"), mr_steps=("standardise", "clip", "zscore"), slices_each_side=1
    )
    standard = prepare(brains, tmp_path / "out", options).manifest["mr_standard"]
    assert set(standard["landmarks"]) == {"A", "B"} and standard["landmarks"]["A"] != standard["landmarks"]["B"]
    for domain, world in (("A", T1), ("B", FLAIR)):
        deciles = np.percentile(world[BODY].astype(np.float32).astype(np.float64), standard["percentiles"])
        right = (deciles - deciles[0]) / (deciles[-1] - deciles[0]) * 100
        np.testing.assert_allclose(standard["landmarks"][domain], right, atol=1.0)


def test_two_scanners_are_told_apart_by_their_names_and_hu_by_an_option(tmp_path: Path) -> None:
    write(tmp_path / "ct.nii.gz", CT)
    rows = [(f"p{i}", scanner, "ct.nii.gz") for i in range(2) for scanner in ("Siemens CT", "GE CT")]
    listed = table(tmp_path, rows, ("patient", "modality", "image"))
    options = PrepareOptions(size_px=32, domains=("Siemens CT", "GE CT"), hounsfield=("Siemens CT", "GE CT"))
    report = prepare(listed, tmp_path / "out", options)
    entry = report.manifest["slices"][0]
    assert entry["intensity"] == {"a": 400 / 255, "b": -160.0, "unit": "HU"}
    unsaid = prepare(listed, tmp_path / "unsaid", PrepareOptions(size_px=32, domains=("Siemens CT", "GE CT")))
    assert unsaid.manifest["slices"][0]["intensity"]["unit"] == "source"
    assert any("--in-hu GE CT" in note for note in unsaid.notes)


def test_a_ct_that_is_not_said_to_be_in_hu_is_noticed_by_its_values(tmp_path: Path) -> None:
    fat = np.where(np.hypot(X - 39, Y - 39) < 10, -100.0, CT)
    assert looks_like_hounsfield(fat)
    padded = np.where(BODY, T1, -1000.0)  # an MR after registration
    assert not looks_like_hounsfield(padded) and not looks_like_hounsfield(T1)
    z_scored = np.where(BODY, (T1 - 200) / 50, -1000.0)
    assert not looks_like_hounsfield(z_scored)
    write(tmp_path / "one.nii.gz", fat)
    rows = [("p", "scanner 1", "one.nii.gz"), ("p", "scanner 2", "one.nii.gz")]
    listed = table(tmp_path, rows, ("patient", "modality", "image"))
    notes = prepare(listed, tmp_path / "out", PrepareOptions(size_px=32, domains=("scanner 1", "scanner 2"))).notes
    assert sum("looks like a CT in HU" in note for note in notes) == 2


def test_a_cone_beam_ct_counts_as_ct_unless_a_domain_bears_its_name(tmp_path: Path) -> None:
    listed = table(tmp_path, [("p", "CBCT", "a.nii"), ("q", "CT", "b.nii")], ("patient", "modality", "image"))
    assert [row.domain for row in read_volume_list(listed).rows] == ["A", "A"]
    assert [row.domain for row in read_volume_list(listed, Domains("CBCT", "CT")).rows] == ["A", "B"]
    assert all(row.in_hounsfield for row in read_volume_list(listed, Domains("CBCT", "CT")).rows)
    assert not any(row.in_hounsfield for row in read_volume_list(listed, hounsfield=()).rows)


def test_words_are_taken_in_capitals_or_not_and_spelled_as_the_domains_are(tmp_path: Path) -> None:
    listed = table(tmp_path, [("p", "t1", "a.nii"), ("p", "Flair", "b.nii")], ("patient", "modality", "image"))
    rows = read_volume_list(listed, Domains("T1", "FLAIR")).rows
    assert [(row.modality, row.domain) for row in rows] == [("T1", "A"), ("FLAIR", "B")]


def test_without_regions_slices_come_from_the_middle_of_the_body(tmp_path: Path) -> None:
    write(tmp_path / "t1.nii.gz", T1)
    rows = [(f"p{i}", word, "t1.nii.gz") for i in range(2) for word in ("T1", "FLAIR")]
    report = prepare(table(tmp_path, rows, ("patient", "modality", "image")), tmp_path / "out", SMALL)
    assert report.manifest["regions"] == [] and {e["index"] for e in report.manifest["slices"]} == {3, 4, 5}
    assert sorted(path.name for path in report.out.iterdir() if path.is_dir()) == sorted(
        f"{split}{domain}" for split in ("train", "val", "test") for domain in "AB"
    )
    assert (report.out / "contact_sheet_train.png").is_file()
    assert sum("no column of a region" in note for note in report.notes) == 1
    assert not any("has no mask" in note for note in report.notes)


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd", ".nhdr"])
def test_nrrd_and_meta_image_files_give_the_pixels_of_nifti(tmp_path: Path, ending: str) -> None:
    pixels = []
    for folder, kind in (("nifti", ".nii.gz"), ("other", ending)):
        place = tmp_path / folder
        place.mkdir()
        for name, values in (("ct", CT), ("tumor", TUMOR)):
            write(place / f"{name}{kind}", values)
        listed = table(place, [("p", "CT", f"ct{kind}", f"tumor{kind}#1")])
        prepare(listed, place / "out", PrepareOptions(size_px=32, split=(1, 0, 0)))
        pixels.append({p.relative_to(place): p.read_bytes() for p in sorted(place.glob("out/train*/*.png"))})
    assert pixels[0] == pixels[1] and len(pixels[0]) == 10


MISTAKES = {
    "a word of neither domain": (
        "p,T2,i,t\n",
        ("T1", "FLAIR"),
        r"line 3, column `modality` must be T1 or FLAIR; got 'T2'; correct it.*the column has T1, T2",
    ),
    "a typo in the domains": (
        "p,FLAIR,i,t\n",
        ("T1", "FLIAR"),
        r"line 3, .*must be T1 or FLIAR; got 'FLAIR'; did you mean 'FLIAR'\?.*`--domains` \(the column has T1, FLAIR\)",
    ),
    "a volume twice": (
        "p,T1,j,t\n",
        ("T1", "FLAIR"),
        r"line 3 repeats p T1 of line 2 \(columns `patient`, `modality`\); tell them apart in a column `phase`",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_row_that_is_of_no_domain_is_named_with_the_words_that_are_known(tmp_path: Path, mistake: str) -> None:
    row, names, words = MISTAKES[mistake]
    (tmp_path / "scans.csv").write_text(f"patient,modality,image,tumor\np,T1,i,t\n{row}", encoding="utf-8")
    with pytest.raises(DataError, match=words) as caught:
        read_volume_list(tmp_path / "scans.csv", Domains(*names))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("T1", "t1"), "two different names"),
        (("T1", ""), "`domains` must be names of up to 40"),
        (("T1", "=cmd|x"), "`domains` must be names"),
        (("T1", "a\nb"), "`domains` must be names"),
        (("T1",), "two of them"),
        ("CT", "`domains`"),
    ],
)
def test_domains_have_two_names_that_are_plain_text(names, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        PrepareOptions(domains=names)


def test_a_word_in_hu_that_no_row_may_have_is_an_error(tmp_path: Path) -> None:
    listed = table(tmp_path, [("p", "T1", "a.nii")], ("patient", "modality", "image"))
    with pytest.raises(DataError, match=r"`hounsfield` must be of T1, FLAIR; got 'Flare'; did you mean 'FLAIR'"):
        read_volume_list(listed, Domains("T1", "FLAIR"), ("Flare",))


def test_the_command_names_the_domains_on_its_contact_sheet_and_in_its_mistakes(
    brains: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = str(tmp_path / "out")
    assert main(["prepare", str(brains), out, "--size", "32", "--domains", "T1", "FLAIR", "--in-hu"]) == 0
    assert json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))["domains"] == {
        "A": "T1",
        "B": "FLAIR",
    }
    capsys.readouterr()
    assert main(["prepare", str(brains), str(tmp_path / "again")]) == 2
    assert (
        capsys.readouterr()
        .err.splitlines()[-1]
        .startswith("roi-progressive: error: `manifest` line 2, column `modality` must be CT or MR, or CBCT; got 'T1'")
    )
    assert not (tmp_path / "again").exists()
