"""The files of a folder that a user names, by what they are called without their endings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from .stray_files import is_stray


def files_by_name(folder: Path, argument: str, endings: Sequence[str], kind: str) -> dict[str, Path]:
    """The files of some kind in a folder by their names without endings, sorted.

    Args:
        folder: Where they lie.
        argument: What the user calls the folder, for messages.
        endings: What their names may end in, in small letters; a longer one before one that it ends in.
        kind: What one of them is, for messages: ``image``.

    Raises:
        DataError: The folder is missing or holds none, or two that differ in their endings only.
    """
    if not folder.is_dir():
        raise DataError(f"`{argument}` must be a folder of {kind}s; {str(folder)!r} is not a folder; check the path")
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        ending = next((end for end in endings if path.name.lower().endswith(end)), None)
        if ending is None or is_stray(path) or not path.is_file():
            continue
        name = path.name[: -len(ending)]
        if name in found:
            raise DataError(
                f"`{argument}` must hold each {kind} once; {folder} has {found[name].name} and {path.name}; remove one"
            )
        found[name] = path
    if not found:
        raise DataError(f"`{argument}` must hold {kind}s ({', '.join(endings)}); {folder} has none; check the path")
    return found
