"""Every benchmark runs, prints its table and writes its figures; what the figures are is not tested here."""

from __future__ import annotations

import importlib
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
# The study trains and reports instead of measuring; it and what reads it have tests of their own, below and in
# test_glioma_study.py.
STUDIES = ("run_study", "study_seen", "study_sigma", "study_patients")
COMMANDS = sorted(
    file.stem
    for file in FOLDER.glob("*.py")
    if '__name__ == "__main__"' in file.read_text("utf-8") and file.stem not in STUDIES
)

# What makes a quick run quicker still, and what is known of its figures before they are measured.
MORE = {
    "step_cost": ["--tumors-px", "10", "--profile", "traces"],
    "scaling": ["--plot", "growth.svg"],
    "ranks": ["--runs", "1"],
    "import_time": ["--runs", "1"],
}
SAID = {"import_time": "ratio", "ranks": "efficiency", "volume_memory": "peak memory"}
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
    "shape_recovery": [
        lambda all: all["Laplace"]["exact"]["shape"]["median"] == pytest.approx(1.0, rel=0.1),
        # The least of log Γ(1/β): digamma vanishes at 1/0.684.
        lambda all: all["Laplace"]["in circulation"]["shape"]["median"] == pytest.approx(1 / 1.4616321, rel=1e-3),
    ],
    "launches": [
        lambda all: all["unet_256"]["+ inert session"]["added"] <= 10,
        lambda all: all["watching"]["named"]["added"] == all["watching"]["unnamed"]["added"] == 0,
        lambda all: 0 < all["unet_256"]["+ stage 3"]["added"] < all["unet_256"]["+ full-size masked bank"]["added"],
        lambda all: all["resnet_9blocks"]["+ stage 3"]["added"] <= 450,
        # Windows of one size: more slices start next to nothing more.
        lambda all: all["unet_256"]["+ stage 3, batch 2"]["added"] <= 1.2 * all["unet_256"]["+ stage 3"]["added"],
    ],
    "volume_memory": [lambda all: all["imported_gb"] < all["peak_gb"] < 2],
    "head_calibration": [lambda all: all["others"]["exact"]["uce"]["median"] > 0],
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


def test_operations_are_counted_without_views_allocations_and_optimizers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    weight = torch.ones(4, 4, requires_grad=True)
    optimizer = torch.optim.SGD([weight], lr=0.1)

    def step() -> None:
        optimizer.zero_grad()
        (weight.view(2, 8) * torch.empty(8).fill_(2.0)).sum().backward()
        optimizer.step()

    # Forward: fill, mul, sum. Backward: a one to start from, its mul.
    assert measure.launches_of(step) == {"fill_": 1, "mul": 2, "sum": 1, "ones_like": 1}


def test_a_grouped_convolution_takes_what_its_parts_take(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    images, weights = torch.rand(2, 2, 3, 16, 16), torch.rand(2, 5, 3, 4, 4)

    def apart() -> None:
        for image, weight in zip(images.unbind(), weights.unbind(), strict=True):
            pair = image.clone().requires_grad_(), weight.clone().requires_grad_()
            torch.autograd.grad(torch.nn.functional.conv2d(*pair, stride=2, padding=1).sum(), pair)

    def together() -> None:
        pair = torch.cat(list(images), dim=1).requires_grad_(), weights.flatten(0, 1).requires_grad_()
        torch.autograd.grad(torch.nn.functional.conv2d(*pair, stride=2, padding=1, groups=2).sum(), pair)

    forward = 2 * 2 * 2 * 8 * 8 * 5 * 3 * 4 * 4
    assert measure.flops_of(apart) == measure.flops_of(together) == 3 * forward


class _Event:
    """A CUDA event whose device takes 3 ms a step."""

    clock = 0.0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing
        self.time, self.is_waited_for = 0.0, False

    def record(self) -> None:
        self.time = _Event.clock

    def synchronize(self) -> None:
        self.is_waited_for = True

    def elapsed_time(self, end: _Event) -> float:
        assert end.is_waited_for, "a time was asked for before the device had come so far"
        return end.time - self.time


def test_on_a_cuda_device_a_step_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    monkeypatch.setattr(torch.cuda, "Event", _Event)

    def step() -> None:
        _Event.clock += 3.0

    clock = measure.clock_of(torch.device("cuda"))
    times = measure.times_side_by_side({"a": step}, 4, clock=clock)
    assert times["a"].wall == pytest.approx([0.003] * 4)


def test_a_cuda_device_that_is_not_there_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit) as ended:
        _run("step_cost", ["--quick", "--device", "cuda"], tmp_path, monkeypatch)
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].endswith("--device cuda needs a GPU, and torch finds none here")


def test_waits_are_found_among_the_names_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    names = measure.profiled(lambda: torch.ones(3).sum().item(), tmp_path / "trace.json")
    assert measure.waits_among(names) == {"aten::_local_scalar_dense": 1}
    assert json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_spread_is_median_and_quartiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    measure = __import__("measure")
    spread = measure.ratios([2.0, 3.0, 4.0, 5.0, 6.0], [1.0] * 5)
    assert (spread.low, spread.median, spread.high) == (3.0, 4.0, 5.0)
    assert measure.Spread.of([1.5]).percent() == "+50.0 % [+50.0, +50.0]"


def _study(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "run_study.py"), "study", "--quick", "--seeds", "1", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, encoding="utf-8")


def test_the_study_goes_on_where_it_stopped_and_reports_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _study(tmp_path, "--arms", "plain").returncode == 0
    began = (tmp_path / "study" / "runs" / "plain-1" / "history.jsonl").stat().st_mtime_ns
    done = _study(tmp_path, "--arms", "plain", "roi_l1")
    assert done.returncode == 0, done.stderr
    assert "| roi_l1 | plain | CT → MR | 1 |" in done.stdout
    lines = (tmp_path / "study" / "runs.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["arm"] for line in lines] == ["plain", "roi_l1"]
    assert (tmp_path / "study" / "runs" / "plain-1" / "history.jsonl").stat().st_mtime_ns == began
    assert (tmp_path / "study" / "gains.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.syspath_prepend(str(FOLDER))
    over_epochs = importlib.import_module("study.training").tumour_psnr(tmp_path / "study" / "runs" / "plain-1")
    (evaluated,) = (row for row in json.loads(lines[0])["means"] if (row["arm"], row["direction"]) == ("model", "A2B"))
    assert list(over_epochs["A2B"]) == ["2", "4"]
    # One patient a phase, so that the mean over phases is the mean over patients.
    assert over_epochs["A2B"]["4"] == pytest.approx(evaluated["tpsnr"], abs=1e-6)
    other = _study(tmp_path, "--epochs", "5")
    assert other.returncode == 2 and "with other epochs" in other.stderr and len(other.stderr.splitlines()) == 1


def test_a_study_on_scans_trains_on_disjoint_patients_and_its_ceiling_on_pairs(
    tmp_path: Path, write_scans: Callable[[Path], Path]
) -> None:
    scans = write_scans(tmp_path / "scans")
    done = _study(tmp_path, "--scans", str(scans), "--arms", "plain", "regions", "ceiling", "--processes", "1")
    assert done.returncode == 0, done.stderr
    assert "| ceiling | plain | CT → MR | 1 |" in done.stdout
    seen = [
        subprocess.run(
            [sys.executable, str(FOLDER / "study_seen.py"), folder],
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
        )
        for folder in ("study", "scans")
    ]
    assert [one.returncode for one in seen] == [0, 2] and len(seen[1].stderr.splitlines()) == 1
    assert "| regions | MR → CT | 1 |" in seen[0].stdout
    made = tmp_path / "study"
    patients = {
        folder: {path.name[:3] for path in (made / folder).glob("*.png")}
        for folder in ("data/trainA", "data/trainB", "data/testA", "data/testB", "paired/trainA", "paired/trainB")
    }
    assert patients["data/trainA"] and patients["data/trainB"]
    assert not patients["data/trainA"] & patients["data/trainB"]
    assert patients["paired/trainA"] == patients["paired/trainB"] == patients["data/trainA"] | patients["data/trainB"]
    assert patients["data/testA"] == patients["data/testB"] and not patients["data/testA"] & patients["paired/trainA"]
    images, masks = (sorted(p.name for p in (made / "data" / name).iterdir()) for name in ("trainA", "trainA_tumor"))
    assert images == masks
    other = _study(tmp_path)
    assert other.returncode == 2 and "a study with other" in other.stderr and len(other.stderr.splitlines()) == 1


def test_what_the_ceiling_is_trained_on_belongs_together(paired_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    arms = importlib.import_module("study.scan_arms")
    for path in (paired_data / "trainA").iterdir():
        (paired_data / "trainB" / path.name).write_bytes(path.read_bytes())
    options = arms.scan_options(0, 4).host_options(paired_data, paired_data / "run")
    assert not options.no_flip
    torch.manual_seed(0)
    samples = [arms.PairedDataset(options)[index] for index in (0, 1, 2, 3) * 8]
    assert all(torch.equal(sample["A"], sample["B"]) for sample in samples)
    mirrored = {torch.equal(sample["A"], samples[0]["A"]) for sample in samples[::4]}
    assert mirrored == {True, False}


def _made_up(tpsnr: dict[str, float], seeds: range) -> tuple[list[dict[str, Any]], dict[tuple[str, int], list[Any]]]:
    """Runs of three arms whose scores are known: two patients of one slice, each seed better by 0.01."""
    lines: list[dict[str, Any]] = []
    slices: dict[tuple[str, int], list[Any]] = {}
    for arm, value in tpsnr.items():
        for seed in seeds:
            scores = {"tpsnr": value + 0.01 * seed, "tssim": value / 50, "psnr": 20.0}
            slices[arm, seed] = [
                {"direction": direction, "patient": patient, "scores": scores}
                for direction in ("A2B", "B2A")
                for patient in ("p1", "p2")
            ]
            more = {"texture_ratio": 1.0, "lost": 0.0, "inverted": 0.8 if arm == "plain" else 0.1}
            rows = [{"arm": "model", "direction": d, **scores, **more} for d in ("A2B", "B2A")]
            if arm == "plain":
                rows += [{"arm": "constant_fill", "direction": d, "tpsnr": 18.0} for d in ("A2B", "B2A")]
            lines.append({"arm": arm, "seed": seed, "means": rows})
    return lines, slices


def test_what_was_asked_is_held_against_what_the_runs_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    checks = importlib.import_module("study.checks")

    def seen(tpsnr: dict[str, float]) -> dict[str, str]:
        table = checks.check_table(*_made_up(tpsnr, range(3)), checks.PHANTOM_QUESTIONS, tuple(tpsnr))
        rows = [line.strip("| ").split(" | ") for line in table[2:]]
        assert all(to_mr == to_ct for _, to_mr, to_ct in rows)
        return {asked: answer for asked, answer, _ in rows}

    good = seen({"plain": 10.0, "regions": 17.0, "placebo": 10.5})
    assert good["tumour PSNR gained: at least +6 dB, the interval above +4"] == "+7.00, from +7.00: met"
    assert good["lesions lost or inverted: at most a quarter of plain's"] == "0.10 of plain's 0.80: met"
    assert good["aim: tumour PSNR above constant fill"] == "17.01 against 18.00: **not met**"
    bad = seen({"plain": 10.0, "regions": 9.0, "placebo": 12.0})
    assert bad["tumour PSNR gained: at least +6 dB, the interval above +4"] == "-1.00, from -1.00: **not met**"
    assert bad["placebo's tumour PSNR gain: at most +1 dB"] == "+2.00, to +2.00: **not met**"


def test_an_interval_widens_with_what_differs_over_seeds_and_patients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    gains = importlib.import_module("study.gains")
    of_patients = torch.arange(12.0).expand(5, 12).numpy()
    low, high = gains.interval(of_patients)
    # Patients alone differ: the draws' standard error is that of a mean of twelve.
    assert (high - low) / 2 == pytest.approx(1.96 * of_patients[0].std() / 12**0.5, rel=0.05)
    assert gains.interval(of_patients * 0 + 3.0) == (3.0, 3.0)
