"""Steps of several parts of a job, counted together for one report."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from .train import Report

T = TypeVar("T")


class Steps:
    """Counts what is done, and reports it; without a report it does nothing.

    Args:
        report: Called with steps done, steps in all, and what is being done.
        total: Steps of all parts.
    """

    def __init__(self, report: Report | None, total: int) -> None:
        self._report = report
        self._total = total
        self.done = 0

    def after_each(self, items: Iterable[T], text: str) -> Iterator[T]:
        """The items; what is done with each is a step, of which ``text`` says what it is."""
        for item in items:
            self.following(0, 0, text)
            yield item
            self.done += 1

    def following(self, done: int, total: int, text: str) -> None:
        """The report of a part that counts its own steps, ``done`` of ``total``, after those done before."""
        if self._report is not None:
            self._report(self.done + done, self._total, text)
