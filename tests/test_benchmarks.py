"""Every benchmark runs, prints its table and writes its figures; what the figures are is not tested here."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks"
COMMANDS = sorted(file.stem for file in FOLDER.glob("*.py") if '__name__ == "__main__"' in file.read_text("utf-8"))

# What makes a quick run quicker still, and what is known of its figures before they are measured.
MORE = {"step_cost": ["--tumors-px", "10"], "scaling": ["--plot", "growth.svg"]}
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
    assert "ratio" in printed if name == "import_time" else printed.startswith("| ")
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
