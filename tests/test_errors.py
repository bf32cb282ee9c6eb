"""The error tree: one base, each kind also a builtin that callers already catch."""

from __future__ import annotations

import inspect
import pickle

import pytest

from roi_progressive import errors

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
    return {name: kind for name, kind in vars(errors).items() if inspect.isclass(kind)}


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
