"""A run in its folder: stopped anywhere it goes on as if it had not been, and nothing is lost or left half done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive.check.data_check import read_everything
from roi_progressive.config import Config, GGDConfig, RegionConfig, StageConfig
from roi_progressive.errors import CheckpointError, ConfigError, DataError, DivergenceError, MaskError
from roi_progressive.host import CycleGANModel, HostOptions, create_dataset, create_model
from roi_progressive.runs import train as run_module
from roi_progressive.runs.evaluate import evaluate_run
from roi_progressive.runs.figure import draw_run
from roi_progressive.runs.folder import PREPARATION_FILE, Run, history, write_image
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.runs.moments import load_optimizers, optimizers_file, save_optimizers
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runtime.rng import RandomState
from roi_progressive.saving.checkpoint import load_checkpoint, save_checkpoint
from roi_progressive.saving.records import read_json, write_json
from roi_progressive.training.session import Session

pytestmark = pytest.mark.usefixtures("one_thread")
LAST = 6
ONE_LINE = r"\A`[^\n]+\Z"
GUIDED = Config(
    regions=(
        RegionConfig("liver", scales=1, windows_px=(24, 32), base_channels=2),
        RegionConfig("tumor", scales=2, windows_px=(24, 32), base_channels=2),
    ),
    ggd=GGDConfig(hidden_channels=2),
    stages=StageConfig(joined_by_fraction=None),
    pool_size=2,
)
CONFIGS = {"plain": None, "guided": GUIDED}


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> TrainOptions:
    """Six epochs of two steps, saved every other."""
    return TrainOptions(**small_networks, epochs=3, decay_epochs=3, batch_size=2, save_every_epochs=2, seed=5)


@pytest.fixture(scope="module")
def straight(small_data: Path, tmp_path_factory: pytest.TempPathFactory, options: TrainOptions) -> dict[str, Path]:
    """Runs that nobody interrupted."""
    folder = tmp_path_factory.mktemp("straight")
    for name, config in CONFIGS.items():
        train(small_data, folder / name, options, config)
    return {name: folder / name for name in CONFIGS}


def _networks(run: Path) -> dict[str, Any]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted((run / "networks").glob("*.pth"))}


def _assert_equal(this: Any, that: Any, where: str = "") -> None:
    assert type(this) is type(that), where
    if isinstance(this, torch.Tensor):
        assert torch.equal(this, that), where
    elif isinstance(this, dict):
        assert this.keys() == that.keys(), where
        for key, value in this.items():
            _assert_equal(value, that[key], f"{where}/{key}")
    elif isinstance(this, (list, tuple)):
        assert len(this) == len(that), where
        for index, (one, other) in enumerate(zip(this, that, strict=True)):
            _assert_equal(one, other, f"{where}/{index}")
    else:
        assert this == that, where


def _stopping_at(step: int) -> Callable[[int, int, str], None]:
    def report(done: int, total: int, text: str) -> None:
        if done == step:
            raise KeyboardInterrupt

    return report


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("stops", [(5,), (9, 11)], ids=["early", "twice late"])
def test_an_interrupted_run_goes_on_to_the_same_bits(
    name: str,
    stops: tuple[int, ...],
    small_data: Path,
    straight: dict[str, Path],
    tmp_path: Path,
    options: TrainOptions,
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small_data, run, options, CONFIGS[name], report=_stopping_at(stops[0]))
    for stop in stops[1:]:
        torch.manual_seed(123)  # a new process has other random streams
        with pytest.raises(KeyboardInterrupt):
            resume(run, report=_stopping_at(stop))
    torch.manual_seed(321)
    resume(run)
    _assert_equal(_networks(run), _networks(straight[name]))
    assert history(run) == history(straight[name])


def test_a_rate_that_waits_for_a_plateau_goes_on_where_it_was(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    update = CycleGANModel.update_learning_rate

    def recorded(model: CycleGANModel) -> None:
        update(model)
        rates.append(model.optimizer_G.param_groups[0]["lr"])

    monkeypatch.setattr(CycleGANModel, "update_learning_rate", recorded)
    # So small a rate changes no loss by a hundredth: the sixth epoch without a fall lowers it.
    given = {"epochs": 14, "decay_epochs": 0, "lr_policy": "plateau", "learning_rate": 1e-6, "save_every_epochs": 1}
    plateau = TrainOptions(**small_networks, **given, flip=False, seed=5)
    train(small_data, tmp_path / "straight", plateau)
    straight, rates[:] = list(rates), []
    assert len(straight) == 14 and straight[0] == 1e-6 and straight[-1] < 0.3e-6
    with pytest.raises(KeyboardInterrupt):
        train(small_data, tmp_path / "run", plateau, report=_stopping_at(4 * 10 + 2))
    stopped, rates[:] = list(rates), []
    resume(tmp_path / "run")
    assert stopped == straight[: len(stopped)] and rates == straight
    _assert_equal(_networks(tmp_path / "run"), _networks(tmp_path / "straight"))
    (tmp_path / "run" / "history.jsonl").unlink()
    write_json(tmp_path / "run" / "networks" / "latest.json", {"epoch": 14})
    described = read_json(tmp_path / "run" / "run.json")
    described["options"]["epochs"] = 15
    write_json(tmp_path / "run" / "run.json", described)
    with pytest.raises(DataError, match="must hold the losses of all its epochs, by which `lr_policy` plateau goes"):
        resume(tmp_path / "run")


def test_windows_are_trained_on_and_whole_slices_translated(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=0, crop_px=24, save_every_epochs=1)
    train(small_data, tmp_path / "run", options, Config(regions=GUIDED.regions[1:], ggd=None))
    assert json.loads((tmp_path / "run" / "run.json").read_text(encoding="utf-8"))["size_px"] == [24, 24]
    images = evaluate_run(tmp_path / "run", references=()).images["A2B"]
    with Image.open(next(images.glob("*.png"))) as image:
        assert image.size == (32, 32)
    with pytest.raises(DataError, match="`crop_size` must be at most the image's sides; got 40"):
        train(small_data, tmp_path / "large", TrainOptions(**small_networks, crop_px=40))


def test_guidance_changes_the_run(straight: dict[str, Path]) -> None:
    plain, guided = (_networks(straight[name])["6_net_G_A.pth"] for name in CONFIGS)
    assert not torch.equal(plain["image_head.conv.weight"], guided["image_head.conv.weight"])


def test_a_finished_run_is_left_as_it_is(straight: dict[str, Path]) -> None:
    files = {path: path.stat().st_mtime_ns for path in straight["guided"].rglob("*")}
    resume(straight["guided"])
    assert {path: path.stat().st_mtime_ns for path in straight["guided"].rglob("*")} == files


def test_the_folder_says_what_was_asked_for(small_data: Path, straight: dict[str, Path], options: TrainOptions) -> None:
    described = json.loads((straight["guided"] / "run.json").read_text(encoding="utf-8"))
    assert described["format"] == 1 and described["size_px"] == [32, 32]
    assert described["data"] == str(small_data.resolve())
    asked = {**asdict(options), "neighbours": 0}  # as many as the data have
    assert described["options"] == json.loads(json.dumps(asked))  # a tuple is a list there
    run = Run.open(straight["guided"])
    assert run.options == replace(options, neighbours=0)
    assert (run.data, run.epoch, run.last_epoch) == (small_data.resolve(), LAST, LAST)
    assert run.config.regions == GUIDED.regions and run.config.ggd == GUIDED.ggd and run.config.resume == "exact"


def test_the_history_has_one_line_an_epoch_with_stage_and_losses(straight: dict[str, Path]) -> None:
    epochs = history(straight["guided"])
    assert [epoch["epoch"] for epoch in epochs] == list(range(1, LAST + 1))
    assert [epoch["stage"] for epoch in epochs] == [1, 1, 2, 2, 3, 3]
    assert "ggd_A2B" in epochs[0]["losses"] and "G_liver_A2B" not in epochs[0]["losses"]
    assert {"G_liver_A2B", "D_liver_B2A"} <= epochs[2]["losses"].keys() and "G_tumor_A2B" not in epochs[2]["losses"]
    assert {"G_tumor_A2B", "D_tumor_B2A", "G_A", "cycle_A"} <= epochs[4]["losses"].keys()
    assert all(np.isfinite(loss) for epoch in epochs for loss in epoch["losses"].values())
    assert not any(name.startswith("roi_") for epoch in epochs for name in epoch["losses"])  # ours stand there once


def test_only_the_last_saved_epoch_stays_and_every_save_left_a_picture(straight: dict[str, Path]) -> None:
    networks = {path.name for path in (straight["guided"] / "networks").iterdir()}
    ours = {f"6_net_{name}.pth" for name in ("G_A", "G_B", "D_A", "D_B")}
    ours |= {"6_average_G_A.pth", "6_average_G_B.pth"}
    assert networks == {*ours, "6_roi_progressive.pth", "latest.json", PREPARATION_FILE}
    samples = sorted((straight["guided"] / "samples").iterdir())
    assert [path.name for path in samples] == ["epoch_0002.png", "epoch_0004.png", "epoch_0006.png"]
    pictures = [np.asarray(Image.open(path).convert("RGB")).astype(int) for path in samples]
    changed = [np.abs(pictures[-1] - picture).max(axis=(0, 2)) > 0 for picture in pictures[:-1]]
    generated = slice(152, 296)  # the second of six columns; the first shows the same slice at every epoch
    assert all(columns[generated].any() for columns in changed)
    below_the_title = [np.abs(pictures[-1] - picture)[28:, :148].max() for picture in pictures[:-1]]
    assert below_the_title == [0, 0]


def test_the_last_epoch_is_saved_whatever_the_interval(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    train(small_data, tmp_path / "run", TrainOptions(**small_networks, epochs=3, decay_epochs=0, save_every_epochs=100))
    assert saved_epoch(tmp_path / "run") == 3


def test_a_stop_while_saving_leaves_the_epoch_before(
    small_data: Path, straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: TrainOptions
) -> None:
    run, save = tmp_path / "run", torch.save

    def full_disk(content: Any, file: Any) -> None:
        if "4_net_D_A" in str(getattr(file, "name", "")):
            file.write(b"half")
            raise OSError(28, "No space left on device")
        save(content, file)

    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", full_disk)
        with pytest.raises(CheckpointError, match="No space left"):
            train(small_data, run, options, GUIDED)
    assert saved_epoch(run) == 2
    resume(run)
    _assert_equal(_networks(run), _networks(straight["guided"]))
    assert history(run) == history(straight["guided"])


def test_a_line_cut_off_in_the_history_is_written_anew(
    small_data: Path, straight: dict[str, Path], tmp_path: Path, options: TrainOptions
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small_data, run, options, report=_stopping_at(7))
    with open(run / "history.jsonl", "a", encoding="utf-8") as file:
        file.write('{"epoch": 4, "sta')
    resume(run)
    assert history(run) == history(straight["plain"])
    assert len((run / "history.jsonl").read_text(encoding="utf-8").splitlines()) == LAST


def test_force_replaces_a_run_and_nothing_else(
    small_data: Path, tmp_path: Path, options: TrainOptions, small_networks: dict[str, Any]
) -> None:
    run, one = tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0)
    train(small_data, run, options, GUIDED)
    evaluate_run(run, references=())
    mine = {"test/A2B/x.png", "test/table.md", "notes.txt", "samples/mine.png", "networks/my_pretrained.pth"}
    for name in mine:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text("x", encoding="utf-8")
    with pytest.raises(DataError, match="new or empty"):
        train(small_data, run, one)
    train(small_data, run, one, force=True)
    left = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    networks = {f"networks/1_net_{name}.pth" for name in ("G_A", "G_B", "D_A", "D_B")}
    networks |= {f"networks/1_average_G_{side}.pth" for side in "AB"}
    networks |= {"networks/latest.json", "networks/1_roi_progressive.pth", f"networks/{PREPARATION_FILE}"}
    assert left - networks == {"run.json", "written.json", "history.jsonl", "samples/epoch_0001.png", *mine}
    assert {(run / name).read_text(encoding="utf-8") for name in mine} == {"x"}
    assert networks <= left and len(history(run)) == 1


def test_a_file_of_the_user_s_under_a_name_of_ours_is_never_replaced(
    small_data: Path, tmp_path: Path, options: TrainOptions
) -> None:
    (tmp_path / "run" / "networks").mkdir(parents=True)
    (tmp_path / "run" / "networks" / "2_net_G_A.pth").write_text("mine", encoding="utf-8")
    with pytest.raises(DataError, match=r"2_net_G_A\.pth' is not ours, by the record written\.json; move it away"):
        train(small_data, tmp_path / "run", options, force=True)
    assert [path.name for path in (tmp_path / "run").rglob("*")] == ["networks", "2_net_G_A.pth"]


def test_a_forced_run_that_fails_at_its_start_leaves_the_earlier_one(
    small_data: Path, straight: dict[str, Path], tmp_path: Path, options: TrainOptions, small_networks: dict[str, Any]
) -> None:
    before = {path: path.read_bytes() for path in straight["plain"].rglob("*") if path.is_file()}
    with pytest.raises(DataError, match="32 x 32 px do not suit"):
        train(small_data, straight["plain"], TrainOptions(**{**small_networks, "depth": 6}), force=True)
    with pytest.raises(MaskError, match="kidney"):
        train(small_data, straight["plain"], options, Config(regions=(RegionConfig("kidney"),)), force=True)
    assert {path: path.read_bytes() for path in straight["plain"].rglob("*") if path.is_file()} == before


def test_images_too_small_for_a_region_are_found_before_it_joins(
    small_data: Path, tmp_path: Path, options: TrainOptions
) -> None:
    region = RegionConfig("tumor", roi_mode="mask", scales=4, windows_px=(48,), base_channels=2)
    with pytest.raises(DataError, match="at least 48 px for 4 scales of region 'tumor'; got 32 x 32 px"):
        train(small_data, tmp_path / "run", options, Config(regions=(region,)))
    assert not (tmp_path / "run").exists()


def test_looking_at_the_data_first_changes_no_bit(
    small_data: Path, straight: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: TrainOptions
) -> None:
    monkeypatch.setattr(run_module, "read_everything", lambda loader: (32, 32))
    train(small_data, tmp_path / "run", options, GUIDED)
    _assert_equal(_networks(tmp_path / "run"), _networks(straight["guided"]))


def test_every_image_of_both_domains_is_looked_at(small_data: Path) -> None:
    loader = create_dataset(HostOptions(dataroot=str(small_data)))
    seen: list[str] = []
    transform = loader.dataset.transform_A
    opened, real_open = seen, Image.open

    def remember(path: Any, *args: Any, **kwargs: Any) -> Any:
        opened.append(str(path))
        return real_open(path, *args, **kwargs)

    before = RandomState.now().to_plain()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Image, "open", remember)
        assert read_everything(loader) == (32, 32)
    assert set(seen) == {*loader.dataset.A_paths, *loader.dataset.B_paths}
    _assert_equal(RandomState.now().to_plain(), before)
    assert loader.opt.serial_batches is False and loader.dataset.transform_A is transform


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("epochs", -1),
        ("epochs", 1.0),
        ("batch_size", 0),
        ("depth", 9),
        ("depth", True),
        ("seed", 2**63),
        ("learning_rate", float("nan")),
        ("identity", -0.1),
        ("cycle", "10"),
        ("flip", 1),
        ("generator", "vgg"),
    ],
)
def test_a_wrong_option_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"`{key}` must be"):
        TrainOptions(**{key: value})


def test_every_option_reaches_the_host() -> None:
    changed: dict[str, Any] = {
        "generator": "resnet", "channels": 3, "depth": 5, "discriminator_channels": 6, "discriminator_layers": 2,
        "epochs": 7, "decay_epochs": 8, "batch_size": 9, "learning_rate": 0.1, "cycle": 11.0, "identity": 0.12,
        "flip": False, "seed": 13, "workers": 14, "residual_blocks": 2, "lr_policy": "step", "lr_step_epochs": 3,
        "beta1": 0.6, "gan_mode": "vanilla", "pool_size": 4, "crop_px": 16,
        "augment": "affine", "neighbours": 2,
    }  # fmt: skip
    plain = TrainOptions().host_options(Path("d"), Path("r"))
    options = TrainOptions(**changed).host_options(Path("d"), Path("r"))
    differing = {key for key, value in asdict(options).items() if value != asdict(plain)[key]}
    assert differing == {
        "netG", "ngf", "unet_depth", "ndf", "n_layers_D", "n_epochs", "n_epochs_decay", "batch_size", "lr", "lambda_A",
        "lambda_B", "lambda_identity", "no_flip", "seed", "num_threads", "n_blocks", "lr_policy", "lr_decay_iters",
        "beta1", "gan_mode", "pool_size", "preprocess", "crop_size", "augment", "neighbours",
    }  # fmt: skip
    assert (options.lambda_A, options.lambda_B, options.no_flip) == (11.0, 11.0, True)


def test_a_loss_that_is_no_number_is_null_in_the_history(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: dict[str, Any]
) -> None:
    step = CycleGANModel.optimize_parameters

    def step_to_nowhere(self: CycleGANModel) -> None:
        step(self)
        self.loss_G_A = torch.tensor(float("nan"))

    monkeypatch.setattr(CycleGANModel, "optimize_parameters", step_to_nowhere)
    with pytest.raises(DivergenceError, match="after epoch 1 loss G_A is infinite or NaN"):
        train(small_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    assert saved_epoch(tmp_path / "run") is None and history(tmp_path / "run") == []


@pytest.mark.parametrize("config", [None, GUIDED])
def test_a_run_that_diverged_ends_in_one_line_whatever_is_active(
    config: Config | None, small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    options = TrainOptions(**small_networks, epochs=3, decay_epochs=0, learning_rate=1e30, save_every_epochs=1)
    with pytest.raises(DivergenceError, match=r"\A[^\n]+\Z"):
        train(small_data, tmp_path / "run", options, config)
    assert not any((tmp_path / "run").glob("networks/*.pth"))


def test_networks_of_numbers_that_are_not_finite_make_no_image(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    train(small_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    file = tmp_path / "run" / "networks" / "1_net_G_B.pth"
    state = torch.load(file, weights_only=True)
    next(iter(state.values())).view(-1)[0] = float("nan")
    torch.save(state, file)
    for command in (evaluate_run, draw_run, resume):
        with pytest.raises(CheckpointError, match="must name networks of finite numbers"):
            command(tmp_path / "run")
    assert not (tmp_path / "run" / "test").exists() or not any((tmp_path / "run" / "test").iterdir())


def test_an_image_of_a_number_that_is_not_finite_is_not_written(tmp_path: Path) -> None:
    for name in ("a.png", "a.npy"):
        with pytest.raises(DivergenceError, match=f"those of {name} are infinite or NaN"):
            write_image(tmp_path / name, torch.tensor([[[0.0, float("nan")]]]))
    assert list(tmp_path.iterdir()) == []


def test_a_loss_of_ours_that_is_no_number_is_null_in_the_history(
    small_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_networks: dict[str, Any]
) -> None:
    """Steps of ours that were not finite are left out where they happen, and ten in a row end the run."""
    monkeypatch.setattr(Session, "loss_tensors", lambda self: {"G_tumor_A2B": torch.tensor(float("nan"))})
    train(small_data, tmp_path / "run", TrainOptions(**small_networks, epochs=1, decay_epochs=0))
    assert history(tmp_path / "run")[0]["losses"]["G_tumor_A2B"] is None
    assert "NaN" not in (tmp_path / "run" / "history.jsonl").read_text(encoding="utf-8")


# -- what a resume removes ---------------------------------------------------------------------------------------------


def test_a_partial_copy_of_a_run_loses_nothing_when_it_is_resumed(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any]
) -> None:
    """The pointer is copied before the networks are: it names an epoch whose files are not all there."""
    run = tmp_path / "run"
    train(small_data, run, TrainOptions(**small_networks, epochs=2, decay_epochs=0, average_decay=0.5))
    for name in ("2_net_G_A.pth", "2_average_G_B.pth", "2_roi_progressive.pth"):
        copy = Path(shutil.copytree(run, tmp_path / f"without_{name}"))
        record = read_json(copy / "written.json")["files"]
        for path in list((copy / "networks").glob("2_*.pth")):
            shutil.copy(path, path.with_name(f"1{path.name[1:]}"))
            record[f"networks/1{path.name[1:]}"] = None
        write_json(copy / "written.json", {"files": record})
        (copy / "networks" / name).unlink()
        before = sorted(path.name for path in copy.rglob("*"))
        with pytest.raises(CheckpointError):
            resume(copy)
        assert sorted(path.name for path in copy.rglob("*")) == before


# -- the optimizers of a run of several processes ----------------------------------------------------------------------


def _model(folder: Path, **changes: Any) -> CycleGANModel:
    tiny = {"ngf": 2, "unet_depth": 2, "ndf": 2, "n_layers_D": 1, "seed": 0}
    model = create_model(HostOptions(dataroot=str(folder), **{**tiny, **changes}))
    for optimizer in model.optimizers:
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    return model


def _moments(model: CycleGANModel) -> list[dict[int, dict[str, torch.Tensor]]]:
    return [optimizer.state_dict()["state"] for optimizer in model.optimizers]


def test_moments_are_restored_to_the_bit(tmp_path: Path, differing: Any, copied: Any) -> None:
    model = _model(tmp_path)
    saved = copied(_moments(model))
    save_optimizers(model, tmp_path, 1)
    other = _model(tmp_path, seed=1)
    assert differing(saved, _moments(other)) != []
    load_optimizers(other, tmp_path, 1)
    assert differing(saved, _moments(other)) == []


@pytest.mark.parametrize(
    "changes", [{"ngf": 3}, {"unet_depth": 3}, {"n_layers_D": 2}, {"netG": "resnet", "n_blocks": 1}]
)
def test_moments_of_another_network_are_refused_and_change_nothing(
    tmp_path: Path, changes: dict[str, Any], differing: Any, copied: Any
) -> None:
    save_optimizers(_model(tmp_path, **changes), tmp_path, 1)
    model = _model(tmp_path)
    before = copied(_moments(model))
    with pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        load_optimizers(model, tmp_path, 1)
    assert "must hold the moments of its own optimizers" in str(caught.value)
    assert str(optimizers_file(tmp_path, 1)) in str(caught.value)
    assert differing(before, _moments(model)) == []


@pytest.mark.parametrize("changes", [{"ngf": 3}, {"unet_depth": 3}, {"n_layers_D": 2}])
def test_moments_in_an_older_file_are_told_by_their_own_shapes(tmp_path: Path, changes: dict[str, Any]) -> None:
    save_checkpoint(optimizers_file(tmp_path, 1), {"moments": _moments(_model(tmp_path, **changes))})
    with pytest.raises(CheckpointError, match="must hold the moments of its own optimizers"):
        load_optimizers(_model(tmp_path), tmp_path, 1)


def _spoil(change: Any, tmp_path: Path) -> None:
    model = _model(tmp_path)
    save_optimizers(model, tmp_path, 1)
    state = load_checkpoint(optimizers_file(tmp_path, 1))
    change(state)
    save_checkpoint(optimizers_file(tmp_path, 1), state)


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.update(moments=None),
        lambda state: state["moments"].pop(),
        lambda state: state["moments"][0][0].pop("exp_avg"),
        lambda state: state["moments"][0][0].update(step="x"),
        lambda state: state["moments"][0][0].update(step=torch.tensor(-1.0)),
        lambda state: state["moments"][0].update({999: state["moments"][0][0]}),
        lambda state: state["moments"][0].update({"x": state["moments"][0][0]}),
        lambda state: state.pop("moments"),
    ],
)
def test_what_is_no_moments_is_one_line(tmp_path: Path, change: Any) -> None:
    _spoil(change, tmp_path)
    with pytest.raises(CheckpointError, match=ONE_LINE):
        load_optimizers(_model(tmp_path), tmp_path, 1)


def test_missing_moments_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=ONE_LINE):
        load_optimizers(_model(tmp_path), tmp_path, 1)
