"""A session's state on the bundled host: stop anywhere, resume without loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from roi_progressive import CheckpointError, Config, ConfigError, GGDConfig, StageConfig, attach
from roi_progressive.host import CycleGANModel
from roi_progressive.testing import ToyHost, phantom_config


def _step(model: CycleGANModel, batch: Mapping[str, Any]) -> None:
    model.set_input(batch)
    model.optimize_parameters()


def _trained(
    build_host: Any, train: Any, config: Config, epochs: range, save: int | None = None, **options: Any
) -> tuple[CycleGANModel, dict[str, Any]]:
    model, loader = build_host(**options)
    with attach(model, loader, config) as session:
        train(model, loader, session, epochs)
        if save is not None:
            model.save_networks(save)
        return model, session.state_dict()


@pytest.mark.parametrize("generator", ["unet", "resnet"])
def test_two_and_two_epochs_are_four(
    generator: str,
    build_host: Any,
    tumor_config: Any,
    tiny_region: Any,
    train: Any,
    state_of: Any,
    differing: Any,
    copied: Any,
) -> None:
    regions = (tiny_region(pixel_weight=0.5, pixel_channels=2),)
    ggd, stages = GGDConfig(hidden_channels=4), StageConfig(trigger="plateau")
    config = tumor_config(regions=regions, ggd=ggd, resume="exact", stages=stages)
    model, ours = _trained(build_host, train, config, range(1, 5), netG=generator)
    straight, ours = state_of(model), copied(ours)
    assert all(len(pool["pixels"]) == 2 for pool in ours["guidance"]["learner"]["pools"].values())

    _trained(build_host, train, config, range(1, 3), save=2, netG=generator)
    resumed = {"continue_train": True, "epoch": "2", "epoch_count": 3, "seed": 99}
    model, ours_again = _trained(build_host, train, config, range(3, 5), netG=generator, **resumed)
    assert differing(straight, state_of(model)) == []
    assert differing({**ours, "host": None}, {**ours_again, "host": None}) == []


def test_the_plateau_trigger_sees_the_last_epoch_of_a_run_that_was_stopped(
    build_host: Any, tumor_config: Any, train: Any
) -> None:
    config = tumor_config(stages=StageConfig(trigger="plateau"))
    model, loader = build_host()
    with attach(model, loader, config) as session:
        train(model, loader, session, range(1, 2))
        model.save_networks(1)
        session.start_epoch(2)
        seen = session.stages.state_dict()
    assert seen["best"] is not None
    model, loader = build_host(continue_train=True, epoch="1", epoch_count=2)
    with attach(model, loader, config) as session:
        session.start_epoch(2)
        assert session.stages.state_dict() == seen


def test_our_checkpoint_lies_beside_the_hosts_and_loads_safely(
    build_host: Any, tumor_config: Any, train: Any, host_options: Any
) -> None:
    config = tumor_config(ggd=GGDConfig(), resume="exact")
    model, _ = _trained(build_host, train, config, range(1, 2), save=1)
    folder = Path(model.save_dir)
    assert {p.name for p in folder.iterdir()} == {
        *(f"1_net_{name}.pth" for name in model.model_names),
        "1_roi_progressive.pth",
    }
    assert torch.load(folder / "1_roi_progressive.pth", weights_only=True)["guidance"]["learner"]["bank"]
    options = host_options(continue_train=True, epoch="1")
    vanilla = CycleGANModel(options)
    vanilla.setup(options)


def test_going_back_in_epochs_says_where_the_run_stood(build_host: Any, tumor_config: Any, train: Any) -> None:
    _trained(build_host, train, tumor_config(), range(1, 3), save=2)
    model, loader = build_host(continue_train=True, epoch="2")
    with attach(model, loader, tumor_config()) as session:
        with pytest.raises(ConfigError, match=r"already stood at epoch 2; got 1"):
            session.start_epoch(1)
        assert session.stage.number == 1
        session.start_epoch(3)


def test_a_checkpoint_of_another_configuration_is_refused(
    build_host: Any, tumor_config: Any, tiny_region: Any, train: Any
) -> None:
    _trained(build_host, train, tumor_config(), range(1, 2), save=1)
    for other in (tumor_config(regions=(tiny_region("liver"),)), tumor_config(adversarial="hinge")):
        model, loader = build_host(continue_train=True, epoch="1")
        with pytest.raises(CheckpointError, match="`config` must be the one"):
            attach(model, loader, other)
        assert "optimize_parameters" not in vars(model)
    model, loader = build_host(continue_train=True, epoch="1")
    with pytest.raises(CheckpointError, match='`resume` is "exact"'):
        attach(model, loader, tumor_config(resume="exact"))


def test_a_missing_checkpoint_is_an_error_unless_a_fresh_start_is_wanted(
    build_host: Any, tumor_config: Any, train: Any
) -> None:
    model, _ = _trained(build_host, train, tumor_config(), range(1, 2), save=1)
    (Path(model.save_dir) / "1_roi_progressive.pth").unlink()
    model, loader = build_host(continue_train=True, epoch="1")
    with pytest.raises(CheckpointError, match='resume = "fresh"'):
        attach(model, loader, tumor_config())
    with attach(model, loader, tumor_config(resume="fresh")) as session:
        session.start_epoch(1)


def test_fresh_reads_nothing_of_an_older_run(build_host: Any, tumor_config: Any, train: Any) -> None:
    _trained(build_host, train, tumor_config(), range(1, 2), save=1)
    model, loader = build_host(continue_train=True, epoch="1")
    with attach(model, loader, tumor_config(resume="fresh")) as session:
        assert session.state_dict()["guidance"]["learner"] is None
    with attach(model, loader, tumor_config()) as session:
        assert session.state_dict()["guidance"]["learner"] is not None


def test_the_uncertainty_head_may_be_switched_off_or_on_when_a_run_goes_on(
    build_host: Any, tumor_config: Any, train: Any
) -> None:
    head = GGDConfig(hidden_channels=4)
    for before, after in ((head, None), (None, head)):
        _trained(build_host, train, tumor_config(ggd=before), range(1, 2), save=1, netG="resnet", force=True)
        resumed = {"continue_train": True, "epoch": "1", "netG": "resnet"}
        _, ours = _trained(build_host, train, tumor_config(ggd=after), range(2, 3), **resumed)
        assert bool(ours["guidance"]["learner"]["heads"]) == (after is not None)


def test_a_damaged_state_is_one_line(build_host: Any, tumor_config: Any, copied: Any) -> None:
    model, loader = build_host()
    with attach(model, loader, tumor_config()) as session:
        session.start_epoch(1)
        _step(model, next(iter(loader)))
        good = copied(session.state_dict())
        network = next(iter(good["guidance"]["learner"]["bank"]))
        bank = {**good["guidance"]["learner"]["bank"], network: torch.zeros(3)}
        learner = {**good["guidance"]["learner"], "bank": bank}
        for bad in ({}, {**good, "config": "no json"}, {**good, "guidance": {**good["guidance"], "learner": learner}}):
            with pytest.raises(CheckpointError) as caught:
                session.load_state_dict(bad)
            assert "\n" not in str(caught.value)
        session.load_state_dict(good)


def _keys(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where the state's own keys lie; an optimizer's inner ones are torch's affair."""
    if isinstance(state, dict) and "param_groups" not in state and path[-1:] != ("moments",):
        for key, value in state.items():
            yield (*path, key)
            yield from _keys(value, (*path, key))


def test_a_state_that_lacks_any_of_its_keys_is_one_line_at_once_or_at_the_first_step(
    copied: Any, tmp_path: Path
) -> None:
    config = phantom_config(resume="exact")
    host = ToyHost(tmp_path)
    batch = next(host.batches())
    with attach(host, None, config) as session:
        session.start_epoch(1)
        host.step(batch)
        good = copied(session.state_dict())
    unnoticed, needed = [], [path for path in _keys(good) if path[0] != "host"]
    assert len(needed) > 40
    for path in needed:
        bad = copied(good)
        inner = bad
        for key in path[:-1]:
            inner = inner[key]
        del inner[path[-1]]
        with attach(host, None, config) as session:
            try:
                session.load_state_dict(bad)
                session.start_epoch(2)
                host.step(batch)
                unnoticed.append(path)
            except CheckpointError as error:
                assert "\n" not in str(error), path
    # A head that was switched on later has no optimizer in the file, and begins a new one.
    assert {path[:3] for path in unnoticed} <= {("guidance", "learner", "head_optimizers")}
