"""After attach, train and close a host is collected as it would be without us: models, generators, sessions."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive import ConfigError, GGDConfig, attach
from roi_progressive.host import CycleGANModel
from roi_progressive.runs.options import TrainOptions
from roi_progressive.runs.train import train as train_run


def _alive(references: list[weakref.ref[Any]]) -> list[str]:
    gc.collect()
    return [type(found).__name__ for reference in references if (found := reference()) is not None]


@pytest.mark.parametrize("kind", ["pix2pix", "cut", "scaled", "styled", "two steps", "cycle_gan"])
@pytest.mark.parametrize("close", [True, False])
def test_a_model_is_gone_once_it_was_trained_and_closed(
    kind: str, close: bool, build_toy: Any, build_host: Any, toy_step: Any, tiny: Any
) -> None:
    """Also where the session was never closed, and both are dropped."""
    model, loader = build_host() if kind == "cycle_gan" else build_toy(kind)
    session = attach(model, loader, tiny(ggd=GGDConfig(hidden_channels=4)))
    session.start_epoch(1)
    for batch in loader:
        toy_step(model, batch)
    networks = [value for value in vars(model).values() if isinstance(value, nn.Module)]
    references = [weakref.ref(thing) for thing in (model, session, *networks)]
    if close:
        session.close()
    del model, loader, session, networks, batch
    assert _alive(references) == []


def test_a_host_that_failed_in_its_step_is_gone_too(build_toy: Any, toy_step: Any, tiny: Any) -> None:
    model, loader = build_toy("styled")
    model.style = lambda m: 1 / 0
    session = attach(model, loader, tiny())
    session.start_epoch(1)
    with pytest.raises(ZeroDivisionError):
        toy_step(model, next(iter(loader)))
    references = [weakref.ref(model), weakref.ref(session), weakref.ref(model.netG)]
    session.close()
    del model, loader, session
    assert _alive(references) == []


class _Script:
    def __init__(self) -> None:
        self.generator = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 1))
        self.optimizer = torch.optim.Adam(self.generator.parameters())

    def step(self, session: Any) -> None:
        real_A, real_B = torch.rand(2, 2, 1, 32, 32).mul(2).sub(1).unbind()
        masks = torch.zeros(2, 1, 32, 32)
        masks[..., 8:20, 8:20] = 1
        fake_B = self.generator(real_A)
        regions = {"tumor": masks}
        loss = fake_B.square().mean() + session.generator_loss(
            real_A=real_A, fake_B=fake_B, real_B=real_B, masks_A=regions, masks_B=regions, paired=True
        )
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        session.discriminator_step()


@pytest.mark.parametrize("ended", [True, False])
def test_a_scripts_networks_are_gone_too(ended: bool, tiny: Any) -> None:
    script = _Script()
    session = attach({"A2B": script.generator}, config=tiny(ggd=GGDConfig(hidden_channels=4)), n_epochs=2)
    session.start_epoch(0)
    for _ in range(3):
        script.step(session)
    references = [weakref.ref(thing) for thing in (script.generator, session, *session.networks())]
    if ended:
        session.close()
    del script, session
    assert _alive(references) == []


def test_a_whole_run_leaves_no_model_behind(small_data: Path, small_networks: Any, tmp_path: Path) -> None:
    made: list[weakref.ref[Any]] = []
    own = CycleGANModel.__init__

    def noted(self: Any, *args: Any, **kwargs: Any) -> None:
        made.append(weakref.ref(self))
        own(self, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CycleGANModel, "__init__", noted)
        train_run(small_data, tmp_path / "run", TrainOptions(epochs=1, decay_epochs=1, **small_networks))
    assert made and _alive(made) == []


def test_generators_of_an_open_session_are_refused_to_a_second_one(build_toy: Any, tiny: Any) -> None:
    script = _Script()
    model, loader = build_toy("pix2pix")
    cases = [
        (({"A2B": script.generator},), ({"A2B": script.generator, "B2A": nn.Conv2d(1, 1, 1)},)),
        (({"A2B": script.generator},), ({"A2B": nn.DataParallel(script.generator, [])},)),
        ((model, loader), ({"A2B": model.netG},)),
    ]
    for first, second in cases:
        with attach(*first, config=tiny(), n_epochs=2):
            with pytest.raises(ConfigError, match="`host` has generators of an open session already"):
                attach(*second, config=tiny(), n_epochs=2)
            with pytest.raises(ConfigError, match="open session already"):
                attach(*first, config=tiny(), n_epochs=2)
        attach(*second, config=tiny(), n_epochs=2).close()
