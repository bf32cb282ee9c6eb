"""Every benchmark runs, prints its table and writes its figures; what the figures are is not tested here."""

from __future__ import annotations

import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
# The study trains and reports instead of measuring; it has a test of its own below.
COMMANDS = sorted(
    file.stem
    for file in FOLDER.glob("*.py")
    if '__name__ == "__main__"' in file.read_text("utf-8") and file.stem != "effect"
)

# What makes a quick run quicker still, and what is known of its figures before they are measured.
MORE = {
    "step_cost": ["--tumors-px", "10"],
    "scaling": ["--plot", "growth.svg"],
    "ranks": ["--runs", "1"],
    "import_time": ["--runs", "1"],
}
SAID = {"import_time": "ratio", "ranks": "efficiency"}
CHECKS: dict[str, list[Callable[[Any], bool]]] = {
    "step_cost": [
        lambda all: all["unet_256"]["stage 3, tumour 10 px"]["windows_px"] == {"liver": 48, "tumor": 32},
        lambda all: all["unet_256"]["inert session"]["flops_ratio"] == 1,
        lambda all: all["unet_256"]["stage 3, tumour 10 px"]["flops_ratio"] > 1,
    ],
    "scaling": [
        lambda all: all["regions"]["2"]["flops_ratio"] == 2,
        lambda _: Path("growth.svg").read_text(encoding="utf-8").startswith("<?xml"),
    ],
    "soak": [
        lambda all: all["stages"] == [1, 2, 3],
        # Memory of a process that ran other tests before settles later than that of a fresh one.
        lambda all: [fault for fault in all["faults"] if not fault.startswith("memory")] == [],
    ],
    "ggd_loss": [lambda all: all["ours, closed form"]["saved_tensors"] == 3],
}

pytestmark = pytest.mark.usefixtures("one_thread")


def _run(name: str, arguments: list[str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_quick_run_prints_ratios_and_writes_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "figures.json"
    _run(name, ["--quick", "--json", str(file), *MORE.get(name, [])], tmp_path, monkeypatch)
    figures = json.loads(file.read_text(encoding="utf-8"))
    printed = capsys.readouterr().out
    assert SAID[name] in printed if name in SAID else printed.startswith("| ")
    for check in CHECKS.get(name, []):
        assert check(figures)


def test_memory_saved_tensors_and_operations_are_counted_as_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    square, kilobyte = torch.ones(16, 16, requires_grad=True), 4 * 16 * 16

    def two_products() -> torch.Tensor:
        return square @ (square @ square)

    assert measure.flops_of(two_products) == 2 * 2 * 16**3
    assert measure.saved_tensors_of(two_products) == [kilobyte, kilobyte]
    assert measure.peak_bytes_of(lambda: torch.ones(256).add(1).add(1).sum()) == pytest.approx(2 * kilobyte, abs=64)


def test_a_spread_is_median_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    spread = measure.ratios([2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 5)
    assert (spread.low, spread.median, spread.high) == (3.0, 4.0, 5.0)
    assert measure.Spread.of([1.5]).percent() == "+50.0 % [+50.0, +50.0]"


def test_the_study_goes_on_where_it_stopped_and_reports_what_is_done(tmp_path: Path) -> None:
    def study(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(FOLDER / "effect.py"), "study", "--quick", "--seeds", "1", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8")

    assert study("--arms", "plain").returncode == 0
    began = (tmp_path / "study" / "runs" / "plain-1" / "history.jsonl").stat().st_mtime_ns
    done = study("--arms", "plain", "roi_l1")
    assert done.returncode == 0, done.stderr
    assert "| roi_l1 | plain | CT → MR | 1 |" in done.stdout
    lines = (tmp_path / "study" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["plain", "roi_l1"]
    assert (tmp_path / "study" / "runs" / "plain-1" / "history.jsonl").stat().st_mtime_ns == began
    assert (tmp_path / "study" / "gains.png").read_bytes().startswith(b"\x89PNG")
    other = study("--epochs", "5")
    assert other.returncode == 2 and "with other epochs" in other.stderr and len(other.stderr.splitlines()) == 1
