"""Plain scripts with our calls written in, the way their users would: PyTorch-GAN and aitorzip's CycleGAN.

The scripts are edited in a scratch copy; masks come from the scripts' own loaders, which are given side folders here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

VISDOM = """
class Visdom:
    def __getattr__(self, name):
        return lambda *args, **kwargs: None
"""
OBSERVER = """
import roi_progressive, torch
tumor = roi_progressive.RegionConfig("tumor", scales=1, windows_px=(16, 32, 64), layers=1, base_channels=2, stage=1)
config = roi_progressive.Config(
    regions=(tumor,),
    ggd=roi_progressive.GGDConfig(hidden_channels=4),
)
def square(images):  # the scripts' own loaders give no masks: a fixed square stands in for them
    masks = torch.zeros(len(images), 1, *images.shape[2:])
    masks[..., 8:20, 8:20] = 1
    return {"tumor": masks}
"""


@pytest.fixture
def scratch(hosts_folder: Path, data: Path, tmp_path: Path) -> Path:
    (tmp_path / "stand_ins").mkdir()
    (tmp_path / "stand_ins" / "visdom.py").write_text(VISDOM, encoding="utf-8")
    for domain in "AB":
        for mode in ("train", "test"):
            folder = tmp_path / "data" / "slices" / mode / domain
            folder.mkdir(parents=True)
            for path in sorted((data / f"train{domain}").glob("*.png"))[:4]:
                Image.open(path).convert("RGB").save(folder / path.name)
    for mode in ("train", "test", "val"):
        folder = tmp_path / "data" / "pairs" / mode
        folder.mkdir(parents=True)
        for path in sorted((data / "train").glob("*.png"))[:2]:
            Image.open(path).convert("RGB").resize((512, 256)).save(folder / path.name)
    return tmp_path


def _edited(script: Path, edits: list[tuple[str, str]]) -> None:
    """Put a line after or before the one line that holds a marker: the marker's line is ``{}`` in the new text."""
    lines = script.read_text(encoding="utf-8").splitlines()
    for marker, text in edits:
        (place,) = [number for number, line in enumerate(lines) if line.strip() == marker]
        indent = lines[place][: len(lines[place]) - len(lines[place].lstrip())]
        new = [indent + line for line in text.splitlines()]
        own = new.index(indent + "{}")
        lines[place : place + 1] = [*new[:own], lines[place], *new[own + 1 :]]
    script.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _run(script: Path, scratch: Path, *arguments: str) -> str:
    env = {**os.environ, "PYTHONPATH": str(scratch / "stand_ins"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, script.name, *arguments]
    done = subprocess.run(command, cwd=script.parent, env=env, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "never collected" not in done.stderr
    return done.stdout


STEP = "{}\nsession.discriminator_step()\nprint()\nprint('OURS', sorted(session.losses()))"
BOTH = "['D_tumor_A2B', 'D_tumor_B2A', 'G_tumor_A2B', 'G_tumor_B2A', 'ggd_A2B', 'ggd_B2A']"


def test_pytorch_gans_cyclegan(hosts_folder: Path, scratch: Path) -> None:
    source = hosts_folder / "pytorch-gan" / "implementations" / "cyclegan"
    shutil.copytree(source, scratch / "implementations" / "cyclegan")
    script = scratch / "implementations" / "cyclegan" / "cyclegan.py"
    attach = 'session = roi_progressive.attach({"A2B": G_AB, "B2A": G_BA}, config=config, n_epochs=opt.n_epochs)'
    terms = """loss_G = loss_G + session.generator_loss(
    real_A=real_A, fake_B=fake_B, rec_A=recov_A, real_B=real_B, fake_A=fake_A, rec_B=recov_B,
    masks_A=square(real_A), masks_B=square(real_B))
{}"""
    _edited(
        script,
        [
            ("# Learning rate update schedulers", OBSERVER + attach + "\n{}"),
            ("for epoch in range(opt.epoch, opt.n_epochs):", "{}\n    session.start_epoch(epoch)"),
            ("loss_G.backward()", terms),
            ("optimizer_D_B.step()", STEP),
        ],
    )
    options = ("--dataset_name", "slices", "--n_epochs", "2", "--decay_epoch", "1", "--n_cpu", "0")
    said = _run(script, scratch, *options, "--img_height", "32", "--img_width", "32", "--n_residual_blocks", "1")
    assert said.count(f"OURS {BOTH}") == 8


def test_pytorch_gans_pix2pix(hosts_folder: Path, scratch: Path) -> None:
    """It swaps A and B when it takes a batch; its own names are what counts."""
    source = hosts_folder / "pytorch-gan" / "implementations" / "pix2pix"
    shutil.copytree(source, scratch / "implementations" / "pix2pix")
    script = scratch / "implementations" / "pix2pix" / "pix2pix.py"
    attach = 'session = roi_progressive.attach({"A2B": generator}, config=config, n_epochs=opt.n_epochs)'
    terms = """loss_G = loss_G + session.generator_loss(real_A=real_A, fake_B=fake_B, real_B=real_B, paired=True,
    masks_A=square(real_A), masks_B=square(real_B))
{}"""
    _edited(
        script,
        [
            ("# Configure dataloaders", OBSERVER + attach + "\n{}"),
            ("for epoch in range(opt.epoch, opt.n_epochs):", "{}\n    session.start_epoch(epoch)"),
            ("loss_G.backward()", terms),
            ("optimizer_D.step()", STEP),
        ],
    )
    # Pillow has taken away the argument that this loader passes when it mirrors an image.
    loader = script.with_name("datasets.py")
    loader.write_text(loader.read_text(encoding="utf-8").replace(', "RGB")', ")"), encoding="utf-8")
    said = _run(script, scratch, "--dataset_name", "pairs", "--n_epochs", "1", "--n_cpu", "0")
    assert said.count("OURS ['D_tumor_A2B', 'G_tumor_A2B', 'ggd_A2B']") >= 2


def test_aitorzips_cyclegan(hosts_folder: Path, scratch: Path) -> None:
    """It gives the fakes' names to what comes out of its pools; our call stands before that."""
    if not (hosts_folder / "aitorzip" / "train").is_file():  # a script without an ending, which some copies leave out
        pytest.skip("the checkout aitorzip/ holds no script `train`")
    shutil.copytree(hosts_folder / "aitorzip", scratch / "aitorzip")
    (scratch / "aitorzip" / "output").mkdir(exist_ok=True)
    script = (scratch / "aitorzip" / "train").rename(scratch / "aitorzip" / "train_guided.py")
    utils = script.with_name("utils.py")
    utils.write_text(utils.read_text(encoding="utf-8").replace(".data[0]", ".item()"), encoding="utf-8")
    attach = (
        'session = roi_progressive.attach({"A2B": netG_A2B, "B2A": netG_B2A}, config=config, n_epochs=opt.n_epochs)'
    )
    terms = """loss_G = loss_G + session.generator_loss(
    real_A=real_A, fake_B=fake_B, rec_A=recovered_A, real_B=real_B, fake_A=fake_A, rec_B=recovered_B,
    masks_A=square(real_A), masks_B=square(real_B))
{}"""
    _edited(
        script,
        [
            ("# Inputs & targets memory allocation", OBSERVER + attach + "\n{}"),
            ("for epoch in range(opt.epoch, opt.n_epochs):", "{}\n    session.start_epoch(epoch)"),
            ("loss_G.backward()", terms),
            ("optimizer_D_B.step()", STEP),
        ],
    )
    options = ("--dataroot", str(scratch / "data" / "slices"), "--n_epochs", "1", "--decay_epoch", "0", "--n_cpu", "0")
    said = _run(script, scratch, *options, "--size", "32")
    assert said.count(f"OURS {BOTH}") == 4
