"""``prepare``, ``train``, ``evaluate`` and ``figure`` from Python do what the commands do, under the same names."""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import roi_progressive
from roi_progressive.cli.main import main
from roi_progressive.cli.parser import parser
from roi_progressive.errors import CheckpointError, ConfigError, DataError
from roi_progressive.runs.folder import Run, history
from roi_progressive.runs.volume_scores import EVALUATION_FILES

pytestmark = pytest.mark.usefixtures("one_thread")
CONFIG = {
    "regions": [{"name": "tumor", "scales": 1, "windows_px": [24, 32], "base_channels": 2}],
    "ggd": {"hidden_channels": 2},
}


@pytest.fixture(scope="module")
def trained(small_data: Path, small_networks: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("commands") / "run"
    once = {"epochs": 2, "decay_epochs": 0, "validate_every": 1, "save_every_epochs": 1}
    run = roi_progressive.train(small_data, out, config=CONFIG, **small_networks, **once)
    assert run == out
    return run


def test_a_run_from_python_is_the_run_of_the_command(trained: Path, small_data: Path, tmp_path: Path) -> None:
    options = "--channels 2 --depth 2 --discriminator-channels 2 --discriminator-layers 1 --epochs 2 --decay-epochs 0"
    often = "--validate-every 1 --save-every-epochs 1"
    region = '[[regions]]\nname = "tumor"\nscales = 1\nwindows_px = [24, 32]\nbase_channels = 2\n'
    (tmp_path / "roi.toml").write_text(f"{region}[ggd]\nhidden_channels = 2\n", encoding="utf-8")
    typed = ["train", "--data", str(small_data), "--out", str(tmp_path / "run"), *options.split(), *often.split()]
    assert main([*typed, "--config", str(tmp_path / "roi.toml")]) == 0
    assert history(tmp_path / "run") == history(trained)
    assert (tmp_path / "run" / "run.json").read_bytes() == (trained / "run.json").read_bytes()
    assert (tmp_path / "run" / "validation.jsonl").read_bytes() == (trained / "validation.jsonl").read_bytes()


def test_evaluate_from_python_writes_the_command_s_table(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scores = roi_progressive.evaluate(trained, epoch="best", split="test")
    assert set(scores.results["model"]) == {"A2B", "B2A"}
    written = {name: (trained / "test" / name).read_bytes() for name in EVALUATION_FILES}
    for name in EVALUATION_FILES:
        (trained / "test" / name).unlink()
    assert main(["evaluate", str(trained), "--epoch", "best"]) == 0
    assert {name: (trained / "test" / name).read_bytes() for name in EVALUATION_FILES} == written


def test_folders_are_evaluated_and_figures_drawn(trained: Path, small_data: Path, tmp_path: Path) -> None:
    images = Run.open(trained).images("test", "A2B")
    if not images.is_dir():
        roi_progressive.evaluate(trained)
    folders = {"real": [small_data / "testB"], "fake": [images], "masks": [small_data / "testA_tumor"]}
    scores = roi_progressive.evaluate(**folders, out=tmp_path / "scores")  # type: ignore[arg-type]
    assert (tmp_path / "scores" / "table.md").is_file() and list(scores.results) == ["generated"]
    with pytest.raises(DataError, match="must be a new or empty folder"):
        roi_progressive.evaluate(**folders, out=tmp_path / "scores")  # type: ignore[arg-type]
    [drawn] = roi_progressive.figure(trained, direction=["A2B"], out=tmp_path / "figures")
    assert [file.name for file in drawn.files] == ["figure_A2B.png", "figure_A2B.pdf"]


def test_prepare_takes_the_command_s_options(write_scans: Callable[[Path], Path], tmp_path: Path) -> None:
    table = write_scans(tmp_path / "scans")
    report = roi_progressive.prepare(table, tmp_path / "one", size=32, seed=3, align=True)
    assert main(["prepare", str(table), str(tmp_path / "two"), "--size", "32", "--seed", "3", "--align"]) == 0
    found = [sorted((path.name, path.read_bytes()) for path in (tmp_path / n).rglob("*.png")) for n in ("one", "two")]
    assert found[0] == found[1] and report.out == tmp_path / "one"


def test_a_run_is_gone_on_with(trained: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in trained.rglob("*")}
    assert roi_progressive.train(out=trained, resume=True) == trained
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*")} == before


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda r, d: roi_progressive.train(d, r, learning_rat=1), ConfigError, "did you mean `learning_rate`"),
        (lambda r, d: roi_progressive.train(d), DataError, "`out` must be given"),
        (lambda r, d: roi_progressive.train(out=r / "new"), DataError, "`data` must be given for a new run"),
        (lambda r, d: roi_progressive.train(out=r, resume=True, epochs=3), ConfigError, "got epochs too"),
        (lambda r, d: roi_progressive.prepare("x.csv", r, sise=3), ConfigError, "did you mean `size`"),
        (lambda r, d: roi_progressive.evaluate(), ConfigError, "must have a run, or real, fake and out"),
        (lambda r, d: roi_progressive.evaluate(r, regoin="x"), ConfigError, "did you mean `region`"),
        (lambda r, d: roi_progressive.figure(r, patiend="x"), ConfigError, "did you mean `patient`"),
        (lambda r, d: roi_progressive.evaluate(r, epoch=7), CheckpointError, "whose networks are kept"),
        (lambda r, d: roi_progressive.figure(r, direction=["A2C"]), ConfigError, "`direction` must be A2B, B2A"),
    ],
)
def test_a_mistake_is_one_line(
    call: Callable[[Path, Path], Any], error: type[Exception], message: str, trained: Path, small_data: Path
) -> None:
    with pytest.raises(error, match=message) as caught:
        call(trained, small_data)
    assert "\n" not in str(caught.value)


def test_arguments_bear_the_names_of_the_command_line() -> None:
    """Those of a keyword argument's own are checked against them where the command is called."""
    for command in ("train", "figure", "evaluate", "prepare"):
        words = {"train": ["--out", "x"], "figure": ["x"], "evaluate": ["x"], "prepare": ["x", "y"]}[command]
        typed = vars(parser().parse_args([command, *words]))
        arguments = inspect.signature(getattr(roi_progressive, command)).parameters
        own = {"plugins", "report", "options"}
        assert set(arguments) - own <= set(typed), command


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "roi_progressive", "--version"], capture_output=True, encoding="utf-8")
    assert done.stdout == f"roi-progressive {roi_progressive.__version__}\n" and torch.__version__
