"""A generated image beside its truth, read from the folders of a data set, with what its manifest says of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ConfigError, DataError, MaskError
from ..saving.names import CT_AND_MR, DIRECTIONS, DOMAINS, Domains, source_of, target_of
from ..saving.records import NUMBER, entry, fault_of, of_kind, read_json
from .image_files import ENDINGS, Mask, Picture, list_images, read_grey, read_mask, same_size

Label = tuple[str, str]
"""The patient and the phase of a slice."""


@dataclass(frozen=True, eq=False)
class ImagePair:
    """One generated slice beside its truth, all on the same grid.

    Args:
        name: File name of the slice, e.g. ``p07_ART_052.png``.
        patient: Who it belongs to.
        phase: Contrast phase, e.g. ``ART``.
        direction: ``A2B`` or ``B2A``.
        source: What the generator was given, [H, W] in 0..255, or ``None`` where unknown.
        real: The truth in the target domain, [H, W] in 0..255, uint8 or float64.
        fake: What the generator made, likewise.
        mask: The evaluated region, bool [H, W]; all false where the slice has none.
        hu_per_grey: What a grey level of the truth is in HU, or ``None`` where it is not in HU or not known.
        organ: What the region lies in, bool [H, W], where that is known.
        sigma: The predicted standard deviation [H, W] in grey levels, where the generator predicts one.
        half_width: Half the width [H, W], in grey levels, of the interval that is to hold 90 % of the errors, where
            sigma was calibrated.
    """

    name: str
    patient: str
    phase: str
    direction: str
    source: Picture | None
    real: Picture
    fake: Picture
    mask: Mask
    hu_per_grey: float | None = None
    organ: Mask | None = None
    sigma: Picture | None = None
    half_width: Picture | None = None


class FolderPairs:
    """Pairs read one by one from folders; iterate as often as you like, or ask for one by its file name.

    Made by :func:`pairs_from_folders`. Nothing is kept in memory but the names.
    """

    def __init__(
        self,
        *,
        root: Path,
        split: str,
        direction: str,
        fake_dir: Path | None,
        region: str | None,
        labels: dict[str, Label],
        scales: dict[str, float],
        organ: str | None = None,
    ) -> None:
        self._direction = direction
        self._source_dir = root / f"{split}{source_of(direction)}"
        self._real_dir = root / f"{split}{target_of(direction)}"
        self._mask_dir = None if region is None else root / f"{split}{source_of(direction)}_{region}"
        self._organ_dir = None if organ is None else root / f"{split}{source_of(direction)}_{organ}"
        self._fake_dir = fake_dir
        self._labels = labels
        self._scales = scales

    @property
    def names(self) -> tuple[str, ...]:
        """The file names, sorted."""
        return tuple(self._labels)

    def label(self, name: str) -> Label:
        """The patient and the phase of an image, by its file name."""
        return self._labels[name]

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[ImagePair]:
        return (self[name] for name in self._labels)

    def __getitem__(self, name: str) -> ImagePair:
        if name not in self._labels:
            raise DataError(f"`name` must be one of the {len(self)} images in {self._source_dir}; got {name!r}")
        patient, phase = self._labels[name]
        source = read_grey(self._source_dir / name)
        real = same_size(read_grey(self._real_dir / name), source, self._real_dir / name)
        fake = source
        if self._fake_dir is not None:
            fake = same_size(read_grey(self._fake_dir / name), source, self._fake_dir / name)
        no_region = np.zeros(source.shape, dtype=bool)
        mask = no_region if self._mask_dir is None else read_mask(self._mask_dir / name, source.shape)
        return ImagePair(
            name=name,
            patient=patient,
            phase=phase,
            direction=self._direction,
            source=source,
            real=real,
            fake=fake,
            mask=mask,
            hu_per_grey=self._scales.get(Path(name).stem),
            organ=None if self._organ_dir is None else read_mask(self._organ_dir / name, source.shape),
        )


def pairs_from_folders(
    data_root: str | Path,
    split: str,
    direction: str,
    fake_dir: str | Path | None,
    region: str | None = "tumor",
    organ: str | None = None,
) -> FolderPairs:
    """The pairs of one direction: ``{split}A/x.png`` -> ``fake_dir/x.png``, against ``{split}B/x.png``.

    Folders and names are checked at once, files when they are read.

    Args:
        data_root: Data set in the junyanz layout, with the same file names in both domains of ``split``
            (the same anatomy on the same grid).
        split: ``test``, ``val`` or ``train``.
        direction: ``A2B`` or ``B2A``.
        fake_dir: The generated images, under the names of their sources; other files in it are left alone.
            ``None`` puts the source in their place, which is all the references need.
        region: The evaluated region; its masks lie in ``{split}{source domain}_{region}``; ``None`` for none.
        organ: The region it lies in, for the lesion audit; its masks lie likewise.

    Raises:
        ConfigError: ``direction`` is neither.
        DataError: A folder is missing or has no images, a name is unpaired, or patient and phase are unknown;
            on reading: a file cannot be read, is not 8-bit, or has another size than its source.
        MaskError: A mask folder or mask is missing; on reading: a mask is not 0 and 255, or has another size.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"`direction` must be A2B or B2A; got {direction!r}")
    root = Path(data_root)
    source_dir, real_dir = root / f"{split}{source_of(direction)}", root / f"{split}{target_of(direction)}"
    names = list_images(source_dir, "data_root")
    rule = "scores need every name in both domains, as `roi-progressive prepare --align` writes them"
    _all_there(names, list_images(real_dir, "data_root"), real_dir, rule)
    _all_there(list_images(real_dir, "data_root"), names, source_dir, rule)
    if region is not None:
        _require_masks(names, root / f"{split}{source_of(direction)}_{region}", region)
    if fake_dir is not None:
        generated = list_images(Path(fake_dir), "fake_dir")
        _all_there(names, generated, Path(fake_dir), "a generated image has the file name of its source")
    labels, scales = _labels_and_scales(root, split, names, target_of(direction))
    return FolderPairs(
        root=root,
        split=split,
        direction=direction,
        fake_dir=None if fake_dir is None else Path(fake_dir),
        region=region,
        labels=labels,
        scales=scales,
        organ=organ,
    )


def _require_masks(names: tuple[str, ...], folder: Path, region: str) -> None:
    if not folder.is_dir():
        raise MaskError(
            f"`region` {region!r} needs the mask folder {folder}, which is missing; prepare it or name another region"
        )
    rule = "a slice without the region has an all-zero mask"
    _all_there(names, list_images(folder, "region"), folder, rule, MaskError)


def require_folders(folders: Iterable[Path]) -> None:
    """Check that there are folders at all, before anything is scored.

    Raises:
        DataError: One is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise DataError(f"`sigma` must be a folder of maps; {str(folder)!r} is not a folder; check the path")


def read_manifest(path: Path, domain: str, split: str | None = None) -> tuple[dict[str, Label], dict[str, float]]:
    """Read a data set's ``manifest.json``: the patient and phase of every slice, and what a grey level is in HU.

    Args:
        path: The manifest, JSON with a list ``slices`` of entries with ``name``, ``patient`` and ``phase``; an
            entry's ``intensity`` is ``{"a": .., "b": .., "unit": "HU"}`` where ``a * grey + b`` is the value in HU.
        domain: Whose HU, ``A`` or ``B``; there are none for a domain that is no CT.
        split: Only slices whose ``split`` it is.

    Returns:
        Patient and phase, and HU per grey level of 0..255, both by the slice's name without its ending.

    Raises:
        DataError: The file cannot be used, gives one name to two patients or phases, or has a factor to HU that is not
            a number other than 0.
    """
    labels: dict[str, Label] = {}
    scales: dict[str, float] = {}
    with reading_manifest(path):
        for name, found in slices_in(path, split):
            label = (str(entry(found, "patient", str, int)), str(entry(found, "phase", str, int)))
            if labels.setdefault(name, label) != label:
                raise ValueError(f"{name} has the patients and phases {labels[name]} and {label}")
            intensity = of_kind(found.get("intensity", {}), "`intensity`", dict)
            if found.get("domain") == domain and intensity.get("unit") == "HU":
                scales[name] = abs(float(entry(intensity, "a", *NUMBER)))
                if not 0.0 < scales[name] < math.inf:
                    raise ValueError(f"{name} has the factor {intensity['a']!r} to HU")
    return labels, scales


def read_domains(place: Path) -> Domains:
    """What a data set's ``manifest.json`` calls its domains: CT and MR where it names none, or there is none.

    Args:
        place: The manifest, or the data set.

    Raises:
        DataError: The manifest cannot be used.
    """
    path = place / "manifest.json" if place.is_dir() else place
    if not path.is_file():
        return CT_AND_MR
    with reading_manifest(path):
        named = read_json(path).get("domains")
        return CT_AND_MR if named is None else Domains.of([entry(named, domain, str) for domain in DOMAINS])


def label_in_name(stem: str) -> Label | None:
    """Patient and phase of ``<patient>_<phase>_<slice index>``, or ``None`` for other names.

    Example:
        >>> label_in_name("p07_ART_052")
        ('p07', 'ART')
        >>> label_in_name("liver7") is None
        True
    """
    parts = stem.rsplit("_", 2)
    return (parts[0], parts[1]) if len(parts) == 3 and all(parts) and parts[2].isdigit() else None


def _all_there(
    wanted: tuple[str, ...],
    present: tuple[str, ...],
    folder: Path,
    rule: str,
    error: Callable[[str], Exception] = DataError,
) -> None:
    stems = {Path(name).stem for name in present}  # of float32 images the masks have another ending
    missing = sorted(name for name in wanted if Path(name).stem not in stems)
    if missing:
        raise error(
            f"{folder} lacks {missing[0]} and {len(missing) - 1} more of {len(wanted)}; {rule}"
            if missing[1:]
            else f"{folder} lacks {missing[0]}; {rule}"
        )


def _labels_and_scales(
    root: Path, split: str, names: tuple[str, ...], domain: str
) -> tuple[dict[str, Label], dict[str, float]]:
    manifest = root / "manifest.json"
    known, scales = read_manifest(manifest, domain, split) if manifest.is_file() else ({}, {})
    return {name: known.get(Path(name).stem) or _label_of(name) for name in names}, scales


def _label_of(name: str) -> Label:
    label = label_in_name(Path(name).stem)
    if label is None:
        raise DataError(
            f"{name} must be named <patient>_<phase>_<slice index>.png or be listed in manifest.json; rename it"
        )
    return label


def slices_in(path: Path, split: str | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """The name without its ending, and the entry, of every slice in a manifest; in :func:`reading_manifest`."""
    for found in entry(read_json(path), "slices", list):
        if split is None or entry(found, "split", str) == split:
            name = entry(found, "name", str)
            yield Path(name).stem if name.lower().endswith(ENDINGS) else name, found


@contextmanager
def reading_manifest(path: Path) -> Iterator[None]:
    """What cannot be used of a manifest in the block becomes a ``DataError`` of one line."""
    try:
        yield
    except (OSError, ValueError) as cause:
        raise DataError(f"{path} must be a data set's manifest; {fault_of(cause)}") from cause
