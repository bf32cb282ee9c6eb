"""Images and masks are read as they are or refused by name; nothing is rescaled or guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from roi_progressive.errors import DataError, MaskError
from roi_progressive.evaluation.conformal import with_sigma
from roi_progressive.evaluation.image_files import (
    Scale,
    list_images,
    list_pictures,
    read_grey,
    read_mask,
    read_picture,
    read_region,
    read_sigma,
    same_size,
)
from roi_progressive.evaluation.pairs import ImagePair, require_folders

EIGHT = np.array([[0, 1, 100], [127, 128, 255]], dtype=np.uint8)


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


# --- images of any folder, of either depth ----------------------------------------------------------------------------


def saved(path: Path, values: Any) -> Path:
    if path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)
    return path


@pytest.mark.parametrize("ending", ["png", "tif", "npy"])
def test_both_depths_of_the_same_image_are_the_same_picture(ending: str, tmp_path: Path) -> None:
    eight = read_picture(saved(tmp_path / f"eight.{ending}", EIGHT))
    deep = read_picture(saved(tmp_path / f"deep.{ending}", EIGHT.astype(np.uint16) * 257))
    np.testing.assert_array_equal(eight, EIGHT)
    np.testing.assert_allclose(deep, EIGHT, rtol=1e-14)
    assert eight.dtype == np.uint8 and deep.dtype == np.float64


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.integers(0, 65535), min_size=1, max_size=12))
def test_sixteen_bits_keep_their_differences(values: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """A reader that saturates or rounds to 8 bits would merge some of them."""
    path = saved(tmp_path_factory.mktemp("deep") / "x.png", np.array([values], dtype=np.uint16))
    picture = read_picture(path)
    np.testing.assert_allclose(picture[0], [value / 257 for value in values], rtol=1e-12)


def test_white_says_what_counts_as_255(tmp_path: Path) -> None:
    path = saved(tmp_path / "x.png", np.array([[0, 2048, 4095]], dtype=np.uint16))
    np.testing.assert_allclose(read_picture(path, Scale(white=4095.0)), [[0.0, 2048 * 255 / 4095, 255.0]])
    with pytest.raises(DataError, match=r"x\.png must lie in 0\.\.4000; got up to 4095; give another --white"):
        read_picture(path, Scale(white=4000.0))


def test_arrays_from_minus_one_to_one_are_the_scale_of_eight_bits(tmp_path: Path) -> None:
    values = np.array([[-1.0, 0.0, 1.0, -0.5]], dtype=np.float32)
    np.testing.assert_array_equal(read_picture(saved(tmp_path / "x.npy", values)), [[0.0, 127.5, 255.0, 63.75]])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (np.array([[0.0, 1.5]]), "must lie in"),
        (np.array([[0.0, np.nan]]), "must lie in"),
        (np.zeros((1, 2, 2)), "must be an array"),
        (np.zeros((2, 2), np.int64), "must be uint8, uint16 or floating-point; got int64"),
        (np.array([[{}]], dtype=object), "cannot be read as an array"),
    ],
)
def test_arrays_beyond_the_scale_are_refused(values: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"x\.npy {said}"):
        read_picture(saved(tmp_path / "x.npy", values))


@pytest.mark.parametrize("name", ["x.png", "x.npy"])
def test_broken_files_are_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(b"broken")
    with pytest.raises(DataError, match=f"{name} cannot be read as an"):
        read_picture(tmp_path / name)
    with pytest.raises(MaskError, match=f"{name} cannot be read as an"):
        read_region(tmp_path / name, (2, 2))


def test_masks_are_images_of_two_values_or_boolean_arrays(tmp_path: Path) -> None:
    mask = np.eye(3, dtype=bool)
    for path in (saved(tmp_path / "x.png", mask.astype(np.uint8) * 255), saved(tmp_path / "x.npy", mask)):
        np.testing.assert_array_equal(read_region(path, (3, 3)), mask)
        with pytest.raises(MaskError, match="3"):
            read_region(path, (4, 4))
    with pytest.raises(MaskError, match="must be bool"):
        read_region(saved(tmp_path / "x.npy", mask.astype(np.uint8)), (3, 3))


def test_a_folder_is_listed_by_names_without_endings(tmp_path: Path) -> None:
    for name in ("b.png", "a.npy", "notes.txt", "c.TIF"):
        (tmp_path / name).touch()
    assert {stem: path.name for stem, path in list_pictures(tmp_path, "real").items()} == {
        "a": "a.npy",
        "b": "b.png",
        "c": "c.TIF",
    }
    (tmp_path / "a.png").touch()
    with pytest.raises(DataError, match="`real` must hold each image once"):
        list_pictures(tmp_path, "real")
    with pytest.raises(DataError, match="`fake` must be a folder of images"):
        list_pictures(tmp_path / "b.png", "fake")


# --- maps of sigma ----------------------------------------------------------------------------------------------------


def test_a_float_map_is_read_before_the_rounded_one(tmp_path: Path) -> None:
    sigma = np.random.default_rng(0).uniform(0, 9, (8, 9)).astype(np.float32)
    Image.fromarray(np.full((8, 9), 7, dtype=np.uint8)).save(tmp_path / "x.png")
    assert (read_sigma(tmp_path, "x", (8, 9)) == 7).all()
    np.save(tmp_path / "x.npy", sigma)
    np.testing.assert_array_equal(read_sigma(tmp_path, "x", (8, 9)), sigma)
    image = np.zeros((8, 9))
    pair = ImagePair("x.tif", "p", "ART", "B2A", None, image, image, image > 0)
    [mapped] = with_sigma([pair], {"B2A": tmp_path})
    np.testing.assert_array_equal(mapped.sigma, sigma)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        (np.zeros((8, 8)), r"must be floating-point \(8, 9\)"),
        (np.zeros((8, 9), dtype=np.int64), "must be floating-point"),
        (np.full((8, 9), -1.0), "standard deviations"),
        (np.full((8, 9), np.nan), "standard deviations"),
        (b"broken", "cannot be read"),
        (None, "lacks x.npy"),
    ],
)
def test_a_map_that_cannot_be_used_is_named(values: Any, fault: str, tmp_path: Path) -> None:
    if isinstance(values, bytes):
        (tmp_path / "x.npy").write_bytes(values)
    elif values is not None:
        np.save(tmp_path / "x.npy", values)
    with pytest.raises(DataError, match=fault):
        read_sigma(tmp_path, "x", (8, 9))
    with pytest.raises(DataError, match="`sigma` must be a folder"):
        require_folders([tmp_path, tmp_path / "nowhere"])
