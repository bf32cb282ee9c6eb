"""What a contact sheet shows, on hand-made pictures: which slice, outlined where, and how many at most."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from roi_progressive.data.contact_sheet import COLOURS, MOST_SCANS, TILE_PX, contact_sheet


def entry(patient, index, area, domain="A", split="train"):
    areas = {"tumor": area, "liver": 0}
    name = f"{patient}_NC_{index:03d}"
    return {
        "name": name,
        "split": split,
        "domain": domain,
        "patient": patient,
        "phase": "NC",
        "index": index,
        "region_areas_px": areas,
    }


@pytest.fixture
def draw(tmp_path):
    """Write the picture and masks of an entry: grey, and a disc of tumour."""

    def drawn(of, grey=100, disc=None):
        folder = tmp_path / f"{of['split']}{of['domain']}"
        empty = np.zeros((TILE_PX, TILE_PX), np.uint8)
        tumor = empty if disc is None else np.where(disc, 255, 0).astype(np.uint8)
        for name, pixels in (
            (folder.name, empty + grey),
            (f"{folder.name}_tumor", tumor),
            (f"{folder.name}_liver", empty),
        ):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / name / f"{of['name']}.png")
        return of

    return drawn


def where(sheet, colour):
    return (np.asarray(sheet) == colour).all(axis=-1)


def test_the_outline_is_the_inner_edge_of_the_mask(draw, tmp_path):
    rows, columns = np.indices((TILE_PX, TILE_PX))
    disc = np.hypot(rows - 60, columns - 90) < 30
    sheet = contact_sheet(tmp_path, "train", [draw(entry("p1", 3, 9), disc=disc)], ["tumor", "liver"])
    edge = disc & ~ndimage.binary_erosion(disc)
    rows, columns = np.nonzero(ndimage.binary_opening(where(sheet, (100, 100, 100)), np.ones((9, 9))))  # no letters
    tile = slice(rows.min(), rows.min() + TILE_PX), slice(columns.min(), columns.min() + TILE_PX)
    found = where(sheet, COLOURS[0])[tile]
    assert (found == edge).all() and edge.sum() > 100


def test_of_every_patient_the_slice_with_the_largest_tumour_is_shown_b_below_a(draw, tmp_path):
    shown = [draw(entry("p1", 4, 50), 180), draw(entry("p2", 1, 5), 150), draw(entry("p1", 4, 50, "B"), 120)]
    others = [draw(entry("p1", 3, 49), 60), draw(entry("p2", 2, 4), 70), draw(entry("p9", 2, 99, split="test"), 80)]
    sheet = contact_sheet(tmp_path, "train", [*others, *shown], ["tumor", "liver"])
    middles = {grey: np.argwhere(where(sheet, (grey,) * 3)).mean(axis=0) for grey in (180, 150, 120)}
    tiles = {grey: where(sheet, (grey,) * 3).sum() >= TILE_PX**2 for grey in (60, 70, 80, 120, 150, 180)}
    assert tiles == {60: False, 70: False, 80: False, 120: True, 150: True, 180: True}
    assert middles[120][0] > middles[180][0] + TILE_PX * 0.9 and abs(middles[120][1] - middles[180][1]) < 2
    assert middles[150][1] > middles[180][1] + TILE_PX * 0.9


def test_a_split_without_slices_has_no_sheet(tmp_path):
    assert contact_sheet(tmp_path, "val", [], ["tumor"]) is None


def test_a_sheet_stops_growing(draw, tmp_path):
    entries = [draw(entry(f"p{number:03d}", 0, 1)) for number in range(MOST_SCANS + 9)]
    heights = [contact_sheet(tmp_path, "train", entries[:n], ["tumor"]).size[1] for n in (1, 9, MOST_SCANS, None)]
    assert heights[0] < heights[1] < heights[2] == heights[3]
