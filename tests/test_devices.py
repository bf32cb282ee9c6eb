"""The device that a name stands for, its description, and mixed precision; GPUs are mocked where there are none."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from roi_progressive.errors import ConfigError
from roi_progressive.runtime.devices import autocasting, choose_device, describe_device, grad_scaler

PROCESSES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROCESSES:
        monkeypatch.delenv(name, raising=False)


def machine(monkeypatch: pytest.MonkeyPatch, *, gpus: int = 0, mps: bool = False) -> None:
    """Make torch believe that this machine has so many GPUs."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Mocked 9000")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    machine(monkeypatch, gpus=2)
    yield


@pytest.mark.parametrize(
    ("gpus", "mps", "name", "expected"),
    [
        (0, False, "auto", "cpu"),
        (0, True, "auto", "mps"),
        (2, True, "auto", "cuda:0"),
        (2, False, "cuda", "cuda:0"),
        (2, False, "cuda:1", "cuda:1"),
        (2, False, "cpu", "cpu"),
        (0, True, "mps", "mps"),
    ],
)
def test_a_name_stands_for_a_device_of_this_machine(
    gpus: int, mps: bool, name: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine(monkeypatch, gpus=gpus, mps=mps)
    assert choose_device(name) == torch.device(expected)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_a_device_that_is_not_there_is_one_line_that_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch)
    with pytest.raises(ConfigError, match=r"^`device` must be one that this machine has; got [^\n]*$"):
        choose_device(name)


def test_gpus_are_counted_from_0(two_gpus: None) -> None:
    with pytest.raises(ConfigError, match="there are 2 GPUs, counted from 0"):
        choose_device("cuda:2")


@pytest.mark.parametrize("name", ["gpu", "cuda:", "cuda:-1", "cuda:x", "CUDA", "", "xla"])
def test_another_name_is_refused_with_those_that_there_are(name: str) -> None:
    with pytest.raises(ConfigError, match="must be auto, cpu, mps, cuda or cuda:N"):
        choose_device(name)


@pytest.mark.parametrize("name", ["auto", "cuda"])
def test_each_process_of_torchrun_takes_the_gpu_of_its_local_rank(
    name: str, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")  # two machines of two
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for rank in (0, 1):
        monkeypatch.setenv("LOCAL_RANK", str(rank))
        assert choose_device(name) == torch.device("cuda", rank)


@pytest.mark.parametrize(("name", "processes"), [("cuda:1", 2), ("auto", 3), ("cuda", 3)])
def test_processes_do_not_share_a_gpu(
    name: str, processes: int, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", str(processes))
    with pytest.raises(ConfigError, match=f"each of the {processes} processes a GPU of its own"):
        choose_device(name)


def test_several_processes_on_a_machine_with_mps_train_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    machine(monkeypatch, mps=True)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert choose_device("auto") == torch.device("cpu")


def test_a_device_is_described_with_what_it_is(two_gpus: None) -> None:
    assert describe_device(torch.device("cuda:1")) == "cuda:1 (Mocked 9000)"
    assert describe_device(torch.device("cpu")).endswith(
        f"{torch.get_num_threads()} thread{'s' * (torch.get_num_threads() > 1)})"
    )


def test_networks_compute_in_the_precision_and_keep_their_weights_in_single() -> None:
    network, image = nn.Conv2d(1, 1, 3), torch.zeros(1, 1, 8, 8)
    cpu = torch.device("cpu")
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        with autocasting(cpu, precision):
            assert network(image).dtype is dtype
        assert network.weight.dtype is torch.float32


@pytest.mark.parametrize("precision", ["half", "bfloat16", ""])
def test_another_precision_is_refused_with_those_that_there_are(precision: str) -> None:
    with pytest.raises(ConfigError, match="`precision` must be one of fp32, bf16, fp16"):
        autocasting(torch.device("cpu"), precision)


def test_a_device_without_autocast_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="`precision` must be one that the device has; got bf16 on meta"):
        autocasting(torch.device("meta"), "bf16")


def test_only_half_precision_of_narrow_range_needs_a_scaler() -> None:
    assert grad_scaler(torch.device("cpu"), "fp32") is None
    assert grad_scaler(torch.device("cpu"), "bf16") is None
    if hasattr(torch.amp, "GradScaler"):
        assert grad_scaler(torch.device("cpu"), "fp16").get_scale() == 2.0**16
