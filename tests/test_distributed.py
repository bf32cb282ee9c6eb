"""Two processes train as one with the doubled batch does, whoever holds the regions; alone, nothing happens."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import socket
import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from roi_progressive.method.stages import EpochMeans
from roi_progressive.runtime.distributed import (
    average_gradients,
    from_every_process,
    is_main_process,
    leave_processes,
    n_processes,
    sums_over_processes,
)

HANGS_AFTER_S = 120
SCRIPT = Path(__file__).with_name("ranks.py")
RANK = """
import json, sys
import torch, torch.distributed as dist
from roi_progressive.runtime.distributed import (
    average_gradients, from_every_process, is_main_process, n_processes, sums_over_processes
)
from roi_progressive.method.stages import EpochMeans

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
def trained(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    """All weights of either process after each of the script's runs."""
    folder = tmp_path_factory.mktemp("ranks")
    _two_processes(str(SCRIPT), str(folder))
    return [torch.load(folder / f"{rank}.pth", weights_only=True) for rank in (0, 1)]


AS_ONE = {
    "uneven": 1e-10,
    "one rank never holds a tumour": 1e-10,
    "50 steps in float32": 1e-4,
    "the bundled host": 1e-10,
}
"""The script's runs, and how far two processes may be from one."""


@pytest.mark.parametrize(("run", "tolerance"), AS_ONE.items())
def test_two_processes_are_one_with_the_doubled_batch(
    run: str, tolerance: float, script: Any, trained: list[dict[str, dict[str, torch.Tensor]]], one_thread: None
) -> None:
    """Windows, not processes, are averaged over: a process with one tumour and one with three weigh 1 : 3."""
    assert AS_ONE.keys() == script.AS_ONE.keys()
    first, second = (weights[run] for weights in trained)
    alone = script.AS_ONE[run]()
    assert first.keys() == second.keys() == alone.keys()
    for name, weights in alone.items():
        assert torch.equal(first[name], second[name]), name
        # A bias in front of a norm does nothing, and stays at 0 but for rounding.
        expected, found = weights.double(), first[name].double()
        largest = max(float(expected.abs().max()), 1e-3)
        assert float((found - expected).abs().max()) <= tolerance * largest, name


@pytest.mark.parametrize(("trouble", "learnt"), [("mask", True), ("overflow", False)])
def test_trouble_of_one_process_leaves_all_alike(
    trouble: str, learnt: bool, script: Any, trained: list[dict[str, dict[str, torch.Tensor]]]
) -> None:
    """The other process's windows are learnt from where its numbers are sound; an overflow is everybody's."""
    if trouble not in script.TROUBLED:
        pytest.skip("this torch scales no gradients on the CPU (2.3 is the first that does)")
    first, second = (weights[trouble] for weights in trained)
    expected = [True] * len(first["moved"])
    expected[script.TROUBLE_AT_STEP] = learnt
    assert first["moved"].tolist() == expected
    for name, weights in first.items():
        assert torch.equal(weights, second[name]) and torch.isfinite(weights).all(), name


def test_networks_that_wait_for_the_garbage_collector_are_gone_before_the_group_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One wrapped for the group holds it, and a group that outlives its end aborts the process."""
    network = nn.Linear(1, 1)
    network.itself = [network]  # type: ignore[assignment]
    gone, alive = weakref.ref(network), []
    monkeypatch.setattr(dist, "destroy_process_group", lambda: alive.append(gone() is not None))
    gc.disable()
    try:
        del network
        assert gone() is not None
        leave_processes()
    finally:
        gc.enable()
    assert alive == [False]
