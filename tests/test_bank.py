"""The bank asked for a whole step at once, against a plain loop over windows and scales that nobody made fast."""

from __future__ import annotations

import copy
import functools
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from roi_progressive.config import ADVERSARIAL_LOSSES, ROI_MODES, AdversarialLoss, Config, RegionConfig
from roi_progressive.method.bank import DiscriminatorBank
from roi_progressive.method.discriminators import PatchDiscriminator, patch_discriminator_for
from roi_progressive.method.regions import RegionMask
from roi_progressive.method.shown import Shown
from roi_progressive.testing import phantom_batch

pytestmark = pytest.mark.usefixtures("one_thread")
DIRECTIONS = {"A2B": ("A", "B"), "B2A": ("B", "A")}


# -- the reference: paper and DESIGN.md, a window, a scale and a logit at a time --------------------------------------


def window(image: Tensor, mask: Tensor, region: RegionConfig, background: float) -> tuple[Tensor, Tensor] | None:
    """What a discriminator sees of one image ``[1, C, H, W]``, and the region in it."""
    if not mask.any():
        return None
    if region.mode.whole_image:
        seen, inside = image, mask
    else:
        rows, columns = (mask[0, 0].any(dim=axis).nonzero().flatten() for axis in (1, 0))
        box = rows[0].item(), columns[0].item(), rows[-1].item() + 1, columns[-1].item() + 1
        needed = max(box[2] - box[0], box[3] - box[1]) + 2 * (region.margin_px + region.context_px)
        side = next(side for side in (*region.windows_px, *range(0, 999, region.windows_px[-1])) if side >= needed)
        top = max(0, min((box[0] + box[2] - side) // 2, image.shape[2] - side))
        left = max(0, min((box[1] + box[3] - side) // 2, image.shape[3] - side))
        beyond = (0, max(0, side - image.shape[3]), 0, max(0, side - image.shape[2]))
        seen = F.pad(image, beyond, value=background)[..., top : top + side, left : left + side]
        inside = F.pad(mask, beyond, value=False)[..., top : top + side, left : left + side]
    visible = F.max_pool2d(inside.double(), 2 * region.context_px + 1, 1, region.context_px) > 0
    if region.mode.shows_outside:
        seen = torch.where(visible, seen, seen.detach())
    else:
        seen = torch.where(visible, seen, background)
    return (torch.cat([seen, inside.to(seen)], dim=1) if region.mode.extra_channels else seen), inside.to(seen)


def loss_of_window(networks: nn.ModuleList, region: RegionConfig, seen: Tensor, inside: Tensor, loss: Any) -> Tensor:
    """Over all scales, with InstanceNorm, weights and means as they are printed."""
    of_scales = []
    for network in networks:
        logits, weights = network(seen), inside
        for kernel, stride, padding in network.geometry:
            weights = F.avg_pool2d(F.pad(weights, (padding,) * 4), kernel, stride)
        if region.logits == "mean":
            of_scales.append(loss(logits.mean()))
        elif region.logits == "plain":
            of_scales.append(loss(logits).mean())
        else:
            of_scales.append((loss(logits) * weights).sum() / weights.sum())
        seen, inside = (F.avg_pool2d(level, 2, ceil_mode=True) for level in (seen, inside))
    return sum(of_scales) / (len(of_scales) if region.scale_reduction == "mean" else 1)


def losses_of_images(
    bank: DiscriminatorBank, key: str, region: RegionConfig, images: Tensor, masks: Tensor, loss: Any
) -> list[Tensor]:
    windows = (window(images[n : n + 1], masks[n : n + 1], region, bank.config.background) for n in range(len(images)))
    return [loss_of_window(bank.networks[key].scales, region, *seen, loss) for seen in windows if seen is not None]


# -- what both are given ----------------------------------------------------------------------------------------------


def discs(radii: Sequence[float], size: int = 56) -> Tensor:
    """One image a radius, each disc elsewhere; 0 has none."""
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    centres = [(9 + 7 * n, 50 - 9 * n) for n in range(len(radii))]
    found = [
        (rows - a) ** 2 + (columns - b) ** 2 <= r**2 if r else rows < 0
        for (a, b), r in zip(centres, radii, strict=True)
    ]
    return torch.stack(found)[:, None]


MASKS = {  # of A and B, by region: alike, of different sizes and numbers, missing on one side or both
    "alike": {"liver": ([12, 12], [12, 12]), "tumor": ([3, 3], [3, 3])},
    "uneven": {"liver": ([12, 0, 9], [20, 9, 9]), "tumor": ([3, 9, 0], [3, 0, 0])},
    "one side": {"liver": ([0, 0], [9, 12]), "tumor": ([3, 4], [0, 0])},
}


def step_of(masks: str, dtype: torch.dtype = torch.float64, channels: int = 1) -> tuple[dict[str, Tensor], Any]:
    """Images and masks of a step, by name."""
    random_ = torch.Generator().manual_seed(1)
    n = len(MASKS[masks]["liver"][0])
    images = {
        name: (torch.rand(n, channels, 56, 56, generator=random_, dtype=torch.float64) * 2 - 1).to(dtype)
        for name in ("fake_A2B", "fake_B2A", "real_A", "real_B")
    }
    return images, {r: dict(zip("AB", map(discs, radii), strict=True)) for r, radii in MASKS[masks].items()}


def shown(bank: DiscriminatorBank, images: dict[str, Tensor], masks: Any, *, real: bool = True) -> list[Shown]:
    cached = {(r, d): RegionMask.from_tensor(mask) for r, of in masks.items() for d, mask in of.items()}
    return [
        Shown(direction, r.name, images[f"fake_{direction}"], cached[r.name, source])
        if not real
        else Shown(
            direction,
            r.name,
            images[f"fake_{direction}"],
            cached[r.name, source],
            images[f"real_{target}"],
            cached[r.name, target],
        )
        for direction, (source, target) in DIRECTIONS.items()
        for r in bank.config.regions
    ]


def bank_of(
    adversarial: str = "least_squares", pool_size: int = 0, build: Any = None, **region: Any
) -> DiscriminatorBank:
    torch.manual_seed(0)
    sizes = {"windows_px": (24, 32, 48), "base_channels": 3, **region}
    regions = (RegionConfig("liver", scales=2, **sizes), RegionConfig("tumor", scales=3, **sizes))
    config = Config(regions=regions, ggd=None, adversarial=adversarial, pool_size=pool_size, background=-0.9)
    bank = DiscriminatorBank(config, build=build or patch_discriminator_for).double()
    with torch.no_grad():  # as after some training: large enough to tell right from wrong
        for parameter in bank.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return bank


def close(ours: Tensor | None, reference: Tensor | None) -> None:
    assert ours is not None and reference is not None
    scale = reference.abs().max().item()
    torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10 * scale)


def check_against_reference(bank: DiscriminatorBank, masks_name: str) -> None:
    """Losses of both passes, and all their gradients, against the plain loop."""
    images, masks = step_of(masks_name)
    plain: AdversarialLoss = ADVERSARIAL_LOSSES[bank.config.adversarial]
    copy_of_bank = copy.deepcopy(bank)
    regions = {f"{d}_{r.name}": (d, r) for d in DIRECTIONS for r in bank.config.regions}

    ours = {name: image.clone().requires_grad_() for name, image in images.items()}
    theirs = {name: image.clone().requires_grad_() for name, image in images.items()}
    found = bank.generator_losses(shown(bank, ours, masks, real=False))
    assert found is not None
    expected = {}
    for key, (direction, region) in regions.items():
        fake, of_fake = theirs[f"fake_{direction}"], masks[region.name][DIRECTIONS[direction][0]]
        losses = losses_of_images(copy_of_bank, key, region, fake, of_fake, plain.generator)
        if losses:
            expected[key] = torch.stack(losses).mean()
    assert set(found.keys) == set(expected)
    generators = expected
    close(found.values, torch.stack([expected[key] for key in found.keys]))
    weights = torch.linspace(0.3, 1.7, len(expected), dtype=torch.float64)
    (found.values * weights).sum().backward()
    sum(w * expected[key] for w, key in zip(weights, found.keys, strict=True)).backward()
    for name in ("fake_A2B", "fake_B2A"):
        close(ours[name].grad, theirs[name].grad)
    bank.zero_grad()
    copy_of_bank.zero_grad()

    found = bank.discriminator_losses(shown(bank, images, masks))
    assert found is not None
    expected = {}
    for key, (direction, region) in regions.items():
        source, target = DIRECTIONS[direction]
        halves = [
            losses_of_images(copy_of_bank, key, region, image, masks[region.name][domain], loss)
            for image, domain, loss in (
                (images[f"fake_{direction}"], source, plain.fake),
                (images[f"real_{target}"], target, plain.real),
            )
        ]
        if any(halves):
            expected[key] = sum(0.5 * torch.stack(half).mean() for half in halves if half)
    assert set(found.keys) == set(expected)
    close(found.values, torch.stack([expected[key] for key in found.keys]))
    found.values.sum().backward()
    sum(expected.values()).backward()
    for (name, ours_), theirs_ in zip(bank.named_parameters(), copy_of_bank.parameters(), strict=True):
        assert (ours_.grad is None) == (theirs_.grad is None), name
        if theirs_.grad is not None:
            close(ours_.grad, theirs_.grad)

    # Both in one pass: the generators' gradient reaches images only, the discriminators' own the networks only.
    bank.zero_grad()
    of_images = {name: image.grad for name, image in ours.items()}
    ours = {name: image.clone().requires_grad_() for name, image in images.items()}
    both = bank.step_losses(shown(bank, ours, masks))
    if not all(isinstance(scale, PatchDiscriminator) for key in bank.networks for scale in bank.networks[key].scales):
        assert both is None
        return
    assert both is not None and both.generators is not None and both.networks is not None
    close(both.generators.values, torch.stack([generators[key] for key in both.generators.keys]))
    close(both.networks.values, torch.stack([expected[key] for key in both.networks.keys]))
    ((both.generators.values * weights).sum() + both.networks.values.sum()).backward()
    for name, image in ours.items():
        assert (image.grad is None) == name.startswith("real")
        if image.grad is not None:
            close(image.grad, of_images[name])
    for (name, ours_), theirs_ in zip(bank.named_parameters(), copy_of_bank.parameters(), strict=True):
        assert (ours_.grad is None) == (theirs_.grad is None), name
        if theirs_.grad is not None:
            close(ours_.grad, theirs_.grad)


# -- the statements ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ROI_MODES)
@pytest.mark.parametrize("masks", MASKS)
def test_losses_and_gradients_are_those_of_a_plain_loop(masks: str, mode: str) -> None:
    check_against_reference(bank_of(roi_mode=mode, context_px=1), masks)


@pytest.mark.parametrize("adversarial", ADVERSARIAL_LOSSES)
def test_so_they_are_with_every_loss(adversarial: str) -> None:
    check_against_reference(bank_of(adversarial), "uneven")


@pytest.mark.parametrize("logits", ["plain", "mean"])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_so_they_are_with_every_way_to_count_logits(logits: str, reduction: str) -> None:
    check_against_reference(bank_of(logits=logits, scale_reduction=reduction), "uneven")


def test_so_they_are_with_all_layers_strided_and_windows_larger_than_the_image() -> None:
    check_against_reference(bank_of(all_strided=True, layers=1, windows_px=(64,)), "uneven")


class Foreign(nn.Module):
    """Somebody's network with a geometry and no build of ours."""

    geometry = ((3, 2, 1), (3, 1, 1))

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(channels, 3, 3, 2, 1), nn.Tanh(), nn.Conv2d(3, 1, 3, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


def test_so_they_are_with_somebodys_own_networks() -> None:
    check_against_reference(bank_of(build=lambda region, channels, smallest_px: Foreign(channels)), "uneven")


def test_so_they_are_where_one_network_of_a_pair_is_hooked_and_the_hook_is_called() -> None:
    bank = bank_of()
    calls: list[Any] = []
    handle = bank.networks["A2B_tumor"].scales[1].model[0].register_forward_hook(lambda *call: calls.append(call))
    images, masks = step_of("alike")
    assert bank.step_losses(shown(bank, images, masks)) is None, "it may tell one pass from two"
    for losses in (bank.generator_losses, bank.discriminator_losses):
        assert losses(shown(bank, images, masks)) is not None and calls
        calls.clear()
    handle.remove()
    check_against_reference(bank, "alike")


@pytest.mark.parametrize("masks", MASKS)
def test_one_pass_shows_the_windows_of_two_and_keeps_the_same_in_the_pools(masks: str, differing: Any) -> None:
    together, apart = bank_of(pool_size=3), bank_of(pool_size=3)
    for seed in range(12):
        images, of_masks = step_of(masks)
        images = {name: image.roll(seed, dims=-1).requires_grad_() for name, image in images.items()}
        if seed % 3 == 2:  # a step that is not made
            assert together.step_losses(shown(together, images, of_masks)) is not None
            together.forget_windows()
            assert differing(together.pools_state_dict(), apart.pools_state_dict()) == []
        both = together.step_losses(shown(together, images, of_masks))
        assert both is not None
        together.keep_windows()
        for found, expected in (
            (both.generators, apart.generator_losses(shown(apart, images, of_masks, real=False))),
            (both.networks, apart.discriminator_losses(shown(apart, images, of_masks))),
        ):
            assert found is not None and expected is not None and found.keys == expected.keys
            torch.testing.assert_close(found.values, expected.values, rtol=1e-12, atol=1e-14)
        assert differing(together.pools_state_dict(), apart.pools_state_dict()) == []


def test_a_stack_follows_its_networks_wherever_they_go() -> None:
    """Loading, moving to another type and optimizing act on what the stack computes with."""
    bank = bank_of()
    check_against_reference(bank, "alike")
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-2)
    images, masks = step_of("alike")
    found = bank.discriminator_losses(shown(bank, images, masks))
    assert found is not None
    found.values.sum().backward()
    optimizer.step()
    check_against_reference(bank, "alike")
    bank.float().double()
    check_against_reference(bank, "alike")
    bank.load_state_dict(bank_of("hinge", layers=3).state_dict())
    check_against_reference(bank, "alike")


def test_a_banks_state_has_the_keys_shapes_and_memory_of_networks_that_stand_alone() -> None:
    bank, fresh = bank_of(), bank_of()
    check_against_reference(bank, "alike")
    assert {k: v.shape for k, v in bank.state_dict().items()} == {k: v.shape for k, v in fresh.state_dict().items()}
    assert all(torch.equal(a, b) for a, b in zip(bank.state_dict().values(), fresh.state_dict().values(), strict=True))


@pytest.mark.parametrize("masks", MASKS)
def test_a_pool_shows_the_same_windows_as_one_that_is_asked_region_by_region(masks: str) -> None:
    together, apart = bank_of(pool_size=3), bank_of(pool_size=3)
    for seed in range(12):
        images, of_masks = step_of(masks)
        images = {name: image.roll(seed, dims=-1) for name, image in images.items()}
        found = together.discriminator_losses(shown(together, images, of_masks))
        assert found is not None
        for place, key in enumerate(found.keys):
            (one,) = (of for of in shown(apart, images, of_masks) if of.key == key)
            alone = apart.discriminator_loss(
                one.direction, one.region, one.fake, one.fake_masks, one.real, one.real_masks
            )
            assert alone is not None
            torch.testing.assert_close(found.values[place], alone, rtol=1e-12, atol=1e-14)


def test_a_random_batch_of_the_phantom_is_judged_as_by_the_plain_loop() -> None:
    random.seed(0)
    batch = phantom_batch(4, size_px=48)
    bank = bank_of(base_channels=2)
    image = batch["A"].double().requires_grad_()
    again = batch["A"].double().requires_grad_()
    masks = RegionMask.from_tensor(batch["A_tumor"])
    region = bank.config.regions[1]
    found = bank.generator_losses([Shown("A2B", "tumor", image, masks), Shown("B2A", "tumor", image, masks)])
    assert found is not None
    loss = ADVERSARIAL_LOSSES["least_squares"].generator
    expected = [
        torch.stack(losses_of_images(bank, f"{d}_tumor", region, again, batch["A_tumor"] > 0, loss)).mean()
        for d in DIRECTIONS
    ]
    close(found.values, torch.stack(expected))
    found.values.sum().backward()
    sum(expected).backward()
    close(image.grad, again.grad)


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiled_networks_give_the_same_losses_and_gradients(
    backend: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """``aot_eager`` traces what ``inductor``, torch's own choice, makes kernels of."""
    if backend == "inductor" and shutil.which("g++") is None and shutil.which("c++") is None:
        pytest.skip("torch.compile needs a C++ compiler, and there is none on the path")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    regions = (RegionConfig("tumor", scales=1, windows_px=(24,), base_channels=2),)
    found = []
    for compiled in (False, True):
        torch.manual_seed(0)
        bank = DiscriminatorBank(Config(regions=regions, ggd=None, pool_size=0, compile=compiled)).double()
        images, masks = step_of("alike")
        fakes = {name: image.requires_grad_(name.startswith("fake")) for name, image in images.items()}
        of_generators = bank.generator_losses(shown(bank, fakes, {"tumor": masks["tumor"]}, real=False))
        assert of_generators is not None
        gradients = torch.autograd.grad(of_generators.values.sum(), [fakes["fake_A2B"], fakes["fake_B2A"]])
        of_discriminators = bank.discriminator_losses(shown(bank, images, {"tumor": masks["tumor"]}))
        assert of_discriminators is not None
        of_discriminators.values.sum().backward()
        found.append([of_generators.values, of_discriminators.values, *gradients, *(p.grad for p in bank.parameters())])
    for plain, ours in zip(*found, strict=True):
        close(ours, plain)
