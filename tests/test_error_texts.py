"""What the errors of others have to say, made fit for one line."""

from __future__ import annotations

import pytest

from roi_progressive.errors import add_note, first_line, kind_and_line, one_line, system_reason


def test_a_note_joins_those_that_are_there() -> None:
    error = ValueError("no")
    for note in ("first", "second"):
        add_note(error, note)
    assert error.__notes__ == ["first", "second"]


@pytest.mark.parametrize(
    ("text", "first", "whole"),
    [("a", "a", "a"), ("", "", ""), ("\n a\n  b\n", "a", "a b"), ("a  b\tc", "a  b\tc", "a b c")],
)
def test_a_text_of_many_lines(text: str, first: str, whole: str) -> None:
    error = ValueError(text)
    assert first_line(error) == first
    assert one_line(error) == whole
    assert kind_and_line(error) == (f"ValueError: {first}" if first else "ValueError")


def test_the_system_s_reason_is_that_of_the_failed_call_and_not_of_what_followed() -> None:
    """torch's writer, closed after a write that failed, raises on top of it."""
    with pytest.raises(RuntimeError) as caught:
        try:
            raise OSError(28, "No space left on device")
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    assert system_reason(caught.value) == "No space left on device"


def test_without_a_system_s_error_the_text_is_the_reason() -> None:
    assert system_reason(RuntimeError("a\nb")) == "a"
    assert system_reason(OSError("disk full")) == "disk full"
