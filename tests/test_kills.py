"""Killed by the kernel at any moment, a run goes on from its newest saved epoch and ends in the same bits.

A handful of kills here; with ``ROI_PROGRESSIVE_NIGHTLY=1`` more than fifty.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

NIGHTLY = os.environ.get("ROI_PROGRESSIVE_NIGHTLY") == "1"
SCRIPT = Path(__file__).with_name("lives.py")
LAST = 3
N_STEPS = 2 * LAST
CONFIG = {
    "regions": [{"name": "tumor", "scales": 1, "windows_px": [24, 32], "base_channels": 2}],
    "ggd": {"hidden_channels": 2},
    "pool_size": 2,
}

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="lives are forked, which this system cannot")


def anywhere(stream: random.Random, n_steps: int) -> dict[str, Any]:
    return {"step": stream.randrange(1, n_steps), "after_s": stream.uniform(0, 0.03)}


def training_ends() -> list[list[dict[str, Any]]]:
    """By case, the ways in which the lives before its last end."""
    stream = random.Random(0)
    fixed: list[list[dict[str, Any]]] = [
        [anywhere(stream, N_STEPS // 2), anywhere(stream, N_STEPS)],  # twice in one run
        [{"call": 0.6}],
        [{"call": 0.3, "torn_bytes": 300}, {"call": 0.5}],
        [{"call": 0.75, "torn_bytes": 4000}],
    ]
    if not NIGHTLY:
        return fixed
    any_moment = [[anywhere(stream, N_STEPS)] for _ in range(30)]
    any_call = [[{"call": stream.random()}] for _ in range(20)]
    any_write = [[{"call": stream.random(), "torn_bytes": stream.randrange(6000)}] for _ in range(15)]
    return fixed + any_moment + any_call + any_write


def preparing_ends() -> list[list[dict[str, Any]]]:
    stream = random.Random(1)
    fixed: list[list[dict[str, Any]]] = [[anywhere(stream, 6)], [{"call": 0.4}, {"call": 0.9}]]
    if not NIGHTLY:
        return fixed
    any_moment = [[anywhere(stream, 10)] for _ in range(8)]
    any_call = [[{"call": stream.random()}] for _ in range(8)]
    any_write = [[{"call": stream.random(), "torn_bytes": stream.randrange(400)}] for _ in range(4)]
    return fixed + any_moment + any_call + any_write


def lived(folder: Path, given: dict[str, Any]) -> tuple[Path, list[list[dict[str, Any]]]]:
    """The folder of all runs of ``given``, and what was found after each of their lives."""
    path = folder / "cases.json"
    path.write_text(json.dumps(given), encoding="utf-8")
    one_thread = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
    environment = {**os.environ, **one_thread, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-P" if sys.version_info >= (3, 11) else "-B", str(SCRIPT), str(path)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder, json.loads(path.with_suffix(".out").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def trained(
    small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[dict[str, Any]]]]:
    options = {**small_networks, "epochs": 2, "decay_epochs": 1, "batch_size": 2, "save_every_epochs": 1, "seed": 5}
    options["validate_every"] = 1
    given = {"what": "train", "data": str(small_data), "options": options, "config": CONFIG, "cases": training_ends()}
    return lived(tmp_path_factory.mktemp("trained"), given)


@pytest.fixture(scope="module")
def prepared(
    write_scans: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[list[dict[str, Any]]]]:
    folder = tmp_path_factory.mktemp("prepared")
    table = str(write_scans(folder / "scans"))
    return lived(folder, {"what": "prepare", "table": table, "cases": preparing_ends()})


def networks(run: Path) -> dict[str, Any]:
    return {path.name: torch.load(path, weights_only=True) for path in sorted((run / "networks").glob("*.pth"))}


@pytest.mark.parametrize("case", range(len(training_ends())))
def test_a_killed_training_goes_on_to_the_bits_of_one_that_was_not(
    case: int, trained: tuple[Path, Any], differing: Callable[[Any, Any], list[str]]
) -> None:
    folder, found = trained
    for life in found[case]:
        assert (life["saved"] or 0) >= life["epochs"] - 1, "an epoch that was done is lost"
    assert found[case][-1] == {"signal": 0, "saved": LAST, "epochs": LAST}
    straight, run = folder / "straight" / "run", folder / f"case{case}" / "run"
    assert differing(networks(run), networks(straight)) == []
    left, whole = bytes_below(run), bytes_below(straight)
    assert left.keys() == whole.keys(), "a killed run leaves nothing behind that a whole one does not"
    # Networks were compared above: the name of the process is part of torch's files.
    assert [name for name in left if left[name] != whole[name] and not name.endswith(".pth")] == []


@pytest.mark.parametrize("case", range(len(preparing_ends())))
def test_a_killed_preparation_goes_on_to_the_bytes_of_one_that_was_not(case: int, prepared: tuple[Path, Any]) -> None:
    folder, found = prepared
    assert found[case][-1]["signal"] == 0
    assert bytes_below(folder / f"case{case}") == bytes_below(folder / "straight")


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_the_kernel_did_end_the_lives(trained: tuple[Path, Any], prepared: tuple[Path, Any]) -> None:
    """Else the tests above would pass whatever a kill destroys. A life may end by itself before its moment comes."""
    ended = [life["signal"] for _, found in (trained, prepared) for lives in found for life in lives[:-1]]
    assert set(ended) <= {0, signal.SIGKILL, signal.SIGXFSZ}
    assert ended.count(signal.SIGXFSZ) >= 2
    assert ended.count(signal.SIGKILL) >= (55 if NIGHTLY else 5)
