"""One DICOM file for a volume: its frames land where they say they lie, or the file is called what it is."""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.volume_list import VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans", reason='needs pydicom: pip install "roi-progressive[medical]"')

POSITIONS = scans.straight_positions()
TRUE = scans.body_with_rod(scans.straight_points())
COUNT = len(POSITIONS)


def read(path, modality="CT"):
    return read_volume(VolumeRow(2, "p", "NC", modality, path, {}))


ORDERS = {
    "from the feet": range(COUNT),
    "from the head": range(COUNT)[::-1],
    "every second first": [*range(0, COUNT, 2), *range(1, COUNT, 2)],
    "at random": np.random.default_rng(3).permutation(COUNT),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("slopes", [1.0, 1.0 + np.arange(COUNT) % 3 * 0.5])
def test_frames_lie_where_they_say_whatever_their_order_and_their_slope(tmp_path, order, slopes):
    path = scans.write_multiframe(tmp_path / "x.dcm", positions=POSITIONS[list(ORDERS[order])], slopes=slopes)
    volume = read(path)
    assert np.abs(volume.array - TRUE).max() <= 1.0  # of the coarsest slope
    assert volume.spacing_mm == pytest.approx(scans.SPACING)
    assert volume.image.GetOrigin() == pytest.approx(scans.ORIGIN) and volume.notes == ()


def test_a_file_is_the_same_volume_as_its_slices_one_by_one(tmp_path):
    scans.write_series(tmp_path / "series")
    one_by_one, whole = read(tmp_path / "series"), read(scans.write_multiframe(tmp_path / "x.dcm"))
    assert (one_by_one.array == whole.array).all()
    assert one_by_one.image.GetOrigin() == pytest.approx(whole.image.GetOrigin())


def test_what_a_frame_says_itself_comes_before_what_all_share(tmp_path):
    def edit(index, groups):
        groups.PlaneOrientationSequence = [scans.item(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])]

    path = scans.write_multiframe(
        tmp_path / "x.dcm", TRUE, scans.ORIGIN + np.arange(12)[:, None] * [-3, 0, 0], edit=edit
    )
    volume = read(path)
    assert volume.spacing_mm == pytest.approx((2, 2, 3))  # sagittal frames, turned to axial
    assert np.sort(volume.array.ravel()) == pytest.approx(np.sort(TRUE.ravel()))


def test_tilted_frames_are_straightened_and_it_is_said(tmp_path):
    lean = [1, 0, 0, 0, float(np.cos(0.2)), float(np.sin(0.2))]
    planes = np.array([scans.body_with_rod(scans.plane_points(p, lean)) for p in POSITIONS])

    def edit(index, groups):
        groups.PlaneOrientationSequence = [scans.item(ImageOrientationPatient=lean)]

    volume = read(scans.write_multiframe(tmp_path / "x.dcm", planes, edit=edit))
    assert any("frames of x.dcm are tilted by 11.5 degrees" in note for note in volume.notes)


def test_padding_follows_its_frames(tmp_path):
    values = TRUE + 1100
    values[COUNT - 1, :5, :5] = 65535  # the frame at the head, which is stored first

    def pad(content):
        content.add_new((0x0028, 0x0120), "US", 65535)

    order = range(COUNT)[::-1]
    path = scans.write_multiframe(
        tmp_path / "x.dcm", values[list(order)], POSITIONS[list(order)], "MR", intercept=0.0, edit_file=pad
    )
    read_back = read(path, "MR").array
    assert (read_back[-1, :5, :5] == 100).all() and read_back.max() == values[0].max()


def per_frame(sequence, **elements):
    def edit(index, groups):
        setattr(groups, sequence, [scans.item(**{key: value(index) for key, value in elements.items()})])

    return edit


def in_content(key, value):
    def edit(index, groups):
        setattr(groups.FrameContentSequence[0], key, value(index))

    return edit


def _of_kind(uid, **elements):
    def edit(content):
        content.SOPClassUID = content.file_meta.MediaStorageSOPClassUID = f"1.2.840.10008.5.1.4.1.1.{uid}"
        for key, value in elements.items():
            setattr(content, key, value)

    return edit


def _colour(content):
    content.SamplesPerPixel, content.PhotometricInterpretation, content.PlanarConfiguration = 3, "RGB", 0
    content.PixelData = 3 * content.PixelData


def _without_groups(content):
    del content.PerFrameFunctionalGroupsSequence, content.SharedFunctionalGroupsSequence


TWICE = np.concatenate([POSITIONS, POSITIONS])
REFUSED = {
    "every place twice": ({"positions": TWICE}, "up to 2 frames lie at one place"),
    "two echoes": (
        {"positions": TWICE, "edit": per_frame("MREchoSequence", EffectiveEchoTime=lambda i: 10.0 + 70 * (i >= COUNT))},
        "2 echoes, 10.0, 80.0",
    ),
    "two time points": (
        {"positions": TWICE, "edit": in_content("TemporalPositionIndex", lambda i: 1 + i // COUNT)},
        "2 time points",
    ),
    "two stacks": ({"edit": in_content("StackID", lambda i: str(i // 6))}, "2 stacks"),
    "two diffusion weights": (
        {"edit": per_frame("MRDiffusionSequence", DiffusionBValue=lambda i: 800.0 * (i % 2))},
        "2 b-values",
    ),
    "no geometry": ({"place": False}, "frame 1 of x.dcm lacks its position, orientation or pixel spacing"),
    "no position of one frame": (
        {"edit": lambda i, g: g.__delattr__("PlanePositionSequence") if i == 4 else None},
        "frame 5 of x.dcm lacks its position",
    ),
    "no functional groups": ({"edit_file": _without_groups}, "nothing of where its 12 frames lie"),
    "a gap": ({"positions": np.delete(POSITIONS, 5, axis=0)}, "evenly spaced frames.*3.00 to 6.00"),
    "a frame aside": ({"positions": POSITIONS + 9.0 * (np.arange(COUNT) == 3)[:, None] * [1, 0, 0]}, "jump sideways"),
    "a single frame": ({"positions": POSITIONS[:1]}, "is a single slice; name the folder"),
    "a segmentation": ({"edit_file": _of_kind("66.4", Modality="SEG")}, "Segmentation Storage.*region's column"),
    "a dose": ({"edit_file": _of_kind("481.2", Modality="RTDOSE")}, "RT Dose Storage; name the scan"),
    "a secondary capture": ({"edit_file": _of_kind("7.3")}, "Secondary Capture.*; name the scan"),
    "in colour": ({"edit_file": _colour}, "grey values; x.dcm is in colour .RGB."),
    "cut short": ({"edit_file": lambda c: setattr(c, "PixelData", c.PixelData[:-500])}, "x.dcm is cut short"),
    "another modality": ({"edit_file": lambda c: setattr(c, "Modality", "MR")}, "modality CT; x.dcm is of modality MR"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_volume_of_the_modality_is_refused_for_what_it_is(tmp_path, case):
    settings, words = REFUSED[case]
    values = np.concatenate([TRUE, TRUE]) if len(settings.get("positions", POSITIONS)) > COUNT else scans.body_with_rod
    scans.write_multiframe(tmp_path / "x.dcm", values, **settings)
    with pytest.raises(DataError, match=f"`image`.*{words}") as caught:
        read(tmp_path / "x.dcm")
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_contours_given_as_an_image_and_a_lone_slice_are_called_what_they_are(tmp_path):
    scans.write_rtstruct(tmp_path / "RS.dcm", {"GTV": []})
    with pytest.raises(DataError, match=r"must be a scan; RS\.dcm is RT Structure Set Storage"):
        read(tmp_path / "RS.dcm")
    slices = scans.write_series(tmp_path / "ct")
    with pytest.raises(DataError, match=r"000\.dcm is a single slice; name the folder of its series"):
        read(slices[0])
