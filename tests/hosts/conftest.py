"""Real training code, from the folder that ROI_PROGRESSIVE_HOSTS names; without it these tests are skipped.

The folder holds checkouts under the names below. Nothing of them is part of this repository.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
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

OLDER = (
    *("--loadSize", "40", "--fineSize", "32", "--ngf", "4", "--ndf", "4", "--nThreads", "0", "--name", "run"),
    *("--niter", "9", "--niter_decay", "9", "--lr", "0.002", *GREY),
)
RESVIT = ("--which_model_netG", "res_cnn", "--pre_trained_transformer", "0")
NINE = ("--netG", "resnet_9blocks", "--batch_size", "2", "--patch_size", "8", "--patch_nums", "4")
MORE: dict[str, tuple[str, tuple[str, ...]]] = {
    "DCLGAN dcl": ("dclgan", ("--model", "dcl", *CUT)),
    "DCLGAN cycle_gan": ("dclgan", ("--model", "cycle_gan", "--pool_size", "4")),
    "UNSB": ("unsb", ("--model", "sb", *CUT)),
    "F-LSeSim": ("f-lsesim", ("--model", "sc", *NINE)),
    "F-LSeSim learned": ("f-lsesim", ("--model", "sc", *NINE, "--learned_attn", "--augment", "--lambda_identity", "1")),
    "query-selected attention": ("query-selected-attention", ("--model", "qs", "--QS_mode", "global", *CUT)),
    "ResViT": ("resvit", (*OLDER, *RESVIT, "--model", "resvit_one", "--dataset_mode", "aligned")),
    "pGAN": ("pgan-cgan", (*OLDER[4:], "--model", "pGAN")),
    "cGAN": ("pgan-cgan", (*OLDER[4:], "--model", "cGAN", "--no_dropout")),
}
"""Hosts of the dialect beside its own; those of ``OLDER`` take none of the options in ``SMALL``."""
FOR_TODAY = {
    "async=True": "non_blocking=True",
    ".data[0]": ".item()",
    ", volatile=True": "",
    "shape[3]/2": "shape[3]//2",
    "put_nc/2": "put_nc//2",
    "samples=range(np.array(f['data_y']).shape[2])": "samples=list(range(np.array(f['data_y']).shape[2]))",
    "self.real_A.size(0) // len(self.opt.gpu_ids)": "self.real_A.size(0) // max(len(self.opt.gpu_ids), 1)",
}
"""What must be said in other words for code of before 2019 to run today, or for code that wants a GPU without one."""


@dataclass
class Host:
    """A real host ready to train."""

    checkout: HostCheckout
    loader: Any
    model: Any
    words: tuple[str, ...]
    """What was typed behind its train.py."""

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
                if look and hasattr(self.model, "compute_visuals"):
                    self.model.compute_visuals()
                    self.model.get_current_visuals()
                    self.model.get_current_losses()
                elif look:
                    self.model.get_current_errors()
            if not classic:
                self.model.update_learning_rate()

    def set_up(self, batch: Any) -> None:
        """What CUT does at its first batch; the others did it when they were built."""
        self.checkout.set_up(self.model, batch)

    @property
    def networks(self) -> dict[str, Any]:
        """All of the model's, by name; those of the older dialect are not listed."""
        names = getattr(self.model, "model_names", None)
        found = {name: value for name, value in vars(self.model).items() if name.startswith("net")}
        return found if names is None else {f"net{name}": found[f"net{name}"] for name in names}

    def step(self, batch: Any) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            self.checkout.step(self.model, batch)

    def state(self) -> dict[str, Any]:
        """Everything training changes, random streams included."""
        model, numpy_state = self.model, np.random.get_state()
        pools = [getattr(model, name) for name in ("fake_A_pool", "fake_B_pool") if hasattr(model, name)]
        return {
            "networks": {name.removeprefix("net"): net.state_dict() for name, net in self.networks.items()},
            "gradients": [parameter.grad for net in self.networks.values() for parameter in net.parameters()],
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
            folder, own = {**KINDS, **MORE}[kind]
            if not (hosts_folder / folder).is_dir():
                pytest.skip(f"{VARIABLE} holds no {folder}/")
            path = hosts_folder / folder
            if path not in entered:
                if kind in MORE:
                    stack.enter_context(_as_of_today())
                    path_of_today = _brought_up_to_date(path, tmp_path / "checkouts" / folder)
                    entered[path] = stack.enter_context(HostCheckout(path_of_today).imported())
                else:
                    entered[path] = stack.enter_context(HostCheckout(path).imported())
            checkout = entered[path]
            seed()
            small = () if OLDER[4] in own else SMALL
            if kind == "UNSB":  # its own generator is no choice that could be typed
                small = tuple(word for word in small if word not in ("--netG", "resnet_6blocks"))
            words = ("--dataroot", str(root), "--checkpoints_dir", str(out), *small, *own, *arguments)
            with contextlib.redirect_stdout(io.StringIO()):
                loader, model = checkout.data_and_model(checkout.options(words, device="cpu"))
            return Host(checkout, loader, model, words)

        yield build


def _brought_up_to_date(checkout: Path, into: Path) -> Path:
    """A scratch copy of a checkout, in the words of ``FOR_TODAY``."""
    shutil.copytree(checkout, into, ignore=shutil.ignore_patterns(".git", "*.png", "*.jpg"))
    for path in into.rglob("*.py"):
        text = path.read_text(encoding="utf-8", errors="replace")
        for then, now in FOR_TODAY.items():
            text = text.replace(then, now)
        path.write_text(text, encoding="utf-8")
    return into


def _volumes(path: str, mode: str) -> dict[str, Any]:
    """What pGAN reads from its .mat file: rows, columns, slices, channels in [0, 1]."""
    draw = np.random.default_rng(0)
    return {name: draw.random((32, 32, 6, 1), dtype=np.float32) for name in ("data_x", "data_y")}


class _Settings(dict[str, Any]):
    __getattr__ = dict.__getitem__
    __setattr__ = dict.__setitem__  # type: ignore[assignment]


@contextlib.contextmanager
def _as_of_today() -> Iterator[None]:
    """Modules that hosts import and hardly use, networks that they would download, and a GPU they take for granted."""
    from torchvision import models

    stand_ins = {"h5py": {"File": _volumes}, "ml_collections": {"ConfigDict": _Settings}, "cv2": {}}
    stand_ins["scipy.misc"] = {"imresize": None}
    with pytest.MonkeyPatch.context() as patch:
        for name, holds in stand_ins.items():
            module = ModuleType(name)
            vars(module).update(holds)
            patch.setitem(sys.modules, name, module)
        for network in ("vgg16", "vgg19"):
            untrained = functools.partial(getattr(models, network), weights=None)
            patch.setattr(models, network, lambda pretrained=True, untrained=untrained: untrained())
        if not torch.cuda.is_available():
            for kind in (torch.Tensor, torch.nn.Module):
                patch.setattr(kind, "cuda", lambda self, *_, **__: self)
        yield


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
