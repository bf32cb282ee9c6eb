"""The gradient tap: what the generator gets is the gradient of the summed loss, once, in the host's own pass."""

from __future__ import annotations

import gc
import warnings
import weakref
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from roi_progressive.training.tap import Injection, balance_factor, leaf, surrogate


class Generator(nn.Module):
    """A small network whose features and image are both in reach."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.InstanceNorm2d(4), nn.Tanh())
        self.head = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        features = self.body(source)
        return features, torch.tanh(self.head(features))


@pytest.fixture
def network() -> Generator:
    torch.manual_seed(0)
    return Generator().double()


SOURCE = torch.rand(2, 1, 9, 11, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def host_loss(image: Tensor) -> Tensor:
    return (image - 0.3).abs().mean()


def image_term(image: Tensor) -> Tensor:
    return (image.square() * torch.linspace(0, 3, 11)).sum()


def feature_term(features: Tensor) -> Tensor:
    return features.exp().mean()


def gradient_of(term: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    copy = leaf(tensor)
    (gradient,) = torch.autograd.grad(term(copy), copy)
    return gradient


def gradients(network: nn.Module) -> list[Tensor]:
    found = [parameter.grad for parameter in network.parameters()]
    network.zero_grad(set_to_none=True)
    return found


def equal(ours: list[Tensor], reference: list[Tensor], rtol: float = 1e-12) -> None:
    for mine, theirs in zip(ours, reference, strict=True):
        # Of the tensor's largest entry: single ones may be small by cancellation.
        torch.testing.assert_close(mine, theirs, rtol=0, atol=rtol * theirs.abs().max().item())


def reference_gradients(network: Generator, weight: float, *, features_too: bool, scale: float = 1.0) -> list[Tensor]:
    features, image = network(SOURCE)
    total = host_loss(image) + weight * image_term(image)
    if features_too:
        total = total + weight * feature_term(features)
    (scale * total).backward()
    return gradients(network)


# -- the sum rule -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("features_too", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_generator_gets_the_gradient_of_the_summed_loss(
    network: Generator, features_too: bool, scale: float
) -> None:
    features, image = network(SOURCE)
    injections = [Injection(image, 0.7 * gradient_of(image_term, image), "the image", scale=lambda: scale)]
    if features_too:
        ours = 0.7 * gradient_of(feature_term, features)
        injections.append(Injection(features, ours, "the features", scale=lambda: scale))
    (scale * host_loss(image)).backward()
    assert all(injection.fired for injection in injections)
    equal(gradients(network), reference_gradients(network, 0.7, features_too=features_too, scale=scale))


@pytest.mark.parametrize("features_too", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_a_surrogate_brings_the_value_and_the_losss_own_scale(
    network: Generator, features_too: bool, scale: float
) -> None:
    """The scale is the loss's own, as a GradScaler or a division for accumulation puts it on."""
    features, image = network(SOURCE)
    injections = [Injection(image, 0.7 * gradient_of(image_term, image), "the image")]
    value = 0.7 * image_term(image)
    if features_too:
        injections.append(Injection(features, 0.7 * gradient_of(feature_term, features), "the features"))
        value = value + 0.7 * feature_term(features)
    scalar = surrogate(value, injections, [image])
    assert scalar.item() == value.item()
    assert scalar.requires_grad
    (scale * (host_loss(image) + scalar)).backward()
    assert all(injection.fired for injection in injections)
    equal(gradients(network), reference_gradients(network, 0.7, features_too=features_too, scale=scale))


def test_a_surrogate_alone_is_loss_enough(network: Generator) -> None:
    _, image = network(SOURCE)
    scalar = surrogate(image_term(image), [injection := Injection(image, gradient_of(image_term, image), "x")], [image])
    scalar.backward()
    assert injection.fired
    ours = gradients(network)
    image_term(network(SOURCE)[1]).backward()
    equal(ours, gradients(network))


@pytest.mark.skipif(not hasattr(torch.amp, "GradScaler"), reason="torch before 2.3 scales no gradient on the CPU")
def test_a_real_grad_scaler_unscales_ours_with_the_hosts(network: Generator) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    _, image = network(SOURCE)
    scalar = surrogate(image_term(image), [Injection(image, gradient_of(image_term, image), "the image")], [image])
    scaler.scale(host_loss(image) + scalar).backward()
    scaler.unscale_(optimizer)
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_two_images_of_one_pass_get_their_own_gradients(network: Generator) -> None:
    (_, first), (_, second) = network(SOURCE), network(SOURCE.flip(-1))
    injections = [Injection(image, gradient_of(image_term, image), "an image") for image in (first, second)]
    value = image_term(first) + image_term(second)
    (host_loss(first) + host_loss(second) + surrogate(value, injections, [first, second])).backward()
    ours = gradients(network)
    (_, first), (_, second) = network(SOURCE), network(SOURCE.flip(-1))
    (host_loss(first) + host_loss(second) + image_term(first) + image_term(second)).backward()
    equal(ours, gradients(network))


def test_a_cycle_carries_the_gradient_of_the_reconstruction_through_both_generators() -> None:
    torch.manual_seed(0)
    there, back = Generator().double(), Generator().double()
    fake = there(SOURCE)[1]
    rec = back(fake)[1]
    injections = [Injection(image, gradient_of(image_term, image), "an image") for image in (fake, rec)]
    (host_loss(rec) + surrogate(image_term(rec) + image_term(fake), injections, [rec, fake])).backward()
    ours = gradients(there) + gradients(back)
    fake = there(SOURCE)[1]
    rec = back(fake)[1]
    (host_loss(rec) + image_term(rec) + image_term(fake)).backward()
    equal(ours, gradients(there) + gradients(back))


def test_an_image_only_our_term_uses_still_gets_its_gradient(network: Generator) -> None:
    (_, used), (_, ours_only) = network(SOURCE), network(SOURCE.flip(-1))
    injection = Injection(ours_only, gradient_of(image_term, ours_only), "the image")
    (host_loss(used) + surrogate(image_term(ours_only), [injection], [ours_only])).backward()
    ours = gradients(network)
    (host_loss(network(SOURCE)[1]) + image_term(network(SOURCE.flip(-1))[1])).backward()
    equal(ours, gradients(network))


def test_a_half_precision_image_gets_a_half_precision_gradient() -> None:
    image = torch.ones(3, dtype=torch.float16, requires_grad=True)
    Injection(image, torch.full((3,), 2e-9), "the image", scale=lambda: 2.0**16)
    (2.0**16 * image.sum()).to(torch.float32).backward(torch.tensor(2.0**-16))
    assert image.grad.dtype == torch.float16
    # 2e-9 is nothing in half precision; scaled before it is cast, it is not.
    torch.testing.assert_close(image.grad, torch.full((3,), 1 + 2e-9 * 2.0**16, dtype=torch.float16))


@pytest.mark.parametrize(
    ("given", "used"),
    [
        (torch.float16, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ],
)
def test_our_terms_are_computed_beside_the_graph_and_at_least_in_single_precision(
    given: torch.dtype, used: torch.dtype
) -> None:
    image = torch.ones(3, dtype=given, requires_grad=True) * 2
    copy = leaf(image)
    assert (copy.dtype, copy.is_leaf, copy.requires_grad) == (used, True, True)
    assert torch.equal(copy, image.to(used))
    (gradient,) = torch.autograd.grad((copy * 1e-9).sum(), copy)
    assert (gradient != 0).all(), "the gradient is gone before the host's scale could save it"


# -- once, and never unasked ------------------------------------------------------------------------------------------


def test_it_fires_once(network: Generator) -> None:
    _, image = network(SOURCE)
    Injection(image, gradient_of(image_term, image), "the image", scale=lambda: 1.0)
    host_loss(image).backward(retain_graph=True)
    with_ours = gradients(network)
    host_loss(image).backward()
    without = gradients(network)
    equal(with_ours, reference_gradients(network, 1.0, features_too=False))
    equal(without, reference_gradients(network, 0.0, features_too=False))


def test_asking_for_the_gradient_of_other_tensors_does_not_fire_it(network: Generator) -> None:
    _, image = network(SOURCE)
    probe = torch.ones((), dtype=torch.float64, requires_grad=True)
    injection = Injection(image, gradient_of(image_term, image), "the image", scale=lambda: 1.0)
    total = host_loss(image) + probe.square()
    torch.autograd.grad(total, probe, retain_graph=True)
    assert not injection.fired
    total.backward()
    assert injection.fired
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_an_injection_no_surrogate_has_armed_adds_nothing(network: Generator) -> None:
    """A script's gradient penalty on the fake passes by the hook; the loss that holds the surrogate comes later."""
    _, image = network(SOURCE)
    injection = Injection(image, gradient_of(image_term, image), "the image")
    scalar = surrogate(image_term(image), [injection], [image])
    (seen,) = torch.autograd.grad(host_loss(image), image, retain_graph=True)
    torch.testing.assert_close(seen, gradient_of(host_loss, image), rtol=0, atol=0)
    host_loss(image).backward(retain_graph=True)
    equal(gradients(network), reference_gradients(network, 0.0, features_too=False))
    assert not injection.fired
    (host_loss(image) + scalar).backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_one_that_never_fired_warns_by_name_and_lets_go(network: Generator) -> None:
    _, image = network(SOURCE)
    injection = Injection(image, gradient_of(image_term, image), "the generated image of A2B", scale=lambda: 1.0)
    with pytest.warns(RuntimeWarning, match=r"^the gradient for the generated image of A2B was never collected: "):
        injection.finish()
    host_loss(image).backward()
    equal(gradients(network), reference_gradients(network, 0.0, features_too=False))


def test_one_that_fired_or_is_told_not_to_is_silent(network: Generator) -> None:
    _, image = network(SOURCE)
    fired = Injection(image, torch.zeros_like(image), "the image", scale=lambda: 1.0)
    host_loss(image).backward()
    _, image = network(SOURCE)
    unfired = Injection(image, torch.zeros_like(image), "the image", scale=lambda: 1.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fired.finish()
        unfired.finish(warn=False)
        unfired.finish(warn=False)


def test_a_finished_step_keeps_no_image_alive(network: Generator) -> None:
    _, image = network(SOURCE)
    injection = Injection(image, torch.zeros_like(image), "the image")
    scalar = surrogate(host_loss(image), [injection], [image])
    (host_loss(image) + scalar).backward()
    injection.finish()
    gone = weakref.ref(image)
    del image, scalar
    gc.collect()
    assert gone() is None


# -- balance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_balance_caps_our_norm_at_a_share_of_the_hosts(share: float, size: float) -> None:
    image = torch.zeros(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(2)
    host, ours = (torch.randn(image.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ours = ours * size
    Injection(image, ours, "the image", balance=share, scale=lambda: 1.0)
    image.backward(host)
    added = image.grad - host
    allowed = min(ours.norm().item(), share * host.norm().item())
    assert added.norm().item() == pytest.approx(allowed, rel=1e-6)
    torch.testing.assert_close(added / added.norm(), ours / ours.norm(), rtol=1e-6, atol=1e-12)


def test_balance_does_not_depend_on_the_losss_scale() -> None:
    host, ours = torch.tensor([1.0, -2.0]), torch.tensor([30.0, 40.0])
    found = []
    for scale in (1.0, 4096.0):
        image = torch.zeros(2, requires_grad=True)
        Injection(image, ours, "the image", balance=0.5, scale=lambda scale=scale: scale)
        image.backward(scale * host)
        found.append(image.grad / scale)
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - host).norm().item() == pytest.approx(0.5 * host.norm().item(), rel=1e-6)


def test_a_gradient_of_nothing_is_left_alone_by_the_balance() -> None:
    assert balance_factor(torch.zeros(3), torch.ones(3), 0.5).item() == 1.0
    assert balance_factor(torch.ones(3), torch.zeros(3), 0.5).item() == 0.0
    assert balance_factor(torch.zeros(3), torch.zeros(3), 0.5).isfinite()
