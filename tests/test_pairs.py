"""Folders become pairs one by one, and wrong folders are refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive.errors import ConfigError, DataError, MaskError
from roi_progressive.evaluation.pairs import pairs_from_folders

NAMES = ("p1_ART_003.png", "p1_PV_004.png", "p_2_ART_003.png")
SIZE_PX = 16


def write(path: Path, values: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values)).save(path)


def pixels(path: Path) -> Any:
    return np.array(Image.open(path))


@pytest.mark.parametrize(("direction", "source", "real"), [("A2B", "testA", "testB"), ("B2A", "testB", "testA")])
def test_a_pair_is_source_truth_fake_and_the_sources_mask(
    paired_data: Path, direction: str, source: str, real: str
) -> None:
    write(paired_data / f"{source}_tumor" / NAMES[0], np.eye(SIZE_PX, dtype=np.uint8) * 255)
    pairs = pairs_from_folders(paired_data, "test", direction, paired_data / "fake")
    assert len(pairs) == 3 and pairs.names == NAMES
    for name, pair in zip(NAMES, pairs, strict=True):
        assert (pair.name, pair.direction) == (name, direction)
        np.testing.assert_array_equal(pair.source, pixels(paired_data / source / name))
        np.testing.assert_array_equal(pair.real, pixels(paired_data / real / name))
        np.testing.assert_array_equal(pair.fake, pixels(paired_data / "fake" / name))
        np.testing.assert_array_equal(pair.mask, pixels(paired_data / f"{source}_tumor" / name) == 255)
        assert pair.mask.dtype == np.bool_ and pair.fake.dtype == np.uint8


def test_the_organ_is_the_sources_mask_of_that_region(paired_data: Path) -> None:
    for number, name in enumerate(NAMES):
        write(paired_data / "testB_liver" / name, np.eye(SIZE_PX, k=number, dtype=np.uint8) * 255)
    pairs = pairs_from_folders(paired_data, "test", "B2A", None, organ="liver")
    for number, pair in enumerate(pairs):
        np.testing.assert_array_equal(pair.organ, np.eye(SIZE_PX, k=number, dtype=bool))
    assert next(iter(pairs_from_folders(paired_data, "test", "B2A", None))).organ is None


def test_pairs_can_be_read_again_and_asked_for_by_name(paired_data: Path) -> None:
    pairs = pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")
    assert [pair.name for pair in pairs] == [pair.name for pair in pairs]
    np.testing.assert_array_equal(pairs[NAMES[1]].fake, pixels(paired_data / "fake" / NAMES[1]))
    with pytest.raises(DataError, match=r"'nobody\.png'"):
        pairs["nobody.png"]


def test_pairs_are_read_only_when_they_are_asked_for(paired_data: Path) -> None:
    (paired_data / "fake" / NAMES[1]).write_bytes(b"broken")
    pairs = iter(pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake"))
    assert next(pairs).name == NAMES[0]
    with pytest.raises(DataError, match=f"{NAMES[1]} cannot be read"):
        next(pairs)


def test_patient_and_phase_come_from_the_name(paired_data: Path) -> None:
    pairs = pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")
    assert [(p.patient, p.phase) for p in pairs] == [("p1", "ART"), ("p1", "PV"), ("p_2", "ART")]


@pytest.mark.parametrize("ending", ["", ".png"])
def test_the_manifest_overrules_the_name(paired_data: Path, ending: str) -> None:
    rows = [{"name": f"p1_PV_004{ending}", "split": "test", "domain": "A", "patient": 7, "phase": "NC"}]
    rows.append({"name": f"p1_ART_003{ending}", "split": "val", "domain": "A", "patient": "x", "phase": "x"})
    (paired_data / "manifest.json").write_text(json.dumps({"format": 1, "slices": rows}), encoding="utf-8")
    pairs = pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")
    assert [(p.patient, p.phase) for p in pairs] == [("p1", "ART"), ("7", "NC"), ("p_2", "ART")]


def test_a_broken_manifest_is_named(paired_data: Path) -> None:
    for text in ("{", '{"slices": [{}]}', "[]", '{"slices": [{"split": "test", "name": 3}]}'):
        (paired_data / "manifest.json").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=r"manifest\.json must be"):
            pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")


def test_the_source_stands_for_a_model_that_is_not_there(paired_data: Path) -> None:
    for pair in pairs_from_folders(paired_data, "test", "A2B", None):
        np.testing.assert_array_equal(pair.fake, pair.source)


def test_an_unknown_direction_is_refused(paired_data: Path) -> None:
    with pytest.raises(ConfigError, match="A2B or B2A; got 'AtoB'"):
        pairs_from_folders(paired_data, "test", "AtoB", None)


def test_missing_and_empty_folders_are_named(paired_data: Path) -> None:
    with pytest.raises(DataError, match="valA, which is missing"):
        pairs_from_folders(paired_data, "val", "A2B", None)
    with pytest.raises(DataError, match=r"`fake_dir` needs the folder .*nowhere"):
        pairs_from_folders(paired_data, "test", "A2B", paired_data / "nowhere")
    (paired_data / "empty").mkdir()
    with pytest.raises(DataError, match=r"`fake_dir` needs PNG images in .*empty"):
        pairs_from_folders(paired_data, "test", "A2B", paired_data / "empty")
    with pytest.raises(MaskError, match=r"`region` 'liver' needs the mask folder .*testA_liver"):
        pairs_from_folders(paired_data, "test", "A2B", None, region="liver")


@pytest.mark.parametrize("folder", ["testA", "testB", "fake"])
def test_an_unpaired_name_is_named(paired_data: Path, folder: str) -> None:
    (paired_data / folder / NAMES[1]).unlink()
    with pytest.raises(DataError, match=f"{folder} lacks {NAMES[1]}; "):
        pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")


def test_a_missing_mask_is_named(paired_data: Path) -> None:
    (paired_data / "testB_tumor" / NAMES[2]).unlink()
    with pytest.raises(MaskError, match=f"testB_tumor lacks {NAMES[2]}; "):
        pairs_from_folders(paired_data, "test", "B2A", None)


def test_a_name_that_tells_no_patient_is_refused(paired_data: Path) -> None:
    for folder in ("testA", "testB", "testA_tumor"):
        write(paired_data / folder / "liver7.png", np.zeros((SIZE_PX, SIZE_PX), np.uint8))
    with pytest.raises(DataError, match=r"liver7\.png must be named"):
        pairs_from_folders(paired_data, "test", "A2B", None)


@pytest.mark.parametrize(("folder", "error"), [("testB", DataError), ("fake", DataError), ("testA_tumor", MaskError)])
def test_another_size_is_refused(paired_data: Path, folder: str, error: type[Exception]) -> None:
    write(paired_data / folder / NAMES[0], np.zeros((SIZE_PX, 12), np.uint8))
    with pytest.raises(error, match="16 x 16 px; got 12 x 16 px"):
        next(iter(pairs_from_folders(paired_data, "test", "A2B", paired_data / "fake")))
