"""Our random stream runs beside the host's, goes on from entry to entry, and survives a file."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from roi_progressive.runtime.rng import ForkedStream, RandomState

# A busy machine is no finding.
UNHURRIED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def draw() -> tuple[float, float, float, float, float]:
    """One number of every kind; the normal ones keep a second number back in Python and NumPy."""
    return (random.random(), random.gauss(0, 1), np.random.rand(), np.random.randn(), torch.rand(()).item())


def streams() -> tuple[object, ...]:
    kind, keys, position, has_gauss, gauss = np.random.get_state()
    return (
        random.getstate(),
        (kind, keys.tolist(), position, has_gauss, gauss),
        torch.get_rng_state().tolist(),
    )


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@UNHURRIED
@given(st.integers(0, 100), st.integers(0, 3))
def test_the_hosts_streams_stand_where_they_stood(seed: int, drawn: int) -> None:
    seed_all(seed)
    for _ in range(drawn):
        draw()
    stream = ForkedStream(seed)
    for _ in range(2):
        before = streams()
        with stream.active():
            draw()
            torch.nn.Linear(3, 3)
            seed_all(5)
        assert streams() == before


def test_the_hosts_streams_stand_where_they_stood_after_an_error() -> None:
    before = streams()
    with pytest.raises(KeyError), ForkedStream(0).active():
        draw()
        raise KeyError
    assert streams() == before


def test_the_stream_begins_at_its_seed_whatever_the_host_has_drawn() -> None:
    firsts = []
    for host_seed in (1, 2):
        seed_all(host_seed)
        with ForkedStream(7).active():
            firsts.append(draw())
    seed_all(7)
    assert firsts[0] == firsts[1] == draw()
    with ForkedStream(8).active():
        assert draw() != firsts[0]


def test_the_stream_goes_on_across_entries_as_if_there_were_one() -> None:
    one, many = ForkedStream(3), ForkedStream(3)
    with one.active():
        expected = [draw() for _ in range(6)]
    drawn = []
    for host_seed in range(6):
        seed_all(host_seed)
        with many.active():
            drawn.append(draw())
    assert drawn == expected
    assert len(set(drawn)) == 6


def test_a_seed_beyond_32_bits_is_legal() -> None:
    with ForkedStream(2**40 + 1).active():
        draw()


@pytest.mark.parametrize("entries", [0, 1, 3])
def test_a_stream_read_from_a_file_goes_on_where_it_was_left(tmp_path: Path, entries: int) -> None:
    stream = ForkedStream(11)
    for _ in range(entries):
        with stream.active():
            draw()
    torch.save(stream.state_dict(), tmp_path / "stream.pth")
    resumed = ForkedStream(0)
    resumed.load_state_dict(torch.load(tmp_path / "stream.pth", weights_only=True))
    for _ in range(3):
        with stream.active():
            expected = draw()
        with resumed.active():
            assert draw() == expected


@UNHURRIED
@given(st.integers(0, 1000), st.integers(0, 2))
def test_a_snapshot_restores_every_stream_also_through_plain_values(seed: int, drawn: int) -> None:
    seed_all(seed)
    for _ in range(drawn):
        draw()
    snapshot, before = RandomState.now(), streams()
    assert streams() == before, "taking a snapshot draws nothing"
    expected = [draw() for _ in range(2)]
    for copy in (snapshot, RandomState.from_plain(snapshot.to_plain())):
        seed_all(99)
        copy.restore()
        assert streams() == before
        assert [draw() for _ in range(2)] == expected


def test_a_snapshot_is_not_moved_by_what_is_drawn_later(tmp_path: Path) -> None:
    seed_all(0)
    snapshot = RandomState.now()
    torch.save(snapshot.to_plain(), tmp_path / "before.pth")
    expected = draw()
    torch.save(snapshot.to_plain(), tmp_path / "after.pth")
    for name in ("before.pth", "after.pth"):
        RandomState.from_plain(torch.load(tmp_path / name, weights_only=True)).restore()
        assert draw() == expected


def test_where_cuda_has_not_started_our_seed_does_not_wait_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`torch.manual_seed` leaves a seed for CUDA's start, and the last one left wins: the host's must stay the last."""
    seeded = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    with ForkedStream(5).active():
        draw()
    assert seeded == []


def test_where_cuda_runs_its_streams_are_forked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """CUDA is played by a dict of states, since no machine needs one to run the tests."""
    states = {0: torch.tensor([1], dtype=torch.uint8), 1: torch.tensor([2], dtype=torch.uint8)}
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [states[n].clone() for n in sorted(states)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: states.__setitem__(device, state))
    seed_every = torch.tensor([9], dtype=torch.uint8)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: states.update(dict.fromkeys(states, seed_every)))
    stream = ForkedStream(5)
    with stream.active():
        assert [states[n].item() for n in (0, 1)] == [9, 9]
        states[1] = torch.tensor([10], dtype=torch.uint8)
    assert [states[n].item() for n in (0, 1)] == [1, 2]
    with stream.active():
        assert [states[n].item() for n in (0, 1)] == [9, 10]
    saved = stream.state_dict()
    del states[1]  # and on a machine with fewer devices
    resumed = ForkedStream(0)
    resumed.load_state_dict(saved)
    with resumed.active():
        assert [state.item() for state in states.values()] == [9]
    assert [state.item() for state in states.values()] == [1]
