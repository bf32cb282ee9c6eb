"""Masks follow their image through real hosts' transforms: where the mask file is the image file, bit for bit."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from roi_progressive import Config, MaskError, RegionConfig
from roi_progressive.adapters.junyanz import CycleGANAdapter
from roi_progressive.check.checkout import HostCheckout
from roi_progressive.plugins.replay import MaskedDataset, masked_dataset

N_SAMPLES = 200
PREPROCESS = ("resize_and_crop", "crop", "scale_width", "scale_width_and_crop", "none")
JUNYANZ = [
    (folder, mode, preprocess, flip, channels)
    for folder in ("junyanz-classic", "junyanz-ddp")
    for mode, preprocess, flip, channels in itertools.product(
        ("unaligned", "aligned"), PREPROCESS, ("flip", "no_flip"), ("1", "3")
    )
]
CUT = [("cut", "unaligned", preprocess, flip, "3") for preprocess in PREPROCESS for flip in ("flip", "no_flip")]
ALL = [*JUNYANZ, *CUT]
DATA_SETS = sorted({(folder, mode) for folder, mode, *_ in ALL})


class _Recorded(Dataset[Any]):
    """Keeps every sample the host's data set makes: an image, then what took its place."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset
        self.samples: list[Any] = []

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        self.samples.append(self.dataset[index])
        return self.samples[-1]


@pytest.fixture(scope="session")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Grey noise of 52 x 44 px in colour files, three images a domain, and the same side by side.

    A colour mask counts by its brightest band, so that only an image whose bands are alike can stand for its own mask.
    """
    root, draw = tmp_path_factory.mktemp("noise"), np.random.default_rng(5)
    for folder, width in (("trainA", 52), ("trainB", 52), ("train", 104)):
        (root / folder).mkdir()
        (root / f"{folder}_itself").mkdir()
        for name in "xyz":
            grey = draw.integers(0, 256, (44, width), dtype=np.uint8)
            for copy in (folder, f"{folder}_itself"):  # a file that is listed as an image is refused as a mask
                Image.fromarray(np.stack([grey] * 3, axis=-1)).save(root / copy / f"{name}.png")
    return root


@pytest.fixture
def open_data(hosts_folder: Path, noise: Path, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """``open_data("cut", "unaligned", "crop", "flip", "3")``: the host's loader."""
    entered: dict[str, Any] = {}

    def build(folder: str, mode: str, preprocess: str, flip: str, channels: str, *more: str, root: Path = noise) -> Any:
        if not (hosts_folder / folder).is_dir():
            pytest.skip(f"ROI_PROGRESSIVE_HOSTS holds no {folder}/")
        if folder not in entered:
            checkout = HostCheckout(hosts_folder / folder)
            context = checkout.imported()
            context.__enter__()
            entered[folder] = (checkout, context)
        model = "cut" if folder == "cut" else "pix2pix" if mode == "aligned" else "cycle_gan"
        arguments = ["--dataroot", str(root), "--checkpoints_dir", str(tmp_path), "--name", "run", "--model", model]
        arguments += ["--preprocess", preprocess, "--load_size", "40", "--crop_size", "32", "--num_threads", "0"]
        arguments += ["--input_nc", channels, "--output_nc", channels, "--dataset_mode", mode, *more]
        opt = entered[folder][0].options(arguments + (["--no_flip"] if flip == "no_flip" else []), device="cpu")
        import data

        return data.create_dataset(opt)

    yield build
    for _, context in entered.values():
        context.__exit__(None, None, None)


def _itself(path: Path, regions: Any) -> dict[str, Path]:
    return dict.fromkeys(regions, path.parent.with_name(f"{path.parent.name}_itself") / path.name)


def _layout(loader: Any) -> Any:
    layout = CycleGANAdapter(SimpleNamespace(), Config()).dataset_layout(loader)
    assert layout is not None
    return layout


def _streams() -> list[Any]:
    numpy_state: Any = np.random.get_state()
    return [random.getstate(), numpy_state[1].tolist(), numpy_state[2], torch.get_rng_state().tolist()]


@pytest.mark.parametrize(("folder", "mode", "preprocess", "flip", "channels"), ALL)
def test_the_replayed_tensor_is_the_image_tensor(
    folder: str, mode: str, preprocess: str, flip: str, channels: str, open_data: Any, seed: Any
) -> None:
    loader = open_data(folder, mode, preprocess, flip, channels)
    layout = _layout(loader)
    files = {path: {"tumor": path} for path in layout.paths}
    recorded = _Recorded(loader.dataset)
    masked = MaskedDataset(recorded, layout.image_modules, layout.domains, files, ["tumor"], n_proofs=0)
    indices = [place % len(masked) for place in range(N_SAMPLES)]
    seed(2)
    plain = [loader.dataset[index] for index in indices]
    after = _streams()
    seed(2)
    samples = [masked[index] for index in indices]
    assert _streams() == after, "the host's random streams end where they would have ended"
    images, replays = recorded.samples[0::2], recorded.samples[1::2]
    assert len(images) == len(replays) == N_SAMPLES
    for expected, image, replay, sample in zip(plain, images, replays, samples, strict=True):
        for domain in "AB":
            assert image[domain].shape[0] == int(channels)
            assert torch.equal(image[domain], expected[domain])
            assert torch.equal(replay[domain], expected[domain])
            assert torch.equal(sample["roi_masks"][domain]["tumor"], expected[domain][:1] > 0)


@pytest.mark.parametrize(("folder", "mode"), DATA_SETS)
def test_one_pixel_of_a_mask_lies_on_its_pixel_of_a_grid_of_grey_levels(
    folder: str, mode: str, open_data: Any, tmp_path: Path
) -> None:
    grid = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixel = np.zeros((16, 16), dtype=np.uint8)
    pixel[7, 9] = 255
    pair = mode == "aligned"
    for suffix, array in (("", grid), ("_tumor", pixel)):
        for domain in ("",) if pair else ("A", "B"):
            (tmp_path / f"train{domain}{suffix}").mkdir()
            image = np.hstack([array, array]) if pair else array
            Image.fromarray(image).save(tmp_path / f"train{domain}{suffix}" / "x.png")
    channels = "3" if folder == "cut" else "1"
    loader = open_data(folder, mode, "crop", "flip", channels, "--crop_size", "12", "--load_size", "12", root=tmp_path)
    masked = masked_dataset(_layout(loader), [RegionConfig("tumor")], _sibling)
    level = torch.tensor(grid[7, 9] / 255 * 2 - 1, dtype=torch.float32)
    seen = set()
    for _ in range(N_SAMPLES):
        sample = masked[0]
        for domain in "AB":
            mask, image = sample["roi_masks"][domain]["tumor"], sample[domain][:1]
            assert torch.equal(mask, (image - level).abs() < 1 / 255)
            seen.add(tuple(mask.nonzero().flatten().tolist()))
    assert len(seen) > 20, "crops and flips must have come up"


def _sibling(path: Path, regions: Any) -> dict[str, Path]:
    return {region: path.parent.with_name(f"{path.parent.name}_{region}") / path.name for region in regions}


@pytest.mark.parametrize(("folder", "mode"), DATA_SETS)
def test_a_mask_of_another_size_is_an_error(
    folder: str, mode: str, open_data: Any, noise: Path, tmp_path: Path
) -> None:
    Image.new("L", (51, 44), 255).save(tmp_path / "small.png")
    loader = open_data(folder, mode, "resize_and_crop", "flip", "3")
    masked = masked_dataset(_layout(loader), [RegionConfig("tumor")], lambda path, _: {"tumor": tmp_path / "small.png"})
    with pytest.raises(MaskError, match=r"must be of its image's size .*got \(51, 44\)"):
        masked[0]


# --- workers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "mode", "channels"),
    [("junyanz-classic", "unaligned", "1"), ("junyanz-ddp", "aligned", "1"), ("cut", "unaligned", "3")],
)
@pytest.mark.parametrize("start", ["fork", "forkserver", "spawn"])
def test_two_workers_bring_the_same_batches_and_their_masks(
    start: str, folder: str, mode: str, channels: str, open_data: Any, seed: Any
) -> None:
    # CUT makes its transforms per sample, the others here hold nothing that cannot be pickled.
    loader = open_data(folder, mode, "resize_and_crop", "flip", channels)
    layout = _layout(loader)
    # The grey levels of noise are no region that could be painted over: what workers carry is looked at, not the proof.
    files = {path: {"tumor": path} for path in layout.paths}
    masked = MaskedDataset(loader.dataset, layout.image_modules, layout.domains, files, ["tumor"], n_proofs=0)
    batches = []
    for dataset in (loader.dataset, masked):
        seed(6)
        batches.append(list(DataLoader(dataset, 2, shuffle=True, num_workers=2, multiprocessing_context=start)))
    assert len(batches[0]) == len(batches[1]) == 2
    for plain, sample in zip(*batches, strict=True):
        for domain in "AB":
            assert torch.equal(plain[domain], sample[domain])
            assert torch.equal(sample["roi_masks"][domain]["tumor"], plain[domain][:, :1] > 0)


def test_a_host_that_cannot_be_pickled_fails_loudly_where_workers_start_afresh(open_data: Any) -> None:
    loader = open_data("junyanz-classic", "unaligned", "scale_width", "flip", "3")  # holds a lambda
    masked = masked_dataset(_layout(loader), [RegionConfig("tumor")], _itself)
    with pytest.raises(Exception, match="pickle"):
        next(iter(DataLoader(masked, num_workers=1, multiprocessing_context="spawn")))
