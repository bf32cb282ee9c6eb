"""All settings of a training from one file, with single ones set beside it.

A file has the tables of a configuration (``[[regions]]``, ``[ggd]``, ``[stages]``) and ``[train]``, whose keys are the
fields of ``TrainOptions`` and ``data``. What is set singly, as ``train.learning_rate = 1e-4``, comes after the file;
what is given by name, as an option of the command line is, comes last.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ..config import Config, GGDConfig, RegionConfig, StageConfig, read_toml, toml_value
from ..errors import ConfigError
from .options import TrainOptions

TRAIN = "train"
DATA = "data"
_TABLES: dict[str, type[Any]] = {TRAIN: TrainOptions, "ggd": GGDConfig, "stages": StageConfig}
"""The tables of which there is one; ``regions`` is a list of them."""


@dataclass(frozen=True)
class Settings:
    """What a training was told, checked.

    Args:
        options: How the host trains.
        guidance: The tables of a ``Config``; ``None`` where nothing was said of guidance.
        data: The data set, where one was named.
    """

    options: TrainOptions
    guidance: dict[str, Any] | None
    data: str | None = None

    def config(self, default_region: str | None) -> Config | None:
        """How the session guides the host; ``None`` for a plain training.

        Args:
            default_region: What is guided where nothing was said of guidance; ``None`` for nothing.

        Raises:
            ConfigError: A key is unknown or a value is wrong.
        """
        if self.guidance is not None:
            return Config.from_mapping(self.guidance)
        return None if default_region is None else Config(regions=(RegionConfig.studied(default_region),))


def read_settings(
    file: str | Path | Mapping[str, Any] | None = None,
    sets: Sequence[str] = (),
    given: Mapping[str, Any] | None = None,
    *,
    default_region: str | None = None,
) -> Settings:
    """Defaults, then the file, then what was set singly, then what was given by name.

    Args:
        file: A TOML file, its content as nested plain values, or ``None``.
        sets: Each ``table.key=value``, the value as TOML writes it, a text with or without quotes:
            ``train.learning_rate=1e-4``, ``regions.tumor.scales=2``, ``ggd=false``, ``balance=0.5``.
        given: Fields of ``TrainOptions``, and ``data``.
        default_region: The region that ``regions`` holds where one of it is set and the file names none.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown (the nearest known one is named) or a value wrong.

    Example:
        >>> chosen = read_settings({"train": {"epochs": 3, "seed": 1}}, ["train.seed=2"], {"seed": 3})
        >>> chosen.options.epochs, chosen.options.seed
        (3, 3)
        >>> read_settings(sets=["train.learning_rat=1"])
        Traceback (most recent call last):
        roi_progressive.errors.ConfigError: `set` train.learning_rat=1: `train.learning_rat` is not a setting; did you \
mean `train.learning_rate`?
    """
    where = f"{file}: " if isinstance(file, (str, Path)) else ""
    content = dict(read_toml(file)) if isinstance(file, (str, Path)) else dict(file or {})
    train = content.pop(TRAIN, {})
    if not isinstance(train, Mapping):
        raise ConfigError(f"{where}`train` must be a table of settings; got {train!r}; write [train], keys and values")
    train, guidance = dict(train), content
    for key in train:
        _check_key(TRAIN, str(key), _keys_of(TRAIN), where)
    for text in sets:
        _set(text, train, guidance, default_region)
    if guidance and "regions" not in guidance and default_region is not None:
        guidance["regions"] = _as_studied(default_region)
    chosen = {**train, **(given or {})}
    data = chosen.pop(DATA, None)
    if data is not None and not isinstance(data, (str, Path)):
        raise ConfigError(f"{where}`train.data` must be a path; got {data!r}")
    try:
        options = TrainOptions(**chosen)
        if guidance:
            Config.from_mapping(guidance)
    except ConfigError as error:
        raise ConfigError(f"{where}{error}") from error
    return Settings(options, guidance or None, None if data is None else str(data))


def _keys_of(table: str) -> list[str]:
    return [field.name for field in fields(_TABLES[table])] + ([DATA] if table == TRAIN else [])


def _check_key(table: str, key: str, known: Sequence[str], where: str) -> None:
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1)
        dotted = f"{table}." if table else ""
        hint = f"did you mean `{dotted}{near[0]}`?" if near else f"known keys: {', '.join(known)}"
        raise ConfigError(f"{where}`{dotted}{key}` is not a setting; {hint}")


def _set(text: str, train: dict[str, Any], guidance: dict[str, Any], default_region: str | None) -> None:
    """Put one setting into the tables.

    Raises:
        ConfigError: It is no ``key=value``, or there is no such key.
    """
    dotted, equals, value = text.partition("=")
    parts = dotted.strip().split(".")
    where = f"`set` {text}: " if text.isprintable() else "`set`: "
    if not equals or not all(parts):
        raise ConfigError(f"`set` must be table.key=value; got {text!r}; write for example train.learning_rate=1e-4")
    found = toml_value(value.strip())
    if parts[0] == "regions":
        _set_in_region(parts, found, guidance, default_region, where)
    elif parts[0] in _TABLES and len(parts) == 2:
        _check_key(parts[0], parts[1], _keys_of(parts[0]), where)
        table = train if parts[0] == TRAIN else guidance.setdefault(parts[0], {})
        if not isinstance(table, dict):
            raise ConfigError(f"{where}`{parts[0]}` must be a table; it is {table!r} in the file; change it there")
        table[parts[1]] = found
    else:
        top = [field.name for field in fields(Config)]
        _check_key("", dotted.strip(), [*top, *(f"{name}.{key}" for name in _TABLES for key in _keys_of(name))], where)
        guidance[parts[0]] = found


def _as_studied(region: str | None) -> list[dict[str, Any]]:
    """The tables of the region that is guided where nobody said anything of regions."""
    if region is None:
        return []
    tables: list[dict[str, Any]] = Config(regions=(RegionConfig.studied(region),)).to_mapping()["regions"]
    return tables


def _set_in_region(
    parts: Sequence[str], value: Any, guidance: dict[str, Any], default_region: str | None, where: str
) -> None:
    regions = guidance.setdefault("regions", _as_studied(default_region))
    if not isinstance(regions, list) or not all(isinstance(region, dict) for region in regions):
        raise ConfigError(f"{where}`regions` must be a list of tables; write [[regions]] in the file")
    names = [str(region.get("name")) for region in regions]
    if len(parts) != 3:
        raise ConfigError(
            f"{where}`regions` must be set as regions.NAME.key=value; names: {', '.join(names) or 'none'}"
        )
    if parts[1] not in names:
        near = difflib.get_close_matches(parts[1], names, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"regions: {', '.join(names) or 'none'}"
        raise ConfigError(f"{where}there is no region {parts[1]!r}; {hint}")
    _check_key(f"regions.{parts[1]}", parts[2], [field.name for field in fields(RegionConfig)], where)
    regions[names.index(parts[1])][parts[2]] = value
