"""What a data set's ``manifest.json`` tells of a slice: whose it is, which phase, and what a grey level is in HU."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from .picture_files import ENDINGS

Label = tuple[str, str]


def slice_labels(path: Path, split: str | None = None) -> dict[str, Label]:
    """Patient and phase by the name of the slice, without its ending.

    Args:
        path: The manifest, JSON with a list ``slices`` of entries with ``name``, ``patient`` and ``phase``.
        split: Only slices whose ``split`` it is.

    Raises:
        DataError: The file cannot be used, or gives one name to two patients or phases.
    """
    labels: dict[str, Label] = {}
    with _said_of(path):
        for name, entry in _slices(path, split):
            label = (str(entry["patient"]), str(entry["phase"]))
            if labels.setdefault(name, label) != label:
                raise ValueError(f"{name} has the patients and phases {labels[name]} and {label}")
    return labels


def hu_per_grey(path: Path, domain: str, split: str | None = None) -> dict[str, float]:
    """HU per grey level of 0..255, by the name of the slice without its ending; empty for a domain that is no CT.

    Args:
        path: As for :func:`slice_labels`; an entry's ``intensity`` is ``{"a": .., "b": .., "unit": "HU"}`` where
            ``a * grey + b`` is the value in HU.
        domain: Only slices whose ``domain`` it is, ``A`` or ``B``.
        split: Only slices whose ``split`` it is.

    Raises:
        DataError: The file cannot be used, or a factor is not a number other than 0.
    """
    scales: dict[str, float] = {}
    with _said_of(path):
        for name, entry in _slices(path, split):
            intensity = entry.get("intensity", {})
            if entry.get("domain") == domain and intensity.get("unit") == "HU":
                scales[name] = abs(float(intensity["a"]))
                if not 0.0 < scales[name] < math.inf:
                    raise ValueError(f"{name} has the factor {intensity['a']!r} to HU")
    return scales


def label_in_name(stem: str) -> Label | None:
    """Patient and phase of ``<patient>_<phase>_<slice index>``, or ``None`` for other names."""
    parts = stem.rsplit("_", 2)
    return (parts[0], parts[1]) if len(parts) == 3 and all(parts) and parts[2].isdigit() else None


def _slices(path: Path, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in json.loads(path.read_text(encoding="utf-8"))["slices"]:
        if split is None or entry["split"] == split:
            name = str(entry["name"])
            yield Path(name).stem if name.lower().endswith(ENDINGS) else name, entry


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise DataError(f"{path} must be a data set's manifest; {type(cause).__name__}: {cause}") from cause
