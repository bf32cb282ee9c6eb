"""Arrays as images: what NumPy wrote is what Pillow opens, and masks follow it; a float32 data set from end to end."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive.config import Config, GGDConfig, RegionConfig
from roi_progressive.errors import DataError
from roi_progressive.host.dataset import ImageTransform, UnalignedDataset
from roi_progressive.host.options import HostOptions
from roi_progressive.plugins.masks import find_masks, roi_masks
from roi_progressive.plugins.replay import MaskedDataset
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.saving.records import read_json, write_json

pytestmark = pytest.mark.usefixtures("one_thread")

HU = {"a": 400 / 255, "b": -160.0, "unit": "HU"}


def floats(rows: int = 24, columns: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, columns)).astype(np.float32)


def test_an_array_opens_as_the_image_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats())
    with Image.open(tmp_path / "x.npy") as image:
        assert image.mode == "F" and image.size == (32, 24)
        np.testing.assert_array_equal(np.asarray(image), floats())


def test_a_resize_keeps_floats_within_their_range(tmp_path: Path) -> None:
    steps = np.where(np.indices((24, 32))[1] < 16, -1.0, 1.0).astype(np.float32)
    np.save(tmp_path / "x.npy", steps)
    with Image.open(tmp_path / "x.npy") as image:
        tensor = ImageTransform(resize_px=50)(image)
    assert tensor.shape == (1, 50, 50) and tensor.dtype == torch.float32
    assert tensor.min() == -1.0 and tensor.max() == 1.0


@pytest.fixture
def float_folder(tmp_path: Path) -> Path:
    """Images that are 1 where their mask is white and -1 elsewhere, of one domain's file and the other's."""
    for number, domain in enumerate("AB"):
        marks = floats(seed=number) > 0.5
        (tmp_path / f"train{domain}").mkdir()
        (tmp_path / f"train{domain}_tumor").mkdir()
        np.save(tmp_path / f"train{domain}" / "x.npy", np.where(marks, 1, -1).astype(np.float32))
        Image.fromarray(np.where(marks, 255, 0).astype(np.uint8)).save(tmp_path / f"train{domain}_tumor" / "x.png")
    return tmp_path


def dataset_in(folder: Path, **changes: Any) -> UnalignedDataset:
    return UnalignedDataset(HostOptions(dataroot=str(folder), checkpoints_dir=str(folder / "runs"), **changes))


def test_masks_follow_arrays_through_crop_and_flip(float_folder: Path) -> None:
    dataset = dataset_in(float_folder, preprocess="crop", crop_size=16)
    masks = find_masks([*dataset.A_paths, *dataset.B_paths], [RegionConfig("tumor")], roi_masks)
    masked = MaskedDataset(dataset, ["roi_progressive.host.dataset"], "AB", masks, ["tumor"])
    for seed in range(4):
        torch.manual_seed(seed)
        sample = masked[0]
        for domain in "AB":
            assert sample[domain].shape == (1, 16, 16)
            assert torch.equal(sample["roi_masks"][domain]["tumor"], sample[domain] > 0)


WRONG = {
    "beyond": (lambda path: np.save(path, floats() * 1.5), r"arrays in \[-1, 1\]"),
    "nan": (lambda path: np.save(path, np.full((24, 32), np.nan, np.float32)), r"arrays in \[-1, 1\]"),
    "double": (lambda path: np.save(path, floats().astype(np.float64)), "readable images"),
    "stack": (lambda path: np.save(path, floats()[None]), "readable images"),
    "short": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "readable images"),
    "none": (lambda path: path.write_bytes(b"no array"), "readable images"),
}


@pytest.mark.parametrize("fault", WRONG)
def test_a_wrong_array_is_refused_in_one_line(float_folder: Path, fault: str) -> None:
    spoil, words = WRONG[fault]
    spoil(float_folder / "trainA" / "x.npy")
    with pytest.raises(DataError, match=words) as caught:
        dataset_in(float_folder)[0]
    assert "x.npy" in str(caught.value) and "\n" not in str(caught.value)


def test_a_network_of_three_channels_is_refused(float_folder: Path) -> None:
    with pytest.raises(DataError, match="one channel; got 3"):
        dataset_in(float_folder, input_nc=3, output_nc=3)[0]


@pytest.fixture(scope="module")
def float_data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The phantom with arrays in place of images, a little noise below a grey level in them, and CT in HU."""
    root = tmp_path_factory.mktemp("floats") / "data"
    shutil.copytree(small_data, root)
    rng = np.random.default_rng(0)
    for path in sorted(root.glob("*[AB]/*.png")):
        grey = np.asarray(Image.open(path)) + rng.uniform(-0.4, 0.4, (32, 32))
        np.save(path.with_suffix(".npy"), np.clip(grey / 127.5 - 1, -1, 1).astype(np.float32))
        path.unlink()
    manifest = read_json(root / "manifest.json")
    for entry in manifest["slices"]:
        entry["intensity"] = HU if entry["domain"] == "A" else {}
    write_json(root / "manifest.json", manifest)
    return root


def test_a_float_data_set_trains_and_its_error_in_hu_is_exact(
    float_data: Path, small_networks: dict[str, Any], tmp_path: Path
) -> None:
    config = Config(regions=(RegionConfig("tumor", scales=1),), ggd=GGDConfig(weight=0.1))
    train(float_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0), config)
    scores = evaluate_run(tmp_path / "run")
    for one in scores.slices["model"]:
        generated = np.load(scores.images[one["direction"]] / one["name"])
        assert generated.dtype == np.float32 and np.abs(generated).max() <= 1
        assert len(np.unique(generated)) > 256  # not rounded to grey levels
        if one["direction"] == "B2A":
            real = np.load(float_data / "testA" / one["name"])
            error_hu = np.abs(real.astype(np.float64) - generated).mean() * 200  # a window of 400 HU is [-1, 1]
            assert one["scores"]["mae_hu"] == pytest.approx(error_hu, rel=1e-9)
    sigma = sorted((tmp_path / "run" / "test" / "A2B_sigma").glob("*.png"))
    assert len(sigma) == len(list((float_data / "testA").iterdir()))


def test_references_of_floats_are_not_rounded(float_data: Path, small_networks: dict[str, Any], tmp_path: Path) -> None:
    train(float_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    scores = evaluate_run(tmp_path / "run", references=("mean_image", "constant_fill"))
    mean = np.mean([np.load(path).astype(np.float64) for path in (float_data / "trainA").iterdir()], axis=0)
    inside = [
        np.load(path)[np.asarray(Image.open(float_data / "trainA_tumor" / f"{path.stem}.png")) > 0]
        for path in (float_data / "trainA").iterdir()
    ]
    fill = np.concatenate(inside).astype(np.float64).mean()
    for arm in ("mean_image", "constant_fill"):
        for one in (one for one in scores.slices[arm] if one["direction"] == "B2A"):
            real = np.load(float_data / "testA" / one["name"]).astype(np.float64)
            mask = np.asarray(Image.open(float_data / "testB_tumor" / f"{Path(one['name']).stem}.png")) > 0
            made = np.where(mask, fill, mean) if arm == "constant_fill" else mean
            assert one["scores"]["mae_hu"] == pytest.approx(np.abs(real - made).mean() * 200, rel=1e-6)
