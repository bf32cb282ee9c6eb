"""Folders of nnU-Net (versions 1 and 2) and of the Medical Segmentation Decathlon, whose layout it grew from."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError
from .found_scans import FoundMask, FoundScan, dimensions
from .label_names import DATASET_FILE, dataset_labels, label_names, read_dataset, stem_of

IMAGES, LABELS = "imagesTr", "labelsTr"
_SPLIT_HINT = (
    "split it first, e.g. with nnU-Net's `nnUNetv2_convert_MSD_dataset -i {folder}`, and list what it writes with "
    "--layout nnunet"
)


def nnunet_scans(folder: Path, notes: list[str]) -> list[FoundScan]:
    """The scans of an nnU-Net folder: ``imagesTr/CASE_0000.nii.gz`` for each channel, ``labelsTr/CASE.nii.gz``.

    Args:
        folder: The one with ``dataset.json``, whose ``channel_names`` (version 2) or ``modality`` (1) names channels.
        notes: What the user should know is appended here.

    Raises:
        DataError: ``dataset.json`` is missing or unusable, a folder is missing, or there are no scans.
    """
    description = folder / DATASET_FILE
    content = read_dataset(description)
    ending = str(content.get("file_ending", ".nii.gz"))
    if stem_of(f"x{ending}") is None:
        raise DataError(f"{description} must be of volumes; its files end in {ending}; `prepare` takes volumes alone")
    channels = _channels(content, description)
    if "dataset" in content:
        return _listed(folder, content, channels, description)
    images = _folder(folder / IMAGES)
    found = []
    cases = sorted({match[1] for path in images.iterdir() if (match := _case(path.name, ending)) is not None})
    for case in cases:
        labels = folder / LABELS / f"{case}{ending}"
        masks = (FoundMask(labels, label_names(labels)),) if labels.is_file() else ()
        if not masks:
            notes.append(f"{case} has no {LABELS}/{labels.name}; it is listed without masks")
        for number, name in channels.items():
            image = images / f"{case}_{number:04d}{ending}"
            if image.is_file():
                found.append(FoundScan(case, name, image, masks=masks))
            else:
                notes.append(f"{case} lacks {image.name}, its {name}; it is left out")
    if not found:
        raise DataError(f"{images} must hold files such as case_0000{ending}; it has none; check `file_ending`")
    _note_test_images(folder, notes)
    return found


def decathlon_scans(folder: Path, notes: list[str]) -> list[FoundScan]:
    """The scans of a task of the Medical Segmentation Decathlon: ``imagesTr/NAME.nii.gz``, ``labelsTr/NAME.nii.gz``.

    Args:
        folder: The one with ``dataset.json``.
        notes: What the user should know is appended here.

    Raises:
        DataError: ``dataset.json`` is missing or unusable, there are no scans, or the files hold several modalities.
    """
    description = folder / DATASET_FILE
    content = read_dataset(description)
    channels = _channels(content, description)
    if len(channels) > 1:
        raise DataError(
            f"{description} must be of three-dimensional files; each of its files holds {len(channels)} modalities in "
            f"a fourth dimension ({', '.join(channels.values())}); {_SPLIT_HINT.format(folder=folder)}"
        )
    (modality,) = channels.values()
    found = []
    for image, labels in _pairs(folder, content, description):
        size = dimensions(image)
        if len(size) > 3:
            shape = " x ".join(map(str, size))
            raise DataError(f"{image} must be three-dimensional; it is {shape}; {_SPLIT_HINT.format(folder=folder)}")
        masks = (FoundMask(labels, label_names(labels)),) if labels is not None and labels.is_file() else ()
        if not masks:
            notes.append(f"{image.name} has no file of labels; it is listed without masks")
        found.append(FoundScan(str(stem_of(image.name)), modality, image, masks=masks))
    _note_test_images(folder, notes)
    return found


def _pairs(folder: Path, content: Mapping[str, Any], description: Path) -> list[tuple[Path, Path | None]]:
    """Image and labels of each training case, as listed or, without a list, by their names."""
    listed = content.get("training", [])
    try:
        named = [(folder / str(entry["image"]), folder / str(entry["label"])) for entry in listed]
    except (TypeError, KeyError) as error:
        raise DataError(
            f"{description} must list `training` as entries with image and label; got {listed!r:.80}; correct it"
        ) from error
    if named:
        missing = [image for image, _ in named if not image.is_file()]
        if missing:
            raise DataError(
                f"{description} must list files that are there; {len(missing)} of {len(named)} images are not, the "
                f"first {missing[0]}; bring them back"
            )
        return [(image, labels) for image, labels in sorted(named)]
    images = [path for path in sorted(_folder(folder / IMAGES).iterdir()) if _is_volume(path)]
    if not images:
        raise DataError(f"{folder / IMAGES} must hold volume files; it has none; check the path")
    return [(image, folder / LABELS / image.name) for image in images]


def _channels(content: Mapping[str, Any], description: Path) -> dict[int, str]:
    given = content.get("channel_names", content.get("modality"))
    try:
        channels = {int(number): str(name).strip() for number, name in given.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f"{description} must name its channels in `channel_names` or `modality`, e.g. {{'0': 'CT'}}; got "
            f"{given!r}; correct it"
        ) from error
    if not channels or not all(channels.values()):
        raise DataError(f"{description} must name a channel; got {given!r}; write e.g. {{'0': 'CT'}}")
    return dict(sorted(channels.items()))


def _listed(folder: Path, content: Mapping[str, Any], channels: dict[int, str], description: Path) -> list[FoundScan]:
    """The cases of version 2 that lie anywhere, as ``dataset`` lists them."""
    labels = dataset_labels(content, description)
    found = []
    try:
        for case, entry in sorted(content["dataset"].items()):
            mask = FoundMask((folder / entry["label"]).resolve(), labels, by_name=False)
            for name, image in zip(channels.values(), entry["images"], strict=True):
                found.append(FoundScan(case, name, (folder / image).resolve(), masks=(mask,)))
    except (AttributeError, TypeError, KeyError, ValueError) as error:
        raise DataError(
            f"{description} must list each case of `dataset` with an image for every channel and a label; "
            f"{type(error).__name__}: {error}; correct it"
        ) from error
    return found


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise DataError(f"{path} must be the folder of images; it is missing; give the folder of the data set itself")
    return path


def _is_volume(path: Path) -> bool:
    return not path.name.startswith(".") and path.is_file() and stem_of(path.name) is not None


def _case(name: str, ending: str) -> re.Match[str] | None:
    return None if name.startswith(".") else re.fullmatch(rf"(.+)_\d{{4}}{re.escape(ending)}", name)


def _note_test_images(folder: Path, notes: list[str]) -> None:
    if (folder / "imagesTs").is_dir() and any(_is_volume(path) for path in (folder / "imagesTs").iterdir()):
        notes.append("imagesTs is left aside: its images have no labels")
