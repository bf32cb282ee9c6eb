"""Slices of gliomas, T1 and FLAIR of the same patients: what the study on real scans trains, tunes and tests on.

The scans are a folder of ``NAME_t1.nii.gz``, ``NAME_flair.nii.gz`` and ``NAME_tumor.nii.gz`` on one grid. They are
normalised, framed and resized by the functions that ``roi-progressive prepare`` is made of: each volume as an MR by
itself, the slice with the largest tumour and four on each side, one frame a patient.

Patients are parted once, by a fixed seed: 40 to train on, 8 to tune, 30 to test. The 48 that are not tested on are
parted into six times 40 and 8, fold by fold, so that tuning sees each of them once as a patient to tune on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from roi_progressive.data.framing import choose_slices, resize_image, resize_mask, square_around
from roi_progressive.data.preprocessing import BACKGROUND, foreground_mask, normalise_mr, to_grey
from roi_progressive.errors import DataError

DOMAINS = {"A": "t1", "B": "flair"}
SPLIT_SEED = 16
N_TEST = 30
N_FOLDS = 6
SLICES_EACH_SIDE = 4


@dataclass(frozen=True)
class Gliomas:
    """Prepared slices, in the order of their names.

    Args:
        images: By domain, uint8 ``[slices, size, size]``.
        masks: The tumour, bool ``[slices, size, size]``.
        names: ``<patient>_NC_<slice index>``.
        patients: Whose each slice is.
    """

    images: dict[str, npt.NDArray[np.uint8]]
    masks: npt.NDArray[np.bool_]
    names: tuple[str, ...]
    patients: tuple[str, ...]

    def of(self, patients: Sequence[str]) -> list[int]:
        """The indices of these patients' slices."""
        wanted = set(patients)
        return [index for index, patient in enumerate(self.patients) if patient in wanted]

    def save(self, path: Path) -> None:
        """Write everything as one compressed file."""
        arrays = {f"image_{domain}": image for domain, image in self.images.items()}
        np.savez_compressed(path, **arrays, masks=np.packbits(self.masks), names=self.names, patients=self.patients)

    @classmethod
    def load(cls, path: Path) -> Gliomas:
        """Read what ``save`` wrote."""
        with np.load(path) as file:
            images = {domain: file[f"image_{domain}"] for domain in DOMAINS}
            shape = images["A"].shape
            masks = np.unpackbits(file["masks"], count=int(np.prod(shape))).reshape(shape).astype(bool)
            return cls(images, masks, tuple(map(str, file["names"])), tuple(map(str, file["patients"])))


@dataclass(frozen=True)
class Fold:
    """Which patients give T1 to train on, which FLAIR, and which are looked at afterwards."""

    give_A: tuple[str, ...]
    give_B: tuple[str, ...]
    scored: tuple[str, ...]

    def shortened(self, per_domain: int) -> Fold:
        """The same with so many patients a domain."""
        return Fold(self.give_A[:per_domain], self.give_B[:per_domain], self.scored)


def tuning_fold(patients: Sequence[str], number: int) -> Fold:
    """The ``number``-th of six ways to part the patients that are not tested on: 40 to train, 8 to tune."""
    rest = _shuffled(patients)[N_TEST:]
    tuned = rest[number % N_FOLDS :: N_FOLDS]
    training = [patient for patient in rest if patient not in tuned]
    return Fold(tuple(training[::2]), tuple(training[1::2]), tuple(tuned))


def test_fold(patients: Sequence[str]) -> Fold:
    """The 40 patients of the first fold to train on, and the 30 that no tuning has seen."""
    training = tuning_fold(patients, 0)
    return Fold(training.give_A, training.give_B, tuple(_shuffled(patients)[:N_TEST]))


def _shuffled(patients: Sequence[str]) -> list[str]:
    order = sorted(set(patients))
    random.Random(SPLIT_SEED).shuffle(order)
    return order


def read_gliomas(folder: Path, size_px: int) -> Gliomas:
    """Read, normalise, frame and resize all patients of a folder.

    Raises:
        DataError: A scan is missing, or the volumes of a patient are not on one grid.
    """
    names = sorted(path.name.removesuffix("_tumor.nii.gz") for path in folder.glob("*_tumor.nii.gz"))
    if not names:
        raise DataError(f"`scans` must hold NAME_t1, NAME_flair and NAME_tumor as .nii.gz; got none in {folder}")
    made = [slices for name in names for slices in _of_patient(folder, name, size_px)]
    return Gliomas(
        {domain: np.stack([pictures[domain] for _, _, pictures, _ in made]) for domain in DOMAINS},
        np.stack([mask for _, _, _, mask in made]),
        tuple(name for name, _, _, _ in made),
        tuple(patient for _, patient, _, _ in made),
    )


def _of_patient(folder: Path, name: str, size_px: int) -> list[tuple[str, str, dict[str, Any], Any]]:
    import SimpleITK as sitk

    def read(kind: str) -> Any:
        image: Any = sitk.DICOMOrient(sitk.ReadImage(str(folder / f"{name}_{kind}.nii.gz")), "LPS")
        return image, sitk.GetArrayFromImage(image)

    (reference, tumour), volumes = read("tumor"), {domain: read(kind) for domain, kind in DOMAINS.items()}
    if any(image.GetSize() != reference.GetSize() for image, _ in volumes.values()):
        raise DataError(f"`scans` must have a patient's volumes on one grid; {name} has not; resample them first")
    bodies = {domain: foreground_mask(array) for domain, (_, array) in volumes.items()}
    scaled = {domain: normalise_mr(array, foreground=bodies[domain])[0] for domain, (_, array) in volumes.items()}
    mask = tumour > 0
    chosen = choose_slices(mask.sum(axis=(1, 2)), SLICES_EACH_SIDE)
    body = np.logical_or(bodies["A"], bodies["B"])[chosen].any(axis=0)
    width, height, _ = reference.GetSpacing()
    square = square_around(body, mask[chosen].any(axis=0), (height, width))
    patient = name.replace("_", "-")  # a file name has patient, phase and slice, parted by underscores
    made = []
    for index in chosen:
        pictures = {d: to_grey(resize_image(square.cut(s[index], BACKGROUND), size_px)) for d, s in scaled.items()}
        drawn = resize_mask(square.cut(mask[index], False), size_px)
        made.append((f"{patient}_NC_{index:03d}", patient, pictures, drawn))
    return made


def write_folders(out: Path, slices: Gliomas, fold: Fold) -> None:
    """Write ``out/data``, unpaired to train on and paired to test on, and ``out/paired``, where every training patient
    gives both images, as pictures and masks in the layout that ``roi-progressive train`` reads."""
    training = {"data": {"A": fold.give_A, "B": fold.give_B}}
    both = (*fold.give_A, *(patient for patient in fold.give_B if patient not in fold.give_A))
    training["paired"] = dict.fromkeys(DOMAINS, both)
    for folder, givers in training.items():
        for domain in DOMAINS:
            _write(out / folder / f"train{domain}", slices, slices.of(givers[domain]), domain)
            _write(out / folder / f"test{domain}", slices, slices.of(fold.scored), domain)


def _write(folder: Path, slices: Gliomas, chosen: Sequence[int], domain: str) -> None:
    masks = folder.with_name(f"{folder.name}_tumor")
    for place in (folder, masks):
        place.mkdir(parents=True, exist_ok=True)
    for index in chosen:
        Image.fromarray(slices.images[domain][index]).save(folder / f"{slices.names[index]}.png")
        Image.fromarray(slices.masks[index].astype(np.uint8) * 255).save(masks / f"{slices.names[index]}.png")
