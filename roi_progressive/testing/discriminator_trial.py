"""One network on trial: built the same as often as needed, run on chosen windows, its failures put into words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..config import RegionConfig
from ..errors import one_line
from ..method.discriminators import DiscriminatorFactory


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
def in_words(findings: list[str], check: Callable[..., None]) -> Iterator[None]:
    """Collect what a check finds under its name; whatever else is raised inside a network is a finding too."""
    name = check.__name__
    try:
        yield
    except Failure as failure:
        findings.append(f"{name}: {failure}")
    except Exception as error:
        said = one_line(error)[:200]
        findings.append(
            f"{name}: expected no error; got {type(error).__name__}: {said}; it matters because it ends the training"
        )
