"""Any two folders of images, and one of masks, as pairs."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..saving.names import DIRECTIONS, ONE_PHASE, target_of
from .image_files import WHITE_16_BIT, Picture, Scale, list_pictures, read_picture, read_region
from .pairs import ImagePair, Label, label_in_name, read_manifest
from .scales import check_scale


class FilePairs:
    """Pairs read one by one; iterate as often as you like. Made by :func:`pairs_from_files`.

    Nothing is kept in memory but the names. ``patients_unknown`` says that every image counts as a patient of its own,
    ``notes`` what else the user should know.
    """

    def __init__(
        self,
        *,
        direction: str,
        files: Mapping[str, tuple[Path, Path, Path | None]],
        labels: Mapping[str, Label],
        hu_per_grey: Mapping[str, float],
        scale: Scale,
        patients_unknown: bool,
        organs: Mapping[str, Path],
        notes: Sequence[str] = (),
    ) -> None:
        self._direction = direction
        self._files = files
        self._labels = labels
        self._hu_per_grey = hu_per_grey
        self._scale = scale
        self._organs = organs
        self.patients_unknown = patients_unknown
        self.notes = tuple(notes)

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[ImagePair]:
        for stem, (real_path, fake_path, mask_path) in self._files.items():
            real, fake = read_picture(real_path, self._scale), read_picture(fake_path, self._scale)
            if fake.shape != real.shape:
                raise DataError(
                    f"{fake_path} must have the size of the real image, {_size(real)}; got {_size(fake)}; resize it"
                )
            no_region = np.zeros(real.shape, dtype=bool)
            mask = no_region if mask_path is None else read_region(mask_path, real.shape)
            patient, phase = self._labels[stem]
            yield ImagePair(
                name=real_path.name,
                patient=patient,
                phase=phase,
                direction=self._direction,
                source=None,
                real=real,
                fake=fake,
                mask=mask,
                hu_per_grey=self._hu_per_grey.get(stem),
                organ=read_region(self._organs[stem], real.shape) if self._organs else None,
            )


def pairs_from_files(
    real: str | Path,
    fake: str | Path,
    masks: str | Path | None,
    *,
    direction: str = "A2B",
    manifest: str | Path | None = None,
    organs: str | Path | None = None,
    white: float | None = None,
    array_range: tuple[float, float] | None = None,
) -> FilePairs:
    """The pairs of three folders that hold the same names, whatever their endings.

    Patient and phase come from the manifest; without it from names like ``<patient>_<phase>_<slice index>``, or, where
    all begin with one word and a number, ``volume_<number>_<slice index>``, from the number; where no
    name is like that, every image counts as a patient of its own, in the phase ``all``. Folders and names are checked
    at once, files when they are read.

    Args:
        real: The true images of the target domain: ``.png``, ``.tif`` (8- or 16-bit) or ``.npy``.
        fake: The generated ones, on the same grid.
        masks: The evaluated region of each, 0 and 255; all 0 where the slice does not show it. ``None`` scores whole
            images alone.
        direction: ``A2B`` or ``B2A``, which the real images are the B or the A of.
        manifest: A data set's ``manifest.json``; where it maps the real images to HU, errors are given in HU too.
        organs: Masks, likewise, of what the region lies in, for the lesion audit.
        white: The value of 16-bit files that stands for 255; ``None`` takes 65535, where the files use that range.
        array_range: The values of floating-point arrays that stand for 0 and 255; ``None`` takes -1 and 1, likewise.

    Raises:
        ConfigError: ``direction`` or ``white`` cannot be.
        DataError: A folder is missing or empty, a name is not in all three, the manifest cannot be used or lacks a
            slice, or values are surely on another scale, see ``check_scale``; on reading: a file cannot be read, or
            has another size than its real image.
        MaskError: On reading: a mask is not 0 and 255, or has another size.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"`direction` must be A2B or B2A; got {direction!r}")
    scale = Scale(white, array_range)
    if white is not None and not 1.0 <= white <= WHITE_16_BIT:
        raise ConfigError(f"`white` must be a number between 1 and {WHITE_16_BIT:g}; got {white:g}")
    reals = list_pictures(Path(real), "real")
    fakes = list_pictures(Path(fake), "fake")
    regions = {} if masks is None else list_pictures(Path(masks), "masks")
    around = {} if organs is None else list_pictures(Path(organs), "organs")
    for argument, folder, others in (("fake", fake, fakes), ("masks", masks, regions), ("organs", organs, around)):
        if folder is not None:
            _same_names(reals, others, argument, Path(folder))
    files = {stem: (path, fakes[stem], regions.get(stem)) for stem, path in reals.items()}
    labels, hu_per_grey, patients_unknown = _labels_and_scales(list(reals), Path(real), manifest, direction)
    notes = check_scale("real", reals.values(), scale) + check_scale("fake", fakes.values(), scale, strict=False)
    return FilePairs(
        notes=notes,
        direction=direction,
        files=files,
        labels=labels,
        hu_per_grey=hu_per_grey,
        scale=scale,
        patients_unknown=patients_unknown,
        organs=around,
    )


def _labels_and_scales(
    stems: list[str], folder: Path, manifest: str | Path | None, direction: str
) -> tuple[dict[str, Label], dict[str, float], bool]:
    """The labels and the HU per grey level by name, and whether the patients are unknown."""
    if manifest is None:
        labels, patients_unknown = _labels_in_names(stems, folder)
        return labels, {}, patients_unknown
    known, scales = read_manifest(Path(manifest), target_of(direction))
    unknown = [stem for stem in stems if stem not in known]
    if unknown:
        raise DataError(
            f"`manifest` must list every image; {manifest} lacks {unknown[0]} and {len(unknown) - 1} more of "
            f"{len(stems)}; give the manifest of these images, or none"
        )
    return known, scales, False


def _same_names(reals: Mapping[str, Path], others: Mapping[str, Path], argument: str, folder: os.PathLike[str]) -> None:
    missing, extra = sorted(set(reals) - set(others)), sorted(set(others) - set(reals))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]} too"
        raise DataError(
            f"`{argument}` must hold the names of `real`, {len(reals)} of them; {folder} {what} "
            f"(missing {len(missing)}, extra {len(extra)}); make them agree"
        )


def _labels_in_names(stems: list[str], folder: Path) -> tuple[dict[str, Label], bool]:
    found = {stem: label_in_name(stem) for stem in stems}
    labels = {stem: label for stem, label in found.items() if label is not None}
    if not labels:
        return {stem: (stem, ONE_PHASE) for stem in stems}, True
    if len({patient for patient, _ in labels.values()}) == 1 and all(phase.isdigit() for _, phase in labels.values()):
        # volume_12_034: the number is the patient's, and no phase.
        labels = {stem: (f"{patient}_{number}", ONE_PHASE) for stem, (patient, number) in labels.items()}
    odd = [stem for stem in stems if stem not in labels]
    if odd:
        raise DataError(
            f"`real` must name all images <patient>_<phase>_<slice index> or none; {folder} has {odd[0]} among "
            f"{len(labels)} that are; rename them or give a manifest"
        )
    return labels, False


def _size(picture: Picture) -> str:
    return " x ".join(str(side) for side in reversed(picture.shape)) + " px"
