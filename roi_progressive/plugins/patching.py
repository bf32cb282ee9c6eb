"""Reversible patches: what a session changes on a host is written down and undone ("Detach leaves no trace")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Patches:
    """Changes of attributes of other people's objects, undone in reverse order by ``undo``.

    Values are written to and read from the object's own ``__dict__``: a class attribute that was shadowed
    shows again, and objects that guard ``__setattr__`` (``DataLoader.dataset``) can be patched too.

    Example:
        >>> from types import SimpleNamespace
        >>> from roi_progressive import Patches
        >>> trainer, patches = SimpleNamespace(step=lambda batch: batch + 1), Patches()
        >>> patches.wrap(trainer, "step", lambda original, batch: 10 * original(batch))
        >>> trainer.step(1)
        20
        >>> patches.undo()
        >>> trainer.step(1)
        2
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    def set(self, owner: Any, name: str, value: Any) -> None:
        """Give an object an attribute of its own until ``undo``.

        Args:
            owner: Any object with a ``__dict__``, a module or a class included.
            name: The attribute's name.
            value: What it shall be.
        """
        own = vars(owner)
        had, before = name in own, own.get(name)
        own[name] = value  # first, so that an owner that cannot be patched leaves nothing to undo
        self._undo.append((lambda: own.__setitem__(name, before)) if had else (lambda: own.pop(name, None)))

    def wrap(self, owner: Any, name: str, around: Callable[..., Any]) -> None:
        """Replace a method until ``undo``.

        Args:
            owner: The object whose method it is.
            name: The method's name.
            around: Called in its place as ``around(original, *args, **kwargs)``; what it returns is returned.
        """
        original = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return around(original, *args, **kwargs)

        wrapped.__name__ = name
        wrapped.__doc__ = original.__doc__
        self.set(owner, name, wrapped)

    def on_undo(self, action: Callable[[], None]) -> None:
        """Have ``undo`` do one thing more, such as removing a hook's handle."""
        self._undo.append(action)

    def undo(self) -> None:
        """Undo everything, latest first; a second call does nothing."""
        while self._undo:
            self._undo.pop()()
