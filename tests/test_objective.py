"""Our terms of the generator's loss: what they are, what they weigh, and what they say when something is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive import (
    Config,
    ConfigError,
    DiscriminatorBank,
    GGDConfig,
    MaskError,
    PluginError,
    Translation,
    hookimpl,
)
from roi_progressive.method.regions import RegionMask
from roi_progressive.plugins.manager import Plugins
from roi_progressive.training.objective import GeneratorObjective, masks_of
from roi_progressive.training.uncertainty import GGDWrapper


class _Setup:
    """Two small generators, one step of a cycle between them, masks with a square, and an objective."""

    def __init__(self, config: Config, plugins: list[Any] | None = None, heads: str = "both") -> None:
        torch.manual_seed(0)
        self.nets = {
            d: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 1, 3, padding=1), nn.Tanh())
            for d in ("A2B", "B2A")
        }
        self.bank = DiscriminatorBank(config)
        named = ("A2B", "B2A") if heads == "both" else (heads,)
        self.heads = {} if config.ggd is None else {d: GGDWrapper(self.nets[d], config.ggd) for d in named}
        for head in self.heads.values():
            head.start_recording()
        mask = torch.zeros(2, 1, 32, 32)
        mask[:, :, 8:18, 10:20] = 1
        self.masks = {"tumor": RegionMask.from_tensor(mask)}
        self.objective = GeneratorObjective(config, self.bank, self.heads, Plugins(plugins or []))

    def translation(self, **changes: Any) -> Translation:
        real_a, real_b = torch.rand(2, 1, 32, 32) * 2 - 1, torch.rand(2, 1, 32, 32) * 2 - 1
        fake = self.nets["A2B"](real_a)
        given = {"reconstruction": self.nets["B2A"](fake), "masks": self.masks, "real_masks": self.masks}
        return Translation("A2B", real_a, fake, real_b, **{**given, **changes})


def _plugin(**terms: Any) -> Any:
    class Plugin:
        @hookimpl
        def roi_generator_losses(self, translation: Translation) -> Mapping[str, Tensor]:
            return {name: make(translation) for name, make in terms.items()}

    return Plugin()


def test_the_value_is_the_weighted_sum_and_the_losses_are_unweighted(tumor_config: Any, tiny_region: Any) -> None:
    config = tumor_config(regions=(tiny_region(weight=0.7),), ggd=GGDConfig(weight=0.2, hidden_channels=2))
    setup = _Setup(config)
    found = setup.objective.contribution([setup.translation()], {"tumor": 0.5, "ggd": 1.0})
    assert set(found.losses) == {"G_tumor_A2B", "ggd_A2B"}
    expected = 0.5 * 0.7 * found.losses["G_tumor_A2B"] + 0.2 * found.losses["ggd_A2B"]
    assert torch.allclose(found.value, expected)
    assert not found.value.requires_grad
    assert {(g.name, g.is_image) for g in found.gradients} == {
        ("the generated image of A2B", True),
        ("the reconstructed image of A2B", True),
        ("the features of generator B2A", False),
    }


def test_float64_stays_float64(tumor_config: Any) -> None:
    setup = _Setup(tumor_config())
    setup.bank.double()
    translation = replace(setup.translation(), fake=torch.rand(2, 1, 32, 32).double().requires_grad_())
    found = setup.objective.contribution([translation], {"tumor": 1.0})
    assert found.value.dtype == found.gradients[0].gradient.dtype == torch.float64


def test_nothing_active_is_nothing_to_inject(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig()))
    for weights in ({}, {"tumor": 0.0, "ggd": 0.0}):
        found = setup.objective.contribution([setup.translation()], weights)
        assert found.value == 0 and found.gradients == []


def test_an_empty_region_is_exactly_nothing(tumor_config: Any) -> None:
    setup = _Setup(tumor_config())
    empty = {"tumor": RegionMask.from_tensor(torch.zeros(2, 1, 32, 32))}
    found = setup.objective.contribution([setup.translation(masks=empty)], {"tumor": 1.0})
    assert (found.value.item(), found.gradients, found.losses) == (0.0, [], {})


def test_no_gradient_is_left_on_any_network_and_the_heads_are_handed_out(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2)))
    found = setup.objective.contribution([setup.translation()], {"tumor": 1.0, "ggd": 1.0})
    head = setup.heads["B2A"].head
    assert head is not None and head.scale.bias is not None
    networks = [setup.bank, *setup.nets.values(), head]
    assert all(parameter.grad is None for net in networks for parameter in net.parameters())
    of_heads = dict(found.of_heads)
    assert set(of_heads) == set(head.parameters()) and of_heads[head.scale.bias].abs().sum() > 0
    assert setup.heads["A2B"].head is None, "the cycle A2B is closed by the other generator"


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"paired": True}, "generated"),
        ({}, "reconstructed"),
        ({"reconstruction": None, "identity": "own"}, "identity"),
    ],
)
def test_auto_lets_the_data_decide(changes: dict[str, Any], name: str, tumor_config: Any) -> None:
    setup = _Setup(tumor_config(regions=(), ggd=GGDConfig(hidden_channels=2)))
    if changes.get("identity"):
        changes = {**changes, "identity": setup.nets["A2B"](torch.rand(2, 1, 32, 32))}
    found = setup.objective.contribution([setup.translation(**changes)], {"ggd": 1.0})
    assert f"the {name} image of A2B" in {g.name for g in found.gradients}


def test_auto_takes_the_identity_where_the_other_generator_is_not_ours(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(regions=(), ggd=GGDConfig(hidden_channels=2)), heads="A2B")
    identity = setup.nets["A2B"](torch.rand(2, 1, 32, 32))
    found = setup.objective.contribution([setup.translation(identity=identity)], {"ggd": 1.0})
    assert "the identity image of A2B" in {g.name for g in found.gradients}


@pytest.mark.parametrize(
    ("target", "heads", "changes", "needs"),
    [
        ("cycle", "both", {"reconstruction": None}, "a reconstruction"),
        ("identity", "both", {}, "an identity image"),
        ("cycle", "A2B", {}, "generator B2A"),
    ],
)
def test_a_missing_target_is_named(
    target: str, heads: str, changes: dict[str, Any], needs: str, tumor_config: Any
) -> None:
    setup = _Setup(tumor_config(regions=(), ggd=GGDConfig(target=target)), heads=heads)
    with pytest.raises(ConfigError, match=rf"`ggd.target` is '{target}' and needs {needs} for A2B"):
        setup.objective.contribution([setup.translation(**changes)], {"ggd": 1.0})


def test_uncertainty_that_nobody_asked_for_by_name_is_left_out_where_the_host_has_no_target(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(target="auto")))
    needs = "a paired truth, a reconstruction or an identity image"
    with pytest.warns(RuntimeWarning, match=f"uncertainty is left out for A2B: .* needs {needs}") as said:
        for _ in range(2):
            found = setup.objective.contribution([setup.translation(reconstruction=None)], {"tumor": 1.0, "ggd": 1.0})
            assert set(found.losses) == {"G_tumor_A2B"}
    assert len(said) == 1


def test_missing_masks_are_named(tumor_config: Any) -> None:
    setup = _Setup(tumor_config())
    with pytest.raises(MaskError, match=r"`masks` of the source images of A2B must hold region 'tumor'; got none"):
        setup.objective.contribution([setup.translation(masks={})], {"tumor": 1.0})
    assert masks_of(setup.masks, "tumor", "x") is setup.masks["tumor"]


def test_a_frozen_generator_takes_no_gradient_and_breaks_nothing(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(ggd=GGDConfig(hidden_channels=2, target="paired")))
    weights = {"tumor": 1.0, "ggd": 1.0}
    setup.nets["A2B"].requires_grad_(False)
    found = setup.objective.contribution([setup.translation(reconstruction=None)], weights)
    assert found.gradients == []
    assert set(found.losses) == {"G_tumor_A2B"}, "which features a head reads is known from a graph only"
    setup.nets["A2B"].requires_grad_(True)
    setup.objective.contribution([setup.translation(reconstruction=None)], weights)
    setup.nets["A2B"].requires_grad_(False)
    found = setup.objective.contribution([setup.translation(reconstruction=None)], weights)
    assert found.gradients == []
    assert set(found.losses) == {"G_tumor_A2B", "ggd_A2B"}


def test_a_plugins_images_take_gradients_but_reach_no_host_parameter(tumor_config: Any) -> None:
    plugin = _plugin(cycle=lambda t: (t.reconstruction - t.source).square().mean() + t.fake.mean())
    setup = _Setup(tumor_config(regions=()), [plugin])
    translation = setup.translation()
    found = setup.objective.contribution([translation], {})
    by_name = {g.name: g for g in found.gradients}
    assert set(by_name) == {"the generated image of A2B", "the reconstructed image of A2B"}
    assert translation.reconstruction is not None
    difference = (translation.reconstruction - translation.source).detach()
    assert torch.allclose(by_name["the reconstructed image of A2B"].gradient, 2 * difference / difference.numel())
    assert all(parameter.grad is None for net in setup.nets.values() for parameter in net.parameters())


def test_a_plugins_constant_is_counted_and_gives_no_gradient(tumor_config: Any) -> None:
    setup = _Setup(tumor_config(regions=()), [_plugin(none=lambda t: torch.zeros(()), two=lambda t: torch.tensor(2.0))])
    found = setup.objective.contribution([setup.translation()], {})
    assert found.value == 2 and found.gradients == []


@pytest.mark.parametrize(
    ("plugin", "match"),
    [
        (_plugin(G_tumor=lambda t: t.fake.mean()), r"plugin '.+' returns 'G_tumor', which is taken"),
        (_plugin(wide=lambda t: t.fake), r"got \[2, 1, 32, 32\]"),
        (_plugin(number=lambda t: 1.0), "got float for 'number'"),
    ],
)
def test_a_plugins_term_must_be_a_scalar_with_a_name_of_its_own(plugin: Any, match: str, tumor_config: Any) -> None:
    setup = _Setup(tumor_config(), [plugin])
    with pytest.raises(PluginError, match=match):
        setup.objective.contribution([setup.translation()], {"tumor": 1.0})
