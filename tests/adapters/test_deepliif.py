"""Several generators a direction, each with a name: DeepLIIF, as a small host of our own."""

from __future__ import annotations

from typing import Any

import torch

from roi_progressive import Config, GGDConfig, attach
from roi_progressive.adapters import deepliif
from roi_progressive.adapters.cut import roi_adapter as cut
from roi_progressive.adapters.junyanz import roi_adapter as cycle_gan
from roi_progressive.adapters.pix2pix import roi_adapter as pix2pix
from roi_progressive.testing import check_adapter


def _plugins() -> list[Any]:
    """It is found by its entry point where the package was installed with it."""
    from roi_progressive.plugins.manager import Plugins

    return [] if any("deepliif" in name for name in Plugins().names("roi_adapter")) else [deepliif]


def test_the_adapter_keeps_what_a_session_relies_on(build_toy: Any, toy_step: Any, tiny: Any) -> None:
    config = tiny(ggd=GGDConfig(hidden_channels=4))
    check_adapter(lambda: build_toy("deepliif"), step=toy_step, config=config, plugins=_plugins())


def test_it_alone_understands_it(build_toy: Any) -> None:
    model, _ = build_toy("deepliif")
    assert deepliif.roi_adapter(model, Config()) is not None
    assert [adapter(model, Config()) for adapter in (cut, cycle_gan, pix2pix)] == [None] * 3
    assert deepliif.roi_adapter(build_toy("pix2pix")[0], Config()) is None


def test_every_modality_has_its_own_discriminators_terms_and_maps(build_toy: Any, toy_step: Any, tiny: Any) -> None:
    model, loader = build_toy("deepliif")
    config = tiny(ggd=GGDConfig(hidden_channels=4))
    with attach(model, loader, config, plugins=_plugins()) as session:
        session.start_epoch(1)
        for batch in loader:
            assert set(batch["roi_masks"]) == {"A"}
            toy_step(model, batch)
        assert set(session.losses()) == {f"{t}_A2B{k}" for t in ("G_tumor", "D_tumor", "ggd") for k in (1, 2)}
        bank = session.networks()[-1]
        first, second = (torch.cat([p.flatten() for p in bank.networks[f"A2B{k}_tumor"].parameters()]) for k in (1, 2))
        assert not torch.equal(first, second)
        model.compute_visuals()
        assert {name for name in model.visual_names if "sigma" in name} == {"sigma_B1", "sigma_B2"}
        model.save_networks("latest")
        saved = session.state_dict()["guidance"]["learner"]["bank"]
    again, loader = build_toy("deepliif", continue_train=True)
    with attach(again, loader, config, plugins=_plugins()) as session:
        session.start_epoch(2)
        assert set(session.state_dict()["guidance"]["learner"]["bank"]) == set(saved)
        for batch in loader:
            toy_step(again, batch)
        assert session.losses()["D_tumor_A2B2"] > 0
