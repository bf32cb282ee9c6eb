"""The recipes of CONTRIBUTING.md for a region mode and an adversarial loss, carried out on a copy of the tree."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
LEFT_OUT = shutil.ignore_patterns(".git", "__pycache__", ".*_cache", "build", "*.egg-info", "shared", "effect")

# Every step is taken through the stage in which the region joins; a host that can be attached to is all it needs.
TRAIN = """
import sys
import torch
from roi_progressive import Config, RegionConfig, attach
from roi_progressive.check.data_check import check_size
from roi_progressive.errors import DataError
from roi_progressive.testing import ToyHost

setting, name = sys.argv[1:]
of_region = {"roi_mode": name} if setting == "roi_mode" else {}
rest = {} if of_region else {setting: name}
sizes = {"scales": 2, "windows_px": (16, 24, 32), "base_channels": 4}
region = RegionConfig("tumor", batch_key="{domain}_tumor", **sizes, **of_region)
config = Config(regions=(region,), **rest)
if config.regions[0].mode.whole_image:
    check_size((32, 32), config.regions)
    try:
        check_size((8, 8), config.regions)
    except DataError as error:
        assert "at least 12 px for 2 scales" in str(error)
    else:
        raise AssertionError("images too small for the mode were not found before the run")
host = ToyHost(n_epochs=3)
with attach(host, config=config, n_epochs=3) as session:
    for epoch in range(1, 4):
        stage = session.start_epoch(epoch)
        for batch in host.batches(3):
            host.step(batch)
    assert stage.number == 2, stage
    losses = session.losses()
    assert {"G_tumor_A2B", "D_tumor_A2B", "G_tumor_B2A", "D_tumor_B2A"} <= set(losses), losses
    assert all(torch.isfinite(torch.tensor(value)) for value in losses.values()), losses
print("trained", sorted(losses))
"""


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The tree as somebody who follows a recipe has it."""
    shutil.copytree(ROOT, tmp_path / "tree", symlinks=True, ignore=LEFT_OUT)
    return tmp_path / "tree"


def recipe(heading: str) -> list[str]:
    """The numbered steps of a recipe, their code blocks with them."""
    section = CONTRIBUTING.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    return [step.strip() for step in re.split(r"^\d\. ", section, flags=re.MULTILINE)[1:]]


def code_of(step: str) -> str:
    return textwrap.dedent(re.search(r"```python\n(.*?) *```", step, flags=re.DOTALL)[1])


def add_to_dict(step: str, tree: Path) -> None:
    """Do what "at the end of `NAME` in `FILE`" says."""
    name, file = re.search(r"at the end of `(\w+)` in `([\w/.]+)`", step).groups()
    before, within = (tree / file).read_text(encoding="utf-8").split(f"\n{name}: ", 1)
    entries, after = within.split("\n}\n", 1)
    entries += "\n" + textwrap.indent(code_of(step), "    ").rstrip()
    (tree / file).write_text(f"{before}\n{name}: {entries}\n}}\n{after}", encoding="utf-8")


def add_test(step: str, tree: Path) -> None:
    """Do what "in `tests/FILE`" says."""
    file = tree / re.search(r"in `(tests/[\w/.]+)`", step)[1]
    file.write_text(file.read_text(encoding="utf-8") + "\n\n" + code_of(step), encoding="utf-8")


def run(tree: Path, *command: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, *command], cwd=tree, env=environment, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return done.stdout


def run_tests(step: str, tree: Path) -> str:
    """Run the command that a step names."""
    files = re.search(r"`pytest ([^`]+)`", step)[1].split()
    return run(tree, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not slow", *files)


def test_a_region_mode_is_one_record(copy: Path) -> None:
    record, tests = recipe("A region mode")
    add_to_dict(record, copy)
    assert "passed" in run_tests(tests, copy)
    assert "trained" in run(copy, "-c", TRAIN, "roi_mode", "overview")


def test_an_adversarial_loss_is_one_record_and_its_test(copy: Path) -> None:
    record, test, tests = recipe("A loss")
    add_to_dict(record, copy)
    add_test(test, copy)
    assert "passed" in run_tests(tests, copy)
    assert "trained" in run(copy, "-c", TRAIN, "adversarial", "charbonnier")
