"""Never silently idle: what keeps guidance from having an effect is said once, with its cause, when it is known."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from roi_progressive import Config, StageConfig, StageController, attach

EQUAL = StageConfig(joined_by_fraction=None)
"""Stages share what is left of a run equally."""


@pytest.fixture
def said() -> Callable[..., Any]:
    """``with said() as messages``: what our package warns of, in its order."""

    class Messages:
        def __enter__(self) -> list[str]:
            self._catcher = warnings.catch_warnings(record=True)
            self._caught = self._catcher.__enter__()
            warnings.simplefilter("always")
            self.messages: list[str] = []
            return self.messages

        def __exit__(self, *error: Any) -> None:
            self._catcher.__exit__(*error)
            self.messages += [str(w.message) for w in self._caught if issubclass(w.category, RuntimeWarning)]

    return Messages


# --- an epoch without a guided step -----------------------------------------------------------------------------------


def test_a_run_that_is_guided_is_told_nothing(build_host: Any, tumor_config: Any, train: Any, said: Any) -> None:
    model, loader = build_host()
    with said() as messages, attach(model, loader, tumor_config()) as session:
        train(model, loader, session, range(1, 3))
    assert messages == []


def test_batches_that_no_step_trains_on_are_told_once(build_host: Any, tumor_config: Any, said: Any) -> None:
    model, loader = build_host()
    with said() as messages, attach(model, loader, tumor_config()) as session:
        for epoch in (1, 2, 3):
            session.start_epoch(epoch)
            for batch in loader:
                model.set_input(batch)
    (message,) = messages
    assert message.startswith("no step was guided in epoch 1; 3 batches came, but no step of the model")
    assert "`optimize_parameters`" in message


def test_a_loop_that_takes_another_model_is_told(build_host: Any, tumor_config: Any, train: Any, said: Any) -> None:
    model, loader = build_host()
    other, _ = build_host()
    with said() as messages, attach(model, loader, tumor_config()) as session:
        train(other, loader, session, range(1, 3))
    assert [message.split(";")[0] for message in messages] == ["no step was guided in epoch 1"]


def test_an_epoch_in_which_nothing_is_to_be_guided_is_no_idle_one(
    build_host: Any, tumor_config: Any, tiny_region: Any, said: Any
) -> None:
    model, loader = build_host()
    config = tumor_config(regions=(tiny_region(stage=2),), stages=EQUAL)
    with said() as messages, attach(model, loader, config, n_epochs=4) as session:
        for epoch in (1, 2):
            session.start_epoch(epoch)
            model.set_input(next(iter(loader)))
        assert session.stage.number == 1
        session.start_epoch(3)
    assert messages == []


def test_the_last_epoch_is_told_of_when_the_session_closes(build_host: Any, tumor_config: Any, said: Any) -> None:
    model, loader = build_host()
    session = attach(model, loader, tumor_config())
    session.start_epoch(1)
    model.set_input(next(iter(loader)))
    with said() as messages:
        session.close()
        session.close()
    assert [message.split(";")[0] for message in messages] == ["no step was guided in epoch 1"]


# --- a region that is never there -------------------------------------------------------------------------------------


@pytest.mark.parametrize("files", [True, False])
def test_a_region_that_was_empty_all_epoch_is_told(
    files: bool, build_host: Any, tumor_config: Any, train: Any, said: Any
) -> None:
    model, loader = build_host()
    with said() as messages, attach(model, loader, tumor_config()) as session:
        if not files:
            session._idleness._with_files.clear()
        dataset = loader.dataloader.dataset

        def emptied(index: int, own: Any = dataset.__getitem__) -> Any:
            sample = own(index)
            for masks in sample["roi_masks"].values():
                masks["tumor"].zero_()
            return sample

        loader.dataloader.__dict__["dataset"] = _Answering(dataset, emptied)
        train(model, loader, session, range(1, 4))
    (message,) = messages
    assert message.startswith("region 'tumor' was empty in every batch of epoch 1")
    assert ("although it has mask files" in message) is files


class _Answering:
    def __init__(self, dataset: Any, answer: Any) -> None:
        self.dataset, self.answer = dataset, answer

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        return self.answer(index)


# --- images of another range ------------------------------------------------------------------------------------------


def _script_steps(config: Config, scale: Callable[[torch.Tensor], torch.Tensor], n_steps: int) -> None:
    torch.manual_seed(0)
    generator = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 1))
    optimizer = torch.optim.Adam(generator.parameters())
    masks = torch.zeros(2, 1, 32, 32)
    masks[..., 8:20, 8:20] = 1
    with attach({"A2B": generator}, config=config, n_epochs=2) as session:
        session.start_epoch(0)
        for _ in range(n_steps):
            real_A, real_B = (scale(torch.rand(2, 1, 32, 32) * 2 - 1) for _ in range(2))
            fake_B = generator(real_A)
            regions = {"tumor": masks}
            loss = fake_B.abs().mean() + session.generator_loss(
                real_A=real_A, fake_B=fake_B, real_B=real_B, masks_A=regions, masks_B=regions
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            session.discriminator_step()


@pytest.mark.parametrize(
    ("scale", "n_steps", "told"),
    [
        (lambda x: x, 25, None),
        (lambda x: 127.5 * (x + 1), 1, "images must lie in [-1, 1]; they reach from"),
        (lambda x: 2 * x, 25, "images must lie in [-1, 1]; they reach from -2 to 2"),
        (lambda x: (x + 1) / 2, 25, "the images of the first steps lie in ["),
        (lambda x: (x + 1) / 2, 5, None),
    ],
    ids=["right", "grey levels", "twice", "from 0 to 1", "from 0 to 1, not yet known"],
)
def test_images_of_another_range_are_told(
    scale: Any, n_steps: int, told: str | None, tumor_config: Any, said: Any
) -> None:
    with said() as messages:
        _script_steps(tumor_config(), scale, n_steps)
    assert len(messages) == (told is not None)
    assert told is None or (messages[0].startswith(told) and "`background`" in messages[0])


# --- a plan that is never reached -------------------------------------------------------------------------------------


def test_stages_behind_the_runs_end_are_told_when_it_begins(build_host: Any, tumor_config: Any, said: Any) -> None:
    model, loader = build_host(n_epochs=2, n_epochs_decay=2)
    config = Config(ggd=None, stages=StageConfig(from_epochs=(9,)))
    with said() as messages, attach(model, loader, config) as session:
        session.start_epoch(1)
        session.start_epoch(1)
    (message,) = messages
    assert message.startswith("stage 2 (whole + tumor) would begin in epoch 9, but the run ends with epoch 4")


@pytest.mark.parametrize(
    ("first", "constant", "decay", "joins"), [(101, 100, 100, 151), (5, 8, 4, 9), (1, 100, 100, 101)]
)
def test_a_plain_run_that_goes_on_guided_shares_what_is_left(
    first: int, constant: int, decay: int, joins: int, build_host: Any
) -> None:
    model, _ = build_host(n_epochs=constant, n_epochs_decay=decay, epoch_count=first)
    with attach(model, None, Config(ggd=None, stages=EQUAL)) as session:
        session.start_epoch(first)
        assert session.stages.first_epoch_of(session.stages.plan[1]) == joins
        assert session.stages.last_epoch == constant + decay
        assert session.stages.never_reached() == []


@pytest.mark.parametrize(
    ("first", "n_epochs", "joins"), [(0, 200, 100), (1, 200, 101), (100, 200, 150), (300, 200, 400)]
)
def test_a_scripts_run_may_go_on_too(first: int, n_epochs: int, joins: int) -> None:
    """Whoever names a length that ends before the run's first epoch means what is left of it."""
    plan = StageController(Config(ggd=None, stages=EQUAL), n_epochs)
    plan.start_epoch(first)
    assert plan.first_epoch_of(plan.plan[1]) == joins


def test_a_continued_guided_run_keeps_the_plan_it_began_with() -> None:
    begun = StageController(Config(ggd=None, stages=EQUAL), 200, last_epoch=200)
    begun.start_epoch(1)
    again = StageController(Config(ggd=None, stages=EQUAL), 200, last_epoch=200)
    again.load_state_dict(begun.state_dict())
    again.start_epoch(101)
    assert again.first_epoch_of(again.plan[1]) == 101 and again.n_epochs == 200


# --- volumes ----------------------------------------------------------------------------------------------------------


def test_volumes_are_refused_in_one_line(tumor_config: Any, tmp_path: Path) -> None:
    generator = nn.Conv3d(1, 1, 3, padding=1)
    volume = torch.zeros(1, 1, 8, 32, 32)
    optimizer = torch.optim.Adam(generator.parameters())
    with pytest.raises(Exception, match=r"images \[N, C, H, W\]; .*three dimensions") as caught:
        attach({"A2B": generator}, config=tumor_config(), n_epochs=1)
    assert "\n" not in str(caught.value) and optimizer
    flat = nn.Conv2d(1, 1, 1)
    keep = torch.optim.Adam(flat.parameters())
    with attach({"A2B": flat}, config=tumor_config(), n_epochs=1) as session:
        session.start_epoch(0)
        mask = {"tumor": torch.zeros(1, 1, 8, 32, 32)}
        with pytest.raises(Exception, match=r"\[N, C, H, W\]"):
            session.generator_loss(
                real_A=volume, fake_B=volume * generator(volume), real_B=volume, masks_A=mask, masks_B=mask
            )
    assert keep
