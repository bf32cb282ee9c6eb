"""Signals that end a program, and the few moments in which they have to wait."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ENDING = tuple(number for name in ("SIGINT", "SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
"""Those that a user or a system ends a program with, as far as this system knows them."""


@contextmanager
def signals_later() -> Iterator[None]:
    """A signal that ends the program waits until the block ends: what is renamed or removed in it is not left halfway.

    For moments only. Other threads than the main one get no signals, and nothing happens there.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        arrived.append(number)

    # A handler that Python did not set cannot be put back, and what is ignored stays ignored.
    before = {number: signal.getsignal(number) for number in ENDING}
    changed = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    try:
        for number in changed:
            signal.signal(number, note)
        yield
    finally:
        for number, handler in changed.items():
            signal.signal(number, handler)
        for number in dict.fromkeys(arrived):
            signal.raise_signal(number)
