"""Masks follow their image exactly through the host's own transforms, and say so where they cannot."""

from __future__ import annotations

import multiprocessing
import pickle
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

from roi_progressive import Config, MaskError, RegionConfig, attach
from roi_progressive.check.mask_coverage import coverage_of
from roi_progressive.host import HostOptions, UnalignedDataset, create_dataset
from roi_progressive.plugins.adapter import DatasetLayout
from roi_progressive.plugins.masks import find_masks, masks_in_batch, roi_masks
from roi_progressive.plugins.replay import MaskedDataset, masked_dataset

PREPROCESS: dict[str, dict[str, Any]] = {
    "none": {"preprocess": "none"},
    "flip only": {"preprocess": "none", "no_flip": False},
    "resize": {"preprocess": "resize", "load_size": 29, "no_flip": False},
    "crop": {"preprocess": "crop", "crop_size": 20, "no_flip": False},
    "resize_and_crop": {"preprocess": "resize_and_crop", "load_size": 40, "crop_size": 24, "no_flip": False},
    "colour": {"preprocess": "crop", "crop_size": 20, "no_flip": False, "input_nc": 3, "output_nc": 3},
}
MODULES = ("roi_progressive.host.dataset",)


@pytest.fixture
def options(host_options: Any) -> Any:
    def make(**changes: Any) -> HostOptions:
        return host_options(**{"no_flip": True, "lambda_identity": 0.0, **changes})

    return make


def _masked(dataset: UnalignedDataset, masks: Mapping[str, Mapping[str, str | None]]) -> MaskedDataset:
    regions = list(next(iter(masks.values())))
    # A picture is no mask: interpolated, it has half-way greys all over, which prove nothing.
    n_proofs = 0 if "self" in regions else 4
    return MaskedDataset(dataset, MODULES, ("A", "B"), masks, regions, n_proofs=n_proofs)


def _itself(dataset: UnalignedDataset) -> dict[str, dict[str, str | None]]:
    """Every image file as its own mask."""
    return {path: {"self": path, "none": None} for path in (*dataset.A_paths, *dataset.B_paths)}


def _seed() -> None:
    random.seed(4)
    np.random.seed(4)
    torch.manual_seed(4)


def _streams() -> list[Any]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


@pytest.mark.parametrize("name", PREPROCESS)
def test_an_image_that_is_its_own_mask_comes_out_at_the_same_pixels(name: str, options: Any) -> None:
    dataset = UnalignedDataset(options(**PREPROCESS[name]))
    masked = _masked(dataset, _itself(dataset))
    _seed()
    plain = [dataset[place % len(dataset)] for place in range(24)]
    after = _streams()
    _seed()
    samples = [masked[place % len(dataset)] for place in range(24)]
    assert _streams() == after, "the host's streams end where they would have ended"
    for sample, expected in zip(samples, plain, strict=True):
        assert set(sample) == {*expected, "roi_masks"}
        for domain in "AB":
            assert torch.equal(sample[domain], expected[domain])
            assert sample[f"{domain}_paths"] == expected[f"{domain}_paths"]
            mask = sample["roi_masks"][domain]["self"]
            assert mask.dtype == torch.bool
            assert torch.equal(mask, expected[domain][:1] > 0)
            assert mask.any() and not mask.all()
            assert not sample["roi_masks"][domain]["none"].any()


def test_the_module_that_opens_images_is_itself_again_after_every_sample(options: Any, tmp_path: Path) -> None:
    from roi_progressive.host import dataset as module

    before = dict(vars(module))
    dataset = UnalignedDataset(options())
    masked = _masked(dataset, _itself(dataset))
    masked[0]
    broken = {path: {"self": str(tmp_path / "gone.png")} for path in (*dataset.A_paths, *dataset.B_paths)}
    with pytest.raises(MaskError):
        _masked(dataset, broken)[0]
    assert dict(vars(module)) == before


def test_a_sample_that_fails_leaves_the_streams_after_the_sample(options: Any, tmp_path: Path) -> None:
    dataset = UnalignedDataset(options(no_flip=False))
    broken = {path: {"self": str(tmp_path / "gone.png")} for path in (*dataset.A_paths, *dataset.B_paths)}
    _seed()
    dataset[0]
    after = _streams()
    _seed()
    with pytest.raises(MaskError):
        _masked(dataset, broken)[0]
    assert _streams() == after


# --- workers ----------------------------------------------------------------------------------------------------------


def test_the_wrapper_pickles_and_answers_for_the_hosts_data_set(options: Any) -> None:
    dataset = UnalignedDataset(options())
    masked = _masked(dataset, _itself(dataset))
    assert (len(masked), masked.A_paths) == (len(dataset), dataset.A_paths)
    with pytest.raises(AttributeError):
        masked.no_such_thing  # noqa: B018 - the access is the test
    again = pickle.loads(pickle.dumps(masked))
    assert torch.equal(again[1]["roi_masks"]["A"]["self"], masked[1]["roi_masks"]["A"]["self"])


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_bring_the_masks_however_they_are_started(start: str, build_host: Any, tumor_config: Any) -> None:
    if start not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system cannot {start}")
    model, loader = build_host(num_threads=2, no_flip=True, serial_batches=True)
    with attach(model, loader, tumor_config()):
        alone = DataLoader(loader.dataloader.dataset, batch_size=2)
        loader.dataloader.multiprocessing_context = start
        for batch, expected in zip(loader, alone, strict=True):
            assert torch.equal(batch["A"], expected["A"])
            for domain in "AB":
                mask = batch["roi_masks"][domain]["tumor"]
                assert mask.shape == (2, 1, 32, 32) and mask.any()
                assert torch.equal(mask, expected["roi_masks"][domain]["tumor"])


# --- files ------------------------------------------------------------------------------------------------------------


def test_masks_lie_in_sibling_folders() -> None:
    found = roi_masks(Path("data/trainA/x.png"), ["liver", "tumor"])
    assert found == {"liver": Path("data/trainA_liver/x.png"), "tumor": Path("data/trainA_tumor/x.png")}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    for folder in ("trainA", "trainA_tumor"):
        (tmp_path / folder).mkdir()
        for name in ("x.png", "y.png"):
            Image.new("L", (8, 8), 255).save(tmp_path / folder / name)
    return tmp_path / "trainA" / "x.png"


def test_a_missing_mask_is_named_and_so_is_a_missing_folder(image: Path) -> None:
    (image.parent.with_name("trainA_tumor") / "x.png").unlink()
    with pytest.raises(MaskError, match=r"no mask file '.*trainA_tumor/x\.png'") as caught:
        find_masks([str(image)], [RegionConfig("tumor")], roi_masks)
    assert str(image) in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(MaskError, match=r"no mask folder '.*trainA_liver'"):
        find_masks([str(image)], [RegionConfig("liver")], roi_masks)


def test_skip_counts_an_image_without_mask_as_without_region(image: Path) -> None:
    regions = [RegionConfig("liver", missing="skip"), RegionConfig("tumor")]
    found = find_masks([str(image)], regions, roi_masks)
    assert found == {str(image): {"liver": None, "tumor": str(image.parent.with_name("trainA_tumor") / "x.png")}}


def _with_tumor_masks(options: HostOptions, masks: Path) -> MaskedDataset:
    dataset = UnalignedDataset(options)
    paths = (*dataset.A_paths, *dataset.B_paths)
    return _masked(dataset, {path: {"tumor": str(masks / Path(path).name)} for path in paths})


def _write_all(options: HostOptions, folder: Path, picture: Image.Image) -> None:
    dataset = UnalignedDataset(options)
    for path in (*dataset.A_paths, *dataset.B_paths):
        picture.save(folder / Path(path).name, format="PNG")


def test_a_mask_of_another_size_is_an_error(options: Any, tmp_path: Path) -> None:
    _write_all(options(), tmp_path, Image.new("L", (32, 31), 255))
    with pytest.raises(MaskError, match=r"image's size \(32, 32\).*got \(32, 31\)"):
        _with_tumor_masks(options(), tmp_path)[0]


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_an_unreadable_mask_is_one_line_that_names_it(content: bytes | None, options: Any, tmp_path: Path) -> None:
    _write_all(options(), tmp_path, Image.effect_noise((32, 32), 90))
    for file in tmp_path.glob("*.png"):
        file.write_bytes(file.read_bytes()[:200] if content is None else content)
    with pytest.raises(MaskError, match=r"`tumor` mask '.*\.png' must be a readable image") as caught:
        _with_tumor_masks(options(), tmp_path)[0]
    assert "\n" not in str(caught.value)


def test_a_mask_of_zeros_and_ones_is_refused_not_read_as_empty(options: Any, tmp_path: Path) -> None:
    _write_all(options(), tmp_path, Image.new("L", (32, 32), 1))
    with pytest.raises(MaskError, match="its largest value is 1"):
        _with_tumor_masks(options(), tmp_path)[0]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA"])
def test_a_black_and_white_mask_may_have_any_usual_mode(mode: str, options: Any, tmp_path: Path) -> None:
    square = Image.new("L", (32, 32), 0)
    square.paste(255, (4, 6, 10, 20))
    _write_all(options(), tmp_path, square.convert(mode))
    mask = _with_tumor_masks(options(), tmp_path)[0]["roi_masks"]["A"]["tumor"]
    expected = torch.zeros(1, 32, 32, dtype=torch.bool)
    expected[:, 6:20, 4:10] = True
    assert torch.equal(mask, expected)


@pytest.mark.parametrize("colour", ["red", "lime", "blue", "yellow", "magenta", (0, 0, 200), (180, 20, 20)])
@pytest.mark.parametrize("mode", ["RGB", "P", "RGBA"])
def test_a_mask_in_any_colour_is_read_and_counted_alike(mode: str, colour: Any, options: Any, tmp_path: Path) -> None:
    square = Image.new("RGB", (32, 32), 0)
    square.paste(colour, (4, 6, 10, 20))
    _write_all(options(), tmp_path, square.convert(mode))
    mask = _with_tumor_masks(options(), tmp_path)[0]["roi_masks"]["A"]["tumor"]
    assert mask.sum() == 6 * 14 and mask[:, 6:20, 4:10].all()
    square.convert(mode).save(tmp_path / "mask.png")
    (found,) = coverage_of({"folder/x.png": {"tumor": str(tmp_path / "mask.png")}})
    assert found.areas_px == (6 * 14,)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_a_soft_mask_marks_what_its_sharp_edges_would(kind: Any, options: Any, tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 1, 32), (32, 1))
    _write_all(options(), tmp_path, Image.fromarray((ramp * np.iinfo(kind).max).astype(kind)))
    mask = _with_tumor_masks(options(), tmp_path)[0]["roi_masks"]["A"]["tumor"]
    assert torch.equal(mask[0], torch.from_numpy(ramp >= 0.5))


# --- data sets that masks cannot follow -------------------------------------------------------------------------------


class _Restless(UnalignedDataset):
    """Draws the image of B from a stream that nobody can put back."""

    drawn: Iterator[int] = iter(range(1000))

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.opt.serial_batches = True
        first = super().__getitem__(next(self.drawn) % self.A_size)
        return {**first, "A_paths": self.A_paths[index]}


class _Cached(UnalignedDataset):
    """Opens nothing after the first time."""

    def __getitem__(self, index: int) -> dict[str, Any]:
        kept: dict[int, Any] = self.__dict__.setdefault("kept", {})
        if index not in kept:
            kept[index] = super().__getitem__(index)
        return dict(kept[index])


def test_a_data_set_that_reads_other_files_the_second_time_is_refused(options: Any) -> None:
    dataset = _Restless(options())
    with pytest.raises(MaskError, match="_Restless read"):
        _masked(dataset, _itself(dataset))[0]


def test_a_data_set_that_caches_its_images_is_refused_not_taken_for_its_own_mask(options: Any) -> None:
    dataset = _Cached(options())
    with pytest.raises(MaskError, match="must read the same files again"):
        _masked(dataset, _itself(dataset))[0]
    with pytest.raises(MaskError, match="opened none of the files"):
        _masked(dataset, _itself(dataset))[0]


def test_a_data_set_already_wrapped_is_refused(options: Any) -> None:
    loader = create_dataset(options())
    layout = DatasetLayout(loader.dataloader, MODULES, ("A", "B"), tuple(loader.dataset.A_paths))
    masked = masked_dataset(layout, [RegionConfig("tumor")], roi_masks)
    assert isinstance(masked, MaskedDataset)
    wrapped = DataLoader(masked)
    with pytest.raises(MaskError, match="another session"):
        masked_dataset(DatasetLayout(wrapped, MODULES, ("A", "B"), ()), [RegionConfig("tumor")], roi_masks)


# --- batches ----------------------------------------------------------------------------------------------------------


def test_masks_of_a_batch_come_by_domain_and_region_with_their_boxes() -> None:
    mask = torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    mask[1, 0, 2:5, 3:7] = True
    batch = {"roi_masks": {"A": {"tumor": mask}, "B": {"tumor": ~mask}}}
    found = masks_in_batch(batch, [RegionConfig("tumor")], "cpu")
    assert found["A"]["tumor"].boxes == (None, (2, 3, 5, 7))
    assert found["B"]["tumor"].boxes[0] == (0, 0, 8, 8)


def test_a_batch_without_our_masks_names_what_it_has() -> None:
    with pytest.raises(MaskError, match=r"region 'tumor' from our data set wrapper; got the keys \['A', 'B'\]"):
        masks_in_batch({"B": 1, "A": 2}, [RegionConfig("tumor")], "cpu")


def test_a_batch_key_takes_the_hosts_own_masks() -> None:
    a, b = torch.randint(0, 2, (2, 1, 4, 4)).float(), torch.rand(2, 1, 4, 4) * 2 - 1  # as a mask, as an image
    region = RegionConfig("organ", batch_key="{domain}_mask")
    found = masks_in_batch({"A_mask": a, "B_mask": b}, [region], "cpu")
    assert torch.equal(found["A"]["organ"].mask, a > 0)
    assert torch.equal(found["B"]["organ"].mask, b > 0)
    with pytest.raises(MaskError, match=r"under '\{domain\}_mask'"):
        masks_in_batch({"A": a}, [region], "cpu")


def test_a_region_with_a_batch_key_needs_no_files_and_guides(build_host: Any, tiny_region: Any) -> None:
    model, loader = build_host()
    config = Config(regions=(tiny_region("organ", batch_key="{domain}_mask"),), ggd=None)
    with attach(model, loader, config) as session:
        session.start_epoch(1)
        batch = next(iter(loader))
        assert "roi_masks" not in batch
        mask = torch.zeros(2, 1, 32, 32)
        mask[..., 8:16, 8:16] = 1
        model.set_input({**batch, "A_mask": mask, "B_mask": mask})
        model.optimize_parameters()
        assert "G_organ_A2B" in session.losses()
