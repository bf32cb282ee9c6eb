"""DICOM series and RTSTRUCT contours: against the same scan as NIfTI, matplotlib's polygons, and a real patient."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi_progressive.data.contours import contour_mask
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.prepare import prepare
from roi_progressive.data.volume_list import MaskFile, VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
pydicom = pytest.importorskip("pydicom", reason='needs pydicom: pip install "roi-progressive[medical]"')

REAL = Path(__file__).resolve().parents[2] / "shared" / "data"
UID = "1.2.826.0.1.3680043.8.498."
AXIAL, SAGITTAL = (1, 0, 0, 0, 1, 0, 0, 0, 1), (0, 0, 1, 1, 0, 0, 0, -1, 0)


def scan(direction=AXIAL):
    """A CT of noise about a body, 7 slices, in whole HU."""
    rng = np.random.default_rng(0)
    hu = rng.integers(-50, 200, (7, 20, 24)).astype(np.int16)
    hu[:, :2] = -1000
    image = sitk.GetImageFromArray(hu)
    image.SetSpacing((2.0, 2.5, 4.0))
    image.SetOrigin((-20.0, 10.0, -5.0))
    image.SetDirection([float(value) for value in direction])
    return image


def write_series(folder, image, modality="CT", series=1, intercept=-1024, skip=(), first=0):
    """Write each slice as a DICOM file, in files whose names are in no order."""
    folder.mkdir(exist_ok=True)
    direction = np.array(image.GetDirection()).reshape(3, 3)
    for index in range(image.GetDepth()):
        if index in skip:
            continue
        plane = sitk.Cast(image[:, :, index] - intercept, sitk.sitkInt16)
        tags = {
            "0008|0060": modality,
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0020|000d": UID + "9",
            "0020|000e": UID + str(series),
            "0020|0013": str(index),
            "0020|0032": "\\".join(f"{v:g}" for v in image.TransformIndexToPhysicalPoint((0, 0, index))),
            "0020|0037": "\\".join(f"{v:g}" for v in direction[:, :2].T.ravel()),
        }
        for tag, value in tags.items():
            plane.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{series}_{(index * 5) % 7}.dcm"))
        writer.Execute(plane)
        content = pydicom.dcmread(writer.GetFileName())
        content.Modality, content.RescaleIntercept, content.RescaleSlope = modality, intercept, 1
        content.save_as(writer.GetFileName())
    return folder


def write_rtstruct(path, structures, modality="RTSTRUCT"):
    """``structures``: name to contours, each ``(type, points in mm)``."""
    content = pydicom.Dataset()
    content.file_meta = pydicom.dataset.FileMetaDataset()
    content.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    content.SOPClassUID, content.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.481.3", UID + "7"
    content.Modality = modality
    content.StructureSetROISequence, content.ROIContourSequence = [], []
    for number, (name, contours) in enumerate(structures, start=3):
        roi, drawn = pydicom.Dataset(), pydicom.Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, []
        for kind, points in contours:
            one = pydicom.Dataset()
            one.ContourGeometricType, one.NumberOfContourPoints = kind, len(points)
            one.ContourData = [f"{value:.6f}" for value in np.ravel(points)]
            drawn.ContourSequence.append(one)
        content.StructureSetROISequence.append(roi)
        content.ROIContourSequence.append(drawn)
    content.save_as(path, enforce_file_format=True)
    return path


def on_slice(image, index, columns_rows):
    """Points given in columns and rows of a slice, in millimetres."""
    return [image.TransformContinuousIndexToPhysicalPoint((x, y, float(index))) for x, y in columns_rows]


def star(seed, centre, radius):
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, 17))
    reach = radius * rng.uniform(0.4, 1.0, 17)
    return np.stack([centre[0] + reach * np.cos(angles), centre[1] + reach * np.sin(angles)], axis=1)


def row(image, masks=None, modality="CT"):
    return VolumeRow(2, "p", "NC", modality, image, masks or {})


@pytest.mark.parametrize("direction", [AXIAL, SAGITTAL])
def test_a_series_is_the_volume_it_was_written_from_in_hounsfield_units(tmp_path, direction):
    image = scan(direction)
    sitk.WriteImage(image, str(tmp_path / "same.nii.gz"))
    from_series = read_volume(row(write_series(tmp_path / "series", image)))
    from_nifti = read_volume(row(tmp_path / "same.nii.gz"))
    assert np.array_equal(from_series.array, from_nifti.array)
    assert np.allclose(from_series.image.GetOrigin(), from_nifti.image.GetOrigin(), atol=1e-3)
    assert from_series.spacing_mm == pytest.approx(from_nifti.spacing_mm)
    assert (from_series.series, from_nifti.series) == (UID + "1", None)


def test_the_series_of_the_modality_is_taken_from_among_others_and_contours(tmp_path):
    folder = write_series(tmp_path / "all", scan())
    write_series(folder, scan() + 300, modality="MR", series=2, intercept=0)
    write_rtstruct(folder / "RS.dcm", [("GTV", [])])
    assert read_volume(row(folder)).series == UID + "1"
    assert read_volume(row(folder, modality="MR")).series == UID + "2"


def _truncate(folder, number):
    file = sorted(folder.iterdir())[number]
    file.write_bytes(file.read_bytes()[:-300])


def _multi_frame(folder):
    content = pydicom.dcmread(folder / "1_3.dcm")
    content.NumberOfFrames, content.PixelData = 2, 2 * content.PixelData
    content.save_as(folder / "1_3.dcm")


SPOILT_SERIES = {
    "gap": (lambda f: write_series(f, scan(), skip=(3,)), "evenly spaced.*4.00 to 8.00 mm"),
    "empty": (lambda f: f.mkdir(), "holds none"),
    "frames": (lambda f: _multi_frame(write_series(f, scan())), "1_3.dcm holds 2"),
    "other modality": (lambda f: write_series(f, scan(), modality="PT"), "modality CT; series holds PT"),
    "two": (lambda f: write_series(write_series(f, scan()), scan(), series=2), "holds 2 of CT, of 7, 7 files"),
    "last truncated": (lambda f: _truncate(write_series(f, scan()), 2), "1_2.dcm in series is cut short"),
    "third truncated": (lambda f: _truncate(write_series(f, scan()), 3), "1_3.dcm in series is cut short"),
    "no DICOM": (
        lambda f: (write_series(f, scan()) / "1_3.dcm").write_text("none", encoding="utf-8"),
        "1_3.dcm in series is damaged",
    ),
    "one slice": (lambda f: write_series(f, scan()[:, :, :1]), "one only"),
    "no intercept": (lambda f: write_series(f, scan() + 1024, intercept=0), "Hounsfield"),
}


@pytest.mark.parametrize("fault", SPOILT_SERIES)
def test_a_series_that_cannot_be_used_is_named_in_one_line(tmp_path, fault):
    make, words = SPOILT_SERIES[fault]
    make(tmp_path / "series")
    with pytest.raises(DataError, match=f"`image`.*{words}") as caught:
        read_volume(row(tmp_path / "series"))
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("direction", [AXIAL, SAGITTAL])
def test_contours_are_filled_as_matplotlib_fills_them_and_inner_ones_are_holes(tmp_path, direction):
    path = pytest.importorskip("matplotlib.path")
    image = scan(direction)
    shapes = {2: [star(1, (12.2, 9.6), 8.0)], 4: [star(2, (11.3, 10.4), 9.0), star(3, (11.1, 10.2), 3.0)]}
    drawn = [("CLOSED_PLANAR", on_slice(image, index, shape)) for index, of in shapes.items() for shape in of]
    file = write_rtstruct(tmp_path / "RS.dcm", [("Couch", []), ("GTV 1", drawn)])
    mask = contour_mask("tumor", file, "GTV 1", image)
    rows, columns = np.mgrid[:20, :24]
    centres = np.stack([columns.ravel(), rows.ravel()], axis=1)
    expected = np.zeros((7, 20, 24), dtype=bool)
    for index, of in shapes.items():
        for shape in of:
            expected[index] ^= path.Path(shape).contains_points(centres).reshape(20, 24)
    assert expected.sum() > 100 and (mask == expected).all()


def test_a_mask_from_contours_lies_where_the_same_label_map_does(tmp_path):
    image = scan(SAGITTAL)
    file = write_rtstruct(
        tmp_path / "RS.dcm", [("GTV", [("CLOSED_PLANAR", on_slice(image, 4, star(5, (12.0, 9.0), 8.0)))])]
    )
    label = sitk.GetImageFromArray(contour_mask("tumor", file, "GTV", image).astype(np.uint8))
    label.CopyInformation(image)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    masks = {"a": MaskFile(file, contour="GTV"), "b": MaskFile(tmp_path / "label.nii.gz")}
    read = read_volume(row(write_series(tmp_path / "series", image), masks)).masks
    assert read["a"].any() and (read["a"] == read["b"]).all()


SQUARE = [(5, 5), (15, 5), (15, 12), (5, 12)]
SPOILT_CONTOURS = {
    "other name": ("GTV_mas", [("GTV_Mass", "CLOSED_PLANAR", 2, SQUARE)], "did you mean 'GTV_Mass'"),
    "far name": ("liver", [("GTV_Mass", "CLOSED_PLANAR", 2, SQUARE)], "it has 'GTV_Mass'"),
    "double name": ("GTV", [("GTV", "CLOSED_PLANAR", 2, SQUARE)] * 2, "has 2 called 'GTV'"),
    "points": ("GTV", [("GTV", "POINT", 2, SQUARE[:1])], "closed contours"),
    "two points": ("GTV", [("GTV", "CLOSED_PLANAR", 2, SQUARE[:2])], "three points.*RS.dcm has one of 2"),
    "between slices": ("GTV", [("GTV", "CLOSED_PLANAR", 2.5, SQUARE)], "between them"),
    "beside": ("GTV", [("GTV", "CLOSED_PLANAR", 2, [(x + 99, y) for x, y in SQUARE])], "overlap"),
    "above": ("GTV", [("GTV", "CLOSED_PLANAR", 30, SQUARE)], "overlap"),
}


@pytest.mark.parametrize("fault", SPOILT_CONTOURS)
def test_contours_that_cannot_be_used_are_named_in_one_line(tmp_path, fault):
    name, drawn, words = SPOILT_CONTOURS[fault]
    image = scan()
    structures = [(roi, [(kind, on_slice(image, index, shape))]) for roi, kind, index, shape in drawn]
    write_rtstruct(tmp_path / "RS.dcm", structures)
    with pytest.raises(DataError, match=f"`tumor`.*{words}") as caught:
        contour_mask("tumor", tmp_path / "RS.dcm", name, image)
    assert "RS.dcm" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_rtstruct_is_named(tmp_path):
    (tmp_path / "text.dcm").write_text("no DICOM", encoding="utf-8")
    write_rtstruct(tmp_path / "plan.dcm", [], modality="RTPLAN")
    for name, words in (("text", "damaged"), ("plan", "modality RTPLAN"), ("lost", "cannot be opened")):
        with pytest.raises(DataError, match=f"`tumor`.*{name}.dcm.*{words}|`tumor`.*{words}.*{name}.dcm"):
            contour_mask("tumor", tmp_path / f"{name}.dcm", "GTV", scan())


def test_several_labels_are_one_region(tmp_path):
    image = scan()
    labels = np.random.default_rng(1).integers(0, 5, (7, 20, 24)).astype(np.uint8)
    label = sitk.GetImageFromArray(labels)
    label.CopyInformation(image)
    sitk.WriteImage(label, str(tmp_path / "label.nii.gz"))
    sitk.WriteImage(image, str(tmp_path / "ct.nii.gz"))
    masks = {"tumor": MaskFile(tmp_path / "label.nii.gz", (1, 3))}
    read = read_volume(row(tmp_path / "ct.nii.gz", masks)).masks["tumor"]
    assert (read == ((labels == 1) | (labels == 3))).all()


def _pixels(path):
    with Image.open(path) as image:
        return np.array(image).astype(int)


@pytest.mark.skipif(not (REAL / "dicom").is_dir(), reason="the real DICOM patient is not here (shared/data/dicom)")
def test_a_real_patient_is_the_same_from_dicom_and_from_nifti(tmp_path):
    dicom, nifti = REAL / "dicom" / "sts003", REAL / "sts"
    names = {"ct": "GTV_Mass_CT", "mr": "GTV_Mass_MR_T1"}
    written = {}
    for kind in ("dicom", "nifti"):
        table = [["patient", "phase", "modality", "image", "tumor"]]
        for m, name in names.items():
            cells = (
                (f"{dicom}/{m}/image", f"{dicom}/{m}/mask/RS.dcm#{name}")
                if kind == "dicom"
                else (f"{nifti}/sts003_{m}.nii.gz", f"{nifti}/sts003_{m}_tumor.nii.gz")
            )
            table.append(["sts003", "NC", m.upper(), *cells])
        with open(tmp_path / f"{kind}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(table)
        written[kind] = prepare(tmp_path / f"{kind}.csv", tmp_path / kind, PrepareOptions(128, field_of_view_mm=150.0))
        assert written[kind].problems == []
        assert ("pydicom" in written[kind].manifest["versions"]) == (kind == "dicom")
    pictures = [{(e["domain"], e["name"]): e for e in written[kind].manifest["slices"]} for kind in written]
    assert pictures[0].keys() == pictures[1].keys() and len(pictures[0]) == 18
    assert len({entry["series"] for entry in pictures[0].values()}) == 2
    # A DICOM identifier tells whose examination it is to whoever has the archive.
    assert "1.3.6.1.4.1.14519." not in (tmp_path / "dicom" / "manifest.json").read_text(encoding="utf-8")
    for (domain, name), entry in pictures[0].items():
        assert len(entry["series"]) == 16 and "series" not in pictures[1][domain, name]
        masks = [_pixels(tmp_path / kind / f"train{domain}_tumor" / f"{name}.png") > 0 for kind in written]
        assert (masks[0] & masks[1]).sum() >= 0.97 * (masks[0] | masks[1]).sum() > 0
        greys = [_pixels(tmp_path / kind / f"train{domain}" / f"{name}.png") for kind in written]
        assert np.abs(greys[0] - greys[1]).max() <= 1
