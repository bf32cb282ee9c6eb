"""Tasks in processes of their own: what a Ctrl-C meets while they begin."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

# What the signals of a child are when it has only just begun; in a program that has started no process before.
FIRST_CHILD = """
import pathlib, sys
from roi_progressive.runtime.parallel import _start

def task(report):
    pass

if __name__ == "__main__":
    channel, process = _start(task)
    print(pathlib.Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8"))
    process.join()
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="looks for signal masks in /proc")
def test_a_ctrl_c_is_held_back_from_the_first_process_from_its_first_moment_on(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(FIRST_CHILD, encoding="utf-8")
    done = subprocess.run([sys.executable, program], capture_output=True, encoding="utf-8", check=True)
    (blocked,) = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("SigBlk:")]
    assert int(blocked, 16) >> (signal.SIGINT - 1) & 1
