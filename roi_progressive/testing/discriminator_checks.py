"""Checks for people's own discriminators: what the bank relies on, each tried alone and named when it fails."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch
from torch import Tensor, nn

from ..config import ROI_MODES, Config, RegionConfig
from ..errors import ConfigError, PluginError, one_line
from ..method.bank import DiscriminatorBank
from ..method.discriminators import DiscriminatorFactory
from ..method.regions import RegionMask
from ..runtime.rng import RandomState
from .states import read, written

REGION = RegionConfig("tumor", scales=2, windows_px=(32, 48))
_N_STEPS = 3


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

    Example:
        >>> from roi_progressive import PatchDiscriminator
        >>> from roi_progressive.testing import check_discriminator
        >>> check_discriminator(lambda region, in_channels, smallest_px: PatchDiscriminator(in_channels, 4, layers=1))
    """
    if not channels or min(channels) < 1:
        raise ConfigError(f"`channels` must hold numbers of at least 1; got {channels!r}; leave it out for (1, 3)")
    trial, findings = Trial(factory, region, tuple(channels)), list[str]()
    before = RandomState.now()
    try:
        with _reporting(findings, shapes):
            shapes(trial)
        # What has no map of logits would fail every other check for that reason alone.
        for check in () if findings else CHECKS:
            with _reporting(findings, check):
                check(trial)
    finally:
        before.restore()
    if findings:
        counted = f"{len(findings)} of {len(CHECKS) + 1}"
        raise PluginError(f"`factory` builds a discriminator that fails {counted} checks: {' | '.join(findings)}")


class Failure(Exception):
    """What was expected, what came, and why it matters; one line."""

    def __init__(self, expected: str, came: str, why: str) -> None:
        super().__init__(f"expected {expected}; got {came}; it matters because {why}")


class Trial:
    """What every check is given.

    Args:
        factory: As the hook ``roi_discriminator`` would be asked.
        region: The region it is asked for.
        channels: The numbers of input channels to try.
    """

    def __init__(self, factory: DiscriminatorFactory, region: RegionConfig, channels: tuple[int, ...]) -> None:
        self.factory = factory
        self.region = region
        self.channels = channels

    @property
    def side_px(self) -> int:
        """The smallest window at full size, on which most checks run."""
        return self.region.windows_px[0]

    def network(self, channels: int | None = None, smallest_px: int | None = None, *, seed: int = 0) -> nn.Module:
        """A network, the same for the same seed, in training mode."""
        torch.manual_seed(seed)
        made = self.factory(
            self.region,
            self.channels[0] if channels is None else channels,
            self.side_px if smallest_px is None else smallest_px,
        )
        if not isinstance(made, nn.Module):
            raise Failure("a torch.nn.Module", type(made).__name__, "the bank trains what the factory makes")
        return made.train()

    def twin(self, network: nn.Module, *, seed: int = 0) -> nn.Module:
        """Another network in the state of this one; built anew, since not every module can be copied."""
        other = self.network(seed=seed)
        other.load_state_dict(network.state_dict())
        return other.to(next((value.dtype for value in network.parameters()), torch.float32))

    def windows(self, n: int = 2, *, channels: int | None = None, height: int = 0, width: int = 0) -> Tensor:
        """Windows ``[n, C, height, width]`` in [-1, 1], always the same; square where no side is given."""
        shape = (n, channels or self.channels[0], height or self.side_px, width or height or self.side_px)
        return torch.rand(shape, generator=torch.Generator().manual_seed(n)) * 2 - 1


def logits_of(network: nn.Module, windows: Tensor) -> Tensor:
    """The network's answer, if it is a finite, non-empty map of logits."""
    logits: Tensor = network(windows)
    n = len(windows)
    if not isinstance(logits, Tensor) or logits.ndim != 4 or logits.shape[:2] != (n, 1) or not logits.numel():
        came = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise Failure(
            f"logits [N, 1, h, w], here N = {n}, for windows {list(windows.shape)}",
            str(came),
            "each logit is weighted by how much of the region it sees",
        )
    if not torch.isfinite(logits).all():
        raise Failure(
            f"finite logits for windows {list(windows.shape)} in [-1, 1]",
            "NaN or infinity",
            "one of them reaches every weight of the host's generator",
        )
    return logits


@contextmanager
def _reporting(findings: list[str], check: Callable[..., None]) -> Iterator[None]:
    """Collect what a check finds under its name; whatever else is raised inside a network is a finding too."""
    name = check.__name__
    try:
        yield
    except Failure as failure:
        findings.append(f"{name}: {failure}")
    except Exception as error:  # any of a foreign network's is what is looked for
        text = one_line(error)[:200]
        findings.append(
            f"{name}: expected no error; got {type(error).__name__}: {text}; it matters because it ends the training"
        )


# -- the checks; each is reported under its function's name ------------------------------------------------------------


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
        with suppress(ValueError, RuntimeError):
            network(trial.windows(height=stated - 1))
            raise Failure(f"an error for windows of {stated - 1} px, below `min_size_px`", "an answer", why)


def gradient(trial: Trial) -> None:
    """The loss has a finite gradient, not all zero, on the windows and on every parameter."""
    network, windows = trial.network(), trial.windows().requires_grad_()
    ((logits_of(network, windows) - 1) ** 2).mean().backward()
    if windows.grad is None or not _moves(windows.grad):
        raise Failure(
            "a finite gradient on the windows", _in_words(windows.grad), "it is all that the generator learns from"
        )
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    idle = [f"`{name}` {_in_words(grad)}" for name, grad in gradients.items() if grad is None or not _moves(grad)]
    if idle:
        raise Failure(
            "a finite gradient on every parameter",
            ", ".join(idle),
            "what never learns misleads whoever tunes it",
        )


def determinism(trial: Trial) -> None:
    """Two networks in one state give the same logits bit for bit, wherever the random streams stand."""
    network = trial.network()
    twin, windows = trial.twin(network), trial.windows()
    torch.manual_seed(1)
    logits = logits_of(network, windows)
    torch.manual_seed(2)
    if not torch.equal(logits, logits_of(twin, windows)):
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
        raise Failure("a finite gradient on the windows", _in_words(windows.grad), "hosts train in mixed precision")


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


def three_steps_in_the_bank(trial: Trial) -> None:
    """In each region mode: three steps with finite losses move every parameter, and none moves without the region."""
    for mode in ROI_MODES:
        region = dataclasses.replace(trial.region, roi_mode=mode, stage=1)
        torch.manual_seed(0)
        bank = DiscriminatorBank(Config(regions=(region,), ggd=None), {"A2B": trial.channels[0]}, trial.factory)
        _train(bank, trial, mode)


def _train(bank: DiscriminatorBank, trial: Trial, mode: str) -> None:
    (region,) = bank.config.regions
    side = trial.side_px + 16
    inside = torch.zeros(3, 1, side, side)
    inside[:2, :, side // 2 - 6 : side // 2 + 4, side // 2 - 4 : side // 2 + 4] = 1
    masks, empty = RegionMask.from_tensor(inside), RegionMask.from_tensor(inside * 0)
    before = _copy_of(bank)
    optimizer = torch.optim.Adam(bank.parameters(), lr=1e-3)
    for step in range(_N_STEPS):
        fake, real = trial.windows(3, height=side).requires_grad_(), trial.windows(3, height=side).flip(0)
        for whose, loss in (
            ("generator's", bank.generator_loss("A2B", region.name, fake, masks)),
            ("discriminator's", bank.discriminator_loss("A2B", region.name, fake, masks, real, masks)),
        ):
            _backward(loss, f"a finite {whose} loss in step {step + 1} with roi_mode = {mode!r}", bank)
        optimizer.step()
        if fake.grad is None or not torch.isfinite(fake.grad).all() or not fake.grad[:2].any() or fake.grad[2].any():
            raise Failure(
                f"a gradient on the images with the region and none on the one without, roi_mode = {mode!r}",
                "another",
                "a region's term may touch its region only",
            )
    unmoved = [name for name, value in bank.named_parameters() if torch.equal(value, before[name])]
    if unmoved:
        raise Failure(
            f"every parameter to have moved after {_N_STEPS} steps, roi_mode = {mode!r}",
            ", ".join(f"`{name.split('.scales.', 1)[-1]}` stood still" for name in unmoved),
            "a part that never learns misleads whoever tunes it",
        )
    if bank.generator_loss("A2B", region.name, fake, empty) is not None:
        raise Failure("no loss for a batch without the region", "one", "no region must mean no change")


def _backward(loss: Tensor | None, expected: str, bank: nn.Module) -> None:
    if loss is None or not torch.isfinite(loss):
        raise Failure(expected, "none" if loss is None else str(float(loss)), "one NaN ends the host's training")
    bank.zero_grad()
    loss.backward()


def _copy_of(bank: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in bank.named_parameters()}


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


def _in_words(gradient: Tensor | None) -> str:
    if gradient is None:
        return "none"
    return "all zero" if torch.isfinite(gradient).all() else "NaN or infinity"
