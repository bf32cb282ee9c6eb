"""What ``check`` is made of: checkouts, coverage, cost, plan and traps, on a checkout written here."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from roi_progressive import Config, HostNotSupportedError, MaskError, RegionConfig, StageConfig
from roi_progressive.check.checkout import HostCheckout
from roi_progressive.check.host_check import _host_traps, check_host
from roi_progressive.check.mask_coverage import Coverage, coverage_of
from roi_progressive.check.step_cost import StepCost, measured
from roi_progressive.cli.main import main

OPTIONS = """
import argparse

class TrainOptions:
    def parse(self):
        parser = argparse.ArgumentParser()
        for name in ("--dataroot", "--checkpoints_dir", "--name", "--gpu_ids"):
            parser.add_argument(name, default="")
        parser.add_argument("--num_threads", type=int, default=0)
        parser.add_argument("--epochs", type=int, default=4)
        print("options parsed")
        return parser.parse_args()
"""
MODELS = """
from roi_progressive.host import HostOptions, create_model as bundled

def create_model(opt):
    tiny = {"ngf": 4, "ndf": 4, "unet_depth": 2, "n_layers_D": 2, "n_blocks": 1, "lambda_identity": 0.0}
    opt.own = HostOptions(dataroot=opt.dataroot, checkpoints_dir=opt.checkpoints_dir, n_epochs=opt.epochs,
                          n_epochs_decay=0, **tiny)
    return type("Model", (), {})() if opt.name == "unknown" else SetUp(bundled(opt.own))

def SetUp(model):
    whole, model.setup = model.setup, lambda opt: whole(opt.own)
    return model
"""
DATA = """
from roi_progressive.host import HostOptions, create_dataset as bundled

def create_dataset(opt):
    return bundled(HostOptions(dataroot=opt.dataroot, checkpoints_dir=opt.checkpoints_dir))
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    folder = tmp_path / "my-host"
    files = {"options/train_options.py": OPTIONS, "models/__init__.py": MODELS, "data/__init__.py": DATA}
    for name, text in {**files, "options/__init__.py": "", "models/base_model.py": ""}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def _config(**changes: Any) -> Config:
    return Config(**{"regions": (RegionConfig("tumor", scales=1, base_channels=4),), **changes})


# --- the checkout -----------------------------------------------------------------------------------------------------


def test_its_modules_are_there_inside_the_block_and_gone_after_it(checkout: Path, monkeypatch: Any) -> None:
    mine = type(sys)("models")
    monkeypatch.setitem(sys.modules, "models", mine)
    path = list(sys.path)
    (checkout / "models" / "networks.py").write_text(
        f"import sys; sys.path.append({str(checkout)!r})", encoding="utf-8"
    )
    with HostCheckout(checkout).imported():
        import models
        import models.networks  # a host that puts itself on the path once more, as MaskGAN does

        assert models.create_model and models is not mine and sys.path[-1] == str(checkout)
    assert sys.modules["models"] is mine and sys.path == path
    assert not any(name.split(".")[0] == "options" for name in sys.modules)


def test_generations_are_told_apart(checkout: Path) -> None:
    assert HostCheckout(checkout).generation == "classic"
    (checkout / "train.py").write_text("model.data_dependent_initialize(data)", encoding="utf-8")
    assert HostCheckout(checkout).generation == "CUT"
    (checkout / "train.py").unlink()
    data = (checkout / "data" / "__init__.py").read_text(encoding="utf-8")
    (checkout / "data" / "__init__.py").write_text("def CreateDataLoader(opt): ...", encoding="utf-8")
    assert HostCheckout(checkout).generation == "older"
    (checkout / "data" / "__init__.py").write_text(data, encoding="utf-8")
    (checkout / "models" / "base_model.py").write_text("self.device = opt.device", encoding="utf-8")
    assert HostCheckout(checkout).generation == "DDP"
    (checkout / "models" / "cut_model.py").write_text("", encoding="utf-8")
    assert HostCheckout(checkout).generation == "CUT"
    (checkout / "data" / "__init__.py").unlink()
    with pytest.raises(HostNotSupportedError, match="lacks data"):
        HostCheckout(checkout)
    with pytest.raises(HostNotSupportedError, match="is no folder"):
        HostCheckout(checkout / "none")


def test_arguments_of_the_process_are_put_back(checkout: Path) -> None:
    before = list(sys.argv)
    host = HostCheckout(checkout)
    with host.imported():
        assert host.options(["--epochs", "7"], device="cpu").gpu_ids == "-1"
        assert host.options(["--gpu_ids", "3"], device="cpu").gpu_ids == "3"
    assert sys.argv == before


# --- coverage and cost ------------------------------------------------------------------------------------------------


def test_coverage_counts_slices_and_pixels_folder_by_folder(tmp_path: Path) -> None:
    for name, box in (("small", (2, 3, 4, 5)), ("large", (0, 0, 6, 2)), ("empty", None)):
        mask = Image.new("L", (8, 8), 0)
        if box is not None:
            mask.paste(255, box)
        mask.save(tmp_path / f"{name}.png")
    files = {f"d/trainA/{name}": {"tumor": str(tmp_path / f"{name}.png")} for name in ("small", "large", "empty")}
    files["d/trainB/x"] = {"tumor": None}
    first, second = coverage_of(files)
    assert first == Coverage("trainA", "tumor", 3, (4, 12), 6)
    assert str(first) == "trainA: tumor in 2 of 3 slices, smallest 4 px, median 4 px"
    assert second == Coverage("trainB", "tumor", 1, (), 0)
    assert str(second) == "trainB: tumor in 0 of 1 slices"
    (tmp_path / "small.png").write_bytes(b"no image")
    with pytest.raises(MaskError, match="readable image"):
        coverage_of(files)


def test_the_cost_of_a_step_is_counted() -> None:
    net, x = nn.Conv2d(1, 2, 3, bias=False), torch.randn(1, 1, 10, 10)

    def step() -> None:
        net(x).square().sum().backward()

    cost = measured(step, lambda: [net, net])
    forward = 2 * 8 * 8 * 2 * 9
    assert (cost.n_parameters, cost.flops) == (18, 2 * forward), "forward, and the gradient of the weight"
    assert cost.memory_bytes >= 16 * 18 + 4 * (100 + 128), "Adam's share, and what the backward pass needs"
    assert StepCost(30, 20, 10).beyond(StepCost(20, 10, 5)).percent_of(StepCost(20, 20, 20)) == StepCost(50, 50, 25)


# --- the whole check --------------------------------------------------------------------------------------------------


def test_it_says_what_a_run_would_be(checkout: Path, phantom_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = str(check_host(checkout, phantom_root, _config()))
    assert capsys.readouterr().out == ""
    head, *_ = said.splitlines()
    assert head == "host      my-host, classic generation, adapter junyanz cycle_gan"
    assert re.search(r"networks  A2B UNetGenerator, 0\.\d\d M parameters\n +B2A", said)
    assert re.search(
        r"masks +trainA: tumor in 6 of 6 slices, smallest \d+ px, median \d+ px\n +trainB: tumor in 6", said
    )
    assert "epochs 1 to 1: stage 1 (whole + ggd)\n" in said and "epochs 2 to 4: stage 2 (whole + tumor + ggd)\n" in said
    assert re.search(r"parameters \+[1-9]\d* %, memory \+[1-9]\d* %, FLOPs \+[1-9]\d* % of the host's step\n", said)


def test_traps_are_named(checkout: Path, phantom_root: Path) -> None:
    region = RegionConfig("tumor", scales=1, windows_px=(8,), layers=1, margin_px=3)
    late = _config(regions=(region,), stages=StageConfig(from_epochs=(9,)))
    traps = check_host(checkout, phantom_root, late).traps
    assert any("begins in epoch 9, after the last one, 4" in trap for trap in traps)
    assert any("`windows_px`, 8, may not hold it" in trap for trap in traps)
    impossible = _config(ggd=Config().ggd and type(Config().ggd)(target="identity"))
    found = check_host(checkout, phantom_root, impossible)
    assert found.cost is None and any("`ggd.target` is 'identity'" in trap for trap in found.traps)


def test_traps_of_a_generation_are_those_of_its_options(checkout: Path) -> None:
    host = HostCheckout(checkout)
    one_epoch = SimpleNamespace(n_epochs=1, n_epochs_decay=0)
    assert "learning rate 0" in " ".join(_host_traps(host, one_epoch))
    continued = SimpleNamespace(n_epochs=2, n_epochs_decay=1, pool_size=50, continue_train=True)
    assert 'resume = "exact"' in " ".join(_host_traps(host, continued))
    (checkout / "models" / "base_model.py").write_text("self.device = opt.device", encoding="utf-8")
    assert list(_host_traps(host, one_epoch)) == []
    assert "syncbatch" in " ".join(_host_traps(host, SimpleNamespace(norm="syncbatch")))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--host", "{tmp}/none", "--data", "{data}"], "is no folder"),
        (["--host", "{host}", "--data", "{tmp}/none"], "`--data` must be the folder"),
        (["--host", "{host}", "--data", "{data}", "--config", "{tmp}/none.toml"], "`config` must be a readable TOML"),
    ],
)
def test_a_mistake_is_one_line_and_status_2(
    arguments: list[str], words: str, checkout: Path, phantom_root: Path, tmp_path: Path, capsys: Any
) -> None:
    given = [text.format(tmp=tmp_path, host=checkout, data=phantom_root) for text in arguments]
    assert main(["check", *given]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_what_the_host_cannot_import_is_named(checkout: Path, phantom_root: Path, capsys: Any) -> None:
    (checkout / "models" / "__init__.py").write_text("import no_such_package", encoding="utf-8")
    assert main(["check", "--host", str(checkout), "--data", str(phantom_root)]) == 2
    assert "No module named 'no_such_package'; install what it requires" in capsys.readouterr().err


def test_options_of_the_host_follow_two_dashes(checkout: Path, phantom_root: Path, capsys: Any) -> None:
    assert main(["check", "--host", str(checkout), "--data", str(phantom_root), "--", "--epochs", "10"]) == 0
    assert "epochs 3 to 10: stage 2" in capsys.readouterr().out


# --- what a loader makes of the files ---------------------------------------------------------------------------------

LOADERS = {
    "with a generator made anew": "lambda image: flipped(image, np.random.default_rng().random() < 0.5)",
    "with grey levels drawn": "lambda image: drawn(image)",
    "from 0 to 1": "lambda image: (unit(image) + 1) / 2",
    "as it must be": "lambda image: flipped(image, np.random.random() < 0.5)",
}
TOLD = {
    "with a generator made anew": "masks do not follow: `dataset` must do to the mask of 'tumor' what it does to",
    "with grey levels drawn": "masks are read off where a sample changes with its region",
    "from 0 to 1": "images of domain A reach from 0 to 1, not from -1: `background` = -1 is none of their greys",
    "as it must be": None,
}
LOADING = """
import numpy as np
import torch
from pathlib import Path
from PIL import Image

def unit(image):
    return torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32).copy())[None] / 127.5 - 1

def flipped(image, turned):
    return unit(image).flip(2) if turned else unit(image)

def drawn(image):
    return (unit(image) + 1) * np.random.uniform(0.3, 1.0) - 1

class Images(torch.utils.data.Dataset):
    def __init__(self, root):
        self.A_paths, self.B_paths = (sorted(map(str, Path(root, f"train{d}").glob("*.png"))) for d in "AB")
        self.transform = TRANSFORM

    def __len__(self):
        return len(self.A_paths)

    def __getitem__(self, index):
        paths = {"A": self.A_paths[index], "B": self.B_paths[index]}
        images = {domain: self.transform(Image.open(path)) for domain, path in paths.items()}
        return {**images, **{f"{domain}_paths": path for domain, path in paths.items()}}

def create_dataset(opt):
    return torch.utils.data.DataLoader(Images(opt.dataroot), shuffle=True)
"""


@pytest.mark.parametrize("loader", LOADERS)
def test_what_a_loader_makes_of_the_files_is_looked_at(loader: str, checkout: Path, phantom_root: Path) -> None:
    (checkout / "data" / "__init__.py").write_text(LOADING.replace("TRANSFORM", LOADERS[loader]), encoding="utf-8")
    region = RegionConfig("tumor", scales=1, windows_px=(16, 32), layers=1, base_channels=2)
    found = check_host(checkout, phantom_root, Config(regions=(region,), ggd=None))
    told = TOLD[loader]
    of_images = ("masks", "images")
    traps = [trap for trap in found.traps if trap.startswith(of_images)]
    assert any(told in trap for trap in traps) if told is not None else not traps, traps
