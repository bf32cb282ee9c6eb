"""On a full disk, or where a file stands in a folder's place, what was there stays, and the error is one line.

The system itself refuses the write: a process may forbid itself files longer than so many bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive.cli.main import main
from roi_progressive.config import Config, RegionConfig
from roi_progressive.errors import CheckpointError, DataError
from roi_progressive.runs.folder import write_image
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.runs.train import TrainOptions, train
from roi_progressive.saving.checkpoint import load_checkpoint, save_checkpoint, write_network
from roi_progressive.saving.records import append_json, write_json

resource = pytest.importorskip("resource", reason="limits of a process are POSIX's")
pytestmark = pytest.mark.usefixtures("one_thread")
ONE_LINE = r"\A`[^\n]+; [^\n]+\Z"


@contextmanager
def full_beyond(n_bytes: int) -> Iterator[None]:
    """No file can be written past ``n_bytes``; Python sees an ``OSError`` as of a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def bytes_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture
def stopped_run(small_data: Path, small_networks: dict[str, Any], tmp_path: Path) -> Path:
    """A run of three epochs that was interrupted in its second one."""
    region = RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2)
    options = TrainOptions(**small_networks, epochs=2, decay_epochs=1, batch_size=2, save_every_epochs=1)

    def stop(done: int, total: int, text: str) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(small_data, tmp_path / "run", options, Config(regions=(region,), ggd=None), report=stop)
    return tmp_path / "run"


@pytest.mark.parametrize("n_bytes", [0, 1, 300, 1500])
def test_our_checkpoint(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "1_roi_progressive.pth"
    save_checkpoint(path, {"epoch": 1})
    older = bytes_below(tmp_path)
    with full_beyond(n_bytes), pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        save_checkpoint(path, {"epoch": 2, "weights": torch.zeros(1000)})
    assert "an older file is untouched" in str(caught.value)
    assert bytes_below(tmp_path) == older
    assert load_checkpoint(path)["epoch"] == 1


@pytest.mark.parametrize("n_bytes", [0, 1, 300, 1500])
def test_the_bundled_host_s_networks(tmp_path: Path, n_bytes: int) -> None:
    path = tmp_path / "1_net_G_A.pth"
    write_network(path, nn.Linear(30, 30))
    older = bytes_below(tmp_path)
    with full_beyond(n_bytes), pytest.raises(CheckpointError, match=ONE_LINE) as caught:
        write_network(path, nn.Linear(30, 30))
    assert "an older file is untouched" in str(caught.value)
    assert bytes_below(tmp_path) == older


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("run.json", lambda path: write_json(path, {"a": "x" * 50})),
        ("history.jsonl", lambda path: append_json(path, {"a": "x" * 50})),
        ("sample.png", lambda path: write_image(path, torch.rand(1, 32, 32))),
        ("sigma.npy", lambda path: write_image(path, torch.rand(1, 32, 32))),
    ],
)
def test_the_files_of_a_run(tmp_path: Path, name: str, write: Callable[[Path], None]) -> None:
    with full_beyond(10), pytest.raises(DataError, match=ONE_LINE) as caught:
        write(tmp_path / name)
    assert name in str(caught.value) and "free the space" in str(caught.value)
    assert [path.name for path in tmp_path.glob("*.tmp")] == []


def test_training_ends_in_one_line_and_goes_on_when_there_is_space(
    stopped_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_below(stopped_run / "networks")
    with full_beyond(2000):
        assert main(["train", "--out", str(stopped_run), "--resume"]) == 2
    assert said_in_one_line(capsys, "free the space")
    assert bytes_below(stopped_run / "networks") == before and saved_epoch(stopped_run) == 1
    assert main(["train", "--out", str(stopped_run), "--resume"]) == 0
    assert saved_epoch(stopped_run) == 3


def test_preparing_ends_in_one_line_and_goes_on_when_there_is_space(
    write_scans: Callable[[Path], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["prepare", str(write_scans(tmp_path / "scans")), str(out), "--size", "32", "--mr-steps"]
    arguments += ["standardise", "clip", "zscore"]
    with full_beyond(200):
        assert main(arguments) == 2
    assert said_in_one_line(capsys, "goes on where this one stopped")
    assert not out.exists()
    assert main(arguments) == 0
    assert any(out.glob("trainA/*.png"))


@pytest.fixture
def finished_run(small_data: Path, small_networks: dict[str, Any], tmp_path: Path) -> Path:
    """A run of one epoch, with images of its test slices and their scores."""
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=0, save_every_epochs=1)
    train(small_data, tmp_path / "run", options)
    assert main(["evaluate", str(tmp_path / "run")]) == 0
    return tmp_path / "run"


@pytest.mark.parametrize("n_bytes", [0, 200, 1500, 6000])
@pytest.mark.parametrize("command", ["evaluate", "figure"])
def test_what_a_run_is_looked_at_with_leaves_it_as_it_was(
    finished_run: Path, command: str, n_bytes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = bytes_below(finished_run)
    capsys.readouterr()
    with full_beyond(n_bytes):
        assert main([command, str(finished_run)]) == 2
    assert said_in_one_line(capsys, "free the space")
    assert bytes_below(finished_run) == before
    assert main([command, str(finished_run)]) == 0


@pytest.mark.parametrize("n_bytes", [0, 500, 30_000])
def test_the_demo_ends_in_one_line(tmp_path: Path, n_bytes: int, capsys: pytest.CaptureFixture[str]) -> None:
    demo = ["demo", "--out", str(tmp_path / "demo"), "--epochs", "4", "--processes", "1"]
    with full_beyond(n_bytes):
        assert main(demo) == 2
    assert said_in_one_line(capsys, "free the space")


def said_in_one_line(capsys: pytest.CaptureFixture[str], words: str) -> bool:
    """Whether the last thing on standard error is one line of ours with these words; a bar may stand before it."""
    shown = capsys.readouterr().err
    last = shown.rstrip("\n").rpartition("\n")[2].rpartition("\r")[2]
    return "Traceback" not in shown and "roi-progressive: error: `" in last and words in last


@pytest.mark.parametrize("command", ["train", "prepare"])
def test_a_file_in_the_folder_s_place(
    command: str,
    small_data: Path,
    write_scans: Callable[[Path], Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    out = str(tmp_path / "file" / "out")
    if command == "train":
        tiny = ["--channels", "2", "--depth", "2", "--discriminator-channels", "2", "--discriminator-layers", "1"]
        arguments = ["train", "--data", str(small_data), "--out", out, "--no-regions", *tiny]
    else:
        arguments = ["prepare", str(write_scans(tmp_path / "scans")), out]
    assert main(arguments) == 2
    assert said_in_one_line(capsys, "`out` must be a folder that can be written")
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"
