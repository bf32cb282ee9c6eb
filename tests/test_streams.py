"""A command outlives the readers of its output, and signals end it in order."""

from __future__ import annotations

import contextlib
import io
import os
import signal
import sys
import time
import weakref
from collections.abc import Callable

import pytest

from roi_progressive.cli.main import main
from roi_progressive.cli.progress import ProgressBar
from roi_progressive.cli.streams import EnduringStream, ended_by_signals, enduring_streams, interrupted


def vanished() -> io.TextIOWrapper:
    """A stream whose reader has gone away."""
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1, encoding="utf-8")


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize("make", [vanished, closed, lambda: None])
def test_a_progress_bar_and_lines_go_nowhere_where_nobody_reads(make, monkeypatch) -> None:
    monkeypatch.setattr(sys, "stderr", make())
    monkeypatch.setattr(sys, "stdout", make())
    with enduring_streams():
        with ProgressBar("train", "device: cpu") as bar:
            for step in range(1, 4):
                bar.step(step, 3, "p07 \x1b[2J")
        print("done")
        print("error", file=sys.stderr, flush=True)
        assert not sys.stderr.isatty()


def test_what_is_read_is_written() -> None:
    stream = io.StringIO()
    print("a table", file=EnduringStream(stream))
    assert stream.getvalue() == "a table\n"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_ends_the_block_by_an_interrupt_and_is_known(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with ended_by_signals() as arrived:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert arrived == [number]
    assert signal.getsignal(number) is before


def test_what_is_ignored_stays_ignored() -> None:
    """As under ``nohup``."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with ended_by_signals() as arrived:
            os.kill(os.getpid(), signal.SIGHUP)
        assert arrived == []
    finally:
        signal.signal(signal.SIGHUP, before)


class _Finalized:
    """Sends a signal while it is finalized, where Python drops what is raised."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __del__(self) -> None:
        signal.raise_signal(self._number)


def _drop_finalized(number: int) -> None:
    _Finalized(number)


def _drop_key_of_weak_dictionary(number: int) -> None:
    key = type("Key", (), {})()
    kept = weakref.ref(key, lambda _: signal.raise_signal(number))
    del key
    assert kept() is None


@pytest.mark.parametrize("drop", [_drop_finalized, _drop_key_of_weak_dictionary])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_while_something_is_finalized_ends_the_command_a_moment_later(
    drop: Callable[[int], None], number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    hook, handler = sys.unraisablehook, signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt), ended_by_signals() as arrived:
        drop(number)
        for _ in range(1000):
            time.sleep(0.01)
    assert set(arrived) == {number} and len(arrived) == 2
    assert sys.unraisablehook is hook and signal.getsignal(number) is handler
    assert capsys.readouterr().err == "", "no traceback of what was dropped"


def test_other_errors_in_finalizers_are_reported_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda what: reported.append(what.exc_type))

    class Broken:
        def __del__(self) -> None:
            raise ValueError("broken")

    with ended_by_signals():
        Broken()
    assert reported == [ValueError]


def _as_c_code_does(number: int) -> None:
    """A signal that comes while C code calls Python comes out of it as an error of a library's own."""
    try:
        signal.raise_signal(number)
    except KeyboardInterrupt as interrupt:
        raise ImportError("initialization failed") from interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_a_library_made_an_error_of_is_a_signal(number: int) -> None:
    told = pytest.raises(KeyboardInterrupt, match="the same again")
    with ended_by_signals() as arrived, told, interrupted(lambda: "the same again"):
        _as_c_code_does(number)
    assert arrived == [number]
    with ended_by_signals(), pytest.raises(ImportError), interrupted(lambda: "the same again"):
        raise ImportError("no signal came")


def test_a_command_whose_signal_was_caught_ends_at_its_next_report() -> None:
    with ended_by_signals(), pytest.raises(KeyboardInterrupt), ProgressBar("train") as bar:
        bar.step(1, 9, "p01")
        with contextlib.suppress(ImportError):
            _as_c_code_does(signal.SIGTERM)
        bar.step(2, 9, "p02")
    bar = ProgressBar("train")
    with bar:
        bar.step(1, 9, "another command")


def test_a_command_says_how_to_go_on_whatever_the_signal_came_out_as(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("roi_progressive.data.prepare.prepare", lambda *given, **named: _as_c_code_does(signal.SIGTERM))
    assert main(["prepare", "list.csv", "out"]) == 128 + signal.SIGTERM
    said = capsys.readouterr().err
    assert "interrupted; the same command again goes on where it stopped" in said and "Traceback" not in said
