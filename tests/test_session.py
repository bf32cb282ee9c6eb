"""The session on the bundled host: invisible when inert, exact when active, gone when closed."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import roi_progressive
from roi_progressive import (
    Adapter,
    Config,
    ConfigError,
    DiscriminatorBank,
    GGDConfig,
    GGDHead,
    HostNotSupportedError,
    MaskError,
    StageConfig,
    attach,
    ggd_nll,
    hookimpl,
)
from roi_progressive.host import CycleGANModel
from roi_progressive.host import dataset as dataset_module
from roi_progressive.method.discriminators import PatchDiscriminator
from roi_progressive.method.regions import RegionMask
from roi_progressive.method.shown import Shown
from roi_progressive.method.stages import Stage

INERT = Config(regions=(), ggd=None)
DIRECTIONS = ("A2B", "B2A")


def _batches(loader: Any, count: int) -> list[Any]:
    found: list[Any] = []
    while len(found) < count:
        found += list(loader)
    return found[:count]


def _step(model: CycleGANModel, batch: Mapping[str, Any]) -> None:
    model.set_input(batch)
    model.optimize_parameters()


def _no_tumor() -> Any:
    class NoTumor:
        @hookimpl
        def roi_masks(self, path: Path, regions: Any) -> dict[str, Path | None]:
            return dict.fromkeys(regions)

    return NoTumor()


# --- inert is invisible -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [0, 2])
def test_a_session_without_active_terms_changes_no_bit_of_the_host(
    num_threads: int, build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    model, loader = build_host(num_threads=num_threads)
    train(model, loader, None, range(1, 3))
    plain = state_of(model)

    later = StageConfig(from_epochs=(50,))
    regions = (replace(tumor_config().regions[0], stage=2),)
    configs = [INERT] if num_threads == 0 else []
    configs.append(tumor_config(regions=regions, ggd=GGDConfig(stage=2), stages=later))
    for config in configs:
        model, loader = build_host(num_threads=num_threads)
        with attach(model, loader, config) as session:
            train(model, loader, session, range(1, 3))
            assert session.losses() == {}
            assert differing(plain, state_of(model)) == []


def test_an_active_session_changes_the_generators_and_leaves_the_random_streams_alone(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    model, loader = build_host()
    train(model, loader, None, range(1, 3))
    plain = state_of(model)
    model, loader = build_host()
    with attach(model, loader, tumor_config(ggd=GGDConfig())) as session:
        train(model, loader, session, range(1, 3))
    guided = state_of(model)
    assert differing(plain["networks"]["G_A"], guided["networks"]["G_A"])
    for stream in ("python", "numpy", "torch"):
        assert differing(plain[stream], guided[stream]) == []


# --- detach leaves no trace -------------------------------------------------------------------------------------------


def _attributes(model: CycleGANModel, loader: Any) -> dict[str, dict[str, int]]:
    owners: dict[str, Any] = {
        "model": model,
        "loader": loader,
        "dataloader": loader.dataloader,
        "dataset": loader.dataset,
        "module": dataset_module,
    }
    found = {name: {key: id(value) for key, value in vars(owner).items()} for name, owner in owners.items()}
    for net in (model.netG_A, model.netG_B):
        for name, module in net.named_modules():
            hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks)
            found[f"{id(net)}.{name}"] = {"class": id(type(module)), "hooks": sum(map(len, hooks))}
    return found


def test_closing_restores_every_attribute(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host(netG="resnet")
    before = _attributes(model, loader)
    batch = next(iter(loader))
    session = attach(model, loader, tumor_config(ggd=GGDConfig()))
    assert _attributes(model, loader) != before
    session.uncertainty(batch["A"])
    session.close()
    assert _attributes(model, loader) == before
    session.close()
    assert _attributes(model, loader) == before


def test_closing_after_training_leaves_only_the_hosts_own_attributes(
    build_host: Any, tumor_config: Any, train: Any
) -> None:
    model, loader = build_host()
    train(model, loader, None, range(1, 2))
    names = set(vars(model))
    with attach(model, loader, tumor_config(ggd=GGDConfig())) as session:
        train(model, loader, session, range(1, 2))
    assert set(vars(model)) == names
    assert all(not module._forward_hooks for module in model.netG_A.modules())
    assert "roi_masks" not in next(iter(loader))


def test_attach_close_train_is_train(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    model, loader = build_host()
    train(model, loader, None, range(1, 2))
    plain = state_of(model)
    model, loader = build_host()
    session = attach(model, loader, tumor_config(ggd=GGDConfig()))
    session.close()
    train(model, loader, None, range(1, 2))
    assert differing(plain, state_of(model)) == []


def test_an_attach_that_fails_leaves_the_host_as_it_was(build_host: Any, tumor_config: Any, tiny_region: Any) -> None:
    model, loader = build_host()
    before = _attributes(model, loader)
    with pytest.raises(MaskError, match="'kidney'"):
        attach(model, loader, tumor_config(regions=(tiny_region("kidney"),)))
    assert _attributes(model, loader) == before


def test_a_second_session_on_a_host_is_refused_and_leaves_the_first(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host()
    with attach(model, loader, tumor_config()):
        attached = _attributes(model, loader)
        with pytest.raises(ConfigError, match="open session"):
            attach(model, loader, tumor_config())
        assert _attributes(model, loader) == attached
    attach(model, loader, tumor_config()).close()


def test_a_closed_session_touches_the_host_no_more(build_host: Any) -> None:
    model, _ = build_host(netG="resnet")
    session = attach(model, None, Config(regions=()))
    session.close()
    with pytest.raises(ConfigError, match="closed"):
        session.uncertainty(torch.zeros(1, 1, 32, 32))
    assert all(not module._forward_hooks for module in model.netG_A.modules())


# --- exactness --------------------------------------------------------------------------------------------------------


def _image_and_features(generator: nn.Module, source: Tensor) -> tuple[Tensor, Tensor]:
    """What a generator makes and what its last convolution reads, taken apart by hand."""
    if hasattr(generator, "image_head"):
        features = generator.features(source)
        return torch.tanh(generator.image_head(features)), features
    features = generator.layers[:-2](source)
    return generator.layers[-2:](features), features


def _maps(head: GGDHead, features: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shape, freed of the border that reflection padding added on all sides."""
    border = (features.shape[-1] - image.shape[-1]) // 2
    scale, shape = head(features)
    inner = slice(border, border + image.shape[-1])
    return scale[..., inner, inner], shape[..., inner, inner]


class _Reference:
    """One step of a CycleGAN whose loss was edited by hand: deep copies of all networks, all terms on one graph."""

    def __init__(self, model: CycleGANModel, learner: Mapping[str, Any], config: Config) -> None:
        self.model, self.config = model, config
        self.generators = {"A2B": copy.deepcopy(model.netG_A), "B2A": copy.deepcopy(model.netG_B)}
        self.judges = {"A2B": copy.deepcopy(model.netD_A), "B2A": copy.deepcopy(model.netD_B)}
        self.bank = DiscriminatorBank(config).double()
        self.bank.load_state_dict(learner["bank"])
        self.heads: dict[str, GGDHead] = {}
        for direction, generator in self.generators.items():
            if hasattr(generator, "ggd_head"):
                self.heads[direction] = generator.ggd_head
            else:
                state = learner["heads"][direction]
                head = GGDHead(state["trunk.0.weight"].shape[1], 1, hidden_channels=config.ggd.hidden_channels)
                self.heads[direction] = head.double()
                head.load_state_dict(state)

    def generator_loss(self, batch: Mapping[str, Any], weights: Mapping[str, float]) -> Tensor:
        host, opt = self.model, self.model.opt
        real = {"A2B": batch["A"], "B2A": batch["B"]}
        masks = {"A2B": batch["roi_masks"]["A"], "B2A": batch["roi_masks"]["B"]}
        total = torch.zeros((), dtype=torch.float64)
        for direction, other in zip(DIRECTIONS, reversed(DIRECTIONS), strict=True):
            fake, _ = _image_and_features(self.generators[direction], real[direction])
            rec, features = _image_and_features(self.generators[other], fake)
            idt, _ = _image_and_features(self.generators[direction], real[other])
            total = total + host.criterionGAN(self.judges[direction](fake), True)
            total = total + opt.lambda_A * host.criterionCycle(rec, real[direction])
            total = total + opt.lambda_A * opt.lambda_identity * host.criterionIdt(idt, real[other])
            for region in self.config.regions:
                mask = RegionMask.from_tensor(masks[direction][region.name])
                loss = self.bank.generator_loss(direction, region.name, fake, mask)
                if loss is not None:
                    total = total + weights[region.name] * region.weight * loss
                if region.pixel_weight > 0:
                    named = self.bank.pixels.losses([Shown(direction, region.name, fake, mask)]).generators
                    if named is not None:
                        total = total + weights[region.name] * region.pixel_weight * named.values[0]
            if self.config.ggd is not None:
                scale, shape = _maps(self.heads[other], features, rec)
                loss = ggd_nll(rec - real[direction], scale, shape, epsilon=self.config.ggd.epsilon)
                total = total + weights["ggd"] * self.config.ggd.weight * loss
        return total

    def discriminator_loss(self, batch: Mapping[str, Any], fakes: Mapping[str, Tensor]) -> Tensor:
        total = torch.zeros((), dtype=torch.float64)
        for direction, source, target in (("A2B", "A", "B"), ("B2A", "B", "A")):
            for region in self.config.regions:
                own, theirs = (RegionMask.from_tensor(batch["roi_masks"][d][region.name]) for d in (source, target))
                loss = self.bank.discriminator_loss(
                    direction, region.name, fakes[direction], own, batch[target], theirs
                )
                total = total if loss is None else total + loss
                if region.pixel_weight > 0:
                    shown = Shown(direction, region.name, fakes[direction].detach(), own, batch[target], theirs)
                    named = self.bank.pixels.losses([shown], for_generators=False).networks
                    total = total if named is None else total + named.values[0]
        return total


def _assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 1e-10) -> None:
    largest = max(float(gradient.abs().max()) for gradient in expected)
    assert largest > 0
    for ours, theirs in zip(found, expected, strict=True):
        assert float((ours - theirs).abs().max()) <= tolerance * largest


def _gradients_from_moments(before: Any, after: Any, beta: float) -> list[Tensor]:
    """The gradients that Adam saw, from its first moments before and after the step."""
    return [
        (moments["exp_avg"] - beta * before["state"][place]["exp_avg"]) / (1 - beta)
        for place, moments in after["state"].items()
    ]


@pytest.mark.parametrize("generator", ["unet", "resnet"])
@pytest.mark.parametrize("roi_mode", ["crop", "mask", "concat"])
def test_the_hosts_gradients_are_those_of_a_loss_edited_by_hand(
    roi_mode: str, generator: str, build_host: Any, tiny_region: Any, copied: Any
) -> None:
    model, loader = build_host(netG=generator)
    for net in (model.netG_A, model.netG_B, model.netD_A, model.netD_B):
        net.double()
    liver = tiny_region("liver", scales=1, weight=0.5, stage=1, roi_mode=roi_mode)
    tumor = tiny_region(roi_mode=roi_mode, context_px=1, pixel_weight=0.7, pixel_channels=2)
    config = Config(regions=(liver, tumor), ggd=GGDConfig(hidden_channels=4), pool_size=0)
    with attach(model, loader, config) as session:
        session.start_epoch(1)
        batches = [{**b, "A": b["A"].double(), "B": b["B"].double()} for b in _batches(loader, 4)]
        _step(model, batches[0])  # builds our networks
        for batch in batches[1:]:
            before = copied(session.state_dict()["guidance"]["learner"])
            reference = _Reference(model, before, config)
            loss = reference.generator_loss(batch, session.stages.weights())
            _step(model, batch)
            fakes = {"A2B": model.fake_B, "B2A": model.fake_A}
            after = session.state_dict()["guidance"]["learner"]
            for direction, net in (("A2B", model.netG_A), ("B2A", model.netG_B)):
                own = [n for n, _ in net.named_parameters() if "ggd_head" not in n]
                mine, theirs = dict(net.named_parameters()), dict(reference.generators[direction].named_parameters())
                expected = torch.autograd.grad(loss, [theirs[n] for n in own], retain_graph=True)
                _assert_close([mine[n].grad for n in own], list(expected))
                expected = torch.autograd.grad(loss, list(reference.heads[direction].parameters()), retain_graph=True)
                moved = (before["head_optimizers"][direction], after["head_optimizers"][direction])
                _assert_close(_gradients_from_moments(*moved, 0.5), list(expected), 1e-9)
            judged = torch.autograd.grad(reference.discriminator_loss(batch, fakes), list(reference.bank.parameters()))
            moved = (before["bank_optimizer"], after["bank_optimizer"])
            _assert_close(_gradients_from_moments(*moved, 0.5), list(judged), 1e-9)


def test_the_host_may_swap_its_domains(build_host: Any, tumor_config: Any, differing: Any, copied: Any) -> None:
    """With ``direction="BtoA"`` the model calls the images of B its A; their masks go with them."""
    losses = []
    for direction in ("AtoB", "BtoA"):
        model, loader = build_host(direction=direction)
        with attach(model, loader, tumor_config()) as session:
            session.start_epoch(1)
            batch = next(iter(loader))
            if direction == "BtoA":
                masks = batch["roi_masks"]
                batch = {**batch, "A": batch["B"], "B": batch["A"], "roi_masks": {"A": masks["B"], "B": masks["A"]}}
            _step(model, batch)
            losses.append(session.losses())
    assert losses[0] == losses[1]


# --- no region, no change ---------------------------------------------------------------------------------------------


def test_without_a_tumor_in_any_image_the_run_is_the_plain_one(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    model, loader = build_host()
    train(model, loader, None, range(1, 3))
    plain = state_of(model)
    model, loader = build_host()
    with attach(model, loader, tumor_config(), plugins=[_no_tumor()]) as session:
        train(model, loader, session, range(1, 3))
        assert session.losses() == {}
        assert differing(plain, state_of(model)) == []


def test_a_batch_without_a_tumor_leaves_its_discriminator_and_moments_as_they_were(
    build_host: Any, tumor_config: Any, tiny_region: Any, differing: Any, copied: Any
) -> None:
    model, loader = build_host()
    config = tumor_config(regions=(tiny_region("liver"), tiny_region(pixel_weight=1.0, pixel_channels=2)))
    with attach(model, loader, config) as session:
        session.start_epoch(1)
        first, second = _batches(loader, 2)
        _step(model, first)
        before = copied(session.state_dict()["guidance"]["learner"])
        for domain in "AB":
            second["roi_masks"][domain]["tumor"].zero_()
        _step(model, second)
        after = session.state_dict()["guidance"]["learner"]
        assert sorted(session.losses()) == [f"{side}_liver_{d}" for side in "DG" for d in DIRECTIONS]
    changed = [key for key in before["bank"] if differing(before["bank"][key], after["bank"][key])]
    assert changed
    assert all("liver" in key for key in changed)
    names = list(before["bank"])
    for place, name in enumerate(names):
        same = differing(before["bank_optimizer"]["state"][place], after["bank_optimizer"]["state"][place]) == []
        assert same == ("tumor" in name)


# --- masks follow their image exactly ---------------------------------------------------------------------------------


def test_a_batch_without_our_masks_is_an_error_where_it_is_trained_on(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host()
    plain = next(iter(loader))
    with attach(model, loader, tumor_config()) as session:
        session.start_epoch(1)
        with pytest.raises(MaskError, match=r"`batch` must carry masks of region 'tumor'"):
            _step(model, plain)


def test_a_batch_to_validate_needs_no_masks(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host()
    plain = next(iter(loader))
    with attach(model, loader, tumor_config()) as session:
        session.start_epoch(1)
        _step(model, next(iter(loader)))
        model.set_input(plain)
        model.test()
        _step(model, next(iter(loader)))
        assert set(session.losses()) == {f"{side}_tumor_{d}" for side in "DG" for d in DIRECTIONS}


def test_a_data_set_whose_images_cannot_be_followed_is_refused(build_host: Any, tumor_config: Any) -> None:
    model, _ = build_host()
    for dataset in ([1, 2, 3], torch.utils.data.TensorDataset(torch.zeros(2))):
        with pytest.raises(MaskError, match="`dataset` must be one whose image files"):
            attach(model, dataset, tumor_config())


# --- a step that fails ------------------------------------------------------------------------------------------------


def test_a_step_that_fails_leaves_nothing_behind_for_the_next(
    build_host: Any, tumor_config: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, loader = build_host(netG="resnet")
    with attach(model, loader, tumor_config(ggd=GGDConfig(hidden_channels=4))) as session:
        session.start_epoch(1)
        first, second, third = _batches(loader, 3)
        _step(model, first)
        with monkeypatch.context() as patch:
            patch.setattr(model, "backward_G", lambda: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                _step(model, second)
        model.set_input(third)
        losses = session.losses()
        model.forward()  # outside a step: must not count
        assert session.losses() == losses
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _step(model, third)
        assert session.state_dict()["steps"] == 2


# --- uncertainty ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("generator", ["unet", "resnet"])
def test_uncertainty_gives_four_maps_of_the_image_before_any_training_and_draws_nothing(
    generator: str, build_host: Any, state_of: Any, differing: Any
) -> None:
    model, loader = build_host(netG=generator)
    source = next(iter(loader))["A"]
    with attach(model, None, Config(regions=())) as session:
        before = state_of(model)
        result = session.uncertainty(source)
        assert differing(before, state_of(model)) == []
        assert [tuple(m.shape) for m in result] == [(2, 1, 32, 32)] * 4
        assert torch.equal(result.image, model.netG_A(source))
        assert (result.scale > 0).all() and torch.isfinite(result.sigma).all()
        assert ((result.shape > 0.2) & (result.shape < 8)).all()
        assert torch.allclose(result.sigma, result.scale / 2**0.5, rtol=1e-4), "a new head says Gaussian"
        assert not torch.equal(session.uncertainty(source, "B2A").image, result.image)
        with pytest.raises(ConfigError, match="A2B, B2A"):
            session.uncertainty(source, "AtoB")


def test_looking_at_uncertainty_does_not_change_the_run(
    build_host: Any, tumor_config: Any, train: Any, state_of: Any, differing: Any
) -> None:
    runs = []
    for looks in (False, True):
        model, loader = build_host(netG="resnet")
        with attach(model, loader, tumor_config(ggd=GGDConfig(hidden_channels=4))) as session:
            for epoch in range(1, 3):
                if looks:
                    session.uncertainty(torch.zeros(1, 1, 32, 32), "B2A")
                train(model, loader, session, range(epoch, epoch + 1))
            runs.append([state_of(model), session.state_dict()["guidance"]])
    assert differing(*runs) == []


def test_a_session_in_test_mode_gives_the_uncertainty_that_was_trained(
    build_host: Any, tumor_config: Any, host_options: Any, train: Any
) -> None:
    model, loader = build_host(netG="resnet")
    source = next(iter(loader))["A"]
    config = tumor_config(ggd=GGDConfig(hidden_channels=4), resume="exact")
    with attach(model, loader, config) as session:
        train(model, loader, session, range(1, 3))
        model.save_networks("latest")
        trained = session.uncertainty(source)
    options = host_options(netG="resnet").for_test()
    model = CycleGANModel(options)
    model.setup(options)
    with attach(model, None, config) as session:
        again = session.uncertainty(source)
    assert not torch.allclose(trained.scale, torch.full_like(trained.scale, 0.25), rtol=1e-3)
    for one, other in zip(trained, again, strict=True):
        assert torch.equal(one, other)


def test_uncertainty_without_a_head_says_what_to_set(build_host: Any) -> None:
    model, _ = build_host()
    with attach(model, None, INERT) as session, pytest.raises(ConfigError, match="GGDConfig"):
        session.uncertainty(torch.zeros(1, 1, 32, 32))


# --- rates, plan, plugins ---------------------------------------------------------------------------------------------


def test_our_rates_are_the_hosts_at_every_step(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host(n_epochs=1, n_epochs_decay=2, beta1=0.3)
    config = tumor_config(ggd=GGDConfig(learning_rate_factor=0.5))
    seen = set()
    with attach(model, loader, config) as session:
        for epoch in range(1, 4):
            session.start_epoch(epoch)
            for batch in loader:
                _step(model, batch)
                learner = session.state_dict()["guidance"]["learner"]
                (bank,) = learner["bank_optimizer"]["param_groups"]
                assert bank["lr"] == model.optimizer_D.param_groups[0]["lr"]
                assert tuple(bank["betas"]) == (0.3, 0.999)
                for optimizer in learner["head_optimizers"].values():
                    assert optimizer["param_groups"][0]["lr"] == 0.5 * model.optimizer_G.param_groups[0]["lr"]
                seen.add(bank["lr"])
            model.update_learning_rate()
    assert len(seen) == 3


def test_terms_join_with_their_stage(build_host: Any, tumor_config: Any, tiny_region: Any) -> None:
    regions = (tiny_region("liver", stage=None), tiny_region(stage=None))
    model, loader = build_host(n_epochs=3, n_epochs_decay=0)
    seen = []
    equal = StageConfig(joined_by_fraction=None)
    with attach(model, loader, tumor_config(regions=regions, stages=equal)) as session:
        for epoch in range(1, 4):
            seen.append((session.start_epoch(epoch).number, session.stage.terms))
            _step(model, next(iter(loader)))
            terms = {name.split("_")[1] for name in session.losses()}
            assert terms == set(session.stage.terms)
    assert seen == [(1, ()), (2, ("liver",)), (3, ("liver", "tumor"))]


class _Everything:
    """A plugin that implements every hook a session calls, and remembers what it was told."""

    def __init__(self) -> None:
        self.built: list[tuple[str, int, int]] = []
        self.stages: list[int] = []
        self.steps: list[tuple[int, list[str]]] = []
        self.saved: list[Path] = []
        self.asked: set[str] = set()
        self.weight = 0.0

    @hookimpl
    def roi_discriminator(self, region: Any, in_channels: int, smallest_px: int) -> nn.Module:
        self.built.append((region.name, in_channels, smallest_px))
        return PatchDiscriminator(in_channels, 3, 1)

    @hookimpl
    def roi_stages(self, config: Config, n_epochs: int) -> list[Stage]:
        return [Stage(1, ()), Stage(2, ("tumor",), from_epoch=2)]

    @hookimpl
    def roi_masks(self, path: Path, regions: Any) -> dict[str, Path | None]:
        self.asked |= set(regions)
        return {region: path.parent.with_name(f"{path.parent.name}_liver") / path.name for region in regions}

    @hookimpl
    def roi_generator_losses(self, translation: Any) -> dict[str, Tensor]:
        return {"bright": self.weight * translation.fake.mean()}

    @hookimpl
    def roi_stage_started(self, stage: Stage, session: Any) -> None:
        assert session.stage == stage
        self.stages.append(stage.number)

    @hookimpl
    def roi_step_finished(self, step: int, losses: Mapping[str, Tensor]) -> None:
        assert not any(loss.requires_grad for loss in losses.values())
        self.steps.append((step, sorted(losses)))

    @hookimpl
    def roi_checkpoint_saved(self, path: Path) -> None:
        self.saved.append(path)


def test_a_plugin_is_asked_and_told_at_every_hook(build_host: Any, tumor_config: Any) -> None:
    plugin = _Everything()
    model, loader = build_host()
    with attach(model, loader, tumor_config(), plugins=[plugin]) as session:
        for epoch in (1, 2, 3):
            session.start_epoch(epoch)
            _step(model, next(iter(loader)))
        model.save_networks(3)
        bank = session.state_dict()["guidance"]["learner"]["bank"]
    assert plugin.stages == [1, 2]
    assert plugin.built == [("tumor", 1, 16), ("tumor", 1, 8)] * 2
    assert bank["networks.A2B_tumor.scales.0.model.0.weight"].shape[0] == 3
    assert plugin.asked == {"tumor"}
    bright = ["bright_A2B", "bright_B2A"]
    tumor = [f"{side}_tumor_{d}" for side in "DG" for d in DIRECTIONS]
    assert plugin.steps == [(1, bright), (2, sorted(bright + tumor)), (3, sorted(bright + tumor))]
    assert plugin.saved == [Path(model.save_dir) / "3_roi_progressive.pth"]


def test_the_masks_a_plugin_names_are_the_ones_read(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host(no_flip=True, serial_batches=True)
    with attach(model, loader, tumor_config(), plugins=[_Everything()]):
        from_plugin = next(iter(loader))["roi_masks"]["A"]["tumor"]
    with attach(model, loader, tumor_config()):
        assert not torch.equal(from_plugin, next(iter(loader))["roi_masks"]["A"]["tumor"])
    with attach(model, loader, tumor_config(regions=(replace(tumor_config().regions[0], name="liver"),))):
        assert torch.equal(from_plugin, next(iter(loader))["roi_masks"]["A"]["liver"])


def test_a_plugins_loss_reaches_the_generator(build_host: Any) -> None:
    gradients = []
    for weight in (0.0, 1.0):
        model, loader = build_host(lambda_identity=0.0)
        plugin = _Everything()
        plugin.weight = weight
        with attach(model, loader, INERT, plugins=[plugin]) as session:
            session.start_epoch(1)
            batch = next(iter(loader))
            expected = copy.deepcopy(model.netG_A)(batch["A"]).mean()
            _step(model, batch)
            gradients.append(model.netG_A.image_head.conv.bias.grad.clone())
            assert session.losses()["bright_A2B"] == pytest.approx(weight * expected.item(), rel=1e-5, abs=1e-9)
    reference, _ = build_host(lambda_identity=0.0)
    generator = reference.netG_A
    alone = torch.autograd.grad(generator(batch["A"]).mean(), generator.image_head.conv.bias)[0]
    assert torch.allclose(gradients[1] - gradients[0], alone, rtol=1e-3, atol=1e-6)


# --- what attach takes ------------------------------------------------------------------------------------------------


def test_an_unknown_host_is_told_which_adapters_were_tried() -> None:
    with pytest.raises(HostNotSupportedError) as caught:
        attach(object())
    message = str(caught.value)
    assert "object" in message and "junyanz" in message and "manual" in message
    assert "\n" not in message


def test_the_length_of_a_run_that_nobody_names_is_asked_for() -> None:
    generator = nn.Conv2d(1, 1, 1)
    _keep = torch.optim.Adam(generator.parameters())
    with pytest.raises(ConfigError, match="`n_epochs` must be given"):
        attach({"A2B": generator}, config=INERT)


def test_a_configuration_comes_as_object_mapping_or_file(tmp_path: Path, build_host: Any) -> None:
    model, _ = build_host()
    file = tmp_path / "roi.toml"
    file.write_text('ggd = false\n[[regions]]\nname = "liver"\n', encoding="utf-8")
    expected = Config.from_mapping({"ggd": False, "regions": [{"name": "liver"}]})
    for given in (expected, json.loads(json.dumps(expected.to_mapping())), str(file), file):
        with attach(model, None, given) as session:
            assert session.config == expected
    with attach(model) as session:
        assert session.config == Config()


def test_an_adapter_of_a_plugin_is_asked_before_ours(build_host: Any) -> None:
    class Mine(Adapter):
        name = "mine"

        def generators(self) -> Mapping[str, nn.Module]:
            return {}

        def translations(self, masks: Any) -> list[Any]:
            return []

        def install(self, session: Any, patches: Any) -> None:
            patches.set(model, "installed", True)

        def learning_rates(self) -> Mapping[str, float]:
            return {"generator": 0.1, "discriminator": 0.1}

    class Plugin:
        @hookimpl
        def roi_adapter(self, host: Any, config: Config) -> Adapter | None:
            return Mine()

    model, _ = build_host()
    with attach(model, None, INERT, n_epochs=1, plugins=[Plugin()]):
        assert model.installed
    assert not hasattr(model, "installed")
    assert roi_progressive.Session is not None


def test_losses_are_plain_numbers(build_host: Any, tumor_config: Any) -> None:
    model, loader = build_host()
    step: Callable[[CycleGANModel, Any], None] = _step
    with attach(model, loader, tumor_config(ggd=GGDConfig())) as session:
        assert session.losses() == {}
        session.start_epoch(1)
        step(model, next(iter(loader)))
        losses = session.losses()
    expected = {f"{name}_{d}" for name in ("G_tumor", "D_tumor", "ggd") for d in DIRECTIONS}
    assert set(losses) == expected
    assert all(type(loss) is float and torch.isfinite(torch.tensor(loss)) for loss in losses.values())
