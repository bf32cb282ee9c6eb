"""On a real GPU: a run trains there without being told, waits for nothing in a step, resumes, and moves to the CPU."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import stopped

from roi_progressive import Config, GGDConfig, attach
from roi_progressive.host import CycleGANModel, ImageLoader
from roi_progressive.runs.options import TrainOptions
from roi_progressive.runs.train import resume, train
from roi_progressive.runs.translate import translate

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
    pytest.mark.filterwarnings("ignore::UserWarning:torch"),
]


def networks(run: Path, epoch: int) -> dict[str, torch.Tensor]:
    return torch.load(run / "networks" / f"{epoch}_net_G_A.pth", map_location="cpu", weights_only=True)


@pytest.fixture
def guided(tumor_config: Callable[..., Config]) -> Config:
    """A tumour and uncertainty heads, from the first epoch on."""
    return tumor_config(ggd=GGDConfig(weight=0.1, stage=1))


def test_a_model_is_on_the_gpu_without_being_told(build_host: Callable[..., tuple[CycleGANModel, ImageLoader]]) -> None:
    model, loader = build_host(device="auto")
    model.set_input(next(iter(loader)))
    model.optimize_parameters()
    assert model.fake_B.device == torch.device("cuda:0")


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_guided_step_waits_for_nothing(
    precision: str, build_host: Callable[..., tuple[CycleGANModel, ImageLoader]], guided: Config
) -> None:
    """torch itself raises where anything in the step waits for the GPU."""
    model, loader = build_host(device="cuda", precision=precision, pool_size=0, batch_size=2)
    with attach(model, loader, guided, n_epochs=2) as session:
        session.start_epoch(1)
        batches = [batch for _ in range(3) for batch in loader]
        for batch in batches[:4]:  # networks are built, kernels chosen, memory taken
            model.set_input(batch)
            model.optimize_parameters()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches[4:]:
                model.set_input(batch)
                model.optimize_parameters()
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert set(session.losses()) >= {"G_tumor_A2B", "D_tumor_A2B", "ggd_A2B"}
        assert session.dropped_steps == 0


def test_a_run_is_resumed_to_the_same_bits_with_deterministic_algorithms(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any], guided: Config
) -> None:
    options = TrainOptions(
        **small_networks, epochs=2, decay_epochs=1, device="cuda", deterministic=True, save_every_epochs=1
    )
    train(small_data, tmp_path / "whole", options, guided)

    with stopped(lambda done, total, text: text.startswith("epoch 2")) as report:
        train(small_data, tmp_path / "stopped", options, guided, report=report)
    resume(tmp_path / "stopped")
    whole, resumed = networks(tmp_path / "whole", 3), networks(tmp_path / "stopped", 3)
    assert all(torch.equal(resumed[key], value) for key, value in whole.items())


def test_a_run_of_the_gpu_goes_on_and_is_translated_on_the_cpu(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any], guided: Config
) -> None:
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=1, device="cuda", save_every_epochs=1)

    with stopped(lambda done, total, text: text.startswith("epoch 2")) as report:
        train(small_data, tmp_path / "run", options, guided, report=report)
    on_gpu = {path.name: path.read_bytes() for path in translate(tmp_path / "run", device="cuda")["A2B"].iterdir()}
    on_cpu = {path.name: path.read_bytes() for path in translate(tmp_path / "run", device="cpu")["A2B"].iterdir()}
    assert on_gpu.keys() == on_cpu.keys()
    resume(tmp_path / "run", device="cpu")
    assert (tmp_path / "run" / "networks" / "2_net_G_A.pth").is_file()


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_a_run_in_half_precision_stays_finite(
    precision: str, small_data: Path, tmp_path: Path, small_networks: dict[str, Any], guided: Config
) -> None:
    options = TrainOptions(**small_networks, epochs=1, decay_epochs=0, device="cuda", save_every_epochs=1)
    train(small_data, tmp_path / "run", replace(options, precision=precision), guided)
    assert all(value.isfinite().all() for value in networks(tmp_path / "run", 1).values())
