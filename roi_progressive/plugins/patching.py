"""Reversible patches: everything a session changes on a host is written down and undone (promise 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Patches:
    """Attribute changes on foreign objects, undone in reverse order by ``undo``.

    Values are written to and read from the object's own ``__dict__``: a class attribute that was shadowed
    shows again, and objects that guard ``__setattr__`` (``DataLoader.dataset``) can be patched too.
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Give ``owner`` an attribute of its own until ``undo``."""
        own = vars(owner)
        had, before = name in own, own.get(name)
        own[name] = value  # first, so that an owner that cannot be patched leaves nothing to undo
        self._undo.append((lambda: own.__setitem__(name, before)) if had else (lambda: own.pop(name, None)))

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace a method by ``around(original, *args, **kwargs)`` until ``undo``."""
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        wrapped.__name__ = name
        wrapped.__doc__ = original.__doc__
        self.set(owner, name, wrapped)

    def on_undo(self, action: Callable[[], None]) -> None:
        """Have ``undo`` do one thing more, e.g. remove a hook handle."""
        self._undo.append(action)

    def undo(self) -> None:
        """Undo everything, latest first; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
