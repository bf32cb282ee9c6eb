"""A training that is stopped at a step of its own report, for the tests of what goes on from there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

Report = Callable[[int, int, str], None]


class StopError(Exception):
    """What stops it, and nothing else raises."""


@contextmanager
def stopped(when: Callable[[int, int, str], bool]) -> Iterator[Report]:
    """The report that stops the training in the block once ``when(done, total, text)`` holds; it must come to that."""

    def report(done: int, total: int, text: str) -> None:
        if when(done, total, text):
            raise StopError

    with pytest.raises(StopError):
        yield report
