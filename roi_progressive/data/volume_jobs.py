"""The two kinds of job that ``prepare`` has: an MR's landmarks, and the pictures of volumes that are cut together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import RoiProgressiveError, UnreadableError
from ..saving.decoding import decoded_array
from ..saving.neighbour_slices import neighbours_file
from .manifest_record import slice_record
from .options import PrepareOptions
from .partial_folder import PartialFolder
from .pictures import Picture, Scan, aligned_pair, beside, cleaned_mr, cut_pictures, read_scan
from .preprocessing import FloatArray
from .standardise import Landmarks, landmarks_of
from .volume_list import VolumeRow
from .volumes import read_volume


@dataclass(frozen=True)
class FindLandmarks:
    """The landmarks of an MR; where it had to be cleaned first, the clean one is kept for its pictures.

    Its record holds ``landmarks``, null where the volume cannot be used: it is reported with its pictures.
    """

    row: VolumeRow
    options: PrepareOptions

    volumes = 1

    def __str__(self) -> str:
        return f"scale of {self.row}"

    def __call__(self, place: PartialFolder) -> dict[str, Any]:
        try:
            array, body = cleaned_mr(read_volume(self.row), self.options)
            found = landmarks_of(array, body).tolist()
        except RoiProgressiveError:
            return {"landmarks": None}
        if {"denoise", "bias"} & set(self.options.mr_steps):
            place.put(_cache(place, self.row), lambda aside: np.save(aside, array))
        return {"landmarks": found}


def _cache(place: PartialFolder, row: VolumeRow) -> Any:
    return place.cache(f"line{row.line}")


@dataclass(frozen=True)
class CutVolumes:
    """Volumes that are cut together: one, or the two of an aligned pair.

    Its record holds ``slices`` for the manifest, lines of ``problems`` and ``notes``, and the ``files`` it wrote.
    """

    rows: tuple[VolumeRow, ...]
    split: str
    regions: tuple[str, ...]
    options: PrepareOptions
    standard: Mapping[str, Landmarks]

    @property
    def volumes(self) -> int:
        """How many."""
        return len(self.rows)

    def __str__(self) -> str:
        return " and ".join(map(str, self.rows))

    def __call__(self, place: PartialFolder) -> dict[str, Any]:
        problems: list[str] = []
        notes: list[str] = []
        slices, files = [], []
        pictures = self._pictures(place, problems, notes)
        for picture in pictures:
            entry = slice_record(picture, self.split, self.options.size_px)
            files += write_picture(place, f"{self.split}{entry['domain']}", picture)
            slices.append(entry)
        if self.options.paired:
            half = len(pictures) // 2
            for left, right in zip(pictures[:half], pictures[half:], strict=True):
                files += write_picture(place, self.split, beside(left, right))
        for row in self.rows:
            _cache(place, row).unlink(missing_ok=True)
        return {"slices": slices, "problems": problems, "notes": notes, "files": files}

    def _pictures(self, place: PartialFolder, problems: list[str], notes: list[str]) -> list[Picture]:
        scans: list[Scan] = []
        for row in self.rows:
            try:
                scan = read_scan(row, self.options, self.standard.get(row.domain), _cached(place, row))
            except RoiProgressiveError as error:
                problems.append(f"{row}: {error}")
            else:
                scans.append(scan)
                notes += [f"{row}: {note}" for note in scan.volume.notes]
        if len(scans) < len(self.rows):
            problems += [f"{scan.row}: left out with the other half of its pair" for scan in scans]
            return []
        found: list[str] = []
        try:
            pair: Sequence[Scan] = scans if len(scans) == 1 else aligned_pair(scans[0], scans[1], found)
            pictures = list(cut_pictures(pair, self.regions, self.options, found))
        except RoiProgressiveError as error:
            problems.append(f"{scans[-1].row}: {error}")
            return []
        notes += found
        return pictures


def _cached(place: PartialFolder, row: VolumeRow) -> FloatArray | None:
    file = _cache(place, row)
    try:
        return decoded_array(file) if file.exists() else None
    except UnreadableError:  # the machine stopped while it was written; it is made again
        return None


def write_picture(place: PartialFolder, folder: str, picture: Picture) -> list[str]:
    """Write a picture as an 8-bit grey PNG or float32 ``.npy``, and each mask (PNG, 0 or 255) into the sibling folder
    named after its region; its neighbours, where it has any, as one array into the folder of these.

    Args:
        place: The data set in the making.
        folder: The image folder in it, e.g. ``trainA``.
        picture: What to write.

    Returns:
        The names of the files, from ``place`` on.
    """
    masks = {f"{folder}_{region}": np.where(mask, 255, 0).astype(np.uint8) for region, mask in picture.masks.items()}
    files = [_put(place, name, picture.name, pixels) for name, pixels in {folder: picture.pixels, **masks}.items()]
    around = picture.neighbours
    if around is not None:
        target = neighbours_file(place.pictures / folder / f"{picture.name}.png")
        place.put(target, lambda aside: np.save(aside, around))
        files.append(target.relative_to(place.path).as_posix())
    return files


def _put(place: PartialFolder, folder: str, name: str, pixels: npt.NDArray[np.uint8] | FloatArray) -> str:
    from PIL import Image

    is_exact = pixels.dtype == np.float32
    target = place.pictures / folder / f"{name}{'.npy' if is_exact else '.png'}"
    place.put(target, (lambda aside: np.save(aside, pixels)) if is_exact else Image.fromarray(pixels).save)
    return target.relative_to(place.path).as_posix()
