"""One plugin manager a session: the defaults, what entry points offer, what the user gave."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pluggy

from . import hookspecs
from .errors import PluginError


class Plugins:
    """Calls hooks; an error inside a plugin keeps its type and gets a note that names plugin and hook.

    Args:
        given: Modules or objects with ``hookimpl`` functions, asked before all others.
        defaults: The package's own implementations, asked last.

    Raises:
        PluginError: A plugin cannot be loaded, or implements a hook that does not exist.
    """

    def __init__(self, given: Iterable[Any] = (), defaults: Iterable[Any] = ()) -> None:
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for plugin in defaults:
            self._register(plugin)
        try:
            self._manager.load_setuptools_entrypoints(hookspecs.PROJECT)
        except Exception as error:
            raise PluginError(
                f"a plugin of entry-point group `{hookspecs.PROJECT}` cannot be loaded: {error}"
            ) from error
        for plugin in given:
            self._register(plugin)
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            known = sorted(name for name in vars(hookspecs) if name.startswith("roi_"))
            raise PluginError(f"{_one_line(error)}; known hooks: {', '.join(known)}") from error

    def _register(self, plugin: Any) -> None:
        try:
            self._manager.register(plugin)
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"`plugins` holds one that cannot be registered: {_one_line(error)}") from error

    def names(self, hook: str) -> list[str]:
        """The plugins that implement a hook, in the order in which they are asked."""
        return [impl.plugin_name for impl in reversed(self._caller(hook).get_hookimpls())]

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook: its first result, or the list of all results that are not ``None``."""
        caller = self._caller(hook)
        with _naming_the_plugin(caller):
            return caller(**arguments)

    def merged(self, hook: str, **arguments: Any) -> dict[str, Any]:
        """Call a hook that returns mappings and join them.

        Raises:
            PluginError: Two plugins gave the same name.
        """
        together: dict[str, Any] = {}
        for result in self.call(hook, **arguments):
            for name, value in result.items():
                if name in together:
                    raise PluginError(f"`{hook}`: two plugins return {name!r}; rename one")
                together[name] = value
        return together

    def _caller(self, hook: str) -> pluggy.HookCaller:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return caller


@contextmanager
def _naming_the_plugin(caller: pluggy.HookCaller) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        running = {frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)}
        for implementation in caller.get_hookimpls():
            if getattr(implementation.function, "__code__", None) in running:
                note = f"raised in plugin {implementation.plugin_name!r}, hook {caller.name}"
                # `add_note` came with Python 3.11; this is what it does.
                error.__notes__ = [*getattr(error, "__notes__", []), note]
        raise


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
