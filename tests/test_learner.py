"""Our networks and their optimizers: rates and betas of the host, every direction, states that fit or say why not."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from roi_progressive import Adapter, CheckpointError, Config, GGDConfig, Translation
from roi_progressive.method.regions import RegionMask
from roi_progressive.plugins.manager import Plugins
from roi_progressive.runtime.rng import ForkedStream
from roi_progressive.saving.state_checks import adam
from roi_progressive.training.learner import Learner
from roi_progressive.training.uncertainty import GGDWrapper


class _Host(Adapter):
    def __init__(self, channels: Mapping[str, int]) -> None:
        other = {"A2B": "B2A", "B2A": "A2B"}
        self.nets: dict[str, nn.Module] = {
            d: nn.Sequential(nn.Conv2d(channels.get(other[d], 1), 3, 3, padding=1), nn.Conv2d(3, n, 1), nn.Tanh())
            for d, n in channels.items()
        }
        self.rates = {"generator": 0.01, "discriminator": 0.02}

    def generators(self) -> Mapping[str, nn.Module]:
        return self.nets

    def translations(self, masks: Any) -> Sequence[Translation]:
        return ()

    def install(self, session: Any, patches: Any) -> None:
        pass

    def learning_rates(self) -> Mapping[str, float]:
        return self.rates

    def betas(self) -> tuple[float, float]:
        return (0.4, 0.99)


def _masks(filled: bool = True) -> dict[str, RegionMask]:
    mask = torch.zeros(2, 1, 32, 32)
    mask[:, :, 9:19, 9:19] = float(filled)
    return {"tumor": RegionMask.from_tensor(mask)}


class _Setup:
    def __init__(self, config: Config, channels: Mapping[str, int] | None = None) -> None:
        torch.manual_seed(0)
        self.channels = {"A2B": 1, "B2A": 1} if channels is None else channels
        self.host = _Host(self.channels)
        self.heads = {d: GGDWrapper(net, config.ggd) for d, net in self.host.nets.items() if config.ggd is not None}
        for head in self.heads.values():
            head.start_recording()
        self.config, self.stream = config, ForkedStream(config.seed)

    def learner(self, first: Sequence[Translation]) -> Learner:
        return Learner(self.config, self.host, Plugins(), self.heads, self.stream, first)

    def translation(
        self,
        direction: str = "A2B",
        cycle: bool = True,
        filled: bool = True,
        dtype: torch.dtype = torch.float32,
        **changes: Any,
    ) -> Translation:
        other = "B2A" if direction == "A2B" else "A2B"
        sizes = [(2, self.channels.get(d, 1), 32, 32) for d in (other, direction)]
        source, real = (torch.rand(size, dtype=dtype) * 2 - 1 for size in sizes)
        fake = self.host.nets[direction](source)
        rec = self.host.nets[other](fake) if cycle else None
        masks = _masks(filled)
        return Translation(direction, source, fake, real, rec, masks=masks, real_masks=masks, **changes)


def _clone(module: nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def _moved(module: nn.Module, before: list[Tensor]) -> bool:
    return any(not torch.equal(p, b) for p, b in zip(module.parameters(), before, strict=True))


def test_rates_are_read_at_every_step_and_betas_copied(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2, learning_rate_factor=3.0)))
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    for factor in (1.0, 0.5):
        setup.host.rates = {"generator": 0.01 * factor, "discriminator": 0.02 * factor}
        learner.contribution(step, {"tumor": 1.0, "ggd": 1.0})
        learner.discriminator_step(step, {"tumor": 1.0})
        state = learner.state_dict()
        groups = [o["param_groups"][0] for o in (state["bank_optimizer"], *state["head_optimizers"].values())]
        assert [g["lr"] for g in groups] == pytest.approx([0.02 * factor, 0.03 * factor, 0.03 * factor])
        assert all(tuple(g["betas"]) == (0.4, 0.99) for g in groups)


def test_a_step_moves_what_is_active_and_nothing_else(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    learner.contribution(step, {"tumor": 1.0})
    heads = [setup.heads[d].head for d in ("A2B", "B2A")]
    assert all(head is not None for head in heads)
    before = [_clone(learner.bank), *(_clone(head) for head in heads if head is not None)]
    learner.contribution(step, {"tumor": 1.0})
    assert not any(_moved(m, b) for m, b in zip([learner.bank, *heads], before, strict=True) if m is not None)
    learner.contribution(step, {"ggd": 1.0})
    assert learner.discriminator_step(step, {}) == {}
    assert all(_moved(m, b) for m, b in zip(heads, before[1:], strict=True) if m is not None)
    assert not _moved(learner.bank, before[0])
    losses = learner.discriminator_step(step, {"tumor": 1.0})
    assert set(losses) == {"D_tumor_A2B", "D_tumor_B2A"} and not any(x.requires_grad for x in losses.values())
    assert _moved(learner.bank, before[0])
    assert all(p.grad is None for p in learner.bank.parameters()), "no gradient stays behind"


def test_everything_of_ours_moves_in_one_step_of_one_optimizer(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    moved: list[int] = []
    handle = register_optimizer_step_pre_hook(
        lambda optimizer, *_: moved.append(sum(p.grad is not None for g in optimizer.param_groups for p in g["params"]))
    )
    try:
        for _ in range(2):
            learner.contribution(step, {"tumor": 1.0, "ggd": 1.0})
            learner.discriminator_step(step, {"tumor": 1.0})
    finally:
        handle.remove()
    heads = [head.head for head in setup.heads.values() if head.head is not None]
    assert moved == [sum(len(list(net.parameters())) for net in (learner.bank, *heads))] * 2


def test_an_adam_a_network_would_have_made_the_same_steps(tumor_config: Any) -> None:
    """The oracle is torch's own Adam over each network alone, on the gradients that were used."""
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    for net in setup.host.nets.values():
        net.double()
    step = [setup.translation(dtype=torch.float64), setup.translation("B2A", dtype=torch.float64)]
    learner = setup.learner(step)
    learner.contribution(step, {})
    networks = [learner.bank, *(head.head for head in setup.heads.values() if head.head is not None)]
    assert len(networks) == 3
    copies = [copy.deepcopy(net) for net in networks]
    alone = [
        torch.optim.Adam(net.parameters(), lr=rate, betas=(0.4, 0.99))
        for net, rate in zip(copies, (0.02, 0.01, 0.01), strict=True)
    ]
    used: list[list[Tensor | None]] = []
    handle = register_optimizer_step_pre_hook(
        lambda *_: used.append([p.grad for net in networks for p in net.parameters()])
    )
    try:
        for weights in ({"tumor": 1.0, "ggd": 1.0}, {"ggd": 1.0}, {"tumor": 1.0}):
            learner.contribution(step, weights)
            learner.discriminator_step(step, weights)
    finally:
        handle.remove()
    for gradients in used:
        for parameter, gradient in zip((p for net in copies for p in net.parameters()), gradients, strict=True):
            parameter.grad = gradient
        for optimizer in alone:
            optimizer.step()
    state = learner.state_dict()
    saved = [state["bank_optimizer"], *state["head_optimizers"].values()]
    for ours, theirs, mine, expected in zip(networks, copies, saved, alone, strict=True):
        torch.testing.assert_close(list(ours.parameters()), list(theirs.parameters()), rtol=1e-12, atol=0)
        wanted = expected.state_dict()
        assert mine["state"].keys() == wanted["state"].keys()
        assert mine["param_groups"][0]["params"] == wanted["param_groups"][0]["params"]
        for place, moments in wanted["state"].items():
            torch.testing.assert_close(mine["state"][place], moments, rtol=1e-12, atol=0)


def test_discriminators_learn_from_the_contributions_pass_what_a_pass_of_their_own_would_teach(
    tumor_config: Any, copied: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for in_one_pass in (True, False):
        setup = _Setup(tumor_config(pool_size=1))
        for net in setup.host.nets.values():
            net.double()
        learner = setup.learner([setup.translation(dtype=torch.float64), setup.translation("B2A", dtype=torch.float64)])
        if not in_one_pass:
            monkeypatch.setattr(learner.bank, "step_losses", lambda shown: None)
        for _ in range(3):
            step = [setup.translation(dtype=torch.float64), setup.translation("B2A", dtype=torch.float64)]
            learner.contribution(step, {"tumor": 1.0})
            learner.discriminator_step(step, {"tumor": 1.0})
        found.append(copied(learner.state_dict()))
    for name, value in found[0]["bank"].items():
        torch.testing.assert_close(value, found[1]["bank"][name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found[0]["pools"], found[1]["pools"])


def test_a_step_of_several_forwards_teaches_all_of_them_and_the_next_one_makes_no_pass_in_vain(
    tumor_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = _Setup(tumor_config())
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    passes: list[int] = []
    own, n_forwards = learner.bank.step_losses, 2
    monkeypatch.setattr(learner.bank, "step_losses", lambda shown: passes.append(n_forwards) or own(shown))
    for n_forwards in (2, 2, 1, 1):
        for _ in range(n_forwards):
            learner.contribution(step, {"tumor": 1.0})
        assert set(learner.discriminator_step(step, {"tumor": 1.0}) or {}) == {"D_tumor_A2B", "D_tumor_B2A"}
    assert passes == [2, 1], "in the first step, and again after one of a single forward"


def test_a_head_of_the_hosts_own_keeps_what_the_host_collects_there(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation()]
    learner = setup.learner(step)
    learner.contribution(step, {"ggd": 1.0})
    head = setup.heads["B2A"].head
    assert head is not None
    for parameter in head.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    learner.discriminator_step(step, {})
    assert all((parameter.grad == 7).all() for parameter in head.parameters() if parameter.grad is not None)
    assert all(parameter.grad is not None for parameter in head.parameters())


def test_an_empty_region_moves_neither_weights_nor_moments(tumor_config: Any, copied: Any, differing: Any) -> None:
    setup = _Setup(tumor_config())
    full = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(full)
    learner.discriminator_step(full, {"tumor": 1.0})
    before = copied(learner.state_dict())
    empty = [setup.translation(filled=False), setup.translation("B2A", filled=False)]
    assert learner.discriminator_step(empty, {"tumor": 1.0}) == {}
    assert learner.contribution(empty, {"tumor": 1.0}).value == 0
    assert differing(before, learner.state_dict()) == []


def test_the_head_that_closes_the_cycle_learns_where_one_direction_is_trained(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation()]
    learner = setup.learner(step)
    learner.contribution(step, {"ggd": 1.0})
    head = setup.heads["B2A"].head
    assert head is not None
    before = _clone(head)
    learner.contribution([setup.translation()], {"ggd": 1.0})
    assert _moved(head, before), "by the first forward, before the second one"
    before = _clone(head)
    learner.forget()
    learner.discriminator_step(step, {})
    assert not _moved(head, before), "a step that is forgotten teaches nothing"
    learner.contribution([setup.translation()], {"ggd": 1.0})
    learner.discriminator_step(step, {})
    assert _moved(head, before)
    assert set(learner.state_dict()["head_optimizers"]) == {"A2B", "B2A"}


def test_a_direction_may_join_in_a_later_step(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(), {"A2B": 3, "B2A": 1})
    learner = setup.learner([setup.translation("A2B")])
    for direction in ("A2B", "B2A"):
        step = [setup.translation(direction)]
        assert learner.contribution(step, {"tumor": 1.0}).value > 0
        assert set(learner.discriminator_step(step, {"tumor": 1.0})) == {f"D_tumor_{direction}"}


def test_one_generator_alone_makes_discriminators_of_one_direction(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(), {"A2B": 1})
    learner = setup.learner([setup.translation(cycle=False)])
    assert list(learner.bank.networks) == ["A2B_tumor"]


def test_networks_take_the_precision_of_the_images(tumor_config: Any) -> None:
    for dtype, expected in ((torch.float64, torch.float64), (torch.bfloat16, torch.float32)):
        setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
        for net in setup.host.nets.values():
            net.to(dtype)
        source = torch.rand(2, 1, 32, 32, dtype=dtype)
        fake = setup.host.nets["A2B"](source)
        translation = Translation("A2B", source, fake, source, setup.host.nets["B2A"](fake), masks=_masks())
        learner = setup.learner([translation])
        found = learner.contribution([translation], {"tumor": 1.0, "ggd": 1.0})
        assert {p.dtype for p in learner.bank.parameters()} == {expected}
        assert {gradient.gradient.dtype for gradient in found.gradients} == {expected}
        head = setup.heads["B2A"].head
        assert head is not None and {p.dtype for p in head.parameters()} == {expected}


def test_a_state_restores_networks_moments_and_pools(tumor_config: Any, copied: Any, differing: Any) -> None:
    config = tumor_config(ggd=GGDConfig(hidden_channels=2))
    setup = _Setup(config)
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    learner.contribution(step, {"tumor": 1.0, "ggd": 1.0})
    learner.discriminator_step(step, {"tumor": 1.0})
    state = copied(learner.state_dict())
    other = _Setup(config)
    fresh = other.learner([other.translation()])
    assert differing(state, fresh.state_dict())
    fresh.load_state_dict(state)
    assert differing(state, fresh.state_dict()) == []


def test_a_state_of_other_networks_is_refused_in_one_line(tumor_config: Any, tiny_region: Any, copied: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation()]
    learner = setup.learner(step)
    learner.contribution(step, {"ggd": 1.0})
    state = copied(learner.state_dict())
    others = [
        tumor_config(regions=(tiny_region(base_channels=3),), ggd=GGDConfig(hidden_channels=2)),
        tumor_config(regions=(tiny_region("liver"),), ggd=GGDConfig(hidden_channels=2)),
        tumor_config(ggd=GGDConfig(hidden_channels=3)),
    ]
    for config in others:
        other = _Setup(config)
        first = [other.translation()]
        target = other.learner(first)
        target.contribution(first, {"ggd": 1.0})
        with pytest.raises(CheckpointError, match="must belong to the same regions and networks") as caught:
            target.load_state_dict(state)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError):
        learner.load_state_dict({key: value for key, value in state.items() if key != "pools"})


@pytest.mark.parametrize("optimizer", ["bank_optimizer", "head_optimizers"])
def test_moments_of_another_shape_are_found_when_they_are_read(optimizer: str, tumor_config: Any, copied: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    step = [setup.translation()]
    learner = setup.learner(step)
    learner.contribution(step, {"tumor": 1.0, "ggd": 1.0})
    learner.discriminator_step(step, {"tumor": 1.0})
    state = copied(learner.state_dict())
    saved = state[optimizer] if optimizer == "bank_optimizer" else state[optimizer]["B2A"]
    first = next(iter(saved["state"].values()))
    first["exp_avg"] = first["exp_avg"].flatten()[:1]
    with pytest.raises(CheckpointError, match=r"exp_avg of an optimizer and its parameter are of shapes \[1\] and \["):
        learner.load_state_dict(state)


def test_a_switch_of_an_optimizer_that_is_neither_on_nor_off_is_found_when_it_is_read() -> None:
    """Torch chooses some switches by itself where they are None; others it takes, and fails at the first step."""
    saved = torch.optim.Adam([torch.zeros(1, requires_grad=True)]).state_dict()
    group = saved["param_groups"][0]
    for switch in ("amsgrad", "maximize"):
        with pytest.raises(TypeError, match=f"{switch} of an optimizer is NoneType"):
            adam({**saved, "param_groups": [{**group, switch: None}]})
    adam({**saved, "param_groups": [{**group, "fused": None, "foreach": None}]})


def test_a_state_that_an_adam_without_fused_steps_saved_goes_on_as_if_nothing_had_happened(
    tumor_config: Any, copied: Any
) -> None:
    """Earlier checkpoints come from one; how a step is made is no part of a run's state."""
    config = tumor_config(ggd=GGDConfig(hidden_channels=2))

    def steps(learner: Learner, setup: _Setup) -> None:
        for _ in range(2):
            step = [setup.translation(), setup.translation("B2A")]
            learner.contribution(step, {"tumor": 1.0, "ggd": 1.0})
            learner.discriminator_step(step, {"tumor": 1.0})

    setup = _Setup(config)
    straight = setup.learner([setup.translation(), setup.translation("B2A")])
    steps(straight, setup)
    state, streams = copied(straight.state_dict()), torch.get_rng_state()
    steps(straight, setup)
    for saved in (state["bank_optimizer"], *state["head_optimizers"].values()):
        for group in saved["param_groups"]:
            assert group.keys() >= {"fused", "foreach", "capturable"}
            group.update(fused=None, foreach=None)
    resumed = setup.learner([setup.translation(), setup.translation("B2A")])
    resumed.load_state_dict(state)
    torch.set_rng_state(streams)
    steps(resumed, setup)
    for ours, theirs in zip(straight.bank.parameters(), resumed.bank.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_the_saved_networks_have_the_names_of_networks_that_stand_alone(tumor_config: Any) -> None:
    setup = _Setup(tumor_config())
    step = [setup.translation(), setup.translation("B2A")]
    learner = setup.learner(step)
    learner.contribution(step, {"tumor": 1.0})
    learner.discriminator_step(step, {"tumor": 1.0})
    scale = learner.bank.networks["A2B_tumor"].scales[0]
    names = {f"networks.{d}_tumor.scales.0.{name}" for d in ("A2B", "B2A") for name, _ in scale.named_parameters()}
    saved = learner.state_dict()["bank"]
    assert names <= set(saved) and all(name.split(".")[1] in learner.bank.networks for name in saved)
    assert saved["networks.A2B_tumor.scales.0.model.0.weight"].shape == scale.model[0].weight.shape
