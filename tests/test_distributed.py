"""Two processes train as one with the doubled batch does, whoever holds the regions; alone, nothing happens."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive.distributed import (
    average_gradients,
    from_every_process,
    is_main_process,
    n_processes,
    sums_over_processes,
)
from roi_progressive.epoch_means import EpochMeans

HANGS_AFTER_S = 120
SCRIPT = Path(__file__).with_name("ranks.py")
RANK = """
import json, sys
import torch, torch.distributed as dist
from roi_progressive.distributed import (
    average_gradients, from_every_process, is_main_process, n_processes, sums_over_processes
)
from roi_progressive.epoch_means import EpochMeans

dist.init_process_group("gloo")
rank = dist.get_rank()
both, first_only = (torch.nn.Parameter(torch.zeros(2)) for _ in range(2))
both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
if rank == 0:
    first_only.grad = torch.tensor([3.0, 4.0])
average_gradients([both, first_only])
average_gradients([])
means = EpochMeans()
if rank == 0:
    means.add({"G_tumor_A2B": torch.tensor(2.0)})
means.add({"ggd_A2B": torch.tensor(float(rank))})
print(json.dumps({
    "both": both.grad.tolist(), "first_only": first_only.grad.tolist(), "sums": sums_over_processes([rank, 5]),
    "main": is_main_process(), "n": n_processes(), "every": from_every_process(rank), "means": means.take(),
}))
dist.destroy_process_group()
"""


def test_alone_gradients_stay_what_they_are() -> None:
    held, empty = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    held.grad = gradient = torch.tensor([1.0, 2.0])
    average_gradients([held, empty])
    assert held.grad is gradient and empty.grad is None
    assert is_main_process() and n_processes() == 1 and from_every_process(3) == [3]
    assert sums_over_processes([1, 2]) == [1, 2]
    means = EpochMeans()
    means.add({"G_tumor_A2B": torch.tensor(2.0)})
    assert means.take() == {"tumor": 2.0}


def _two_processes(*command: str) -> list[str]:
    """What either of two processes prints."""
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        own = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        env = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
        started.append(
            subprocess.Popen(
                [sys.executable, *command], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
            )
        )
    try:
        outputs = [process.communicate(timeout=HANGS_AFTER_S) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], outputs
    return [out for out, _ in outputs]


def test_two_processes_end_with_the_same_gradients_and_means() -> None:
    first, second = (json.loads(out) for out in _two_processes("-c", RANK))
    assert first.pop("main") and not second.pop("main")
    assert first == second
    assert first == {
        "both": [1.5, 3.0],
        "first_only": [1.5, 2.0],
        "sums": [1, 10],
        "n": 2,
        "every": [0, 1],
        "means": {"tumor": 2.0, "ggd": 0.5},
    }


@pytest.fixture(scope="module")
def script() -> Any:
    """The script that either process runs, as a module."""
    spec = importlib.util.spec_from_file_location("ranks", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[list[dict[str, torch.Tensor]]]:
    """All weights of either process after each of the script's runs."""
    folder = tmp_path_factory.mktemp("ranks")
    _two_processes(str(SCRIPT), str(folder))
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("run", [0, 1, 2], ids=["uneven", "one rank never holds a tumour", "50 steps in float32"])
def test_two_processes_are_one_with_the_doubled_batch(
    run: int, script: Any, trained: list[list[dict[str, torch.Tensor]]], one_thread: None
) -> None:
    """Windows, not processes, are averaged over: a process with one tumour and one with three weigh 1 : 3."""
    first, second = (weights[run] for weights in trained)
    case, dtype, steps = script.RUNS[run]
    alone = script.train(case, dtype, steps)
    assert first.keys() == second.keys() == alone.keys()
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert float((first[name] - weights).abs().max()) <= tolerance * float(weights.abs().max()), name
