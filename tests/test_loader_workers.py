"""What happens to the processes that load images is one line, and a Ctrl-C is no traceback of theirs."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from roi_progressive.errors import DataError
from roi_progressive.host import HostOptions, create_dataset
from roi_progressive.host.dataset import UnalignedDataset, worker_errors
from roi_progressive.runs.train import TrainOptions, train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="workers are forked"),
]


@pytest.fixture
def loader(host_options: Callable[..., HostOptions]) -> Any:
    return create_dataset(host_options(num_threads=1))


def test_an_error_of_ours_in_a_worker_is_its_own_line(
    phantom_root: Path, tmp_path: Path, host_options: Callable[..., HostOptions]
) -> None:
    data = Path(shutil.copytree(phantom_root, tmp_path / "data"))
    loader = create_dataset(host_options(dataroot=str(data), num_threads=1))
    for image in (data / "trainA").iterdir():
        image.write_bytes(b"no image")
    with (
        pytest.raises(DataError, match=r"\A`dataroot` must hold readable images; [^\n]+; replace the file\Z"),
        worker_errors(),
    ):
        list(loader)


def kill_itself(self: UnalignedDataset, index: Any) -> None:
    os.kill(os.getpid(), signal.SIGBUS)  # as the system does where shared memory is full


@pytest.mark.skipif(multiprocessing.get_start_method() != "fork", reason="only forked workers have a patched class")
def test_a_worker_that_is_killed_is_one_line_that_says_what_to_do(loader: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UnalignedDataset, "__getitem__", kill_itself)
    with (
        pytest.raises(DataError, match=r"\A`workers` must fit this machine; [^\n]+; use --workers 0[^\n]+\Z"),
        worker_errors(),
    ):
        list(loader)


@pytest.mark.parametrize(
    "error", [OSError(28, "unable to open shared memory object </torch_1>"), RuntimeError("shm_open")]
)
def test_full_shared_memory_is_one_line(error: Exception) -> None:
    with pytest.raises(DataError, match="`workers` must fit this machine"), worker_errors():
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(ZeroDivisionError), worker_errors():
        raise ZeroDivisionError
    with pytest.raises(RuntimeError, match="a defect"), worker_errors():
        raise RuntimeError("a defect")


def test_an_interrupt_with_workers_leaves_no_words_of_theirs(
    small_data: Path, small_networks: dict[str, Any], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def stop(done: int, total: int, text: str) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    options = TrainOptions(**small_networks, epochs=2, decay_epochs=0, workers=2)
    with pytest.raises(KeyboardInterrupt):
        train(small_data, tmp_path / "run", options, report=stop)
    shown = capfd.readouterr()
    assert "Error" not in shown.err and "Traceback" not in shown.err
