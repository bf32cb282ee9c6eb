"""Masks follow whatever a loader does, or the loader is refused: the replay is proved on its first samples.

The truth is in the pictures: the tumour is the brightest thing in each of them, whatever is done to it.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from roi_progressive import MaskError, MaskReader, RegionConfig
from roi_progressive.plugins.held_streams import held_streams
from roi_progressive.plugins.masks import find_masks, roi_masks
from roi_progressive.plugins.replay import MaskedDataset

SIZE_PX = 48
MODULE = np.random.default_rng(11)
"""A generator that only a transform's module knows."""


class _Folder(Dataset[dict[str, Any]]):
    """Pairs of files, each through one function from a PIL image to a tensor."""

    def __init__(self, root: Path, transform: Callable[[Image.Image], Tensor]) -> None:
        self.A_paths, self.B_paths = (sorted(map(str, (root / f"train{d}").glob("*"))) for d in "AB")
        self.transform = transform

    def __len__(self) -> int:
        return len(self.A_paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        found = {"A": self.A_paths[index], "B": self.B_paths[random.randrange(len(self.B_paths))]}
        images = {domain: self.transform(Image.open(path)) for domain, path in found.items()}
        return {**images, **{f"{domain}_paths": path for domain, path in found.items()}}


def _write(root: Path, bits: int = 8) -> Path:
    draw = np.random.default_rng(3)
    for domain in "AB":
        for folder in (f"train{domain}", f"train{domain}_tumor"):
            (root / folder).mkdir(parents=True)
        for name in range(8):
            image = draw.integers(20, 90, (SIZE_PX, SIZE_PX))
            mask = np.zeros((SIZE_PX, SIZE_PX), np.uint8)
            top, left = draw.integers(6, 26, 2)
            mask[top : top + 9, left : left + 13] = 255
            image[mask > 0] = 230
            kind = image.astype(np.uint8) if bits == 8 else (image * 257).astype(np.uint16)
            Image.fromarray(kind).save(root / f"train{domain}" / f"{name}.png")
            Image.fromarray(mask).save(root / f"train{domain}_tumor" / f"{name}.png")
    return root


@pytest.fixture
def masked(tmp_path: Path) -> Callable[..., MaskedDataset]:
    def make(transform: Any, bits: int = 8) -> MaskedDataset:
        root = tmp_path / "data"
        dataset = _Folder(root if root.exists() else _write(root, bits), transform)
        files = find_masks([*dataset.A_paths, *dataset.B_paths], [RegionConfig("tumor")], roi_masks)
        return MaskedDataset(dataset, [__name__], "AB", files, ["tumor"])

    return make


def _truth(image: Tensor, *, inverted: bool = False) -> Tensor:
    grey = image[:1].float()
    share = (grey - grey.min()) / (grey.max() - grey.min())
    return share < 0.3 if inverted else share > 0.7


def _overlaps(dataset: MaskedDataset, n: int = 40, *, inverted: bool = False) -> list[float]:
    """Intersection over union of every mask with the truth, where the sample shows the tumour."""
    found = []
    for place in range(n):
        sample = dataset[place % len(dataset)]
        for domain in "AB":
            mask, truth = sample["roi_masks"][domain]["tumor"], _truth(sample[domain], inverted=inverted)
            if truth.sum() >= 12:
                found.append(float((mask & truth).sum() / (mask | truth).sum()))
    return found


def _unit(image: Image.Image) -> Tensor:
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32))[None] / 127.5 - 1.0


def _flipped(image: Image.Image, turn: bool) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if turn else image


# -- followed ----------------------------------------------------------------------------------------------------------


class _Own:
    """A transform with a generator of its own."""

    def __init__(self, stream: Any, draw: Callable[[Any], float]) -> None:
        self.stream, self.draw = stream, draw

    def __call__(self, image: Image.Image) -> Tensor:
        return _unit(_flipped(image, self.draw(self.stream) < 0.5))


class _Composed:
    def __init__(self, *steps: Any) -> None:
        self.steps = list(steps)

    def __call__(self, image: Any) -> Any:
        for step in self.steps:
            image = step(image)
        return image


def _by_module(image: Image.Image) -> Tensor:
    return _unit(_flipped(image, MODULE.random() < 0.5))


def _closed_over() -> Callable[[Image.Image], Tensor]:
    stream = random.Random(4)
    return lambda image: _unit(_flipped(image, stream.random() < 0.5))


def _given(image: Image.Image, stream: Any) -> Tensor:
    return _unit(_flipped(image, stream.random() < 0.5))


class _OfClass:
    """As MONAI's: one generator a class."""

    R = np.random.RandomState(5)

    def __call__(self, image: Image.Image) -> Tensor:
        return _unit(_flipped(image, self.R.rand() < 0.5))


OWN = {
    "numpy, global": lambda: _Own(np.random, lambda s: s.random()),
    "torch, global": lambda: _Own(None, lambda s: float(torch.rand(()))),
    "numpy's Generator": lambda: _Own(np.random.default_rng(1), lambda s: s.random()),
    "numpy's RandomState": lambda: _Own(np.random.RandomState(1), lambda s: s.rand()),
    "random.Random": lambda: _Own(random.Random(1), lambda s: s.random()),
    "torch's Generator": lambda: _Own(torch.Generator().manual_seed(1), lambda s: float(torch.rand((), generator=s))),
    "in a list of a list": lambda: _Composed([_Own(random.Random(1), lambda s: s.random())][0]),
    "of its class": _OfClass,
    "of its module": lambda: _by_module,
    "closed over": _closed_over,
    "given by partial": lambda: functools.partial(_given, stream=np.random.default_rng(1)),
}


@pytest.mark.parametrize("name", OWN)
def test_a_generator_that_can_be_found_is_put_back(name: str, masked: Any) -> None:
    dataset = masked(OWN[name]())
    assert min(_overlaps(dataset)) == 1.0
    assert dataset.is_proved and not dataset.follows_by_difference


@pytest.mark.parametrize("name", OWN)
def test_the_hosts_own_generator_ends_where_it_would_have_ended(name: str, masked: Any, tmp_path: Path) -> None:
    samples = []
    for guided in (True, False):
        for seed in (random.seed, np.random.seed, torch.manual_seed):
            seed(0)
        _OfClass.R.seed(5)
        MODULE.bit_generator.state = np.random.default_rng(11).bit_generator.state
        dataset = masked(OWN[name]()) if guided else _Folder(tmp_path / "data", OWN[name]())
        samples.append([dataset[place % 8]["A"] for place in range(20)])
    assert all(torch.equal(one, other) for one, other in zip(*samples, strict=True))


def _by_hand(white: float) -> Callable[[Image.Image], Tensor]:
    def read(image: Image.Image) -> Tensor:
        values = np.asarray(_flipped(image, random.random() < 0.5)).astype(np.float32)
        return torch.from_numpy(values / white * 2.0 - 1.0)[None]

    return read


@pytest.mark.parametrize("white", [65535.0, 59110.0, 4095.0 * 16])
def test_sixteen_bits_read_by_hand_are_followed(white: float, masked: Any) -> None:
    dataset = masked(_by_hand(white), bits=16)
    assert min(_overlaps(dataset)) == 1.0
    assert not dataset.follows_by_difference


def _scaled(image: Image.Image, transform: Callable[[Tensor], Tensor]) -> Tensor:
    pixels = np.asarray(_flipped(image.convert("L"), random.random() < 0.5), dtype=np.float32).copy()
    return transform(torch.from_numpy(pixels)[None])


SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "from 0 to 1": lambda x: x / 255.0,
    "from 0 to 255": lambda x: x,
    "z-scored with fixed numbers": lambda x: (x - 60.0) / 20.0,
    "z-scored by the image": lambda x: (x - x.mean()) / x.std(),
    "stretched by the image": lambda x: (x - x.min()) / (x.max() - x.min()) * 2 - 1,
    "brightness drawn": lambda x: (x * random.uniform(0.3, 1.0)) / 127.5 - 1,
    "contrast drawn": lambda x: ((x - x.mean()) * random.uniform(0.4, 1.0) + x.mean()).clamp(0, 255) / 127.5 - 1,
    "gamma drawn": lambda x: (x / 255.0) ** random.uniform(0.5, 2.5) * 2 - 1,
}


@pytest.mark.parametrize("name", SCALES)
def test_grey_levels_do_not_keep_a_mask_from_following(name: str, masked: Any) -> None:
    assert min(_overlaps(masked(functools.partial(_scaled, transform=SCALES[name])))) == 1.0


def test_a_picture_turned_negative_is_followed(masked: Any) -> None:
    dataset = masked(functools.partial(_scaled, transform=lambda x: 1.0 - x / 127.5))
    assert min(_overlaps(dataset, inverted=True)) == 1.0


def _resized(image: Image.Image) -> Tensor:
    large = image.convert("L").resize((67, 67), Image.Resampling.BICUBIC)
    left, top = random.randrange(20), random.randrange(20)
    return _unit(_flipped(large.crop((left, top, left + 47, top + 47)), random.random() < 0.5))


def test_a_resized_crop_is_followed_to_the_edge(masked: Any) -> None:
    dataset = masked(_resized)
    assert min(_overlaps(dataset)) > 0.85, "half of the range is not the picture's own half at every edge"
    assert not dataset.follows_by_difference


# -- refused -----------------------------------------------------------------------------------------------------------


def _drawn_anew(image: Image.Image) -> Tensor:
    return _unit(_flipped(image, np.random.default_rng().random() < 0.5))


def _by_content(image: Image.Image) -> Tensor:
    place = int(np.asarray(image.convert("L"), dtype=np.float64).sum()) % 11
    return _unit(image.crop((place, 15 - place, place + 32, 47 - place)))


@pytest.mark.parametrize(
    ("transform", "cause"),
    [
        (_drawn_anew, "a transform draws from one that it makes anew or hides"),
        (_by_content, "a crop or a normalisation depends on what the image shows"),
    ],
)
def test_what_cannot_be_followed_is_refused_with_the_way_out(transform: Any, cause: str, masked: Any) -> None:
    dataset = masked(transform)
    with pytest.raises(MaskError, match=cause) as caught:
        for place in range(40):
            dataset[place % 8]
    assert "`batch_key`" in str(caught.value) and "\n" not in str(caught.value)


def test_a_refusal_in_a_worker_reaches_the_script(masked: Any) -> None:
    dataset = masked(_drawn_anew)
    with pytest.raises(MaskError, match="makes anew or hides"):
        for _ in range(6):
            list(DataLoader(dataset, num_workers=1))


# -- what is looked at -------------------------------------------------------------------------------------------------


def test_after_the_proof_a_sample_costs_one_more_reading_a_region(masked: Any) -> None:
    calls = []

    def counted(image: Image.Image) -> Tensor:
        calls.append(1)
        return _unit(image)

    dataset = masked(counted)
    for place in range(30):
        dataset[place % 8]
    assert dataset.is_proved
    calls.clear()
    dataset[0]
    assert len(calls) == 2 * 2  # two images, read as such and as masks


def test_streams_are_found_in_what_a_data_set_holds_and_the_global_ones_are_left_out() -> None:
    class Slotted:
        __slots__ = ("stream",)

    slotted = Slotted()
    slotted.stream = random.Random(1)
    own = [np.random.default_rng(1), torch.Generator(), slotted.stream, MODULE]  # the last is of the class's module
    held = {"a": [own[0], {"b": (own[1],)}], "c": slotted, "d": np.random.mtrand._rand, "e": torch.default_generator}
    held["self"] = held
    assert {id(stream) for stream in held_streams(held)} == {id(stream) for stream in own}


# -- real libraries ----------------------------------------------------------------------------------------------------


def test_torchvisions_transforms_are_followed(masked: Any) -> None:
    v2 = pytest.importorskip("torchvision.transforms.v2")
    steps = [v2.Grayscale(1), v2.RandomHorizontalFlip(), v2.RandomCrop(40), v2.ToImage()]
    scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5], [0.5])]
    assert min(_overlaps(masked(v2.Compose([*steps, *scaled])))) == 1.0
    jitter = v2.Compose([*steps[:3], v2.ColorJitter(0.5, 0.5), *steps[3:], *scaled])
    assert min(_overlaps(masked(jitter))) == 1.0


def test_monais_transforms_are_followed(masked: Any) -> None:
    transforms = pytest.importorskip("monai.transforms")
    flip = transforms.RandFlip(prob=0.5, spatial_axis=1)
    turn = transforms.RandRotate90(prob=0.5)
    dataset = masked(lambda image: torch.as_tensor(np.asarray(turn(flip(_unit(image)))).copy()))
    assert min(_overlaps(dataset)) == 1.0


def test_albumentations_are_followed(masked: Any) -> None:
    library = pytest.importorskip("albumentations")
    steps = library.Compose([library.HorizontalFlip(p=0.5), library.RandomCrop(40, 40)])
    dataset = masked(lambda image: _unit(Image.fromarray(steps(image=np.asarray(image))["image"])))
    assert min(_overlaps(dataset)) == 1.0


# -- for data sets of one's own ----------------------------------------------------------------------------------------


def _script_transform(image: Image.Image) -> Tensor:
    return _unit(_flipped(image, random.random() < 0.5))


class _ScriptsOwn(Dataset[Any]):
    """What a plain script's data set looks like with one line for the masks."""

    def __init__(self, root: Path) -> None:
        self.files = sorted((root / "trainA").glob("*.png"))
        self.read = MaskReader(_script_transform, ["tumor"])

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image, masks = self.read(self.files[index])
        return {"A": image, "masks_A": masks}


@pytest.mark.parametrize("workers", [0, 2])
def test_a_scripts_own_data_set_gets_masks_that_follow(workers: int, tmp_path: Path) -> None:
    loader = DataLoader(_ScriptsOwn(_write(tmp_path / "data")), batch_size=4, num_workers=workers)
    seen = set()
    for _ in range(6):
        for batch in loader:
            mask = batch["masks_A"]["tumor"]
            assert mask.shape == (4, 1, SIZE_PX, SIZE_PX)
            for image, one in zip(batch["A"], mask, strict=True):
                assert torch.equal(one, _truth(image))
                seen.add(tuple(one.nonzero()[0].tolist()))
    assert len(seen) > 8, "images must have been mirrored"


def test_a_scripts_reader_names_what_is_missing_and_skips_where_told(tmp_path: Path) -> None:
    root = _write(tmp_path / "data")
    (root / "trainA_tumor" / "0.png").unlink()
    with pytest.raises(MaskError, match=r"no mask file .*trainA_tumor/0\.png"):
        MaskReader(_script_transform)(root / "trainA" / "0.png")
    _, masks = MaskReader(_script_transform, [RegionConfig("tumor", missing="skip")])(root / "trainA" / "0.png")
    assert not masks["tumor"].any()
    with pytest.raises(MaskError, match="makes anew or hides"):
        for _ in range(6):
            for name in range(1, 8):
                MaskReader(_drawn_anew)(root / "trainA" / f"{name}.png")
