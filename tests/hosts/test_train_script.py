"""``examples/train.py`` on both generations, in a process of its own: log, HTML, files, restart, the host's test.py."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
CONFIG = """
[[regions]]
name = "tumor"
scales = 2
windows_px = [16, 32]
layers = 1
base_channels = 2
stage = 1
[ggd]
hidden_channels = 4
"""
OPTIONS = ("--ngf", "4", "--ndf", "4", "--netG", "resnet_6blocks", "--load_size", "40", "--crop_size", "32")
FREQUENCIES = ("--print_freq", "2", "--display_freq", "2", "--update_html_freq", "2", "--save_epoch_freq", "1")
TEST_SCRIPT = """
import sys
sys.path.insert(0, sys.argv.pop(1))
import torch
from options.test_options import TestOptions
from data import create_dataset
from models import create_model
import roi_progressive

opt = TestOptions().parse()
opt.device = torch.device("cpu")
opt.num_threads, opt.batch_size, opt.serial_batches, opt.no_flip, opt.display_id = 0, 1, True, True, -1
dataset, model = create_dataset(opt), create_model(opt)
model.setup(opt)
session = roi_progressive.attach(model, dataset, "roi.toml")
for data in dataset:
    model.set_input(data)
    model.test()
    visuals = model.get_current_visuals()
for name, image in visuals.items():
    print("VISUAL", name, tuple(image.shape), bool(image.min() >= -1 and image.max() <= 1))
"""


@pytest.fixture
def start(hosts_folder: Path, tmp_path: Path) -> Any:
    """Run a script in a folder that holds roi.toml; wandb is answered by a module of our own."""
    (tmp_path / "roi.toml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / "stand_ins").mkdir()
    (tmp_path / "stand_ins" / "wandb.py").write_text("run = None\n", encoding="utf-8")

    def run(*command: str) -> str:
        env = {
            **os.environ,
            "PYTHONPATH": str(tmp_path / "stand_ins"),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        }
        done = subprocess.run([sys.executable, *command], cwd=tmp_path, env=env, capture_output=True, encoding="utf-8")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout

    return run


@pytest.mark.parametrize("generation", ["classic", "ddp"])
def test_it_trains_logs_shows_saves_and_goes_on(
    generation: str, start: Any, hosts_folder: Path, data: Path, tmp_path: Path
) -> None:
    pytest.importorskip("dominate", reason="the hosts' HTML needs dominate")
    host = hosts_folder / f"junyanz-{generation}"
    cpu = ("--gpu_ids", "-1", "--display_id", "-1") if generation == "classic" else ()
    common = ("--dataroot", str(data), "--checkpoints_dir", str(tmp_path / "runs"), "--name", "run", *OPTIONS)
    common += ("--input_nc", "1", "--output_nc", "1", "--model", "cycle_gan", "--num_threads", "0")
    train = (str(EXAMPLES / "train.py"), "--host", str(host), *common, *cpu, *FREQUENCIES)
    start(*train, "--n_epochs", "1", "--n_epochs_decay", "1")
    folder = tmp_path / "runs" / "run"
    log = [line for line in (folder / "loss_log.txt").read_text(encoding="utf-8").splitlines() if "epoch: 2" in line]
    for name in ("G_A:", "roi_G_tumor_A2B:", "roi_D_tumor_B2A:", "roi_ggd_A2B:", "roi_ggd_B2A:"):
        assert name in log[-1].replace(" ", "").replace(",", " ").replace(")", " ") or f" {name}" in log[-1]
    assert float(log[-1].split("roi_D_tumor_A2B: ")[1].split()[0].strip(",")) > 0
    pictures = {path.name for path in (folder / "web" / "images").iterdir()}
    assert {"epoch002_fake_B.png", "epoch002_sigma_A.png", "epoch002_sigma_B.png"} <= pictures
    assert "sigma_B" in (folder / "web" / "index.html").read_text(encoding="utf-8")
    nets = {f"{epoch}_net_{net}.pth" for epoch in ("1", "2", "latest") for net in ("G_A", "G_B", "D_A", "D_B")}
    ours = {f"{epoch}_roi_progressive.pth" for epoch in ("1", "2", "latest")}
    assert {path.name for path in folder.glob("*.pth")} == nets | ours
    keys = torch.load(folder / "latest_net_G_A.pth", weights_only=True)
    assert not any("ggd" in key or "roi" in key for key in keys)
    start(*train, "--n_epochs", "2", "--n_epochs_decay", "1", "--continue_train", "--epoch_count", "3")
    state = torch.load(folder / "latest_roi_progressive.pth", weights_only=True)
    assert (state["stages"]["epoch"], state["steps"]) == (3, 18)

    # The host's test.py, untouched, works on the result; with our two lines it also shows sigma.
    (tmp_path / "translate.py").write_text(TEST_SCRIPT, encoding="utf-8")
    cpu = cpu[:2]
    cpu += ("--no_dropout", "--phase", "train")
    start(str(host / "test.py"), *common, *cpu, "--results_dir", str(tmp_path / "results"))
    assert any((tmp_path / "results").rglob("*_fake_B.png"))
    said = start("translate.py", str(host), *common, *cpu)
    assert "VISUAL sigma_A (1, 1, 32, 32) True" in said and "VISUAL sigma_B (1, 1, 32, 32) True" in said
    single = ("--model", "test", "--model_suffix", "_B", "--dataroot", str(data / "trainB"), "--dataset_mode", "single")
    said = start("translate.py", str(host), *common, *cpu, *single)
    assert "VISUAL sigma_A (1, 1, 32, 32) True" in said and "sigma_B" not in said
