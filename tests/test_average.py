"""The generators' moving average: the formula, a training that does not notice it, and images made with it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from roi_progressive.cli.main import main
from roi_progressive.config import Config, GGDConfig, RegionConfig
from roi_progressive.errors import CheckpointError, ConfigError
from roi_progressive.runs.average import AveragedGenerators, average_file
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runs.translate import translate
from roi_progressive.saving.written import recorded

pytestmark = pytest.mark.usefixtures("one_thread")
GUIDED = Config(regions=(RegionConfig("tumor", scales=1, windows_px=(24, 32), base_channels=2),), ggd=GGDConfig())
LAST = 4


class Host:
    """Two generators that move by themselves."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.netG_A, self.netG_B = (nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)) for _ in "AB")

    def step(self) -> None:
        for net in (self.netG_A, self.netG_B):
            net(torch.randn(2, 1, 8, 8))  # moves the running statistics, and counts
            for parameter in net.parameters():
                parameter.data += torch.randn_like(parameter)


@pytest.fixture(scope="module")
def options(small_networks: dict[str, Any]) -> TrainOptions:
    return TrainOptions(
        **small_networks, epochs=2, decay_epochs=2, batch_size=2, learning_rate=0.01, average_decay=0.8, seed=3
    )


@pytest.fixture(scope="module")
def averaged(small_data: Path, options: TrainOptions, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A guided run that keeps averages."""
    run = tmp_path_factory.mktemp("runs") / "averaged"
    train(small_data, run, options, GUIDED)
    return run


def states(run: Path, kind: str) -> dict[str, dict[str, torch.Tensor]]:
    return {
        path.name: torch.load(path, weights_only=True) for path in sorted((run / "networks").glob(f"{LAST}_{kind}*"))
    }


def assert_same(these: Any, those: Any) -> None:
    torch.testing.assert_close(these, those, rtol=0, atol=0)


def test_it_is_torch_s_own_moving_average_once_the_beginning_is_forgotten() -> None:
    host = Host()
    ours = AveragedGenerators(host, decay=0.9)  # type: ignore[arg-type]
    theirs = AveragedModel(host.netG_A, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=False)
    theirs.update_parameters(host.netG_A)  # its first call copies
    for step in range(1000, 1010):
        host.step()
        ours.update(step)
        theirs.update_parameters(host.netG_A)
    found = dict(ours._networks["G_A"].named_parameters())
    torch.testing.assert_close(found, dict(theirs.module.named_parameters()), rtol=1e-6, atol=1e-6)


def test_the_random_beginning_is_soon_forgotten() -> None:
    """After n steps that all end at one place, its share is all but the product of step / (step + 9)."""
    host = Host()
    for net in (host.netG_A, host.netG_B):
        nn.init.ones_(net[0].weight)
    ours = AveragedGenerators(host, decay=0.999)  # type: ignore[arg-type]
    nn.init.zeros_(host.netG_A[0].weight)
    for step in range(1, 11):
        ours.update(step)
    left = torch.tensor([step / (step + 9) for step in range(1, 11)]).prod()
    weight = ours._networks["G_A"].get_parameter("0.weight")
    torch.testing.assert_close(weight, torch.full_like(weight, float(left)))
    assert left < 1e-4


def test_what_is_counted_is_copied_and_what_is_measured_is_averaged() -> None:
    host = Host()
    ours = AveragedGenerators(host, decay=0.5)  # type: ignore[arg-type]
    before = host.netG_B[1].running_var.clone()
    host.step()
    ours.update(1000)
    norm = ours._networks["G_B"][1]
    assert norm.num_batches_tracked == 1
    torch.testing.assert_close(norm.running_var, (before + host.netG_B[1].running_var) / 2)


def test_the_training_does_not_notice(small_data: Path, averaged: Path, options: TrainOptions, tmp_path: Path) -> None:
    train(small_data, tmp_path / "run", replace(options, average_decay=0.0), GUIDED)
    assert_same(states(averaged, "net_"), states(tmp_path / "run", "net_"))
    assert states(tmp_path / "run", "average_") == {}
    assert list(states(averaged, "average_")) == [f"{LAST}_average_G_A.pth", f"{LAST}_average_G_B.pth"]


def test_an_interrupted_run_goes_on_to_the_same_averages(
    small_data: Path, averaged: Path, options: TrainOptions, tmp_path: Path
) -> None:
    def stop(done: int, total: int, text: str) -> None:
        if done == total - 3:
            raise KeyboardInterrupt

    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        train(small_data, run, replace(options, save_every_epochs=1), GUIDED, report=stop)
    left = run / "networks" / "1_average_G_A.pth"
    with recorded(run, left):  # as a process notes it that is killed before it can remove it
        left.write_bytes(b"left by a killed process")
    resume(run)
    assert_same(states(run, "average_"), states(averaged, "average_"))
    assert len(list((run / "networks").glob("*_average_*"))) == 2, "those of other epochs are gone"


def test_images_are_made_with_the_average(averaged: Path, tmp_path: Path) -> None:
    def pixels() -> dict[str, Any]:
        files = sorted(translate(averaged)["A2B"].glob("*.png"))
        return {file.name: np.asarray(Image.open(file)) for file in files}

    made = pixels()
    networks = averaged / "networks"
    kept = {name: average_file(networks, LAST, name).read_bytes() for name in ("G_A", "G_B")}
    try:
        for name in kept:  # the generators of the last step in the averages' place
            average_file(networks, LAST, name).write_bytes((networks / f"{LAST}_net_{name}.pth").read_bytes())
        of_the_last_step = pixels()
    finally:
        for name, content in kept.items():
            average_file(networks, LAST, name).write_bytes(content)
    assert made.keys() == of_the_last_step.keys() and any((made[n] != of_the_last_step[n]).any() for n in made)


def test_a_missing_average_is_one_line(averaged: Path, tmp_path: Path) -> None:
    file = average_file(averaged / "networks", LAST, "G_B")
    file.rename(tmp_path / file.name)
    try:
        with pytest.raises(
            CheckpointError, match=r"\A`epoch` must name a saved checkpoint; [^\n]+_average_G_B[^\n]+\Z"
        ):
            translate(averaged)
    finally:
        (tmp_path / file.name).rename(file)


@pytest.mark.parametrize(("value", "told"), [(1.0, "under 1"), (-0.1, "at least 0"), ("0.9", "a number")])
def test_a_decay_that_averages_nothing_is_refused(value: Any, told: str) -> None:
    with pytest.raises(ConfigError, match=rf"^`average_decay` must be [^\n]*{told}"):
        TrainOptions(average_decay=value)


def test_the_command_line_takes_it(small_data: Path, tmp_path: Path, small_networks: dict[str, Any]) -> None:
    shape = [part for name, value in small_networks.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    short = ["--epochs", "1", "--decay-epochs", "0", "--no-regions", "--average-decay", "0.9"]
    run = tmp_path / "run"
    assert main(["train", "--data", str(small_data), "--out", str(run), *shape, *short]) == 0
    assert average_file(run / "networks", 1, "G_A").is_file()
    assert main(["evaluate", str(run)]) == 0
