"""Folders become pairs one by one, references are what their names say, and wrong folders are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive.errors import ConfigError, DataError, MaskError
from roi_progressive.evaluation.pairs import constant_fill, copy_source, mean_image, pairs_from_folders

NAMES = ("p1_ART_003.png", "p1_PV_004.png", "p_2_ART_003.png")
SIZE_PX = 16


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Three test slices and four training slices per domain; the region is a rectangle, absent from the last slice."""
    rng = np.random.default_rng(0)
    for split, names in (("test", NAMES), ("train", tuple(f"t{i}_ART_000.png" for i in range(4)))):
        for k, name in enumerate(names):
            mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
            if k < len(names) - 1:
                mask[2 + k : 6 + k, 3:9] = 255
            for domain in "AB":
                write(tmp_path / f"{split}{domain}" / name, rng.integers(0, 256, mask.shape, dtype=np.uint8))
                write(tmp_path / f"{split}{domain}_tumor" / name, mask)
            write(tmp_path / "fake" / name, rng.integers(0, 256, mask.shape, dtype=np.uint8))
    return tmp_path


def pixels(path: Path) -> Any:
    return np.array(Image.open(path))


@pytest.mark.parametrize(("direction", "source", "real"), [("A2B", "testA", "testB"), ("B2A", "testB", "testA")])
def test_a_pair_is_source_truth_fake_and_the_sources_mask(data: Path, direction: str, source: str, real: str) -> None:
    write(data / f"{source}_tumor" / NAMES[0], np.eye(SIZE_PX, dtype=np.uint8) * 255)
    pairs = pairs_from_folders(data, "test", direction, data / "fake")
    assert len(pairs) == 3 and pairs.names == NAMES
    for name, pair in zip(NAMES, pairs, strict=True):
        assert (pair.name, pair.direction) == (name, direction)
        np.testing.assert_array_equal(pair.source, pixels(data / source / name))
        np.testing.assert_array_equal(pair.real, pixels(data / real / name))
        np.testing.assert_array_equal(pair.fake, pixels(data / "fake" / name))
        np.testing.assert_array_equal(pair.mask, pixels(data / f"{source}_tumor" / name) == 255)
        assert pair.mask.dtype == np.bool_ and pair.fake.dtype == np.uint8


def test_pairs_can_be_read_again_and_asked_for_by_name(data: Path) -> None:
    pairs = pairs_from_folders(data, "test", "A2B", data / "fake")
    assert [pair.name for pair in pairs] == [pair.name for pair in pairs]
    np.testing.assert_array_equal(pairs[NAMES[1]].fake, pixels(data / "fake" / NAMES[1]))
    with pytest.raises(DataError, match=r"'nobody\.png'"):
        pairs["nobody.png"]


def test_pairs_are_read_only_when_they_are_asked_for(data: Path) -> None:
    (data / "fake" / NAMES[1]).write_bytes(b"broken")
    pairs = iter(pairs_from_folders(data, "test", "A2B", data / "fake"))
    assert next(pairs).name == NAMES[0]
    with pytest.raises(DataError, match=f"{NAMES[1]} cannot be read"):
        next(pairs)


def test_patient_and_phase_come_from_the_name(data: Path) -> None:
    pairs = pairs_from_folders(data, "test", "A2B", data / "fake")
    assert [(p.patient, p.phase) for p in pairs] == [("p1", "ART"), ("p1", "PV"), ("p_2", "ART")]


@pytest.mark.parametrize("ending", ["", ".png"])
def test_the_manifest_overrules_the_name(data: Path, ending: str) -> None:
    rows = [{"name": f"p1_PV_004{ending}", "split": "test", "domain": "A", "patient": 7, "phase": "NC"}]
    rows.append({"name": f"p1_ART_003{ending}", "split": "val", "domain": "A", "patient": "x", "phase": "x"})
    (data / "manifest.json").write_text(json.dumps({"format": 1, "slices": rows}))
    pairs = pairs_from_folders(data, "test", "A2B", data / "fake")
    assert [(p.patient, p.phase) for p in pairs] == [("p1", "ART"), ("7", "NC"), ("p_2", "ART")]


def test_a_broken_manifest_is_named(data: Path) -> None:
    for text in ("{", '{"slices": [{}]}', "[]", '{"slices": [{"split": "test", "name": 3}]}'):
        (data / "manifest.json").write_text(text)
        with pytest.raises(DataError, match=r"manifest\.json must be"):
            pairs_from_folders(data, "test", "A2B", data / "fake")


def test_colour_is_read_as_grey(data: Path) -> None:
    image = pixels(data / "fake" / NAMES[0])
    write(data / "fake" / NAMES[0], np.stack([image] * 3, axis=-1))
    np.testing.assert_array_equal(pairs_from_folders(data, "test", "A2B", data / "fake")[NAMES[0]].fake, image)


def test_the_source_stands_for_a_model_that_is_not_there(data: Path) -> None:
    for pair in pairs_from_folders(data, "test", "A2B", None):
        np.testing.assert_array_equal(pair.fake, pair.source)


def test_copy_source_is_the_source(data: Path) -> None:
    for pair in copy_source(pairs_from_folders(data, "test", "B2A", data / "fake")):
        np.testing.assert_array_equal(pair.fake, pixels(data / "testB" / pair.name))


def test_mean_image_is_the_mean_of_the_targets_training_images(data: Path) -> None:
    expected = np.rint(np.mean([pixels(path) for path in (data / "trainB").glob("*.png")], axis=0))
    for pair in mean_image(pairs_from_folders(data, "test", "A2B", None), data):
        np.testing.assert_array_equal(pair.fake, expected)


def test_constant_fill_is_the_mean_image_with_the_regions_mean_grey(data: Path) -> None:
    images = [pixels(data / "trainA" / f"t{i}_ART_000.png") for i in range(4)]
    masks = [pixels(data / "trainA_tumor" / f"t{i}_ART_000.png") == 255 for i in range(4)]
    grey = round(np.concatenate([image[mask] for image, mask in zip(images, masks, strict=True)]).mean())
    background = np.rint(np.mean(images, axis=0))
    for pair in list(constant_fill(pairs_from_folders(data, "test", "B2A", None), data)):
        np.testing.assert_array_equal(pair.fake, np.where(pair.mask, grey, background))


def test_constant_fill_needs_the_region_in_training(data: Path) -> None:
    for path in (data / "trainB_tumor").glob("*.png"):
        write(path, np.zeros((SIZE_PX, SIZE_PX), np.uint8))
    with pytest.raises(DataError, match=r"all masks in .*trainB_tumor are empty"):
        list(constant_fill(pairs_from_folders(data, "test", "A2B", None), data))


def test_training_images_of_another_size_are_refused(data: Path) -> None:
    for path in (data / "trainB").glob("*.png"):
        write(path, np.zeros((8, 9), np.uint8))
    with pytest.raises(DataError, match="16 x 16 px; got 9 x 8 px"):
        next(mean_image(pairs_from_folders(data, "test", "A2B", None), data))


def test_an_unknown_direction_is_refused(data: Path) -> None:
    with pytest.raises(ConfigError, match="A2B or B2A; got 'AtoB'"):
        pairs_from_folders(data, "test", "AtoB", None)


def test_missing_and_empty_folders_are_named(data: Path) -> None:
    with pytest.raises(DataError, match="valA, which is missing"):
        pairs_from_folders(data, "val", "A2B", None)
    with pytest.raises(DataError, match=r"`fake_dir` needs the folder .*nowhere"):
        pairs_from_folders(data, "test", "A2B", data / "nowhere")
    (data / "empty").mkdir()
    with pytest.raises(DataError, match=r"`fake_dir` needs PNG images in .*empty"):
        pairs_from_folders(data, "test", "A2B", data / "empty")
    with pytest.raises(MaskError, match=r"`region` 'liver' needs the mask folder .*testA_liver"):
        pairs_from_folders(data, "test", "A2B", None, region="liver")


@pytest.mark.parametrize("folder", ["testA", "testB", "fake"])
def test_an_unpaired_name_is_named(data: Path, folder: str) -> None:
    (data / folder / NAMES[1]).unlink()
    with pytest.raises(DataError, match=f"{folder} lacks {NAMES[1]}; "):
        pairs_from_folders(data, "test", "A2B", data / "fake")


def test_a_missing_mask_is_named(data: Path) -> None:
    (data / "testB_tumor" / NAMES[2]).unlink()
    with pytest.raises(MaskError, match=f"testB_tumor lacks {NAMES[2]}; "):
        pairs_from_folders(data, "test", "B2A", None)


def test_a_name_that_tells_no_patient_is_refused(data: Path) -> None:
    for folder in ("testA", "testB", "testA_tumor"):
        write(data / folder / "liver7.png", np.zeros((SIZE_PX, SIZE_PX), np.uint8))
    with pytest.raises(DataError, match=r"liver7\.png must be named"):
        pairs_from_folders(data, "test", "A2B", None)


@pytest.mark.parametrize(("folder", "error"), [("testB", DataError), ("fake", DataError), ("testA_tumor", MaskError)])
def test_another_size_is_refused(data: Path, folder: str, error: type[Exception]) -> None:
    write(data / folder / NAMES[0], np.zeros((SIZE_PX, 12), np.uint8))
    with pytest.raises(error, match="16 x 16 px; got 12 x 16 px"):
        next(iter(pairs_from_folders(data, "test", "A2B", data / "fake")))


def test_sixteen_bit_images_and_label_masks_are_refused(data: Path) -> None:
    write(data / "testA_tumor" / NAMES[0], np.ones((SIZE_PX, SIZE_PX), np.uint8))
    with pytest.raises(MaskError, match="0 and 255; got mode L and values up to 1"):
        pairs_from_folders(data, "test", "A2B", None)[NAMES[0]]
    write(data / "testA" / NAMES[0], np.full((SIZE_PX, SIZE_PX), 3000, np.uint16))
    with pytest.raises(DataError, match="must be an 8-bit grey or RGB image; got mode I;16"):
        pairs_from_folders(data, "test", "A2B", None)[NAMES[0]]
