"""One command at a time writes a folder; the lock is gone afterwards, and so is whatever was made for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from roi_progressive.errors import DataError
from roi_progressive.saving.locks import only_writer, resolved
from roi_progressive.saving.signals import signals_later

HOLD = (
    "import sys; from roi_progressive.saving.locks import only_writer\n"
    "with only_writer(sys.argv[1]):\n    print('held', flush=True); sys.stdin.read()"
)


def test_another_process_is_refused_until_the_first_has_ended_however_it_does(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8"
    )
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    with (
        pytest.raises(DataError, match=r"\A[^\n]+ is being written by another run; wait for its end[^\n]+\Z"),
        only_writer(folder),
    ):
        pass
    holder.kill()
    holder.wait()
    with only_writer(folder):
        assert not folder.exists()
    assert [path.name for path in tmp_path.rglob("*")] == ["new"], "the lock is gone; the folder was the killed one's"


def test_a_lock_leaves_nothing(tmp_path: Path) -> None:
    with only_writer(tmp_path / "a" / "b" / "run"):
        assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == [".run.lock"]
    assert list(tmp_path.iterdir()) == []


def test_a_command_takes_the_lock_of_its_own_folder_again_and_another_thread_does_not(tmp_path: Path) -> None:
    refused: list[str] = []

    def other() -> None:
        try:
            with only_writer(tmp_path / "run"):
                pass
        except DataError as error:
            refused.append(str(error))

    with only_writer(tmp_path / "run"):
        with only_writer(tmp_path / "run"):
            pass
        with pytest.raises(DataError), only_writer(tmp_path / "run", within_another=False):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    other()
    assert len(refused) == 1


def test_a_circle_of_links_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "a")
    with pytest.raises(DataError, match="`data` must be a path that leads somewhere"):
        resolved(tmp_path / "a" / "b", "data")


def test_signals_wait_for_the_end_of_the_block_and_then_come() -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), signals_later():
        os.kill(os.getpid(), signal.SIGINT)
        done.append("all of it")
    assert done == ["all of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
