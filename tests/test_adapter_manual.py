"""Plain scripts: two generators, one added term, one added call; exact, and clear about what is missing."""

from __future__ import annotations

import copy
import itertools
import warnings
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive import (
    Config,
    ConfigError,
    DiscriminatorBank,
    GGDConfig,
    GGDHead,
    MaskError,
    StageConfig,
    UNetGenerator,
    attach,
    ggd_nll,
)
from roi_progressive.host import ResnetGenerator
from roi_progressive.method.regions import RegionMask


class _Script:
    """The state of a plain CycleGAN script; its loss is reconstruction plus a whole-image term."""

    def __init__(self, kind: str = "resnet", dtype: torch.dtype = torch.float32, lr: float = 1e-3) -> None:
        torch.manual_seed(0)
        made = [ResnetGenerator(1, 1, 4, 1) if kind == "resnet" else UNetGenerator(1, 1, 4, 2) for _ in range(2)]
        self.G_AB, self.G_BA = (net.to(dtype) for net in made)
        self.optimizer = torch.optim.Adam(
            itertools.chain(self.G_AB.parameters(), self.G_BA.parameters()), lr=lr, betas=(0.5, 0.9)
        )
        self.real_A, self.real_B = (torch.rand(2, 1, 32, 32, dtype=dtype) * 2 - 1 for _ in range(2))
        mask = torch.zeros(2, 1, 32, 32)
        mask[0, :, 8:18, 10:20] = 1
        self.masks = {"tumor": mask}

    @property
    def generators(self) -> dict[str, nn.Module]:
        return {"A2B": self.G_AB, "B2A": self.G_BA}

    def forward(self) -> dict[str, Tensor]:
        made = {"real_A": self.real_A, "real_B": self.real_B}
        made["fake_B"], made["fake_A"] = self.G_AB(self.real_A), self.G_BA(self.real_B)
        made["rec_A"], made["rec_B"] = self.G_BA(made["fake_B"]), self.G_AB(made["fake_A"])
        return made

    def own_loss(self, made: Mapping[str, Tensor]) -> Tensor:
        cycle = (made["rec_A"] - self.real_A).abs().mean() + (made["rec_B"] - self.real_B).abs().mean()
        return cycle + made["fake_B"].square().mean() + made["fake_A"].square().mean()


def _config(tumor_config: Any, **changes: Any) -> Config:
    return tumor_config(**{"ggd": GGDConfig(hidden_channels=4), "pool_size": 0, **changes})


@pytest.mark.parametrize("kind", ["resnet", "unet"])
def test_the_added_term_is_the_loss_written_out_by_hand(kind: str, tumor_config: Any, copied: Any) -> None:
    config = _config(tumor_config)
    script = _Script(kind, torch.float64)
    with attach(script.generators, config=config, n_epochs=2) as session:
        session.start_epoch(0)
        for step in range(4):
            before = copied(session.state_dict()["guidance"]["learner"])
            twin = copy.deepcopy(script)
            made = script.forward()
            ours = session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
            script.optimizer.zero_grad()
            (script.own_loss(made) + ours).backward()
            if step > 0:
                by_hand = _our_terms(twin, before, config)
                expected = twin.own_loss(twin.forward()) + by_hand
                names = [n for n, _ in twin.G_AB.named_parameters() if "ggd_head" not in n]
                for net, reference in ((script.G_AB, twin.G_AB), (script.G_BA, twin.G_BA)):
                    theirs, mine = dict(reference.named_parameters()), dict(net.named_parameters())
                    found = torch.autograd.grad(expected, [theirs[n] for n in names], retain_graph=True)
                    largest = max(float(g.abs().max()) for g in found)
                    for name, gradient in zip(names, found, strict=True):
                        assert float((mine[name].grad - gradient).abs().max()) <= 1e-10 * largest
                assert ours.item() == pytest.approx(by_hand.item(), rel=1e-12)
            script.optimizer.step()
            session.discriminator_step()


def _our_terms(twin: _Script, learner: Mapping[str, Any], config: Config) -> Tensor:
    bank = DiscriminatorBank(config).double()
    bank.load_state_dict(learner["bank"])
    masks, made, total = RegionMask.from_tensor(twin.masks["tumor"]), twin.forward(), torch.zeros(()).double()
    assert config.ggd is not None
    for direction, fake, other, rec, real in (
        ("A2B", made["fake_B"], twin.G_BA, None, twin.real_A),
        ("B2A", made["fake_A"], twin.G_AB, None, twin.real_B),
    ):
        adversarial = bank.generator_loss(direction, "tumor", fake, masks)
        assert adversarial is not None
        if isinstance(other, UNetGenerator):
            rec, scale, shape = other.distribution(fake)
        else:
            state = learner["heads"]["B2A" if direction == "A2B" else "A2B"]
            head = GGDHead(4, 1, hidden_channels=4).double()
            head.load_state_dict(state)
            features = other.layers[:-2](fake)
            rec = other.layers[-2:](features)
            scale, shape = (m[..., 3:-3, 3:-3] for m in head(features))
        total = total + adversarial + config.ggd.weight * ggd_nll(rec - real, scale, shape)
    return total


def test_without_an_active_term_the_result_is_zero_and_the_run_the_plain_one(tumor_config: Any) -> None:
    config = _config(tumor_config, ggd=None, stages=StageConfig(from_epochs=(9,)))
    config = Config.from_mapping(
        {**config.to_mapping(), "regions": [{**config.to_mapping()["regions"][0], "stage": 2}]}
    )
    weights = []
    for guided in (False, True):
        script = _Script()
        session = attach(script.generators, config=config, n_epochs=10) if guided else None
        for _ in range(3):
            made = script.forward()
            loss = script.own_loss(made)
            if session is not None:
                session.start_epoch(0)
                ours = session.generator_loss(**made)
                assert ours.item() == 0.0
                loss = loss + ours
            script.optimizer.zero_grad()
            loss.backward()
            script.optimizer.step()
            if session is not None:
                session.discriminator_step()
        weights.append([*script.G_AB.parameters(), torch.get_rng_state()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_a_batch_without_tumor_gives_exactly_zero(tumor_config: Any, copied: Any, differing: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config, ggd=None), n_epochs=2) as session:
        session.start_epoch(0)
        made = script.forward()
        ours = session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
        (script.own_loss(made) + ours).backward()
        session.discriminator_step()
        before = copied(session.state_dict()["guidance"]["learner"])
        empty = {"tumor": torch.zeros(2, 1, 32, 32)}
        made = script.forward()
        script.optimizer.zero_grad()
        ours = session.generator_loss(**made, masks_A=empty, masks_B=empty)
        (script.own_loss(made) + ours).backward()
        assert ours.item() == 0.0
        gradients = [p.grad.clone() for p in script.G_AB.parameters()]
        session.discriminator_step()
        assert differing(before, session.state_dict()["guidance"]["learner"]) == []
        script.optimizer.zero_grad()
        script.own_loss(script.forward()).backward()
        assert all(torch.equal(a, p.grad) for a, p in zip(gradients, script.G_AB.parameters(), strict=True))


def test_the_discriminators_get_no_gradient_from_the_generators_loss(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config), n_epochs=2) as session:
        session.start_epoch(0)
        made = script.forward()
        (script.own_loss(made) + session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)).backward()
        learner = session._guidance._learner
        assert learner is not None
        assert all(parameter.grad is None for parameter in learner.bank.parameters())


def test_forgetting_to_add_the_loss_warns_by_name(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config, ggd=None), n_epochs=2) as session:
        session.start_epoch(0)
        made = script.forward()
        session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
        script.own_loss(made).backward()
        with pytest.warns(RuntimeWarning, match=r"image of (A2B|B2A) was never collected.*generator_loss"):
            session.discriminator_step()


def test_forgetting_the_discriminators_step_warns_by_name(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config), n_epochs=2) as session:
        session.start_epoch(0)
        for _ in range(2):
            made = script.forward()
            ours = session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
            (script.own_loss(made) + ours).backward()
        with pytest.warns(RuntimeWarning, match=r"no step was guided in epoch 0; .*discriminator_step\(\) was never"):
            session.start_epoch(1)


def test_only_uncertainty_needs_no_discriminators_step(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config, regions=()), n_epochs=2) as session:
        session.start_epoch(0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for _ in range(3):
                made = script.forward()
                (script.own_loss(made) + session.generator_loss(**made)).backward()
        assert set(session.losses()) == {"ggd_A2B", "ggd_B2A"}


def test_one_direction_alone_will_do(tumor_config: Any) -> None:
    script = _Script()
    generators = {"A2B": script.G_AB}
    with attach(generators, config=_config(tumor_config, ggd=GGDConfig(hidden_channels=4)), n_epochs=2) as session:
        session.start_epoch(0)
        for _ in range(2):
            fake = script.G_AB(script.real_A)
            ours = session.generator_loss(
                real_A=script.real_A, fake_B=fake, real_B=script.real_B, masks_A=script.masks, masks_B=script.masks,
                paired=True,
            )  # fmt: skip
            script.optimizer.zero_grad()
            (fake.square().mean() + ours).backward()
            script.optimizer.step()
            session.discriminator_step()
        assert set(session.losses()) == {"G_tumor_A2B", "D_tumor_A2B", "ggd_A2B"}
        assert session.uncertainty(script.real_A).sigma.shape == (2, 1, 32, 32)
        with pytest.raises(ConfigError, match="one of A2B; got 'B2A'"):
            session.uncertainty(script.real_B, "B2A")


# --- what is missing is named -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("missing", [("real_A",), ("real_B",), ("fake_A", "fake_B")])
def test_missing_images_are_an_error(missing: tuple[str, ...], tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config), n_epochs=2) as session:
        session.start_epoch(0)
        made = {name: image for name, image in script.forward().items() if name not in missing}
        with pytest.raises(ConfigError, match="`real_A`, `real_B` and at least one of `fake_B`, `fake_A`"):
            session.generator_loss(**made)


def test_missing_masks_are_an_error_where_the_region_is_active(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config, ggd=None), n_epochs=2) as session:
        session.start_epoch(0)
        made = script.forward()
        with pytest.raises(MaskError, match=r"`masks` of the source images of A2B must hold region 'tumor'; got none"):
            session.generator_loss(**made)
        with pytest.raises(MaskError, match=r"source images of B2A .* got \['liver'\]"):
            session.generator_loss(**made, masks_A=script.masks, masks_B={"liver": script.masks["tumor"]})


def test_an_image_cut_off_from_its_generator_is_an_error(tumor_config: Any) -> None:
    script = _Script()
    with attach(script.generators, config=_config(tumor_config), n_epochs=2) as session:
        session.start_epoch(0)
        made = script.forward()
        with pytest.raises(ConfigError, match=r"`fake_B` must be the generator's own output"):
            session.generator_loss(**{**made, "fake_B": made["fake_B"].detach()})


def test_a_closed_session_says_so(tumor_config: Any) -> None:
    script = _Script()
    session = attach(script.generators, config=_config(tumor_config), n_epochs=2)
    session.close()
    session.discriminator_step()
    with pytest.raises(ConfigError, match="closed"):
        session.start_epoch(0)
    with pytest.raises(ConfigError, match="closed"):
        session.generator_loss(**script.forward())
    assert all(not module._forward_hooks for module in script.G_AB.modules())


def test_a_data_set_is_of_no_use_to_a_script(tumor_config: Any) -> None:
    script = _Script()
    with pytest.raises(MaskError, match=r"plain script.*`generator_loss`"):
        attach(script.generators, [1, 2], _config(tumor_config), n_epochs=2)


@pytest.mark.parametrize(
    ("host", "match"),
    [
        ({}, "got none"),
        ({"AtoB": nn.Conv2d(1, 1, 1)}, r"got \['AtoB'\]"),
        ({"A2B": "net.pt"}, r"`host\['A2B'\]` must be a torch module; got str"),
        ({"A2B": nn.Conv2d(1, 1, 1)}, "make the optimizers before"),
    ],
)
def test_what_is_no_generator_or_has_no_optimizer_is_an_error(host: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        attach(host, config=Config(), n_epochs=2)


# --- the optimizer ----------------------------------------------------------------------------------------------------


def test_the_optimizer_is_found_by_its_parameters_and_its_rate_followed(tumor_config: Any) -> None:
    others = [torch.optim.SGD(nn.Conv2d(1, 1, 1).parameters(), lr=0.7) for _ in range(3)]
    script = _Script(lr=0.004)
    others += [torch.optim.SGD(nn.Conv2d(1, 1, 1).parameters(), lr=0.7) for _ in range(3)]
    with attach(script.generators, config=_config(tumor_config), n_epochs=2) as session:
        assert [id(optimizer) for optimizer in session._adapter._optimizers] == [id(script.optimizer)]
        session.start_epoch(0)
        for rate in (0.004, 0.001):
            script.optimizer.param_groups[0]["lr"] = rate
            made = script.forward()
            ours = session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
            (script.own_loss(made) + ours).backward()
            session.discriminator_step()
            learner = session.state_dict()["guidance"]["learner"]
            for saved in (learner["bank_optimizer"], *learner["head_optimizers"].values()):
                assert saved["param_groups"][0]["lr"] == rate
                assert tuple(saved["param_groups"][0]["betas"]) == (0.5, 0.9)
    assert all(other.param_groups[0]["lr"] == 0.7 for other in others)


def test_the_generators_group_counts_where_an_optimizer_has_several() -> None:
    generator, judge = nn.Conv2d(1, 1, 1), nn.Conv2d(1, 1, 1)
    groups = [{"params": judge.parameters(), "lr": 0.5}, {"params": generator.parameters(), "lr": 0.1}]
    _kept = torch.optim.Adam(groups)
    with attach({"A2B": generator}, config=Config(regions=(), ggd=None), n_epochs=1) as session:
        assert session._adapter.learning_rates()["generator"] == 0.1


def test_the_optimizer_of_an_earlier_sessions_head_is_not_taken_for_the_scripts(tumor_config: Any) -> None:
    script = _Script("unet")
    earlier = []
    for rate in (0.001, 0.01):
        script.optimizer.param_groups[0]["lr"] = rate
        session = attach(script.generators, config=_config(tumor_config), n_epochs=2)
        assert session._adapter.learning_rates()["generator"] == rate
        session.start_epoch(0)
        made = script.forward()
        ours = session.generator_loss(**made, masks_A=script.masks, masks_B=script.masks)
        (script.own_loss(made) + ours).backward()
        session.close()
        script.optimizer.param_groups[0]["lr"] = 0.5
        earlier.append(session)


def test_an_optimizer_without_betas_leaves_adams_usual_ones() -> None:
    generator = nn.Conv2d(1, 1, 1)
    _kept = torch.optim.SGD(generator.parameters(), lr=0.1)
    with attach({"A2B": generator}, config=Config(regions=(), ggd=None), n_epochs=1) as session:
        assert session._adapter.betas() == (0.5, 0.999)


def test_exact_keeps_the_moments_of_every_generators_optimizer(copied: Any, differing: Any) -> None:
    nets = {"A2B": nn.Conv2d(1, 1, 1), "B2A": nn.Conv2d(1, 1, 1)}
    optimizers = [torch.optim.Adam(net.parameters()) for net in nets.values()]
    config = Config(regions=(), ggd=None, resume="exact")
    with attach(nets, config=config, n_epochs=1) as session:
        for net, optimizer in zip(nets.values(), optimizers, strict=True):
            net(torch.ones(1, 1, 2, 2)).sum().backward()
            optimizer.step()
        state = copied(session.state_dict())
        moments = [copied(optimizer.state_dict()["state"]) for optimizer in optimizers]
        for optimizer in optimizers:
            optimizer.step()
        session.load_state_dict(state)
        assert differing(moments, [optimizer.state_dict()["state"] for optimizer in optimizers]) == []
