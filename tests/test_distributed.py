"""Gradients of several processes are averaged over those that have one; alone, nothing happens."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import pytest
import torch
from torch import nn

from roi_progressive.distributed import average_gradients, from_every_process, is_main_process, n_processes
from roi_progressive.epoch_means import EpochMeans

RANK = """
import json, sys
import torch, torch.distributed as dist
from roi_progressive.distributed import average_gradients, from_every_process, is_main_process, n_processes
from roi_progressive.epoch_means import EpochMeans

dist.init_process_group("gloo")
rank = dist.get_rank()
both, first_only, none = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
both.grad = torch.tensor([1.0, 2.0]) * (rank + 1)
if rank == 0:
    first_only.grad = torch.tensor([3.0, 4.0])
average_gradients([both, first_only, none])
means = EpochMeans()
if rank == 0:
    means.add({"G_tumor_A2B": torch.tensor(2.0)})
means.add({"ggd_A2B": torch.tensor(float(rank))})
print(json.dumps({
    "both": both.grad.tolist(), "first_only": first_only.grad.tolist(), "none": none.grad,
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
    means = EpochMeans()
    means.add({"G_tumor_A2B": torch.tensor(2.0)})
    assert means.take() == {"tumor": 2.0}


def test_two_processes_end_with_the_same_gradients_and_means() -> None:
    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        pytest.skip("this torch has no gloo")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    started = []
    for rank in "01":
        own = {"RANK": rank, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        command = [sys.executable, "-c", RANK]
        started.append(
            subprocess.Popen(
                command, env={**os.environ, **own}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
            )
        )
    try:
        outputs = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [process.returncode for process in started] == [0, 0], outputs
    first, second = (json.loads(out) for out, _ in outputs)
    assert first.pop("main") and not second.pop("main")
    assert first == second
    assert first == {
        "both": [1.5, 3.0],
        "first_only": [3.0, 4.0],
        "none": None,
        "n": 2,
        "every": [0, 1],
        "means": {"tumor": 2.0, "ggd": 0.5},
    }
