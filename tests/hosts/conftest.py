"""Real training code, from the folder that ROI_PROGRESSIVE_HOSTS names; without it these tests are skipped.

The folder holds checkouts under the names below. Nothing of them is part of this repository.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from roi_progressive import Config, GGDConfig, RegionConfig, Session, StageConfig
from roi_progressive.check.checkout import HostCheckout
from roi_progressive.data.phantom import make_phantom

VARIABLE = "ROI_PROGRESSIVE_HOSTS"
SMALL = (
    *("--ngf", "4", "--ndf", "4", "--netG", "resnet_6blocks", "--load_size", "40", "--crop_size", "32"),
    *("--num_threads", "0", "--n_epochs", "9", "--n_epochs_decay", "9", "--lr", "0.002", "--name", "run"),
)
GREY = ("--input_nc", "1", "--output_nc", "1")
CUT = ("--netF_nc", "64", "--num_patches", "16", "--batch_size", "2", "--crop_size", "32")
KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "classic cycle_gan": ("junyanz-classic", ("--model", "cycle_gan", "--pool_size", "4", *GREY)),
    "DDP cycle_gan": ("junyanz-ddp", ("--model", "cycle_gan", "--pool_size", "4", *GREY)),
    "classic pix2pix": ("junyanz-classic", ("--model", "pix2pix", "--batch_size", "2", *GREY)),
    "DDP pix2pix": ("junyanz-ddp", ("--model", "pix2pix", "--batch_size", "2", *GREY)),
    "CUT": ("cut", ("--model", "cut", *CUT)),
    "FastCUT": ("cut", ("--model", "cut", "--CUT_mode", "FastCUT", *CUT)),
}


@dataclass
class Host:
    """A real host ready to train."""

    checkout: HostCheckout
    loader: Any
    model: Any

    def train(self, session: Session | None, epochs: range, look: bool = False) -> None:
        """The host's own loop; ``look`` also reads losses and visuals, as its train.py does."""
        classic = self.checkout.generation == "classic"
        for epoch in epochs:
            if session is not None:
                session.start_epoch(epoch)
            if hasattr(self.loader, "set_epoch"):
                self.loader.set_epoch(epoch)
            if classic:
                self.model.update_learning_rate()
            for batch in self.loader:
                self.step(batch)
                if look:
                    self.model.compute_visuals()
                    self.model.get_current_visuals()
                    self.model.get_current_losses()
            if not classic:
                self.model.update_learning_rate()

    def set_up(self, batch: Any) -> None:
        """What CUT does at its first batch; the others did it when they were built."""
        if self.checkout.sets_up_in_its_loop and not hasattr(self.model, "schedulers"):
            self.model.data_dependent_initialize(batch)
            self.model.setup(self.model.opt)
            self.model.parallelize()

    def step(self, batch: Any) -> None:
        self.set_up(batch)
        self.model.set_input(batch)
        self.model.optimize_parameters()

    def state(self) -> dict[str, Any]:
        """Everything training changes, random streams included."""
        model, numpy_state = self.model, np.random.get_state()
        pools = [getattr(model, name) for name in ("fake_A_pool", "fake_B_pool") if hasattr(model, name)]
        return {
            "networks": {name: getattr(model, f"net{name}").state_dict() for name in model.model_names},
            "gradients": [p.grad for name in model.model_names for p in getattr(model, f"net{name}").parameters()],
            "optimizers": [optimizer.state_dict() for optimizer in model.optimizers],
            "pools": [pool.images for pool in pools if pool.pool_size],
            "python": list(random.getstate()[1]),
            "numpy": [numpy_state[1].tolist(), numpy_state[2]],
            "torch": torch.get_rng_state(),
        }


@pytest.fixture(scope="session")
def hosts_folder() -> Path:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} is not set; it names the folder of the host checkouts")
    return Path(folder)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unaligned and aligned slices of 48 px, six a domain, with masks of a liver and a tumour."""
    root = tmp_path_factory.mktemp("slices") / "data"
    make_phantom(root, n_train=4, n_val=0, n_test=0, slices_per_patient=3, size_px=48, seed=7)
    for suffix in ("", "_liver", "_tumor"):
        sides = [sorted((root / f"train{domain}{suffix}").glob("*.png")) for domain in "AB"]
        (root / f"train{suffix}").mkdir()
        for place, (left, right) in enumerate(zip(*sides, strict=True)):
            pair = np.hstack([np.asarray(Image.open(path).convert("L")) for path in (left, right)])
            Image.fromarray(pair).save(root / f"train{suffix}" / f"{place}.png")
    return root


@pytest.fixture
def open_host(hosts_folder: Path, data: Path, tmp_path: Path) -> Iterator[Callable[..., Host]]:
    """``open_host("classic pix2pix", "--num_threads", "2")``: seeded, built, importable until the test ends."""
    with ExitStack() as stack:
        entered: dict[Path, HostCheckout] = {}

        def build(kind: str, *arguments: str, root: Path = data, out: Path = tmp_path) -> Host:
            folder, own = KINDS[kind]
            if not (hosts_folder / folder).is_dir():
                pytest.skip(f"{VARIABLE} holds no {folder}/")
            path = hosts_folder / folder
            if path not in entered:
                entered[path] = stack.enter_context(HostCheckout(path).imported())
            checkout = entered[path]
            seed()
            opt = checkout.options(
                ["--dataroot", str(root), "--checkpoints_dir", str(out), *SMALL, *own, *arguments], device="cpu"
            )
            loader, model = checkout.data_and_model(opt)
            return Host(checkout, loader, model)

        yield build


def seed(number: int = 0) -> None:
    random.seed(number)
    np.random.seed(number)
    torch.manual_seed(number)


@pytest.fixture(name="seed")
def _seed() -> Callable[..., None]:
    return seed


@pytest.fixture
def guided() -> Callable[..., Config]:
    """Tumour from the first step on, and uncertainty where the kind of host has a target for it; keywords change it."""

    def config(kind: str, **changes: Any) -> Config:
        tiny = {"scales": 2, "windows_px": (16, 32), "layers": 1, "base_channels": 2, "margin_px": 2, "stage": 1}
        ggd = GGDConfig(hidden_channels=4, target="paired" if kind == "FastCUT" else "auto")
        return Config(**{"regions": (RegionConfig("tumor", **tiny),), "ggd": ggd, "pool_size": 2, **changes})

    return config


@pytest.fixture
def inert(guided: Callable[..., Config]) -> Callable[[str], Config]:
    """Masks are followed and generators listened to, and nothing is ever active."""

    def config(kind: str) -> Config:
        active = guided(kind)
        (region,) = active.regions
        late = RegionConfig("tumor", windows_px=region.windows_px, scales=2, layers=1, base_channels=2, stage=2)
        return Config(
            regions=(late,),
            ggd=GGDConfig(hidden_channels=4, stage=2, target=active.ggd.target if active.ggd else "auto"),
            stages=StageConfig(from_epochs=(1000,)),
        )

    return config
