"""``check_discriminator`` passes a right network, and names the check that a wrong one fails."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from roi_progressive import ConfigError, PluginError, RegionConfig, ShapeError
from roi_progressive.method.discriminators import PatchDiscriminator, patch_discriminator_for
from roi_progressive.testing import check_discriminator
from roi_progressive.testing.discriminator_checks import CHECKS

pytestmark = pytest.mark.usefixtures("one_thread")
REGION = RegionConfig("tumor", scales=2, windows_px=(32, 48), base_channels=4)


class Right(nn.Module):
    """Two strided convolutions; what the wrong ones below change one thing of."""

    min_size_px: Any = 8

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, 4, 4, 2, 1)
        self.last = nn.Conv2d(4, 1, 4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.look(x)
        return self.last(self.between(nn.functional.leaky_relu(self.first(x), 0.2)))

    def look(self, x: Tensor) -> None:
        if min(x.shape[2:]) < self.min_size_px:
            raise ShapeError(f"`x` must have sides of at least {self.min_size_px} px; got {list(x.shape)}")

    def between(self, x: Tensor) -> Tensor:
        return x


class BatchNormed(Right):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.norm = nn.BatchNorm2d(4)

    def between(self, x: Tensor) -> Tensor:
        return self.norm(x)


class Frozen(Right):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.first.weight.requires_grad_(False)


class Unused(Right):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.spare = nn.Linear(2, 2)


class Detached(Right):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.detach())


class Noisy(Right):
    def between(self, x: Tensor) -> Tensor:
        return x + 0.1 * torch.randn_like(x)


class DropsOut(Right):
    def between(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


class Counts(Right):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.register_buffer("seen", torch.zeros(()))

    def between(self, x: Tensor) -> Tensor:
        self.seen += 1
        return x


class Flat(Right):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).mean(dim=(2, 3))


class TwoMaps(Right):
    def forward(self, x: Tensor) -> Any:
        return [super().forward(x)]


class OnlySquare(Right):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + torch.zeros(x.shape[2], x.shape[3])[::4, ::4].T


class SilentOfSize(Right):
    min_size_px = None

    def look(self, x: Tensor) -> None:
        pass


class Padded(Right):
    def look(self, x: Tensor) -> None:
        pass


class Fixed(Right):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.mixing = torch.randn(1, 4, 1, 1)

    def between(self, x: Tensor) -> Tensor:
        return x * self.mixing.to(x)


class ThroughNumPy(Right):
    def between(self, x: Tensor) -> Tensor:
        medians = np.median(x.detach().numpy(), axis=(1, 2, 3), keepdims=True)
        return x - torch.from_numpy(medians)


class Standardised(Right):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward((x - x.mean(dim=(1, 2, 3), keepdim=True)) / x.std(dim=(1, 2, 3), keepdim=True))


class WrongGeometry(Right):
    geometry = ((4, 2, 1),)


class Blows(Right):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) / 0.0


FAILS: dict[type[Right], tuple[set[str], str]] = {
    BatchNormed: ({"batch_independence"}, "use InstanceNorm instead of BatchNorm"),
    Frozen: ({"gradient", "three_steps_in_the_bank"}, "`first.weight` none"),
    Unused: ({"gradient", "three_steps_in_the_bank"}, "`spare.weight` none, `spare.bias` none"),
    Detached: ({"gradient", "autocast", "three_steps_in_the_bank"}, "all that the generator learns from"),
    Noisy: ({"determinism", "eval_and_train", "batch_independence", "state_dict"}, "it draws random numbers"),
    DropsOut: ({"determinism", "batch_independence", "state_dict"}, "it draws random numbers"),
    Counts: ({"eval_and_train"}, "changed seen"),
    Flat: ({"shapes"}, "expected logits [N, 1, h, w], here N = 1, for windows [1, 1, 32, 32]; got [1, 1]"),
    TwoMaps: ({"shapes"}, "got list"),
    OnlySquare: ({"shapes"}, "RuntimeError"),
    SilentOfSize: ({"minimum_size"}, "an attribute `min_size_px`"),
    Padded: ({"minimum_size"}, "expected an error for windows of 7 px"),
    Fixed: ({"state_dict"}, "neither parameter nor buffer"),
    ThroughNumPy: ({"autocast"}, "got TypeError"),
    Standardised: ({"empty_region"}, "empty_region: expected finite logits"),
    WrongGeometry: ({"three_steps_in_the_bank"}, "`geometry` of WrongGeometry"),
    Blows: ({"shapes"}, "NaN or infinity"),
}


def factory_of(kind: type[Right]) -> Callable[[RegionConfig, int, int], nn.Module]:
    return lambda region, in_channels, smallest_px: kind(in_channels)


def failures(factory: Any) -> str:
    with pytest.raises(PluginError) as caught:
        check_discriminator(factory, region=REGION)
    message = str(caught.value)
    assert "\n" not in message
    return message


def names_in(message: str) -> set[str]:
    return set(re.findall(r"(?:checks: | \| )(\w+): ", message))


@pytest.mark.parametrize("factory", [patch_discriminator_for, factory_of(Right)], ids=["ours", "foreign"])
def test_a_right_network_passes_and_the_random_streams_stay(factory: Any) -> None:
    numpy_state: Any = np.random.get_state()
    before = [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()]
    check_discriminator(factory, region=REGION)
    numpy_state = np.random.get_state()
    assert [random.getstate(), numpy_state[1].tolist(), torch.get_rng_state().tolist()] == before


def test_ours_passes_as_the_paper_prints_it_too() -> None:
    check_discriminator(
        lambda region, channels, smallest_px: PatchDiscriminator(channels, 4, 1, all_strided=True), region=REGION
    )


def test_a_network_under_spectral_norm_passes_though_each_forward_moves_its_buffers() -> None:
    class Bounded(Right):
        def __init__(self, channels: int) -> None:
            super().__init__(channels)
            self.first, self.last = spectral_norm(self.first), spectral_norm(self.last)

    check_discriminator(factory_of(Bounded), region=REGION)


@pytest.mark.parametrize("kind", FAILS)
def test_a_wrong_network_fails_the_checks_it_should_and_no_other(kind: type[Right]) -> None:
    names, words = FAILS[kind]
    message = failures(factory_of(kind))
    assert names_in(message) == names
    assert words in message


def test_every_failure_says_what_was_expected_what_came_and_why_it_matters() -> None:
    for finding in failures(factory_of(Noisy)).split(" | "):
        assert re.search(r": expected .+; got .+; it matters because .+", finding)


def test_every_check_is_failed_by_one_of_the_wrong_networks() -> None:
    assert {check.__name__ for check in CHECKS} | {"shapes"} == set.union(*(names for names, _ in FAILS.values()))


def test_what_is_no_module_or_raises_is_a_finding_too() -> None:
    assert "expected a torch.nn.Module; got str" in failures(lambda *_: "a network")

    def raises(*_: Any) -> nn.Module:
        raise KeyError("ndf\nis missing")

    assert "got KeyError: 'ndf" in failures(raises)


def test_channels_must_be_some() -> None:
    for channels in ((), (0,)):
        with pytest.raises(ConfigError, match="`channels` must hold numbers of at least 1"):
            check_discriminator(patch_discriminator_for, channels=channels)


def test_the_docstring_names_every_check() -> None:
    text = check_discriminator.__doc__ or ""
    assert all(f"``{check.__name__}``" in text for check in CHECKS)
