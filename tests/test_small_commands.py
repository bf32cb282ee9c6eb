"""The commands that only look: ``weights``, ``plugins`` and ``completion``."""

from __future__ import annotations

import builtins
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive.cli import weights_command
from roi_progressive.cli.completion_command import SHELLS
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import COMMANDS
from roi_progressive.evaluation import networks
from roi_progressive.evaluation.networks import ALEXNET_FILE, INCEPTION_FILE, WEIGHTS, WeightsFile


@pytest.fixture(autouse=True)
def hub(tmp_path: Path) -> Iterator[Path]:
    """torch's cache, empty."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(str(tmp_path / "hub"))
    yield tmp_path / "hub" / "checkpoints"
    torch.hub.set_dir(before)


def test_weights_that_are_missing_are_said_with_file_address_size_and_place(
    hub: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["weights"]) == 0
    shown = capsys.readouterr().out
    for part in ("LPIPS and region LPIPS: alexnet-owt-7be5be79.pth", "233 MiB", "begins with 7be5be79, by its name"):
        assert part in shown
    for part in ("FID and KID: pt_inception-2015-12-05-6726825d.pth", "91 MiB", "begins with 6726825d"):
        assert part in shown
    for file in WEIGHTS:
        assert f"looked for as {hub / file.name}: not there" in shown
        assert f"curl -L --create-dirs -o {hub / file.name} {file.url}" in shown
    assert not hub.exists(), "nothing is downloaded"


def test_the_addresses_are_those_of_the_packages_that_load_the_files() -> None:
    torchvision = pytest.importorskip("torchvision.models")
    pytorch_fid = pytest.importorskip("pytorch_fid.inception")
    alexnet, inception = WEIGHTS
    assert (alexnet.name, inception.name) == (ALEXNET_FILE, INCEPTION_FILE)
    assert alexnet.url == torchvision.AlexNet_Weights.IMAGENET1K_V1.url and alexnet.url.endswith(f"/{ALEXNET_FILE}")
    assert alexnet.size_mib == pytest.approx(torchvision.AlexNet_Weights.IMAGENET1K_V1.meta["_file_size"], abs=0.1)
    assert inception.url == pytorch_fid.FID_WEIGHTS_URL and inception.url.endswith(f"/{INCEPTION_FILE}")


def test_a_file_that_is_found_is_held_against_the_checksum_in_its_name(
    tmp_path: Path, hub: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    digest = hashlib.sha256(b"weights").hexdigest()
    file = WeightsFile(f"net-{digest[:8]}.pth", "https://example.org/net.pth", 1.0, "a score")
    monkeypatch.setattr(networks, "WEIGHTS", (file,))
    hub.mkdir(parents=True)
    (hub / file.name).write_bytes(b"weights")
    (tmp_path / file.name).write_bytes(b"weigh")
    assert main(["weights", "--weights", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert f"{tmp_path / file.name}: found, but its SHA-256 is {hashlib.sha256(b'weigh').hexdigest()}" in shown
    assert f"{hub / file.name}: found, its SHA-256 agrees" in shown and "curl" not in shown


def test_what_the_table_says_of_empty_columns_is_a_command_that_there_is() -> None:
    reason = networks.load_lpips()
    assert isinstance(reason, networks.Unavailable) and "`roi-progressive weights`" in reason.reason
    assert COMMANDS["weights"] is weights_command


def test_every_installed_plugin_is_listed_with_its_hooks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plugins"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("cut", "deepliif", "junyanz", "manual", "pix2pix"):
        (line,) = [line for line in lines if line.startswith(f"{name} (roi-progressive ")]
        assert line.split(")", 1)[1].split() == ["roi_adapter,", "roi_host_lacks"]
    assert any(line.split() == ["roi_progressive.plugins.masks", "roi_masks"] for line in lines)
    assert "roi_discriminator" in lines[-1] and "roi_adapter" not in lines[-1]


@pytest.mark.parametrize("shell", SHELLS)
def test_a_shells_script_knows_every_command_and_option(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in (*COMMANDS, "columns", "learning-rate", "ct-window"):
        assert word in script
    program = shutil.which(shell)
    if program is not None and shell != "tcsh":
        assert subprocess.run([program, "-n"], input=script, capture_output=True, encoding="utf-8").stderr == ""


def test_without_shtab_completion_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = builtins.__import__

    def without(name: str, *more: Any, **others: Any) -> Any:
        if name == "shtab":
            raise ImportError("No module named 'shtab'")
        return found(name, *more, **others)

    monkeypatch.setattr(builtins, "__import__", without)
    assert main(["completion", "bash"]) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err.count("\n") == 1
    assert "needs the package shtab" in shown.err and "pip install 'roi-progressive[completion]'" in shown.err
