"""Standard output and standard error that outlive their readers, and signals that end a command in order."""

from __future__ import annotations

import _thread
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from ..saving.signals import ENDING

_A_MOMENT_S = 0.02
"""After which a signal comes again that came where Python drops what is raised."""


class EnduringStream:
    """A stream that nobody need read: once it is gone, what is written to it is lost and the work goes on.

    Args:
        stream: ``sys.stdout`` or ``sys.stderr``; ``None`` where the program was started without it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._is_gone = stream is None
        if hasattr(stream, "reconfigure"):  # tables hold arrows that an ASCII terminal cannot print
            with suppress(OSError, ValueError):
                stream.reconfigure(errors="replace")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what can be written."""
        if not self._is_gone:
            try:
                self._stream.write(text)
            except (OSError, ValueError):  # a pipe or a terminal that is gone, or a closed stream
                self._give_up()
        return len(text)

    def flush(self) -> None:
        """Bring it to the reader."""
        if not self._is_gone:
            try:
                self._stream.flush()
            except (OSError, ValueError):
                self._give_up()

    def isatty(self) -> bool:
        """Whether somebody looks at it."""
        with suppress(OSError, ValueError):
            return not self._is_gone and bool(self._stream.isatty())
        return False

    def _give_up(self) -> None:
        """Python flushes the stream once more at its end, and would fail there."""
        self._is_gone = True
        with suppress(OSError, ValueError, AttributeError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)


@contextmanager
def enduring_streams() -> Iterator[None]:
    """In the block, ``sys.stdout`` and ``sys.stderr`` outlive their readers."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (EnduringStream(stream) for stream in before)
    try:
        yield
        sys.stdout.flush()
    finally:
        sys.stdout, sys.stderr = before


_of_commands: list[list[int]] = []
"""The signals that came, of the command that is running; of several, one in another, the last."""


def _was_signalled() -> bool:
    return bool(_of_commands and _of_commands[-1])


@contextmanager
def interrupted(how_to_go_on: Callable[[], str] | None = None) -> Iterator[None]:
    """In the block, a signal ends the command as what it is, also where a library made an error of its own of it.

    A signal that comes while C code calls Python, as where a module is begun or a file written, comes out of it as an
    ``ImportError`` or a ``RuntimeError``.

    Args:
        how_to_go_on: What the user is told with it.
    """
    try:
        yield
    except KeyboardInterrupt:
        if how_to_go_on is None:
            raise
        raise KeyboardInterrupt(how_to_go_on()) from None
    except Exception:  # what a library made of the signal may be of any kind; without one it is raised as it is
        if not _was_signalled():
            raise
        raise KeyboardInterrupt(*([] if how_to_go_on is None else [how_to_go_on()])) from None


def end_if_signalled() -> None:
    """End a command that goes on although its signal came: somebody caught what it had raised."""
    if _was_signalled() and threading.current_thread() is threading.main_thread():
        raise KeyboardInterrupt


@contextmanager
def ended_by_signals() -> Iterator[list[int]]:
    """In the block, whatever signal ends a program does so by a ``KeyboardInterrupt``, as Ctrl-C does.

    So everything that is to be put away is. What was ignored when the program began, as under ``nohup``, stays ignored.
    A signal that comes while something is finalized (``__del__``, a callback of a weak reference) comes once more a
    moment later: Python drops what is raised there.

    Yields:
        The signals that came.
    """
    arrived: list[int] = []
    again: list[threading.Timer] = []
    _of_commands.append(arrived)

    def end(number: int, frame: FrameType | None) -> None:
        arrived.append(number)
        raise KeyboardInterrupt

    def dropped(what: sys.UnraisableHookArgs) -> None:
        if not arrived or not issubclass(what.exc_type, KeyboardInterrupt):
            report_dropped(what)
            return
        again.append(threading.Timer(_A_MOMENT_S, _thread.interrupt_main, (arrived[-1],)))
        again[-1].daemon = True
        again[-1].start()

    before: dict[int, Any] = {}
    report_dropped, sys.unraisablehook = sys.unraisablehook, dropped
    try:
        for number in ENDING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                with suppress(ValueError):  # not the main thread: it gets no signals
                    before[number] = signal.signal(number, end)
        yield arrived
    finally:
        _of_commands.remove(arrived)
        for timer in again:
            timer.cancel()
        sys.unraisablehook = report_dropped
        for number, handler in before.items():
            signal.signal(number, handler)
