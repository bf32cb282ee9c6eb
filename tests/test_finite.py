"""Numbers that are not finite leave the step out, are counted and named, and ten in a row end the run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import roi_progressive
from roi_progressive import Config, DivergenceError, GGDConfig, RegionConfig, Session, Translation, hookimpl
from roi_progressive.runtime import finite
from roi_progressive.testing import ToyHost

pytestmark = pytest.mark.usefixtures("one_thread")


@given(
    arrays.arrays(np.float32, arrays.array_shapes(max_dims=3), elements=st.floats(-(2.0**99), 2.0**99, width=32)),
    st.sampled_from([0.0, math.nan, math.inf, -math.inf]),
    st.data(),
)
def test_finite_is_what_torch_says_of_every_number(values: Any, added: float, data: st.DataObject) -> None:
    tensor = torch.from_numpy(values.copy())
    place = data.draw(st.integers(0, tensor.numel() - 1))
    tensor.view(-1)[place] += added
    told = finite.finite([torch.ones(2), tensor])
    assert told.dtype == torch.bool and told.shape == ()
    assert bool(told) == bool(torch.isfinite(tensor).all())


def test_opposite_infinities_halves_and_nothing_at_all() -> None:
    assert not finite.finite([torch.tensor([math.inf, -math.inf])])
    # As a sum of halves it would overflow.
    assert finite.finite([torch.full((100,), 60_000.0, dtype=torch.float16)]) and finite.finite([])


def test_a_late_number_is_the_number() -> None:
    assert finite.LateNumber(torch.tensor(True)) and not finite.LateNumber(torch.tensor(False))
    assert float(finite.LateNumber(torch.tensor(2.5))) == 2.5


def test_a_file_is_warned_of_once_and_the_tenth_step_in_a_row_ends_it() -> None:
    steps = finite.DroppedSteps()
    with pytest.warns(RuntimeWarning, match=r"an image \(a\.png\) was infinite or NaN; this step .* \(so far: 1\)"):
        steps.dropped("an image", ["a.png"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        steps.dropped("an image", ["a.png"])
    with pytest.warns(RuntimeWarning, match="b.png"):
        steps.dropped("an image", ["b.png"])
    steps.made()
    for _ in range(9):
        steps.dropped("an image", ["a.png"])
    with pytest.raises(
        DivergenceError,
        match=r"^`host` must train on finite numbers; an image \(a\.png\) was infinite or NaN, as something was in "
        r"each of the last 10 steps; look at these images, lower the learning rate, or go on from an earlier "
        r"checkpoint$",
    ):
        steps.dropped("an image", ["a.png"])
    assert steps.total == 13


def test_where_no_file_is_known_warnings_become_ever_rarer() -> None:
    steps = finite.DroppedSteps()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        for _ in range(1000):
            steps.dropped("a loss")
            steps.made()
    assert len(heard) == 10  # the 1st, 2nd, 4th, ..., 512th


# -- a whole host ------------------------------------------------------------------------------------------------


class _Extra:
    """A plugin's term, whatever it is."""

    def __init__(self, term: Callable[[Translation], Tensor]) -> None:
        self.term = term

    @hookimpl
    def roi_generator_losses(self, translation: Translation) -> dict[str, Tensor]:
        return {"extra": self.term(translation)}


class _Running(nn.Module):
    """A discriminator that would take up NaN in its running statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, 2, 4, 2, 1), nn.BatchNorm2d(2), nn.Conv2d(2, 1, 1))

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.layers(image)
        return logits


class _RunningStatistics:
    @hookimpl
    def roi_discriminator(self, region: Any, in_channels: int, smallest_px: int) -> nn.Module:
        return _Running()


@pytest.fixture
def config(tumor_config: Callable[..., Config], tiny_region: Callable[..., RegionConfig]) -> Config:
    regions = (tiny_region(batch_key="{domain}_tumor", pixel_weight=0.5, pixel_channels=2),)
    return tumor_config(regions=regions, pool_size=4, balance=0.5, ggd=GGDConfig(hidden_channels=4, stage=1))


def _attached(config: Config, *plugins: Any) -> tuple[ToyHost, Session, list[dict[str, Any]]]:
    """A toy host after three steps with us, and three batches to go on with."""
    torch.manual_seed(0)
    host = ToyHost()
    session = roi_progressive.attach(host, config=config, plugins=[_RunningStatistics(), *plugins])
    session.start_epoch(1)
    batches = list(host.batches(3))
    for batch in batches:
        host.step(batch)
    return host, session, batches


def _with(batch: dict[str, Any], domain: str, value: float) -> dict[str, Any]:
    """The batch with one broken pixel in its second image of a domain."""
    image = batch[domain].clone()
    image[1, 0, 3, 5] = value
    return {**batch, domain: image, "A_paths": ["a0.png", "a1.png"], "B_paths": ["b0.png", "b1.png"]}


def _ours(session: Session) -> dict[str, Any]:
    """Everything of ours that learns; running statistics may move, but must stay finite."""
    learner: dict[str, Any] = session.state_dict()["guidance"]["learner"]
    assert finite.finite(learner["bank"].values())
    running = ("running_mean", "running_var", "num_batches_tracked")
    return {**learner, "bank": {name: w for name, w in learner["bank"].items() if not name.endswith(running)}}


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize(("domain", "file"), [("A", "a1.png"), ("B", "b1.png")])
def test_a_broken_image_moves_nothing_of_ours_and_its_file_is_named(
    domain: str, file: str, value: float, config: Config, copied: Any, differing: Any
) -> None:
    host, session, batches = _attached(config)
    before, steps = copied(_ours(session)), session.state_dict()["steps"]
    with pytest.warns(RuntimeWarning, match=rf"an image \({file}\) was infinite or NaN"):
        host.step(_with(batches[0], domain, value))
    assert differing(_ours(session), before) == []
    assert session.dropped_steps == 1 and session.state_dict()["steps"] == steps
    assert session.losses() and all(math.isnan(loss) for loss in session.losses().values())


def _no_term(translation: Translation) -> Tensor:
    return translation.fake.new_zeros(())


class _Once:
    """A term that is sound but for one step, in which it is ``broken``."""

    def __init__(self, broken: Callable[[Translation], Tensor]) -> None:
        self.broken, self.armed = broken, False

    def __call__(self, translation: Translation) -> Tensor:
        return self.broken(translation) if self.armed else _no_term(translation)


BROKEN_TERMS: dict[str, Callable[[Translation], Tensor]] = {
    "a loss of NaN": lambda t: t.fake.sum() * math.nan,
    "an infinite loss": lambda t: (t.fake.mean() * 1e38) * 1e38,
    # The value is 0, and its slope there infinite.
    "an infinite gradient": lambda t: (t.fake - t.fake.detach()).sqrt().sum(),
}


@pytest.mark.parametrize("waits", [False, True], ids=["cpu", "as on a GPU"])
@pytest.mark.parametrize("name", BROKEN_TERMS)
def test_a_broken_term_of_ours_leaves_the_hosts_step_as_it_is_without_us(
    name: str, waits: bool, config: Config, copied: Any, differing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finite, "is_read_late", lambda flag: waits)
    term = _Once(BROKEN_TERMS[name])
    host, session, batches = _attached(config, _Extra(term))
    alone = ToyHost()
    for net in ("netG_A", "netG_B", "netD_A", "netD_B"):
        getattr(alone, net).load_state_dict(getattr(host, net).state_dict())
    for own, other in zip(alone.optimizers, host.optimizers, strict=True):
        own.load_state_dict(copied(other.state_dict()))
    ours = copied(_ours(session))
    term.armed = True
    with pytest.warns(RuntimeWarning, match="a loss or gradient of ours was infinite or NaN"):
        host.step(batches[0])
    alone.step(batches[0])
    for net in ("netG_A", "netG_B", "netD_A", "netD_B"):
        assert differing(getattr(host, net).state_dict(), getattr(alone, net).state_dict()) == [], net
    after = _ours(session)
    for part in ("bank", "bank_optimizer", "pools", "heads", "head_optimizers"):
        assert differing(after[part], ours[part]) == [], part
    term.armed = False
    host.step(batches[1])
    assert session.dropped_steps == 1 and all(math.isfinite(loss) for loss in session.losses().values())
    assert finite.finite(p for network in session.networks() for p in network.parameters())
    assert differing(_ours(session)["bank"], ours["bank"])


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_mask_with_a_number_that_is_not_finite_is_no_mask(value: float, config: Config) -> None:
    host, session, batches = _attached(config)
    mask = batches[0]["A_tumor"].clone()
    mask[0, 0, 0, 0] = value
    with pytest.warns(RuntimeWarning, match="a mask of A2B was infinite or NaN"):
        host.step({**batches[0], "A_tumor": mask})
    assert session.dropped_steps == 1


def test_a_broken_gradient_of_the_hosts_own_stays_its_own(
    config: Config, copied: Any, differing: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    host, session, batches = _attached(config)
    bank = copied(_ours(session)["bank"])

    def broken() -> None:
        (host.fake_B.sum() * math.nan).backward()

    monkeypatch.setattr(host, "backward_G", broken)
    with pytest.warns(RuntimeWarning, match="the host's gradient for the generated image of A2B was infinite or NaN"):
        host.step(batches[0])
    assert differing(_ours(session)["bank"], bank) == []


def test_discriminators_with_a_broken_gradient_do_not_move_and_are_told_of_a_step_later(
    config: Config, copied: Any, differing: Any
) -> None:
    host, session, batches = _attached(config)
    bank = session.networks()[-1]
    weights = copied({name: value for name, value in bank.named_parameters()})
    first = next(bank.parameters())
    handle = first.register_hook(lambda gradient: gradient * math.nan)
    host.step(batches[0])
    handle.remove()
    assert differing(dict(bank.named_parameters()), weights) == []
    with pytest.warns(RuntimeWarning, match="the gradient of our discriminators in the step before"):
        host.step(batches[1])
    assert session.dropped_steps == 1


def test_ten_broken_steps_in_a_row_end_the_run(config: Config) -> None:
    host, session, batches = _attached(config)
    broken = _with(batches[0], "A", math.nan)
    with pytest.warns(RuntimeWarning), pytest.raises(DivergenceError, match=r"an image \(a1\.png\)"):
        for _ in range(30):
            host.step(broken)
    assert session.dropped_steps == 10
    # A loop that goes on all the same starts afresh.
    for name in ("netG_A", "netG_B", "netD_A", "netD_B"):
        getattr(host, name).load_state_dict(getattr(ToyHost(), name).state_dict())
    host.step(batches[1])
    assert session.dropped_steps == 10 and all(math.isfinite(loss) for loss in session.losses().values())


def test_a_script_is_told_of_the_image_by_its_name(config: Config) -> None:
    nets = {d: nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 1, 3, padding=1)) for d in ("A2B", "B2A")}
    optimizer = torch.optim.SGD([p for net in nets.values() for p in net.parameters()], lr=1e-3)
    session = roi_progressive.attach(nets, config=config, n_epochs=1)
    session.start_epoch(0)
    real = torch.rand(1, 1, 32, 32)
    broken, mask = real.clone(), torch.zeros(1, 1, 32, 32)
    broken[0, 0, 0, 0], mask[0, 0, 8:18, 8:18] = math.nan, 1
    fake = nets["A2B"](real)
    images = {"real_A": real, "fake_B": fake, "rec_A": nets["B2A"](fake), "real_B": broken}
    loss = session.generator_loss(**images, masks_A={"tumor": mask}, masks_B={"tumor": mask})
    assert loss.item() == 0.0
    optimizer.zero_grad()
    (fake.mean() + loss).backward()
    with pytest.warns(RuntimeWarning, match="the real image of A2B was infinite or NaN"):
        session.discriminator_step()
    assert finite.finite(p.grad for net in nets.values() for p in net.parameters() if p.grad is not None)
