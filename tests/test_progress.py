"""The progress bar: when it appears, what it says, and that a mistake found early stays alone."""

from __future__ import annotations

import sys
import time

import pytest

from roi_progressive.cli.progress import ProgressBar

LONG_S = 600.0


def test_it_appears_with_the_first_report_and_says_what_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("figure", "device: cpu") as bar:
        assert not bar.started and capsys.readouterr() == ("", "")
        bar.step(0, 10, "reading")
        shown = capsys.readouterr()
        assert bar.started and shown.out == "device: cpu\n" and "figure:   0%" in shown.err and "reading" in shown.err


def test_with_a_delay_it_appears_although_nothing_more_is_reported(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("check", "device: cpu", delay_s=0.05) as bar:
        bar.step(0, 5, "the masks")
        assert capsys.readouterr() == ("", "") and bar.started
        shown, deadline = "", time.monotonic() + LONG_S
        while "the masks" not in shown and time.monotonic() < deadline:
            time.sleep(0.02)
            shown += capsys.readouterr().err
        assert "check:   0%" in shown


def test_with_a_delay_a_mistake_found_before_stays_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="a mistake"), ProgressBar("figure", "device: cpu", delay_s=LONG_S) as bar:
        bar.step(1, 10, "reading")
        raise ValueError("a mistake")
    assert capsys.readouterr() == ("", "")


def test_what_ends_before_the_delay_is_shown_done(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("figure", "device: cpu", delay_s=LONG_S) as bar:
        bar.step(10, 10, "drawn")
    shown = capsys.readouterr()
    assert shown.out == "device: cpu\n" and "100%" in shown.err
    with ProgressBar("figure", "device: cpu", delay_s=LONG_S):
        pass
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_appears_although_nothing_was_reported_yet(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar("figure", delay_s=0.05) as bar:
        shown, deadline = "", time.monotonic() + LONG_S
        while "starting" not in shown and time.monotonic() < deadline:
            time.sleep(0.02)
            shown += capsys.readouterr().err
        assert "figure:   0%" in shown and not bar.started
        bar.first_line = "device: cpu"
        bar.step(5, 10, "reading")
    shown_last = capsys.readouterr()
    assert shown_last.out == "device: cpu\n" and " 50%|" in shown_last.err


def test_parts_fill_their_share_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("evaluate") as bar:
        bar.part(0.0, 0.9)(5, 10, "scoring")
        assert " 45%|" in capsys.readouterr().err
        bar.part(0.9, 1.0)(2, 2, "intervals")
    assert "100%|" in capsys.readouterr().err
