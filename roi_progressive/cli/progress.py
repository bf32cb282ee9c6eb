"""The command line's progress bar: what is being done, and the time left."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Any

from ..saving.plain_text import printable
from .streams import end_if_signalled

_FORM = "{desc}: {percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} left {postfix}"


class ProgressBar:
    """A bar on standard error that appears with the first report; a context manager that closes it.

    Args:
        title: Stands before the bar.
        first_line: Printed on standard output with the first report that is shown; it may be set before that.
        delay_s: How long after the first report the bar appears, whether another one came or not; on a terminal, how
            long after the block was entered, which may import for seconds. For commands that find mistakes while they
            report already: what is found earlier stays alone.
    """

    def __init__(self, title: str, first_line: str = "", delay_s: float = 0.0) -> None:
        self._title = title
        self.first_line = first_line
        self._delay_s = delay_s
        self._bar: Any = None
        self._last: tuple[int, int, str] | None = None
        self._timer: threading.Timer | None = None
        self._lock = threading.Lock()  # the timer has a thread of its own
        self._is_closed = False

    def __enter__(self) -> ProgressBar:
        if self._delay_s > 0 and sys.stderr.isatty():
            self._show_later()
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._is_closed = True
            if self._last is not None and kind is None:
                self._show()
            if self._bar is not None:
                self._bar.close()

    @property
    def started(self) -> bool:
        """Whether anything was reported."""
        return self._last is not None

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
        end_if_signalled()
        with self._lock:
            self._last = (done, total, text)
            if self._bar is not None or self._delay_s <= 0:
                self._show()
            elif self._timer is None:
                self._show_later()

    def _show_later(self) -> None:
        self._timer = threading.Timer(self._delay_s, self._show_now)
        self._timer.daemon = True
        self._timer.start()

    def _show_now(self) -> None:
        with self._lock:
            if not self._is_closed:
                self._show()

    def _show(self) -> None:
        """Show what was reported last, or, where nothing was yet, that the work begins."""
        done, total, text = self._last or (0, 1, "starting")
        if self._last is not None and self.first_line:
            if self._bar is not None:
                self._bar.clear()
            print(self.first_line, flush=True)
            self.first_line = ""
        if self._bar is None:
            from tqdm import tqdm

            # A log file gets a line every ten seconds; a resumed run's time left counts from where it goes on.
            every_s = 0.3 if sys.stderr.isatty() else 10.0
            self._bar = tqdm(
                total=total,
                initial=max(0, done - 1),
                desc=self._title,
                bar_format=_FORM,
                postfix=printable(text),
                mininterval=every_s,
                maxinterval=every_s,
            )
        self._bar.total = total
        self._bar.set_postfix_str(printable(text), refresh=False)
        self._bar.update(done - self._bar.n)
