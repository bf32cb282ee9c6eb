"""``resume = "exact"`` keeps the scale of a host's GradScaler: the bundled host's, another model's and a script's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import stopped
from torch import nn

from roi_progressive import CheckpointError, Config, attach
from roi_progressive.adapters.junyanz import roi_adapter
from roi_progressive.host import CycleGANModel, ImageLoader
from roi_progressive.host import model as model_module
from roi_progressive.runs.options import TrainOptions
from roi_progressive.runs.train import resume, train

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="torch before 2.3 has no scaler for the CPU"),
]
EXACT = Config(regions=(), ggd=None, resume="exact")
BuildHost = Callable[..., tuple[CycleGANModel, ImageLoader]]


def scaler(**settings: Any) -> Any:
    """One whose scale changes every other step."""
    return torch.amp.GradScaler("cpu", **{"init_scale": 8.0, "growth_interval": 2, **settings})


def test_an_interrupted_run_in_fp16_goes_on_to_the_same_bits(
    small_data: Path, tmp_path: Path, small_networks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def grad_scaler(device: torch.device, precision: str) -> Any:
        made.append(scaler(growth_interval=5))
        return made[-1]

    monkeypatch.setattr(model_module, "grad_scaler", grad_scaler)
    options = TrainOptions(
        **small_networks, epochs=2, decay_epochs=1, precision="fp16", device="cpu", save_every_epochs=1
    )
    train(small_data, tmp_path / "whole", options, None)

    with stopped(lambda done, total, text: text.startswith("epoch 2")) as report:
        train(small_data, tmp_path / "stopped", options, None, report=report)
    resume(tmp_path / "stopped")
    whole, _, resumed = (one.state_dict() for one in made)
    assert whole == resumed and whole["scale"] > 8
    for path in sorted((tmp_path / "whole" / "networks").glob("3_net_*.pth")):
        other = torch.load(tmp_path / "stopped" / "networks" / path.name, weights_only=True)
        assert all(torch.equal(other[key], value) for key, value in torch.load(path, weights_only=True).items()), path


def steps(model: CycleGANModel, loader: ImageLoader) -> None:
    for batch in loader:
        model.set_input(batch)
        model.optimize_parameters()


def test_a_models_scalers_are_found_under_any_name_and_old_files_have_none(build_host: BuildHost, copied: Any) -> None:
    model, loader = build_host()
    model.scaler, model.scaler_of_ours = scaler(), scaler(enabled=False)
    steps(model, loader)
    adapter = roi_adapter(model, EXACT)
    assert adapter is not None
    state = copied(adapter.host_state())
    assert set(state["scales"]) == {"scaler"}, "a scaler that is switched off has nothing to tell"
    scale = model.scaler.get_scale()
    model.scaler = scaler(init_scale=2.0, growth_factor=4.0)
    adapter.load_host_state(state)
    assert model.scaler.get_scale() == scale and model.scaler.get_growth_factor() == 4.0
    del state["scales"]
    model.scaler = scaler(init_scale=3.0)
    adapter.load_host_state(state)
    assert model.scaler.get_scale() == 3.0


def script() -> tuple[dict[str, nn.Module], torch.optim.Optimizer]:
    nets: dict[str, nn.Module] = {"A2B": nn.Conv2d(1, 1, 1), "B2A": nn.Conv2d(1, 1, 1)}
    return nets, torch.optim.Adam([parameter for net in nets.values() for parameter in net.parameters()])


@pytest.fixture
def no_others(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The scalers that live in the process, which other tests may have left some in."""
    from roi_progressive.adapters import manual

    living: list[Any] = []
    monkeypatch.setattr(manual.gc, "get_objects", lambda own=manual.gc.get_objects: [*living, *_not_scalers(own())])
    return living


def _not_scalers(things: list[Any]) -> list[Any]:
    return [thing for thing in things if not issubclass(type(thing), torch.amp.GradScaler)]


def test_a_scripts_only_scaler_goes_on(no_others: list[Any], copied: Any) -> None:
    nets, optimizer = script()
    own = scaler()
    no_others += [own, scaler(enabled=False)]
    with attach(nets, config=EXACT, n_epochs=1) as session:
        for _ in range(3):
            own.scale(nets["A2B"](torch.ones(1, 1, 2, 2)).sum()).backward()
            own.step(optimizer)
            own.update()
        state, before = copied(session.state_dict()), own.state_dict()
        own.update(1.0)
        session.load_state_dict(state)
        assert own.state_dict() == before and (before["scale"], before["_growth_tracker"]) == (16.0, 1)


def test_of_several_scalers_of_a_script_none_is_guessed(no_others: list[Any]) -> None:
    nets, _optimizer = script()
    no_others += [scaler(), scaler()]
    with (
        attach(nets, config=EXACT, n_epochs=1) as session,
        pytest.warns(RuntimeWarning, match="this process has 2 GradScalers"),
    ):
        assert session.state_dict()["host"]["scales"] == {}


def test_a_scaler_that_is_made_too_late_is_said(no_others: list[Any], copied: Any) -> None:
    nets, _optimizer = script()
    no_others.append(scaler())
    with attach(nets, config=EXACT, n_epochs=1) as session:
        state = copied(session.state_dict())
        no_others.clear()
        with pytest.warns(RuntimeWarning, match="make the script's scaler before the checkpoint is loaded"):
            session.load_state_dict(state)


@pytest.mark.parametrize("wrong", [{"scale": 0.0}, {"scale": "8"}, {"_growth_tracker": -1}, {"_growth_tracker": 1.5}])
def test_what_is_no_state_of_a_scaler_is_refused(wrong: dict[str, Any], no_others: list[Any], copied: Any) -> None:
    nets, _optimizer = script()
    no_others.append(scaler())
    with attach(nets, config=EXACT, n_epochs=1) as session:
        state = copied(session.state_dict())
        state["host"]["scales"]["scaler"].update(wrong)
        with pytest.raises(CheckpointError, match="gradient scaler is"):
            session.load_state_dict(state)
