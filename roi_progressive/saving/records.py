"""Records that one command leaves to a later one: JSON, and lines of JSON.

Each record carries a checksum of its own text, so that a flipped bit is an error and never another number. A record
that an older version wrote, or a user, has none and is read all the same; whoever edits one by hand removes its entry
``checksum``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, UnreadableError, kind_and_line, parsed
from .whole_files import write_text, writing

KEY = "checksum"
_UNKNOWN = "sha256:" + "0" * 64
_CHECKSUM = re.compile(r"sha256:[0-9a-f]{64}")


class ChangedRecordError(ValueError):
    """A record's text is not the one its checksum was taken of."""


def to_json(content: Mapping[str, Any], *, indent: int | None = 1, ascii_only: bool = True) -> str:
    """A record as text, with the checksum as its last entry: the SHA-256 of the text with 64 zeros in its place.

    Args:
        content: Without NaN and infinity, whole numbers of more than 64 bits, and an entry ``checksum``.
        indent: As for ``json.dumps``; ``None`` gives one line.
        ascii_only: Whether other characters are escaped; names of files may hold what UTF-8 cannot.

    Raises:
        ValueError: A number is NaN or infinite, or there is an entry ``checksum``.

    Example:
        >>> from_json(to_json({"epoch": 3}))
        {'epoch': 3}
        >>> from_json(to_json({"epoch": 3}).replace("3", "2", 1))
        Traceback (most recent call last):
            ...
        roi_progressive.saving.records.ChangedRecordError: its checksum does not match; remove its entry `checksum` if \
you edited it
    """
    if KEY in content:
        raise ValueError(f"`content` must not have an entry {KEY!r}; got one; leave it to the writer")
    text = json.dumps({**content, KEY: _UNKNOWN}, indent=indent, ensure_ascii=ascii_only, allow_nan=False)
    before, _, after = text.rpartition(_UNKNOWN)
    return before + _digest(text.encode()) + after


def from_json(text: str | bytes) -> Any:
    """The content of a record, without its checksum; any other JSON as it is.

    Raises:
        ChangedRecordError: Its checksum does not match.
        UnreadableError: It is no JSON, or holds a number that is not finite or a whole one of more than 64 bits.
    """
    written = (text.encode() if isinstance(text, str) else text).removesuffix(b"\n")
    content = parsed(json.loads, written, parse_constant=_refuse, parse_float=_finite, parse_int=_of_64_bits)
    if not isinstance(content, dict) or not _has_checksum(content):
        return content
    found = content.pop(KEY, None)
    if not isinstance(found, str) or not _CHECKSUM.fullmatch(found) or _digest(_blanked(written, found)) != found:
        raise ChangedRecordError(f"its checksum does not match; remove its entry `{KEY}` if you edited it")
    return content


def fault_of(error: Exception) -> str:
    """What is wrong with a record, for one line: of an error of Python's own, its kind tells the most."""
    ours = isinstance(error, (ChangedRecordError, EntryError, UnreadableError))
    return str(error) if ours else kind_and_line(error)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no number")


def _finite(digits: str) -> float:
    """Python takes ``1e999`` for infinity."""
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is no finite number")
    return number


def _of_64_bits(digits: str) -> int:
    """What no float and no tensor can hold would fail wherever it is used first."""
    if len(digits) > 20 or not -(2**63) <= int(digits) < 2**64:
        raise ValueError(f"{digits[:20]}{'...' if digits[20:] else ''} is a whole number of more than 64 bits")
    return int(digits)


# -- entries -----------------------------------------------------------------------------------------------------------


class EntryError(ValueError):
    """An entry of a record is missing, or of another kind than it must be."""


NUMBER = (int, float)
_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    list: "a list",
    dict: "a table",
    type(None): "null",
}


def of_kind(value: Any, what: str, *kinds: type) -> Any:
    """A value that was read, if it is of one of these kinds; a truth value is no number.

    Raises:
        EntryError: It is of another kind.
    """
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = " or ".join(_KINDS[kind] for kind in kinds if not (kind is int and float in kinds))
        raise EntryError(f"{what} is {_KINDS.get(type(value), type(value).__name__)}, not {wanted}")
    return value


def entry(record: Any, key: str, *kinds: type) -> Any:
    """An entry of a record that was read, if it is there and of one of these kinds.

    Raises:
        EntryError: It is not, or the record is no table.

    Example:
        >>> entry({"epoch": 3}, "epoch", int)
        3
        >>> entry({"epoch": "3"}, "epoch", int)
        Traceback (most recent call last):
            ...
        roi_progressive.saving.records.EntryError: `epoch` is a text, not a whole number
    """
    table = of_kind(record, "its content", dict)
    if key not in table:
        raise EntryError(f"it has no `{key}`")
    return of_kind(table[key], f"`{key}`", *kinds)


def _has_checksum(content: dict[str, Any]) -> bool:
    """Whether a record was written with a checksum, also where one bit of the entry's own name has flipped."""
    last = next(reversed(content.values()), None)
    return KEY in content or (isinstance(last, str) and _CHECKSUM.fullmatch(last) is not None)


def _blanked(written: bytes, found: str) -> bytes:
    before, _, after = written.rpartition(found.encode())
    return before + _UNKNOWN.encode() + after


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


# -- files of JSON -----------------------------------------------------------------------------------------------------


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a record, aside and renamed.

    Raises:
        DataError: It cannot be written.
        ValueError: As for :func:`to_json`.
    """
    write_text(path, to_json(content) + "\n")


def read_json(path: Path) -> Any:
    """The content of a record, without its checksum; any other JSON as it is.

    Raises:
        OSError: It cannot be read.
        ValueError: It is no JSON (``UnreadableError``), or its checksum does not match (``ChangedRecordError``).
    """
    return from_json(path.read_bytes())


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """Add a record as one line, and bring it to the disk; a last line whose writer was killed makes room for it.

    Raises:
        DataError: It cannot be written.
        ValueError: As for :func:`to_json`.
    """
    line = to_json(content, indent=None) + "\n"
    with writing(path), open(path, "a+b") as file:
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write records as a file of lines, in place of an older one.

    Raises:
        DataError: It cannot be written.
    """
    write_text(path, "".join(to_json(record, indent=None) + "\n" for record in records))


def read_json_lines(path: Path) -> list[Any]:
    """The records of a file of lines; a last one without its line's end is left out, for its writer was killed.

    Raises:
        DataError: A line is damaged.
        OSError: The file cannot be read.
    """
    records = []
    *lines, _ = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            records.append(from_json(line))
        except ValueError as error:
            raise DataError(
                f"`run` must hold what was written; line {number} of {str(path)!r} is damaged: {fault_of(error)}; "
                f"take another copy of it"
            ) from error
    return records
