"""What ``manifest.json`` says of a prepared data set: enough to make it again and to get source values back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from ..saving.names import DOMAINS, SPLITS
from .dicom_files import is_dicom, is_segmentation
from .options import MR_STEPS, PrepareOptions
from .pictures import Picture
from .preprocessing import MRMapping
from .standardise import PERCENTILES, Landmarks
from .volume_list import VolumeList
from .volumes import ORIENTATION


def slice_record(picture: Picture, split: str, size_px: int) -> dict[str, Any]:
    """One entry of ``slices``.

    ``a * grey + b`` of its ``intensity`` gives HU (``unit``) or the scanner's values, where ``grey`` is the value in a
    PNG, or ``(x + 1) * 127.5`` of the value x in an ``.npy``, to float precision. Standardised values lie on the scale
    of ``mr_standard`` and come back through ``source_landmarks``. ``series`` tells DICOM series
    apart: the first 16 digits of the SHA-256 of the series' UID, which itself would identify the examination.
    """
    scan, square = picture.scan, picture.square
    a, b = scan.mapping.of_grey()
    intensity: dict[str, Any] = {"a": a, "b": b, "unit": "HU" if scan.row.in_hounsfield else "source"}
    if isinstance(scan.mapping, MRMapping):
        intensity |= {"mean": scan.mapping.mean, "std": scan.mapping.std}
    if scan.source_landmarks is not None:
        intensity |= {"unit": "standard", "source_landmarks": list(scan.source_landmarks)}
    through, rows, columns = scan.spacing_mm
    entry: dict[str, Any] = {
        "name": picture.name,
        "split": split,
        "domain": scan.row.domain,
        "patient": scan.row.patient,
        "phase": scan.row.phase,
        "modality": scan.row.modality,
        "source": scan.row.image.name,
        "index": picture.index,
        "spacing_mm": [through, rows * square.height / size_px, columns * square.width / size_px],
        "source_spacing_mm": [through, rows, columns],
        "square_px": {"top": square.top, "left": square.left, "height": square.height, "width": square.width},
        "intensity": intensity,
        "region_areas_px": {region: int(mask.sum()) for region, mask in picture.masks.items()},
    }
    if scan.volume.series is not None:
        entry["series"] = hashlib.sha256(scan.volume.series.encode()).hexdigest()[:16]
    if scan.borrowed:
        entry["masks_of_other_modality"] = list(scan.borrowed)
    return entry


def versions(volumes: VolumeList) -> dict[str, str]:
    """Versions of the packages that compute pictures and masks; pydicom and highdicom where a row needs them."""
    packages = ["roi-progressive", "numpy", "scikit-image", "SimpleITK"]
    masks = [mask for row in volumes.rows for mask in row.masks.values()]
    if any(row.image.is_dir() or is_dicom(row.image) for row in volumes.rows) or any(
        mask.contour is not None or is_dicom(mask.path) for mask in masks
    ):
        packages.append("pydicom")
    if any(is_segmentation(mask.path) for mask in masks):
        packages.append("highdicom")
    return {package: package_version(package) for package in packages}


def _standard_record(standard: Mapping[str, Landmarks]) -> dict[str, Any] | None:
    if not standard:
        return None
    by_domain = {domain: landmarks.tolist() for domain, landmarks in sorted(standard.items())}
    landmarks = by_domain if len(by_domain) > 1 else next(iter(by_domain.values()))
    return {"percentiles": list(PERCENTILES), "landmarks": landmarks, "fitted_on": "train"}


def package_version(package: str) -> str:
    """Of an installed package; ``unknown`` where it is not installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


def manifest_record(
    volumes: VolumeList,
    options: PrepareOptions,
    split_of: Mapping[str, str],
    slices: list[dict[str, Any]],
    standard: Mapping[str, Landmarks] | None = None,
) -> dict[str, Any]:
    """The whole manifest; slices sorted by split, domain and name. No paths, no names but the ``patient`` column.

    ``landmarks`` of ``mr_standard`` are a list, or lists by domain where both were standardised, each by its own.
    """
    present = {entry["phase"] for entry in slices}
    assigned = options.split_of is not None or any(row.split is not None for row in volumes.rows)
    return {
        "format": 1,
        "kind": "prepared",
        "size_px": options.size_px,
        "dtype": options.dtype,
        "regions": list(volumes.regions),
        "phases": [phase for phase in dict.fromkeys(row.phase for row in volumes.rows) if phase in present],
        "domains": dict(zip(DOMAINS, options.domains, strict=True)),
        "paired": options.in_pairs,
        "side_by_side": options.paired,
        "orientation": ORIENTATION,
        "ct_window": {"width": options.ct_window[0], "level": options.ct_window[1]},
        "mr_percentiles": list(options.mr_percentiles),
        "mr_steps": [step for step in MR_STEPS if step in options.mr_steps],
        "mr_standard": _standard_record(standard or {}),
        "slices_each_side": options.slices_each_side,
        **({"neighbours": options.neighbours} if options.neighbours else {}),
        "field_of_view_mm": options.field_of_view_mm,
        "split": {
            "by": "given" if assigned else "seed",
            "fractions": None if assigned else list(options.split),
            "seed": None if assigned else options.split_seed,
            "patients": dict(sorted(split_of.items())),
        },
        "versions": versions(volumes),
        "slices": sorted(slices, key=lambda entry: (SPLITS.index(entry["split"]), entry["domain"], entry["name"])),
    }
