"""The trivial references are what their names say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive.errors import DataError
from roi_progressive.evaluation.pairs import pairs_from_folders
from roi_progressive.evaluation.references import constant_fill, copy_source, mean_image


def pixels(path: Path) -> Any:
    return np.array(Image.open(path))


def test_copy_source_is_the_source(paired_data: Path) -> None:
    for pair in copy_source(pairs_from_folders(paired_data, "test", "B2A", paired_data / "fake")):
        np.testing.assert_array_equal(pair.fake, pixels(paired_data / "testB" / pair.name))


def test_mean_image_is_the_mean_of_the_targets_training_images(paired_data: Path) -> None:
    expected = np.rint(np.mean([pixels(path) for path in (paired_data / "trainB").glob("*.png")], axis=0))
    for pair in mean_image(pairs_from_folders(paired_data, "test", "A2B", None), paired_data):
        np.testing.assert_array_equal(pair.fake, expected)


def test_constant_fill_is_the_mean_image_with_the_regions_mean_grey(paired_data: Path) -> None:
    images = [pixels(paired_data / "trainA" / f"t{i}_ART_000.png") for i in range(4)]
    masks = [pixels(paired_data / "trainA_tumor" / f"t{i}_ART_000.png") == 255 for i in range(4)]
    grey = round(np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)]).mean())
    background = np.rint(np.mean(images, axis=0))
    for pair in list(constant_fill(pairs_from_folders(paired_data, "test", "B2A", None), paired_data)):
        np.testing.assert_array_equal(pair.fake, np.where(pair.mask, grey, background))


def test_constant_fill_needs_the_region_in_training(paired_data: Path) -> None:
    for path in (paired_data / "trainB_tumor").glob("*.png"):
        Image.fromarray(np.zeros((16, 16), np.uint8)).save(path)
    with pytest.raises(DataError, match=r"all masks in .*trainB_tumor are empty"):
        list(constant_fill(pairs_from_folders(paired_data, "test", "A2B", None), paired_data))


def test_training_images_of_another_size_are_refused(paired_data: Path) -> None:
    for path in (paired_data / "trainB").glob("*.png"):
        Image.fromarray(np.zeros((8, 9), np.uint8)).save(path)
    with pytest.raises(DataError, match="16 x 16 px; got 9 x 8 px"):
        next(mean_image(pairs_from_folders(paired_data, "test", "A2B", None), paired_data))
