"""The data set of a run: how it was made, and whether another folder holds the same one."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..data.preparation import Preparation, read_preparation
from ..errors import ConfigError, DataError
from ..saving.locks import resolved
from ..saving.names import DOMAINS, SPLITS
from ..saving.records import read_json
from ..saving.stray_files import is_stray
from ..saving.written import checksum_of


def fingerprint_of(data: Path) -> dict[str, str | None]:
    """What tells a data set from another one: checksums of the names of its images and of its manifest."""
    folders = [data / f"{split}{domain}" for split in SPLITS for domain in DOMAINS]
    names = [
        f"{folder.name}/{path.name}\n"
        for folder in folders
        if folder.is_dir()
        for path in sorted(folder.iterdir())
        if path.is_file() and not is_stray(path)
    ]
    digest = hashlib.sha256("".join(names).encode(errors="surrogateescape")).hexdigest()
    manifest = data / "manifest.json"
    return {"names": f"sha256:{digest}", "manifest": checksum_of(manifest) if manifest.is_file() else None}


def preparation_of(data: Path) -> Preparation | None:
    """How a data set was made; ``None`` where ``prepare`` did not make it.

    Raises:
        DataError: Its manifest is not as ``prepare`` wrote it.
    """
    manifest = data / "manifest.json"
    try:
        if not manifest.is_file() or read_json(manifest)["kind"] != "prepared":
            return None
    except (OSError, ValueError, KeyError, TypeError):  # of another program; whoever needs it says what is wrong
        return None
    return read_preparation(manifest)


def is_paired(data: Path) -> bool:
    """Whether the images of a data set's test part can be pairs: not where ``prepare`` says that they are none."""
    try:
        found = read_json(data / "manifest.json")
    except (OSError, ValueError):  # of another program; whoever scores it says what is missing
        return True
    return not isinstance(found, dict) or found.get("kind") != "prepared" or found.get("paired", True) is not False


def neighbours_of(data: Path, asked: int | None) -> int:
    """How many neighbours above and below a slice a training on a data set takes.

    Args:
        data: The data set.
        asked: What the user said; ``None`` for as many as it has.

    Raises:
        ConfigError: It has others than those that were asked for.
        DataError: Its manifest is not as ``prepare`` wrote it.
    """
    preparation = preparation_of(data)
    if preparation is None:  # whether it has those that are asked for is seen where they are read
        return asked or 0
    there = preparation.options.neighbours
    if asked not in (None, 0, there):
        raise ConfigError(
            f"`neighbours` must be 0 or those of the data set; got {asked}, and {str(data)!r} has {there}; prepare the "
            f"data with --neighbours {asked}, or leave it out"
        )
    return there if asked is None else asked


def moved_data(given: str | Path, before: Path, fingerprint: Mapping[str, Any] | None) -> Path:
    """Where the data set of a run lies now.

    Args:
        given: What the user says.
        before: Where it lay when the run began, for messages.
        fingerprint: What :func:`fingerprint_of` gave then; runs of an older version have none, and are believed.

    Raises:
        DataError: It is no folder, or another data set.
    """
    place = resolved(given, "data")
    if not place.is_dir():
        raise DataError(f"`data` must be the folder of the run's data set; {str(given)!r} is no folder")
    if fingerprint is not None and fingerprint_of(place) != dict(fingerprint):
        differ = [what for what, value in fingerprint_of(place).items() if value != fingerprint.get(what)]
        what = "names of its images differ" if "names" in differ else "manifest differs"
        raise DataError(
            f"`data` must be the data set that the run was trained on, {str(before)!r}; {str(given)!r} is another: the "
            f"{what}; give the same, moved or copied"
        )
    return place
