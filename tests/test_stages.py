"""Stages: a pure function of the epoch, a linear fade-in, and a trigger that may only hurry."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roi_progressive.config import Config, GGDConfig, RegionConfig, StageConfig
from roi_progressive.errors import ConfigError
from roi_progressive.method.stages import Stage, StageController, default_plan

# A busy machine is no finding.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PAPER = Config.paper()


def config_with(**stages: object) -> Config:
    return Config(regions=PAPER.regions, ggd=PAPER.ggd, stages=StageConfig(**{"joined_by_fraction": None, **stages}))


def run_of(controller: StageController, epochs: range) -> list[int]:
    return [controller.start_epoch(epoch).number for epoch in epochs]


# -- the plan ---------------------------------------------------------------------------------------------------------


def test_the_paper_has_whole_then_liver_then_tumor() -> None:
    assert [str(stage) for stage in default_plan(PAPER)] == [
        "stage 1 (whole + ggd)",
        "stage 2 (whole + liver + ggd)",
        "stage 3 (whole + liver + tumor + ggd)",
    ]


def test_later_stages_keep_the_earlier_terms() -> None:
    plan = default_plan(Config(regions=tuple(RegionConfig(name) for name in "abcd")))
    for earlier, later in itertools.pairwise(plan):
        assert set(earlier.terms) < set(later.terms)


def test_regions_and_the_uncertainty_term_join_at_the_stages_they_name() -> None:
    regions = (RegionConfig("liver", stage=1), RegionConfig("tumor", stage=1), RegionConfig("vessel", stage=2))
    plan = default_plan(Config(regions=regions, ggd=GGDConfig(stage=3)))
    assert [set(stage.terms) for stage in plan] == [
        {"liver", "tumor"},
        {"liver", "tumor", "vessel"},
        {"liver", "tumor", "vessel", "ggd"},
    ]


@pytest.mark.parametrize(("names", "begins"), [("a", [0, 0.3]), ("abc", [0, 0.1, 0.2, 0.3])])
def test_all_stages_have_begun_by_a_share_of_the_run_at_equal_distances(names: str, begins: list[float]) -> None:
    regions, stages = tuple(RegionConfig(name) for name in names), StageConfig(joined_by_fraction=0.3)
    plan = default_plan(Config(regions=regions, stages=stages))
    assert [stage.from_fraction for stage in plan] == pytest.approx(begins)
    assert default_plan(Config(regions=(), stages=stages))[0].from_fraction == 0


def test_no_term_at_all_is_one_empty_stage() -> None:
    controller = StageController(Config(regions=(), ggd=None), 10)
    assert run_of(controller, range(10)) == [1] * 10
    assert controller.weights() == {}


@pytest.mark.parametrize("epochs", [(5,), (5, 10, 15)])
def test_explicit_epochs_must_name_every_stage_after_the_first(epochs: tuple[int, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"^`stages.from_epochs` must name [^\n]+ stages 2 to 3, 2 in all; got [^\n]+$"
    ):
        default_plan(config_with(from_epochs=epochs))


@pytest.mark.parametrize(
    "numbers_and_begins",
    [((1, 0.0), (3, 0.5)), ((2, 0.0),), ((1, 0.0), (2, 0.6), (3, 0.3))],
    ids=["gap", "no first", "falling"],
)
def test_an_unusable_plan_is_refused_in_one_line(numbers_and_begins: tuple[tuple[int, float], ...]) -> None:
    plan = [Stage(number, (), from_fraction=begin) for number, begin in numbers_and_begins]
    with pytest.raises(ConfigError, match=r"^`plan` must [^\n]+; got [^\n]+$"):
        StageController(PAPER, 10, plan)


def test_a_plan_whose_epochs_fall_is_refused() -> None:
    plan = [Stage(1, ()), Stage(2, ("liver",), from_epoch=9), Stage(3, ("tumor",), from_epoch=4)]
    with pytest.raises(ConfigError, match=r"^`plan` must begin its stages one after another; got \[9, 4\]; [^\n]+$"):
        StageController(PAPER, 10, plan)


@pytest.mark.parametrize("n_epochs", [0, -1, 2.0, True, "200", None])
def test_a_length_that_is_no_length_is_refused(n_epochs: object) -> None:
    with pytest.raises(ConfigError, match=r"^`n_epochs` must be a whole number of at least 1; got [^\n]+$"):
        StageController(PAPER, n_epochs)


# -- when stages begin ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("n_epochs", [3, 9, 200])
def test_the_run_is_shared_in_equal_thirds_from_the_first_epoch_seen(first: int, n_epochs: int) -> None:
    numbers = run_of(StageController(PAPER, n_epochs), range(first, first + n_epochs))
    lengths = [numbers.count(stage) for stage in (1, 2, 3)]
    assert numbers == sorted(numbers)
    assert sum(lengths) == n_epochs
    assert max(lengths) - min(lengths) <= n_epochs % 3


def test_a_run_may_go_on_beyond_its_length() -> None:
    controller = StageController(PAPER, 3)
    assert run_of(controller, range(6)) == [1, 2, 3, 3, 3, 3]


def test_explicit_epochs_are_in_the_hosts_own_count() -> None:
    for first in (0, 1, 3):
        controller = StageController(config_with(from_epochs=(4, 5)), 100)
        assert run_of(controller, range(first, 7)) == [1] * (4 - first) + [2, 3, 3]


def test_before_any_epoch_the_run_is_in_its_first_stage() -> None:
    controller = StageController(PAPER, 9)
    assert controller.stage.number == 1
    assert controller.weights() == {"ggd": 1.0}


def test_a_plan_of_ones_own_is_followed_and_may_drop_a_term() -> None:
    plan = [Stage(1, ("liver",)), Stage(2, ("tumor",), from_fraction=0.5)]
    controller = StageController(config_with(fade_fraction=0.0), 4, plan)
    seen = []
    for epoch in range(4):
        controller.start_epoch(epoch)
        seen.append(controller.weights())
    assert seen == [{"liver": 1.0}, {"liver": 1.0}, {"tumor": 1.0}, {"tumor": 1.0}]


# -- fade-in ----------------------------------------------------------------------------------------------------------


def test_a_new_term_rises_linearly_to_its_weight_and_stays_there() -> None:
    controller = StageController(config_with(fade_fraction=0.1), 90)
    weights = []
    for epoch in range(90):
        controller.start_epoch(epoch)
        weights.append(controller.weights())
    assert [w["ggd"] for w in weights] == [1.0] * 90, "a term of stage 1 starts at its full weight"
    for term, begin in (("liver", 30), ("tumor", 60)):
        assert all(term not in w for w in weights[:begin])
        np.testing.assert_allclose([w[term] for w in weights[begin : begin + 9]], np.arange(1, 10) / 9)
        assert weights[begin + 8][term] == 1.0
        assert all(w[term] == 1.0 for w in weights[begin + 8 :])


@pytest.mark.parametrize("fade", [0.0, 0.001])
def test_without_a_fade_a_term_joins_at_full_weight(fade: float) -> None:
    controller = StageController(config_with(fade_fraction=fade), 9)
    run_of(controller, range(4))
    assert controller.weights() == {"liver": 1.0, "ggd": 1.0}


@UNHURRIED
@given(
    n_epochs=st.integers(1, 60),
    first=st.integers(0, 3),
    fade=st.floats(0, 1),
    explicit=st.none() | st.tuples(st.integers(0, 40), st.integers(1, 40)).map(lambda e: (e[0], e[0] + e[1])),
    data=st.data(),
)
def test_weights_depend_on_the_epoch_and_not_on_the_way_there(
    n_epochs: int, first: int, fade: float, explicit: tuple[int, int] | None, data: st.DataObject
) -> None:
    config = config_with(fade_fraction=fade, from_epochs=explicit)
    last = data.draw(st.integers(first, first + n_epochs + 5))
    on_the_way = sorted(data.draw(st.lists(st.integers(first, last), max_size=6)))
    direct, winding = StageController(config, n_epochs), StageController(config, n_epochs)
    direct.start_epoch(first)
    direct.start_epoch(last)
    for epoch in (first, *on_the_way, last):
        winding.start_epoch(epoch)
        winding.observe({"liver": 1.0, "tumor": 1.0})
    assert winding.weights() == direct.weights()
    assert winding.stage == direct.stage
    assert all(0 < weight <= 1 for weight in direct.weights().values())
    assert set(direct.weights()) == set(direct.stage.terms)


# -- plateau ----------------------------------------------------------------------------------------------------------


def plateau(n_epochs: int = 90, patience: int = 3, config: Config = PAPER) -> StageController:
    stages = StageConfig(None, None, trigger="plateau", patience_epochs=patience, min_improvement=0.01)
    return StageController(Config(regions=config.regions, ggd=config.ggd, stages=stages), n_epochs)


def test_a_stage_whose_newest_region_has_stopped_improving_ends_early() -> None:
    controller = plateau()
    run_of(controller, range(30))
    for epoch in range(30, 36):
        assert controller.start_epoch(epoch).number == 2
        # The liver stalls; the uncertainty term improves all the while, and must not keep the stage alive.
        controller.observe({"liver": max(0.5, 1.0 - 0.25 * (epoch - 30)), "ggd": -float(epoch)})
    # Improved at 30, 31, 32; stale at 33, 34, 35.
    assert controller.start_epoch(36).number == 3
    assert controller.weights()["tumor"] == pytest.approx(1 / 9)
    assert run_of(controller, range(37, 90)) == [3] * 53


def test_a_stage_that_improves_lasts_as_planned() -> None:
    controller = plateau()
    numbers = []
    for epoch in range(90):
        numbers.append(controller.start_epoch(epoch).number)
        controller.observe({"liver": 0.98**epoch, "tumor": 0.98**epoch, "ggd": 1.0})
    assert numbers == [1] * 30 + [2] * 30 + [3] * 30


def test_an_improvement_smaller_than_asked_counts_as_none() -> None:
    controller = plateau()
    run_of(controller, range(31))
    for epoch in range(31, 36):
        controller.observe({"liver": 0.999 ** (epoch - 31)})
        number = controller.start_epoch(epoch).number
        if number == 3:
            break
    assert (epoch, number) == (34, 3)


def test_the_first_stage_brings_no_region_and_lasts_as_planned() -> None:
    controller = plateau()
    numbers = []
    for epoch in range(30):
        numbers.append(controller.start_epoch(epoch).number)
        controller.observe({"ggd": 1.0})
    assert numbers == [1] * 30


def test_epochs_that_did_not_see_the_region_do_not_count() -> None:
    controller = plateau()
    run_of(controller, range(31))
    controller.observe({"liver": 1.0})
    for epoch in range(31, 50):
        assert controller.start_epoch(epoch).number == 2
        controller.observe({"ggd": 1.0})


def test_without_the_trigger_losses_change_nothing() -> None:
    controller = StageController(PAPER, 90)
    for epoch in range(90):
        number = controller.start_epoch(epoch).number
        controller.observe({"liver": 1.0, "tumor": 1.0})
        assert number == 1 + epoch // 30


def test_a_stage_that_stalls_just_as_the_next_begins_by_plan_does_not_skip_that_one() -> None:
    controller = plateau(patience=2)
    run_of(controller, range(58))
    for epoch in range(57, 60):
        controller.start_epoch(epoch)
        controller.observe({"liver": 1.0})
    assert controller.start_epoch(60).number == 3
    four = Config(regions=tuple(RegionConfig(name) for name in "abc"), ggd=None)
    controller = plateau(n_epochs=80, patience=2, config=four)
    run_of(controller, range(38))
    for epoch in range(37, 40):
        controller.start_epoch(epoch)
        controller.observe({"a": 1.0})
    assert run_of(controller, range(40, 60)) == [3] * 20


def test_a_stall_found_after_the_plan_has_moved_on_does_not_put_the_new_stage_off() -> None:
    controller, planned = plateau(patience=2), StageController(PAPER, 90)
    for epoch in (0, 56, 57, 58):
        controller.start_epoch(epoch)
        planned.start_epoch(epoch)
        controller.observe({"liver": 1.0})
    controller.start_epoch(64)  # the run is resumed four epochs into the third stage
    planned.start_epoch(64)
    assert controller.weights() == planned.weights()
    assert controller.weights()["tumor"] == pytest.approx(5 / 9)


def test_a_new_stage_is_not_measured_against_the_old_ones_losses() -> None:
    config = Config(regions=tuple(RegionConfig(name) for name in "abc"), ggd=None, stages=StageConfig(None, None))
    controller = plateau(n_epochs=80, patience=3, config=config)
    run_of(controller, range(39))
    controller.observe({"a": 0.001})
    numbers = []
    for epoch in range(39, 50):
        numbers.append(controller.start_epoch(epoch).number)
        controller.observe({"a": 0.001, "b": 0.9 ** (epoch - 39)})
    assert numbers == [2] + [3] * 10


@UNHURRIED
@given(st.lists(st.floats(-2, 2), min_size=60, max_size=60), st.integers(1, 6), st.integers(0, 1))
def test_the_trigger_may_hurry_and_never_delay_skip_or_go_back(losses: list[float], patience: int, first: int) -> None:
    controller, planned = plateau(60, patience), StageController(PAPER, 60)
    numbers, on_time = [], []
    for epoch, loss in enumerate(losses, start=first):
        numbers.append(controller.start_epoch(epoch).number)
        on_time.append(planned.start_epoch(epoch).number)
        controller.observe({"liver": loss, "tumor": loss, "ggd": loss})
    assert all(number >= plan for number, plan in zip(numbers, on_time, strict=True))
    assert all(later - earlier in (0, 1) for earlier, later in itertools.pairwise(numbers))
    for stage in (1, 2):
        assert numbers.count(stage) >= min(patience, 20)


# -- state ------------------------------------------------------------------------------------------------------------


@UNHURRIED
@given(st.lists(st.floats(0, 2), min_size=30, max_size=30), st.integers(1, 29))
def test_a_run_resumed_from_a_file_is_the_uninterrupted_one(losses: list[float], stop: int) -> None:
    straight, interrupted = plateau(30, 2), plateau(30, 2)
    for epoch, loss in enumerate(losses, start=1):
        if epoch == stop:
            file = io.BytesIO()
            torch.save(interrupted.state_dict(), file)
            file.seek(0)
            interrupted = plateau(30, 2)
            interrupted.load_state_dict(torch.load(file, weights_only=True))
        for controller in (straight, interrupted):
            controller.start_epoch(epoch)
            controller.observe({"liver": loss, "tumor": loss})
        assert interrupted.stage == straight.stage
        assert interrupted.weights() == straight.weights()
    assert interrupted.state_dict() == straight.state_dict()


def test_going_back_is_an_error_that_names_both_epochs() -> None:
    controller = StageController(PAPER, 200)
    controller.start_epoch(100)
    controller.start_epoch(100)
    resumed = StageController(PAPER, 200)
    resumed.load_state_dict(controller.state_dict())
    for at_100 in (controller, resumed):
        with pytest.raises(ConfigError, match=r"^`epoch` must not go back: [^\n]+ epoch 100; got 1; [^\n]+$"):
            at_100.start_epoch(1)
        assert at_100.epoch == 100


@pytest.mark.parametrize("epoch", ["3", 1.5, None])
def test_an_epoch_that_is_no_whole_number_is_refused_in_one_line(epoch: object) -> None:
    with pytest.raises(ConfigError, match=r"^`epoch` must be a whole number, [^\n]+; got [^\n]+$"):
        StageController(PAPER, 10).start_epoch(epoch)


@pytest.mark.parametrize("count", [np.int64, np.int32, lambda n: torch.tensor(n)])
def test_an_epoch_counted_by_another_library_still_leaves_plain_values(count: type) -> None:
    controller = plateau(9, 1)
    for epoch in range(6):
        controller.start_epoch(count(epoch))
        controller.observe({"liver": 1.0})
    assert type(controller.epoch) is type(controller.first_epoch) is int
    assert all(type(epoch) is int for epoch in controller.state_dict()["early"].values())
    assert controller.state_dict()["early"]
