"""Slices in three dimensions: what is drawn at a voxel's place in the patient is found there, or the series is refused.

The right place is computed from the positions that the headers give, voxel by voxel, by nobody's reader.
"""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.series_geometry import plane_of, stack_of
from roi_progressive.data.volume_list import MaskFile, VolumeRow
from roi_progressive.data.volumes import read_volume
from roi_progressive.errors import DataError

sitk = pytest.importorskip("SimpleITK", reason='needs SimpleITK: pip install "roi-progressive[medical]"')
scans = pytest.importorskip("scans", reason='needs pydicom: pip install "roi-progressive[medical]"')


def read(folder, masks=None, modality="CT"):
    return read_volume(VolumeRow(2, "p", "NC", modality, folder, masks or {}))


def points_of(volume):
    """The place of every voxel, by the grid of the volume that was read."""
    image = volume.image
    index = np.stack(np.meshgrid(*map(np.arange, volume.array.shape), indexing="ij"), axis=-1)[..., ::-1]
    turn = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    return index @ turn.T + np.array(image.GetOrigin())


def in_place(volume, world=scans.body_with_rod, least=0.97):
    """Whether the volume shows the world at its places: the share of voxels within 30 HU, edges of the rod aside."""
    points = points_of(volume)
    inside = np.abs(np.hypot(*(points[..., :2] - scans.ROD_MM).transpose(3, 0, 1, 2)) - 8) > 2
    inside &= np.abs((points[..., 0] / 30) ** 2 + (points[..., 1] / 26) ** 2 - 1) > 0.2
    inside &= volume.array > -990  # air, and beyond the slices
    return inside.sum() > 1000 and (np.abs(volume.array - world(points))[inside] < 30).mean() >= least


def positions(**changes):
    found = scans.straight_positions()
    for name, change in changes.items():
        found[:, "xyz".index(name)] += change
    return found


K = np.arange(scans.SHAPE[0])
UPRIGHT = np.array(scans.AXIAL)


def leaning(degrees):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.array([1, 0, 0, 0, c, s])


def about(axis, degrees):
    from scipy.spatial.transform import Rotation

    turn = Rotation.from_rotvec(np.deg2rad(degrees) * np.array(axis, float)).as_matrix()
    return turn


LEGAL = {
    "straight": {},
    "positions of one decimal": {"positions": scans.straight_positions(step=1.25).round(1)},
    "positions of whole millimetres": {"positions": scans.straight_positions(step=3.3).round(0)},
    "positions of two decimals": {"positions": scans.straight_positions(step=0.625).round(2)},
    "positions of one decimal, half a millimetre apart": {"positions": scans.straight_positions(step=0.45).round(1)},
    "in no order": {"positions": scans.straight_positions()[np.random.default_rng(0).permutation(len(K))]},
    "from the head down": {"positions": scans.straight_positions()[::-1]},
    "orientation of four decimals": {"orientation": leaning(0.001).round(4)},
    "a hair aside": {"positions": positions(x=0.002 * K)},
}


@pytest.mark.parametrize("case", LEGAL)
def test_a_straight_stack_is_read_where_it_lies_and_nothing_is_said(tmp_path, case):
    scans.write_series(tmp_path / "ct", **LEGAL[case])
    volume = read(tmp_path / "ct")
    assert in_place(volume, least=0.999) and volume.notes == ()


@pytest.mark.parametrize("decimals", [1, 2, 3])
@pytest.mark.parametrize("seed", range(6))
def test_rounded_positions_of_any_orientation_are_legal(decimals, seed):
    from scipy.spatial.transform import Rotation

    turn = Rotation.random(random_state=seed).as_matrix()
    along = (np.arange(60)[:, None] * [0, 0, 1.25]) @ turn.T + [-120.3, 77.7, 31.9]
    axes = np.concatenate([turn[:, 0], turn[:, 1]]).round(6)
    planes = [plane_of("x", place, axes, (0.7, 0.7), (256, 256)) for place in along.round(decimals)]
    stack = stack_of(planes, "ct")
    assert stack.grid.drift_px is None and stack.grid.spacing_mm == pytest.approx((0.7, 0.7, 1.25), abs=2e-3)


@pytest.mark.parametrize("turn", [UPRIGHT, leaning(12)])
def test_pixels_that_are_no_squares_lie_where_they_say(tmp_path, turn):
    scans.write_series(tmp_path / "ct", orientation=turn, mm=(2.0, 1.7))
    volume = read(tmp_path / "ct")
    assert volume.spacing_mm[1:] == pytest.approx((2.0, 1.7)) and in_place(volume)


@pytest.mark.parametrize("degrees", [-22, -3, 8, 15, 30])
def test_a_tilted_gantry_is_read_in_place_with_its_contours_and_masks_and_said(tmp_path, degrees):
    turn = leaning(degrees)
    scans.write_series(tmp_path / "ct", orientation=turn)
    rings = []
    for position in scans.straight_positions():
        angle = np.linspace(0, 2 * np.pi, 65)[:-1]
        x, y = scans.ROD_MM[0] + 8 * np.cos(angle), scans.ROD_MM[1] + 8 * np.sin(angle)
        z = position[2] + (y - position[1]) * np.tan(np.deg2rad(degrees))
        rings.append(("CLOSED_PLANAR", np.stack([x, y, z], axis=1)))
    scans.write_rtstruct(tmp_path / "RS.dcm", {"rod": rings})
    points = scans.straight_points((60, 64, 64), (1.0, 1.0, 1.0)) - [0, 0, 12]
    mask = sitk.GetImageFromArray(scans.in_rod(points).astype(np.uint8))
    mask.SetOrigin(points[0, 0, 0].tolist())
    sitk.WriteImage(mask, str(tmp_path / "rod.nii.gz"))
    masks = {"drawn": MaskFile(tmp_path / "RS.dcm", contour="rod"), "upright": MaskFile(tmp_path / "rod.nii.gz")}
    volume = read(tmp_path / "ct", masks)
    assert in_place(volume)
    assert any(f"tilted by {abs(degrees):.1f} degrees" in note for note in volume.notes)
    shown = scans.in_rod(points_of(volume)) & (volume.array > -990)
    for found in volume.masks.values():
        assert 2 * (found & shown).sum() / (found.sum() + shown.sum()) > 0.93


@pytest.mark.parametrize("axis", ["x", "y"])
def test_a_steady_drift_sideways_is_read_in_place_and_said(tmp_path, axis):
    scans.write_series(tmp_path / "ct", positions=positions(**{axis: 0.7 * K}))
    volume = read(tmp_path / "ct")
    assert in_place(volume) and any("tilted" in note for note in volume.notes)


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)])
def test_a_straight_stack_of_any_orientation_is_read_in_place(tmp_path, axis):
    turn = about(np.array(axis) / np.linalg.norm(axis), 25)
    offset = (scans.straight_positions() - [0, 0, 0]) @ turn.T
    scans.write_series(tmp_path / "ct", positions=offset, orientation=np.concatenate([turn[:, 0], turn[:, 1]]))
    volume = read(tmp_path / "ct")
    assert in_place(volume, least=0.99) and volume.notes == ()


def turned_from(index, degrees=10):
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return np.where((index <= K)[:, None], [c, s, 0, -s, c, 0], UPRIGHT)


def _scout(folder):
    scans.write_series(folder)
    turn = (1, 0, 0, 0, 0, -1)
    scans.write_series(folder, positions=np.array([[-35, -16, 30.0]]), orientation=turn, name="scout.dcm", edit=_as_new)


def _as_new(index, content):
    content.SOPInstanceUID += ".9"


def _second(folder, shift, edit=None):
    """A second acquisition of the same series, its slices shifted along z."""
    scans.write_series(folder)
    second = positions(z=shift)

    def change(index, content):
        _as_new(index, content)
        content.AcquisitionNumber = 2
        if edit:
            edit(content)

    scans.write_series(folder, positions=second, name="second{:03d}.dcm", edit=change)
    for file in folder.glob("[0-9]*.dcm"):
        content = scans.pydicom.dcmread(file)
        content.AcquisitionNumber = 1
        content.save_as(file)


def _missing(folder, *indexes):
    files = scans.write_series(folder)
    for index in indexes:
        files[index].unlink()


SPOILT = {
    "a jump sideways": (lambda f: scans.write_series(f, positions=positions(x=20.0 * (K > 6))), "jump sideways"),
    "a jump of half a pixel": (lambda f: scans.write_series(f, positions=positions(y=1.0 * (K > 6))), "jump sideways"),
    "one slice aside": (lambda f: scans.write_series(f, positions=positions(y=4.0 * (K == 3))), "jump sideways"),
    "a change of pixel size": (
        lambda f: scans.write_series(f, mm=np.where((K > 6)[:, None], 1.5, [2.0, 2.0])),
        "one pixel size",
    ),
    "one other pixel size": (
        lambda f: scans.write_series(f, mm=np.where((K == 6)[:, None], 2.1, [2.0, 2.0])),
        "006.dcm.* has 2.1 x 2.1 mm",
    ),
    "a turn in the plane": (lambda f: scans.write_series(f, orientation=turned_from(7)), "orientation.*10.0 deg"),
    "a turn of one degree": (
        lambda f: scans.write_series(f, orientation=turned_from(7, 1)),
        "orientation.*1.0 deg",
    ),
    "a change of tilt": (
        lambda f: scans.write_series(f, orientation=np.where((K > 6)[:, None], leaning(12), UPRIGHT)),
        "one orientation",
    ),
    "a scout among the slices": (_scout, "scout.dcm.*90.0 degrees.*scout"),
    "a change of distance": (lambda f: scans.write_series(f, positions=positions(z=0.5 * K * (K > 6))), "evenly"),
    "a changing distance": (lambda f: scans.write_series(f, positions=positions(z=0.05 * K**2)), "evenly spaced"),
    "a missing slice": (lambda f: _missing(f, 5), "evenly spaced.*3.00 to 6.00"),
    "the second one missing": (lambda f: _missing(f, 1), "evenly spaced.*3.00 to 6.00"),
    "every slice twice": (lambda f: _second(f, 0.0), "up to 2 lie at one place.*acquisitions"),
    "two echoes": (
        lambda f: _second(f, 0.0, lambda content: setattr(content, "EchoTime", "80")),
        "up to 2 lie at one place.*echo times",
    ),
    "another acquisition between": (lambda f: _second(f, 1.5), "slices of 2 lie between each other"),
    "an orientation that is none": (
        lambda f: scans.write_series(f, edit=lambda i, c: setattr(c, "ImageOrientationPatient", [0, 0, 0, 0, 0, 0])),
        "right angles",
    ),
    "no position": (
        lambda f: scans.write_series(f, edit=lambda i, c: c.__delattr__("ImagePositionPatient") if i == 4 else None),
        "004.dcm in ct lacks its position",
    ),
    "no pixel size": (lambda f: scans.write_series(f, edit=lambda i, c: setattr(c, "PixelSpacing", [0, 0])), "above 0"),
    "slices beside each other": (lambda f: scans.write_series(f, positions=positions(x=9.0 * K)), "beside each other"),
    "slices of two tube voltages": (
        lambda f: scans.write_series(f, edit=lambda i, c: setattr(c, "KVP", 80 + 60 * (i % 2))),
        "2 tube voltages, 140, 80",
    ),
}


@pytest.mark.parametrize("case", SPOILT)
def test_a_series_that_is_no_stack_of_one_volume_is_refused_for_what_it_is(tmp_path, case):
    make, words = SPOILT[case]
    make(tmp_path / "ct")
    with pytest.raises(DataError, match=f"`image`.*{words}") as caught:
        read(tmp_path / "ct")
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize("step", [0.7, 1.0, 1.25, 3.0])
@pytest.mark.parametrize("decimals", [0, 1, 2])
def test_a_missing_slice_is_found_in_stacks_of_any_length_and_rounding(step, decimals):
    for count in (4, 5, 6, 9, 24):
        for gap in range(1, count - 1):
            depths = (np.delete(np.arange(count), gap) * step).round(decimals)
            if (np.abs(depths - np.delete(np.arange(count), gap) * step) > 1e-9).any() and decimals == 0:
                continue  # distances that whole millimetres cannot hold are refused or not, but never usual
            planes = [plane_of(f"{z}", (0, 0, z), scans.AXIAL, (2, 2), (8, 8)) for z in depths.tolist()]
            with pytest.raises(DataError, match="evenly spaced"):
                stack_of(planes, "ct")


def test_a_scanner_that_says_how_many_slices_there_should_be_is_heard(tmp_path):
    scans.write_series(tmp_path / "ct", edit=lambda i, c: setattr(c, "ImagesInAcquisition", 15))
    assert any("12 slices of an acquisition of 15" in note for note in read(tmp_path / "ct").notes)
