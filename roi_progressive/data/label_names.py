"""Names of the labels of a label map, where the folder it lies in or the file itself tells them."""

from __future__ import annotations

import csv
import gzip
import json
import re
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError

VOLUME_ENDINGS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
DATASET_FILE = "dataset.json"
BIDS_FILE = "dataset_description.json"
Labels = dict[str, tuple[int, ...]]
"""The labels that a name stands for; a region of several has more than one."""

_NO_REGIONS = ("background", "ignore", "clear label")
_MOST_HEADER_BYTES = 1_000_000
_IN_HEADER = re.compile(rb'<Label\s+Key="(\d+)"[^>]*>\s*(?:<!\[CDATA\[)?([^<\]]+)')


def stem_of(name: str) -> str | None:
    """A volume file's name without its ending; ``None`` where it has none of a volume.

    Example:
        >>> stem_of("case_01.nii.gz"), stem_of("notes.txt")
        ('case_01', None)
    """
    ending = next((ending for ending in VOLUME_ENDINGS if name.lower().endswith(ending)), None)
    return None if ending is None else name[: -len(ending)]


def labels_by_name(file: Path, chosen: str) -> tuple[int, ...] | None:
    """The labels that the names after a cell's mark stand for, e.g. ``liver`` or ``edema+enhancing``.

    Args:
        file: The label map.
        chosen: Names or numbers, joined by ``+``.

    Returns:
        The labels, without repeats; ``None`` where the file is no volume file that is there.

    Raises:
        DataError: Nothing tells the names of its labels, or they hold none that is asked for; the message has no
            line, which the caller knows.
    """
    if stem_of(file.name) is None or not file.is_file() or not chosen.strip():
        return None
    parts = [part.strip() for part in chosen.split("+")]
    numbers = [part.isascii() and part.isdigit() for part in parts]
    if all(numbers) or not any(part and not number for part, number in zip(parts, numbers, strict=True)):
        return None
    known = label_names(file)
    if not known:
        raise DataError(
            f"names a label, {chosen.strip()!r}, but neither {file.name} nor a {DATASET_FILE} or .tsv of its data set "
            f"tells names; give the label's number, e.g. {file.name}#1"
        )
    if chosen.strip() in known:  # a name may hold the sign that joins them
        return known[chosen.strip()]
    found: list[int] = []
    for part, number in zip(parts, numbers, strict=True):
        if not number and part not in known:
            raise DataError(f"names a label, {part!r}, that {file.name} has not; it has {', '.join(known)}; correct it")
        found += [int(part)] if number else known[part]
    return tuple(dict.fromkeys(found))


def label_names(file: Path) -> Labels:
    """The labels by name of a label map, without its background.

    Told by the header of the file (as TotalSegmentator writes it), by a table beside it or above it in a BIDS data set
    (``index``, ``name``), or by the ``dataset.json`` of an nnU-Net or Decathlon folder.

    Args:
        file: The label map.

    Returns:
        Empty where nothing tells them.

    Raises:
        DataError: What should tell them cannot be read.
    """
    return _in_header(file) or _in_table(file) or _in_dataset(file)


def dataset_labels(content: Mapping[str, Any], file: Path) -> Labels:
    """The labels of a ``dataset.json``: ``{"1": "liver"}`` as of old, ``{"liver": 1}`` or ``{"whole": [1, 2]}``.

    Raises:
        DataError: They are none of these.
    """
    found: Labels = {}
    labels = content.get("labels", {})
    try:
        for key, value in labels.items():
            name, given = (value, int(key)) if isinstance(value, str) and key.isdigit() else (key, value)
            numbers = tuple(int(number) for number in (given if isinstance(given, (list, tuple)) else [given]))
            if name.lower() not in _NO_REGIONS and numbers != (0,):
                found[str(name)] = numbers
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"{file} must have `labels` such as {{'liver': 1}}; got {labels!r}; correct it") from error
    return found


def read_dataset(file: Path) -> dict[str, Any]:
    """The content of a ``dataset.json``.

    Raises:
        DataError: It is missing or no JSON object.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(
            f"{file} must say what the folder holds; {error.strerror}; give the folder it lies in"
        ) from error
    except ValueError as error:
        raise DataError(f"{file} must be JSON; it is not: {error}; correct it") from error
    if not isinstance(content, dict):
        raise DataError(f"{file} must be a JSON object; got {type(content).__name__}; correct it")
    return content


def _in_header(file: Path) -> Labels:
    if not file.name.lower().endswith((".nii", ".nii.gz")):
        return {}
    opened = gzip.open if file.name.lower().endswith(".gz") else open
    try:
        with opened(file, "rb") as content:
            head = content.read(352)
            order = "<" if head[:4] == b"\x5c\x01\x00\x00" else ">"
            start = int(struct.unpack_from(f"{order}f", head, 108)[0])
            more = content.read(min(start, _MOST_HEADER_BYTES) - len(head)) if start > len(head) else b""
    except (OSError, EOFError, ValueError, OverflowError, zlib.error, struct.error):
        return {}  # what is wrong with the file is said where its voxels are read
    found = {int(key): name.decode("utf-8", "replace").strip() for key, name in _IN_HEADER.findall(more)}
    return {name: (key,) for key, name in found.items() if key and name.lower() not in _NO_REGIONS}


def _in_table(file: Path) -> Labels:
    stem = stem_of(file.name) or file.stem
    for folder in list(file.parents)[:8]:
        tables = [path for path in sorted(folder.glob("*.tsv")) if _describes(path.stem, stem)]
        if tables:
            return read_label_table(max(tables, key=lambda path: len(path.stem)))
        if (folder / BIDS_FILE).exists() and folder.parent.name != "derivatives":
            break
    return {}


def _describes(table: str, stem: str) -> bool:
    """Whether a table of BIDS is that of a file: of the same suffix, and with no entity that the file has not."""
    *entities, suffix = table.split("_")
    *its, its_suffix = stem.split("_")
    return table == stem or (suffix == its_suffix == "dseg" and set(entities) <= set(its))


def read_label_table(path: Path) -> Labels:
    """A table of BIDS with the columns ``index`` and ``name``.

    Raises:
        DataError: It cannot be read or lacks a column.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
        labels = [(int(float(row["index"])), row["name"].strip()) for row in rows]
    except (OSError, KeyError, TypeError, ValueError, AttributeError, csv.Error) as error:
        raise DataError(
            f"{path} must be a table of labels with the columns index and name; {error!r}; correct it"
        ) from error
    return {name: (index,) for index, name in labels if index and name.lower() not in _NO_REGIONS}


def _in_dataset(file: Path) -> Labels:
    above = file.parent.parent / DATASET_FILE
    if not file.parent.name.lower().startswith("labels") or not above.is_file():
        return {}
    return dataset_labels(read_dataset(above), above)
