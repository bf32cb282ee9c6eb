"""From masks to windows: which pixels a region's discriminator sees, and which its gradient may reach."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from scipy import ndimage
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from roi_progressive.config import ROI_MODES, RegionConfig
from roi_progressive.errors import ShapeError
from roi_progressive.method.discriminators import PatchDiscriminator, RegionDiscriminator, patch_geometry
from roi_progressive.method.logit_weights import logit_weights, logit_weights_of_scales, pyramid
from roi_progressive.method.regions import RegionMask, grow, mask_boxes, window_side
from roi_progressive.method.windows import extract_windows

# A busy machine is no finding.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

RUNGS = (12, 16, 24)


@st.composite
def masks(draw: st.DrawFn, count: int = 2) -> Tensor:
    """Bool masks ``[count, 1, H, W]``: rectangles of one pixel up to the whole image, with holes, or nothing."""
    height, width = draw(st.integers(7, 33)), draw(st.integers(7, 33))
    batch = torch.zeros(count, 1, height, width, dtype=torch.bool)
    for sample in range(count):
        kind = draw(st.sampled_from(("pixel", "rectangle", "full", "empty", "corners", "speckled")))
        top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        bottom, right = draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width))
        if kind == "pixel":
            batch[sample, 0, top, left] = True
        elif kind == "full":
            batch[sample] = True
        elif kind == "corners":
            batch[sample, 0, 0, 0] = batch[sample, 0, -1, -1] = True
        elif kind != "empty":
            batch[sample, 0, top:bottom, left:right] = True
        if kind == "speckled":
            seed = draw(st.integers(0, 99))
            batch[sample] &= torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.5
    return batch


def images_for(mask: Tensor, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(mask.shape[0], channels, *mask.shape[2:], generator=generator, dtype=torch.float64) * 2 - 1


def judge(region: RegionConfig, channels: int = 1) -> RegionDiscriminator:
    torch.manual_seed(0)
    return RegionDiscriminator(region, channels).double()


def grown(mask: Tensor, by_px: int) -> Tensor:
    return torch.from_numpy(grow(mask.numpy(), by_px))


def weights_of(mask: Tensor, geometry: Any, level: int = 0) -> Tensor:
    return torch.from_numpy(logit_weights(mask[:, 0].numpy(), geometry, level))[:, None]


def disc(height: int, width: int, centre: tuple[int, int], radius: float) -> Tensor:
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2)[None, None]


# -- masks and boxes --------------------------------------------------------------------------------------------------


@UNHURRIED
@given(masks(count=3))
def test_boxes_are_those_of_scipy(mask: Tensor) -> None:
    expected = []
    for sample in mask[:, 0].numpy():
        found = ndimage.find_objects(sample.astype(np.int64))
        expected.append((found[0][0].start, found[0][1].start, found[0][0].stop, found[0][1].stop) if found else None)
    assert mask_boxes(mask[:, 0].numpy()) == tuple(expected)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.float32, torch.int64])
def test_a_mask_is_what_lies_above_zero_in_any_type_with_or_without_a_channel(dtype: torch.dtype) -> None:
    plain = disc(20, 30, (5, 7), 2).to(dtype)
    region = RegionMask.from_tensor(plain[:, 0])
    assert region.mask.dtype == torch.bool
    assert region.mask.shape == (1, 1, 20, 30)
    assert region.boxes == ((3, 5, 8, 10),)
    assert not region.is_empty
    assert RegionMask.from_tensor(-plain.float()).is_empty


def test_a_soft_mask_is_as_large_as_the_sharp_one_it_was_made_of():
    sharp = torch.zeros(1, 1, 64, 64)
    sharp[..., 20:44, 16:40] = 1
    for mask in (sharp, 2 * sharp - 1):
        for sigma in (0.8, 2.0, 3.0):
            soft = torch.from_numpy(gaussian_filter(mask.numpy(), (0, 0, sigma, sigma)))
            area = RegionMask.from_tensor(soft).mask.sum().item()
            assert abs(area - 24 * 24) <= 0.06 * 24 * 24
            assert RegionMask.from_tensor(soft).boxes == ((20, 16, 44, 40),)


def test_whole_numbers_booleans_and_shares_mark_the_same():
    sharp = torch.zeros(2, 1, 16, 16)
    sharp[0, :, 3:9, 4:12] = 1
    given = [sharp.bool(), sharp.to(torch.uint8) * 255, sharp.long(), sharp, sharp * 255, sharp.half(), sharp * 2 - 1]
    given += [sharp + 1e-7, sharp * 1.1 - 0.05]
    for mask in given:
        assert torch.equal(RegionMask.from_tensor(mask).mask, sharp.bool())


@pytest.mark.parametrize("shape", [(4, 4), (1, 2, 4, 4), (1, 1, 1, 4, 4)])
def test_a_mask_of_another_shape_is_refused_in_one_line(shape: tuple[int, ...]) -> None:
    with pytest.raises(ShapeError, match=r"^`mask` must be \[N, 1, H, W\]; got \[[0-9, ]+\]; [^\n]+$"):
        RegionMask.from_tensor(torch.ones(shape))


@pytest.mark.parametrize("shape", [(2, 1, 16, 16), (1, 1, 15, 16), (1, 1, 16, 17), (1, 16, 16)])
def test_an_image_that_its_mask_does_not_fit_is_refused_in_one_line(shape: tuple[int, ...]) -> None:
    region = RegionMask.from_tensor(torch.ones(1, 1, 16, 16))
    with pytest.raises(ShapeError, match=r"^`image` and its mask must agree [^\n]+$"):
        extract_windows(torch.zeros(shape), region, RegionConfig("tumor"))


@UNHURRIED
@given(masks(count=1), st.integers(0, 4))
def test_growing_is_scipys_dilation_by_a_square(mask: Tensor, by_px: int) -> None:
    square = np.ones((2 * by_px + 1, 2 * by_px + 1), dtype=bool)
    assert np.array_equal(grow(mask[0, 0].numpy(), by_px), ndimage.binary_dilation(mask[0, 0].numpy(), square))


# -- the ladder of windows --------------------------------------------------------------------------------------------


@UNHURRIED
@given(
    height=st.integers(1, 90),
    width=st.integers(1, 90),
    margin=st.integers(0, 6),
    context=st.integers(0, 5),
)
@example(height=12, width=1, margin=0, context=0)
@example(height=5, width=8, margin=3, context=1)
@example(height=24, width=1, margin=0, context=0)
@example(height=25, width=1, margin=0, context=0)
@example(height=1, width=48, margin=0, context=0)
def test_a_window_is_the_smallest_rung_that_holds_region_and_margin(
    height: int, width: int, margin: int, context: int
) -> None:
    config = RegionConfig("tumor", scales=1, windows_px=RUNGS, margin_px=margin, context_px=context)
    needed = max(height, width) + 2 * margin + 2 * context
    endless = itertools.chain(RUNGS, itertools.count(2 * RUNGS[-1], RUNGS[-1]))
    assert window_side((3, 4, 3 + height, 4 + width), config) == next(side for side in endless if side >= needed)


@UNHURRIED
@given(mask=masks(), margin=st.integers(0, 5), mode=st.sampled_from(("crop", "concat")))
def test_a_window_holds_its_whole_region_and_lies_in_the_image_where_it_fits(
    mask: Tensor, margin: int, mode: str
) -> None:
    """Read off an image whose two channels are its own row and column numbers, and whose mask shows everything."""
    height, width = mask.shape[2:]
    config = RegionConfig("tumor", scales=1, windows_px=RUNGS, margin_px=margin, roi_mode=mode)
    rows = torch.arange(height, dtype=torch.float64)[:, None].expand(height, width)
    columns = torch.arange(width, dtype=torch.float64).expand(height, width)
    image = torch.stack([rows, columns]).expand(len(mask), 2, height, width)
    region = RegionMask.from_tensor(mask)
    seen = 0
    for windows in extract_windows(image, region, config, background=-7.0):
        side = windows.size[0]
        assert windows.size == (side, side)
        for pixels, inside in zip(windows.pixels, windows.mask[:, 0] > 0, strict=True):
            seen += 1
            places = {tuple(place) for place in pixels[:2, inside].T.long().tolist()}
            sample = next(n for n, m in enumerate(mask[:, 0]) if {tuple(p) for p in m.nonzero().tolist()} == places)
            assert window_side(region.boxes[sample], config) == side
            if mode == "concat":
                shown = pixels[:2].flatten(1)
                on_image = (shown >= 0).all(dim=0).sum()
                assert on_image == min(side, height) * min(side, width), "the window left an image that it fits into"
    assert seen == sum(box is not None for box in region.boxes)


def test_a_region_in_the_middle_keeps_its_margin_on_every_side() -> None:
    for size, margin in itertools.product(range(1, 9), range(4)):
        mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
        mask[..., 30 : 30 + size, 31 : 31 + size] = True
        config = RegionConfig("tumor", scales=1, windows_px=(6, 9, 12, 15, 18), margin_px=margin)
        (windows,) = extract_windows(torch.zeros(1, 1, 64, 64), RegionMask.from_tensor(mask), config)
        top, left, bottom, right = mask_boxes(windows.mask[:, 0].numpy() > 0)[0]
        assert min(top, left, windows.size[0] - bottom, windows.size[1] - right) >= margin


@pytest.mark.parametrize("mode", ROI_MODES)
def test_images_without_the_region_give_no_window(mode: str) -> None:
    mask = torch.cat([torch.zeros(1, 1, 40, 40), disc(40, 40, (9, 9), 3).float(), torch.zeros(1, 1, 40, 40)])
    config = RegionConfig("tumor", roi_mode=mode)
    (windows,) = extract_windows(torch.zeros(3, 1, 40, 40), RegionMask.from_tensor(mask), config)
    assert len(windows.pixels) == len(windows.mask) == 1
    assert windows.mask.sum() == mask.sum()
    assert extract_windows(torch.zeros(1, 1, 40, 40), RegionMask.from_tensor(mask[:1]), config) == []


def test_windows_are_grouped_by_size_and_never_padded_to_the_largest() -> None:
    radii = (2, 20, 3, 9)
    mask = torch.cat([disc(70, 70, (35, 35), radius) for radius in radii])
    config = RegionConfig("tumor", scales=1, windows_px=(16, 32, 64))
    groups = extract_windows(torch.zeros(4, 1, 70, 70), RegionMask.from_tensor(mask), config)
    assert [(windows.size[0], len(windows.pixels)) for windows in groups] == [(16, 2), (32, 1), (64, 1)]


def test_crop_and_mask_paint_the_outside_and_concat_shows_it() -> None:
    mask = disc(32, 32, (16, 16), 5)
    image = images_for(mask)
    region = RegionMask.from_tensor(mask)
    for mode in ("crop", "mask"):
        (windows,) = extract_windows(image, region, RegionConfig("tumor", roi_mode=mode), background=-0.25)
        assert torch.equal(windows.pixels, torch.where(mask, image, -0.25))
    (windows,) = extract_windows(image, region, RegionConfig("tumor", roi_mode="concat"))
    assert torch.equal(windows.pixels, torch.cat([image, mask.double()], dim=1))


def test_context_shows_that_many_pixels_around_the_mask() -> None:
    mask = disc(32, 32, (16, 16), 3)
    image = images_for(mask)
    config = RegionConfig("tumor", context_px=3)
    (windows,) = extract_windows(image, RegionMask.from_tensor(mask), config)
    assert torch.equal(windows.pixels, torch.where(grown(mask, 3), image, -1.0))
    assert torch.equal(windows.mask > 0, mask), "the context is shown, and does not count as region"


def test_beyond_the_images_border_there_is_background() -> None:
    image = torch.full((1, 1, 10, 20), 0.5)
    for mode in ("crop", "concat"):
        config = RegionConfig("tumor", scales=1, windows_px=(32,), roi_mode=mode)
        (windows,) = extract_windows(image, RegionMask.from_tensor(torch.ones(1, 1, 10, 20)), config, background=-0.75)
        assert windows.size == (32, 32)
        assert (windows.pixels[:, :1] == 0.5).sum() == (windows.mask == 1).sum() == 200
        assert (windows.pixels[:, :1] == -0.75).sum() == (windows.mask == 0).sum() == 32 * 32 - 200


# -- region terms touch the region only --------------------------------------------------------------------------------


@settings(UNHURRIED, max_examples=60)
@given(
    mask=masks(),
    mode=st.sampled_from(list(ROI_MODES)),
    context=st.integers(0, 3),
    scales=st.integers(1, 2),
    logits=st.sampled_from(("weighted", "plain", "mean")),
)
def test_the_gradient_is_exactly_zero_outside_the_grown_mask_and_not_inside(
    mask: Tensor, mode: str, context: int, scales: int, logits: str
) -> None:
    if ROI_MODES[mode].whole_image:  # which must have room for the network
        mask = nn.functional.pad(mask, (0, 5, 0, 5))
    config = RegionConfig(
        "tumor", scales, roi_mode=mode, windows_px=RUNGS, context_px=context, base_channels=2, logits=logits
    )
    network, region = judge(config), RegionMask.from_tensor(mask)
    image = images_for(mask).requires_grad_()
    groups = extract_windows(image, region, config)
    if not groups:
        assert region.is_empty
        return
    torch.cat([network.losses(windows, lambda x: (x - 1).square()) for windows in groups]).sum().backward()
    outside = ~grown(mask, context)
    assert torch.all(image.grad[outside] == 0)
    for sample, box in enumerate(region.boxes):
        assert (box is not None) == bool((image.grad[sample][mask[sample]] != 0).any())


@pytest.mark.parametrize("mode", ROI_MODES)
@pytest.mark.parametrize("size", [(41, 53), (64, 64), (25, 130)])
def test_the_papers_three_scales_and_70_pixel_network_leave_the_outside_alone(mode: str, size: tuple[int, int]) -> None:
    mask = torch.zeros(3, 1, *size, dtype=torch.bool)
    mask[0, 0, 0:3, 0:5] = True
    mask[1, 0, 20, 20] = True
    mask[2] = True
    config = RegionConfig("tumor", roi_mode=mode, base_channels=4, context_px=1, windows_px=(24, 32, 48))
    network, image = judge(config), images_for(mask).requires_grad_()
    groups = extract_windows(image, RegionMask.from_tensor(mask), config)
    torch.cat([network.losses(windows, torch.square) for windows in groups]).sum().backward()
    assert torch.all(image.grad[~grown(mask, 1)] == 0)
    assert (image.grad[mask] != 0).sum() > 0.9 * mask.sum()


def test_only_the_first_channels_of_a_colour_image_are_joined_by_the_mask() -> None:
    mask = disc(40, 40, (20, 20), 6)
    config = RegionConfig("tumor", roi_mode="concat", base_channels=2)
    network, image = judge(config, channels=3), images_for(mask, channels=3).requires_grad_()
    (windows,) = extract_windows(image, RegionMask.from_tensor(mask), config)
    assert windows.pixels.shape[1] == 4
    network.losses(windows, torch.square).sum().backward()
    assert torch.all(image.grad[~mask.expand_as(image)] == 0)
    assert torch.all((image.grad != 0).flatten(2).any(dim=2))


# -- a sample does not know its neighbours ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ROI_MODES)
def test_a_samples_loss_and_gradient_do_not_depend_on_its_neighbours(mode: str) -> None:
    mask = torch.cat([disc(80, 72, c, r) for c, r in (((20, 20), 3), ((40, 40), 25), ((5, 70), 4), ((60, 30), 11))])
    mask = torch.cat([mask, torch.zeros(1, 1, 80, 72, dtype=torch.bool)])
    config = RegionConfig("tumor", roi_mode=mode, base_channels=4)
    network = judge(config)

    def losses(chosen: list[int]) -> dict[int, tuple[Tensor, Tensor]]:
        image = images_for(mask)[chosen].requires_grad_()
        groups = extract_windows(image, RegionMask.from_tensor(mask[chosen]), config)
        values = torch.cat([network.losses(windows, torch.square) for windows in groups])
        areas = torch.cat([windows.mask.flatten(1).sum(dim=1) for windows in groups]).tolist()
        (gradient,) = torch.autograd.grad(values.sum(), image)
        found = {}
        for place, sample in enumerate(chosen):
            area = float(mask[sample].sum())
            if area:
                found[sample] = (values[areas.index(area)].detach(), gradient[place])
        return found

    together = losses([0, 1, 2, 3, 4])
    for sample in range(4):
        value, gradient = losses([sample])[sample]
        torch.testing.assert_close(together[sample][0], value, rtol=1e-12, atol=1e-14)
        torch.testing.assert_close(together[sample][1], gradient, rtol=1e-9, atol=1e-14)


# -- pyramid ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", [24, 25, 27, 31])
def test_each_level_is_the_mean_of_two_by_two_and_keeps_a_region_in_the_last_row(side: int) -> None:
    mask = torch.zeros(1, 1, side, side, dtype=torch.float64)
    mask[..., -1, -1] = 1
    pixels = images_for(mask)
    levels = pyramid(pixels, 3)
    masks = [weights_of(mask, (), level) for level in range(3)]
    assert [level.shape[-1] for level in levels] == [side, -(-side // 2), -(-side // 4)]
    assert [level.shape for level in masks] == [level.shape for level in levels]
    for finer, coarser in itertools.pairwise(levels):
        for row, column in ((0, 0), (3, 2), (coarser.shape[-2] - 1, coarser.shape[-1] - 1)):
            block = finer[..., 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            torch.testing.assert_close(coarser[..., row, column], block.mean(dim=(-2, -1)))
    for level, halved in zip(pyramid(mask, 3), masks, strict=True):
        assert (halved > 0).sum() == 1
        torch.testing.assert_close(halved, level, rtol=1e-14, atol=0)


# -- logit weights ----------------------------------------------------------------------------------------------------


def paths_by_autograd(shape: tuple[int, int], geometry: tuple[tuple[int, int, int], ...]) -> Tensor:
    """``[h, w, H, W]``: each logit's derivative by each pixel, through convolutions that take the mean."""
    layers = []
    for kernel, stride, padding in geometry:
        layer = nn.Conv2d(1, 1, kernel, stride, padding, bias=False, dtype=torch.float64)
        nn.init.constant_(layer.weight, 1 / kernel**2)
        layers.append(layer)
    network = nn.Sequential(*layers)
    image = torch.zeros(1, 1, *shape, dtype=torch.float64)
    return torch.autograd.functional.jacobian(lambda x: network(x)[0, 0], image)[:, :, 0, 0]


@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize("all_strided", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (37, 46)])
def test_a_logits_weight_is_the_share_of_its_paths_that_end_in_the_region(
    layers: int, all_strided: bool, shape: tuple[int, int]
) -> None:
    geometry = patch_geometry(layers, all_strided)
    paths = paths_by_autograd(shape, geometry)
    generator = torch.Generator().manual_seed(layers)
    for kind in ("speckled", "pixel", "corner", "full"):
        mask = torch.zeros(1, 1, *shape, dtype=torch.float64)
        if kind == "speckled":
            mask = (torch.rand(1, 1, *shape, generator=generator) < 0.2).double()
        elif kind == "pixel":
            mask[0, 0, 11, 17] = 1
        elif kind == "corner":
            mask[0, 0, -1, -1] = 1
        else:
            mask += 1
        weights = weights_of(mask, geometry)
        torch.testing.assert_close(weights[0, 0], (paths * mask[0, 0]).sum(dim=(-2, -1)), rtol=1e-12, atol=1e-15)
        sees = ((paths > 0) & (mask[0, 0] > 0)).any(dim=-1).any(dim=-1)
        assert torch.equal(weights[0, 0] > 0, sees), "a weight must be zero exactly where no region is seen"


def test_weights_have_the_shape_of_the_logits_and_are_never_negative() -> None:
    for layers, side in ((1, 6), (2, 12), (3, 24), (3, 33), (3, 70)):
        network = PatchDiscriminator(base_channels=1, layers=layers)
        weights = weights_of(torch.ones(1, 1, side, side), network.geometry)
        assert weights.shape == network(torch.rand(1, 1, side, side)).shape
        assert torch.all(weights > 0)


def test_any_padding_a_convolution_allows_has_weights() -> None:
    """Average pooling refuses a padding of more than half its kernel; a convolution does not."""
    geometry = ((3, 1, 2), (1, 2, 0))
    mask = disc(12, 12, (3, 3), 2).double()
    paths = paths_by_autograd((12, 12), geometry)
    expected = (paths * mask[0, 0]).sum(dim=(-2, -1))
    torch.testing.assert_close(weights_of(mask, geometry)[0, 0], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_images_are_judged_in_single_precision(dtype: torch.dtype) -> None:
    """A generator under autocast hands over half precision; one pixel's weight would vanish in it."""
    mask = torch.zeros(1, 1, 40, 40, dtype=torch.bool)
    mask[..., 20, 20] = True
    config = RegionConfig("tumor", base_channels=2)
    network = judge(config).float()
    image = images_for(mask).to(dtype).requires_grad_()
    (windows,) = extract_windows(image, RegionMask.from_tensor(mask), config)
    (exact,) = extract_windows(image.detach().float(), RegionMask.from_tensor(mask), config)
    loss = network.losses(windows, torch.square)
    torch.testing.assert_close(loss, network.losses(exact, torch.square), rtol=0, atol=0)
    loss.sum().backward()
    assert image.grad.dtype == dtype


@pytest.mark.parametrize(
    ("numbers", "inside"),
    [
        ([0.0, 0.2, 0.6, 1.0], [False, False, True, True]),
        ([-1.0, -0.2, 0.2, 1.0], [False, False, True, True]),
        ([0.0, 100.0, 128.0, 255.0], [False, False, True, True]),
        ([1e-7, 1e-7, 1.0, 1.0], [False, False, True, True]),
        ([0, 1, 1, 0], [False, True, True, False]),
        ([0, 1, 2, 4], [False, True, True, True]),
        ([0, 90, 128, 255], [False, False, True, True]),
        ([False, True, True, False], [False, True, True, False]),
    ],
    ids=["soft", "from -1 to 1", "grey levels", "a softmax", "0 and 1", "labels", "8 bits", "bool"],
)
def test_what_is_above_one_half_of_a_masks_range_is_inside(numbers: list[float], inside: list[bool]) -> None:
    mask = RegionMask.from_tensor(torch.tensor(numbers).reshape(1, 1, 2, 2))
    assert mask.mask.flatten().tolist() == inside


def test_batches_of_masks_are_joined_and_parted() -> None:
    first, second = torch.zeros(2, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=torch.bool)
    first[1, :, 1:3, 2:] = 1
    second[0, :, 0, 0] = True
    joined = RegionMask.joined([RegionMask.from_tensor(first), RegionMask.from_tensor(second)])
    assert joined.boxes == (None, (1, 2, 3, 4), (0, 0, 1, 1)) and joined.is_finite
    assert joined.of_samples(slice(1, 2)).boxes == ((1, 2, 3, 4),)
    first[0, 0, 0, 0] = torch.nan
    assert not RegionMask.joined([RegionMask.from_tensor(first)]).is_finite


def test_the_weights_of_several_scales_are_those_of_each() -> None:
    mask = np.random.default_rng(0).random((3, 48, 40))
    scales = [(patch_geometry(3), 0), (patch_geometry(2), 1), (patch_geometry(1), 2), (patch_geometry(3), 0)]
    together = logit_weights_of_scales(mask, scales)
    for found, (geometry, level) in zip(together, scales, strict=True):
        np.testing.assert_allclose(found, logit_weights(mask, geometry, level), rtol=1e-12, atol=1e-15)
