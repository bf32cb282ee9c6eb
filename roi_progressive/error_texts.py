"""What errors of others have to say, for the one line in which ours tell it."""

from __future__ import annotations


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
