"""Checks for people's own discriminators: what the bank relies on, each tried alone and named when it fails."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from ..config import RegionConfig
from ..errors import ConfigError, PluginError
from ..method.discriminators import DiscriminatorFactory
from ..runtime.rng import RandomState
from .bank_check import three_steps_in_the_bank
from .discriminator_trial import Failure, Trial, in_words, logits_of
from .states import read, written

REGION = RegionConfig("tumor", scales=2, windows_px=(32, 48))


def check_discriminator(
    factory: DiscriminatorFactory, *, region: RegionConfig = REGION, channels: tuple[int, ...] = (1, 3)
) -> None:
    """Try a discriminator of one's own: does it do what the bank of discriminators relies on?

    The checks are, by the names they are reported under: ``shapes``, ``minimum_size``, ``gradient``, ``determinism``,
    ``eval_and_train``, ``batch_independence``, ``state_dict``, ``autocast``, ``empty_region`` and
    ``three_steps_in_the_bank``. All of them run on the CPU; random streams are left as they were.

    Args:
        factory: Builds the network of one scale of one region, as the hook ``roi_discriminator`` does: from the region,
            the number of input channels and the smallest input side in pixels.
        region: What it is asked for; its scales and windows decide the sizes tried.
        channels: The numbers of input channels tried.

    Raises:
        PluginError: A check failed; one line says for each what was expected, what came, and why it matters.
        ConfigError: ``channels`` names none.
    """
    if not channels or min(channels) < 1:
        raise ConfigError(f"`channels` must hold numbers of at least 1; got {channels!r}; leave it out for (1, 3)")
    trial, findings = Trial(factory, region, tuple(channels)), list[str]()
    before = RandomState.now()
    try:
        with in_words(findings, shapes):
            shapes(trial)
        # What has no map of logits would fail every other check for that reason alone.
        for check in () if findings else CHECKS:
            with in_words(findings, check):
                check(trial)
    finally:
        before.restore()
    if findings:
        counted = f"{len(findings)} of {len(CHECKS) + 1}"
        raise PluginError(f"`factory` builds a discriminator that fails {counted} checks: {' | '.join(findings)}")


def shapes(trial: Trial) -> None:
    """Windows of every size and number of channels give a finite map of logits, one for each window of the batch."""
    sides = [(side, side) for side in trial.region.windows_px] + [(trial.side_px, trial.side_px + 13)]
    for channels in trial.channels:
        network = trial.network(channels)
        for (height, width), n in itertools.product(sides, (1, 3)):
            logits_of(network, trial.windows(n, channels=channels, height=height, width=width))
    for level in range(trial.region.scales):
        smallest = trial.side_px // 2**level
        logits_of(trial.network(smallest_px=smallest), trial.windows(height=smallest))


def minimum_size(trial: Trial) -> None:
    """``min_size_px`` says the smallest side that works, and one pixel less is an error instead of an empty map."""
    network = trial.network()
    stated = getattr(network, "min_size_px", None)
    why = "a region of a few pixels would otherwise end the run in the middle of an epoch"
    if not isinstance(stated, int) or isinstance(stated, bool) or not 1 <= stated <= trial.side_px:
        wanted = f"an attribute `min_size_px`, a whole number from 1 to the {trial.side_px} px it was built for"
        raise Failure(wanted, repr(stated), why)
    logits_of(network, trial.windows(height=stated))
    if stated > 1:
        with contextlib.suppress(ValueError, RuntimeError):
            network(trial.windows(height=stated - 1))
            raise Failure(f"an error for windows of {stated - 1} px, below `min_size_px`", "an answer", why)


def gradient(trial: Trial) -> None:
    """The loss has a finite gradient, not all zero, on the windows and on every parameter."""
    network, windows = trial.network(), trial.windows().requires_grad_()
    ((logits_of(network, windows) - 1) ** 2).mean().backward()
    if windows.grad is None or not _moves(windows.grad):
        raise Failure(
            "a finite gradient on the windows", _told(windows.grad), "it is all that the generator learns from"
        )
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    idle = [f"`{name}` {_told(grad)}" for name, grad in gradients.items() if grad is None or not _moves(grad)]
    if idle:
        raise Failure(
            "a finite gradient on every parameter",
            ", ".join(idle),
            "what never learns misleads whoever tunes it",
        )


def determinism(trial: Trial) -> None:
    """Two networks in one state give the same logits bit for bit, wherever the random streams stand."""
    one = trial.network()
    other, windows = trial.twin(one), trial.windows()
    torch.manual_seed(1)
    first = logits_of(one, windows)
    torch.manual_seed(2)
    if not torch.equal(first, logits_of(other, windows)):
        raise Failure(
            "the same logits for the same state and windows",
            "others, so it draws random numbers",
            "noise drowns the gradient of a small region, and a resumed run would differ",
        )


def eval_and_train(trial: Trial) -> None:
    """In evaluation mode it answers alike every time and changes nothing of itself; ``train`` goes back."""
    network, windows = trial.network().eval(), trial.windows()
    state = read(written(network.state_dict()))
    same = torch.equal(logits_of(network, windows), logits_of(network, windows))
    changed = [name for name, value in network.state_dict().items() if not torch.equal(value, state[name])]
    if not same or changed:
        came = f"changed {', '.join(changed)}" if changed else "other logits the second time"
        raise Failure("the same logits twice and no change after eval()", came, "looking at scores must not train it")
    if not network.train().training or not logits_of(network, windows).requires_grad:
        raise Failure("logits with a graph after train()", "none", "training goes on after every evaluation")


def batch_independence(trial: Trial) -> None:
    """A window's logits are the same alone and beside others."""
    network, windows = trial.network().double(), trial.windows(3).double()
    alone = [logits_of(trial.twin(network), windows[place : place + 1]) for place in range(3)]
    together = logits_of(trial.twin(network), windows)
    together = together.detach()
    difference = float((torch.cat(alone).detach() - together).abs().max() / together.abs().max().clamp_min(1e-12))
    if difference > 1e-6:
        raise Failure(
            "the same logits alone and in a batch",
            f"a difference of {difference:.1g} of the largest",
            "windows are grouped by size, so a patient's loss would depend on who else is in the batch; "
            "use InstanceNorm instead of BatchNorm",
        )


def state_dict(trial: Trial) -> None:
    """Saved and loaded into another network, with ``weights_only=True``, it gives the same logits bit for bit."""
    network, windows = trial.network(seed=0), trial.windows()
    file, other = written(network.state_dict()), trial.network(seed=1)
    other.load_state_dict(read(file))
    if not torch.equal(logits_of(network, windows), logits_of(other, windows)):
        raise Failure(
            "the same logits after load_state_dict",
            "others, so something it uses is neither parameter nor buffer",
            "a resumed run would go on with another network",
        )


def autocast(trial: Trial) -> None:
    """Under bfloat16 autocast the logits and the windows' gradient stay finite."""
    network, windows = trial.network(), trial.windows().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = logits_of(network, windows)
    logits.float().square().mean().backward()
    if windows.grad is None or not _moves(windows.grad):
        raise Failure("a finite gradient on the windows", _told(windows.grad), "hosts train in mixed precision")


def empty_region(trial: Trial) -> None:
    """Windows painted black all over, as the surroundings of a region are, give finite logits and gradients."""
    network = trial.network()
    windows = torch.full_like(trial.windows(), -1.0).requires_grad_()
    logits_of(network, windows).square().mean().backward()
    every = [("the windows", windows), *network.named_parameters()]
    broken = [name for name, value in every if value.grad is not None and not torch.isfinite(value.grad).all()]
    if broken:
        raise Failure(
            "finite gradients for a window of one grey value",
            f"NaN or infinity on {', '.join(broken)}",
            "outside a small region everything is painted black; guard a division by the spread with an epsilon",
        )


CHECKS: tuple[Callable[[Trial], None], ...] = (
    minimum_size,
    gradient,
    determinism,
    eval_and_train,
    batch_independence,
    state_dict,
    autocast,
    empty_region,
    three_steps_in_the_bank,
)


def _moves(gradient: Tensor) -> bool:
    return bool(torch.isfinite(gradient).all() and gradient.any())


def _told(gradient: Tensor | None) -> str:
    if gradient is None:
        return "none"
    return "all zero" if torch.isfinite(gradient).all() else "NaN or infinity"
