"""A generated volume beside its truth, and volumes put together of a data set's slices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError
from ..saving.names import target_of
from ..saving.records import NUMBER, EntryError, entry, of_kind
from .pairs import FolderPairs, ImagePair, reading_manifest, slices_in

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]

HU, GREY_LEVELS = "HU", "grey levels"


@dataclass(frozen=True, eq=False)
class VolumePair:
    """One generated volume beside its truth, both on one grid.

    Args:
        name: Of the volume, e.g. ``p07_ART``.
        patient: Who it belongs to.
        phase: Contrast phase, e.g. ``ART``.
        direction: ``A2B`` or ``B2A``.
        real: The truth, ``(slices, rows, columns)``.
        fake: What was generated, the same shape.
        body: Likewise, true inside.
        low: The least value that counts.
        high: The largest; ``high - low`` is the peak of PSNR and MS-SSIM.
        unit: Of the values, ``HU`` or ``grey levels``.
        masks: Regions by name, likewise, where any are known.
        spacing_mm: Distance of slices, of rows and of columns; ``None`` where it is not known.

    Raises:
        ShapeError: The arrays are not three-dimensional and of one shape.
    """

    name: str
    patient: str
    phase: str
    direction: str
    real: Array
    fake: Array
    body: BoolArray
    low: float
    high: float
    unit: str
    masks: Mapping[str, BoolArray] = field(default_factory=dict)
    spacing_mm: tuple[float, float, float] | None = None

    def __post_init__(self) -> None:
        for what, array in (("fake", self.fake), ("body", self.body), *self.masks.items()):
            if self.real.ndim != 3 or array.shape != self.real.shape:
                raise ShapeError(
                    f"`{what}` must be (slices, rows, columns) like `real`, {self.real.shape}; got {array.shape}"
                )


@dataclass(frozen=True)
class SlicePlace:
    """Where a slice of a data set lies, and what its grey levels are.

    Args:
        index: Its number in its scan.
        spacing_mm: Distance of slices, of rows and of columns; ``None`` where it is not known.
        window_hu: The HU of grey 0 and of 255; ``None`` where the domain is not in HU.
    """

    index: int
    spacing_mm: tuple[float, float, float] | None
    window_hu: tuple[float, float] | None


def slice_places(manifest: Path, split: str, domain: str) -> dict[str, SlicePlace]:
    """Read where the slices of a split and domain lie, by their names without endings; those it does not tell of lack.

    Raises:
        DataError: The manifest cannot be used.
    """
    if not manifest.is_file():
        return {}
    found: dict[str, SlicePlace] = {}
    with reading_manifest(manifest):
        for name, described in slices_in(manifest, split):
            if described.get("domain") == domain and "index" in described:
                index = entry(described, "index", int)
                found[name] = SlicePlace(index, _spacing(described), window_of(described))
    return found


def _spacing(described: Mapping[str, Any]) -> tuple[float, float, float] | None:
    values = of_kind(described.get("spacing_mm"), "`spacing_mm`", list, type(None))
    if values is None:
        return None
    numbers = [float(of_kind(value, "a spacing", *NUMBER)) for value in values]
    if len(numbers) != 3 or not all(0 < number < np.inf for number in numbers):
        raise EntryError(f"`spacing_mm` must be three numbers above 0; got {values!r}")
    return numbers[0], numbers[1], numbers[2]


def window_of(described: Mapping[str, Any]) -> tuple[float, float] | None:
    """The HU of grey 0 and of 255 of a slice, rounded to a thousandth; ``None`` where it is not in HU.

    Args:
        described: The entry of a manifest's ``slices``.

    Raises:
        EntryError: Its map to HU is none.
    """
    intensity = of_kind(described.get("intensity", {}), "`intensity`", dict)
    if intensity.get("unit") != HU:
        return None
    a, b = float(entry(intensity, "a", *NUMBER)), float(entry(intensity, "b", *NUMBER))
    ends = sorted((round(b, 3), round(255 * a + b, 3)))
    return ends[0], ends[1]


class SlicedVolumes:
    """How the slices of a direction make volumes: those of a patient and phase whose numbers have no gap.

    Args:
        pairs: The slices.
        places: Where each lies, of the target's domain.
    """

    def __init__(self, pairs: FolderPairs, places: Mapping[str, SlicePlace]) -> None:
        members: dict[tuple[str, str], list[tuple[int, str]]] = {}
        unknown = 0
        for name in pairs.names:
            place = places.get(Path(name).stem)
            if place is None:
                unknown += 1
                continue
            members.setdefault(pairs.label(name), []).append((place.index, name))
        self._places = places
        whole = {label: sorted(of_label) for label, of_label in members.items() if _without_gap(of_label)}
        self.members = {} if unknown else whole
        """The numbers and names of the slices of each patient and phase."""
        self.n_left_out = len(members) - len(whole)
        """Volumes whose slices have gaps."""
        self.places_unknown = unknown > 0

    @property
    def n_slices(self) -> tuple[int, int]:
        """Of the shortest and of the longest volume."""
        counts = [len(of_label) for of_label in self.members.values()]
        return min(counts), max(counts)

    def stacked(
        self,
        pairs: Iterable[ImagePair],
        find_body: Callable[[Array, str, float], BoolArray],
        regions: tuple[str | None, str | None] = (None, None),
    ) -> Iterator[VolumePair]:
        """The volumes, each as soon as its last slice comes; no more slices are in memory than have come till then.

        Args:
            pairs: The slices, with whatever images an arm has.
            find_body: From a real volume, its unit, and a value that all but black is above, where the body is.
            regions: The names of the pairs' masks and organs.
        """
        label_of = {name: label for label, found in self.members.items() for _, name in found}
        waiting: dict[tuple[str, str], dict[str, ImagePair]] = {}
        for pair in pairs:
            label = label_of.get(pair.name)
            if label is None:
                continue
            found = waiting.setdefault(label, {})
            found[pair.name] = pair
            if len(found) == len(self.members[label]):
                ordered = [found[name] for _, name in self.members[label]]
                del waiting[label]
                yield self._volume(ordered, find_body, regions)

    def _volume(
        self,
        slices: list[ImagePair],
        find_body: Callable[[Array, str, float], BoolArray],
        regions: tuple[str | None, str | None],
    ) -> VolumePair:
        first = slices[0]
        places = [self._places[Path(pair.name).stem] for pair in slices]
        windows = {place.window_hu for place in places}
        window = next(iter(windows)) if len(windows) == 1 else None
        low, high = (0.0, 255.0) if window is None else window
        unit = GREY_LEVELS if window is None else HU
        real, fake = (
            low + np.stack(images).astype(np.float64) * ((high - low) / 255.0)
            for images in ([pair.real for pair in slices], [pair.fake for pair in slices])
        )
        masks = {} if regions[0] is None else {regions[0]: np.stack([pair.mask for pair in slices])}
        organs = [pair.organ for pair in slices if pair.organ is not None]
        if regions[1] is not None and len(organs) == len(slices):
            masks[regions[1]] = np.stack(organs)
        spacings = {place.spacing_mm for place in places}
        return VolumePair(
            name=f"{first.patient}_{first.phase}",
            patient=first.patient,
            phase=first.phase,
            direction=first.direction,
            real=real,
            fake=fake,
            body=find_body(real, unit, low + (high - low) / 1020),  # a quarter of a grey level above black
            low=low,
            high=high,
            unit=unit,
            masks=masks,
            spacing_mm=next(iter(spacings)) if len(spacings) == 1 else None,
        )


def sliced_volumes(pairs: FolderPairs, root: Path, split: str, direction: str) -> SlicedVolumes:
    """How the slices of a data set's split make volumes.

    Raises:
        DataError: The manifest cannot be used.
    """
    return SlicedVolumes(pairs, slice_places(root / "manifest.json", split, target_of(direction)))


def _without_gap(members: list[tuple[int, str]]) -> bool:
    numbers = sorted(number for number, _ in members)
    return numbers == list(range(numbers[0], numbers[0] + len(numbers)))
