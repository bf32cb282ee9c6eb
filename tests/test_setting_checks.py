"""Checks of single settings: what passes, and messages of one line that name the setting and the way out."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roi_progressive import setting_checks as check
from roi_progressive.errors import ConfigError


@dataclasses.dataclass
class Section:
    """Settings of nobody."""

    colour: str = "grey"
    weight: float = 1.0


def _refusal(function: Any, *arguments: Any, **bounds: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        function(*arguments, **bounds)
    return str(caught.value)


def test_known_keys_pass_and_the_nearest_one_is_named_for_another() -> None:
    check.keys(Section, "paint", {"colour": 1, "weight": 2})
    message = _refusal(check.keys, Section, "paint", {"color": 1})
    assert message == "`paint.color` is not a setting; did you mean `colour`?"


def test_a_key_like_no_other_is_answered_with_all_known_ones() -> None:
    assert _refusal(check.keys, Section, "", {"zzz": 1}) == "`zzz` is not a setting; known keys: colour, weight"


@given(st.one_of(st.text(), st.integers(), st.none(), st.tuples(st.text())))
def test_any_unknown_key_gives_one_line(key: Any) -> None:
    if key not in {setting.name for setting in dataclasses.fields(Section)}:
        message = _refusal(check.keys, Section, "", {key: 1})
        assert len(message.splitlines()) == 1
        assert "is not a setting" in message


def test_a_misspelled_choice_is_answered_with_the_nearest_one() -> None:
    check.choice("paint", "colour", "grey", ("grey", "black"))
    message = _refusal(check.choice, "paint", "colour", "gray", ("grey", "black"))
    assert message == "`paint.colour` must be one of grey, black; got 'gray'; did you mean 'grey'?"
    assert "did you mean" not in _refusal(check.choice, "paint", "colour", "crimson", ("grey", "black"))


@pytest.mark.parametrize(
    ("high", "said"), [(None, "of at least 1"), (6, "between 1 and 6")], ids=["no upper bound", "both bounds"]
)
def test_bounds_belong_to_the_range_and_are_said(high: int | None, said: str) -> None:
    check.whole("", "scales", 1, low=1, high=high)
    check.number("", "weight", 1.0, low=1, high=high)
    assert _refusal(check.whole, "", "scales", 0, low=1, high=high) == f"`scales` must be a whole number {said}; got 0"
    assert _refusal(check.number, "a", "b", 0.5, low=1, high=high) == f"`a.b` must be a number {said}; got 0.5"
    if high is not None:
        check.whole("", "scales", high, low=1, high=high)
        _refusal(check.whole, "", "scales", high + 1, low=1, high=high)
