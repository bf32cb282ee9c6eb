"""2.5-D: with each slice those above and below it, as further channels of what the networks are given and make."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from stopping import stopped
from torch import Tensor

import roi_progressive
from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig, RegionConfig
from roi_progressive.data.options import PrepareOptions
from roi_progressive.data.preparation import Preparation, read_preparation
from roi_progressive.data.prepare import prepare
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.host import HostOptions, create_dataset, create_model
from roi_progressive.host.dataset import ImageTransform
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.export import export
from roi_progressive.runs.figure import draw_run
from roi_progressive.runs.generators import TrainedNetworks
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.saving.neighbour_slices import neighbours_file
from roi_progressive.saving.records import read_json
from roi_progressive.training.session import attach

sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
from volumes_at import body_in_air, geometry, mr_in_air, upright, values, write_at  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")

SLICES = 6
EVERY = PrepareOptions(size_px=32, slices_each_side=500, align=True)
TUMOR = RegionConfig(
    "tumor", scales=1, windows_px=(16, 32), layers=1, base_channels=2, margin_px=2, stage=1, weight=1.0
)
GUIDED = Config(regions=(TUMOR,), ggd=GGDConfig(weight=1.0, hidden_channels=2))


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four patients, each a CT and an MR on one grid, with a tumour in the slices between the ends."""
    folder = tmp_path_factory.mktemp("scans")
    rows, columns = np.mgrid[:40, :44]
    disc = np.zeros((SLICES, 40, 44), np.uint8)
    disc[1:-1] = np.hypot(rows - 20, columns - 22) < 8
    lines = ["patient,modality,image,tumor,split"]
    for number, split in enumerate(("train", "train", "val", "test")):
        write_at(folder / f"p{number}_tumor.nii.gz", disc)
        for modality, draw in (("CT", body_in_air), ("MR", mr_in_air)):
            name = f"p{number}_{modality.lower()}.nii.gz"
            write_at(folder / name, draw(disc.shape, number))
            lines.append(f"p{number},{modality},{name},p{number}_tumor.nii.gz,{split}")
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=["uint8", "float32"])
def data(request: pytest.FixtureRequest, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    prepare(scans / "scans.csv", folder, replace(EVERY, neighbours=1, dtype=request.param))
    return folder


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> TrainOptions:
    return TrainOptions(
        **small_networks, epochs=2, decay_epochs=0, batch_size=4, average_decay=0.5, device="cpu", save_every_epochs=1,
        learning_rate=0.01, validate_every=2,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(data: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    train(data, folder, options, GUIDED)
    return folder


def stored(path: Path) -> Any:
    """A picture's pixels, read by NumPy or Pillow alone."""
    return np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))


def pictures(data: Path, folder: str) -> list[Path]:
    return sorted((data / folder).iterdir())


# -- what is written ---------------------------------------------------------------------------------------------------


def test_neighbours_are_the_pictures_above_and_below_and_at_an_end_its_own_slice(data: Path) -> None:
    for folder in ("trainA", "trainB", "testA", "testB"):
        of_slice = {path.stem: stored(path) for path in pictures(data, folder)}
        assert len({name.rsplit("_", 1)[0] for name in of_slice}) * SLICES == len(of_slice)
        for path in pictures(data, folder):
            scan, index = path.stem.rsplit("_", 1)
            below, above = np.load(data / "neighbours" / folder / f"{path.stem}.npy")
            np.testing.assert_array_equal(below, of_slice[f"{scan}_{max(0, int(index) - 1):03d}"])
            np.testing.assert_array_equal(above, of_slice[f"{scan}_{min(SLICES - 1, int(index) + 1):03d}"])
            assert below.dtype == of_slice[path.stem].dtype


def test_several_neighbours_lie_from_the_feet_to_the_head(scans: Path, tmp_path: Path) -> None:
    prepare(scans / "scans.csv", tmp_path / "data", replace(EVERY, neighbours=3))
    of_slice = [stored(path) for path in pictures(tmp_path / "data", "testA")]
    around = np.load(neighbours_file(pictures(tmp_path / "data", "testA")[1]))
    np.testing.assert_array_equal(around, [of_slice[index] for index in (0, 0, 0, 2, 3, 4)])


def test_an_aligned_pair_ends_where_either_volume_does(tmp_path: Path) -> None:
    """What B does not show is background in both, and no slice of anybody."""
    write_at(tmp_path / "ct.nii.gz", body_in_air((SLICES, 40, 40)))
    write_at(tmp_path / "mr.nii.gz", mr_in_air((SLICES, 40, 40))[1:5], origin=(-30.0, -40.0, 103.0))
    (tmp_path / "scans.csv").write_text("patient,modality,image\np,CT,ct.nii.gz\np,MR,mr.nii.gz\n", encoding="utf-8")
    prepare(tmp_path / "scans.csv", tmp_path / "data", replace(EVERY, split=(1, 0, 0), neighbours=1))
    for domain in "AB":
        first, *_, last = pictures(tmp_path / "data", f"train{domain}")
        assert (first.stem, last.stem) == ("p_all_001", "p_all_004")
        np.testing.assert_array_equal(np.load(neighbours_file(first))[0], stored(first))
        np.testing.assert_array_equal(np.load(neighbours_file(last))[1], stored(last))
        assert stored(first).max() > 0


def test_all_other_files_are_those_of_a_data_set_without_neighbours(scans: Path, data: Path, tmp_path: Path) -> None:
    dtype = read_json(data / "manifest.json")["dtype"]
    prepare(scans / "scans.csv", tmp_path / "data", replace(EVERY, dtype=dtype))
    assert not (tmp_path / "data" / "neighbours").exists()
    single = {p.relative_to(tmp_path / "data") for p in (tmp_path / "data").rglob("*") if p.is_file()}
    for name in single:
        if name.name not in ("manifest.json", "written.json"):
            assert (data / name).read_bytes() == (tmp_path / "data" / name).read_bytes(), name
    with_neighbours, without = read_json(data / "manifest.json"), read_json(tmp_path / "data" / "manifest.json")
    assert with_neighbours.pop("neighbours") == 1 and with_neighbours == without
    assert read_preparation(data).options.neighbours == 1
    assert read_preparation(tmp_path / "data").options.neighbours == 0


def test_what_a_run_keeps_of_its_data_comes_back(data: Path) -> None:
    preparation = read_preparation(data)
    assert Preparation.from_record(preparation.to_record()).options.neighbours == 1
    older = {key: value for key, value in preparation.to_record().items() if key != "neighbours"}
    assert Preparation.from_record(older).options.neighbours == 0


def test_the_command_line_and_the_function_take_it(scans: Path, tmp_path: Path) -> None:
    table = str(scans / "scans.csv")
    assert main(["prepare", table, str(tmp_path / "typed"), "--size", "32", "--align", "--neighbours", "2"]) == 0
    roi_progressive.prepare(table, tmp_path / "called", size=32, align=True, neighbours=2)
    names = [path.relative_to(tmp_path / "typed") for path in (tmp_path / "typed" / "neighbours").rglob("*.npy")]
    assert len(names) == 8 * SLICES
    for name in names:
        np.testing.assert_array_equal(np.load(tmp_path / "typed" / name), np.load(tmp_path / "called" / name))


# -- what the networks are given ---------------------------------------------------------------------------------------


def host(data: Path, **changes: Any) -> HostOptions:
    tiny = {"ngf": 2, "ndf": 2, "unet_depth": 2, "n_layers_D": 1, "neighbours": 1}
    return HostOptions(**{"dataroot": str(data), **tiny, **changes})


def test_the_first_channel_is_the_slice_bit_for_bit(data: Path) -> None:
    around = create_dataset(host(data, no_flip=True, serial_batches=True)).dataset
    alone = create_dataset(host(data, no_flip=True, serial_batches=True, neighbours=0)).dataset
    for index in range(len(around)):
        stack, single = around[index], alone[index]
        for domain in "AB":
            assert stack[domain].shape == (3, 32, 32)
            assert torch.equal(stack[domain][:1], single[domain])
    stacks = [around[index]["A"] for index in range(SLICES)]
    for below, above in pairwise(stacks):
        assert torch.equal(above[1], below[0]) and torch.equal(below[2], above[0])


def test_what_is_done_to_a_slice_is_done_to_its_neighbours() -> None:
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (20, 24), np.uint8)) for _ in range(3)]
    flips = set()
    for seed in range(8):
        transform = ImageTransform(resize_px=18, crop_px=12, flip=True)
        torch.manual_seed(seed)
        stack = transform(*images)
        state = torch.get_rng_state()
        for channel, image in enumerate(images):
            torch.manual_seed(seed)
            assert torch.equal(stack[channel], transform(image)[0])
            assert torch.equal(torch.get_rng_state(), state), "neighbours draw nothing"
        torch.manual_seed(seed)
        flips.add(torch.equal(stack, ImageTransform(resize_px=18, crop_px=12)(*images)))
    assert flips == {True, False}


def test_masks_follow_through_crop_and_mirror(data: Path, tmp_path: Path) -> None:
    """Proved by the session itself, and once more: a mask lies where its picture comes to lie, drawn alike."""
    chosen = host(data, checkpoints_dir=str(tmp_path), preprocess="crop", crop_size=28, seed=0)
    model, loader = create_model(chosen), create_dataset(chosen)
    model.setup(chosen)
    with attach(model, loader, replace(GUIDED, resume="fresh"), n_epochs=1):
        dataset = loader.dataloader.dataset
        seen = [dataset[(index, 10 + index)] for index in range(len(dataset))]
        assert dataset.is_proved and not dataset.follows_by_difference
    places = set()
    for index, sample in enumerate(seen):
        path = Path(sample["A_paths"])
        with Image.open(data / "trainA_tumor" / f"{path.stem}.png") as picture:
            torch.manual_seed(10 + index)  # A draws first
            expected = loader.dataset.transform_A(picture) > 0
        mask = sample["roi_masks"]["A"]["tumor"]
        assert sample["A"].shape == (3, 28, 28) and torch.equal(mask, expected)
        places |= {tuple(mask.nonzero()[0].tolist())} if mask.any() else set()
    assert len(places) > 2, "masks move with their images"


def test_networks_take_and_make_all_channels(data: Path, tmp_path: Path) -> None:
    model = create_model(host(data, checkpoints_dir=str(tmp_path), isTrain=True))
    assert model.netG_A(torch.zeros(1, 3, 32, 32)).shape == (1, 3, 32, 32)
    assert model.netD_A(torch.zeros(1, 3, 32, 32)).shape[:2] == (1, 1)


@pytest.mark.parametrize("damage", ["missing", "other", "cut off", "range"])
def test_neighbours_that_cannot_be_used_are_one_line_before_the_first_step(
    scans: Path, tmp_path: Path, options: TrainOptions, damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare(scans / "scans.csv", tmp_path / "data", replace(EVERY, neighbours=1, dtype="float32"))
    file = neighbours_file(pictures(tmp_path / "data", "trainB")[-1])
    if damage == "missing":
        file.unlink()
    elif damage == "cut off":
        file.write_bytes(file.read_bytes()[:-5])
    else:
        np.save(file, np.full((2, 32, 32) if damage == "range" else (4, 32, 32), 1.5, np.float32))
    with pytest.raises(DataError, match=f"`neighbours`.*{file.name}"):
        train(tmp_path / "data", tmp_path / "run", options)
    assert main(["train", "--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--no-regions"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not (tmp_path / "run" / "run.json").exists()


# -- a run, from the first step to what is handed on -------------------------------------------------------------------


def test_a_run_takes_those_of_its_data_and_says_so(run: Path) -> None:
    assert read_json(run / "run.json")["options"]["neighbours"] == 1
    trained = TrainedNetworks.open(run)
    assert trained.options.neighbours == 1 and trained.preparation is not None
    assert trained.preparation.options.neighbours == 1
    assert TrainedNetworks.open(run / "networks").options.neighbours == 1


def test_a_run_that_was_stopped_ends_on_the_same_bits(
    data: Path, run: Path, options: TrainOptions, tmp_path: Path, differing: Any
) -> None:
    with stopped(lambda done, total, text: done > total // 2) as report:
        train(data, tmp_path / "run", options, GUIDED, report=report)
    resume(tmp_path / "run")
    files = sorted(path.name for path in (run / "networks").glob("*.pth"))
    assert files == sorted(path.name for path in (tmp_path / "run" / "networks").glob("*.pth"))
    for name in files:
        of_run, of_other = (torch.load(f / "networks" / name, weights_only=True) for f in (run, tmp_path / "run"))
        assert differing(of_run, of_other) == [], name


def test_a_run_on_single_slices_of_it_is_that_of_a_data_set_without(
    scans: Path, data: Path, options: TrainOptions, tmp_path: Path, differing: Any
) -> None:
    dtype = read_json(data / "manifest.json")["dtype"]
    prepare(scans / "scans.csv", tmp_path / "single", replace(EVERY, dtype=dtype))
    train(tmp_path / "single", tmp_path / "run", options, GUIDED)
    train(data, tmp_path / "zero", replace(options, neighbours=0), GUIDED)
    for name in ("2_net_G_A.pth", "2_net_G_B.pth", "2_net_D_A.pth"):
        of_run, of_zero = (torch.load(tmp_path / f / "networks" / name, weights_only=True) for f in ("run", "zero"))
        assert differing(of_run, of_zero) == []


def test_other_neighbours_than_the_data_have_are_refused(data: Path, options: TrainOptions, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="`neighbours` must be 0 or those of the data set; got 2"):
        train(data, tmp_path / "run", replace(options, neighbours=2))


def test_the_slice_alone_is_generated_scored_and_drawn(data: Path, run: Path) -> None:
    scores = evaluate_run(run, uncertainty=True, device="cpu")
    assert set(scores.results["model"]) == {"A2B", "B2A"}
    assert {scored["name"] for scored in scores.slices["model"]} == {path.name for path in pictures(data, "testA")}
    with torch.no_grad():
        for direction, generator in networks(run).items():
            for path in pictures(data, f"test{direction[0]}"):
                expected = generator(stack_of(path))[0, 0].clamp(-1, 1)
                made = stored(run / "test" / direction / path.name)
                grey = (made + 1) * 127.5 if path.suffix == ".npy" else made
                np.testing.assert_allclose(grey, (expected.numpy() + 1) * 127.5, atol=0.51)
                sigma = np.load(run / "test" / f"{direction}_sigma" / f"{path.stem}.npy")
                assert sigma.shape == (32, 32) and (sigma > 0).all()
    figures = draw_run(run, sigma=True, error=True, device="cpu")
    assert all(file.stat().st_size > 0 for figure in figures for file in figure.files)


def networks(run: Path) -> dict[str, torch.nn.Module]:
    from roi_progressive.runs.generators import loaded_generators

    trained = TrainedNetworks.open(run)
    with loaded_generators(trained.folder, trained.options, trained.config, trained.epoch, "cpu") as generators:
        return {direction: generators.network(direction) for direction in ("A2B", "B2A")}


def stack_of(path: Path) -> Tensor:
    """A slice and its neighbours, put together by hand."""
    planes = np.stack([stored(path), *np.load(neighbours_file(path))]).astype(np.float32)
    return torch.from_numpy(planes if path.suffix == ".npy" else planes / 127.5 - 1)[None]


@pytest.mark.parametrize("direction", ["A2B", "B2A"])
def test_a_volume_s_slices_are_those_of_evaluate_to_a_grey_level(
    scans: Path, data: Path, run: Path, direction: str, tmp_path: Path
) -> None:
    from skimage import transform

    evaluate_run(run, device="cpu", references=())
    scan, out = scans / {"A2B": "p3_ct.nii.gz", "B2A": "p3_mr.nii.gz"}[direction], tmp_path / "out.nii.gz"
    report = roi_progressive.translate_volume(
        scan, out, run=run / "networks", direction=direction, sigma=tmp_path / "sigma.nii.gz", device="cpu"
    )
    assert geometry(out) == geometry(scan) and report.slices == SLICES
    volume = upright(out)
    low, level = (-160.0, 400 / 255) if direction == "B2A" else (0.0, 1.0)
    entries = [e for e in read_json(data / "manifest.json")["slices"] if e["patient"] == "p3"]
    checked = 0
    for entry in (e for e in entries if e["domain"] == direction[0]):
        square, [file] = entry["square_px"], list((run / "test" / direction).glob(f"{entry['name']}.[pn]*"))
        made = stored(file).astype(np.float64)
        grey = (made + 1) * 127.5 if file.suffix == ".npy" else made
        size = (square["height"], square["width"])
        back = transform.resize(grey, size, order=1, mode="edge", anti_aliasing=True, preserve_range=True)
        top, left = square["top"], square["left"]
        rows, columns = volume[entry["index"]].shape
        inner = back[max(0, -top) : rows - top, max(0, -left) : columns - left]
        cut = volume[entry["index"]][max(0, top) : top + size[0], max(0, left) : left + size[1]]
        np.testing.assert_allclose((cut - low) / level, inner, atol=1.0)
        checked += 1
    assert checked == SLICES


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_generator_that_changes_nothing_returns_the_volume_and_sees_its_neighbours(
    tmp_path: Path, dtype: str
) -> None:
    scan, seen = write_at(tmp_path / "scan.nii.gz", body_in_air((SLICES, 40, 40))), []

    def identity(source: Tensor) -> Tensor:
        seen.append(source)
        return source

    options = PrepareOptions(size_px=40, domains=("CT", "CBCT"), neighbours=2, dtype=dtype)
    preparation = Preparation(options, {"A": True, "B": True})
    roi_progressive.translate_volume(
        scan, tmp_path / "out.nii.gz", generator=identity, preparation=preparation, direction="A2B"
    )
    assert geometry(tmp_path / "out.nii.gz") == geometry(scan)
    inside = np.clip(values(scan), -160, 240)
    assert np.abs(values(tmp_path / "out.nii.gz") - inside).max() <= 400 / 255 / 2 + 1e-3
    stacks = torch.cat(seen)
    assert stacks.shape == (SLICES, 5, 40, 40)
    for index in range(SLICES):
        for channel, offset in enumerate((0, -2, -1, 1, 2)):
            assert torch.equal(stacks[index, channel], stacks[min(max(index + offset, 0), SLICES - 1), 0])


@pytest.mark.parametrize("format", ["torch", "onnx"])
def test_a_program_takes_all_channels_and_returns_the_slice(data: Path, run: Path, format: str, tmp_path: Path) -> None:
    if format == "onnx":
        pytest.importorskip("onnx", reason="the extra `export` is not installed")
        pytest.importorskip("onnxruntime", reason="the extra `export` is not installed")
    evaluate_run(run, device="cpu", references=())
    done = export(run, tmp_path / "out", format=format, sigma=True)
    path = pictures(data, "testA")[0]
    if format == "torch":
        with torch.no_grad():
            image, sigma = (part.numpy() for part in torch.jit.load(str(done.files[0]))(stack_of(path)))
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(done.files[0]), providers=["CPUExecutionProvider"])
        image, sigma = session.run(None, {"source": stack_of(path).numpy()})
    assert image.shape == sigma.shape == (1, 1, 32, 32)
    made = stored(run / "test" / "A2B" / path.name)
    grey = (made + 1) * 127.5 if path.suffix == ".npy" else made
    np.testing.assert_allclose((image[0, 0] + 1) * 127.5, grey, atol=0.51)
    exact = np.load(run / "test" / "A2B_sigma" / f"{path.stem}.npy")
    np.testing.assert_allclose(sigma[0, 0] * 127.5, exact, rtol=2e-4)
    assert "C is 3: the first channel is the slice" in (tmp_path / "out" / "card.md").read_text(encoding="utf-8")


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_side_by_side_pairs_have_no_neighbours(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ConfigError, match="`neighbours` cannot go with `paired`"):
        PrepareOptions(paired=True, neighbours=1)
    assert main(["prepare", "list.csv", str(tmp_path / "out"), "--paired", "--neighbours", "1"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("wrong", [-1, 17, 1.5, True])
def test_a_wrong_number_is_one_line(wrong: Any) -> None:
    for options in (PrepareOptions, TrainOptions):
        with pytest.raises(ConfigError, match="`neighbours` must be a whole number"):
            options(neighbours=wrong)


def test_colour_images_have_no_neighbours() -> None:
    with pytest.raises(ConfigError, match="`neighbours` must be 0 where images have colours"):
        HostOptions(dataroot="data", input_nc=3, output_nc=3, neighbours=1)
