"""The uncertainty head around any generator: maps of the image's size, exact gradients, nothing of the host moved."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from roi_progressive import GGDConfig, GGDHead, ShapeError, UNetGenerator, ggd_nll
from roi_progressive.training.uncertainty import GGDWrapper

CONFIG = GGDConfig(hidden_channels=4)


class OnePixelNet(nn.Module):
    """No convolution: every grey value is mapped by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(0.7))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.factor * x)


def _transposed() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 6, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(6, 1, 4, 2, 1), nn.Tanh())


def _padded() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReflectionPad2d(3), nn.Conv2d(4, 1, 7), nn.Tanh())


GENERATORS = {
    "transposed": _transposed,
    "padded": _padded,
    "unet": lambda: UNetGenerator(1, 1, 4, 2),
    "one convolution": lambda: nn.Conv2d(1, 1, 3, padding=1),
    "no convolution": OnePixelNet,
}


@pytest.fixture(params=GENERATORS)
def generator(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(1)
    net: nn.Module = GENERATORS[request.param]()
    return net


def _streams() -> list[object]:
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def test_maps_have_the_images_size_and_the_image_is_the_plain_one(generator: nn.Module) -> None:
    source = torch.randn(2, 1, 12, 16)
    plain = generator(source)
    wrapper, before = GGDWrapper(generator, CONFIG), _streams()
    for _ in range(2):  # the second time the head exists and the layer is known
        result = wrapper.uncertainty(source)
        assert torch.equal(result.image, plain)
        assert [m.shape for m in result] == [plain.shape] * 4
        assert not any(m.requires_grad for m in result)
        assert torch.allclose(result.scale, torch.tensor(0.25)) and torch.allclose(result.shape, torch.tensor(2.0))
    assert _streams() == before


def test_the_term_is_the_loss_on_the_live_graph_with_the_same_gradients(generator: nn.Module) -> None:
    """Value, and gradients of generator and head, against one graph from the source to the loss."""
    generator.double()
    wrapper = GGDWrapper(generator, CONFIG)
    wrapper.start_recording()
    source, truth = torch.randn(2, 1, 12, 16).double(), torch.randn(2, 1, 12, 16).double()
    output = generator(source)
    wrapper.build_head(output)
    assert wrapper.head is not None
    for parameter in wrapper.head.parameters():  # at its start the head ignores the features
        nn.init.normal_(parameter, 0.0, 0.3)
    features = wrapper._features(output)
    scale, shape = wrapper.head(features)
    border = max((scale.shape[-1] - 16) // 2, 0)
    if border:
        scale, shape = (m[..., border:-border, border:-border] for m in (scale, shape))
    if scale.shape[-1] < 16:
        scale, shape = (nn.functional.interpolate(m, scale_factor=2, mode="bilinear") for m in (scale, shape))
    live = ggd_nll(output - truth, scale, shape)

    leaf = output.detach().requires_grad_()
    term = wrapper.term(output, leaf - truth, leaf)
    assert torch.equal(term.loss, live)
    assert (term.leaf is leaf) == (term.features is output), "one leaf for one tensor, or its gradient is lost"
    heads = list(wrapper.head.parameters())
    own = [p for n, p in generator.named_parameters() if "ggd_head" not in n]
    expected = torch.autograd.grad(live, [*own, *heads], retain_graph=True)
    inputs = [leaf] if term.leaf is leaf else [leaf, term.leaf]
    found = torch.autograd.grad(term.loss, [*inputs, *heads])
    tensors = [(output, found[0])] + ([] if term.leaf is leaf else [(term.features, found[1])])
    tensors = [(tensor, gradient) for tensor, gradient in tensors if tensor.requires_grad]
    through = torch.autograd.grad([t for t, _ in tensors], own, [g for _, g in tensors])
    for ours, theirs in zip([*through, *found[len(inputs) :]], expected, strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-10, atol=1e-14)


def test_a_generator_with_a_head_of_its_own_keeps_it() -> None:
    net = UNetGenerator(1, 1, 4, 2)
    wrapper = GGDWrapper(net, CONFIG)
    assert wrapper.head is net.ggd_head
    assert not wrapper.owns_head
    source = torch.randn(1, 1, 16, 16)
    with torch.no_grad():
        nn.init.normal_(net.ggd_head.scale.weight)
        expected = net.distribution(source)
    found = wrapper.uncertainty(source)
    for name in ("image", "scale", "shape"):
        assert torch.equal(getattr(found, name), getattr(expected, name))


def test_a_head_depends_on_its_seed_alone_not_on_when_it_is_built() -> None:
    def weights(seed: int, host_seed: int, looks_first: bool) -> list[Tensor]:
        torch.manual_seed(0)
        net = _padded()
        torch.manual_seed(host_seed)
        wrapper = GGDWrapper(net, CONFIG, seed=seed)
        if looks_first:
            wrapper.uncertainty(torch.randn(1, 1, 8, 8))
        else:
            wrapper.start_recording()
            wrapper.build_head(net(torch.randn(1, 1, 8, 8)))
        assert wrapper.head is not None
        return list(wrapper.head.parameters())

    first = weights(3, 10, True)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(3, 11, False), strict=True))
    assert not torch.equal(first[0], weights(4, 10, True)[0])


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_the_head_is_the_same_whatever_mode_one_looks_in(mode: type, frozen: bool) -> None:
    net = _padded().requires_grad_(not frozen)
    wrapper = GGDWrapper(net, CONFIG)
    with mode():
        wrapper.uncertainty(torch.randn(1, 1, 8, 8))
    assert isinstance(wrapper.head, GGDHead)
    assert wrapper.head.in_channels == 4
    net.requires_grad_()
    wrapper.start_recording()
    output = net(torch.randn(1, 1, 8, 8))
    wrapper.term(output, output.detach()).loss.backward()
    assert wrapper.head.scale.bias is not None and wrapper.head.scale.bias.grad is not None


def test_looking_moves_no_running_statistics_and_no_dropout_dice() -> None:
    layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Conv2d(4, 1, 1)]
    net = nn.Sequential(*layers).train()
    wrapper = GGDWrapper(net, CONFIG)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    torch.manual_seed(5)
    streams = _streams()
    source = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image = wrapper.uncertainty(source).image
    assert _streams() == streams
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    assert torch.equal(image, net(source)), "the same dice fall for the plain forward"


def test_a_loaded_head_is_built_to_its_weights_without_a_forward() -> None:
    net = _padded()
    first = GGDWrapper(net, CONFIG)
    first.uncertainty(torch.randn(1, 1, 8, 8))
    assert first.head is not None
    state = {key: torch.randn_like(value) for key, value in first.head.state_dict().items()}
    second = GGDWrapper(net, CONFIG)
    second.load_head(state)
    assert second.head is not None
    assert all(torch.equal(value, state[key]) for key, value in second.head.state_dict().items())


def test_wrappers_are_looked_through() -> None:
    net = UNetGenerator(1, 1, 4, 2)
    wrapped = nn.DataParallel(net, device_ids=[] if not torch.cuda.is_available() else None)
    wrapped.device_ids = []  # as on a machine without GPUs
    assert GGDWrapper(wrapped, CONFIG).head is net.ggd_head
    source = torch.randn(1, 1, 16, 16)
    assert torch.equal(GGDWrapper(wrapped, CONFIG).uncertainty(source).image, net(source))


def test_over_several_devices_a_head_of_ours_reads_the_image() -> None:
    wrapped = nn.DataParallel(UNetGenerator(1, 1, 4, 2))
    wrapped.device_ids = [0, 1]
    wrapper = GGDWrapper(wrapped, CONFIG)
    assert wrapper.owns_head
    image = wrapped.module(torch.randn(1, 1, 16, 16))
    wrapper.build_head(image)
    assert wrapper.head is not None and wrapper.head.in_channels == 1
    assert wrapper.term(image, image.detach()).features is image
    assert all(not module._forward_hooks for module in wrapped.module.modules())


def test_a_generator_that_gives_no_image_is_named() -> None:
    class Levels(nn.Module):
        def forward(self, x: Tensor) -> list[Tensor]:
            return [x, x]

    with pytest.raises(ShapeError, match="Levels returned list"):
        GGDWrapper(Levels(), CONFIG).uncertainty(torch.zeros(1, 1, 4, 4))


class _WithAttention(nn.Module):
    """Returns its image first and other maps behind it, as MaskGAN's generators do."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.attention = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.tanh(self.image(x)), self.attention(x)


def test_a_generator_that_returns_more_than_its_image_is_read_all_the_same() -> None:
    net, source = _WithAttention(), torch.randn(2, 1, 8, 8)
    wrapper = GGDWrapper(net, CONFIG)
    wrapper.start_recording()
    image, _ = net(source)
    term = wrapper.term(image, image.detach())
    assert term.features is not image and torch.equal(term.features, source)
    assert torch.equal(wrapper.uncertainty(source).image, image)


def test_a_term_is_differentiated_while_torch_counts_the_operations_of_modules(generator: nn.Module) -> None:
    """Its counter hooks the inputs of every module, which must be none of those that are differentiated by."""
    wrapper = GGDWrapper(generator, CONFIG)
    wrapper.start_recording()
    output = generator(torch.randn(2, 1, 12, 16))
    wrapper.build_head(output)
    leaf = output.detach().requires_grad_()
    with FlopCounterMode(display=False) as counter:
        term = wrapper.term(output, leaf - torch.randn(2, 1, 12, 16), leaf)
        forward = counter.get_total_flops()
        torch.autograd.grad(term.loss, term.leaf)
    assert counter.get_total_flops() > forward > 0


def test_some_samples_of_a_call_have_the_features_of_their_own_samples() -> None:
    """CUT translates both domains in one call and goes on with two parts of what it got."""
    net, source = _padded(), torch.randn(5, 1, 8, 8)
    wrapper = GGDWrapper(net, CONFIG)
    wrapper.start_recording()
    together = net(source)
    part = together[2:]
    wrapper.build_head(part)
    assert wrapper.head is not None
    for parameter in wrapper.head.parameters():  # a new head reads nothing of its features yet
        nn.init.normal_(parameter, std=0.1)
    term = wrapper.term(part, part.detach())
    (gradient,) = torch.autograd.grad(term.loss, term.leaf)
    assert term.features.shape[0] == 5
    assert not gradient[:2].any() and gradient[2:].any()
    alone = net(source[2:])
    expected = wrapper.term(alone, part.detach())
    assert torch.allclose(term.loss, expected.loss, rtol=1e-6, atol=0.0)
    assert torch.allclose(gradient[2:], torch.autograd.grad(expected.loss, expected.leaf)[0], rtol=1e-5, atol=1e-9)


def test_half_precision_features_are_read_in_float32() -> None:
    net = _padded().bfloat16()
    wrapper = GGDWrapper(net, CONFIG)
    wrapper.start_recording()
    output = net(torch.randn(1, 1, 8, 8).bfloat16())
    term = wrapper.term(output, output.detach().float())
    assert term.leaf.dtype == torch.float32 and term.loss.dtype == torch.float32
    (gradient,) = torch.autograd.grad(term.loss, term.leaf)
    assert gradient.dtype == torch.float32
    assert wrapper.uncertainty(torch.randn(1, 1, 8, 8).bfloat16()).sigma.dtype == torch.float32


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:`torch.jit", "ignore:no convolution")
def test_generator_and_head_as_one_module_give_the_same_also_traced_and_at_other_sizes(generator: nn.Module) -> None:
    wrapper = GGDWrapper(generator.eval(), CONFIG)
    module = wrapper.standalone(torch.randn(1, 1, 12, 16)).requires_grad_(False)
    traced = torch.jit.trace(module, torch.randn(1, 1, 12, 16), check_trace=False)
    for shape in ((1, 1, 12, 16), (3, 1, 20, 8)):
        source = torch.randn(shape)
        expected = wrapper.uncertainty(source)
        for made in (module(source), traced(source)):
            torch.testing.assert_close(made[0], expected.image, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(made[1], expected.sigma, rtol=1e-4, atol=1e-6)
    before = [value.clone() for value in module.state_dict().values()]
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.add_(1)
    assert all(torch.equal(a, b) for a, b in zip(before, module.state_dict().values(), strict=True)), "a copy"
    wrapper.start_recording()
    module(torch.randn(1, 1, 12, 16).requires_grad_())
    assert wrapper._capture is not None and not wrapper._capture._calls, "nothing of it reaches the session"
