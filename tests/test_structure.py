"""The structure tie: descriptors and loss against loops over pixels, and how far the gradient reaches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from roi_progressive import RegionConfig, RegionMask, attach
from roi_progressive.method.structure import DISTANCE_PX, NOISE, self_similarity, structure_loss
from roi_progressive.testing import ToyHost, phantom_config

pytestmark = pytest.mark.usefixtures("one_thread")

SIDE_PX = 12


def _images(channels: int = 1) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.rand(2, 3, channels, SIDE_PX, SIDE_PX, dtype=torch.float64).mul(2).sub(1).unbind()


MASKS = torch.zeros(3, 1, SIDE_PX, SIDE_PX)
MASKS[0, 0, 3:6, 2:7] = 1
MASKS[2, 0, 8:11, 9:12] = 1


def _pixel(image: Tensor, row: int, column: int) -> Tensor:
    return image[min(max(row, 0), SIDE_PX - 1), min(max(column, 0), SIDE_PX - 1)]


def _descriptor(image: Tensor, row: int, column: int) -> list[Tensor]:
    """Of one pixel of ``[H, W]``: left, right, above, below."""
    distances = []
    for down, right in ((0, -DISTANCE_PX), (0, DISTANCE_PX), (-DISTANCE_PX, 0), (DISTANCE_PX, 0)):
        around = [
            (_pixel(image, i, j) - _pixel(image, i + down, j + right)) ** 2
            for i in range(row - 1, row + 2)
            for j in range(column - 1, column + 2)
            if 0 <= i < SIDE_PX and 0 <= j < SIDE_PX
        ]
        distances.append(sum(around) / len(around))
    variance = sum(distances) / 4 + NOISE
    return [torch.exp(-d / variance) for d in distances]


def test_descriptors_are_those_of_a_loop_over_pixels() -> None:
    image = _images(channels=2)[0][:1]
    found = self_similarity(image)[0]
    for row in range(SIDE_PX):
        for column in range(SIDE_PX):
            expected = torch.stack(_descriptor(image[0].mean(dim=0), row, column))
            torch.testing.assert_close(found[:, row, column], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reach_px", [0, 2])
def test_loss_and_gradient_are_those_of_a_loop_over_the_region_and_its_surroundings(reach_px: int) -> None:
    fake, source = _images()
    ours, theirs = fake.clone().requires_grad_(), fake.clone().requires_grad_()
    loss = structure_loss(ours, source, RegionMask.from_tensor(MASKS), reach_px)
    assert loss is not None
    loss.backward()
    near = torch.nn.functional.max_pool2d(MASKS, 2 * reach_px + 1, 1, reach_px) > 0
    means = []
    for place in (0, 2):
        apart = [
            (torch.stack(_descriptor(theirs[place, 0], i, j)) - torch.stack(_descriptor(source[place, 0], i, j)))
            .abs()
            .mean()
            for i, j in near[place, 0].nonzero().tolist()
        ]
        means.append(torch.stack(apart).mean())
    expected = torch.stack(means).mean()
    expected.backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(ours.grad[near], theirs.grad[near], rtol=1e-9, atol=1e-13)
    assert (ours.grad[~near] == 0).all() and (theirs.grad[~near & (MASKS.amax((2, 3), keepdim=True) > 0)] != 0).any()


def test_a_linear_map_of_grey_values_keeps_the_structure_and_another_image_does_not() -> None:
    source, other = _images()
    masks = RegionMask.from_tensor(MASKS)
    lost = {name: structure_loss(image, source, masks, 2) for name, image in (("negative", -source), ("other", other))}
    assert lost["negative"] is not None and lost["other"] is not None
    assert lost["negative"].item() == pytest.approx(0, abs=1e-12) and lost["other"].item() > 0.05
    assert structure_loss(source, source, RegionMask.from_tensor(torch.zeros_like(MASKS)), 2) is None


def test_the_term_is_a_region_s_own_and_waits_for_its_stage() -> None:
    torch.manual_seed(0)
    host = ToyHost()
    (tumor,) = phantom_config().regions
    region = RegionConfig(**{**vars(tumor), "weight": 0.0, "structure_weight": 0.5, "stage": 2})  # of 2 from epoch 3 on
    found: list[Any] = []
    with attach(host, config=phantom_config(regions=(region,), ggd=None), n_epochs=20) as session:
        for epoch in (0, 3):
            session.start_epoch(epoch)
            host.step(next(iter(host.batches(1))))
            found.append(session.losses())
    assert found[0] == {} and sorted(found[1]) == ["G_structure_tumor_A2B", "G_structure_tumor_B2A"]
    assert all(math.isfinite(loss) for loss in found[1].values())
