"""Whatever a host does between its loss and its optimizer, its generator gets the gradient of a loss edited by hand.

Each way below is met in forks of the dialect. A toy host of our own takes a step with a session, and the same step
without one, our term written into its loss; everything is in float64 and must agree to 1e-10.
"""

from __future__ import annotations

import contextlib
import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from roi_progressive import GGDConfig, attach
from roi_progressive.method.regions import RegionMask

TOLERANCE = 1e-10
SCALERS = {"G": torch.amp.GradScaler("cpu", init_scale=1024.0)}


@pytest.fixture(autouse=True)
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def plain(m: Any) -> None:
    m.loss_G = m.generator_loss()
    m.loss_G.backward()


def divided(m: Any) -> None:
    m.loss_G = m.generator_loss()
    (m.loss_G / 4).backward()


def scaled_and_divided(m: Any) -> None:
    m.scaler = SCALERS["G"]
    m.loss_G = m.generator_loss()
    m.scaler.scale(m.loss_G / 4).backward()


def scaler_of_a_module(m: Any) -> None:
    m.loss_G = m.generator_loss()
    SCALERS["G"].scale(m.loss_G).backward()


def two_scalers(m: Any) -> None:
    m.scaler_D, m.scaler_G = torch.amp.GradScaler("cpu", init_scale=2.0), SCALERS["G"]
    m.loss_G = m.generator_loss()
    m.scaler_G.scale(m.loss_G).backward()


def loss_without_a_name(m: Any) -> None:
    first, second = m.parts()
    SCALERS["G"].scale((first + second) / 4).backward()


def gradient_given(m: Any) -> None:
    m.loss_G = m.generator_loss()
    m.loss_G.backward(torch.tensor(0.25))


def figure_at_the_image(m: Any) -> None:
    m.loss_G, own = m.generator_loss(), m.own_loss()
    m.figure = torch.autograd.grad(own, m.fake_B, retain_graph=True)[0]
    m.loss_G.backward()


def figure_at_the_last_layer(m: Any) -> None:
    m.loss_G, own = m.generator_loss(), m.own_loss()
    m.figure = torch.autograd.grad(own, list(m.netG.parameters())[-1], retain_graph=True)[0]
    m.loss_G.backward()


def twice(m: Any) -> None:
    m.loss_G = m.generator_loss()
    m.loss_G.backward(retain_graph=True)
    m.loss_G.backward()


def in_parts(m: Any) -> None:
    first, second = m.parts()
    first.backward(retain_graph=True)
    second.backward()


def sum_of_weighted_losses_of_other_names(m: Any) -> None:
    m.loss_gan, m.loss_close = m.parts()
    (m.loss_gan * 1.0 + 0.5 * m.loss_close).backward()


def kept_under_another_name(m: Any) -> None:
    m.loss_total = _and_ours(m, m.own_loss() * 0.5)
    m.loss_total.backward()


def kept_under_another_name_and_scaled(m: Any) -> None:
    m.loss_total = _and_ours(m, m.own_loss() * 0.5)
    SCALERS["G"].scale(m.loss_total).backward()


def _and_ours(m: Any, loss: Tensor) -> Tensor:
    return loss if m.edited_in is None else loss + m.edited_in(m.fake_B)


def summed_out_of_a_list(m: Any) -> None:
    (torch.stack(list(m.parts())).sum() / 4).backward()


STYLES = [
    plain,
    sum_of_weighted_losses_of_other_names,
    kept_under_another_name,
    kept_under_another_name_and_scaled,
    summed_out_of_a_list,
    divided,
    scaled_and_divided,
    scaler_of_a_module,
    two_scalers,
    loss_without_a_name,
    gradient_given,
    figure_at_the_image,
    figure_at_the_last_layer,
    twice,
    in_parts,
]


def _doubled(batch: Any) -> Any:
    def double(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: double(inner) for key, inner in value.items()}
        return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value

    return double(batch)


@pytest.fixture
def both_ways(build_toy: Any, tiny: Any) -> Callable[..., tuple[Any, Any]]:
    """The same step guided and edited by hand: gradients, weights and figure of each."""

    def run(
        kind: str, style: Callable[[Any], None], balance: float | None = None, warned: bool = False
    ) -> tuple[Any, Any]:
        model, loader = build_toy(kind)
        model.style = plain
        with attach(model, loader, tiny(balance=balance, pool_size=0)) as session:
            session.start_epoch(1)
            batches = [_doubled(batch) for _ in range(2) for batch in loader]
            chosen = next(b for b in batches[1:] if all(b["roi_masks"]["A"]["tumor"].flatten(1).any(1)))
            _step(model, batches[0])
            before = copy.deepcopy([model.netG, model.netD, *[o.state_dict() for o in model.optimizers]])
            bank = copy.deepcopy(session._guidance._learner.bank)
            model.style = style
            with contextlib.nullcontext() if warned else warnings.catch_warnings():
                warnings.simplefilter("always" if warned else "error")
                _step(model, chosen)
            guided = _found(model)
        for network, saved in zip((model.netG, model.netD), before, strict=False):
            network.load_state_dict(saved.state_dict())
        for optimizer, saved in zip(model.optimizers, before[2:], strict=True):
            optimizer.load_state_dict(saved)
        model.netG.zero_grad()
        masks = RegionMask.from_tensor(chosen["roi_masks"]["A"]["tumor"])

        def ours(fake: Tensor) -> Tensor:
            here = masks
            if len(fake) < len(masks.boxes):
                (place,) = [k for k, image in enumerate(chosen["A"]) if torch.equal(image, model.real_A[0])]
                here = RegionMask.from_tensor(masks.mask[place : place + 1])
            term = bank.generator_loss("A2B", "tumor", fake, here)
            if balance is None:
                return term
            (own,) = torch.autograd.grad(model.own_loss(), fake, retain_graph=True)
            (mine,) = torch.autograd.grad(term, fake, retain_graph=True)
            return term * (balance * own.norm() / mine.norm()).clamp(max=1.0).detach()

        model.edited_in = ours
        _step(model, chosen)
        return guided, _found(model)

    return run


def _step(model: Any, batch: Any) -> None:
    model.set_input(batch)
    model.optimize_parameters()


def _found(model: Any) -> list[Tensor]:
    own = list(model.netG.parameters())
    found = [p.grad for p in own] + [p.detach() for p in own] + ([] if model.figure is None else [model.figure])
    return [tensor.clone() for tensor in found if tensor is not None]


def _agree(guided: list[Tensor], edited: list[Tensor]) -> None:
    for mine, theirs in zip(guided, edited, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=0, atol=TOLERANCE * max(theirs.abs().max().item(), 1e-30))


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.__name__.replace("_", " "))
def test_the_generator_gets_the_gradient_of_the_edited_loss(style: Any, both_ways: Any) -> None:
    guided, edited = both_ways("styled", style)
    _agree(guided, edited)


def times_three(m: Any) -> None:
    m.loss_gen = m.generator_loss()
    (m.loss_gen * 3).backward()


def one_weighted_term(m: Any) -> None:
    _and_ours(m, 10.0 * m.criterionL1(m.fake_B, m.real_B)).backward()


def one_weighted_term_through_a_scaler(m: Any) -> None:
    SCALERS["G"].scale(_and_ours(m, 10.0 * m.criterionL1(m.fake_B, m.real_B))).backward()


@pytest.mark.parametrize(
    ("style", "assumed"),
    [
        (times_three, "to be `loss_gen`, and the factor in front of it for a scale"),
        (one_weighted_term, "to be a single term, and the factor in front of it for its weight"),
        (one_weighted_term_through_a_scaler, "to be a single term, and the factor in front of it for its weight"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_no_graph_tells_is_assumed_alike_always_and_said_once(style: Any, assumed: str, both_ways: Any) -> None:
    """A factor in front of one term is either scale or weight: scale where the model keeps the term, else weight."""
    with pytest.warns(RuntimeWarning, match=assumed) as said:
        guided, edited = both_ways("styled", style, warned=True)
    _agree(guided, edited)
    assert len([warning for warning in said if "the host's loss is taken" in str(warning.message)]) == 1


@pytest.mark.parametrize("style", [plain, divided, in_parts], ids=lambda style: style.__name__)
@pytest.mark.parametrize("kind", ["two steps", "accumulating", "summing"])
def test_several_forwards_a_step_are_all_guided_and_nothing_is_said(kind: Any, style: Any, both_ways: Any) -> None:
    guided, edited = both_ways(kind, style)
    _agree(guided, edited)


@pytest.mark.parametrize("style", [plain, divided, scaled_and_divided, twice, in_parts], ids=lambda s: s.__name__)
def test_the_cap_is_one_of_all_the_host_has_backpropagated(style: Any, both_ways: Any) -> None:
    guided, edited = both_ways("styled", style, balance=1e-3)
    _agree(guided, edited)


# --- hosts whose own loop does what optimize_parameters would ---------------------------------------------------------


def _by_hand(model: Any, batch: Any, *, discriminator: bool = True) -> None:
    """A loop that calls the parts of a step itself."""
    model.set_input(batch)
    model.forward()
    if discriminator:
        model.optimizer_D.zero_grad()
        (model.netD(torch.cat([model.real_A, model.fake_B.detach()], 1)) ** 2).mean().backward()
        model.optimizer_D.step()
    model.optimizer_G.zero_grad()
    model.backward_G()
    model.optimizer_G.step()


@pytest.mark.parametrize("discriminator", [True, False])
def test_a_loop_that_calls_the_parts_of_a_step_is_guided(discriminator: bool, build_toy: Any, tiny: Any) -> None:
    model, loader = build_toy("pix2pix")
    batches = [_doubled(batch) for batch in loader]
    with attach(model, loader, tiny()) as session:
        session.start_epoch(1)
        batches = [_doubled(batch) for _ in range(2) for batch in loader]
        for batch in batches:
            _by_hand(model, batch, discriminator=discriminator)
        assert session.state_dict()["steps"] == len(batches) - 1, "the last step ends with the epoch"
        session.start_epoch(2)
        assert session.state_dict()["steps"] == len(batches)
        assert set(session.losses()) >= {"G_tumor_A2B"}


def test_its_gradient_is_that_of_the_edited_loss(build_toy: Any, tiny: Any) -> None:
    found = []
    for guided in (True, False):
        model, loader = build_toy("pix2pix")
        with attach(model, loader, tiny()) as session:
            session.start_epoch(1)
            batch = next(b for b in map(_doubled, loader) if b["roi_masks"]["A"]["tumor"].any())
            _by_hand(model, batch)
            bank = session._guidance._learner.bank
            net, judge = copy.deepcopy(model.netG), copy.deepcopy(model.netD)
            if guided:
                session.start_epoch(1)
                kept = copy.deepcopy(bank)
                _by_hand(model, batch, discriminator=False)
                found = [p.grad.clone() for p in model.netG.parameters()]
                mask = RegionMask.from_tensor(batch["roi_masks"]["A"]["tumor"])
                fake = net(batch["A"])
                loss = ((judge(torch.cat([batch["A"], fake], 1)) - 1) ** 2).mean()
                loss = (
                    loss + 10.0 * model.criterionL1(fake, batch["B"]) + kept.generator_loss("A2B", "tumor", fake, mask)
                )
                _agree(found, list(torch.autograd.grad(loss, list(net.parameters()))))


def test_a_forward_to_look_at_images_is_no_step(build_toy: Any, tiny: Any) -> None:
    """With gradients enabled, as many validation loops leave them, and without masks."""
    model, loader = build_toy("pix2pix")
    with attach(model, loader, tiny(ggd=GGDConfig(hidden_channels=4))) as session:
        session.start_epoch(1)
        batch = _doubled(next(iter(loader)))
        _step(model, batch)
        before = copy.deepcopy(session.state_dict()["guidance"])
        bare = {key: value for key, value in batch.items() if key != "roi_masks"}
        for _ in range(3):
            model.set_input(bare)
            model.forward()
        assert str(session.state_dict()["guidance"]) == str(before)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _step(model, batch)


# --- a generator that stands still ------------------------------------------------------------------------------------


@pytest.mark.parametrize("ggd", [None, GGDConfig(hidden_channels=4)], ids=["regions", "uncertainty too"])
@pytest.mark.parametrize("frozen", ["netG_A", "netG_B"])
@pytest.mark.parametrize("netG", ["unet", "resnet"])
@pytest.mark.parametrize("from_start", [True, False])
def test_a_frozen_generator_is_left_alone_and_the_other_is_guided(
    frozen: str, ggd: Any, netG: str, from_start: bool, build_host: Any, tumor_config: Any
) -> None:
    torch.set_default_dtype(torch.float32)
    model, loader = build_host(netG=netG)
    other = "netG_B" if frozen == "netG_A" else "netG_A"
    with attach(model, loader, tumor_config(ggd=ggd)) as session:
        for epoch in (1, 2, 3):
            session.start_epoch(epoch)
            still = epoch < 3 if from_start else epoch == 2
            getattr(model, frozen).requires_grad_(not still)
            before = copy.deepcopy({name: getattr(model, name).state_dict() for name in (frozen, other)})
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                for batch in loader:
                    _step(model, batch)
            for name in (frozen, other):
                moved = any(
                    not torch.equal(value, before[name][key])
                    for key, value in getattr(model, name).state_dict().items()
                    if "ggd_head" not in key
                )
                assert moved is not (still and name == frozen)
