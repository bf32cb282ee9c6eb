"""One plugin manager a session: the defaults, what entry points offer, what the user gave."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
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
        PluginError: A plugin cannot be loaded, is given twice, implements no hook, or one that does not exist.
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
                f"a plugin of entry-point group `{hookspecs.PROJECT}` cannot be loaded: {_one_line(error)}; "
                f"repair or uninstall it"
            ) from error
        for plugin in given:
            self._register(plugin)
            if not self._manager.get_hookcallers(plugin):
                raise PluginError(
                    f"`plugins` holds {self._manager.get_name(plugin)!r}, which implements no hook; "
                    f"mark its functions with @roi_progressive.hookimpl"
                )
        try:
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            known = sorted(name for name in vars(hookspecs) if name.startswith("roi_"))
            raise PluginError(f"{_one_line(error)}; known hooks: {', '.join(known)}") from error

    def _register(self, plugin: Any) -> None:
        try:
            self._manager.register(plugin, name=self._name_for(plugin))
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"`plugins` holds one that cannot be registered: {_one_line(error)}") from error

    def _name_for(self, plugin: Any) -> str:
        """A module's name, or a class's; pluggy would number nameless objects by their address."""
        base = getattr(plugin, "__name__", None) or f"{type(plugin).__module__}.{type(plugin).__qualname__}"
        if not self._manager.has_plugin(base) or self._manager.get_plugin(base) is plugin:
            return str(base)
        return next(name for n in itertools.count(2) if not self._manager.has_plugin(name := f"{base} ({n})"))

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
            PluginError: Two plugins gave the same name, or one gave something else than a mapping.
        """
        together: dict[str, Any] = {}
        for result in self.call(hook, **arguments):
            if not isinstance(result, Mapping):
                raise PluginError(
                    f"`{hook}` must return a mapping of names to values, or None; got {type(result).__name__} from one "
                    f"of {', '.join(self.names(hook))}; return a dict"
                )
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
        running = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        for implementation in caller.get_hookimpls():
            if any(_runs(frame, implementation.function) for frame in running):
                note = f"raised in plugin {implementation.plugin_name!r}, hook {caller.name}"
                # `add_note` came with Python 3.11; this is what it does.
                error.__notes__ = [*getattr(error, "__notes__", []), note]
        raise


def _runs(frame: FrameType, function: Any) -> bool:
    if frame.f_code is not getattr(function, "__code__", None):
        return False
    owner = getattr(function, "__self__", None)
    # Two instances of one class share their code; the frame's first argument tells them apart.
    return owner is None or frame.f_locals.get(frame.f_code.co_varnames[0]) is owner


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
