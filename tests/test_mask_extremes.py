"""Masks as they come in practice: vanishing, of one pixel, everywhere, at every border, of changing size, or none."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from roi_progressive import Config, MaskError, ShapeError, attach
from roi_progressive.config import ROI_MODES
from roi_progressive.testing import ToyHost, phantom_batch, phantom_config
from roi_progressive.testing.states import same, state_of

pytestmark = pytest.mark.usefixtures("one_thread")


def drawn(draw: Callable[[Tensor], None], n: int = 2, side_px: int = 32) -> Tensor:
    mask = torch.zeros(n, 1, side_px, side_px)
    draw(mask)
    return mask


def _one_pixel(mask: Tensor) -> None:
    mask[..., 31, 0] = 1


def _everywhere(mask: Tensor) -> None:
    mask.fill_(1)


def _every_border(mask: Tensor) -> None:
    mask[..., [0, -1], :] = 1
    mask[..., :, [0, -1]] = 1


def _only_in_the_second(mask: Tensor) -> None:
    mask[1, :, 8:20, 8:20] = 1


MASKS = {draw.__name__.strip("_"): draw for draw in (_one_pixel, _everywhere, _every_border, _only_in_the_second)}


def guided(config: Config, batches: list[dict[str, Any]], folder: Path) -> tuple[ToyHost, list[dict[str, float]], Any]:
    """A toy trained on the batches from the same start, our losses of every step, and our own state."""
    torch.manual_seed(0)
    host, losses = ToyHost(folder), []
    with attach(host, None, config) as session:
        for epoch, batch in enumerate(batches, start=1):
            session.start_epoch(min(epoch, 3))
            host.step(batch)
            losses.append(session.losses())
        return host, losses, session.state_dict()["guidance"]["learner"]


def with_masks(mask: Tensor, **changes: Any) -> dict[str, Any]:
    return {**phantom_batch(len(mask), size_px=mask.shape[-1]), "A_tumor": mask, "B_tumor": mask, **changes}


def in_mode(mode: str) -> Config:
    (region,) = phantom_config().regions
    return phantom_config(regions=(dataclasses.replace(region, roi_mode=mode),), ggd=None)


def is_finite(host: ToyHost) -> bool:
    networks = (host.netG_A, host.netG_B, host.netD_A, host.netD_B)
    return all(bool(torch.isfinite(value).all()) for network in networks for value in network.parameters())


@pytest.mark.parametrize("mode", ROI_MODES)
@pytest.mark.parametrize("name", MASKS)
def test_every_mask_trains_with_finite_losses_in_every_mode(name: str, mode: str, tmp_path: Path) -> None:
    mask = drawn(MASKS[name])
    host, losses, _ = guided(in_mode(mode), [with_masks(mask)] * 2, tmp_path)
    for step in losses:
        assert set(step) == {f"{network}_tumor_{way}" for network in "GD" for way in ("A2B", "B2A")}
        assert all(0 < loss < 1e3 for loss in step.values())
    assert is_finite(host)


@pytest.mark.parametrize("mode", ROI_MODES)
def test_a_mask_that_vanishes_moves_nothing_of_the_region_and_one_that_returns_does(mode: str, tmp_path: Path) -> None:
    here, gone = with_masks(drawn(_everywhere)), with_masks(drawn(lambda mask: None))
    _, _, after_one = guided(in_mode(mode), [here], tmp_path)
    _, losses, after_two = guided(in_mode(mode), [here, gone], tmp_path)
    assert losses[1] == {}
    assert same(after_one["bank"], after_two["bank"])
    assert same(after_one["bank_optimizer"], after_two["bank_optimizer"])
    _, losses, after_three = guided(in_mode(mode), [here, gone, here], tmp_path)
    assert losses[2] and not same(after_two["bank"], after_three["bank"])


def test_a_region_that_no_image_holds_is_training_without_it(tmp_path: Path) -> None:
    gone = [with_masks(drawn(lambda mask: None), A=phantom_batch(seed=seed)["A"]) for seed in range(3)]
    guided_host, losses, _ = guided(in_mode("crop"), gone, tmp_path)
    assert losses == [{}, {}, {}]
    torch.manual_seed(0)
    alone = ToyHost(tmp_path)
    for batch in gone:
        alone.step(batch)
    assert same(state_of(guided_host)["states"], state_of(alone)["states"])


def test_a_batch_of_one_and_a_domain_of_one_image_train(tmp_path: Path) -> None:
    one = phantom_batch(1)
    always_the_same_mr = [
        {**phantom_batch(1, seed=seed), "B": one["B"], "B_tumor": one["B_tumor"]} for seed in (1, 2, 3)
    ]
    host, losses, _ = guided(phantom_config(), always_the_same_mr, tmp_path)
    assert all({"G_tumor_A2B", "D_tumor_B2A", "ggd_A2B"} <= set(step) for step in losses)
    assert is_finite(host)


@pytest.mark.parametrize("mode", ROI_MODES)
def test_images_and_masks_may_change_their_size_from_epoch_to_epoch(mode: str, tmp_path: Path) -> None:
    sizes = [with_masks(drawn(_everywhere, side_px=side_px)) for side_px in (32, 40, 64)]
    host, losses, _ = guided(in_mode(mode), sizes, tmp_path)
    assert all(len(step) == 4 for step in losses) and is_finite(host)


def test_a_mask_of_another_size_than_its_image_is_an_error_of_one_line(tmp_path: Path) -> None:
    wrong = with_masks(drawn(_everywhere, side_px=40)) | {"A": phantom_batch()["A"], "B": phantom_batch()["B"]}
    with pytest.raises((MaskError, ShapeError), match=r"\A`image` and its mask must agree [^\n]+\Z"):
        guided(in_mode("crop"), [wrong], tmp_path)
