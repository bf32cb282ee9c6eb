"""Every error this package raises on purpose, in one tree.

A message is one line: the argument in backticks, what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

_Parsed = TypeVar("_Parsed")


class RoiProgressiveError(Exception):
    """Base of all errors raised on purpose; the command line prints it and exits with status 2."""


class ConfigError(RoiProgressiveError, ValueError):
    """A configuration key, type, range or combination is wrong."""


class ShapeError(RoiProgressiveError, ValueError):
    """A tensor or array has the wrong shape, data type or value range."""


class MaskError(RoiProgressiveError, ValueError):
    """A region mask is missing, unreadable, or of another size than its image."""


class DataError(RoiProgressiveError, ValueError):
    """A file, folder, manifest or data set cannot be used as it is."""


class HostNotSupportedError(RoiProgressiveError, TypeError):
    """No adapter understands the host object given to ``attach``."""


class CheckpointError(RoiProgressiveError, RuntimeError):
    """A checkpoint is missing, damaged, of another format or of another configuration."""


class DivergenceError(RoiProgressiveError, ArithmeticError):
    """Step after step, the numbers of the training are infinite or NaN."""


class PluginError(RoiProgressiveError, RuntimeError):
    """A plugin is misspelled, clashes with another, or returned what its hook does not allow."""


# -- what anybody may have written -------------------------------------------------------------------------------------


class UnreadableError(ValueError):
    """A parser could not take some content; whoever knows the file makes an error of ours of it.

    Attributes:
        line: What the parser said, without the kind of its error, in one line.
    """

    def __init__(self, text: str, line: str = "") -> None:
        super().__init__(text)
        self.line = line or text


def parsed(parse: Callable[..., _Parsed], *arguments: Any, **options: Any) -> _Parsed:
    """What a parser of others makes of content that anybody may have written.

    Parsers fail in more ways than they document: at the limit of recursion or memory, in arithmetic, in the libraries
    below them. Each way is a fault of the content, so every kind of error is caught, but around this one call alone;
    what runs in it is the parser, and not code of ours whose mistakes would be hidden.

    Raises:
        UnreadableError: The parser failed.

    Example:
        >>> import json
        >>> parsed(json.loads, "[1, 2]")
        [1, 2]
        >>> parsed(json.loads, "[1; 2]")
        Traceback (most recent call last):
            ...
        roi_progressive.errors.UnreadableError: JSONDecodeError: Expecting ',' delimiter: line 1 column 3 (char 2)
    """
    try:
        return parse(*arguments, **options)
    except RoiProgressiveError:  # said already what is wrong, in one line
        raise
    except Exception as error:  # of a file of others a parser may raise anything; ours to say is that it is unreadable
        raise UnreadableError(kind_and_line(error), first_line(error) or type(error).__name__) from error


# -- what errors of others have to say, for the one line in which ours tell it -----------------------------------------


def add_note(error: BaseException, note: str) -> None:
    """Add a note to an error, as ``add_note`` does, which came with Python 3.11."""
    error.__notes__ = [*getattr(error, "__notes__", []), note]


def first_line(error: BaseException) -> str:
    """The first line of an error's text: the rest is advice, a trace or a list."""
    return str(error).strip().partition("\n")[0]


def kind_and_line(error: BaseException) -> str:
    """The kind of an error and its first line, where there is one."""
    return ": ".join(part for part in (type(error).__name__, first_line(error)) if part)


def one_line(error: BaseException) -> str:
    """All of an error's text in one line."""
    return " ".join(str(error).split())


def system_reason(error: BaseException) -> str:
    """What the system said; torch's writer, closed after a failed write, complains of itself on top of it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return (isinstance(cause, OSError) and cause.strerror) or first_line(error)
