"""The README's commands, blocks and tables, run and checked as printed."""

from __future__ import annotations

import inspect
import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import roi_progressive
from roi_progressive import Config, PatchDiscriminator, RegionConfig
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import parser
from roi_progressive.plugins.manager import hookspecs
from roi_progressive.testing import ToyHost, check_adapter, phantom_batch, phantom_config

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

# What a command is shortened by, so that it runs in seconds; everything printed stays as it is.
SHORTENED = {
    "demo": ["--epochs", "4", "--out", "demo"],
    "train": [
        *("--epochs", "1", "--decay-epochs", "0", "--channels", "4", "--depth", "2"),
        *("--discriminator-channels", "4", "--discriminator-layers", "2", "--threads", "1"),
    ],
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = "".join(blocks("console")).splitlines()
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def ours() -> list[list[str]]:
    return [command[1:] for command in commands() if command[0] == "roi-progressive"]


def test_the_two_set_up_commands_are_printed():
    assert "pip install . && roi-progressive demo\n" in README
    assert 'pip install ".[test]" && pytest\n' in README


def test_every_printed_command_is_one_that_is_tested_here():
    ours = ("demo", "check", "translate", *MEDICAL)
    known = {("pip", "install"), ("pytest",), *(("roi-progressive", name) for name in ours)}
    for command in commands():
        assert tuple(command[:2] if command[0] != "pytest" else command[:1]) in known, command


def test_the_continuous_integration_runs_the_printed_test_command():
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert 'pip" install --quiet ".[test]"' in script
    assert '"$bin/pytest"' in script


def test_the_printed_demo_command_makes_what_is_promised(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (command,) = [command for command in ours() if command[0] == "demo"]
    assert main([*command, *SHORTENED["demo"]]) == 0
    for name in ("report.md", "metrics.json", "figure.png", "curves.png"):
        assert f"`{name}`" in README or f"/{name}`" in README
        assert (tmp_path / "demo" / name).stat().st_size > 0
    printed = capsys.readouterr().out.strip().splitlines()
    assert printed[0].startswith("device: ") and len(printed) == 6


MEDICAL = ("prepare", "train", "evaluate", "figure")


def test_the_printed_commands_take_scans_to_a_table(tmp_path, monkeypatch, capsys):
    write_scans(tmp_path)
    monkeypatch.chdir(tmp_path)
    chain = [command for command in ours() if command[0] in MEDICAL and command not in new_patient()]
    assert [command[0] for command in chain] == [*MEDICAL, "evaluate"]
    for command in chain:
        if "--fake" in command:  # what another trainer made of the same slices
            shutil.copytree("run/test/A2B", "other")
        assert main([*command, *SHORTENED.get(command[0], [])]) == 0, capsys.readouterr().err
    assert "TPSNR" in capsys.readouterr().out
    assert (tmp_path / "run" / "test" / "figure_B2A.png").is_file()


def new_patient() -> list[list[str]]:
    """The commands from scans without masks to the volume of a new patient."""
    (block,) = [block for block in blocks("console") if "translate" in block]
    return [shlex.split(line)[1:] for line in block.splitlines()]


def test_three_commands_translate_a_patient_from_ct_alone_without_masks(tmp_path, monkeypatch, capsys):
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    write_scans(tmp_path)
    monkeypatch.chdir(tmp_path)
    lines = [line.split(",") for line in Path("scans.csv").read_text(encoding="utf-8").splitlines()]
    columns = [lines[0].index(name) for name in ("patient", "modality", "image")]
    Path("unmasked.csv").write_text("\n".join(",".join(line[at] for at in columns) for line in lines), encoding="utf-8")
    shutil.copy("p05_ct.nii.gz", "p09_ct.nii.gz")
    commands = new_patient()
    assert [command[0] for command in commands] == ["prepare", "train", "translate"]
    for command in commands:
        assert main([*command, *SHORTENED.get(command[0], [])]) == 0, capsys.readouterr().err
    scan, made = (sitk.ReadImage(f"p09_{kind}.nii.gz") for kind in ("ct", "mr"))
    for part in ("Origin", "Spacing", "Direction", "Size"):
        assert getattr(scan, f"Get{part}")() == getattr(made, f"Get{part}")()
    assert sitk.GetArrayFromImage(made).max() > 0
    (source,) = [block for block in blocks("python") if "translate_volume" in block]
    Path("p09_mr.nii.gz").unlink()
    exec(source, {"roi_progressive": roi_progressive, "netG_A": torch.nn.Identity()})
    assert Path("p09_mr.nii.gz").is_file()


def write_scans(folder: Path) -> None:
    """Five patients of CT and MR, as the README's own table of scans begins."""
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    (table,) = blocks("csv")
    header, *rows = table.strip().splitlines()
    lines = [header, *(row.replace("p01", f"p{n:02d}") for n in range(1, 6) for row in rows)]
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    z, y, x = np.mgrid[0:12, 0:48, 0:48]
    for n in range(1, 6):
        body = (np.hypot(y - 24, x - 24) < 20).astype(np.float32)
        tumor = np.hypot(np.hypot(y - 24 - n, x - 20), 3 * (z - 6)) < 8
        noise = np.random.default_rng(n).normal(0, 5, body.shape)
        write = {
            f"p{n:02d}_ct.nii.gz": (body * 1040 - 1000 + tumor * -60 + noise).astype(np.float32),
            f"p{n:02d}_ct_tumor.nii.gz": tumor.astype(np.uint8),
            f"p{n:02d}_mr.nii.gz": (body * 300 + tumor * 200 + np.abs(noise)).astype(np.float32),
            f"p{n:02d}_mr_seg.nii.gz": (tumor * 2 + (body > 0) * ~tumor).astype(np.uint8),
        }
        for name, array in write.items():
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((2.0, 2.0, 5.0))
            sitk.WriteImage(image, str(folder / name))


def test_the_printed_configuration_is_a_valid_one():
    (text,) = blocks("toml")
    config = Config.from_mapping(tomllib.loads(text))
    assert [(region.name, region.scales) for region in config.regions] == [("liver", 2), ("tumor", 3)]


def test_the_printed_check_is_a_command_that_parses():
    (command,) = [command for command in ours() if command[0] == "check"]
    options = parser().parse_args(command)
    assert (str(options.host), options.host_options) == ("CHECKOUT", ["--model", "pix2pix"])


class _Trainer:
    """The trainer the README's adapter speaks of."""

    def __init__(self) -> None:
        self.ct_to_mr = torch.nn.Conv2d(1, 1, 3, padding=1)
        self.optimizer = torch.optim.Adam(self.ct_to_mr.parameters(), lr=1e-3)

    def translate(self) -> None:
        self.fake_mr = torch.tanh(self.ct_to_mr(self.ct))

    def step(self, batch) -> None:
        self.ct, self.mr = batch["A"], batch["B"]
        self.translate()
        self.optimizer.zero_grad()
        self.fake_mr.abs().mean().backward()
        self.optimizer.step()


def test_the_printed_adapter_passes_the_check_it_names():
    (source,) = [block for block in blocks("python") if "class MyAdapter" in block]
    names = {}
    exec(source, names)
    assert source.count("\n") < 60, "one screen"

    def make_host():
        torch.manual_seed(0)
        mask = torch.zeros(2, 1, 40, 40)
        mask[..., 8:20, 8:20] = 1
        batch = {"A": torch.rand(2, 1, 40, 40), "B": torch.rand(2, 1, 40, 40), "A_tumor": mask, "B_tumor": mask}
        return _Trainer(), [batch] * 3

    region = RegionConfig("tumor", scales=1, base_channels=4, batch_key="{domain}_tumor")
    config = Config(regions=(region,), ggd=None)
    check_adapter(make_host, step=lambda host, batch: host.step(batch), plugins=[names["MyPlugin"]()], config=config)


def test_the_printed_test_of_a_plugin_passes_with_what_its_fixtures_give(tmp_path):
    (source,) = [block for block in blocks("python") if "def test_my_plugin" in block]

    class MyDiscriminators:
        asked = 0

        @roi_progressive.hookimpl
        def roi_discriminator(self, region, in_channels, smallest_px):
            MyDiscriminators.asked += 1
            return PatchDiscriminator(in_channels, 2, 1)

    names = {"roi_progressive": roi_progressive, "MyDiscriminators": MyDiscriminators}
    exec(source, names)
    names["test_my_plugin"](ToyHost(tmp_path), phantom_batch(), phantom_config())
    assert MyDiscriminators.asked == 2, "one scale of one region in two directions"


def test_every_hook_has_its_line_with_its_own_arguments():
    printed = re.findall(r"^\| `(roi_\w+)\((.*?)\)` \|", README, flags=re.MULTILINE)
    hooks = {name: spec for name, spec in vars(hookspecs).items() if name.startswith("roi_")}
    assert dict(printed) == {name: ", ".join(inspect.signature(spec).parameters) for name, spec in hooks.items()}


def test_the_difference_of_the_plain_script_is_the_examples():
    printed = [block for block in blocks("diff") if "generator_loss" in block]
    added = [line[1:].strip() for line in printed[0].splitlines() if line.startswith("+")]
    example = (ROOT / "examples" / "plain_loop_with_regions.py").read_text(encoding="utf-8")
    for call in ("roi_progressive.attach(", "session.start_epoch(", "session.generator_loss(", "discriminator_step()"):
        assert any(call in line for line in added)
        assert call in example


def test_every_file_the_readme_names_exists():
    for name in re.findall(r"\(((?:examples|docs)/[\w./]+)\)|`((?:examples|adapters)/[\w./]+)`", README):
        assert (ROOT / (name[0] or name[1])).is_file(), name
