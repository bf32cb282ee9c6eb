"""Pixel classifiers: their losses against loops over pixels, whose images count, and how far their gradient reaches."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from roi_progressive import Config, RegionConfig, RegionMask, attach
from roi_progressive.method.pixels import GENERATED, PixelClassifier, PixelClassifiers, class_weights
from roi_progressive.method.shown import Shown
from roi_progressive.testing import ToyHost, phantom_config

pytestmark = pytest.mark.usefixtures("one_thread")

KEY = "A2B_tumor"
SIDE_PX = 24


def _classifiers(**region: Any) -> PixelClassifiers:
    """In double precision, as after some training: large enough to tell classes apart."""
    torch.manual_seed(0)
    tumor = RegionConfig("tumor", **{"pixel_weight": 1.0, "pixel_channels": 2, **region})
    classifiers = PixelClassifiers(Config(regions=(tumor,), ggd=None), {"A2B": 1, "B2A": 1}).double()
    with torch.no_grad():
        for parameter in classifiers.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return classifiers


def _generator_loss(classifiers: PixelClassifiers, key: str, fake: Tensor, masks: RegionMask) -> Tensor | None:
    """Of one network alone."""
    direction, _, region = key.partition("_")
    found = classifiers.losses([Shown(direction, region, fake, masks)], for_networks=False).generators
    return None if found is None else found.values[0]


def _learning_loss(
    classifiers: PixelClassifiers,
    key: str,
    fake: Tensor,
    fake_masks: RegionMask,
    real: Tensor,
    real_masks: RegionMask,
    shares: dict[str, float] | None = None,
) -> Tensor | None:
    direction, _, region = key.partition("_")
    shown = Shown(direction, region, fake, fake_masks, real, real_masks)
    found = classifiers.losses([shown], for_generators=False, shares=shares).networks
    return None if found is None else found.values[0]


def _images(n: int = 3) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    fake, real = torch.rand(2, n, 1, SIDE_PX, SIDE_PX, dtype=torch.float64).mul(2).sub(1).unbind()
    return fake, real


def _masks(*boxes: tuple[int, int, int, int] | None) -> Tensor:
    """One mask a box, top, left, bottom and right; empty for ``None``."""
    masks = torch.zeros(len(boxes), 1, SIDE_PX, SIDE_PX)
    for mask, box in zip(masks, boxes, strict=True):
        if box is not None:
            mask[0, box[0] : box[2], box[1] : box[3]] = 1
    return masks


MASKS = _masks((4, 5, 12, 9), None, (10, 16, 13, 24))


def _named_as_its_mask(network: PixelClassifier, image: Tensor, mask: Tensor, reach_px: int | None = None) -> Tensor:
    """The loss of one image ``[1, H, W]``, pixel by pixel: half its tumour's mean, half that of the visible rest."""
    logits = network(image[None])[0]
    inside, rest = [], []
    tumour = [(int(i), int(j)) for i, j in (mask[0] > 0).nonzero()]
    for row in range(SIDE_PX):
        for column in range(SIDE_PX):
            e = [logits[k, row, column].exp() for k in range(3)]
            if mask[0, row, column] > 0:
                inside.append(-(e[1] / sum(e)).log())
            elif reach_px is None or min(max(abs(row - i), abs(column - j)) for i, j in tumour) <= reach_px:
                rest.append(-(e[0] / sum(e)).log())
    return (torch.stack(inside).mean() + torch.stack(rest).mean()) / 2


def _named_generated(network: PixelClassifier, image: Tensor) -> Tensor:
    e = network(image[None])[0].exp()
    return -(e[GENERATED] / e.sum(dim=0)).log().mean()


@pytest.mark.parametrize("reach_px", [None, 0, 3])
def test_the_generators_loss_and_gradient_are_those_of_a_loop_over_pixels(reach_px: int | None) -> None:
    classifiers = _classifiers(pixel_reach_px=reach_px)
    network = copy.deepcopy(classifiers.networks[KEY])
    fake, _ = _images()
    ours, theirs = fake.clone().requires_grad_(), fake.clone().requires_grad_()
    loss = _generator_loss(classifiers, KEY, ours, RegionMask.from_tensor(MASKS))
    assert loss is not None
    loss.backward()
    if reach_px == 0:  # nothing of the rest is visible: the tumour has all of the weight

        def of_one(place: int) -> Tensor:
            names = network(theirs[place][None])[0].log_softmax(dim=0)
            return -names[1][MASKS[place, 0] > 0].mean()
    else:

        def of_one(place: int) -> Tensor:
            return _named_as_its_mask(network, theirs[place], MASKS[place], reach_px)

    expected = (of_one(0) + of_one(2)) / 2
    expected.backward()
    assert ours.grad is not None and theirs.grad is not None
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    seen = torch.ones_like(MASKS, dtype=torch.bool)
    if reach_px is not None:
        seen = torch.nn.functional.max_pool2d(MASKS, 2 * reach_px + 1, 1, reach_px) > 0
    torch.testing.assert_close(ours.grad[seen], theirs.grad[seen], rtol=1e-10, atol=1e-14)
    assert all(parameter.grad is None for parameter in classifiers.parameters())
    assert all(parameter.requires_grad for parameter in classifiers.parameters())


@pytest.mark.parametrize("reach_px", [0, 2, 5])
def test_with_a_reach_the_gradient_is_exactly_zero_beyond_it_and_without_one_it_is_of_the_whole_image(
    reach_px: int,
) -> None:
    for reach, whole in ((reach_px, False), (None, True)):
        fake = _images()[0].requires_grad_()
        loss = _generator_loss(_classifiers(pixel_reach_px=reach), KEY, fake, RegionMask.from_tensor(MASKS))
        assert loss is not None
        loss.backward()
        assert fake.grad is not None
        near = torch.nn.functional.max_pool2d(MASKS, 2 * reach_px + 1, 1, reach_px) > 0
        assert (fake.grad[near] != 0).all()
        beyond = fake.grad[~near & (MASKS.amax(dim=(2, 3), keepdim=True) > 0)]
        assert (beyond != 0).all() if whole else (beyond == 0).all()
        assert (fake.grad[1] == 0).all(), "an image without the region is not looked at"


def test_what_a_classifier_learns_is_a_loop_over_real_and_generated_images() -> None:
    classifiers = _classifiers(pixel_reach_px=2)
    network = copy.deepcopy(classifiers.networks[KEY])
    fake, real = _images()
    real_masks = _masks(None, (2, 2, 6, 9), None)
    given = (fake.requires_grad_(), RegionMask.from_tensor(MASKS), real, RegionMask.from_tensor(real_masks))
    loss = _learning_loss(classifiers, KEY, *given)
    assert loss is not None
    loss.backward()
    assert fake.grad is None
    shown = fake.detach()
    expected = _named_as_its_mask(network, real[1], real_masks[1]) / 2
    expected = expected + (_named_generated(network, shown[0]) + _named_generated(network, shown[2])) / 4
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(classifiers.networks[KEY].parameters(), network.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-9, atol=1e-14)
    assert all(parameter.grad is None for parameter in classifiers.networks["B2A_tumor"].parameters())
    weighed = _learning_loss(classifiers, KEY, *given, shares={f"real_{KEY}": 0.0, f"fake_{KEY}": 2.0})
    assert weighed is not None
    assert weighed.item() == pytest.approx(sum(_named_generated(network, shown[k]).item() for k in (0, 2)) / 2)


def test_an_image_weighs_one_whatever_its_region_and_half_of_it_is_the_regions() -> None:
    inside = (MASKS[[0, 2], 0] > 0).numpy()
    weights = class_weights(inside)
    assert weights.sum(axis=(2, 3)) == pytest.approx(np.full((2, 2), 0.5))
    assert (weights[:, 1][~inside] == 0).all() and (weights[:, 0][inside] == 0).all()
    assert class_weights(torch.ones(1, 4, 4, dtype=torch.bool).numpy()).sum(axis=(2, 3)).tolist() == [[0, 1]]


def test_no_image_with_the_region_is_no_loss() -> None:
    classifiers, empty = _classifiers(), RegionMask.from_tensor(torch.zeros(3, 1, SIDE_PX, SIDE_PX))
    fake, real = _images()
    assert _generator_loss(classifiers, KEY, fake, empty) is None
    assert _learning_loss(classifiers, KEY, fake, empty, real, empty) is None


def test_only_regions_that_ask_for_one_have_a_classifier() -> None:
    regions = (RegionConfig("liver"), RegionConfig("tumor", pixel_weight=0.5))
    classifiers = PixelClassifiers(Config(regions=regions), {"A2B": 1, "B2A": 3})
    assert list(classifiers.networks) == ["A2B_tumor", "B2A_tumor"]
    assert [network.in_channels for network in classifiers.networks.values()] == [1, 3]
    assert not list(PixelClassifiers(Config(regions=regions[:1]), {"A2B": 1}).parameters())


def _guided(weight: float, pixel_weight: float) -> dict[str, float]:
    torch.manual_seed(0)
    host = ToyHost()
    (tumor,) = phantom_config().regions
    region = RegionConfig(**{**vars(tumor), "weight": weight, "pixel_weight": pixel_weight, "pixel_channels": 2})
    with attach(host, config=phantom_config(regions=(region,), ggd=None)) as session:
        session.start_epoch(1)
        for batch in host.batches(2):
            host.step(batch)
        return session.losses()


def test_a_region_is_judged_by_either_or_both() -> None:
    both = [f"{side}{kind}_tumor_{d}" for side in "DG" for kind in ("", "_pixels") for d in ("A2B", "B2A")]
    assert sorted(_guided(1.0, 2.0)) == sorted(both)
    assert sorted(_guided(0.0, 2.0)) == sorted(name for name in both if "pixels" in name)
    assert sorted(_guided(1.0, 0.0)) == sorted(name for name in both if "pixels" not in name)


# -- asked together ----------------------------------------------------------------------------------------------------


def _shown(fakes: dict[str, Tensor], reals: dict[str, Tensor], masks: dict[str, Tensor]) -> list[Shown]:
    of = {domain: RegionMask.from_tensor(mask) for domain, mask in masks.items()}
    return [
        Shown(direction, "tumor", fakes[direction], of[direction[0]], reals[direction], of[direction[-1]])
        for direction in ("A2B", "B2A")
    ]


UNEVEN = {"A": _masks((4, 5, 12, 9), None, (10, 16, 13, 24)), "B": _masks(None, (1, 1, 9, 9), None)}
EVEN = {"A": _masks((4, 5, 12, 9), None, (10, 16, 13, 24)), "B": _masks((2, 2, 8, 8), (1, 1, 9, 9), None)}


@pytest.mark.parametrize("masks", [EVEN, UNEVEN], ids=["as many images", "other numbers of images"])
@pytest.mark.parametrize("hooked", [False, True], ids=["", "hooked"])
@pytest.mark.parametrize("reach_px", [None, 3])
def test_both_directions_and_both_losses_in_one_pass_are_each_loss_alone(
    masks: dict[str, Tensor], hooked: bool, reach_px: int | None
) -> None:
    classifiers = _classifiers(pixel_reach_px=reach_px)
    alone = copy.deepcopy(classifiers)
    torch.manual_seed(2)
    shape = (3, 1, SIDE_PX, SIDE_PX)
    fakes, reals = ({d: torch.randn(shape, dtype=torch.float64) for d in ("A2B", "B2A")} for _ in range(2))
    theirs = {d: fake.clone().requires_grad_() for d, fake in fakes.items()}
    fakes = {d: fake.requires_grad_() for d, fake in fakes.items()}
    called: list[int] = []
    if hooked:
        classifiers.networks[KEY].register_forward_hook(lambda *_: called.append(1))
    shares = {f"real_{KEY}": 0.7, "fake_B2A_tumor": 1.3}
    found = classifiers.losses(_shown(fakes, reals, masks), shares=shares)
    assert found.generators is not None and found.networks is not None and bool(called) == hooked
    (found.generators.values.sum() + found.networks.values.sum()).backward()
    losses: dict[str, list[Tensor]] = {"generators": [], "networks": []}
    for of in _shown(theirs, reals, masks):
        generated = _generator_loss(alone, of.key, of.fake, of.fake_masks)
        assert generated is not None and of.real is not None and of.real_masks is not None
        generated.backward()
        learnt = _learning_loss(alone, of.key, of.fake, of.fake_masks, of.real, of.real_masks, shares)
        assert learnt is not None
        learnt.backward()
        losses["generators"].append(generated)
        losses["networks"].append(learnt)
    assert found.generators.keys == found.networks.keys == ("A2B_tumor", "B2A_tumor")
    for together, apart in ((found.generators, losses["generators"]), (found.networks, losses["networks"])):
        torch.testing.assert_close(together.values, torch.stack(apart), rtol=1e-12, atol=1e-13)
    for direction, fake in fakes.items():
        torch.testing.assert_close(fake.grad, theirs[direction].grad, rtol=1e-10, atol=1e-14)
    for ours, expected in zip(classifiers.parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-9, atol=1e-13)


def test_images_of_two_sizes_are_named_apart_and_count_in_one_loss() -> None:
    """Domains of a plain script may have images of sizes of their own."""
    classifiers, alone = _classifiers(), _classifiers()
    fake, _ = _images()
    real, real_masks = torch.rand(2, 1, 16, 40, dtype=torch.float64), torch.zeros(2, 1, 16, 40)
    real_masks[0, 0, 3:8, 20:30] = 1
    given = (fake, RegionMask.from_tensor(MASKS), real, RegionMask.from_tensor(real_masks))
    loss = _learning_loss(classifiers, KEY, *given)
    parts = [
        _learning_loss(alone, KEY, *given, shares={f"real_{KEY}": float(of_real), f"fake_{KEY}": float(not of_real)})
        for of_real in (True, False)
    ]
    assert loss is not None and parts[0] is not None and parts[1] is not None
    torch.testing.assert_close(loss, parts[0] + parts[1], rtol=1e-12, atol=1e-13)
    logits = alone.networks[KEY](real[:1])
    weights = torch.from_numpy(class_weights((real_masks[:1, 0] > 0).numpy()))
    expected = -(logits.log_softmax(dim=1)[:, :GENERATED] * weights).sum() / 2
    torch.testing.assert_close(parts[0], expected, rtol=1e-12, atol=1e-13)


def test_networks_that_move_are_still_asked_together() -> None:
    """A move takes parameters away from where they lay beside one another; what is learnt afterwards counts."""
    classifiers = _classifiers()
    fakes, reals = ({d: _images()[place] for d in ("A2B", "B2A")} for place in (0, 1))
    before = classifiers.losses(_shown(fakes, reals, EVEN)).networks
    classifiers.float().double()
    with torch.no_grad():
        for parameter in classifiers.networks[KEY].parameters():
            parameter.mul_(1.1)
    after = classifiers.losses(_shown(fakes, reals, EVEN)).networks
    again = copy.deepcopy(classifiers).losses(_shown(fakes, reals, EVEN)).networks
    assert before is not None and after is not None and again is not None
    assert not torch.equal(before.values[0], after.values[0])
    torch.testing.assert_close(before.values[1], after.values[1], rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(again.values, after.values, rtol=1e-12, atol=1e-13)
