"""DeepLIIF itself, with its own data loader: guided in two lines, masks that follow, inert, saved and continued."""

from __future__ import annotations

import contextlib
import importlib
import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive import Config, GGDConfig, RegionConfig, StageConfig, attach

OPTIONS = {
    **{"model": "DeepLIIF", "name": "run", "gpu_ids": [], "modalities_no": 2, "seg_no": 1, "input_no": 1},
    **{"modalities_names": [], "seg_gen": True, "seg_weights": [0.4, 0.3, 0.3], "mod_id_seg": "S", "input_id": "0"},
    **{"loss_G_weights": [0.4, 0.3, 0.3], "loss_D_weights": [0.4, 0.3, 0.3], "input_nc": 3, "output_nc": 3},
    **{"ngf": 4, "ndf": 4, "net_d": "n_layers", "net_g": "resnet_6blocks", "net_gs": "resnet_6blocks"},
    **{"net_ds": "n_layers", "norm": "instance", "init_type": "normal", "init_gain": 0.02, "no_dropout": True},
    **{"upsample": "convtranspose", "padding": "zero", "direction": "AtoB", "serial_batches": False, "verbose": False},
    **{"num_threads": 0, "batch_size": 2, "load_size": 72, "crop_size": 64, "max_dataset_size": None, "phase": "train"},
    **{"preprocess": "resize_and_crop", "no_flip": False, "epoch": "latest", "load_iter": 0, "continue_train": False},
    **{"epoch_count": 1, "n_epochs": 4, "n_epochs_decay": 4, "optimizer": "adam", "beta1": 0.5, "lr_g": 0.002},
    **{"lr_d": 0.002, "lr_policy": "linear", "lr_decay_iters": 50, "dataset_mode": "aligned", "gan_mode": "vanilla"},
    **{"gan_mode_s": "lsgan", "label_smoothing": 0.0, "use_dp": False, "remote": False},
    **{"remote_transfer_cmd": None},
}


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """Four images side by side, in which the tumour is the one bright thing, and their masks likewise."""
    draw = np.random.default_rng(2)
    for folder in ("train", "train_tumor"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for name in range(4):
        mask = np.zeros((72, 72), np.uint8)
        top, left = draw.integers(16, 34, 2)
        mask[top : top + 18, left : left + 20] = 255
        images = [draw.integers(0, 90, (72, 72), dtype=np.uint8) for _ in range(4)]
        for image in images:
            image[mask > 0] = 255
        Image.fromarray(np.stack([np.hstack(images)] * 3, -1)).save(tmp_path / "data" / "train" / f"{name}.png")
        Image.fromarray(np.hstack([mask] * 4)).save(tmp_path / "data" / "train_tumor" / f"{name}.png")
    return tmp_path


@pytest.fixture
def open_deepliif(hosts_folder: Path, bright: Path, seed: Any) -> Iterator[Callable[..., tuple[Any, Any]]]:
    """Its model and its loader; what it imports for its pictures of whole slides need not be installed."""
    if not (hosts_folder / "deepliif" / "deepliif").is_dir():
        pytest.skip("ROI_PROGRESSIVE_HOSTS holds no deepliif/")
    from torchvision import models

    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(hosts_folder / "deepliif"))
        vgg19 = models.vgg19
        patch.setattr(models, "vgg19", lambda **_: vgg19(weights=None))
        patch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
        patch.setattr(torch.nn.Module, "cuda", lambda self, *_, **__: self)
        with contextlib.redirect_stdout(io.StringIO()):
            _imported(patch)

        def build(**changes: Any) -> tuple[Any, Any]:
            seed()
            given = {**OPTIONS, "dataroot": str(bright / "data"), "checkpoints_dir": str(bright / "runs"), **changes}
            (bright / "runs" / "run").mkdir(parents=True, exist_ok=True)
            with contextlib.redirect_stdout(io.StringIO()):
                opt = importlib.import_module("deepliif.options").Options(d_params=given)
                loader = importlib.import_module("deepliif.data").create_dataset(opt)
                model = importlib.import_module("deepliif.models").create_model(opt)
                model.setup(opt)
            return model, loader

        yield build
        for name in set(sys.modules) - before:
            if name.split(".")[0] == "deepliif":
                del sys.modules[name]


def _imported(patch: pytest.MonkeyPatch) -> None:
    """Import it, with a stand-in for every package that it lacks here."""
    for _ in range(30):
        try:
            importlib.import_module("deepliif.models")
            return
        except ModuleNotFoundError as error:
            assert error.name is not None and not error.name.startswith("deepliif"), error
            patch.setitem(sys.modules, error.name, MagicMock())
            for name in [name for name in sys.modules if name.split(".")[0] == "deepliif"]:
                del sys.modules[name]
    raise AssertionError("it lacks more than thirty packages")


def _config(**changes: Any) -> Config:
    tiny = {"scales": 1, "windows_px": (32, 64), "layers": 1, "base_channels": 2, "margin_px": 2, "stage": 1}
    region = RegionConfig("tumor", **{**tiny, "stage": changes.pop("stage", 1)})
    return Config(**{"regions": (region,), "ggd": GGDConfig(hidden_channels=4), "pool_size": 2, **changes})


def _train(model: Any, loader: Any, session: Any, epochs: range) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        for epoch in epochs:
            if session is not None:
                session.start_epoch(epoch)
            for batch in loader:
                model.set_input(batch)
                model.optimize_parameters()
            model.update_learning_rate()


def _state(model: Any) -> dict[str, Any]:
    networks = {name: getattr(model, f"net{name}").state_dict() for name in model.model_names}
    assert all(bool(value.isfinite().all()) for state in networks.values() for value in state.values())
    moments = [optimizer.state_dict() for optimizer in model.optimizers]
    return {"networks": networks, "optimizers": moments, "torch": torch.get_rng_state()}


def test_every_modality_is_guided_with_masks_that_lie_right(open_deepliif: Any, seed: Any) -> None:
    model, loader = open_deepliif()
    seed(1)
    with attach(model, loader, _config()) as session:
        dataset = loader.dataloader.dataset
        for place in range(12):
            sample = dataset[place % len(dataset)]
            mask, truth = sample["roi_masks"]["A"]["tumor"], sample["A"][:1] > 0.2
            assert (mask & truth).sum() / (mask | truth).sum() > 0.9
        assert dataset.is_proved and not dataset.follows_by_difference
        _train(model, loader, session, range(1, 3))
        assert set(session.losses()) == {f"{t}_A2B{k}" for t in ("G_tumor", "D_tumor", "ggd") for k in (1, 2)}
        assert session.state_dict()["steps"] == 4


def test_inert_it_trains_bit_for_bit_as_without_us(
    open_deepliif: Any, differing: Any, copied: Any, seed: Any, recwarn: Any
) -> None:
    states = []
    for attached in (False, True):
        model, loader = open_deepliif()
        seed(1)
        config = _config(stage=2, ggd=GGDConfig(hidden_channels=4, stage=2), stages=StageConfig(from_epochs=(99,)))
        with contextlib.ExitStack() as stack:
            session = stack.enter_context(attach(model, loader, config)) if attached else None
            _train(model, loader, session, range(1, 3))
            states.append(copied(_state(model)))
    assert differing(*states) == []


@pytest.mark.parametrize("resume", ["networks", "exact"])
def test_it_goes_on_where_it_stopped(resume: str, open_deepliif: Any, differing: Any, copied: Any, seed: Any) -> None:
    config = _config(resume=resume)
    model, loader = open_deepliif()
    seed(4)
    with attach(model, loader, config) as session:
        _train(model, loader, session, range(1, 3))
        model.save_networks("latest")
        stopped = copied((_state(model)["networks"], session.state_dict()["guidance"]))
        _train(model, loader, session, range(3, 4))
        straight = copied((_state(model), session.state_dict()))
    model, loader = open_deepliif(continue_train=True, epoch_count=3)
    seed(99)
    with attach(model, loader, config) as session:
        session.start_epoch(3)
        assert differing(copied((_state(model)["networks"], session.state_dict()["guidance"])), stopped) == []
        _train(model, loader, session, range(3, 4))
        if resume == "exact":
            found = copied((_state(model), session.state_dict()))
            assert differing(found, straight) == []
