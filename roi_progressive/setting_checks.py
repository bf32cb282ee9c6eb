"""Checks of single settings: each takes what was given and raises a ``ConfigError`` that names the setting.

``where`` is the section (empty at the top level), ``key`` the setting in it.
"""

from __future__ import annotations

import difflib
import string
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from typing import Any

from .errors import ConfigError

# -- how large a setting may be ----------------------------------------------------------------------------------------
# Far beyond what anybody needs, and small enough that what is computed with it neither overflows nor takes forever.

MOST = 2**63 - 1
"""Of any whole number: what torch, NumPy and a checkpoint can hold."""
MOST_STAGES = 100
MOST_EPOCHS = 10**6
MOST_CHANNELS = 2**14
MOST_PX = 2**14
MOST_WINDOWS = 10**6
"""Kept in a pool."""
LARGEST = 1e30
"""Of any number: single precision can still multiply by it."""
LARGEST_FACTOR = 1e6


def keys(kind: type[Any], where: str, values: Mapping[str, Any]) -> None:
    """Every key is a field of the dataclass; the message names the nearest one."""
    names = [f.name for f in fields(kind)]
    for key in values:
        if key not in names:
            near = difflib.get_close_matches(str(key), names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known keys: {', '.join(names)}"
            shown = str(key) if str(key).isprintable() else repr(key)  # the message stays one line
            raise ConfigError(f"`{_dotted(where, shown)}` is not a setting; {hint}")


def known_names(given: Iterable[str], names: Sequence[str]) -> None:
    """Every argument given by name is one of these; the message names the nearest one."""
    for key in given:
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known options: {', '.join(names)}"
            raise ConfigError(f"`{key}` is not an option; {hint}")


def name(value: Any) -> None:
    """A region's name, which is part of folder and parameter names."""
    if not isinstance(value, str) or not value.isidentifier():
        raise ConfigError(
            f"`regions.name` must be letters, digits and underscores, not starting with a digit; "
            f"got {value!r}; rename the region and its mask folders"
        )


def whole(where: str, key: str, value: Any, low: int, high: int | None = None) -> None:
    """A whole number between the bounds, both included; ``MOST`` where no upper one is given."""
    ok = isinstance(value, int) and not isinstance(value, bool)
    too_large = ok and value > (MOST if high is None else high)
    if not ok or value < low or too_large:
        between = _between(low, MOST if too_large and high is None else high)
        raise ConfigError(f"`{_dotted(where, key)}` must be a whole number {between}; got {_shown(value)}")


def number(where: str, key: str, value: Any, low: float, high: float | None = None) -> None:
    """A finite number between the bounds, both included; ``LARGEST`` where no upper one is given."""
    ok = isinstance(value, (int, float)) and not isinstance(value, bool)
    finite = ok and -sys.float_info.max <= value <= sys.float_info.max  # a whole number may exceed every float
    if finite and high is None and value > LARGEST:
        high = LARGEST
    ok = finite and low <= value and (high is None or value <= high)
    if not ok:
        kind = "a finite number" if isinstance(value, (int, float)) and not finite else "a number"
        raise ConfigError(f"`{_dotted(where, key)}` must be {kind} {_between(low, high)}; got {_shown(value)}")


def choice(where: str, key: str, value: Any, choices: tuple[str, ...]) -> None:
    """One of the choices; the message names the nearest one."""
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"`{_dotted(where, key)}` must be one of {', '.join(choices)}; got {value!r}{hint}")


def boolean(where: str, key: str, value: Any) -> None:
    """True or false, not 1 or 0."""
    if not isinstance(value, bool):
        raise ConfigError(f"`{_dotted(where, key)}` must be true or false; got {value!r}")


def template(where: str, key: str, value: Any) -> None:
    """A text in which only ``{domain}`` stands in braces."""
    plain, domain = (None, None, None), ("domain", "", None)
    try:
        ok = isinstance(value, str) and all(part[1:] in (plain, domain) for part in string.Formatter().parse(value))
    except ValueError:  # a lone brace
        ok = False
    if not ok or not value:
        raise ConfigError(
            f"`{_dotted(where, key)}` must be a non-empty text in which only {{domain}} stands in braces; "
            f"got {value!r}; write for example '{{domain}}_mask'"
        )


def windows(where: str, windows_px: Any, scales: int) -> None:
    """Rising sides, the first large enough for the coarsest scale."""
    if not _rising(windows_px, int) or not windows_px:
        raise ConfigError(
            f"`{where}.windows_px` must be a tuple of rising whole numbers; got {windows_px!r}; "
            f"write for example (32, 64, 128)"
        )
    smallest = 6 * 2 ** (scales - 1)
    if windows_px[0] < smallest:
        raise ConfigError(
            f"`{where}.windows_px` must start at {smallest} or more, so that the coarsest of {scales} scales "
            f"keeps 6 px; got {windows_px[0]}; enlarge the first window or lower `scales`"
        )
    if windows_px[-1] > MOST_PX:
        raise ConfigError(
            f"`{where}.windows_px` must end at {MOST_PX} or less; got {_shown(windows_px[-1])}; lower the last window"
        )


def shape_range(bounds: Any) -> None:
    """Two rising numbers within 0.1 and 20."""
    if not _rising(bounds, (int, float)) or len(bounds) != 2 or bounds[0] < 0.1 or bounds[1] > 20.0:
        raise ConfigError(
            f"`ggd.shape_range` must be a tuple of two rising numbers within 0.1 and 20; got {bounds!r}; "
            f"the default is (0.2, 8.0)"
        )


def from_epochs(epochs: Any) -> None:
    """Rising whole numbers of at least 0; there may be none."""
    if not _rising(epochs, int) or min(epochs, default=0) < 0:
        raise ConfigError(
            f"`stages.from_epochs` must be a tuple of rising whole numbers of at least 0; got {epochs!r}; "
            f"give the first epoch of stage 2, of stage 3, ..."
        )
    if len(epochs) >= MOST_STAGES or max(epochs, default=0) > MOST_EPOCHS:
        raise ConfigError(
            f"`stages.from_epochs` must name less than {MOST_STAGES} epochs, none after {MOST_EPOCHS}; got "
            f"{len(epochs)}, the last {_shown(max(epochs))}; lower them"
        )


def _shown(value: Any) -> str:
    """A value for a message; of a number of hundreds of digits, which Python may refuse to print, how many it has."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 10**40:
        return f"a whole number of about {value.bit_length() * 3 // 10} digits"
    return repr(value)


def _dotted(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _between(low: float, high: float | None) -> str:
    first, last = (f"{bound:g}" if isinstance(bound, float) else str(bound) for bound in (low, high))
    return f"of at least {first}" if high is None else f"between {first} and {last}"


def _rising(values: Any, kind: type | tuple[type, ...]) -> bool:
    ok = isinstance(values, tuple) and all(isinstance(v, kind) and not isinstance(v, bool) for v in values)
    return ok and all(a < b for a, b in pairwise(values))
