"""The history of generated windows: pairs stay pairs, the random stream is its own, and it survives a file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roi_progressive.method.pools import PooledWindow, WindowPool

# A busy machine is no finding.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def mask_of(number: int, side: int) -> np.ndarray:
    """A mask that belongs to a number alone: its binary digits, along the first rows."""
    digits = [number >> place & 1 for place in range(side * side)]
    return np.array(digits, dtype=bool).reshape(side, side)


def stamped(numbers: list[int], side: int) -> list[PooledWindow]:
    """Windows whose pixels and whose mask both carry the window's number; the pixels are views into one batch."""
    batch = torch.tensor(numbers, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, side, side).clone()
    return [PooledWindow(pixels, mask_of(number, side)) for pixels, number in zip(batch, numbers, strict=True)]


def numbers_of(windows: list[PooledWindow]) -> list[int]:
    return [int(window.pixels[0, 0, 0]) for window in windows]


@UNHURRIED
@given(
    size=st.integers(0, 6),
    seed=st.integers(0, 50),
    batches=st.lists(st.lists(st.sampled_from((6, 8, 12)), max_size=4), max_size=12),
)
def test_every_window_comes_back_with_the_very_mask_it_was_made_under(
    size: int, seed: int, batches: list[list[int]]
) -> None:
    pool, number, sides = WindowPool(size, seed), 0, dict[int, int]()
    for batch in batches:
        fresh = []
        for side in sorted(set(batch)):
            numbers = list(range(number, number + batch.count(side)))
            number += len(numbers)
            sides.update(dict.fromkeys(numbers, side))
            fresh += stamped(numbers, side)
        answer = pool.exchange(fresh)
        assert len(answer) == len(batch)
        for window, came in zip(answer, numbers_of(answer), strict=True):
            assert sides[came] == window.size[0] == window.size[1] == window.pixels.shape[-1]
            assert np.array_equal(window.mask, mask_of(came, sides[came])) and bool((window.pixels == came).all())
        assert len(pool) <= size


def test_a_full_pool_hands_back_old_windows_half_of_the_time() -> None:
    pool = WindowPool(10, seed=0)
    old = 0
    for number in range(2000):
        (came,) = numbers_of(pool.exchange(stamped([number], 6)))
        old += came != number
    assert 900 < old < 1100


def test_a_window_leaves_the_pool_when_it_is_handed_back() -> None:
    pool, handed = WindowPool(3, seed=1), []
    for number in range(300):
        handed += [came for came in numbers_of(pool.exchange(stamped([number], 6))) if came != number]
    # The first `size` windows are shown fresh and stored; after that nothing may come twice.
    assert len(handed) == len(set(handed)) > 100


def test_a_pool_of_size_zero_hands_everything_through() -> None:
    fresh = [*stamped([1, 2], 6), *stamped([3], 8)]
    pool = WindowPool(0, seed=0)
    assert all(a is b for a, b in zip(pool.exchange(fresh), fresh, strict=True))
    assert len(pool) == 0


def test_no_window_at_all_is_no_trouble() -> None:
    assert WindowPool(5, seed=0).exchange([]) == []


def test_the_random_stream_is_its_own() -> None:
    def draws(disturbed: bool) -> list[int]:
        pool, came = WindowPool(2, seed=3), []
        for number in range(40):
            if disturbed:
                random.seed(number)
                np.random.seed(number)
                torch.manual_seed(number)
            came += numbers_of(pool.exchange(stamped([number], 6)))
        return came

    streams = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    undisturbed = draws(False)
    assert random.getstate() == streams[0]
    assert np.random.get_state()[1].tolist() == streams[1]
    assert torch.equal(torch.get_rng_state(), streams[2])
    assert draws(True) == undisturbed


def test_another_seed_draws_otherwise() -> None:
    def came(seed: int) -> list[int]:
        pool = WindowPool(2, seed)
        return [n for number in range(40) for n in numbers_of(pool.exchange(stamped([number], 6)))]

    assert came(0) == came(0)
    assert came(0) != came(1)


def test_a_pool_read_from_a_file_goes_on_as_if_nothing_had_happened(tmp_path: Path) -> None:
    pool = WindowPool(4, seed=7)
    for number in range(0, 30, 3):
        pool.exchange([*stamped([number, number + 1], 6), *stamped([number + 2], 8)])
    torch.save(pool.state_dict(), tmp_path / "pool.pth")
    resumed = WindowPool(4, seed=0)
    resumed.load_state_dict(torch.load(tmp_path / "pool.pth", weights_only=True), "cpu")
    assert len(resumed) == len(pool) == 4
    for number in range(100, 160):
        first, second = (p.exchange(stamped([number], 6)) for p in (pool, resumed))
        for ours, theirs in zip(first, second, strict=True):
            assert torch.equal(ours.pixels, theirs.pixels)
            assert np.array_equal(ours.mask, theirs.mask)
    again = pool.state_dict()
    assert torch.equal(again["dice"]["words"], resumed.state_dict()["dice"]["words"])


def test_a_smaller_pool_takes_what_fits() -> None:
    pool = WindowPool(5, seed=0)
    pool.exchange(stamped([0, 1, 2, 3, 4], 6))
    smaller = WindowPool(2, seed=0)
    smaller.load_state_dict(pool.state_dict(), "cpu")
    assert len(smaller) == 2
    for number in range(10, 40):
        smaller.exchange(stamped([number], 6))
    assert len(smaller) == 2


def test_a_pool_keeps_one_window_and_not_the_batch_it_came_in(tmp_path: Path) -> None:
    """A view into the batch would hold, and write to the file, every window of it."""
    pool = WindowPool(1, seed=0)
    pool.exchange(stamped(list(range(64)), 32))
    for tensor in (*pool.state_dict()["pixels"], *pool.state_dict()["masks"]):
        assert tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()


@pytest.mark.parametrize("later", ["pixels", "mask"])
def test_what_is_done_to_a_batch_later_does_not_reach_the_pool(later: str) -> None:
    pool, (window,) = WindowPool(1, seed=0), stamped([5], 6)
    pool.exchange([window])
    getattr(window, later)[:] = 9
    assert pool.state_dict()["pixels"][0].unique().tolist() == [5]
    assert torch.equal(pool.state_dict()["masks"][0][0], torch.from_numpy(mask_of(5, 6)).float())
