"""``roi-progressive check`` on real checkouts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from roi_progressive.cli.main import main

SMALL = ("--ngf", "4", "--ndf", "4", "--netG", "resnet_6blocks", "--load_size", "40", "--crop_size", "32")
CASES = {
    "classic": ("junyanz-classic", "classic", "junyanz cycle_gan", ("--model", "cycle_gan")),
    "DDP": ("junyanz-ddp", "DDP", "junyanz cycle_gan", ("--model", "cycle_gan")),
    "pix2pix": ("junyanz-ddp", "DDP", "junyanz pix2pix", ("--model", "pix2pix")),
    "CUT": ("cut", "CUT", "CUT", ("--model", "cut", "--netF_nc", "64", "--num_patches", "16")),
}


@pytest.mark.parametrize("case", CASES)
def test_it_tells_what_a_run_would_be(
    case: str, hosts_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, generation, adapter, model = CASES[case]
    (tmp_path / "roi.toml").write_text('[[regions]]\nname = "tumor"\nscales = 1\n', encoding="utf-8")
    command = [
        "check",
        "--host",
        str(hosts_folder / folder),
        "--data",
        str(data),
        "--config",
        str(tmp_path / "roi.toml"),
    ]
    assert main([*command, "--", *model, *SMALL]) == 0
    said = capsys.readouterr().out
    assert f"{folder}, {generation} generation, adapter {adapter}\n" in said
    assert "A2B ResnetGenerator" in said
    folders = ("train",) if case == "pix2pix" else ("trainA", "trainB")
    for name in folders:
        masks = [np.asarray(Image.open(path).convert("L")) > 127 for path in (data / f"{name}_tumor").glob("*.png")]
        areas = sorted(int(mask.sum()) for mask in masks if mask.any())
        held = f"{name}: tumor in {len(areas)} of {len(masks)} slices, smallest {areas[0]} px, median"
        assert held in said
    n_epochs = 400 if case == "CUT" else 200
    assert f"epochs 1 to {round(0.15 * n_epochs)}: stage 1 (whole + ggd)" in said
    assert f"epochs {round(0.15 * n_epochs) + 1} to {n_epochs}: stage 2 (whole + tumor + ggd)" in said
    assert re.search(r"parameters \+\d+ %, memory \+\d+ %, FLOPs \+[1-9]\d* % of the host's step", said)
    assert "initialize network" not in said, "what the host prints is not ours to repeat"


def test_a_term_the_host_has_no_target_for_is_a_trap(
    hosts_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["check", "--host", str(hosts_folder / "cut"), "--data", str(data), "--", "--model", "cut"]
    assert main([*command, "--CUT_mode", "FastCUT", "--netF_nc", "64", "--num_patches", "16", *SMALL]) == 0
    said = capsys.readouterr().out
    assert "uncertainty is left out for A2B: `ggd.target` = 'auto' needs" in said


def test_sixteen_bits_that_the_hosts_reader_turns_white_are_a_trap(
    hosts_folder: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in data.iterdir():
        (tmp_path / folder.name).mkdir()
        for path in folder.glob("*.png"):
            grey = np.asarray(Image.open(path).convert("L"))
            wide = grey if "_" in folder.name else (grey.astype(np.uint16) + 300) * 60
            Image.fromarray(wide).save(tmp_path / folder.name / path.name)
    host = str(hosts_folder / "junyanz-classic")
    command = ["check", "--host", host, "--data", str(tmp_path), "--", "--model", "cycle_gan", *SMALL]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "has 16 bits, and the host's reader turns 100 % of it white; window the images to 8 bits first" in said


def test_a_host_whose_own_step_fails_is_a_trap(
    hosts_folder: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUT's loader makes three channels of everything; its networks are told of one."""
    command = ["check", "--host", str(hosts_folder / "cut"), "--data", str(data), "--", "--model", "cut"]
    options = ("--input_nc", "1", "--output_nc", "1", "--netF_nc", "64", "--num_patches", "16")
    assert main([*command, *options, *SMALL]) == 0
    said = capsys.readouterr().out
    assert "cost      not measured" in said and "the host's own step fails: RuntimeError: " in said


def test_a_mistake_is_one_line(hosts_folder: Path, data: Path, tmp_path: Path, capsys: Any) -> None:
    host = str(hosts_folder / "junyanz-classic")
    for command, words in (
        (["--host", str(tmp_path), "--data", str(data)], "lacks options.train_options, models, data"),
        (["--host", host, "--data", str(tmp_path / "none")], "is no folder"),
    ):
        assert main(["check", *command]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line
