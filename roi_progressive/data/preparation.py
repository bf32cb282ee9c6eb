"""How the slices of a data set were made, without whose they are: what a run keeps, to treat a new scan alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError
from ..saving.names import DOMAINS, SPLITS, Domains
from ..saving.records import NUMBER, EntryError, entry, fault_of, of_kind, read_json
from .hounsfield import in_hounsfield
from .options import PrepareOptions
from .preprocessing import IntensityMapping, ct_mapping
from .standardise import PERCENTILES, Landmarks
from .volumes import ORIENTATION

GREY = IntensityMapping(0.0, 255.0)
"""What a value in [-1, 1] is where the target is not in HU: a grey level of an 8-bit picture."""


@dataclass(frozen=True)
class Spread:
    """The least, the median and the greatest of some lengths, in mm."""

    least: float
    median: float
    greatest: float

    def __contains__(self, length_mm: float) -> bool:
        """Whether a length is among them, but for a hundredth: headers round."""
        return self.least * 0.99 <= length_mm <= self.greatest * 1.01

    def __str__(self) -> str:
        ends = f"{self.least:.3g}"
        return f"{ends} mm" if f"{self.greatest:.3g}" == ends else f"{ends} to {self.greatest:.3g} mm"


@dataclass(frozen=True)
class Preparation:
    """What ``prepare`` did to the scans of a data set.

    Args:
        options: Size, window, percentiles, steps, field of view, neighbours, type of the pictures and names of the
            domains; what concerns the choice of slices and patients has its default.
        in_hounsfield: Whether the values of domain ``A`` and ``B`` are HU.
        standard: What ``fit_standard`` found, by domain, where scans were standardised.
        slices_mm: Distance of the slices trained on, by domain; of a domain without slices there is none.
        pixels_mm: Side of a picture's pixels, likewise.
    """

    options: PrepareOptions
    in_hounsfield: Mapping[str, bool]
    standard: Mapping[str, Landmarks] = field(default_factory=dict)
    slices_mm: Mapping[str, Spread] = field(default_factory=dict)
    pixels_mm: Mapping[str, Spread] = field(default_factory=dict)

    @property
    def domains(self) -> Domains:
        """What A and B are called."""
        return Domains.of(self.options.domains)

    def units(self, domain: str) -> str:
        """``HU``, or ``grey levels``: the units of a generated image of this domain."""
        return "HU" if self.in_hounsfield[domain] else "grey levels"

    def mapping_of_target(self, domain: str) -> IntensityMapping:
        """What a value in [-1, 1] of a generated image is, in ``units`` of its domain."""
        return ct_mapping(*self.options.ct_window) if self.in_hounsfield[domain] else GREY

    def to_record(self) -> dict[str, Any]:
        """As a run keeps it; under the names of a data set's manifest where that has the same entry."""
        options = self.options
        return {
            "size_px": options.size_px,
            "dtype": options.dtype,
            "domains": dict(zip(DOMAINS, options.domains, strict=True)),
            "units": {domain: "HU" if self.in_hounsfield[domain] else "source" for domain in DOMAINS},
            "ct_window": {"width": options.ct_window[0], "level": options.ct_window[1]},
            "mr_percentiles": list(options.mr_percentiles),
            "mr_steps": list(options.mr_steps),
            "mr_standard": {domain: values.tolist() for domain, values in sorted(self.standard.items())},
            "field_of_view_mm": options.field_of_view_mm,
            "neighbours": options.neighbours,
            "orientation": ORIENTATION,
            "slices_mm": {domain: _listed(found) for domain, found in sorted(self.slices_mm.items())},
            "pixels_mm": {domain: _listed(found) for domain, found in sorted(self.pixels_mm.items())},
        }

    @classmethod
    def from_record(cls, record: Any) -> Preparation:
        """From what :meth:`to_record` gave.

        Raises:
            ValueError: It is not as it was written.
        """
        units = entry(record, "units", dict)
        return cls(
            _options(record),
            {domain: entry(units, domain, str) == "HU" for domain in DOMAINS},
            {name: _landmarks(values) for name, values in entry(record, "mr_standard", dict).items()},
            {name: _spread(values) for name, values in entry(record, "slices_mm", dict).items()},
            {name: _spread(values) for name, values in entry(record, "pixels_mm", dict).items()},
        )

    @classmethod
    def from_manifest(cls, manifest: Any) -> Preparation:
        """From the manifest of a data set that ``prepare`` wrote.

        Raises:
            ValueError: It is not as it was written, or the slices of a domain are of several units.
        """
        slices = [of_kind(found, "a slice", dict) for found in entry(manifest, "slices", list)]
        by_domain = {name: [found for found in slices if entry(found, "domain", str) == name] for name in DOMAINS}
        options = _options(manifest)
        units = {
            domain: _in_hounsfield(of_domain, name)
            for (domain, of_domain), name in zip(by_domain.items(), options.domains, strict=True)
        }
        trained_on = {
            name: [found for found in of_domain if entry(found, "split", str) == SPLITS[0]] or of_domain
            for name, of_domain in by_domain.items()
            if of_domain
        }
        return cls(
            options,
            units,
            _standard(of_kind(manifest.get("mr_standard"), "`mr_standard`", dict, type(None)), units),
            {name: _spread_of(found, slice(0, 1)) for name, found in trained_on.items()},
            {name: _spread_of(found, slice(1, 3)) for name, found in trained_on.items()},
        )


def read_preparation(data: Path) -> Preparation:
    """How a data set was made, from its manifest.

    Args:
        data: The data set, or its ``manifest.json``.

    Raises:
        DataError: There is no manifest, it is of another program than ``prepare``, or not as it was written.
    """
    path = data / "manifest.json" if data.is_dir() else data
    try:
        manifest = of_kind(read_json(path), "its content", dict)
        if manifest.get("kind") != "prepared":
            raise EntryError("`roi-progressive prepare` did not write it")
        return Preparation.from_manifest(manifest)
    except (OSError, ValueError) as error:
        raise DataError(
            f"`data` must be a data set that `roi-progressive prepare` wrote, whose manifest says how; {str(path)!r} "
            f"cannot be used: {fault_of(error)}"
        ) from error


def _options(record: Any) -> PrepareOptions:
    names, window = entry(record, "domains", dict), entry(record, "ct_window", dict)
    field_of_view = of_kind(record.get("field_of_view_mm"), "`field_of_view_mm`", *NUMBER, type(None))
    if record.get("orientation", ORIENTATION) != ORIENTATION:
        raise EntryError(f"`orientation` is {record['orientation']!r}, not {ORIENTATION!r}")
    try:
        return PrepareOptions(
            size_px=entry(record, "size_px", int),
            dtype=entry(record, "dtype", str),
            domains=(entry(names, "A", str), entry(names, "B", str)),
            ct_window=(float(entry(window, "width", *NUMBER)), float(entry(window, "level", *NUMBER))),
            mr_percentiles=tuple(entry(record, "mr_percentiles", list)),
            mr_steps=tuple(entry(record, "mr_steps", list)),
            field_of_view_mm=field_of_view,
            neighbours=of_kind(record.get("neighbours", 0), "`neighbours`", int),
        )
    except ConfigError as error:
        raise EntryError(str(error)) from error


def _in_hounsfield(slices: Sequence[Mapping[str, Any]], name: str) -> bool:
    """Whether a domain is in HU; by its name where it has no slices."""
    found = {entry(entry(of_slice, "intensity", dict), "unit", str) == "HU" for of_slice in slices}
    if len(found) > 1:
        raise EntryError(f"its slices of {name} are partly in HU and partly not")
    return found.pop() if found else in_hounsfield(name)


def _standard(record: Mapping[str, Any] | None, in_hu: Mapping[str, bool]) -> dict[str, Landmarks]:
    if record is None:
        return {}
    landmarks = entry(record, "landmarks", list, dict)
    if isinstance(landmarks, dict):
        return {domain: _landmarks(values) for domain, values in landmarks.items()}
    return {domain: _landmarks(landmarks) for domain, is_in_hu in in_hu.items() if not is_in_hu}


def _landmarks(values: Any) -> Landmarks:
    numbers = [of_kind(value, "a landmark", *NUMBER) for value in of_kind(values, "landmarks", list)]
    if len(numbers) != len(PERCENTILES) or not (np.diff(numbers) > 0).all():
        raise EntryError(f"landmarks are no {len(PERCENTILES)} rising numbers")
    return np.asarray(numbers, dtype=np.float64)


def _spread_of(slices: Sequence[Mapping[str, Any]], which: slice) -> Spread:
    """Of the distance of slices, or of the sides of pixels, of all slices."""
    lengths = [
        float(of_kind(length, "a length", *NUMBER))
        for found in slices
        for length in entry(found, "spacing_mm", list)[which]
    ]
    if not lengths:
        raise EntryError("`spacing_mm` has too few lengths")
    return Spread(min(lengths), float(np.median(lengths)), max(lengths))


def _spread(values: Any) -> Spread:
    numbers = [float(of_kind(value, "a length", *NUMBER)) for value in of_kind(values, "lengths", list)]
    if len(numbers) != 3:
        raise EntryError(f"lengths are {len(numbers)} numbers, not the least, the median and the greatest")
    return Spread(*numbers)


def _listed(found: Spread) -> list[float]:
    return [found.least, found.median, found.greatest]
