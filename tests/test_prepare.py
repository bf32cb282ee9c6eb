"""From NIfTI files to a data set: a little world sampled on any grid, and real patients where they are at hand."""

from __future__ import annotations

import csv
import importlib.metadata
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi_progressive.cli.main import main
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.saving.records import read_json

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
TUMOR_MM = np.array([12.0, -6.0, 4.0])  # to the left, to the front, to the head
AXES = {"L": (0, 1), "R": (0, -1), "P": (1, 1), "A": (1, -1), "S": (2, 1), "I": (2, -1)}


def ct_world(x, y, z):
    """HU at points in LPS millimetres: a body with a spine behind and a tumour at the front left."""
    body = (x / 40) ** 2 + (y / 30) ** 2 < 1
    hu = np.where(body, 50.0 + x / 10, -1000.0)
    hu = np.where(np.hypot(x, y - 20) < 6, 900.0, hu)
    return np.where(tumor_world(x, y, z), 120.0, hu)


def mr_world(x, y, z):
    """MR signal of the same anatomy: the tumour bright, the spine black."""
    body = (x / 40) ** 2 + (y / 30) ** 2 < 1
    signal = np.where(body, 300.0 + 3 * x, 0.0)
    signal = np.where(np.hypot(x, y - 20) < 6, 0.0, signal)
    return np.where(tumor_world(x, y, z), 900.0, signal)


def tumor_world(x, y, z):
    return np.hypot(np.hypot(x - TUMOR_MM[0], y - TUMOR_MM[1]), z - TUMOR_MM[2]) < 11


def write(path, world, axes="LPS", size=(48, 40, 21), spacing=(2.0, 2.0, 3.0), centre=(0.0, 0.0, 0.0)):
    """Sample a world; ``axes`` says where the columns, rows and slices of the file run, sizes are along x, y, z."""
    order = [AXES[letter] for letter in axes]
    lengths = np.array([size[world_axis] for world_axis, _ in order])
    steps = np.array([spacing[world_axis] for world_axis, _ in order])
    direction = np.zeros((3, 3))
    for image_axis, (world_axis, sign) in enumerate(order):
        direction[world_axis, image_axis] = sign
    origin = np.array(centre) - direction @ ((lengths - 1) / 2 * steps)
    points = np.einsum("wi,i...->w...", direction * steps, np.indices(lengths)) + origin.reshape(3, 1, 1, 1)
    values = np.asarray(world(*points))
    values = values.astype(np.uint8 if values.dtype == bool else np.float32)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.transpose(2, 1, 0)))
    image.SetSpacing(steps.tolist())
    image.SetOrigin(origin.tolist())
    image.SetDirection(direction.ravel().tolist())
    sitk.WriteImage(image, str(path))
    return path.name


def write_list(folder, rows, columns=("patient", "phase", "modality", "image", "tumor")):
    with open(folder / "volumes.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return folder / "volumes.csv"


@pytest.fixture
def volumes(tmp_path):
    """Four patients with a CT and an MR of another grid each."""
    write(tmp_path / "ct.nii.gz", ct_world)
    write(tmp_path / "ct_tumor.nii.gz", tumor_world)
    grid = {"axes": "RSA", "size": (50, 44, 31), "spacing": (1.7, 1.6, 2.0), "centre": (1.0, -2.0, 1.5)}
    write(tmp_path / "mr.nii.gz", mr_world, **grid)
    write(tmp_path / "mr_tumor.nii.gz", tumor_world, **grid)
    rows = [[f"p{i}", "NC", m.upper(), f"{m}.nii.gz", f"{m}_tumor.nii.gz"] for i in range(4) for m in ("ct", "mr")]
    return write_list(tmp_path, rows)


SMALL = PrepareOptions(size_px=32, slices_each_side=1, align=True)


def pixels(path):
    with Image.open(path) as image:
        assert image.mode == "L"
        return np.array(image)


def bytes_below(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


def single(tmp_path, out="out", options=None, world=ct_world, modality="CT", **grid):
    """Prepare one volume; its report and the pixels of its middle picture and mask."""
    write(tmp_path / "one.nii.gz", world, **grid)
    write(tmp_path / "one_tumor.nii.gz", tumor_world, **grid)
    table = write_list(tmp_path, [["p", "NC", modality, "one.nii.gz", "one_tumor.nii.gz"]])
    report = prepare(table, tmp_path / out, options or PrepareOptions(size_px=40))
    entry = max(report.manifest["slices"], key=lambda e: e["region_areas_px"]["tumor"])
    domain = entry["domain"]
    return (
        report,
        entry,
        *(pixels(tmp_path / out / f"train{domain}{s}" / f"{entry['name']}.png") for s in ("", "_tumor")),
    )


def test_every_picture_has_a_mask_and_an_entry_and_nothing_else_is_written(volumes, tmp_path):
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=32, align=True))
    manifest = read_json(tmp_path / "out" / "manifest.json")
    assert manifest == report.manifest
    assert (manifest["format"], manifest["kind"], manifest["size_px"]) == (1, "prepared", 32)
    assert (manifest["regions"], manifest["phases"], manifest["paired"]) == (["tumor"], ["NC"], True)
    expected = {"manifest.json", "written.json", *(f"contact_sheet_{split}.png" for split in ("train", "val", "test"))}
    for entry in manifest["slices"]:
        folder = f"{entry['split']}{entry['domain']}"
        assert entry["name"] == f"{entry['patient']}_NC_{entry['index']:03d}"
        picture = pixels(tmp_path / "out" / folder / f"{entry['name']}.png")
        mask = pixels(tmp_path / "out" / f"{folder}_tumor" / f"{entry['name']}.png")
        assert picture.shape == mask.shape == (32, 32)
        assert set(np.unique(mask)) <= {0, 255}
        assert (mask > 0).sum() == entry["region_areas_px"]["tumor"]
        expected |= {f"{folder}/{entry['name']}.png", f"{folder}_tumor/{entry['name']}.png"}
    assert set(bytes_below(tmp_path / "out")) == expected
    assert report.problems == [] and report.patient_counts == {"train": 2, "val": 1, "test": 1}
    assert report.slice_counts == {"trainA": 18, "trainB": 18, "valA": 9, "valB": 9, "testA": 9, "testB": 9}


def test_the_same_input_gives_the_same_bytes_in_any_order_of_rows(volumes, tmp_path):
    prepare(volumes, tmp_path / "first", SMALL)
    header, *rows = volumes.read_text(encoding="utf-8").splitlines()
    volumes.write_text("\n".join([header, *reversed(rows)]) + "\n", encoding="utf-8")
    prepare(volumes, tmp_path / "second", SMALL)
    assert bytes_below(tmp_path / "first") == bytes_below(tmp_path / "second")


@pytest.mark.parametrize("axes", ["RAS", "LIP", "SPL", "ASR", "IRA"])
def test_how_a_file_stores_its_axes_changes_no_byte(tmp_path, axes):
    single(tmp_path, "plain", axes="LPS")
    single(tmp_path, "stored", axes=axes)
    assert bytes_below(tmp_path / "plain") == bytes_below(tmp_path / "stored")


def test_pictures_are_upright_axial_and_seen_from_the_feet(tmp_path):
    report, entry, picture, mask = single(tmp_path, axes="IRA")
    rows, columns = np.nonzero(picture == 255)  # the spine lies behind: below, and in the middle
    assert rows.mean() > 28 and abs(columns.mean() - 19.5) < 1
    rows, columns = np.nonzero(mask)  # the tumour lies at the front left: above, and on the picture's right
    assert rows.mean() < 18 and columns.mean() > 24
    assert entry["index"] in (11, 12)  # 21 slices of 3 mm around 0, counted from the feet: z = 4 mm is slice 11.3
    assert [e["index"] for e in report.manifest["slices"]] == list(range(entry["index"] - 4, entry["index"] + 5))


def test_hounsfield_units_come_back_from_the_manifest(tmp_path):
    options = PrepareOptions(size_px=48, field_of_view_mm=96.0)
    _, entry, picture, _ = single(tmp_path, options=options, size=(48, 48, 21))
    x, y = (np.arange(48) - 23.5) * 2, (np.arange(48) - 23.5) * 2
    truth = ct_world(x[None, :], y[:, None], (entry["index"] - 10) * 3.0)
    hu = entry["intensity"]["a"] * picture + entry["intensity"]["b"]
    assert entry["spacing_mm"] == [3.0, 2.0, 2.0] and entry["intensity"]["unit"] == "HU"
    assert np.abs(hu - np.clip(truth, -160, 240)).max() <= 200 / 255 + 1e-6


def test_floats_give_hounsfield_units_to_float_precision_and_round_to_the_8_bit_pictures(tmp_path):
    options = PrepareOptions(size_px=48, field_of_view_mm=96.0)
    _, entry, picture, mask = single(tmp_path, options=options, size=(48, 48, 21))
    table = tmp_path / "volumes.csv"
    report = prepare(table, tmp_path / "floats", replace(options, dtype="float32"))
    assert report.manifest["dtype"] == "float32" and report.manifest["slices"][0]["intensity"] == entry["intensity"]
    x, y = (np.arange(48) - 23.5) * 2, (np.arange(48) - 23.5) * 2
    truth = np.clip(ct_world(x[None, :], y[:, None], (entry["index"] - 10) * 3.0), -160, 240)
    values = np.load(tmp_path / "floats" / "trainA" / f"{entry['name']}.npy")
    hu = entry["intensity"]["a"] * (values.astype(np.float64) + 1) * 127.5 + entry["intensity"]["b"]
    assert values.dtype == np.float32 and np.abs(hu - truth).max() < 1e-4
    assert (np.rint((values.astype(np.float64) + 1) * 127.5) == picture).all()
    assert (pixels(tmp_path / "floats" / "trainA_tumor" / f"{entry['name']}.png") == mask).all()


def test_a_given_field_of_view_fixes_the_scale(tmp_path):
    options = PrepareOptions(size_px=40, field_of_view_mm=60.0)
    _, entry, _, mask = single(tmp_path, options=options)
    assert entry["spacing_mm"] == [3.0, 1.5, 1.5]
    assert (mask > 0).sum() * 1.5**2 == pytest.approx(np.pi * 11**2, rel=0.1)


def test_a_region_larger_than_the_field_of_view_is_noted(tmp_path):
    report, *_ = single(tmp_path, options=PrepareOptions(size_px=16, field_of_view_mm=10.0))
    assert len(report.notes) and "field of view of 10 mm" in report.notes[0]


def test_slices_stop_at_the_end_of_the_volume(tmp_path):
    report, *_ = single(tmp_path, size=(48, 40, 8), centre=(0.0, 0.0, -4.5))
    assert [entry["index"] for entry in report.manifest["slices"]] == [2, 3, 4, 5, 6, 7]  # the tumour is in slice 6


def test_aligned_pictures_show_the_same_anatomy_at_the_same_place(volumes, tmp_path):
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=64, align=True))
    pairs = {(e["split"], e["name"]) for e in report.manifest["slices"] if e["domain"] == "A"}
    assert pairs == {(e["split"], e["name"]) for e in report.manifest["slices"] if e["domain"] == "B"}
    split, name = sorted(pairs)[4]
    ct, mr = (pixels(tmp_path / "out" / f"{split}{domain}" / f"{name}.png") for domain in "AB")
    ct_mask, mr_mask = (pixels(tmp_path / "out" / f"{split}{d}_tumor" / f"{name}.png") > 0 for d in "AB")
    assert dice(ct_mask, mr_mask) > 0.93
    assert dice(ct_mask, (ct > 170) & (ct < 190)) > 0.85  # 120 HU is grey 178
    assert dice(ct_mask, mr > 200) > 0.9


def test_an_aligned_pair_shows_only_the_field_both_have(tmp_path):
    write(tmp_path / "ct.nii.gz", ct_world)
    write(tmp_path / "t.nii.gz", tumor_world)
    write(tmp_path / "mr.nii.gz", mr_world, size=(20, 40, 5), centre=(12.0, 0.0, 7.0))
    rows = [["p", "NC", "CT", "ct.nii.gz", "t.nii.gz"], ["p", "NC", "MR", "mr.nii.gz", ""]]
    report = prepare(
        write_list(tmp_path, rows), tmp_path / "out", PrepareOptions(48, field_of_view_mm=96.0, align=True)
    )
    ct_slices, mr_slices = ([e for e in report.manifest["slices"] if e["domain"] == d] for d in "AB")
    # The MR reaches from -0.5 to 14.5 mm, CT slices lie at multiples of 3 mm from -30 mm on.
    assert [e["index"] for e in ct_slices] == [e["index"] for e in mr_slices] == [10, 11, 12, 13, 14]
    ct, mr = (pixels(tmp_path / "out" / f"train{d}" / f"{ct_slices[1]['name']}.png") for d in "AB")
    assert ct.any() and mr.any()
    filled = np.nonzero(ct.any(axis=0))[0]
    assert 18 <= np.ptp(filled) + 1 <= 20  # of 20 columns of MR
    assert not mr[:, : filled[0]].any() and not mr[:, filled[-1] + 1 :].any()


def test_in_an_aligned_pair_a_lacking_mask_is_that_of_the_other_and_said_so(tmp_path):
    write(tmp_path / "ct.nii.gz", ct_world)
    write(tmp_path / "t.nii.gz", tumor_world)
    write(tmp_path / "mr.nii.gz", mr_world)
    rows = [["p", "NC", "CT", "ct.nii.gz", "t.nii.gz"], ["p", "NC", "MR", "mr.nii.gz", ""]]
    report = prepare(write_list(tmp_path, rows), tmp_path / "out", SMALL)
    for entry in report.manifest["slices"]:
        assert entry.get("masks_of_other_modality") == (["tumor"] if entry["domain"] == "B" else None)
        masks = [pixels(tmp_path / "out" / f"train{d}_tumor" / f"{entry['name']}.png") for d in "AB"]
        assert (masks[0] == masks[1]).all()
    assert "1 of 1 patients have no mask of tumor on their MR: that on their CT is taken for both" in report.notes


def test_pairs_also_lie_side_by_side_with_their_masks(volumes, tmp_path):
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=32, slices_each_side=1, paired=True))
    aligned = prepare(volumes, tmp_path / "aligned", SMALL)
    assert report.manifest["paired"] and report.manifest["side_by_side"]
    assert report.manifest["slices"] == aligned.manifest["slices"]
    for entry in report.manifest["slices"]:
        half = np.s_[:, :32] if entry["domain"] == "A" else np.s_[:, 32:]
        for ending in ("", "_tumor"):
            both = pixels(tmp_path / "out" / f"{entry['split']}{ending}" / f"{entry['name']}.png")
            alone = pixels(tmp_path / "out" / f"{entry['split']}{entry['domain']}{ending}" / f"{entry['name']}.png")
            assert both.shape == (32, 64) and (both[half] == alone).all() and alone.any()
    assert len(list((tmp_path / "out").glob("train/*.png"))) == report.slice_counts["trainA"]


def test_without_align_each_volume_keeps_its_own_slices(volumes, tmp_path):
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=32))
    indices = {d: {e["index"] for e in report.manifest["slices"] if e["domain"] == d} for d in "AB"}
    assert indices["A"] != indices["B"] and report.slice_counts["trainB"] == 18


def test_align_leaves_out_and_reports_what_has_no_counterpart(volumes, tmp_path):
    text = volumes.read_text(encoding="utf-8").replace("p0,NC,MR", "p0,ART,MR")
    volumes.write_text(text, encoding="utf-8")
    report = prepare(volumes, tmp_path / "out", SMALL)
    assert len(report.problems) == 2 and all("p0" in problem for problem in report.problems)
    assert not any(entry["patient"] == "p0" for entry in report.manifest["slices"])


def _nan(x, y, z):
    return np.where((np.abs(x) < 2) & (np.abs(y) < 2), np.nan, ct_world(x, y, z))


def _garbage(folder):
    (folder / "bad.nii.gz").write_bytes(b"no volume at all")


def _four_dimensional(folder):
    sitk.WriteImage(sitk.JoinSeries([sitk.ReadImage(str(folder / "ct.nii.gz"))] * 2), str(folder / "bad.nii.gz"))


def _cut_short(folder):
    whole = (folder / "ct.nii.gz").read_bytes()
    (folder / "bad.nii.gz").write_bytes(whole[: len(whole) // 2])


BAD = {
    "missing": (lambda folder: None, "image", "cannot be opened"),
    "unreadable": (_garbage, "image", "damaged"),
    "cut short": (_cut_short, "image", "cut short"),
    "4-D": (_four_dimensional, "image", "three-dimensional"),
    "NaN": (lambda folder: write(folder / "bad.nii.gz", _nan), "image", "NaN"),
    "no HU": (lambda folder: write(folder / "bad.nii.gz", mr_world), "image", "Hounsfield"),
    "no mask file": (lambda folder: None, "tumor", "cannot be opened"),
    "empty mask": (
        lambda folder: write(folder / "bad.nii.gz", lambda x, y, z: x > 1e6),
        "tumor",
        "leave the cell empty",
    ),
    "mask elsewhere": (
        lambda folder: write(folder / "bad.nii.gz", lambda x, y, z: x > -1e6, centre=(500.0, 0.0, 0.0)),
        "tumor",
        "overlap",
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_volume_is_reported_in_one_line_and_the_others_go_on(volumes, tmp_path, fault):
    make, column, words = BAD[fault]
    make(tmp_path)
    cells = "bad.nii.gz,ct_tumor.nii.gz" if column == "image" else "ct.nii.gz,bad.nii.gz"
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("p2,NC,CT,ct.nii.gz,ct_tumor.nii.gz", f"p2,NC,CT,{cells}"),
        encoding="utf-8",
    )
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=16))
    assert len(report.problems) == 1
    assert words in report.problems[0] and "line 6 (p2 NC CT)" in report.problems[0] and "\n" not in report.problems[0]
    assert f"`{column}`" in report.problems[0] and "bad.nii.gz" in report.problems[0]
    written = {(e["patient"], e["modality"]) for e in report.manifest["slices"]}
    assert ("p2", "MR") in written and ("p2", "CT") not in written and len(written) == 7


def test_the_report_reads_as_lines_with_counts_notes_and_problems(volumes, tmp_path):
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("p2,NC,CT,ct.nii.gz", "p2,NC,CT,lost.nii.gz"), encoding="utf-8"
    )
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=16))
    lines = str(report).splitlines()
    assert lines[0].startswith("wrote 63 slices") and len(lines) == 4 + len(report.notes) + 1
    assert "lost.nii.gz" in lines[-1] and "{" not in str(report)


def test_files_that_are_not_there_are_said_with_the_folder_that_paths_are_relative_to(volumes, tmp_path):
    words = f"1 file of the list is not there, first {str(tmp_path / 'lost.nii.gz')!r}; its paths are relative to the"
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("p2,NC,CT,ct.nii.gz", "p2,NC,CT,lost.nii.gz"), encoding="utf-8"
    )
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=16))
    assert any(note.startswith(words) and repr(str(tmp_path)) in note for note in report.notes)
    alone = write_list(tmp_path / "out", [["p", "NC", "CT", "lost.nii.gz", ""]])
    with pytest.raises(DataError, match="paths are relative to the folder it lies in") as caught:
        prepare(alone, tmp_path / "none")
    assert "\n" not in str(caught.value)


def test_a_part_that_the_split_leaves_empty_is_said_to_be_so(volumes, tmp_path):
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=16, split=(0.0, 0.0, 1.0)))
    empty = [note for note in report.notes if "empty" in note]
    assert len(empty) == 2 and all(
        note.startswith("`train") and "the split gives it no patient" in note for note in empty
    )
    assert "`train` needs trainA and trainB" in empty[0] and not any("too few" in note for note in report.notes)


def test_slices_that_cannot_be_scored_are_said_to_need_align(volumes, tmp_path):
    split = PrepareOptions(size_px=16, split=(0.0, 0.0, 1.0))
    (note,) = [note for note in prepare(volumes, tmp_path / "own", split).notes if "--align" in note]
    assert "CT and MR of a patient lie on grids of their own" in note and "`evaluate` and `figure` need" in note
    aligned = prepare(volumes, tmp_path / "pairs", replace(split, align=True))
    assert not any("--align" in note for note in aligned.notes)


def test_a_missing_label_is_an_empty_mask(volumes, tmp_path):
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace(
            "p2,NC,CT,ct.nii.gz,ct_tumor.nii.gz", "p2,NC,CT,ct.nii.gz,ct_tumor.nii.gz#7"
        ),
        encoding="utf-8",
    )
    report = prepare(volumes, tmp_path / "out", PrepareOptions(size_px=16))
    assert len(report.problems) == 1 and "label 7" in report.problems[0]


def test_a_mask_on_another_grid_lands_on_the_image(tmp_path):
    write(tmp_path / "ct.nii.gz", ct_world)
    write(tmp_path / "t.nii.gz", tumor_world, axes="SRA", size=(40, 40, 40), spacing=(1.0, 1.0, 1.0), centre=TUMOR_MM)
    table = write_list(tmp_path, [["p", "NC", "CT", "ct.nii.gz", "t.nii.gz#1"]])
    report = prepare(table, tmp_path / "out", PrepareOptions(size_px=40))
    entry = max(report.manifest["slices"], key=lambda e: e["region_areas_px"]["tumor"])
    picture = pixels(tmp_path / "out" / "trainA" / f"{entry['name']}.png")
    mask = pixels(tmp_path / "out" / "trainA_tumor" / f"{entry['name']}.png") > 0
    assert dice(mask, (picture > 170) & (picture < 190)) > 0.85


def test_two_volumes_that_lie_apart_are_no_pair(volumes, tmp_path):
    for name in ("mr.nii.gz", "mr_tumor.nii.gz"):
        image = sitk.ReadImage(str(tmp_path / name))
        image.SetOrigin((900.0, 0.0, 0.0))
        sitk.WriteImage(image, str(tmp_path / name))
    with pytest.raises(DataError, match=r"none of 8 is.*and 1 more") as caught:
        prepare(volumes, tmp_path / "out", SMALL)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_volume_without_masks_gives_its_middle_and_empty_masks(tmp_path):
    write(tmp_path / "ct.nii.gz", ct_world)
    table = write_list(tmp_path, [["p", "NC", "CT", "ct.nii.gz", ""]])
    report = prepare(table, tmp_path / "out", PrepareOptions(size_px=32))
    assert [entry["index"] for entry in report.manifest["slices"]] == list(range(6, 15))
    assert not any(entry["region_areas_px"]["tumor"] for entry in report.manifest["slices"])
    assert any("no mask" in note for note in report.notes)


def test_the_tumor_chooses_the_slices_wherever_its_column_stands(tmp_path):
    write(tmp_path / "ct.nii.gz", ct_world)
    write(tmp_path / "t.nii.gz", tumor_world)
    write(tmp_path / "liver.nii.gz", lambda x, y, z: (np.hypot(x, y) < 15) & (np.abs(z + 21) < 2))
    columns = ("patient", "phase", "modality", "image", "liver", "tumor")
    table = write_list(tmp_path, [["p", "NC", "CT", "ct.nii.gz", "liver.nii.gz", "t.nii.gz"]], columns)
    report = prepare(table, tmp_path / "out", PrepareOptions(size_px=32, slices_each_side=0))
    areas = report.manifest["slices"][0]["region_areas_px"]
    assert areas["tumor"] > 0 and areas["liver"] == 0


def test_one_domain_alone_is_legal_and_said(tmp_path):
    report, *_ = single(tmp_path)
    assert any("domain B is empty" in note for note in report.notes)
    assert any("`valA`" in note and "`testA`" in note for note in report.notes)
    assert (tmp_path / "out" / "testB_tumor").is_dir()


def test_a_given_split_is_kept(volumes, tmp_path):
    wanted = {f"p{i}": ("test" if i < 2 else "train") for i in range(4)}
    report = prepare(volumes, tmp_path / "mapping", PrepareOptions(size_px=16, split_of=wanted))
    assert report.manifest["split"]["patients"] == wanted
    assert {e["patient"]: e["split"] for e in report.manifest["slices"]} == wanted
    header, *rows = volumes.read_text(encoding="utf-8").splitlines()
    volumes.write_text(
        "\n".join([f"{header},split", *(f"{row},{wanted[row[:2]]}" for row in rows)]) + "\n", encoding="utf-8"
    )
    assert (
        prepare(volumes, tmp_path / "column", PrepareOptions(size_px=16)).manifest["slices"]
        == report.manifest["slices"]
    )
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("mr_tumor.nii.gz,test", "mr_tumor.nii.gz,val", 1), encoding="utf-8"
    )
    with pytest.raises(DataError, match="in one part"):
        prepare(volumes, tmp_path / "torn", PrepareOptions(size_px=16))


def test_a_bad_volume_moves_nobody_to_another_part(volumes, tmp_path):
    whole = prepare(volumes, tmp_path / "whole", SMALL).manifest["split"]
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("p2,NC,CT,ct.nii.gz", "p2,NC,CT,lost.nii.gz"), encoding="utf-8"
    )
    assert prepare(volumes, tmp_path / "part", SMALL).manifest["split"] == whole


def test_the_manifest_names_no_folder(volumes, tmp_path):
    prepare(volumes, tmp_path / "out", SMALL)
    text = (tmp_path / "out" / "manifest.json").read_text(encoding="utf-8")
    assert str(tmp_path) not in text and tmp_path.name not in text and '"source": "ct.nii.gz"' in text


def test_the_manifest_tells_everything_that_made_a_slice(volumes, tmp_path):
    manifest = prepare(volumes, tmp_path / "out", SMALL).manifest
    for entry in manifest["slices"]:
        assert set(entry) == {
            *("name", "split", "domain", "patient", "phase", "modality", "source", "index", "spacing_mm"),
            *("source_spacing_mm", "square_px", "intensity", "region_areas_px"),
        }
        assert {"a", "b", "unit"} <= set(entry["intensity"])
    assert manifest["ct_window"] == {"width": 400.0, "level": 40.0} and manifest["dtype"] == "uint8"
    for package, version in manifest["versions"].items():
        assert version == importlib.metadata.version(package)
    assert set(manifest["versions"]) == {"roi-progressive", "numpy", "scikit-image", "SimpleITK"}


def test_a_folder_with_files_is_kept_unless_forced(volumes, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"`out`.*force"):
        prepare(volumes, out, SMALL)
    with pytest.raises(DataError, match="has no record of that"):
        prepare(volumes, out, SMALL, force=True)
    assert bytes_below(out) == {"precious.txt": b"mine"}
    (out / "precious.txt").unlink()
    prepare(volumes, out, SMALL)
    (out / "precious.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"`out`.*--force"):
        prepare(volumes, out, SMALL)
    prepare(volumes, out, SMALL, force=True)
    assert (out / "precious.txt").read_text(encoding="utf-8") == "mine" and (out / "manifest.json").exists()


def test_an_empty_folder_is_filled_and_parents_are_made(volumes, tmp_path):
    (tmp_path / "empty").mkdir()
    prepare(volumes, tmp_path / "empty", SMALL)
    prepare(volumes, tmp_path / "a" / "b", SMALL)
    assert bytes_below(tmp_path / "empty") == bytes_below(tmp_path / "a" / "b")


def test_force_never_deletes_the_input(volumes, tmp_path):
    with pytest.raises(DataError, match="must not hold the input"):
        prepare(volumes, tmp_path, SMALL, force=True)
    assert volumes.exists()


def test_without_simpleitk_the_error_says_what_to_install(volumes, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DataError, match=r'pip install "roi-progressive\[medical\]"'):
        prepare(volumes, tmp_path / "out", SMALL)
    assert not (tmp_path / "out").exists()


def test_progress_counts_volumes_and_names_the_one_at_hand(volumes, tmp_path):
    told = []
    prepare(volumes, tmp_path / "out", SMALL, report=lambda *step: told.append(step))
    assert [done for done, _, _ in told] == sorted(done for done, _, _ in told)
    assert told[-1][:2] == (8, 8) and {total for _, total, _ in told} == {8}
    assert any("p2 NC MR" in text for _, _, text in told)


def test_the_command_shows_a_bar(volumes, tmp_path, capsys):
    assert main(["prepare", str(volumes), str(tmp_path / "out"), "--size", "16"]) == 0
    assert "prepare: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("size_px", 4),
        ("size_px", 64.0),
        ("ct_window", (0.0, 40.0)),
        ("mr_percentiles", (99.0, 1.0)),
        ("slices_each_side", -1),
        ("field_of_view_mm", 0.0),
        ("align", "yes"),
        ("paired", 1),
        ("dtype", "float16"),
        ("mr_steps", ("polish",)),
        ("mr_steps", "clip"),
        ("split", (0.5, 0.5)),
    ],
)
def test_a_wrong_option_is_named(setting, value):
    with pytest.raises((ConfigError, DataError), match=f"`{setting}`"):
        PrepareOptions(**{setting: value})


def test_cleaning_an_mr_is_recorded_and_changes_it(tmp_path):
    def shaded(x, y, z):
        return mr_world(x, y, z) * (1 + x / 80)

    raw = single(tmp_path, "raw", world=shaded, modality="MR")
    clean = single(
        tmp_path,
        "clean",
        PrepareOptions(size_px=40, mr_steps=("denoise", "bias", "clip", "zscore")),
        world=shaded,
        modality="MR",
    )
    assert clean[0].manifest["mr_steps"] == ["denoise", "bias", "clip", "zscore"]
    assert raw[0].manifest["mr_steps"] == ["clip", "zscore"]
    assert (raw[2] != clean[2]).any() and (raw[3] == clean[3]).all()


def test_every_step_of_an_mr_can_be_left_out_and_is_recorded(tmp_path):
    pictures = {}
    for steps in (("clip", "zscore"), ("zscore",), ("clip",), ()):
        report, entry, pixels_of, _ = single(
            tmp_path, "-".join(("out", *steps)), PrepareOptions(size_px=40, mr_steps=steps), mr_world, "MR"
        )
        assert report.manifest["mr_steps"] == list(steps) and report.manifest["mr_standard"] is None
        assert ("mean" in entry["intensity"]) == ("zscore" in steps)
        pictures[steps] = entry["intensity"], pixels_of
    assert (pictures["clip", "zscore"][1] == pictures["clip",][1]).all()
    lowest, highest = (pictures["zscore",][0][key] for key in "ba")
    assert (lowest, lowest + 255 * highest) == pytest.approx((0.0, 900.0))


def test_a_standard_scale_is_fitted_to_the_training_part_alone_and_source_values_come_back(volumes, tmp_path):
    options = PrepareOptions(size_px=32, mr_steps=("standardise", "clip", "zscore"))
    write(tmp_path / "other.nii.gz", lambda x, y, z: mr_world(x, y, z) ** 1.3)
    write(tmp_path / "other_tumor.nii.gz", tumor_world)
    first = prepare(volumes, tmp_path / "first", options).manifest
    (tested,) = [patient for patient, split in first["split"]["patients"].items() if split == "test"]
    text = volumes.read_text(encoding="utf-8")
    volumes.write_text(
        text.replace(f"{tested},NC,MR,mr.nii.gz,mr_t", f"{tested},NC,MR,other.nii.gz,other_t"), encoding="utf-8"
    )
    second = prepare(volumes, tmp_path / "second", options).manifest
    assert first["mr_standard"] == second["mr_standard"] and first["mr_standard"]["fitted_on"] == "train"
    trained = next(patient for patient, split in first["split"]["patients"].items() if split == "train")
    volumes.write_text(
        text.replace(f"{trained},NC,MR,mr.nii.gz,mr_t", f"{trained},NC,MR,other.nii.gz,other_t"), encoding="utf-8"
    )
    assert prepare(volumes, tmp_path / "third", options).manifest["mr_standard"] != first["mr_standard"]
    entry = next(e for e in second["slices"] if e["domain"] == "B" and e["patient"] == tested)
    volumes.write_text(
        text.replace(f"{tested},NC,MR,mr.nii.gz,mr_t", f"{tested},NC,MR,other.nii.gz,other_t"), encoding="utf-8"
    )
    plain = prepare(volumes, tmp_path / "plain", PrepareOptions(size_px=32)).manifest
    linear = next(e["intensity"] for e in plain["slices"] if e["domain"] == "B" and e["name"] == entry["name"])
    grey, truth = (pixels(tmp_path / out / "testB" / f"{entry['name']}.png") for out in ("second", "plain"))
    truth = linear["a"] * truth + linear["b"]
    standard = entry["intensity"]["a"] * grey + entry["intensity"]["b"]
    source = entry["intensity"]["source_landmarks"]
    inside = (truth > source[1]) & (truth < source[-2])
    back = np.interp(standard, second["mr_standard"]["landmarks"], source)
    assert inside.sum() > 200 and np.abs(back - truth)[inside].mean() < 0.01 * (source[-1] - source[0])


def test_the_command_takes_a_split_file_and_is_strict_when_asked(volumes, tmp_path, capsys):
    volumes.write_text(
        volumes.read_text(encoding="utf-8").replace("p2,NC,CT,ct.nii.gz", "p2,NC,CT,lost.nii.gz"), encoding="utf-8"
    )
    (tmp_path / "split.csv").write_text("patient,split\np0,test\np1,train\np2,val\np3,train\n", encoding="utf-8")
    typed = [
        "prepare",
        str(volumes),
        str(tmp_path / "out"),
        "--size",
        "16",
        "--split-file",
        str(tmp_path / "split.csv"),
    ]
    assert main(typed) == 0
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["split"]["patients"] == {"p0": "test", "p1": "train", "p2": "val", "p3": "train"}
    assert manifest["split"]["by"] == "given"
    assert main([*typed, "--force", "--strict"]) == 2
    shown = capsys.readouterr()
    assert "lost.nii.gz" in shown.out and "`--strict` asks for every volume; got 1 left out" in shown.err
    assert len(list((tmp_path / "out").glob("*/*.png"))) > 0
    (tmp_path / "split.csv").write_text(
        "patient,split\np0,test\np1,train\np2,val\np3,train\np0,val\n", encoding="utf-8"
    )
    assert main([*typed, "--force"]) == 2
    assert "'p0' is in test and in val" in capsys.readouterr().err


@pytest.mark.skipif(not (REAL / "sts").is_dir(), reason="the real sarcoma images are not here (shared/data/sts)")
def test_a_real_sarcoma_patient_becomes_aligned_pairs(tmp_path):
    sts = REAL / "sts"
    rows = [
        ["sts003", "NC", m.upper(), str(sts / f"sts003_{m}.nii.gz"), str(sts / f"sts003_{m}_tumor.nii.gz")]
        for m in ("ct", "mr")
    ]
    report = prepare(write_list(tmp_path, rows), tmp_path / "out", PrepareOptions(size_px=96, align=True))
    assert report.slice_counts["trainA"] == report.slice_counts["trainB"] == 9 and report.problems == []
    for name in {entry["name"] for entry in report.manifest["slices"]}:
        ct, mr = (pixels(tmp_path / "out" / f"train{d}" / f"{name}.png") for d in "AB")
        masks = [pixels(tmp_path / "out" / f"train{d}_tumor" / f"{name}.png") > 0 for d in "AB"]
        assert dice(*masks) > 0.99
        assert dice(ct > 0, mr > 8) > 0.9
        assert ct[masks[0]].mean() > 100 and mr[masks[1]].mean() < 100  # enhancing in CT, darker than fat in T1


@pytest.mark.skipif(not (REAL / "liver").is_dir(), reason="the real liver images are not here (shared/data/liver)")
def test_real_livers_are_found_by_their_label_and_both_domains_get_training_data(tmp_path):
    rows = [
        [
            name.partition("_3mm")[0],
            "NC",
            modality,
            str(REAL / "liver" / f"{name}.nii.gz"),
            f"{REAL}/liver/{name}_seg.nii.gz#5",
        ]
        for name, modality in (("ts_ct_abdomen_3mm", "CT"), ("ts_mr_abdomen_3mm", "MR"))
    ]
    columns = ("patient", "phase", "modality", "image", "liver")
    report = prepare(write_list(tmp_path, rows, columns), tmp_path / "out", PrepareOptions(size_px=96))
    assert report.slice_counts["trainA"] == 9 and report.slice_counts["trainB"] > 0 and report.problems == []
    for entry in report.manifest["slices"]:
        mask = pixels(tmp_path / "out" / f"train{entry['domain']}_liver" / f"{entry['name']}.png") > 0
        assert mask.any() and np.nonzero(mask)[1].mean() < 48  # the liver is on the patient's right: the picture's left
