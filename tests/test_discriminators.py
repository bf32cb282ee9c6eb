"""Region discriminators: sizes, scales, weights, foreign networks, and the bank that leaves empty batches alone."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from roi_progressive.config import ADVERSARIAL_LOSSES, ROI_MODES, Config, RegionConfig
from roi_progressive.errors import ConfigError, PluginError, ShapeError
from roi_progressive.method.bank import DiscriminatorBank
from roi_progressive.method.discriminators import (
    PatchDiscriminator,
    RegionDiscriminator,
    min_size_px,
    patch_discriminator_for,
    patch_geometry,
)
from roi_progressive.method.regions import RegionMask
from roi_progressive.method.windows import Windows, extract_windows

LEAST_SQUARES = ADVERSARIAL_LOSSES["least_squares"]


def disc(size: int, centre: tuple[int, int], radius: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2)[None, None]


def region_masks(*radii: float, size: int = 48) -> RegionMask:
    """One image a radius; 0 has no region."""
    discs = [disc(size, (20 + 3 * n, 24), radius) & (radius > 0) for n, radius in enumerate(radii)]
    return RegionMask.from_tensor(torch.cat(discs))


def images(count: int, size: int = 48, seed: int = 0) -> Tensor:
    return torch.rand(count, 1, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def bank_of(config: Config | None = None, **options: Any) -> DiscriminatorBank:
    torch.manual_seed(0)
    region = RegionConfig("tumor", scales=2, windows_px=(16, 24, 32), base_channels=4)
    return DiscriminatorBank(config or Config(regions=(region,), ggd=None, pool_size=3), **options)


# -- one network ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("layers", "smallest"), [(1, 6), (2, 12), (3, 24)])
def test_one_two_and_three_layers_need_6_12_and_24_pixels(layers: int, smallest: int) -> None:
    network = PatchDiscriminator(base_channels=2, layers=layers)
    assert network.min_size_px == smallest
    assert network(torch.rand(1, 1, smallest, smallest)).shape == (1, 1, 1, 1)
    with pytest.raises((RuntimeError, ValueError)):  # the convolutions or InstanceNorm give up, not our own check
        network.model(torch.rand(1, 1, smallest - 1, smallest - 1))
    with pytest.raises(ShapeError, match=rf"^`image` must be [^\n]+ at least {smallest} px; got [^\n]+$"):
        network(torch.rand(1, 1, smallest, smallest - 1))


def test_three_layers_are_the_70_pixel_patchgan() -> None:
    """Shapes and parameters as printed by Isola et al. 2017, appendix 6.1.2 (with the bias InstanceNorm cancels)."""
    network = PatchDiscriminator(3)
    convolutions = [m for m in network.model if isinstance(m, nn.Conv2d)]
    assert [(c.in_channels, c.out_channels) for c in convolutions] == [
        (3, 64),
        (64, 128),
        (128, 256),
        (256, 512),
        (512, 1),
    ]
    assert [c.stride[0] for c in convolutions] == [2, 2, 2, 1, 1]
    assert {c.kernel_size for c in convolutions} == {(4, 4)}
    assert {c.padding for c in convolutions} == {(1, 1)}
    assert {m.negative_slope for m in network.model if isinstance(m, nn.LeakyReLU)} == {0.2}
    assert network(torch.rand(1, 3, 256, 256)).shape == (1, 1, 30, 30)


def test_all_strided_gives_every_convolution_stride_2() -> None:
    network = PatchDiscriminator(base_channels=2, layers=2, all_strided=True)
    assert {m.stride for m in network.model if isinstance(m, nn.Conv2d)} == {(2, 2)}
    assert network.geometry == ((4, 2, 1),) * 4


def test_no_bias_is_cancelled_by_the_norm_behind_it() -> None:
    network = PatchDiscriminator(base_channels=2)
    network(torch.rand(2, 1, 48, 48)).sum().backward()
    assert all((p.grad != 0).any() for p in network.parameters())


@pytest.mark.parametrize("image", [torch.zeros(1, 2, 32, 32), torch.zeros(1, 32, 32), torch.zeros(1, 1, 32, 23)])
def test_an_image_it_cannot_take_is_refused_in_one_line(image: Tensor) -> None:
    with pytest.raises(ShapeError, match=r"^`image` must be \[N, 1, H, W\] with sides of at least 24 px; got [^\n]+$"):
        PatchDiscriminator(base_channels=2)(image)


@pytest.mark.parametrize("wrong", ["in_channels", "base_channels", "layers"])
def test_a_network_of_nothing_is_refused(wrong: str) -> None:
    with pytest.raises(ConfigError, match=rf"^`{wrong}` must be a whole number of at least 1; got 0$"):
        PatchDiscriminator(**{wrong: 0})


@pytest.mark.parametrize("all_strided", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_smallest_side_is_found_by_running_the_network(layers: int, all_strided: bool) -> None:
    network = PatchDiscriminator(base_channels=1, layers=layers, all_strided=all_strided)
    smallest = min_size_px(layers, all_strided)
    assert smallest == network.min_size_px
    assert min(network.model(torch.rand(1, 1, smallest, smallest)).shape) == 1
    with pytest.raises((RuntimeError, ValueError)):
        network.model(torch.rand(1, 1, smallest - 1, smallest - 1))


def test_three_layers_see_70_pixels() -> None:
    field = 1
    for kernel, stride, _ in reversed(patch_geometry(3)):
        field = (field - 1) * stride + kernel
    assert field == 70
    assert [stride for _, stride, _ in patch_geometry(2)] == [2, 2, 1, 1]


# -- one region -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("smallest", "layers"), [(6, 1), (11, 1), (12, 2), (23, 2), (24, 3), (47, 3), (48, 3), (256, 3)]
)
def test_the_depth_of_a_scale_is_the_deepest_its_smallest_window_allows(smallest: int, layers: int) -> None:
    network = patch_discriminator_for(RegionConfig("tumor", base_channels=2), 1, smallest)
    assert len(network.geometry) - 2 == layers
    network(torch.rand(1, 1, smallest, smallest))


def test_the_depth_never_exceeds_the_configured_one() -> None:
    assert len(patch_discriminator_for(RegionConfig("tumor", layers=1, base_channels=2), 1, 256).geometry) == 3
    assert len(patch_discriminator_for(RegionConfig("tumor", layers=5, base_channels=2), 1, 96).geometry) == 7


def test_a_window_too_small_for_one_layer_is_refused_in_one_line() -> None:
    region = RegionConfig("tumor", scales=1, windows_px=(6, 32), all_strided=True)
    with pytest.raises(ConfigError, match=r"^`regions\['tumor'\]\.windows_px` leave 6 px [^\n]+ \(8\); [^\n]+$"):
        RegionDiscriminator(region)


def test_every_scale_is_built_for_the_first_rung_of_the_ladder_and_runs_on_every_rung() -> None:
    region = RegionConfig("tumor", scales=3, windows_px=(24, 37, 64), base_channels=2)
    network = RegionDiscriminator(region)
    assert [len(scale.geometry) - 2 for scale in network.scales] == [3, 2, 1]
    for side in (24, 37, 64, 128):
        mask = disc(side, (side // 2, side // 2), 3).float()
        maps = network(Windows(images(1, side), mask))
        assert len(maps) == 3
        assert all(weights is not None and weights.shape == logits.shape for logits, weights in maps)


@pytest.mark.parametrize(("mode", "channels"), [("crop", 3), ("mask", 3), ("concat", 4)])
def test_concat_has_one_more_channel(mode: str, channels: int) -> None:
    seen = []

    def build(region: RegionConfig, in_channels: int, smallest_px: int) -> nn.Module:
        seen.append((in_channels, smallest_px))
        return patch_discriminator_for(region, in_channels, smallest_px)

    RegionDiscriminator(RegionConfig("tumor", roi_mode=mode, base_channels=2), 3, build)
    assert seen == [(channels, 32), (channels, 16), (channels, 8)]


class Constant(nn.Module):
    """A discriminator that says one thing everywhere, whose geometry nobody knows."""

    def __init__(self, value: float = 0.0) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))

    def forward(self, image: Tensor) -> Tensor:
        return self.value.expand(image.shape[0], 1, 4, 4) + 0 * image.mean()


@pytest.mark.parametrize("scales", [1, 2, 3])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_joining_a_scale_does_not_rescale_the_loss_unless_asked(scales: int, reduction: str) -> None:
    region = RegionConfig("tumor", scales=scales, scale_reduction=reduction)
    network = RegionDiscriminator(region, build=lambda *_: Constant(3.0))
    (windows,) = extract_windows(images(2), region_masks(3, 4), region)
    factor = scales if reduction == "sum" else 1
    torch.testing.assert_close(network.losses(windows, torch.square), torch.full((2,), 9.0 * factor))


def test_scales_are_averaged_from_their_own_networks() -> None:
    values = iter((1.0, 2.0, 6.0))
    network = RegionDiscriminator(RegionConfig("tumor"), build=lambda *_: Constant(next(values)))
    (windows,) = extract_windows(images(1), region_masks(3), network.region)
    assert network.losses(windows, lambda logits: logits).item() == pytest.approx(3.0)


class OneLogitAPixel(nn.Module):
    """The image itself as the map of logits."""

    geometry = ((1, 1, 0),)

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :1]


@pytest.mark.parametrize("logits", ["weighted", "plain", "mean"])
def test_a_logit_far_from_the_region_counts_only_where_all_count_alike(logits: str) -> None:
    region = RegionConfig("tumor", scales=1, roi_mode="concat", logits=logits)
    network = RegionDiscriminator(region, build=lambda *_: OneLogitAPixel())
    masks, image = region_masks(3), images(1)
    losses = []
    for outside in (0.0, 100.0):
        changed = torch.where(masks.mask, image, outside)
        (windows,) = extract_windows(changed, masks, region)
        losses.append(network.losses(windows, torch.square).item())
    if logits == "weighted":
        assert losses[0] == losses[1] == pytest.approx(image[masks.mask].square().mean().item())
    else:
        assert losses[1] > 100 * losses[0]


def test_mean_reproduces_the_printed_formula_and_takes_0_and_2_for_perfect() -> None:
    losses = {}
    for logits in ("mean", "plain"):
        region = RegionConfig("tumor", scales=1, roi_mode="mask", logits=logits)
        network = RegionDiscriminator(region, build=lambda *_: OneLogitAPixel())
        checkered = (torch.arange(48)[:, None] + torch.arange(48)) % 2 * 2.0
        full = RegionMask.from_tensor(torch.ones(1, 1, 48, 48))
        (windows,) = extract_windows(checkered.expand(1, 1, 48, 48), full, region)
        losses[logits] = network.losses(windows, LEAST_SQUARES.generator).item()
    assert losses == {"mean": 0.0, "plain": 1.0}


# -- foreign networks -------------------------------------------------------------------------------------------------


class Foreign(nn.Module):
    """Somebody's network with a dilated layer and no `geometry`."""

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(in_channels, 4, 3, dilation=2), nn.ReLU(), nn.Conv2d(4, 1, 3, stride=2, padding=1)
        )

    def forward(self, image: Tensor) -> Tensor:
        return self.layers(image)


@pytest.mark.parametrize("mode", ROI_MODES)
def test_a_network_without_geometry_works_through_the_factory(mode: str) -> None:
    torch.manual_seed(0)
    config = Config(regions=(RegionConfig("tumor", roi_mode=mode),), ggd=None)
    bank = bank_of(config, build=lambda region, in_channels, smallest_px: Foreign(in_channels))
    fake = images(2).requires_grad_()
    masks = region_masks(3, 9)
    bank.generator_loss("A2B", "tumor", fake, masks).backward()
    assert (fake.grad != 0).any()
    assert torch.all(fake.grad[~masks.mask] == 0)
    bank.discriminator_loss("A2B", "tumor", fake, masks, images(2, seed=1), masks).backward()
    assert all(p.grad is not None for p in bank.networks["A2B_tumor"].parameters())


def test_unknown_receptive_fields_are_weighted_by_the_region_under_and_beside_them() -> None:
    class Map(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.arange(64.0).view(1, 1, 8, 8).expand(len(image), 1, 8, 8)

    network = RegionDiscriminator(RegionConfig("tumor", scales=1), build=lambda *_: Map())
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 13, 14] = 1  # under the logit in row 3, column 3
    ((_, weights),) = network(Windows(torch.zeros(1, 1, 32, 32), mask))
    assert mask_of(weights) == set(itertools.product((2, 3, 4), (2, 3, 4)))


def mask_of(weights: Tensor) -> set[tuple[int, int]]:
    return {(int(row), int(column)) for row, column in (weights[0, 0] > 0).nonzero()}


@pytest.mark.parametrize(
    "answer",
    [
        lambda image: image.mean(dim=(1, 2, 3)),
        lambda image: [image],
        lambda image: None,
        lambda image: image[:1].expand(len(image) + 1, -1, -1, -1),
        lambda image: image.expand(-1, 2, -1, -1),
    ],
    ids=["vector", "list", "none", "batch", "channels"],
)
def test_a_network_that_returns_no_map_of_logits_is_a_plugins_error(answer: Callable[[Tensor], Any]) -> None:
    class Wrong(nn.Module):
        def forward(self, image: Tensor) -> Any:
            return answer(image)

    bank = bank_of(build=lambda *_: Wrong())
    with pytest.raises(PluginError, match=r"^`roi_discriminator` must build a network [^\n]+; Wrong returned [^\n]+$"):
        bank.generator_loss("A2B", "tumor", images(2), region_masks(3, 3))


def test_a_geometry_that_does_not_fit_the_logits_is_a_plugins_error() -> None:
    """A single weight would otherwise be stretched over the whole map without a word."""

    class Lying(Foreign):
        geometry = ((24, 24, 0),)

    bank = bank_of(build=lambda region, in_channels, smallest_px: Lying(in_channels))
    with pytest.raises(PluginError, match=r"^`geometry` of Lying must give its map of logits, [^\n]+$"):
        bank.generator_loss("A2B", "tumor", images(1), region_masks(9))


def test_a_factory_that_builds_no_module_is_a_plugins_error() -> None:
    with pytest.raises(
        PluginError, match=r"^`roi_discriminator` must return a torch.nn.Module; got builtin_function_or_method [^\n]+$"
    ):
        bank_of(build=lambda *_: torch.tanh)


# -- the bank ---------------------------------------------------------------------------------------------------------


def test_the_paper_has_two_directions_of_two_and_three_scales() -> None:
    bank = DiscriminatorBank(Config.paper())
    assert {key: len(network.scales) for key, network in bank.networks.items()} == {
        "A2B_liver": 2,
        "A2B_tumor": 3,
        "B2A_liver": 2,
        "B2A_tumor": 3,
    }
    assert set(bank.pools) == set(bank.networks)


def test_directions_may_differ_in_channels() -> None:
    bank = bank_of(in_channels={"A2B": 3, "B2A": 1})
    first = {key: network.scales[0].in_channels for key, network in bank.networks.items()}
    assert first == {"A2B_tumor": 3, "B2A_tumor": 1}


def test_no_regions_are_legal() -> None:
    bank = bank_of(Config(regions=(), ggd=None))
    assert list(bank.parameters()) == []
    assert bank.pools_state_dict() == {}


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_the_generators_loss_is_the_mean_over_the_images_that_hold_the_region(name: str) -> None:
    region = RegionConfig("tumor", scales=2, windows_px=(16, 24, 32), base_channels=4)
    bank = bank_of(Config(regions=(region,), ggd=None, adversarial=name)).double()
    fake, radii = images(4).double(), (3, 0, 12, 2)  # two windows of 16 px are judged together, one of 32 apart
    whole = bank.generator_loss("A2B", "tumor", fake, region_masks(*radii))
    masks = region_masks(*radii).mask
    alone = [
        bank.generator_loss("A2B", "tumor", fake[n : n + 1], RegionMask.from_tensor(masks[n : n + 1]))
        for n in (0, 2, 3)
    ]
    torch.testing.assert_close(whole, torch.stack(alone).mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ADVERSARIAL_LOSSES)
def test_the_discriminators_loss_is_half_the_mean_over_real_and_half_over_generated(name: str) -> None:
    region = RegionConfig("tumor", scales=2, windows_px=(16, 24, 32), base_channels=4)
    bank = bank_of(Config(regions=(region,), ggd=None, adversarial=name, pool_size=0)).double()
    fake, real = images(3).double(), images(2, seed=1).double()
    fake_masks, real_masks = region_masks(3, 12, 0), region_masks(5, 4)
    loss = bank.discriminator_loss("B2A", "tumor", fake, fake_masks, real, real_masks)
    network, kinds = bank.networks["B2A_tumor"], ADVERSARIAL_LOSSES[name]
    halves = []
    for image, masks, kind in ((fake, fake_masks, kinds.fake), (real, real_masks, kinds.real)):
        groups = extract_windows(image, masks, region)
        halves.append(0.5 * torch.cat([network.losses(windows, kind) for windows in groups]).mean())
    torch.testing.assert_close(loss, halves[0] + halves[1], rtol=1e-12, atol=0)


def test_the_discriminators_loss_sends_nothing_into_the_images() -> None:
    bank, fake, real = bank_of(), images(1).requires_grad_(), images(1, seed=1).requires_grad_()
    bank.discriminator_loss("A2B", "tumor", fake, region_masks(3), real, region_masks(4)).backward()
    assert fake.grad is None
    assert real.grad is None


def test_a_pooled_fake_is_judged_under_its_own_mask() -> None:
    """The windows of a batch are replaced by older ones; what is judged must be one of the pairs that were made."""
    region = RegionConfig("tumor", scales=1, windows_px=(16, 24, 32))
    bank = bank_of(Config(regions=(region,), ggd=None, pool_size=2))
    judged: list[Windows] = []
    bank.networks["A2B_tumor"].register_forward_pre_hook(lambda _, inputs: judged.append(inputs[0]))
    made: list[tuple[Tensor, Tensor]] = []
    older = 0
    for step in range(40):
        masks = region_masks([3, 0, 9, 12][step % 4], 2 + step % 3)
        fake = images(2, seed=step)
        for windows in extract_windows(fake, masks, region):
            made += zip(windows.pixels, windows.mask, strict=True)
        fresh = len(made)
        bank.discriminator_loss("A2B", "tumor", fake, masks, images(2), region_masks(0, 0))
        for windows in judged:
            for pixels, mask in zip(windows.pixels, windows.mask, strict=True):
                origins = [n for n, (p, _) in enumerate(made) if p.shape == pixels.shape and torch.equal(p, pixels)]
                assert len(origins) == 1
                assert torch.equal(made[origins[0]][1], mask)
                older += origins[0] < fresh - 2
        judged.clear()
    assert older > 10, "no older window was ever shown, so the test has tested nothing"


def test_each_direction_and_region_has_dice_of_its_own() -> None:
    pools = DiscriminatorBank(Config.paper()).pools_state_dict()
    words = [state["dice"]["words"] for state in pools.values()]
    assert len(words) == 4
    assert not any(torch.equal(a, b) for a, b in itertools.combinations(words, 2))


def test_pools_survive_a_file_in_plain_values() -> None:
    bank = bank_of()
    for step in range(5):
        masks = region_masks(3, 9)
        bank.discriminator_loss("A2B", "tumor", images(2, seed=step), masks, images(2), masks)
    file = io.BytesIO()
    torch.save(bank.pools_state_dict(), file)
    file.seek(0)
    resumed = bank_of()
    resumed.load_pools_state_dict(torch.load(file, weights_only=True))
    for step in range(5, 25):
        arguments = ("A2B", "tumor", images(2, seed=step), region_masks(3, 9), images(2), region_masks(3, 9))
        assert torch.equal(bank.discriminator_loss(*arguments), resumed.discriminator_loss(*arguments))


# -- no region, no change ----------------------------------------------------------------------------------------------


def snapshot(bank: nn.Module, optimizer: torch.optim.Optimizer) -> list[Tensor]:
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return [tensor.detach().clone() for tensor in (*bank.parameters(), *moments)]


def step(bank: DiscriminatorBank, optimizer: torch.optim.Optimizer, *arguments: Any) -> Tensor | None:
    loss = bank.discriminator_loss("A2B", "tumor", *arguments)
    if loss is not None:
        loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss


@pytest.mark.parametrize("mode", ROI_MODES)
def test_a_batch_without_the_region_changes_neither_weights_nor_moments(mode: str) -> None:
    region = RegionConfig("tumor", scales=2, windows_px=(16, 32), base_channels=4, roi_mode=mode)
    bank = bank_of(Config(regions=(region,), ggd=None))
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-2, betas=(0.5, 0.999))
    step(bank, optimizer, images(2), region_masks(3, 5), images(2, seed=1), region_masks(4, 0))
    before, dice = snapshot(bank, optimizer), bank.pools_state_dict()["A2B_tumor"]["dice"]["words"]

    none = region_masks(0, 0)
    fake = images(2).requires_grad_()
    assert bank.generator_loss("A2B", "tumor", fake, none) is None
    assert step(bank, optimizer, fake, none, images(2, seed=1), none) is None
    assert all(parameter.grad is None for parameter in bank.parameters())
    after = snapshot(bank, optimizer)
    assert len(before) == len(after)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert torch.equal(dice, bank.pools_state_dict()["A2B_tumor"]["dice"]["words"])


def test_one_direction_without_the_region_stays_while_the_other_learns() -> None:
    bank = bank_of()
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-2)
    before = {name: p.detach().clone() for name, p in bank.named_parameters()}
    step(bank, optimizer, images(1), region_masks(4), images(1, seed=1), region_masks(5))
    for name, parameter in bank.named_parameters():
        assert torch.equal(parameter, before[name]) == name.startswith("networks.B2A")


@pytest.mark.parametrize("present", ["fake", "real"])
def test_a_batch_with_only_generated_or_only_real_regions_is_trained_on_what_is_there(present: str) -> None:
    bank = bank_of(Config(regions=(RegionConfig("tumor", base_channels=4),), ggd=None, pool_size=0))
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-3)
    some, none = region_masks(3, 5), region_masks(0, 0)
    masks = {"fake": (some, none), "real": (none, some)}[present]
    loss = step(bank, optimizer, images(2), masks[0], images(2, seed=1), masks[1])
    (windows,) = extract_windows(images(2, seed=int(present == "real")), some, bank.config.regions[0])
    torch.manual_seed(0)
    untrained = bank_of(bank.config).networks["A2B_tumor"]
    kind = getattr(LEAST_SQUARES, present)
    torch.testing.assert_close(loss, 0.5 * untrained.losses(windows, kind).mean())
    pairs = zip(bank.networks["A2B_tumor"].parameters(), untrained.parameters(), strict=True)
    assert not any(torch.equal(trained, start) for trained, start in pairs)
