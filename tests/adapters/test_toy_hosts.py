"""pix2pix, CUT and scaled forks as small hosts of our own: recognised, guided exactly, logged, left as they were."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roi_progressive import (
    CheckpointError,
    Config,
    ConfigError,
    GGDConfig,
    HostNotSupportedError,
    MaskError,
    RegionConfig,
    Translation,
    attach,
    hookimpl,
)
from roi_progressive.adapters import DialectAdapter
from roi_progressive.adapters.cut import CUTAdapter
from roi_progressive.adapters.cut import roi_adapter as cut
from roi_progressive.adapters.junyanz import roi_adapter as cycle_gan
from roi_progressive.adapters.pix2pix import roi_adapter as pix2pix
from roi_progressive.method.regions import RegionMask
from roi_progressive.testing import check_adapter

KINDS = {
    "pix2pix": {},
    "pix2pix BtoA": {"direction": "BtoA"},
    "cut": {},
    "cut BtoA": {"direction": "BtoA"},
    "cut mirrored": {"flip_equivariance": True},
    "scaled": {},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ggd", [None, GGDConfig(hidden_channels=4)], ids=["regions", "uncertainty too"])
def test_the_adapter_keeps_what_a_session_relies_on(
    kind: str, ggd: GGDConfig | None, build_toy: Any, toy_step: Any, tiny: Any
) -> None:
    check_adapter(lambda: build_toy(kind.split()[0], **KINDS[kind]), step=toy_step, config=tiny(ggd=ggd))


def test_each_model_is_understood_by_its_own_adapter_alone(build_toy: Any, build_host: Any) -> None:
    models = {"pix2pix": build_toy("pix2pix")[0], "cut": build_toy("cut")[0], "cycle_gan": build_host()[0]}
    for name, model in models.items():
        found = {
            "pix2pix": pix2pix(model, Config()),
            "cut": cut(model, Config()),
            "cycle_gan": cycle_gan(model, Config()),
        }
        assert [key for key, adapter in found.items() if adapter is not None] == [name]
    models["pix2pix"].lab2rgb = print  # colorization: its B is no image of a domain
    assert pix2pix(models["pix2pix"], Config()) is None


def test_an_almost_known_host_is_told_what_each_adapter_missed(build_toy: Any) -> None:
    model, _ = build_toy("cut")
    model.netG_of_another_name = model.__dict__.pop("netG")
    with pytest.raises(HostNotSupportedError) as caught:
        attach(model)
    message = str(caught.value)
    assert "CUT misses netG" in message and "junyanz pix2pix misses netG, criterionL1" in message
    assert "junyanz cycle_gan misses netG_A, netG_B" in message and "write an adapter" in message
    assert "\n" not in message


# --- exactness --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_pix2pix_gets_the_gradient_of_the_edited_loss_in_both_directions(
    direction: str, build_toy: Any, toy_step: Any, tiny: Any
) -> None:
    model, loader = build_toy("pix2pix", direction=direction)
    with attach(model, loader, tiny()) as session:
        session.start_epoch(1)
        batches = [batch for _ in range(2) for batch in loader]
        toy_step(model, batches[0])
        twin = copy.copy(model)  # same networks, its own tensors
        net = copy.deepcopy(model.netG)
        for patched in ("set_input", "forward", "optimize_parameters"):
            vars(twin).pop(patched)
        batch = next(b for b in batches[1:] if b["roi_masks"][direction[0]]["tumor"].any())
        ours = copy.deepcopy(session._guidance._learner.bank)
        toy_step(model, batch)  # moves D first, then G: the twin is given the moved D
        twin.netG = net
        twin.set_input(batch)
        twin.forward()
        mask = RegionMask.from_tensor(batch["roi_masks"][direction[0]]["tumor"])
        loss = twin.generator_loss() + ours.generator_loss("A2B", "tumor", twin.fake_B, mask)
        expected = torch.autograd.grad(loss, list(net.parameters()))
    found = [parameter.grad for parameter in model.netG.parameters()]
    for one, other in zip(found, expected, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mirrored", [False, True])
def test_cuts_masks_and_images_follow_its_mirroring(
    mirrored: bool, build_toy: Any, toy_step: Any, tiny: Any, monkeypatch: Any
) -> None:
    model, loader = build_toy("cut", flip_equivariance=True)
    monkeypatch.setattr(np.random, "random", lambda: 0.0 if mirrored else 1.0)
    with attach(model, loader, tiny()) as session:
        session.start_epoch(1)
        batch = next(iter(loader))
        toy_step(model, batch)
        (seen,) = session._adapter.translations(session._masks)

    def turned(image: Tensor) -> Tensor:
        return torch.flip(image, [3]) if mirrored else image

    assert torch.equal(seen.source, turned(batch["A"])) and torch.equal(seen.real, turned(batch["B"]))
    for domain, masks in (("A", seen.masks), ("B", seen.real_masks)):
        expected = RegionMask.from_tensor(turned(batch["roi_masks"][domain]["tumor"]))
        assert torch.equal(masks["tumor"].mask, expected.mask) and masks["tumor"].boxes == expected.boxes


def test_a_scaled_loss_scales_our_gradient_alike(build_toy: Any, toy_step: Any, tiny: Any, differing: Any) -> None:
    gradients = []
    for scale in (1.0, 4096.0):
        model, loader = build_toy("scaled")
        model.scale = scale
        with attach(model, loader, tiny(ggd=GGDConfig(hidden_channels=4))) as session:
            session.start_epoch(1)
            toy_step(model, next(iter(loader)))
        gradients.append([p.grad.clone() for p in model.netG.parameters() if p.grad is not None])
    assert differing(*gradients) == []


# --- batches with masks -----------------------------------------------------------------------------------------------


def test_masks_of_a_batch_count_only_under_the_key_that_is_named(
    build_toy: Any, toy_step: Any, tiny_region: Any
) -> None:
    model, loader = build_toy("pix2pix")
    keyed = Config(regions=(tiny_region(scales=1, batch_key="{domain}_mask"),), ggd=None)
    batch = next(iter(loader))
    mask = torch.zeros_like(batch["A"])
    mask[..., 4:12, 4:12] = 1
    batch |= {"A_mask": mask, "B_mask": mask.flip(3)}
    with attach(model, loader, keyed) as session:
        session.start_epoch(1)
        toy_step(model, batch)
        assert torch.equal(session._masks["A"]["tumor"].mask, mask > 0)
        assert torch.equal(session._masks["B"]["tumor"].mask, mask.flip(3) > 0)
    with attach(model, loader, Config(regions=(), ggd=None)) as session:
        toy_step(model, batch)
        assert session._masks == {"A": {}, "B": {}}


# --- log, visuals, files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pix2pix", "cut"])
def test_losses_and_sigma_are_shown_and_not_saved(kind: str, build_toy: Any, toy_step: Any, tiny: Any) -> None:
    model, loader = build_toy(kind)
    names, visuals = model.loss_names, model.visual_names
    with attach(model, loader, tiny(ggd=GGDConfig(hidden_channels=4))) as session:
        ours = ["roi_G_tumor_A2B", "roi_D_tumor_A2B", "roi_ggd_A2B"]
        assert model.loss_names == [*names, *ours]
        session.start_epoch(1)
        for batch in loader:
            toy_step(model, batch)
        shown = model.get_current_losses()
        assert {name: shown[name] for name in ours} == {f"roi_{k}": v for k, v in session.losses().items()}
        model.compute_visuals()
        sigma = model.get_current_visuals()["sigma_B"]
        assert sigma.shape == model.fake_B.shape and -1 <= sigma.min() < sigma.max() <= 1
        model.save_networks(3)
    saved = sorted(path.name for path in Path(model.save_dir).iterdir())
    assert saved == sorted([*(f"3_net_{name}.pth" for name in model.model_names), "3_roi_progressive.pth"])
    assert model.loss_names is names and model.visual_names is visuals
    assert not any("roi" in name or "sigma" in name for name in vars(model))


def test_a_term_that_is_not_active_shows_as_zero(build_toy: Any, toy_step: Any, tiny: Any, tiny_region: Any) -> None:
    model, loader = build_toy("pix2pix")
    with attach(model, loader, tiny(regions=(tiny_region(stage=2),)), n_epochs=10) as session:
        session.start_epoch(1)
        toy_step(model, next(iter(loader)))
        assert model.get_current_losses()["roi_G_tumor_A2B"] == 0.0


def test_cut_looks_for_our_file_where_it_loads_its_own(build_toy: Any) -> None:
    model, _ = build_toy("cut", continue_train=True)
    assert CUTAdapter(model, Config()).resume_file() == Path(model.save_dir) / "latest_roi_progressive.pth"
    object.__setattr__(model.opt, "pretrained_name", "earlier")
    found = CUTAdapter(model, Config()).resume_file()
    assert found == Path(model.save_dir).with_name("earlier") / "latest_roi_progressive.pth"


def test_a_cut_run_is_continued_exactly_although_it_is_set_up_late(
    build_toy: Any, toy_step: Any, tiny: Any, differing: Any, copied: Any
) -> None:
    def state(model: Any) -> Any:
        nets = {name: getattr(model, f"net{name}").state_dict() for name in model.model_names}
        numpy_state: Any = np.random.get_state()
        moments = [optimizer.state_dict()["state"] for optimizer in model.optimizers]
        return copied([nets, moments, torch.get_rng_state(), numpy_state[1].tolist(), numpy_state[2]])

    config, changes = tiny(resume="exact"), {"flip_equivariance": True, "force": True}
    model, loader = build_toy("cut", **changes)
    with attach(model, loader, config) as session:
        for epoch in (1, 2):
            session.start_epoch(epoch)
            for batch in loader:
                toy_step(model, batch)
            if epoch == 1:
                model.save_networks("latest")
        expected = state(model)
    again, loader = build_toy("cut", continue_train=True, **changes)
    torch.manual_seed(123)
    with attach(again, loader, config) as session:
        session.start_epoch(2)
        for batch in loader:
            if not hasattr(again, "optimizer_F"):
                again.data_dependent_initialize(batch)
                again.parallelize()
                for name in again.model_names:
                    saved = torch.load(Path(again.save_dir) / f"latest_net_{name}.pth", weights_only=True)
                    getattr(again, f"net{name}").load_state_dict(saved)
            toy_step(again, batch)
        assert differing(state(again), expected) == []


def test_a_run_without_our_file_starts_afresh_only_when_told(build_toy: Any, tiny: Any) -> None:
    model, loader = build_toy("pix2pix", continue_train=True)
    with pytest.raises(CheckpointError, match='resume = "fresh"'):
        attach(model, loader, tiny())
    attach(model, loader, tiny(resume="fresh")).close()


def test_a_model_that_only_translates_needs_no_masks_and_shows_sigma(build_toy: Any, toy_step: Any, tiny: Any) -> None:
    model, loader = build_toy("pix2pix")
    config = tiny(ggd=GGDConfig(hidden_channels=4))
    with attach(model, loader, config) as session:
        session.start_epoch(1)
        batch = next(iter(loader))
        toy_step(model, batch)
        model.save_networks("latest")
        model.real_A = batch["A"]
        model.compute_visuals()
        expected = model.sigma_B
    model.isTrain = False
    with attach(model, [], config):
        with torch.no_grad():
            model.forward()
        model.compute_visuals()
        assert torch.equal(model.sigma_B, expected)
    assert not hasattr(model, "sigma_B")


def test_exact_is_refused_where_several_processes_train(build_toy: Any, tiny: Any, monkeypatch: Any) -> None:
    model, loader = build_toy("pix2pix")
    monkeypatch.setattr("roi_progressive.training.session.n_processes", lambda: 2)
    with pytest.raises(ConfigError, match="single process"):
        attach(model, loader, tiny(resume="exact"))


def test_masks_of_side_by_side_images_are_sought_beside_their_folder(build_toy: Any) -> None:
    model, loader = build_toy("pix2pix")
    with pytest.raises(MaskError, match=r"no mask folder .*pairs_liver"):
        attach(model, loader, Config(regions=(RegionConfig("liver"),), ggd=None))


# --- hosts that lack something ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pix2pix", "cut"])
def test_an_inert_session_asks_nothing_of_a_host(
    kind: str, build_toy: Any, toy_step: Any, tiny: Any, tiny_region: Any
) -> None:
    model, loader = build_toy(kind)
    with attach(model, loader, tiny(regions=(tiny_region(stage=2),)), n_epochs=4) as session:
        session._adapter.translations = lambda masks: 1 / 0  # whatever a host lacks is not missed
        session.start_epoch(1)
        for batch in loader:
            toy_step(model, batch)
        assert session.state_dict()["steps"] == 0


def test_what_fails_inside_an_adapter_is_told_with_host_adapter_and_attribute(
    build_toy: Any, toy_step: Any, tiny: Any
) -> None:
    model, loader = build_toy("styled")
    with attach(model, loader, tiny()) as session:
        session.start_epoch(1)
        type(model).real_B = property(lambda self: self.__dict__["no_such_image"], lambda self, value: None)
        try:
            with pytest.raises(HostNotSupportedError) as caught:
                toy_step(model, next(iter(loader)))
        finally:
            del type(model).real_B
    told = str(caught.value)
    assert all(word in told for word in ("'junyanz pix2pix'", "`translations` fails on ToyStyled", "no_such_image"))
    assert "DialectAdapter" in told and "\n" not in told


def test_the_ten_line_adapter_of_the_documentation_is_enough(build_toy: Any, toy_step: Any, tiny: Any) -> None:
    class MyDialectAdapter(DialectAdapter):
        name = "my fork"

        def generators(self) -> Any:
            return {"A2B": self.model.netG}

        def translations(self, masks: Any) -> Any:
            a, b = self.masks_of_model(masks)
            images = {"source": self.model.real_A, "fake": self.model.fake_B, "real": self.model.real_B}
            return [Translation("A2B", **images, masks=a, real_masks=b)]

    class MyPlugin:
        @hookimpl
        def roi_adapter(self, host: Any, config: Config) -> Any:
            return MyDialectAdapter(host, config)

    check_adapter(lambda: build_toy("pix2pix"), step=toy_step, config=tiny(), plugins=[MyPlugin()])
