"""The command line's progress bar: what is being done, and the time left."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from ..saving.plain_text import printable

_FORM = "{desc}: {percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} left {postfix}"


class ProgressBar:
    """A bar on standard error that appears with the first report; a context manager that closes it.

    Args:
        title: Stands before the bar.
        first_line: Printed on standard output when the first report comes, so that a mistake found before stays alone.
    """

    def __init__(self, title: str, first_line: str = "") -> None:
        self._title = title
        self._first_line = first_line
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    @property
    def started(self) -> bool:
        """Whether anything was reported."""
        return self._bar is not None

    def share(self, share: float, text: str) -> None:
        """Report a share done, 0 to 1, and what is being done."""
        self.step(round(1000 * share), 1000, text)

    def part(self, start: float, end: float) -> Callable[[int, int, str], None]:
        """A report of steps done, steps in all, and what is being done, that fills a part of the bar.

        Args:
            start: The share of the bar, 0 to 1, where the part begins.
            end: Where it ends.
        """

        def step(done: int, total: int, text: str) -> None:
            self.share(start + (end - start) * done / max(total, 1), text)

        return step

    def step(self, done: int, total: int, text: str) -> None:
        """Report steps done, steps in all, and what is being done."""
        if self._bar is None:
            from tqdm import tqdm

            if self._first_line:
                print(self._first_line, flush=True)
            # A log file gets a line every ten seconds; a resumed run's time left counts from where it goes on.
            every_s = 0.3 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(
                total=total,
                initial=max(0, done - 1),
                desc=self._title,
                bar_format=_FORM,
                mininterval=every_s,
                maxinterval=every_s,
            )
        self._bar.set_postfix_str(printable(text), refresh=False)
        self._bar.update(done - self._bar.n)
