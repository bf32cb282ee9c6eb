"""One plugin manager a session: the defaults, what entry points offer, what the user gave; and what they answer."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pluggy

from ..config import Config
from ..errors import HostNotSupportedError, PluginError, add_note, one_line
from ..method.stages import Stage
from . import hookspecs
from .adapter import OWN_ADAPTER, Adapter, asked_carefully
from .answer_checks import check_answer


class Plugins:
    """Calls hooks; an error inside a plugin keeps its type and gets a note that names plugin and hook.

    Args:
        given: Modules or objects with ``hookimpl`` functions, asked before all others.
        defaults: The package's own implementations, asked last.

    Raises:
        PluginError: A plugin cannot be loaded, is given twice, implements no hook, or one that does not exist.
    """

    def __init__(self, given: Iterable[Any] = (), defaults: Iterable[Any] = ()) -> None:
        self._callers: dict[str, list[tuple[str, pluggy.HookCaller]]] = {}
        self._manager = pluggy.PluginManager(hookspecs.PROJECT)
        self._manager.add_hookspecs(hookspecs)
        for plugin in defaults:
            self._register(plugin)
        try:
            self._manager.load_setuptools_entrypoints(hookspecs.PROJECT)
        except Exception as error:  # a plugin of others may fail at its import in any way
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
            raise PluginError(f"{one_line(error)}; known hooks: {', '.join(hook_names())}") from error

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

    # -- any hook -------------------------------------------------------------------------------------------------

    def names(self, hook: str) -> list[str]:
        """The plugins that implement a hook, in the order in which they are asked."""
        return [implementation.plugin_name for implementation in reversed(self._caller(hook).get_hookimpls())]

    def installed(self) -> dict[str, list[str]]:
        """The hooks that each plugin implements, by its name with its distribution's version where one is known."""
        versions = {
            self._manager.get_name(plugin): f" ({distribution.project_name} {distribution.version})"
            for plugin, distribution in self._manager.list_plugin_distinfo()
        }
        return {
            f"{name}{versions.get(name, '')}": sorted(
                caller.name for caller in self._manager.get_hookcallers(plugin) or ()
            )
            for name, plugin in self._manager.list_name_plugin()
            if plugin is not None
        }

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call a hook: its first result, or the list of all results that are not ``None``.

        Raises:
            PluginError: A plugin returned what the hook does not allow.
        """
        if self._takes_the_first_result(hook):
            return self.first(hook, **arguments)[1]
        return [answer for _, answer in self._answers(hook, arguments)]

    def first(self, hook: str, **arguments: Any) -> tuple[str | None, Any]:
        """Call a hook of which the first result counts.

        Returns:
            The plugin that gave it, and the result; two ``None`` where no plugin did.

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
        plugin_of: dict[str, str] = {}
        for plugin, answer in self._answers(hook, arguments):
            for name, value in answer.items():
                if name in plugin_of:
                    raise PluginError(
                        f"`{hook}`: plugins {plugin_of[name]!r} and {plugin!r} both return {name!r}; rename one"
                    )
                if name in taken:
                    raise PluginError(f"`{hook}`: plugin {plugin!r} returns {name!r}, which is taken; rename it")
                together[name], plugin_of[name] = value, plugin
        return together

    # -- hooks with one asker, asked with types -------------------------------------------------------------------

    def adapter_for(self, host: Any, config: Config) -> Adapter:
        """The first adapter that understands a host, by ``roi_adapter``.

        Args:
            host: What the user gave to ``attach``.
            config: The session's.

        Raises:
            HostNotSupportedError: None does; the message names the adapters tried and what each one missed.
            PluginError: A plugin returned something else than an adapter.
        """
        adapter: Adapter | None = self.call("roi_adapter", host=host, config=config)
        if adapter is not None:
            return asked_carefully(adapter, host)
        lacking: Mapping[str, Sequence[str]] = self.merged("roi_host_lacks", host=host)
        missed = "; ".join(f"{name} misses {', '.join(attributes)}" for name, attributes in lacking.items())
        tried = ", ".join(self.names("roi_adapter")) or "no adapter is installed"
        raise HostNotSupportedError(
            f"`host` must be a model an adapter understands, or a dict of generators; got {type(host).__name__}; "
            f"tried: {tried}{f' ({missed})' if missed else ''}; {OWN_ADAPTER}, and give it as plugins=[...]"
        )

    def stages(self, config: Config, n_epochs: int) -> Sequence[Stage] | None:
        """The plan of stages, by ``roi_stages``; ``None`` where no plugin has one.

        Raises:
            PluginError: It is not a sequence of stages, or empty.
        """
        plan: Sequence[Stage] | None = self.call("roi_stages", config=config, n_epochs=n_epochs)
        return plan

    def mask_files(self, path: Path, regions: Sequence[str]) -> Mapping[str, Path | None]:
        """The mask files of an image, by ``roi_masks``.

        Raises:
            PluginError: It is not a mapping from these regions to paths or ``None``, or no plugin answered.
        """
        files: Mapping[str, Path | None] | None = self.call("roi_masks", path=path, regions=regions)
        if files is None:
            asked = ", ".join(self.names("roi_masks")) or "none"
            raise PluginError(
                f"`roi_masks` must return pathlib.Path or None by region; got nothing from {asked}; return a dict"
            )
        return files

    # -- one plugin after another ---------------------------------------------------------------------------------

    def _answers(self, hook: str, arguments: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """Ask one plugin after another; yields the name and the checked answer of each that has one.

        pluggy, asked for all at once, does not tell whose answer is whose. A wrapper is around each plugin by itself.
        """
        first_result = self._takes_the_first_result(hook)
        for plugin, caller in self._callers_of(hook):
            with _naming(plugin, caller):
                answer = caller(**arguments)
            answer = answer if first_result else next(iter(answer), None)
            if answer is not None:
                check_answer(hook, plugin, answer, arguments)
                yield plugin, answer

    def _callers_of(self, hook: str) -> list[tuple[str, pluggy.HookCaller]]:
        """For each plugin that implements a hook, in the order in which they are asked, a caller of it alone."""
        if hook not in self._callers:
            asked = [found for found in reversed(self._caller(hook).get_hookimpls()) if not _is_wrapper(found)]
            self._callers[hook] = [
                (
                    found.plugin_name,
                    self._manager.subset_hook_caller(hook, [other.plugin for other in asked if other is not found]),
                )
                for found in asked
            ]
        return self._callers[hook]

    def _takes_the_first_result(self, hook: str) -> bool:
        specification = self._caller(hook).spec
        return specification is not None and bool(specification.opts.get("firstresult"))

    def _caller(self, hook: str) -> pluggy.HookCaller:
        caller: pluggy.HookCaller = getattr(self._manager.hook, hook)
        return caller


def hook_names() -> list[str]:
    """The names of all hooks."""
    return sorted(name for name in vars(hookspecs) if name.startswith("roi_"))


def _is_wrapper(implementation: pluggy.HookImpl) -> bool:
    return implementation.wrapper or implementation.hookwrapper


@contextmanager
def _naming(plugin: str, caller: pluggy.HookCaller) -> Iterator[None]:
    """An error in the block gets a note that names the plugin, and the wrappers that are called around it."""
    try:
        yield
    except Exception as error:  # any of a plugin's: it gets a note, and goes on
        wrappers = [found.plugin_name for found in caller.get_hookimpls() if _is_wrapper(found)]
        around = f" or in its wrapper {', '.join(map(repr, wrappers))}" if wrappers else ""
        add_note(error, f"raised in plugin {plugin!r}{around}, hook {caller.name}")
        raise
