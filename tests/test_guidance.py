"""The session's networks in the host's step: built late, collected once, warned about by name, gone afterwards."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive import Adapter, Config, GGDConfig, Translation, hookimpl
from roi_progressive.errors import PluginError
from roi_progressive.method.regions import RegionMask
from roi_progressive.plugins.manager import Plugins
from roi_progressive.training.guidance import MOST_FORWARDS, Guidance

WEIGHTS = {"tumor": 1.0}


class _Host(Adapter):
    def __init__(self) -> None:
        torch.manual_seed(0)
        self.nets = {d: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Conv2d(3, 1, 1)) for d in ("A2B", "B2A")}
        self.asked = 0

    def generators(self) -> Mapping[str, nn.Module]:
        self.asked += 1
        return self.nets

    def translations(self, masks: Any) -> Sequence[Translation]:
        return ()

    def install(self, session: Any, patches: Any) -> None:
        pass

    def learning_rates(self) -> Mapping[str, float]:
        return {"generator": 0.01, "discriminator": 0.01}

    def made(self, direction: str = "A2B", seed: int = 1) -> Translation:
        chance = torch.Generator().manual_seed(seed)
        source, real = (torch.rand(2, 1, 32, 32, generator=chance) * 2 - 1 for _ in range(2))
        mask = torch.zeros(2, 1, 32, 32)
        mask[:, :, 10:20, 8:18] = 1
        masks = {"tumor": RegionMask.from_tensor(mask)}
        fake = self.nets[direction](source)
        other = self.nets["B2A" if direction == "A2B" else "A2B"]
        return Translation(direction, source, fake, real, other(fake), masks=masks, real_masks=masks)

    def gradient(self) -> torch.Tensor:
        weight = self.nets["A2B"][1].weight
        assert weight.grad is not None
        found: torch.Tensor = weight.grad.clone()
        weight.grad = None
        return found


@pytest.fixture
def host() -> _Host:
    return _Host()


class _Dice:
    """A plugin whose discriminators draw random numbers in every step."""

    @hookimpl
    def roi_discriminator(self, in_channels: int) -> nn.Module:
        layers = [nn.Conv2d(in_channels, 2, 3, 2, 1), nn.Dropout(0.5), nn.Conv2d(2, 1, 3, 2, 1)]
        return nn.Sequential(*layers)


class _Raising(nn.Module):
    def forward(self, image: Tensor) -> Tensor:
        raise ArithmeticError("no")


class _Lying(nn.Conv2d):
    """Tells of a network of other strides, of kernels larger than its windows, or nothing that can be read."""

    def __init__(self, *geometry: Any) -> None:
        super().__init__(1, 1, 3)
        self.geometry = geometry


def _guidance(host: _Host, config: Config, *plugins: Any) -> Guidance:
    return Guidance(config, host, Plugins(plugins))


def test_networks_are_built_at_the_first_active_step_only(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config())
    guidance.start()
    assert guidance.contribute([host.made()], {}, in_loss=False) == 0
    assert not guidance.finish({})
    assert guidance.state_dict()["learner"] is None
    guidance.start()
    loss = guidance.contribute([made := host.made()], WEIGHTS, in_loss=False)
    assert loss > 0
    made.fake.mean().backward()
    assert guidance.finish(WEIGHTS)
    assert guidance.state_dict()["learner"] is not None
    assert set(guidance.losses) == {"G_tumor_A2B", "D_tumor_A2B"}


def test_our_gradient_is_the_same_through_a_hosts_backward_and_through_the_returned_scalar(
    host: _Host, tumor_config: Any
) -> None:
    guidance = _guidance(host, tumor_config(pool_size=0))
    gradients = []
    for from_script in (False, True):
        guidance.start()
        made = host.made()
        value = guidance.contribute([made], WEIGHTS, in_loss=from_script)
        (made.fake.square().mean() + (value if from_script else 0)).backward()
        gradients.append(host.gradient())
        guidance.abandon()
    host.made().fake.square().mean().backward()
    alone = host.gradient()
    assert torch.equal(gradients[0], gradients[1])
    assert not torch.equal(gradients[0], alone)


@pytest.mark.parametrize("from_script", [False, True])
def test_a_scaled_loss_scales_ours_alike(from_script: bool, host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(pool_size=0))
    gradients = []
    for scale in (1.0, 1024.0):
        guidance.start()
        made = host.made()
        value = guidance.contribute([made], WEIGHTS, in_loss=from_script)
        loss = made.fake.square().mean() + made.fake.mean()  # of a single term, a factor may be its weight
        ((loss + value if from_script else loss) * scale).backward()
        gradients.append(host.gradient() / scale)
        guidance.abandon()
    assert torch.allclose(gradients[0], gradients[1], rtol=1e-6)


def test_balance_caps_ours_at_a_share_of_the_hosts(host: _Host, tumor_config: Any) -> None:
    shares = {}
    for balance in (None, 0.25):
        guidance = _guidance(host, tumor_config(balance=balance, pool_size=0))
        guidance.start()
        made = host.made()
        seen: list[torch.Tensor] = []
        made.fake.register_hook(seen.append)
        made = replace(made, fake=made.fake * 1.0)  # what arrives here passes on to where it is seen
        guidance.contribute([made], WEIGHTS, in_loss=False)
        (1e-6 * made.fake.sum()).backward()
        guidance.abandon()
        alone = torch.full_like(seen[0], 1e-6)
        shares[balance] = float((seen[0] - alone).norm() / alone.norm())
    assert shares[None] > 1
    assert shares[0.25] == pytest.approx(0.25, rel=1e-3)


# --- warnings ---------------------------------------------------------------------------------------------------------


def test_a_gradient_nobody_collects_is_named(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config())
    guidance.start()
    guidance.contribute([host.made()], WEIGHTS, in_loss=True)
    with pytest.warns(RuntimeWarning, match="generated image of A2B was never collected"):
        guidance.finish(WEIGHTS)


def test_directions_may_come_one_after_the_other(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(pool_size=0))
    gradients = []
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for apart in (False, True):
            guidance.start()
            both = [host.made("A2B"), host.made("B2A", seed=2)]
            groups = [[one] for one in both] if apart else [both]
            ours = sum(guidance.contribute(group, WEIGHTS, in_loss=True) for group in groups)
            (sum(one.fake.square().mean() for one in both) + ours).backward()
            gradients.append(host.gradient())
            if apart:
                assert guidance.finish(WEIGHTS)
                assert set(guidance.losses) == {f"{s}_tumor_{d}" for s in "GD" for d in ("A2B", "B2A")}
            else:
                guidance.abandon()
    # Both at once, two networks share a convolution, which may add in another order.
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-7)


def test_a_step_a_script_never_finishes_does_not_pile_up(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config())
    guidance.start()
    for step in range(MOST_FORWARDS + 3):
        made = host.made(seed=step)
        ours = guidance.contribute([made], WEIGHTS, in_loss=True)
        (made.fake.mean() + ours).backward()
    assert len(guidance._translations) == len(guidance._injections) == MOST_FORWARDS


def test_a_forward_that_nobody_trains_on_adds_nothing_and_is_not_named(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(pool_size=0))
    guidance.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guidance.contribute([host.made()], WEIGHTS, in_loss=False)
        made = host.made()
        guidance.contribute([made], WEIGHTS, in_loss=False)
        made.fake.mean().backward()
        twice = host.gradient()
        guidance.finish(WEIGHTS)
    guidance = _guidance(host, tumor_config(pool_size=0))
    guidance.start()
    made = host.made()
    guidance.contribute([made], WEIGHTS, in_loss=False)
    made.fake.mean().backward()
    assert torch.equal(twice, host.gradient())


def test_the_discriminators_learn_from_all_forwards_of_a_step_as_from_one_batch(host: _Host, tumor_config: Any) -> None:
    banks = []
    for apart in (True, False):
        guidance = _guidance(host, tumor_config(pool_size=0))
        guidance.start()
        forwards = [host.made(seed=1), host.made(seed=2)]
        together = replace(
            forwards[0],
            **{name: torch.cat([getattr(t, name) for t in forwards]) for name in ("source", "fake", "real")},
            reconstruction=None,
            **{
                name: {"tumor": RegionMask.joined([getattr(t, name)["tumor"] for t in forwards])}
                for name in ("masks", "real_masks")
            },
        )
        for translation in forwards if apart else [together]:
            guidance.contribute([translation], WEIGHTS, in_loss=False)
            translation.fake.mean().backward()
        assert guidance.finish(WEIGHTS)
        banks.append(guidance.networks()[-1].state_dict())
    for one, other in zip(banks[0].values(), banks[1].values(), strict=True):
        torch.testing.assert_close(one, other)


def test_forwards_of_different_sizes_are_learnt_from_one_after_the_other(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(pool_size=0))
    guidance.start()
    small = host.made()
    cut = {name: getattr(small, name)[..., :24] for name in ("source", "fake", "real")}
    masks = {"tumor": RegionMask.from_tensor(small.masks["tumor"].mask[..., :24])}
    narrow = replace(small, **cut, reconstruction=None, masks=masks, real_masks=masks)
    for translation in (small, narrow):
        guidance.contribute([translation], WEIGHTS, in_loss=False)
        translation.fake.mean().backward(retain_graph=True)
    assert guidance.finish(WEIGHTS)
    optimizer = guidance.state_dict()["learner"]["bank_optimizer"]
    assert {float(moments["step"]) for moments in optimizer["state"].values()} == {2.0}


# --- nothing is kept --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("in_loss", [True, False])
def test_the_graph_dies_with_the_hosts_last_reference(in_loss: bool, host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(ggd=GGDConfig(hidden_channels=2)))
    guidance.start()
    made = host.made()
    assert made.reconstruction is not None
    seen = [weakref.ref(made.fake), weakref.ref(made.reconstruction)]
    value = guidance.contribute([made], {"tumor": 1.0, "ggd": 1.0}, in_loss=in_loss)
    (made.reconstruction.mean() + value * in_loss).backward()
    guidance.finish(WEIGHTS)
    del made, value
    gc.collect()
    assert [ref() for ref in seen] == [None, None]


def test_what_waits_for_the_discriminators_holds_no_graph(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config())
    guidance.start()
    guidance.contribute([host.made()], WEIGHTS, in_loss=False)
    ((waiting,),) = guidance._translations
    assert waiting.reconstruction is None and waiting.identity is None
    assert waiting.fake.grad_fn is None and not waiting.fake.requires_grad
    guidance.abandon()


def test_abandoning_and_closing_warn_of_nothing_and_take_the_hooks_away(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(ggd=GGDConfig(hidden_channels=2)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for end in (guidance.abandon, guidance.close):
            guidance.start()
            made = host.made()
            guidance.contribute([made], {"tumor": 1.0, "ggd": 1.0}, in_loss=False)
            end()
            made.fake.mean().backward()
            with_us = host.gradient()
            host.made().fake.mean().backward()
            assert torch.equal(with_us, host.gradient())
    assert all(not module._forward_hooks for net in host.nets.values() for module in net.modules())


def test_generators_are_looked_up_at_the_first_step_and_only_for_uncertainty(host: _Host, tumor_config: Any) -> None:
    guidance = _guidance(host, tumor_config(ggd=GGDConfig()))
    assert host.asked == 0
    guidance.start()
    guidance.start()
    assert host.asked == 1
    without = _guidance(host, tumor_config())
    without.start()
    assert host.asked == 1


# --- state ------------------------------------------------------------------------------------------------------------


def _step(guidance: Guidance, host: _Host, seed: int) -> None:
    weights = {"tumor": 1.0, "ggd": 1.0}
    guidance.start()
    made = [host.made("A2B", seed), host.made("B2A", seed + 100)]
    guidance.contribute(made, weights, in_loss=False)
    sum(one.fake.mean() + one.reconstruction.mean() for one in made if one.reconstruction is not None).backward()
    guidance.finish(weights)


def test_a_state_waits_until_the_networks_are_built(
    host: _Host, tumor_config: Any, copied: Any, differing: Any
) -> None:
    config = tumor_config(ggd=GGDConfig(hidden_channels=2))
    straight = _guidance(host, config, _Dice())
    for seed in range(2):
        _step(straight, host, seed)
    state = copied(straight.state_dict())
    _step(straight, host, 2)
    resumed = _guidance(host, config, _Dice())
    resumed.load_state_dict(state)
    assert differing(state, resumed.state_dict()) == [], "saved again before any step, it is the same"
    _step(resumed, host, 2)
    assert differing(straight.state_dict(), resumed.state_dict()) == []
    resumed.load_state_dict(state)  # the state itself is not trained on
    _step(resumed, host, 2)
    assert differing(straight.state_dict(), resumed.state_dict()) == []


def test_a_state_from_before_the_first_step_brings_back_the_beginning(
    host: _Host, tumor_config: Any, copied: Any, differing: Any
) -> None:
    guidance = _guidance(host, tumor_config(ggd=GGDConfig(hidden_channels=2)))
    beginning, runs = copied(guidance.state_dict()), []
    for _ in range(2):
        guidance.load_state_dict(beginning)
        for seed in range(2):
            _step(guidance, host, seed)
        runs.append(copied(guidance.state_dict()))
    assert differing(*runs) == []


def test_the_seed_decides_our_first_weights(host: _Host, tumor_config: Any, differing: Any) -> None:
    states = []
    for seed, host_seed in ((0, 5), (0, 6), (1, 5)):
        torch.manual_seed(host_seed)
        guidance = _guidance(host, replace(tumor_config(ggd=GGDConfig(hidden_channels=2)), seed=seed))
        guidance.start()
        guidance.contribute([host.made()], WEIGHTS, in_loss=False)
        guidance.abandon()
        states.append(guidance.state_dict()["learner"])
    assert differing(states[0]["bank"], states[1]["bank"]) == []
    assert differing(states[0]["heads"], states[1]["heads"]) == []
    assert differing(states[0]["bank"], states[2]["bank"]) and differing(states[0]["heads"], states[2]["heads"])


@pytest.mark.parametrize(
    ("network", "kind", "told"),
    [
        (nn.Flatten(), PluginError, "Flatten of plugin 'theirs' returned [2, "),
        (_Lying((4, 2, 1)), PluginError, "`geometry` of _Lying of plugin 'theirs' must give its map of logits, [2, 1,"),
        (
            _Lying((64, 64, 0)),
            PluginError,
            "`geometry` of _Lying of plugin 'theirs' must give its map of logits, [2, 1,",
        ),
        (_Lying(4, 2), PluginError, "`geometry` of _Lying of plugin 'theirs' must give its map of logits, [2, 1,"),
        (_Raising(), ArithmeticError, "raised in _Raising of plugin 'theirs', hook roi_discriminator"),
    ],
    ids=["no-map", "other-strides", "large-kernel", "no-geometry", "raises"],
)
def test_a_plugins_network_that_fails_is_told_with_the_plugin(
    host: _Host, tumor_config: Any, tiny_region: Any, network: nn.Module, kind: type[Exception], told: str
) -> None:
    theirs = ModuleType("theirs")
    theirs.roi_discriminator = hookimpl(lambda region: network)  # type: ignore[attr-defined]
    guidance = _guidance(host, tumor_config(regions=(tiny_region(scales=1),)), theirs)
    guidance.start()
    with pytest.raises(kind) as caught:
        guidance.contribute([host.made()], WEIGHTS, in_loss=False)
    assert told in "; ".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
