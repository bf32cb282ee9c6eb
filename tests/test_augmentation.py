"""Augmentation by TorchIO: the mask goes where the image goes, and it is drawn from torch's own stream alone."""

from __future__ import annotations

import importlib.util
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from roi_progressive import Config, RegionConfig, attach
from roi_progressive.errors import ConfigError
from roi_progressive.host import HostOptions, augmentation, create_dataset, create_model
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runtime.rng import RandomState

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(importlib.util.find_spec("torchio") is None, reason="the extra `augment` is not installed"),
]
NAMES = ("affine", "elastic")
CONFIG = Config(
    regions=(RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2, stage=1),), ggd=None, pool_size=2
)


@pytest.fixture(scope="module")
def data(small_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that are their own masks, a copy of each: an ellipse off the centre."""
    root = Path(shutil.copytree(small_data, tmp_path_factory.mktemp("augmented") / "data"))
    y, x = np.mgrid[0:32, 0:32]
    for number, path in enumerate(sorted([*root.glob("train?/*.png")])):
        shape = (((y - 12) / 8) ** 2 + ((x - 18 + number % 3) / 5) ** 2 < 1).astype(np.uint8) * 255
        Image.fromarray(shape).save(path)
        Image.fromarray(shape).save(root / f"{path.parent.name}_tumor" / path.name)
    return root


@pytest.mark.parametrize("name", NAMES)
def test_a_mask_goes_where_its_image_goes(name: str, data: Path, tmp_path: Path) -> None:
    options = HostOptions(str(data), checkpoints_dir=str(tmp_path), augment=name, seed=0, ngf=2, unet_depth=2, ndf=2)
    model, loader = create_model(options), create_dataset(options)
    model.setup(options)
    with attach(model, loader, CONFIG):
        dataset = loader.dataloader.dataset
        moved = 0
        for index in range(12):
            sample = dataset[index % len(dataset)]
            for domain in "AB":
                mask, image = sample["roi_masks"][domain]["tumor"], sample[domain]
                assert torch.equal(mask, image > 0) and mask.any()
                with Image.open(sample[f"{domain}_paths"]) as before:
                    moved += not np.array_equal(np.asarray(before) > 0, mask[0].numpy())
        # A slice of 32 px is bent by a pixel at most.
        assert moved > (20 if name == "affine" else 8)


@pytest.mark.parametrize("name", NAMES)
def test_chance_comes_from_torchs_stream_alone_and_the_range_stays(name: str) -> None:
    augment = augmentation.augmentation(name)
    assert augment is not None
    image = torch.rand(1, 40, 48) * 2 - 1
    torch.manual_seed(3)
    before = RandomState.now()
    first = augment(image)
    after = RandomState.now()
    assert (before.python, before.numpy["state"]["pos"]) == (after.python, after.numpy["state"]["pos"])
    torch.manual_seed(3)
    assert torch.equal(pickle.loads(pickle.dumps(augment))(image), first)
    assert first.shape == image.shape and first.dtype == torch.float32 and not torch.equal(first, image)
    assert float(first.min()) >= -1 and float(first.max()) <= 1
    assert not torch.equal(augment(image), first)


def test_affine_is_an_affine_map_as_scipy_has_it() -> None:
    """Where a disc ends up, and how large it is, is a rotation, a scale and a shift within what is promised."""
    y, x = np.mgrid[0:96, 0:96]
    discs = [torch.from_numpy(np.where(np.hypot(y - cy, x - cx) < 6, 1.0, -1.0)).float()[None] for cy, cx in CENTRES]
    augment = augmentation.augmentation("affine")
    assert augment is not None
    for seed in range(8):
        found = []
        for disc in discs:
            torch.manual_seed(seed)
            found.append(ndimage.center_of_mass((augment(disc)[0] > 0).numpy()))
        source = np.array(CENTRES, dtype=float) - 47.5
        matrix = np.linalg.lstsq(np.c_[source, np.ones(4)], np.array(found) - 47.5, rcond=None)[0]
        assert np.abs(np.c_[source, np.ones(4)] @ matrix - (np.array(found) - 47.5)).max() < 0.5
        linear, shift = matrix[:2].T, matrix[2]
        scales = np.linalg.svd(linear, compute_uv=False)
        assert (scales > 0.88).all() and (scales < 1.13).all() and np.linalg.det(linear) > 0
        assert np.abs(shift).max() <= 0.05 * 96 * 1.15


CENTRES = [(30, 30), (30, 64), (64, 30), (64, 64)]


def test_black_comes_in_from_outside() -> None:
    augment = augmentation.augmentation("affine")
    assert augment is not None
    torch.manual_seed(0)
    values = torch.stack([augment(torch.ones(1, 32, 32)) for _ in range(10)])
    assert float(values.min()) == -1.0


def test_only_training_images_are_augmented(data: Path) -> None:
    options = HostOptions(str(data), augment="affine")
    assert create_dataset(options).dataset.transform_A.augment is not None  # type: ignore[attr-defined]
    assert create_dataset(options.for_test(phase="train")).dataset.transform_A.augment is None  # type: ignore[attr-defined]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_augmented_run_goes_on_to_the_same_bits(
    workers: int, small_data: Path, tmp_path: Path, small_networks: dict[str, Any], differing: Any
) -> None:
    options = TrainOptions(
        **small_networks, epochs=2, decay_epochs=0, augment="affine", save_every_epochs=1, workers=workers, batch_size=2
    )

    def stop(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    train(small_data, tmp_path / "straight", options, CONFIG)
    with pytest.raises(KeyboardInterrupt):
        train(small_data, tmp_path / "run", options, CONFIG, report=stop)
    resume(tmp_path / "run")
    found = [
        {path.name: torch.load(path, weights_only=True) for path in (tmp_path / name / "networks").glob("*.pth")}
        for name in ("straight", "run")
    ]
    assert found[0] and differing(*found) == []


def test_without_torchio_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, data: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(augmentation, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'roi-progressive\[augment\]'"):
        train(data, tmp_path / "run", TrainOptions(augment="affine"))
    with pytest.raises(ConfigError, match="`augment` must be one of none, affine, elastic; got 'affin'; did you mean"):
        TrainOptions(augment="affin")
    assert not (tmp_path / "run").exists()
