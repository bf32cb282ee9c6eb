"""The error tree: one base, each kind also a builtin that callers already catch; and errors of others in one line."""

from __future__ import annotations

import inspect
import pickle

import pytest

from roi_progressive import errors
from roi_progressive.errors import add_note, first_line, kind_and_line, one_line, system_reason

KINDS = {
    "ConfigError": ValueError,
    "ShapeError": ValueError,
    "MaskError": ValueError,
    "DataError": ValueError,
    "HostNotSupportedError": TypeError,
    "CheckpointError": RuntimeError,
    "DivergenceError": ArithmeticError,
    "PluginError": RuntimeError,
}


def _defined() -> dict[str, type[BaseException]]:
    classes = {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}
    ours = {name: kind for name, kind in classes.items() if kind.__module__ == errors.__name__}
    del ours["UnreadableError"]  # what a parser could not take; whoever knows the file makes one of the others of it
    return ours


def test_the_tree_holds_exactly_the_documented_errors() -> None:
    assert set(_defined()) == {"RoiProgressiveError", *KINDS}


def test_the_base_is_an_ordinary_exception_and_no_builtin_kind() -> None:
    assert errors.RoiProgressiveError.__bases__ == (Exception,)


@pytest.mark.parametrize(("name", "builtin"), KINDS.items())
def test_every_error_is_caught_by_the_base_and_by_its_builtin_kind(name: str, builtin: type[Exception]) -> None:
    for caught in (errors.RoiProgressiveError, builtin):
        with pytest.raises(caught, match="`scales` must be 3"):
            raise _defined()[name]("`scales` must be 3")


@pytest.mark.parametrize("name", KINDS)
def test_no_error_is_mistaken_for_a_sibling(name: str) -> None:
    kind = _defined()[name]
    relatives = [other for other in KINDS if issubclass(kind, _defined()[other])]
    assert relatives == [name]


@pytest.mark.parametrize("name", ["RoiProgressiveError", *KINDS])
def test_an_error_crosses_a_process_boundary_unchanged(name: str) -> None:
    """Loader workers send their exceptions by pickle, and rebuild them from the message alone."""
    error = _defined()[name]("`mask` is missing")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error) == "`mask` is missing"
    assert str(type(error)("again: " + str(error))) == "again: `mask` is missing"


@pytest.mark.parametrize("name", ["RoiProgressiveError", *KINDS])
def test_every_error_says_when_it_is_raised(name: str) -> None:
    assert (_defined()[name].__doc__ or "").rstrip().endswith(".")


# -- what errors of others have to say, made fit for one line ----------------------------------------------------------


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
