"""``examples/third_party_plugin`` is installed as a user would, found by its entry point, trained and scored with."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import roi_progressive

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "third_party_plugin"
IMPORT_ROOT = Path(roi_progressive.__file__).parents[1]
COMMAND = "import sys; from roi_progressive.cli import main; sys.exit(main())"
CONFIG = """
ggd = false
[[regions]]
name = "tumor"
scales = 2
stage = 1
windows_px = [16, 32]
base_channels = 2
"""
TINY = (
    *("--epochs", "1", "--decay-epochs", "0", "--channels", "2", "--depth", "2", "--threads", "1"),
    *("--discriminator-channels", "2", "--discriminator-layers", "1", "--config", "roi.toml"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of packages that holds the plugin alone; nothing is downloaded."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"  # a build leaves files beside its source
    shutil.copytree(EXAMPLE, source, ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    offline = ("--no-index", "--no-deps", "--no-build-isolation", "--disable-pip-version-check", "--quiet")
    run(folder, "-m", "pip", "install", *offline, "--target", str(folder / "packages"), str(source))
    return folder


def run(folder: Path, *arguments: str, packages: tuple[Path, ...] = ()) -> str:
    path = os.pathsep.join(map(str, (*packages, IMPORT_ROOT)))
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, encoding="utf-8"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_only_its_package_and_its_entry_point_are_installed(installed: Path) -> None:
    packages = installed / "packages"
    assert sorted(path.name.partition("-")[0] for path in packages.iterdir()) == ["roi_spectral", "roi_spectral"]
    (points,) = packages.glob("*.dist-info/entry_points.txt")
    assert points.read_text(encoding="utf-8").split() == ["[roi_progressive]", "spectral", "=", "roi_spectral.plugin"]


def test_its_own_tests_pass(installed: Path) -> None:
    alone = ("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", "source")
    said = run(installed, "-m", "pytest", "-q", *alone, "source/tests", packages=(installed / "packages",))
    assert "6 passed" in said


def test_the_command_trains_and_scores_with_all_four_parts(installed: Path, small_data: Path, tmp_path: Path) -> None:
    shutil.copytree(small_data, tmp_path / "data")
    (tmp_path / "roi.toml").write_text(CONFIG, encoding="utf-8")
    for domain in "AB":  # while it trains, the masks lie where only the plugin looks for them
        (tmp_path / "data" / "masks" / f"train{domain}").mkdir(parents=True)
    moved = {
        mask: tmp_path / "data" / "masks" / f"train{domain}" / f"{mask.stem}_tumor.png"
        for domain in "AB"
        for mask in (tmp_path / "data" / f"train{domain}_tumor").iterdir()
    }
    for here, there in moved.items():
        here.rename(there)
    packages = (installed / "packages",)
    run(tmp_path, "-c", COMMAND, "train", "--data", "data", "--out", "run", *TINY, packages=packages)
    losses = "".join(path.read_text(encoding="utf-8") for path in (tmp_path / "run").glob("*.json*"))
    assert "edges_A2B" in losses
    file = next((tmp_path / "run").rglob("*_roi_progressive.pth"))
    bank = torch.load(file, weights_only=True)["guidance"]["learner"]["bank"]
    assert any("model.0.parametrizations.weight" in name for name in bank), "the network under spectral norm"
    for here, there in moved.items():  # the evaluation reads the folders beside the images
        there.rename(here)
    assert "EDGE" in run(tmp_path, "-c", COMMAND, "evaluate", "run", packages=packages)
    scores = json.loads((tmp_path / "run" / "test" / "metrics.json").read_text(encoding="utf-8"))
    assert all(score["EDGE"] > 0 for score in scores["slices"] if score["region_px"])
