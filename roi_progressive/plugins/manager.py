"""One plugin manager a session: the defaults, what entry points offer, what the user gave."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

import pluggy

from ..errors import PluginError, add_note, one_line
from . import hookspecs
from .answer_checks import check_answer

_FIRST_RESULT = frozenset({"roi_adapter", "roi_discriminator", "roi_masks", "roi_stages"})
"""The hooks of ``hookspecs`` with ``firstresult``."""


class Plugins:
    """Calls hooks; an error inside a plugin keeps its type and gets a note that names plugin and hook.

    Args:
        given: Modules or objects with ``hookimpl`` functions, asked before all others.
        defaults: The package's own implementations, asked last.

    Raises:
        PluginError: A plugin cannot be loaded, is given twice, implements no hook, or one that does not exist.
    """

    def __init__(self, given: Iterable[Any] = (), defaults: Iterable[Any] = ()) -> None:
        self._alone: dict[str, list[tuple[str, pluggy.HookCaller]]] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for plugin in defaults:
            self._register(plugin)
        try:
            self._manager.load_setuptools_entrypoints(hookspecs.PROJECT)
        except Exception as error:
            raise PluginError(
                f"a plugin of entry-point group `{hookspecs.PROJECT}` cannot be loaded: {one_line(error)}; "
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
            raise PluginError(f"{one_line(error)}; known hooks: {', '.join(known)}") from error

    def _register(self, plugin: Any) -> None:
        try:
            self._manager.register(plugin, name=self._name_for(plugin))
        except (ValueError, pluggy.PluginValidationError) as error:
            raise PluginError(f"`plugins` holds one that cannot be registered: {one_line(error)}") from error

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
        """Call a hook: its first result, or the list of all results that are not ``None``.

        Raises:
            PluginError: A plugin returned what the hook does not allow.
        """
        if hook in _FIRST_RESULT:
            return self.first(hook, **arguments)[1]
        return [answer for _, answer in self._answers(hook, arguments)]

    def first(self, hook: str, **arguments: Any) -> tuple[str | None, Any]:
        """Call a hook of which the first result counts: the plugin that gave it, and the result; else two ``None``.

        Raises:
            PluginError: A plugin returned what the hook does not allow.
        """
        return next(self._answers(hook, arguments), (None, None))

    def merged(self, hook: str, taken: Collection[str] = (), **arguments: Any) -> dict[str, Any]:
        """Call a hook that returns mappings and join them.

        Args:
            hook: Its name.
            taken: Names that no plugin may use.
            **arguments: The hook's.

        Raises:
            PluginError: A plugin gave a name that is taken, by another plugin or otherwise, or what the hook does not
                allow.
        """
        together: dict[str, Any] = {}
        by: dict[str, str] = {}
        for plugin, answer in self._answers(hook, arguments):
            for name, value in answer.items():
                if name in by:
                    raise PluginError(f"`{hook}`: plugins {by[name]!r} and {plugin!r} both return {name!r}; rename one")
                if name in taken:
                    raise PluginError(f"`{hook}`: plugin {plugin!r} returns {name!r}, which is taken; rename it")
                together[name], by[name] = value, plugin
        return together

    def _answers(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Ask one plugin after another: its name and its answer, looked at, where it has one.

        pluggy, asked for all at once, does not tell whose answer is whose. A wrapper is around each plugin by itself.
        """
        for plugin, caller in self._callers(hook):
            with _naming_the_plugin(caller):
                answer = caller(**arguments)
            answer = answer if hook in _FIRST_RESULT else next(iter(answer), None)
            if answer is not None:
                check_answer(hook, plugin, answer, arguments)
                yield plugin, answer

    def _callers(self, hook: str) -> list[tuple[str, pluggy.HookCaller]]:
        """For each plugin that implements a hook, in the order in which they are asked, a caller of it alone."""
        if hook not in self._alone:
            asked = [
                one for one in reversed(self._caller(hook).get_hookimpls()) if not (one.wrapper or one.hookwrapper)
            ]
            self._alone[hook] = [
                (one.plugin_name, self._manager.subset_hook_caller(hook, [o.plugin for o in asked if o is not one]))
                for one in asked
            ]
        return self._alone[hook]

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
                add_note(error, f"raised in plugin {implementation.plugin_name!r}, hook {caller.name}")
        raise


def _runs(frame: FrameType, function: Any) -> bool:
    if frame.f_code is not getattr(function, "__code__", None):
        return False
    owner = getattr(function, "__self__", None)
    # Two instances of one class share their code; the frame's first argument tells them apart.
    return owner is None or frame.f_locals.get(frame.f_code.co_varnames[0]) is owner
