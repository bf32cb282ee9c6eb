"""The random generators that a host draws from, its own ones too, found and put back where they stood."""

from __future__ import annotations

import functools
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..runtime.rng import RandomState

_STREAMS = (random.Random, np.random.RandomState, np.random.Generator, torch.Generator)
_PLAIN = (str, bytes, int, float, complex, type(None), Tensor, np.ndarray, Path)
_MOST_VISITED = 20_000


def held_streams(root: Any) -> list[Any]:
    """The random generators that a data set and its transforms hold: of their own, of their classes, of their modules.

    A transform with a generator of its own is as common as one that draws from the global streams.
    """
    found: dict[int, Any] = {}
    seen: dict[int, Any] = {}  # kept, lest another object come to lie where one was looked at
    waiting: list[Any] = [root]
    while waiting and len(seen) < _MOST_VISITED:
        thing = waiting.pop()
        if id(thing) in seen or isinstance(thing, _PLAIN):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, _STREAMS):
            found[id(thing)] = thing
        elif isinstance(thing, Mapping):
            waiting += list(thing.values())
        elif isinstance(thing, (list, tuple, set, frozenset)):
            waiting += list(thing)
        elif isinstance(thing, functools.partial):
            waiting += [thing.func, thing.args, thing.keywords]
        elif isinstance(thing, MethodType):
            waiting += [thing.__self__, thing.__func__]
        elif isinstance(thing, FunctionType):
            waiting += [cell.cell_contents for cell in thing.__closure__ or () if _is_filled(cell)]
            waiting += [thing.__defaults__, thing.__kwdefaults__, _streams_in(thing.__globals__)]
        elif not isinstance(thing, (ModuleType, BuiltinFunctionType, type)):
            waiting += [getattr(thing, "__dict__", {}), _slots(thing)]
            for kind in type(thing).__mro__:
                module = sys.modules.get(kind.__module__) if kind.__module__ not in _BUILT_IN else None
                waiting += [_streams_in(vars(kind)), {} if module is None else _streams_in(vars(module))]
    global_ones = {id(np.random.mtrand._rand), id(torch.default_generator), id(getattr(random, "_inst", None))}
    return [stream for key, stream in found.items() if key not in global_ones]


_BUILT_IN = {"builtins", "abc", "typing"}


def _is_filled(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - the access is the question
    except ValueError:
        return False
    return True


def _streams_in(names: Mapping[str, Any]) -> list[Any]:
    return [value for value in names.values() if isinstance(value, _STREAMS)]


def _slots(thing: Any) -> list[Any]:
    names = [name for kind in type(thing).__mro__ for name in getattr(kind, "__slots__", ()) or ()]
    return [getattr(thing, name) for name in names if isinstance(name, str) and hasattr(thing, name)]


class Streams:
    """Where the global streams and a data set's own stand."""

    def __init__(self, own: Sequence[Any]) -> None:
        self._global = RandomState.now()
        self._own = [(stream, _state_of(stream)) for stream in own]

    def restore(self) -> None:
        """Put them back there."""
        self._global.restore()
        for stream, state in self._own:
            _set_state(stream, state)


def _state_of(stream: Any) -> Any:
    if isinstance(stream, random.Random):
        return stream.getstate()
    if isinstance(stream, np.random.Generator):
        return stream.bit_generator.state
    return stream.get_state()


def _set_state(stream: Any, state: Any) -> None:
    if isinstance(stream, random.Random):
        stream.setstate(state)
    elif isinstance(stream, np.random.Generator):
        stream.bit_generator.state = state
    else:
        stream.set_state(state)
