"""A fault in a scan, a mask, or what a stopped `prepare` left: named in one line and left out, or refused; never drawn.

What stands in a file's place: nothing, half of it, another file, one whose header promises a thousand gigabytes, one of
another type, one that cannot be read. The other volumes are prepared as without it.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
import scans
from PIL import Image

from roi_progressive.cli.main import main
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")  # pydicom's and Pillow's, of files that nobody would write

OPTIONS = ("--size", "16", "--slices-each-side", "1")
PREPARED = PrepareOptions(size_px=16, slices_each_side=1)
HU = scans.body_with_rod(scans.straight_points())
ROD = scans.in_rod(scans.straight_points())


def _itk(path: Path, array: Any) -> Path:
    image = sitk.GetImageFromArray(np.asarray(array))
    image.SetSpacing(scans.SPACING[::-1])
    image.SetOrigin(scans.ORIGIN)
    sitk.WriteImage(image, str(path))
    return path


def _series(folder: Path, array: Any) -> Path:
    return scans.write_series(folder, values=np.asarray(array))[5]


SCANS: dict[str, tuple[str, Callable[[Path, Any], Path]]] = {
    "NIfTI": ("scan.nii", lambda path, array: scans.write_nifti(path, array)),
    "packed NIfTI": ("scan.nii.gz", lambda path, array: scans.write_nifti(path, array)),
    "NRRD": ("scan.nrrd", lambda path, array: _itk(path, array.astype(np.int16))),
    "MetaImage": ("scan.mha", lambda path, array: _itk(path, array.astype(np.int16))),
    "DICOM slice": ("series", _series),
    "multi-frame DICOM": ("scan.dcm", lambda path, array: scans.write_multiframe(path, values=np.asarray(array))),
}
"""By kind: what the table names, and who writes it, which gives the file to spoil."""
MASKS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "NIfTI mask": ("mask.nii.gz", lambda path: scans.write_nifti(path, ROD, "u1")),
    "NRRD mask": ("mask.nrrd", lambda path: _itk(path, ROD.astype(np.uint8))),
    "contours": (
        "mask.dcm#rod",
        lambda path: scans.write_rtstruct(
            path.with_name("mask.dcm"),
            {
                "rod": [
                    ("CLOSED_PLANAR", np.array([[1, -14, z], [17, -14, z], [17, 2, z], [1, 2, z]], float))
                    for z in scans.straight_positions()[:, 2]
                ]
            },
        ),
    ),
}


def _huge(path: Path, whole: bytes) -> bytes:
    """A header that promises a terabyte and more; nothing may be reserved on its word."""
    if path.suffix == ".gz":
        return gzip.compress(_huge(path.with_suffix(""), gzip.decompress(whole)))
    if path.suffix == ".nii":
        return whole[:40] + struct.pack("<4h", 3, 32767, 32767, 32767) + whole[48:]
    if path.suffix == ".nrrd":
        return whole.replace(b"sizes: 36 32 12", b"sizes: 32767 32767 32767")
    if path.suffix == ".mha":
        return whole.replace(b"DimSize = 36 32 12", b"DimSize = 32767 32767 32767")
    content = pydicom.dcmread(path)
    if "Rows" in content:
        content.Rows = content.Columns = 65535
        if "NumberOfFrames" in content:
            content.NumberOfFrames = 1_000_000
    else:
        content.ROIContourSequence[0].ContourSequence[0].ContourData = [f"{k}e30" for k in range(3000)]
    content.save_as(path, enforce_file_format=True)
    return path.read_bytes()


def _other_type(path: Path, whole: bytes) -> bytes:
    """What another program would take it for: a picture, or numbers that are no grey values."""
    if path.name.endswith((".nii", ".nii.gz")):
        return scans.write_nifti(path, np.ones(scans.SHAPE), "c8").read_bytes()
    if path.suffix in (".nrrd", ".mha"):
        colours = sitk.GetImageFromArray(np.zeros((*scans.SHAPE, 3), np.uint8), isVector=True)
        sitk.WriteImage(colours, str(path))
        return path.read_bytes()
    content = pydicom.dcmread(path)
    del content["PixelData" if "PixelData" in content else "ROIContourSequence"]
    content.SOPClassUID = "1.2.840.10008.5.1.4.1.1.104.1"  # a PDF
    content.save_as(path, enforce_file_format=True)
    return path.read_bytes()


FAULTS: dict[str, Callable[[Path, bytes], bytes | None]] = {
    "empty": lambda path, whole: b"",
    "cut": lambda path, whole: whole[: len(whole) // 2],
    "foreign": lambda path, whole: b"<html>\0 not what it was </html>" * 20,
    "huge header": _huge,
    "wrong-typed": _other_type,
    "unreadable": lambda path, whole: None,
}


def _spoil(path: Path, fault: str) -> None:
    content = FAULTS[fault](path, path.read_bytes())
    path.unlink()
    if content is None:
        path.symlink_to(path.with_name("nowhere"))  # a link to nothing, which not even root can read
    else:
        path.write_bytes(content)


def _listed(folder: Path, image: str, mask: str = "") -> Path:
    scans.write_nifti(folder / "good.nii", HU)
    rows = [["bad", "NC", "CT", image, mask], *([f"p{n}", "NC", "CT", "good.nii", ""] for n in range(3))]
    with open(folder / "scans.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["patient", "phase", "modality", "image", "tumor"], *rows])
    return folder / "scans.csv"


def _assert_named_and_left_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert main(["prepare", str(folder / "scans.csv"), str(folder / "out"), *OPTIONS]) == 0, capsys.readouterr().err
    shown = capsys.readouterr()
    assert "Traceback" not in shown.out + shown.err
    named = [line for line in (shown.out + shown.err).splitlines() if "bad" in line]
    assert len(named) == 1, named
    manifest = json.loads((folder / "out" / "manifest.json").read_text(encoding="utf-8"))
    assert {entry["patient"] for entry in manifest["slices"]} == {"p0", "p1", "p2"}
    assert not any("bad" in path.name for path in (folder / "out").rglob("*"))
    assert not any(path.name.startswith(".out") for path in folder.iterdir())
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1_000_000, "a gigabyte on a header's word"


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", SCANS)
def test_a_scan_that_cannot_be_read_is_named_and_the_others_are_prepared(
    kind: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write = SCANS[kind]
    _spoil(write(tmp_path / name, HU), fault)
    _listed(tmp_path, name)
    _assert_named_and_left_out(tmp_path, capsys)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_that_cannot_be_read_is_named_and_its_scan_left_out(
    kind: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, write = MASKS[kind]
    scans.write_series(tmp_path / "series")
    _spoil(write(tmp_path / name), fault)
    _listed(tmp_path, "series", name)
    _assert_named_and_left_out(tmp_path, capsys)


@pytest.mark.parametrize("kind", [*SCANS, *MASKS])
def test_unspoilt_it_is_prepared(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Else the tests above could pass by leaving everything out."""
    name, mask = (SCANS[kind][0], "") if kind in SCANS else ("series", MASKS[kind][0])
    if kind in SCANS:
        SCANS[kind][1](tmp_path / name, HU)
    else:
        scans.write_series(tmp_path / "series")
        MASKS[kind][1](tmp_path / mask)
    report = prepare(_listed(tmp_path, name, mask), tmp_path / "out", PREPARED)
    assert report.problems == []
    assert {entry["patient"] for entry in report.manifest["slices"]} == {"bad", "p0", "p1", "p2"}


def test_where_no_volume_can_be_used_it_is_one_line_and_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = _listed(tmp_path, "good.nii")
    (tmp_path / "good.nii").write_bytes(b"")
    assert main(["prepare", str(table), str(tmp_path / "out"), *OPTIONS]) == 2
    shown = capsys.readouterr()
    assert (
        shown.err.rstrip().rpartition("\n")[2].startswith("roi-progressive: error: ") and "Traceback" not in shown.err
    )
    assert {path.name for path in tmp_path.iterdir()} == {"scans.csv", "good.nii"}


# -- what a stopped `prepare` left -------------------------------------------------------------------------------------

LEFT = ("settings.json", "records/*.json", "pictures/trainA/*.png", "pictures", "records")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What the data set holds that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole")
    scans.write_nifti(folder / "scan.nii", HU)
    assert prepare(_listed(folder, "scan.nii"), folder / "out", PREPARED).problems == []
    return _bytes_below(folder / "out")


def _bytes_below(folder: Path) -> dict[str, bytes]:
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items()}


@pytest.mark.parametrize("fault", ["empty", "cut", "foreign", "unreadable", "a folder", "gone"])
@pytest.mark.parametrize("left", LEFT)
def test_what_a_stopped_run_left_is_gone_on_with_or_refused(
    left: str, fault: str, whole: dict[str, bytes], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """To the very files of a run that was never stopped, or in one line; with --force always to those."""
    scans.write_nifti(tmp_path / "scan.nii", HU)
    table = _listed(tmp_path, "scan.nii")

    def stop(done: int, total: int, text: str) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(table, tmp_path / "out", PREPARED, report=stop)
    path = sorted((tmp_path / ".out.partial").glob(left))[0]
    content = path.read_bytes() if path.is_file() else b"a file"
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    if fault == "unreadable":
        path.symlink_to(path.with_name("nowhere"))
    elif fault == "a folder":
        path.mkdir()
    elif fault != "gone":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "foreign": b"<html>\0</html>"}[fault])
    capsys.readouterr()
    words = ["prepare", str(table), str(tmp_path / "out"), *OPTIONS]
    status = main(words)
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if status:
        assert status == 2 and said.rstrip().rpartition("\n")[2].startswith("roi-progressive: error: ")
        assert main([*words, "--force"]) == 0, capsys.readouterr().err
    assert _bytes_below(tmp_path / "out") == whole


# -- pictures of 16 bits -----------------------------------------------------------------------------------------------

IN_A_TIFF: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "foreign": lambda path: path.write_bytes(b"<html>\0 not what it was </html>"),
    "huge header": lambda path: path.write_bytes(_tiff_of(60_000, 60_000)),
    "unreadable": lambda path: (path.unlink(), path.mkdir()),
}


def _tiff_of(width: int, height: int) -> bytes:
    """A TIFF that says it has so many pixels of 16 bits, and holds none of them."""
    entries = [(256, 4, width), (257, 4, height), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (279, 4, 0)]
    packed = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in entries)
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(entries)) + packed + struct.pack("<I", 0)


@pytest.mark.parametrize("fault", IN_A_TIFF)
@pytest.mark.parametrize("folder", ["real", "fake"])
def test_a_tiff_that_cannot_be_read_is_one_line_and_nothing_is_scored(
    folder: str, fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw = np.random.default_rng(0)
    for name in ("real", "fake", "masks"):
        (tmp_path / name).mkdir()
        for number in range(2):
            pixels = draw.integers(0, 65535, (16, 16)).astype(np.uint16)
            grey = pixels if name != "masks" else np.where(pixels > 30000, 255, 0).astype(np.uint8)
            Image.fromarray(grey).save(tmp_path / name / f"{number}.{'png' if name == 'masks' else 'tif'}")
    words = ["evaluate", "--out", str(tmp_path / "out")]
    words += [word for name in ("real", "fake", "masks") for word in (f"--{name}", str(tmp_path / name))]
    IN_A_TIFF[fault](tmp_path / folder / "1.tif")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert shown.rstrip().rpartition("\n")[2].rpartition("\r")[2].startswith("roi-progressive: error: ")
    assert ("1.tif" in shown or fault == "unreadable") and "Traceback" not in shown
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert not os.path.lexists(tmp_path / "out")
