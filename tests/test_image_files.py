"""Images and masks are read as they are or refused by name; nothing is rescaled or guessed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from roi_progressive.errors import DataError, MaskError
from roi_progressive.evaluation.image_files import list_images, read_grey, read_mask, same_size


def test_grey_and_masks_are_read_pixel_by_pixel(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    inside = np.eye(3, 4, dtype=bool)
    Image.fromarray(grey).save(tmp_path / "x.png")
    Image.fromarray(inside.astype(np.uint8) * 255).save(tmp_path / "mask.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "x.png"), grey)
    mask = read_mask(tmp_path / "mask.png", grey.shape)
    np.testing.assert_array_equal(mask, inside)
    assert mask.dtype == np.bool_


def test_colour_is_read_as_grey(tmp_path: Path) -> None:
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    Image.fromarray(np.stack([grey] * 3, axis=-1)).save(tmp_path / "x.png")
    np.testing.assert_array_equal(read_grey(tmp_path / "x.png"), grey)


def test_sixteen_bit_images_and_label_masks_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((16, 16), np.uint8)).save(tmp_path / "labels.png")
    with pytest.raises(MaskError, match="0 and 255; got mode L and values up to 1"):
        read_mask(tmp_path / "labels.png", (16, 16))
    Image.fromarray(np.full((16, 16), 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(DataError, match="must be an 8-bit grey or RGB image; got mode I;16"):
        read_grey(tmp_path / "deep.png")


def test_another_size_is_refused_with_width_before_height(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 9), np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(MaskError, match=r"x\.png must have the size of its image, 16 x 12 px; got 9 x 8 px"):
        read_mask(tmp_path / "x.png", (12, 16))
    with pytest.raises(DataError, match=r"x\.png must have the size of the paired image, 16 x 12 px; got 9 x 8 px"):
        same_size(read_grey(tmp_path / "x.png"), np.zeros((12, 16), np.uint8), tmp_path / "x.png")


def test_missing_and_broken_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"broken")
    for read, error in ((read_grey, DataError), (lambda path: read_mask(path, (8, 8)), MaskError)):
        with pytest.raises(error, match=r"x\.png cannot be read as an image"):
            read(tmp_path / "x.png")
        with pytest.raises(error, match=r"nowhere\.png is missing"):
            read(tmp_path / "nowhere.png")


def test_only_png_files_are_listed_and_sorted(tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "notes.txt"):
        (tmp_path / name).touch()
    (tmp_path / "c.png").mkdir()
    assert list_images(tmp_path, "data") == ("a.PNG", "b.png")
