"""The gradient tap: what the generator gets is the gradient of the summed loss, once, in the host's own pass."""

from __future__ import annotations

import functools
import gc
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from roi_progressive.training.tap import Injection, Tap, balance_factor, leaf, surrogate


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


@contextmanager
def laid(*injections: Injection, loss: Tensor | None = None, kept: dict[str, Tensor] | None = None) -> Iterator[None]:
    """A step with something to add."""
    tap = Tap(lambda: loss, lambda: kept or {})
    tap.lay(injections)
    try:
        yield
    finally:
        tap.lift()


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
@pytest.mark.parametrize("named", [True, False], ids=["the host names its loss", "it does not"])
def test_the_generator_gets_the_gradient_of_the_summed_loss(
    network: Generator, features_too: bool, scale: float, named: bool
) -> None:
    features, image = network(SOURCE)
    injections = [Injection(image, 0.7 * gradient_of(image_term, image), "the image")]
    if features_too:
        injections.append(Injection(features, 0.7 * gradient_of(feature_term, features), "the features"))
    host = host_loss(image) + 0.0 * image.mean()
    with laid(*injections, loss=host if named else None):
        (scale * host).backward()
    assert all(injection.fired for injection in injections)
    equal(gradients(network), reference_gradients(network, 0.7, features_too=features_too, scale=scale))


def _first_kept(loss: Tensor, kept: dict[str, Tensor]) -> Tensor:
    kept["loss_gen"] = loss
    return loss


SCALER = torch.amp.GradScaler("cpu", init_scale=1024.0) if hasattr(torch.amp, "GradScaler") else None
BEFORE_THE_BACKWARD: dict[str, tuple[Callable[[Tensor, dict[str, Tensor]], Tensor], float, str | None]] = {
    "a term of no name": (lambda loss, _: loss, 1.0, None),
    "weighted": (lambda loss, _: 3 * loss, 1.0, "weight"),
    "turned round": (lambda loss, _: -(0.5 * (1 - loss)), 1.0, "weight"),
    "kept": (lambda loss, kept: _first_kept(loss, kept), 1.0, None),
    "kept, weight and all": (lambda loss, kept: _first_kept(3 * loss, kept), 1.0, None),
    "kept and scaled": (lambda loss, kept: 3 * _first_kept(loss, kept), 3.0, "loss_gen"),
    "kept, scaled and cast": (lambda loss, kept: (3 * _first_kept(loss, kept).float() / 2).double(), 1.5, "loss_gen"),
    "a sum of kept terms": (lambda loss, kept: (3 * _first_kept(loss, kept) + loss) / 4, 0.25, None),
    "the mean of a list": (lambda loss, _: torch.stack([3 * loss, loss]).mean() * 2, 2.0, None),
}
if SCALER is not None:
    BEFORE_THE_BACKWARD |= {
        "weighted, a GradScaler": (lambda loss, _: SCALER.scale(3 * loss), 1024.0, "weight"),
        "a GradScaler": (lambda loss, _: SCALER.scale(loss), 1024.0, None),
        "a GradScaler and a share": (lambda loss, _: SCALER.scale(loss) / 4, 256.0, None),
        "kept and scaled, a GradScaler": (
            lambda loss, kept: SCALER.scale(_first_kept(loss, kept) / 4),
            256.0,
            "loss_gen",
        ),
        "a sum, a GradScaler": (lambda loss, _: SCALER.scale((loss + 2 * loss) / 4), 256.0, None),
    }


@pytest.mark.parametrize("way", BEFORE_THE_BACKWARD)
def test_the_scale_is_what_arrives_at_the_loss_that_ours_would_have_been_added_to(network: Generator, way: str) -> None:
    """Where it is not called ``loss_G``, and whatever stands in front of it; what the graph cannot tell is said."""
    make, scale, said = BEFORE_THE_BACKWARD[way]
    kept: dict[str, Tensor] = {}
    _, image = network(SOURCE)
    make(host_loss(image), kept).backward()
    expected = gradients(network)
    _, image = network(SOURCE)
    (scale * image_term(image)).backward()
    expected = [mine + ours for mine, ours in zip(expected, gradients(network), strict=True)]
    _, image = network(SOURCE)
    kept.clear()
    with laid(injection := Injection(image, gradient_of(image_term, image), "the image"), kept=kept):
        make(host_loss(image), kept).backward()
    equal(gradients(network), expected)
    assert (said is None and injection.assumption is None) or said in injection.assumption


@pytest.mark.parametrize("features_too", [False, True])
@pytest.mark.parametrize("scale", [1.0, 2.0**16])
def test_a_surrogate_brings_the_value_and_the_losss_own_scale(
    network: Generator, features_too: bool, scale: float
) -> None:
    """The scale is the loss's own, as a GradScaler or a division for accumulation puts it on."""
    features, image = network(SOURCE)
    injections, tensors = [Injection(image, 0.7 * gradient_of(image_term, image), "the image")], [image]
    value = 0.7 * image_term(image)
    if features_too:
        injections.append(Injection(features, 0.7 * gradient_of(feature_term, features), "the features"))
        value = value + 0.7 * feature_term(features)
        tensors.append(features)
    scalar = surrogate(value, injections, tensors)
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
    (host_loss(rec) + surrogate(image_term(rec) + image_term(fake), injections, [fake, rec])).backward()
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


@pytest.mark.parametrize("in_loss", [False, True])
def test_a_half_precision_image_gets_a_half_precision_gradient(in_loss: bool) -> None:
    image = torch.ones(3, dtype=torch.float16, requires_grad=True)
    ours = Injection(image, torch.full((3,), 2e-9), "the image")
    host = image.to(torch.float32).sum() * 2.0**-16
    loss = host + surrogate(torch.zeros(()), [ours], [image]) if in_loss else host
    with laid(ours, loss=host):
        (2.0**16 * loss).backward()
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


# -- whatever the host does between its loss and its optimizer ---------------------------------------------------------


def test_every_backward_of_the_loss_brings_it_again(network: Generator) -> None:
    _, image = network(SOURCE)
    loss = host_loss(image)
    with laid(Injection(image, gradient_of(image_term, image), "the image"), loss=loss):
        loss.backward(retain_graph=True)
        (0.5 * loss).backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False, scale=1.5))


@pytest.mark.parametrize("named", [True, False], ids=["after a step that named its loss", "never named"])
def test_a_loss_backpropagated_in_parts_brings_it_once(network: Generator, named: bool) -> None:
    _, image = network(SOURCE)
    of_an_earlier_step = host_loss(network(SOURCE)[1])
    loss = of_an_earlier_step if named else None
    with laid(Injection(image, gradient_of(image_term, image), "the image"), loss=loss):
        (0.25 * host_loss(image)).backward(retain_graph=True)
        (0.75 * host_loss(image)).backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_what_an_attached_image_brings_to_a_discriminator_is_not_taken_for_the_loss(network: Generator) -> None:
    """Some hosts forget to detach, and clear the generator's gradients before its own step."""
    _, image = network(SOURCE)
    loss = host_loss(image)
    judge = torch.ones((), dtype=torch.float64, requires_grad=True)
    with laid(Injection(image, gradient_of(image_term, image), "the image"), loss=loss):
        (judge * image.mean()).backward(retain_graph=True)
        gradients(network)
        loss.backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


@pytest.mark.parametrize("at", ["image", "layer"])
def test_a_figure_of_the_hosts_own_is_neither_falsified_nor_taken_for_its_training(network: Generator, at: str) -> None:
    _, image = network(SOURCE)
    loss = host_loss(image)
    asked = image if at == "image" else network.head.weight
    (expected,) = torch.autograd.grad(
        host_loss(network(SOURCE)[1]) if at == "layer" else loss, asked, retain_graph=True
    )
    with laid(injection := Injection(image, gradient_of(image_term, image), "the image"), loss=loss):
        (figure,) = torch.autograd.grad(loss, asked, retain_graph=True)
        assert torch.equal(figure, expected) and not injection.fired
        loss.backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_asking_for_the_gradient_of_other_tensors_does_not_fire_it(network: Generator) -> None:
    _, image = network(SOURCE)
    probe = torch.ones((), dtype=torch.float64, requires_grad=True)
    total = host_loss(image) + probe.square()
    with laid(injection := Injection(image, gradient_of(image_term, image), "the image"), loss=total):
        torch.autograd.grad(total, probe, retain_graph=True)
        total.backward(inputs=[probe], retain_graph=True)
        assert not injection.fired
        total.backward()
    assert injection.fired
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_losses_of_several_batches_in_one_backward_bring_all_of_ours(network: Generator) -> None:
    batches = [SOURCE * factor for factor in (1.0, 0.5, 0.25, -1.0)]
    total, edited = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for batch in batches:
        _, image = network(batch)
        injection = Injection(image, gradient_of(image_term, image), "the image")
        total = total + (host_loss(image) + surrogate(image_term(image), [injection], [image])) / 4
    total.backward()
    ours = gradients(network)
    for batch in batches:
        _, image = network(batch)
        edited = edited + (host_loss(image) + image_term(image)) / 4
    edited.backward()
    equal(ours, gradients(network))


def test_a_loss_without_the_surrogate_brings_nothing(network: Generator) -> None:
    """A script's gradient penalty on the fake passes by; the loss that holds the surrogate comes later."""
    _, image = network(SOURCE)
    injection = Injection(image, gradient_of(image_term, image), "the image")
    scalar = surrogate(image_term(image), [injection], [image])
    with laid(injection):
        (seen,) = torch.autograd.grad(host_loss(image), image, retain_graph=True)
        torch.testing.assert_close(seen, gradient_of(host_loss, image), rtol=0, atol=0)
        host_loss(image).backward(retain_graph=True)
        equal(gradients(network), reference_gradients(network, 0.0, features_too=False))
        assert not injection.fired
        (host_loss(image) + scalar).backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_an_image_changed_in_place_afterwards_gets_it_where_it_was_made(network: Generator) -> None:
    image = network(SOURCE)[1] * 1.0
    with laid(Injection(image, gradient_of(image_term, image), "the image")):
        image.mul_(2.0)
        host_loss(image).backward()
    ours = gradients(network)
    _, image = network(SOURCE)
    (host_loss(2.0 * image) + image_term(image)).backward()
    equal(ours, gradients(network))


def test_a_reentrant_checkpoint_is_no_pass_of_its_own(network: Generator) -> None:
    source = SOURCE.clone().requires_grad_()
    for guided in (True, False):
        image = checkpoint(lambda x: network(x)[1], source, use_reentrant=True)
        loss = host_loss(image)
        if guided:
            with laid(Injection(image, gradient_of(image_term, image), "the image"), loss=loss):
                loss.backward()
            ours = gradients(network)
        else:
            (loss + image_term(image)).backward()
    equal(ours, gradients(network))


# -- seen, and left as it was ------------------------------------------------------------------------------------------


def test_torchs_backward_is_its_own_again_after_the_step(network: Generator) -> None:
    own, scaler = torch.autograd.backward, type(SCALER) if SCALER is not None else torch.cuda.amp.GradScaler
    own_scale = scaler.scale
    _, image = network(SOURCE)
    with laid(Injection(image, torch.zeros_like(image), "the image")):
        assert torch.autograd.backward is not own and scaler.scale is not own_scale
        with laid(Injection(image, torch.zeros_like(image), "the image")):
            pass
        assert torch.autograd.backward is not own, "a second session's step is over, ours is not"
    assert torch.autograd.backward is own and scaler.scale is own_scale


def test_a_patch_of_somebody_else_is_left_in_place(network: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    _, image = network(SOURCE)
    with laid(injection := Injection(image, gradient_of(image_term, image), "the image")):
        ours = torch.autograd.backward
        theirs = lambda *args, **kwargs: (calls.append(1), ours(*args, **kwargs))[1]  # noqa: E731
        monkeypatch.setattr(torch.autograd, "backward", theirs)
        host_loss(image).backward()
        assert injection.fired
    assert torch.autograd.backward is theirs
    for _ in range(2):
        gradients(network)
        _, image = network(SOURCE)
        with laid(Injection(image, gradient_of(image_term, image), "the image")):
            host_loss(image).backward()
        equal(gradients(network), reference_gradients(network, 1.0, features_too=False))
    assert len(calls) == 3 + 2  # two of them the references'


def test_a_failing_backward_leaves_no_hook(network: Generator) -> None:
    _, image = network(SOURCE)
    with laid(injection := Injection(image, gradient_of(image_term, image), "the image")):
        with pytest.raises(RuntimeError, match="scalar outputs"):
            image.backward()
        torch.autograd.grad(host_loss(image), image, retain_graph=True)
        assert not injection.fired
        host_loss(image).backward()
    equal(gradients(network), reference_gradients(network, 1.0, features_too=False))


def test_after_the_step_nothing_is_added(network: Generator) -> None:
    _, image = network(SOURCE)
    with laid(injection := Injection(image, gradient_of(image_term, image), "the generated image of A2B")):
        pass
    host_loss(image).backward()
    equal(gradients(network), reference_gradients(network, 0.0, features_too=False))
    with pytest.warns(RuntimeWarning, match=r"^the gradient for the generated image of A2B was never collected: "):
        injection.warn_if_unused()


def test_one_that_fired_is_silent(network: Generator) -> None:
    _, image = network(SOURCE)
    with laid(fired := Injection(image, torch.zeros_like(image), "the image")):
        host_loss(image).backward()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fired.warn_if_unused()


@pytest.mark.parametrize("in_loss", [False, True])
def test_neither_an_image_nor_a_loss_outlives_its_step(network: Generator, in_loss: bool) -> None:
    """The loss and a figure of it hang on an object, as a host's do on its model: torch's hooks would keep it."""

    class Holder:
        pass

    holder: Any = Holder()
    _, image = network(SOURCE)
    injection = Injection(image, torch.zeros_like(image), "the image")
    holder.image, holder.loss = image, host_loss(image)
    tap = Tap(functools.partial(getattr, holder, "loss"))
    loss = holder.loss + surrogate(host_loss(image), [injection], [image]) if in_loss else 2 * holder.loss
    tap.lay([injection])
    loss.backward()
    tap.lift()
    holder.tap = tap
    gone = [weakref.ref(image), weakref.ref(holder)]
    del image, loss, holder, injection, tap
    gc.collect()
    assert [ref() for ref in gone] == [None, None]


# -- balance ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("in_loss", [False, True])
@pytest.mark.parametrize("n_parts", [1, 2])
def test_balance_caps_our_norm_at_a_share_of_the_hosts(share: float, size: float, in_loss: bool, n_parts: int) -> None:
    """Also where the host's loss comes in parts, whose sum counts."""
    image = torch.zeros(2, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    generator = torch.Generator().manual_seed(2)
    host, ours = (torch.randn(image.shape, generator=generator, dtype=torch.float64) for _ in range(2))
    ours = ours * size
    parts = [host] if n_parts == 1 else [3.0 * host.roll(1, 3), host - 3.0 * host.roll(1, 3)]
    losses = [(image * part).sum() for part in parts]
    injection = Injection(image, ours, "the image", balance=share)
    if in_loss:
        losses[0] = losses[0] + surrogate(torch.zeros((), dtype=torch.float64), [injection], [image])
    with laid(injection):
        for loss in losses:
            loss.backward()
    added = image.grad - host
    allowed = min(ours.norm().item(), share * host.norm().item())
    assert added.norm().item() == pytest.approx(allowed, rel=1e-6)
    torch.testing.assert_close(added / added.norm(), ours / ours.norm(), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("in_loss", [False, True])
def test_balance_does_not_depend_on_the_losss_scale(in_loss: bool) -> None:
    host, ours = torch.tensor([1.0, -2.0]), torch.tensor([30.0, 40.0])
    found = []
    for scale in (1.0, 4096.0):
        image = torch.zeros(2, requires_grad=True)
        injection, loss = Injection(image, ours, "the image", balance=0.5), (image * host).sum()
        whole = loss + surrogate(torch.zeros(()), [injection], [image]) if in_loss else loss
        with laid(injection, loss=loss):
            (scale * whole).backward()
        found.append(image.grad / scale)
    torch.testing.assert_close(found[0], found[1])
    assert (found[0] - host).norm().item() == pytest.approx(0.5 * host.norm().item(), rel=1e-6)


def test_a_gradient_of_nothing_is_left_alone_by_the_balance() -> None:
    assert balance_factor(torch.zeros(3), torch.ones(3), 0.5).item() == 1.0
    assert balance_factor(torch.ones(3), torch.zeros(3), 0.5).item() == 0.0
    assert balance_factor(torch.zeros(3), torch.zeros(3), 0.5).isfinite()
