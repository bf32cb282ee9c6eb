"""A made-up data set with a known truth: abdominal CT and MR slices with liver tumours, for trying everything out.

Nothing in it comes from a patient. What makes it a test of region guidance: the large organs are easy to translate; the
tumours are small, a hypodense one is darker than the liver in CT but brighter in MR where a cyst is darker in both, and
they carry a texture whose way from CT to MR turns round (see ``phantom_tissue``). Painting every tumour with the mean
of the training set scores about 15.5 dB in the tumour; a small network trained on true pairs scores 6 dB more, in both
directions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from roi_progressive.data.phantom.anatomy import BoolArray, Canvas, paint_patient
from roi_progressive.data.phantom.tissue import LESION_TYPES, PHANTOM_VERSION, PHASES, FloatArray
from roi_progressive.errors import ConfigError, DataError
from roi_progressive.saving.locks import only_writer
from roi_progressive.saving.names import DOMAINS, SPLITS
from roi_progressive.saving.records import entry, read_json, write_json
from roi_progressive.saving.whole_files import writing
from roi_progressive.saving.written import new_folder, write_names

REGIONS = ("liver", "tumor")
NOISE_GREY_LEVELS = 2.5


@dataclass(frozen=True)
class PhantomPatient:
    """One patient in memory.

    Args:
        ct: Float32 (slices, size, size) in [-1, 1].
        mr: The same slices as MR, pixel for pixel.
        masks: ``liver`` (tumours included) and ``tumor``, boolean, of the same shape.
        phase: ``ART``, ``PV`` or ``NC``.
        lesions: Type of each tumour, the main one first.
        first_index: Number of the first slice in the patient's notional volume.
    """

    ct: FloatArray
    mr: FloatArray
    masks: dict[str, BoolArray]
    phase: str
    lesions: tuple[str, ...]
    first_index: int


@dataclass(frozen=True)
class _Plan:
    patient: str
    number: int
    split: str
    domains: tuple[str, ...]
    phase: str
    lesion: str


def phantom_patient(
    seed: int | Sequence[int], *, phase: str = "PV", lesion: str = "hypodense", slices: int = 9, size_px: int = 64
) -> PhantomPatient:
    """Draw one patient: the slices around the largest area of the main tumour, which every slice shows.

    Args:
        seed: Whole number, or several (all of at least 0), that fixes everything about the patient.
        phase: ``ART``, ``PV`` or ``NC``.
        lesion: Type of the main tumour: ``hypodense``, ``rim`` (bright border, necrotic core) or ``cyst``.
        slices: How many slices.
        size_px: Side of the square slices, at least 32.

    Raises:
        ConfigError: An argument is out of range.
    """
    _choice("phase", phase, PHASES)
    _choice("lesion", lesion, LESION_TYPES)
    _at_least("slices", slices, 1)
    _at_least("size_px", size_px, 32)
    rng = np.random.default_rng(seed)
    canvas = Canvas.blank(rng, phase, slices, size_px)
    masks, lesions = paint_patient(rng, canvas, lesion)
    first_index = int(rng.integers(20, 61))
    ct, mr = (
        np.clip((image + rng.normal(0, NOISE_GREY_LEVELS, image.shape)) / 127.5 - 1, -1, 1).astype(np.float32)
        for image in (canvas.ct, canvas.mr)
    )
    return PhantomPatient(ct, mr, masks, phase, lesions, first_index)


def make_phantom(
    out: str | Path,
    *,
    n_train: int = 24,
    n_val: int = 3,
    n_test: int = 12,
    slices_per_patient: int = 9,
    size_px: int = 64,
    seed: int = 0,
    force: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Write a phantom data set: unpaired for training, paired for validation and test.

    Every second training patient is seen by CT only, the others by MR only. A validation or test patient has both,
    under the same names. Phases and main tumour types take turns among the patients of each part, so that three test
    patients show every phase and every type, and nine every combination.

    Args:
        out: Folder to fill: ``trainA`` (CT), ``trainB`` (MR), ..., mask folders ``trainA_liver``,
            ``trainA_tumor``, ..., all 8-bit grey PNG, and ``manifest.json``.
        n_train: Training patients, at least 2.
        n_val: Validation patients.
        n_test: Test patients; fewer than three cannot show all phases.
        slices_per_patient: Slices around the largest tumour area.
        size_px: Side of the square slices, at least 32.
        seed: Same seed and sizes, same bytes.
        force: Replace an earlier phantom in ``out``, by its record ``written.json``; other files there are left alone.
        progress: Show a progress bar.

    Returns:
        The manifest, as ``manifest.json`` holds it.

    Raises:
        ConfigError: A number is out of range.
        DataError: ``out`` holds something and ``force`` is not set, is a file, holds prepared data or a file that is
            not ours under a name of ours, or is being written by another process.
    """
    _at_least("n_train", n_train, 2)
    for name, value in (("n_val", n_val), ("n_test", n_test), ("seed", seed)):
        _at_least(name, value, 0)
    _at_least("slices_per_patient", slices_per_patient, 1)
    _at_least("size_px", size_px, 32)
    _refuse_prepared_data(Path(out) / "manifest.json")
    with only_writer(out), new_folder(out, force=force) as folder:
        for name in _folders():
            (folder / name).mkdir()
        entries: list[dict[str, Any]] = []
        plans = list(_plans({"train": n_train, "val": n_val, "test": n_test}))
        for plan in _with_progress(plans, progress):
            patient = phantom_patient(
                (seed, plan.number), phase=plan.phase, lesion=plan.lesion, slices=slices_per_patient, size_px=size_px
            )
            entries += _write_patient(folder, plan, patient)
        manifest = _manifest(size_px, seed, entries)
        write_json(folder / "manifest.json", manifest)
        write_names(folder)
    return manifest


def _manifest(size_px: int, seed: int, entries: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "format": 1,
        "kind": "phantom",
        "phantom_version": PHANTOM_VERSION,
        "size_px": size_px,
        "regions": list(REGIONS),
        "phases": list(PHASES),
        "seed": seed,
        "slices": entries,
    }


def _plans(n_patients: dict[str, int]) -> Iterator[_Plan]:
    number = 0
    for split in SPLITS:
        for k in range(n_patients[split]):
            domains, turn = ((DOMAINS[k % 2],), k // 2) if split == "train" else (DOMAINS, k)
            lesion = LESION_TYPES[(turn + turn // 3) % 3]
            yield _Plan(f"p{number:03d}", number, split, domains, PHASES[turn % 3], lesion)
            number += 1


def _write_patient(folder: Path, plan: _Plan, patient: PhantomPatient) -> list[dict[str, Any]]:
    entries = []
    for domain in plan.domains:
        volume = patient.ct if domain == "A" else patient.mr
        for k, image in enumerate(volume):
            index = patient.first_index + k
            name = f"{plan.patient}_{plan.phase}_{index:03d}.png"
            _write_png(folder / f"{plan.split}{domain}" / name, np.round((image + 1) * 127.5).astype(np.uint8))
            for region in REGIONS:
                mask = patient.masks[region][k].astype(np.uint8) * 255
                _write_png(folder / f"{plan.split}{domain}_{region}" / name, mask)
            entries.append(
                {
                    "name": name,
                    "split": plan.split,
                    "domain": domain,
                    "patient": plan.patient,
                    "phase": plan.phase,
                    "index": index,
                    "lesions": list(patient.lesions),
                    "region_areas_px": {region: int(patient.masks[region][k].sum()) for region in REGIONS},
                }
            )
    return entries


def _write_png(path: Path, image: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    with writing(path):
        Image.fromarray(image).save(path, format="PNG")


def _folders() -> list[str]:
    return [
        f"{split}{domain}{tail}" for split in SPLITS for domain in DOMAINS for tail in ("", *(f"_{r}" for r in REGIONS))
    ]


def _refuse_prepared_data(manifest: Path) -> None:
    """``force`` replaces a phantom, never data prepared from real patients."""
    if not manifest.exists():
        return
    try:
        kind = entry(read_json(manifest), "kind", str)
    except (OSError, ValueError):
        kind = None
    if kind != "phantom":
        raise DataError(f"`out` must not hold other data; {str(manifest)!r} is not a phantom's; name another folder")


def _with_progress(plans: list[_Plan], progress: bool) -> Iterator[_Plan]:
    if not progress:
        yield from plans
        return
    from tqdm import tqdm

    yield from tqdm(plans, desc="phantom", unit="patient")


def _at_least(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ConfigError(f"`{name}` must be a whole number of at least {low}; got {value!r}")


def _choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ConfigError(f"`{name}` must be one of {', '.join(choices)}; got {value!r}")
