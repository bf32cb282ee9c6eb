"""What the contours of a slice enclose together, against matplotlib's polygons, and which contours are taken at all."""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.contours import contour_mask
from roi_progressive.data.stored_volume import DicomOrigin
from roi_progressive.data.volume_list import MaskFile, VolumeRow, read_volume_list
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans", reason='needs pydicom: pip install "roi-progressive[medical]"')
path = pytest.importorskip("matplotlib.path")

CLOSED, XOR = "CLOSED_PLANAR", "CLOSEDPLANAR_XOR"
DEPTHS = scans.straight_positions()[:, 2]
POINTS = scans.straight_points()[0, :, :, :2]


def grid():
    image = sitk.GetImageFromArray(np.zeros(scans.SHAPE, np.uint8))
    image.SetSpacing(scans.SPACING[::-1])
    image.SetOrigin(scans.ORIGIN.tolist())
    return image


def circle(x, y, radius, points=48, start=0.1, backwards=False):
    angle = 2 * np.pi * np.arange(points) / points + start
    angle = angle[::-1] if backwards else angle
    return np.stack([x + radius * np.cos(angle), y + radius * np.sin(angle)], axis=1)


def box(left, top, right, bottom):
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], float)


def inside(line):
    return path.Path(line).contains_points(POINTS.reshape(-1, 2)).reshape(scans.SHAPE[1:])


def at(line, index=5):
    return np.column_stack([line, np.full(len(line), DEPTHS[index])])


def filled(tmp_path, *drawn, notes=None, **settings):
    """The mask of slice 5, of contours ``(type, points)``."""
    file = scans.write_rtstruct(tmp_path / "RS.dcm", {"GTV": [(kind, at(line)) for kind, line in drawn]}, **settings)
    mask = contour_mask("tumor", file, "GTV", grid(), notes=notes)
    assert not np.delete(mask, 5, axis=0).any()
    return mask[5]


A, B, FAR = circle(-4, 0, 13), circle(8, 3, 11), circle(-20, -20, 6)
HOLE, ISLAND = circle(-5, 1, 8), circle(-5, 1, 4)
LEFT, RIGHT = box(-16, -12, 4, 10), box(4, -12, 18, 10)
STEP = box(-16, -12, -2, 2)


@pytest.mark.parametrize("kind", [CLOSED, "INTERPOLATED_PLANAR"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([A], inside(A)),
        ([A, A], inside(A)),
        ([A, A, A], inside(A)),
        ([A, circle(-4, 0, 13, start=1.3)], inside(A)),
        ([A, circle(-4, 0, 13, backwards=True)], inside(A)),
        ([A, A.round(1)], inside(A)),
        ([A, B], inside(A) | inside(B)),
        ([A, B, FAR], inside(A) | inside(B) | inside(FAR)),
        ([LEFT, RIGHT], inside(box(-16, -12, 18, 10))),
        ([LEFT, STEP], inside(LEFT)),
        ([A, HOLE], inside(A) & ~inside(HOLE)),
        ([HOLE, A], inside(A) & ~inside(HOLE)),
        ([A, HOLE, ISLAND], (inside(A) & ~inside(HOLE)) | inside(ISLAND)),
        ([A, HOLE, A, HOLE], inside(A) & ~inside(HOLE)),
        ([A, HOLE, B], (inside(A) & ~inside(HOLE)) | inside(B)),
        ([A, HOLE, FAR], (inside(A) & ~inside(HOLE)) | inside(FAR)),
        ([A, circle(-9, 0, 4), circle(2, 1, 4)], inside(A) & ~inside(circle(-9, 0, 4)) & ~inside(circle(2, 1, 4))),
    ],
)
def test_closed_contours_are_added_and_one_inside_another_is_a_hole(tmp_path, kind, lines, expected):
    assert expected.sum() > 50
    assert (filled(tmp_path, *((kind, line) for line in lines)) == expected).all()


@pytest.mark.parametrize("lines", [[A, B], [A, HOLE], [A, B, HOLE], [A, HOLE, ISLAND], [LEFT, STEP]])
def test_only_contours_of_the_xor_type_exclude_each_other(tmp_path, lines):
    expected = np.logical_xor.reduce([inside(line) for line in lines])
    assert (filled(tmp_path, *((XOR, line) for line in lines)) == expected).all()


def test_a_bay_is_no_hole_though_all_corners_of_the_other_lie_inside(tmp_path):
    bay = np.array([(-20, -20), (20, -20), (20, 20), (4, 20), (4, -12), (-4, -12), (-4, 20), (-20, 20)], float)
    across = np.array([(-12, 0), (12, 0), (12, 6), (-12, 6)], float)
    assert (filled(tmp_path, (CLOSED, bay), (CLOSED, across)) == inside(bay) | inside(across)).all()


def test_a_key_hole_is_a_hole(tmp_path):
    outer, inner = circle(-4, 0, 13), circle(-4, 0, 6, backwards=True)
    line = np.concatenate([outer, outer[:1], inner[-1:], inner, outer[:1]])
    assert (filled(tmp_path, (CLOSED, line)) == inside(outer) & ~inside(inner)).all()


@pytest.mark.parametrize("count", [1, 2])
def test_contours_that_enclose_nothing_are_passed_over_with_a_word(tmp_path, count):
    notes = []
    assert (filled(tmp_path, (CLOSED, A), (CLOSED, B[:count]), notes=notes) == inside(A)).all()
    assert len(notes) == 1 and f"1 contours of 'GTV' in RS.dcm enclose nothing, of {count}" in notes[0]
    with pytest.raises(DataError, match=f"three points or more.*one of {count} and no other"):
        filled(tmp_path, (CLOSED, B[:count]))


def test_points_and_open_lines_beside_closed_ones_are_passed_over_with_a_word(tmp_path):
    notes = []
    assert (filled(tmp_path, (CLOSED, A), ("POINT", B[:1]), ("OPEN_PLANAR", B), notes=notes) == inside(A)).all()
    assert notes == ["2 open contours or points of 'GTV' in RS.dcm were passed over"]


def drawn_on(tmp_path, indexes, **settings):
    rings = [(CLOSED, np.column_stack([A, np.full(len(A), scans.ORIGIN[2] + 3.0 * k)])) for k in indexes]
    return scans.write_rtstruct(tmp_path / "RS.dcm", {"GTV": rings}, **settings)


def test_contours_beyond_the_slices_and_on_every_second_one_are_said(tmp_path):
    notes = []
    mask = contour_mask("tumor", drawn_on(tmp_path, range(9, 15)), "GTV", grid(), notes=notes)
    assert mask.any(axis=(1, 2)).sum() == 3
    assert len(notes) == 1 and "3 of 6 contours of 'GTV' in RS.dcm lie beyond the image's slices" in notes[0]
    notes.clear()
    contour_mask("tumor", drawn_on(tmp_path, range(2, 10, 2)), "GTV", grid(), notes=notes)
    assert len(notes) == 1 and "on every 2th slice only" in notes[0]
    notes.clear()
    contour_mask("tumor", drawn_on(tmp_path, [2, 3, 4, 8, 9]), "GTV", grid(), notes=notes)
    assert notes == []


def origin(frame=scans.FRAME, instances=()):
    return DicomOrigin("1.2", frame, frozenset(instances))


def test_contours_of_another_frame_of_reference_are_refused_but_for_those_that_name_the_very_slices(tmp_path):
    other = drawn_on(tmp_path, range(3, 6), frame=scans.OTHER_FRAME)
    with pytest.raises(DataError, match=r"'GTV' in RS\.dcm is of another frame of reference"):
        contour_mask("tumor", other, "GTV", grid(), origin())
    notes = []
    other = drawn_on(tmp_path, range(3, 6), frame=scans.OTHER_FRAME, images=["1.2.3"])
    assert contour_mask("tumor", other, "GTV", grid(), origin(instances=["1.2.3", "1.2.4"]), notes).any()
    assert len(notes) == 1 and "another frame of reference" in notes[0]
    with pytest.raises(DataError, match="another frame of reference"):
        contour_mask("tumor", other, "GTV", grid(), origin(instances=["1.2.4"]))


def test_contours_that_name_the_series_they_were_drawn_on_are_its(tmp_path):
    file = drawn_on(tmp_path, range(3, 6), frame=scans.OTHER_FRAME)
    content = scans.pydicom.dcmread(file)
    series = scans.item(SeriesInstanceUID="1.2")
    study = scans.item(RTReferencedSeriesSequence=[series])
    item = scans.item(FrameOfReferenceUID=scans.OTHER_FRAME, RTReferencedStudySequence=[study])
    content.ReferencedFrameOfReferenceSequence = [item]
    content.save_as(file)
    notes = []
    assert contour_mask("tumor", file, "GTV", grid(), origin(), notes).any() and len(notes) == 1
    with pytest.raises(DataError, match="another frame of reference"):
        contour_mask("tumor", file, "GTV", grid(), DicomOrigin("1.3", scans.FRAME, frozenset()))


@pytest.mark.parametrize(
    ("frame", "of_image"),
    [(scans.FRAME, origin()), (None, origin()), (scans.OTHER_FRAME, None), (scans.OTHER_FRAME, origin(None))],
)
def test_contours_are_taken_where_nothing_says_that_they_are_of_another_frame(tmp_path, frame, of_image):
    notes = []
    file = drawn_on(tmp_path, range(3, 6), frame=frame)
    assert contour_mask("tumor", file, "GTV", grid(), of_image, notes).sum() == 3 * inside(A).sum()
    assert notes == []


def row(image, mask):
    return VolumeRow(2, "p", "NC", "CT", image, {"tumor": mask})


def test_contours_in_a_file_without_an_ending_are_found_by_any_name(tmp_path):
    scans.write_series(tmp_path / "ct")
    names = {"1": A, "1+2": B, "Läsion #2": HOLE}
    structures = {name: [(CLOSED, at(line))] for name, line in names.items()}
    scans.write_rtstruct(tmp_path / "RS", structures)
    for name, line in names.items():
        (tmp_path / "scans.csv").write_text(
            f"patient,phase,modality,image,tumor\np,NC,CT,ct,RS#{name}\n", encoding="utf-8"
        )
        read = read_volume(read_volume_list(tmp_path / "scans.csv").rows[0])
        assert (read.masks["tumor"][5] == inside(line)).all()


@pytest.mark.parametrize(("name", "way_out"), [("RS", "write `"), ("RS.dcm", "write 'RS.dcm#GTV'")])
def test_a_file_without_a_name_lists_its_contours(tmp_path, name, way_out):
    scans.write_series(tmp_path / "ct")
    scans.write_rtstruct(tmp_path / name, {"GTV": [(CLOSED, at(A))], "CTV 1": []})
    (tmp_path / "scans.csv").write_text(f"patient,phase,modality,image,tumor\np,NC,CT,ct,{name}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"'GTV', 'CTV 1'.*{way_out}") as caught:
        read_volume(read_volume_list(tmp_path / "scans.csv").rows[0])
    assert "\n" not in str(caught.value)


def test_the_series_frame_of_reference_reaches_the_contours(tmp_path):
    files = scans.write_series(tmp_path / "ct")
    drawn_on(tmp_path, range(3, 6), frame=scans.OTHER_FRAME)
    mask = MaskFile(tmp_path / "RS.dcm", contour="GTV")
    with pytest.raises(DataError, match="another frame of reference"):
        read_volume(row(tmp_path / "ct", mask))
    uids = [scans.pydicom.dcmread(file).SOPInstanceUID for file in files]
    drawn_on(tmp_path, range(3, 6), frame=scans.OTHER_FRAME, images=uids[3:6])
    volume = read_volume(row(tmp_path / "ct", mask))
    assert volume.masks["tumor"].any() and len(volume.notes) == 1
