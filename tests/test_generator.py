"""The paper's generator: shapes, ranges, one set of features for all heads, exact parts."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roi_progressive.errors import ConfigError, RoiProgressiveError, ShapeError
from roi_progressive.method.generator import Distribution, Down, OutConv, ResConv, UNetGenerator, Up
from roi_progressive.method.ggd import GGDHead


def _generator(**settings: int) -> UNetGenerator:
    torch.manual_seed(0)
    return UNetGenerator(**{"base_channels": 4, "depth": 2, **settings})


@settings(max_examples=25, deadline=None)
@given(height=st.integers(4, 37), width=st.integers(4, 37), batch=st.integers(1, 2), channels=st.sampled_from([1, 3]))
def test_generator_keeps_any_size_and_stays_in_range(height: int, width: int, batch: int, channels: int) -> None:
    net = _generator(in_channels=channels, out_channels=2)
    out = net.distribution(100 * torch.randn(batch, channels, height, width))
    assert isinstance(out, Distribution)
    assert all(part.shape == (batch, 2, height, width) for part in out)
    assert out.image.abs().max() <= 1
    assert out.scale.min() > 0 and out.shape.min() > 0
    assert all(torch.isfinite(part).all() for part in out)


@pytest.mark.parametrize("depth", [1, 3, 4])
def test_generator_works_at_its_smallest_size(depth: int) -> None:
    net = _generator(depth=depth)
    side_px = 2**depth
    image = net(torch.randn(1, 1, side_px, side_px))
    assert image.shape == (1, 1, side_px, side_px)
    image.sum().backward()


def test_distribution_has_the_image_of_forward() -> None:
    net, x = _generator(), torch.randn(2, 1, 17, 20)
    assert torch.equal(net.distribution(x).image, net(x))


def test_forward_returns_the_image_alone_and_leaves_the_uncertainty_head_out() -> None:
    net = _generator()
    calls: list[int] = []
    net.ggd_head.register_forward_hook(lambda *_: calls.append(1))
    assert isinstance(net(torch.randn(1, 1, 16, 16)), torch.Tensor)
    assert not calls


def test_all_heads_read_the_very_same_features() -> None:
    net = _generator()
    seen: dict[str, torch.Tensor] = {}
    net.image_head.conv.register_forward_hook(lambda _, args, __: seen.update(image=args[0]))
    net.ggd_head.register_forward_hook(lambda _, args, __: seen.update(ggd=args[0]))
    net.distribution(torch.randn(1, 1, 16, 16))
    assert seen["image"] is seen["ggd"]
    assert isinstance(net.ggd_head, GGDHead)
    assert isinstance(net.image_head, OutConv)
    assert [type(m) for m in net.image_head.modules() if not list(m.children())] == [nn.Conv2d]


def test_every_parameter_gets_a_gradient_from_the_distribution() -> None:
    net = _generator()
    out = net.distribution(torch.randn(2, 1, 16, 16))
    weights = torch.randn_like(out.image)
    (weights * (out.image + out.scale.log() + out.shape)).sum().backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert dead == []


def test_image_gives_every_parameter_but_the_uncertainty_heads_a_gradient() -> None:
    net = _generator()
    (torch.randn(2, 1, 16, 16) * net(torch.randn(2, 1, 16, 16))).sum().backward()
    without = {name.split(".")[0] for name, p in net.named_parameters() if p.grad is None}
    assert without == {"ggd_head"}


def test_gradients_agree_with_finite_differences() -> None:
    net = _generator(base_channels=2, depth=1).double()
    x = torch.randn(1, 1, 5, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda t: net(t), (x,), atol=1e-6)


def test_generator_tells_apart_images_that_differ_by_brightness_alone() -> None:
    # Instance norm everywhere would erase this; the shortcuts must carry it.
    net, x = _generator(), torch.randn(1, 1, 16, 16)
    assert (net(x) - net(x + 1)).abs().max() > 1e-3


def test_each_image_is_translated_alone() -> None:
    net, x = _generator(), torch.randn(3, 1, 16, 16)
    torch.testing.assert_close(net(x)[1:2], net(x[1:2]))


def test_resconv_is_a_relu_of_shortcut_plus_residual_and_keeps_its_input() -> None:
    block, x = ResConv(3, 3), torch.randn(2, 3, 8, 8)
    before = x.clone()
    out = block(x)
    torch.testing.assert_close(out, torch.relu(x + block.residual(x)))
    assert torch.equal(x, before)
    kernels = [m for m in block.residual if isinstance(m, nn.Conv2d)]
    assert [(m.kernel_size, m.padding) for m in kernels] == [((3, 3), (1, 1))] * 2


def test_down_pools_before_it_convolves() -> None:
    down, x = Down(2, 5), torch.randn(1, 2, 9, 8)
    pooled = x[..., :8, :].reshape(1, 2, 4, 2, 4, 2).amax(dim=(3, 5))
    torch.testing.assert_close(down(x), down.conv(pooled))


def test_up_is_bilinear_with_aligned_corners() -> None:
    up = Up(1, 1, 1)
    joined: list[torch.Tensor] = []
    up.conv.register_forward_hook(lambda _, args, __: joined.append(args[0]))
    ramp = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)
    up(ramp, torch.zeros(1, 1, 8, 8))
    torch.testing.assert_close(joined[0][0, 1], torch.linspace(0, 3, 8).expand(8, 8))


@pytest.mark.parametrize("size", [(7, 9), (8, 8), (9, 5), (12, 8)])
def test_up_takes_the_size_of_its_skip(size: tuple[int, int]) -> None:
    assert Up(3, 2, 4)(torch.randn(1, 3, 4, 4), torch.randn(1, 2, *size)).shape == (1, 4, *size)


def test_default_widths_double_up_to_the_last_level() -> None:
    net = UNetGenerator(depth=4)
    assert [down.conv.residual[0].out_channels for down in net.downs] == [128, 256, 512, 512]
    assert net.image_head.conv.in_channels == 64


@pytest.mark.parametrize("shape", [(1, 16, 16), (1, 2, 16, 16), (1, 1, 3, 16), (1, 1, 16, 3)])
def test_wrong_input_is_named_in_one_line(shape: tuple[int, ...]) -> None:
    net = _generator()
    for call in (net, net.distribution, net.features):
        with pytest.raises(ShapeError, match="`x` must") as caught:
            call(torch.zeros(shape))
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("setting", [{"depth": 0}, {"base_channels": 0}, {"in_channels": -1}, {"out_channels": 1.5}])
def test_wrong_generator_setting_is_a_config_error(setting: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"`{next(iter(setting))}` must be a whole number") as caught:
        UNetGenerator(**setting)
    assert isinstance(caught.value, RoiProgressiveError)
