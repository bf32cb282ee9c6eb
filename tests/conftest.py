"""Shared by the tests: tiny data, tiny hosts and runs on them, and bit-for-bit comparison."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image
from torch import Tensor

from roi_progressive import Config, RegionConfig, Session
from roi_progressive.data.phantom import make_phantom
from roi_progressive.host import CycleGANModel, HostOptions, ImageLoader, create_dataset, create_model


def _importable(name: str) -> None:
    """Let tests import a module of this folder, which pytest's importlib mode keeps off ``sys.path``."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_importable("stopping")
if importlib.util.find_spec("pydicom") is not None:
    _importable("scans")
if importlib.util.find_spec("SimpleITK") is not None:
    _importable("volumes_at")

# The same examples in every run, so that a change is judged by what it changed; new ones are looked for at night.
settings.register_profile("every_run", derandomize=True)
settings.register_profile("nightly", max_examples=6000, deadline=None)
settings.load_profile("nightly" if os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1" else "every_run")


@pytest.fixture(scope="session", autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Signals end processes, also where the tests run in the background (``nohup``, ``&``) and inherit otherwise."""
    ignored = [number for number in (signal.SIGINT, signal.SIGTERM, getattr(signal, "SIGHUP", None)) if number]
    before = {number: signal.getsignal(number) for number in ignored}
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    yield
    for number, handler in before.items():
        if handler is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six CT and six MR slices of 32 px to train on, each with a liver and a tumour; two paired ones to test on."""
    root = tmp_path_factory.mktemp("phantom") / "data"
    make_phantom(root, n_train=4, n_val=0, n_test=2, slices_per_patient=3, size_px=32, seed=7)
    return root


@pytest.fixture(scope="session")
def small_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slices of 32 px for whole runs, two a patient: four patients to train on, one to validate, one a phase to test.

    Shared by all tests; copy it to change it.
    """
    root = tmp_path_factory.mktemp("small") / "data"
    make_phantom(root, n_train=4, n_val=1, n_test=3, slices_per_patient=2, size_px=32)
    return root


@pytest.fixture(scope="session")
def small_networks() -> dict[str, Any]:
    """Networks that train an epoch in a blink, under the names of ``TrainOptions``."""
    return {"channels": 2, "depth": 2, "discriminator_channels": 2, "discriminator_layers": 1}


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Torch on one thread while a module's tests run: for tensors this small more cost more than they save."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def host_options(phantom_root: Path, tmp_path: Path) -> Callable[..., HostOptions]:
    """Options of a host that trains an epoch (three steps) in a blink; keywords change them."""

    def options(**changes: Any) -> HostOptions:
        tiny = {"ngf": 4, "ndf": 4, "unet_depth": 2, "n_layers_D": 2, "n_blocks": 1, "batch_size": 2, "pool_size": 2}
        run = {"n_epochs": 2, "n_epochs_decay": 2, "lr": 2e-3, "seed": 0}
        return HostOptions(
            **{"dataroot": str(phantom_root), "checkpoints_dir": str(tmp_path / "runs"), **tiny, **run, **changes}
        )

    return options


@pytest.fixture
def build_host(host_options: Callable[..., HostOptions]) -> Callable[..., tuple[CycleGANModel, ImageLoader]]:
    """A host ready to train, all random streams seeded; keywords are options."""

    def build(**changes: Any) -> tuple[CycleGANModel, ImageLoader]:
        options = host_options(**changes)
        np.random.seed(0)
        model = create_model(options)
        loader = create_dataset(options)
        model.setup(options)
        return model, loader

    return build


@pytest.fixture
def tiny_region() -> Callable[..., RegionConfig]:
    """A region whose discriminator is as small as it gets; keywords change it."""

    def region(name: str = "tumor", **changes: Any) -> RegionConfig:
        tiny = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "margin_px": 2, "stage": 1}
        return RegionConfig(name, **{**tiny, **changes})

    return region


@pytest.fixture
def tumor_config(tiny_region: Callable[..., RegionConfig]) -> Callable[..., Config]:
    """Guidance of the tumour from the first step on, without uncertainty; keywords change it."""

    def config(**changes: Any) -> Config:
        return Config(**{"regions": (tiny_region(),), "ggd": None, "pool_size": 2, **changes})

    return config


@pytest.fixture
def train() -> Callable[..., None]:
    """The user's own loop: ``train(model, loader, session, epochs)``; ``session`` may be ``None``."""

    def loop(model: CycleGANModel, loader: ImageLoader, session: Session | None, epochs: range) -> None:
        for epoch in epochs:
            if session is not None:
                session.start_epoch(epoch)
            for batch in loader:
                model.set_input(batch)
                model.optimize_parameters()
            model.update_learning_rate()

    return loop


@pytest.fixture
def state_of() -> Callable[[CycleGANModel], dict[str, Any]]:
    """Everything of a host that training changes, random streams included, copied."""

    def state(model: CycleGANModel) -> dict[str, Any]:
        numpy_state: Any = np.random.get_state()
        return copied(
            {
                "networks": {name: getattr(model, f"net{name}").state_dict() for name in model.model_names},
                "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
                "pools": [model.fake_A_pool.images, model.fake_B_pool.images],
                "python": list(random.getstate()[1]),
                "numpy": [numpy_state[1].tolist(), numpy_state[2]],
                "torch": torch.get_rng_state(),
            }
        )

    return state


@pytest.fixture
def paired_data(tmp_path: Path) -> Path:
    """Three paired test slices and four training slices a domain, of 16 px; ``fake`` holds a generated one for each.

    The region ``tumor`` is a rectangle, absent from the last slice of either split.
    """
    rng = np.random.default_rng(0)
    tests = ("p1_ART_003.png", "p1_PV_004.png", "p_2_ART_003.png")
    for split, names in (("test", tests), ("train", tuple(f"t{i}_ART_000.png" for i in range(4)))):
        for k, name in enumerate(names):
            mask = np.zeros((16, 16), np.uint8)
            if k < len(names) - 1:
                mask[2 + k : 6 + k, 3:9] = 255
            noise = [rng.integers(0, 256, mask.shape, dtype=np.uint8) for _ in range(3)]
            content = {f"{split}A": noise[0], f"{split}B": noise[1], "fake": noise[2]}
            for folder, pixels in {**content, f"{split}A_tumor": mask, f"{split}B_tumor": mask}.items():
                (tmp_path / folder).mkdir(exist_ok=True)
                Image.fromarray(pixels).save(tmp_path / folder / name)
    return tmp_path


@pytest.fixture(scope="session")
def write_scans() -> Callable[[Path], Path]:
    """``write_scans(folder)``: CT, MR and tumours of five patients as small volumes; returns their table."""
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")

    def write(folder: Path) -> Path:
        folder.mkdir(exist_ok=True)
        z, y, x = np.mgrid[0:9, 0:32, 0:32]
        body = np.hypot(y - 16, x - 16) < 13
        tumor = np.hypot(np.hypot(y - 16, x - 13), 3 * (z - 4)) < 5
        rows = ["patient,phase,modality,image,tumor"]
        for patient in (f"p0{n}" for n in range(1, 6)):
            for modality, volume in (("CT", body * 1040 - 1000 + tumor * -60), ("MR", body * 300 + tumor * 200 + x)):
                names = f"{patient}_{modality.lower()}.nii.gz", f"{patient}_{modality.lower()}_tumor.nii.gz"
                for name, array in zip(names, (volume.astype(np.float32), tumor.astype(np.uint8)), strict=True):
                    sitk.WriteImage(sitk.GetImageFromArray(array), str(folder / name))
                rows.append(f"{patient},PV,{modality},{','.join(names)}")
        (folder / "scans.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
        return folder / "scans.csv"

    return write


@pytest.fixture(name="differing")
def _differing() -> Callable[[Any, Any], list[str]]:
    """Where two nested states differ in a single bit: ``differing(a, b) == []`` says they are the same."""
    return differing


@pytest.fixture(name="copied")
def _copied() -> Callable[[Any], Any]:
    """A copy of a nested state that later training cannot change."""
    return copied


def differing(one: Any, other: Any, where: str = "") -> list[str]:
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape and torch.equal(one, other)
        return [] if same else [where]
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        if list(one) != list(other):
            return [f"{where}: keys {list(one)} and {list(other)}"]
        return [line for key in one for line in differing(one[key], other[key], f"{where}.{key}")]
    if isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)):
        if len(one) != len(other):
            return [f"{where}: {len(one)} and {len(other)} entries"]
        pairs = enumerate(zip(one, other, strict=True))
        return [line for place, (a, b) in pairs for line in differing(a, b, f"{where}[{place}]")]
    return [] if type(one) is type(other) and one == other else [f"{where}: {one!r} and {other!r}"]


def copied(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().clone()
    if isinstance(state, Mapping):
        return {key: copied(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [copied(value) for value in state]
    return state
