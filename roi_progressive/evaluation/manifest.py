"""What a data set's ``manifest.json`` tells of a slice: whose it is, which phase, and what a grey level is in HU."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..saving.records import fault_of, read_json
from .picture_files import ENDINGS

Label = tuple[str, str]


def read_manifest(path: Path, domain: str, split: str | None = None) -> tuple[dict[str, Label], dict[str, float]]:
    """Patient and phase of every slice, and HU per grey level of 0..255, by the slice's name without its ending.

    Args:
        path: The manifest, JSON with a list ``slices`` of entries with ``name``, ``patient`` and ``phase``; an
            entry's ``intensity`` is ``{"a": .., "b": .., "unit": "HU"}`` where ``a * grey + b`` is the value in HU.
        domain: Whose HU, ``A`` or ``B``; there are none for a domain that is no CT.
        split: Only slices whose ``split`` it is.

    Raises:
        DataError: The file cannot be used, gives one name to two patients or phases, or has a factor to HU that is not
            a number other than 0.
    """
    labels: dict[str, Label] = {}
    scales: dict[str, float] = {}
    with _said_of(path):
        for name, entry in _slices(path, split):
            label = (str(entry["patient"]), str(entry["phase"]))
            if labels.setdefault(name, label) != label:
                raise ValueError(f"{name} has the patients and phases {labels[name]} and {label}")
            intensity = entry.get("intensity", {})
            if entry.get("domain") == domain and intensity.get("unit") == "HU":
                scales[name] = abs(float(intensity["a"]))
                if not 0.0 < scales[name] < math.inf:
                    raise ValueError(f"{name} has the factor {intensity['a']!r} to HU")
    return labels, scales


def label_in_name(stem: str) -> Label | None:
    """Patient and phase of ``<patient>_<phase>_<slice index>``, or ``None`` for other names."""
    parts = stem.rsplit("_", 2)
    return (parts[0], parts[1]) if len(parts) == 3 and all(parts) and parts[2].isdigit() else None


def _slices(path: Path, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    for entry in read_json(path)["slices"]:
        if split is None or entry["split"] == split:
            name = str(entry["name"])
            yield Path(name).stem if name.lower().endswith(ENDINGS) else name, entry


@contextmanager
def _said_of(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise DataError(f"{path} must be a data set's manifest; {fault_of(cause)}") from cause
