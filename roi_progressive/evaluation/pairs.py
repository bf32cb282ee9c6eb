"""Folders of real and generated images as pairs, and the trivial references every table needs.

A reference is what costs nothing: the source left as it is, the mean training image, the region painted flat.
A method that does not beat them in the region has shown nothing there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ConfigError, DataError, MaskError

Grey = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.bool_]

DIRECTIONS = ("A2B", "B2A")


@dataclass(frozen=True, eq=False)
class ImagePair:
    """One generated slice beside its truth, all on the same grid.

    Args:
        name: File name of the slice, e.g. ``p07_ART_052.png``.
        patient: Who it belongs to.
        phase: Contrast phase, e.g. ``ART``.
        direction: ``A2B`` or ``B2A``.
        source: What the generator was given, uint8 [H, W], or ``None`` where unknown.
        real: The truth in the target domain, uint8 [H, W].
        fake: What the generator made, uint8 [H, W].
        mask: The evaluated region, bool [H, W]; all false where the slice has none.
    """

    name: str
    patient: str
    phase: str
    direction: str
    source: Grey | None
    real: Grey
    fake: Grey
    mask: Mask


class FolderPairs:
    """Pairs read one by one from folders; iterate as often as you like, or ask for one by its file name.

    Made by :func:`pairs_from_folders`. Nothing is kept in memory but the names.
    """

    def __init__(
        self,
        root: Path,
        split: str,
        direction: str,
        fake_dir: Path | None,
        region: str,
        labels: dict[str, tuple[str, str]],
    ) -> None:
        self._direction = direction
        self._source_dir = root / f"{split}{direction[0]}"
        self._real_dir = root / f"{split}{direction[2]}"
        self._mask_dir = root / f"{split}{direction[0]}_{region}"
        self._fake_dir = fake_dir
        self._labels = labels

    @property
    def names(self) -> tuple[str, ...]:
        """The file names, sorted."""
        return tuple(self._labels)

    def __len__(self) -> int:
        return len(self._labels)

    def __iter__(self) -> Iterator[ImagePair]:
        return (self[name] for name in self._labels)

    def __getitem__(self, name: str) -> ImagePair:
        if name not in self._labels:
            raise DataError(f"`name` must be one of the {len(self)} images in {self._source_dir}; got {name!r}")
        patient, phase = self._labels[name]
        source = read_grey(self._source_dir / name)
        real = _same_size(read_grey(self._real_dir / name), source, self._real_dir / name)
        fake = source
        if self._fake_dir is not None:
            fake = _same_size(read_grey(self._fake_dir / name), source, self._fake_dir / name)
        mask = read_mask(self._mask_dir / name, source.shape)
        return ImagePair(name, patient, phase, self._direction, source, real, fake, mask)


def pairs_from_folders(
    data_root: str | Path, split: str, direction: str, fake_dir: str | Path | None, region: str = "tumor"
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
        region: The evaluated region; its masks lie in ``{split}{source domain}_{region}``.

    Raises:
        ConfigError: ``direction`` is neither.
        DataError: A folder is missing or has no images, a name is unpaired, or patient and phase are unknown;
            on reading: a file cannot be read, is not 8-bit, or has another size than its source.
        MaskError: A mask folder or mask is missing; on reading: a mask is not 0 and 255, or has another size.
    """
    if direction not in DIRECTIONS:
        raise ConfigError(f"`direction` must be A2B or B2A; got {direction!r}")
    root = Path(data_root)
    source_dir, real_dir = root / f"{split}{direction[0]}", root / f"{split}{direction[2]}"
    mask_dir = root / f"{split}{direction[0]}_{region}"
    names = list_images(source_dir, "data_root")
    _all_there(names, list_images(real_dir, "data_root"), real_dir, "a paired test set has every name in both domains")
    _all_there(
        list_images(real_dir, "data_root"), names, source_dir, "a paired test set has every name in both domains"
    )
    if not mask_dir.is_dir():
        raise MaskError(
            f"`region` {region!r} needs the mask folder {mask_dir}, which is missing; prepare it or name another region"
        )
    _all_there(
        names, list_images(mask_dir, "region"), mask_dir, "a slice without the region has an all-zero mask", MaskError
    )
    if fake_dir is not None:
        generated = list_images(Path(fake_dir), "fake_dir")
        _all_there(names, generated, Path(fake_dir), "a generated image has the file name of its source")
    labels = _labels(root, split, names)
    return FolderPairs(root, split, direction, None if fake_dir is None else Path(fake_dir), region, labels)


def copy_source(pairs: Iterable[ImagePair]) -> Iterator[ImagePair]:
    """Reference: the source itself stands for the generated image.

    Raises:
        DataError: A pair has no source.
    """
    for pair in pairs:
        if pair.source is None:
            raise DataError(f"`pairs` must have sources to copy; {pair.name} has none")
        yield replace(pair, fake=pair.source)


def mean_image(pairs: Iterable[ImagePair], data_root: str | Path) -> Iterator[ImagePair]:
    """Reference: the pixelwise mean of the target domain's training images stands for every generated image.

    Raises:
        DataError: The training images are missing, unreadable or not all of the pair's size.
    """
    means: dict[str, Grey] = {}
    for pair in pairs:
        target = pair.direction[2]
        if target not in means:
            means[target] = np.rint(_mean_of(Path(data_root) / f"train{target}")).astype(np.uint8)
        yield replace(pair, fake=_same_size(means[target], pair.real, Path(data_root) / f"train{target}").copy())


def constant_fill(pairs: Iterable[ImagePair], data_root: str | Path, region: str = "tumor") -> Iterator[ImagePair]:
    """Reference: the mean training image with the region painted in one grey value.

    The value is the mean of the region's pixels over all training images of the target domain. It knows where
    the region is and what it looks like on average, and nothing else; a good region PSNR alone does not beat it.

    Raises:
        DataError: The training images are missing or unreadable, or none of them shows the region.
        MaskError: A training mask is missing or unusable.
    """
    greys: dict[str, np.uint8] = {}
    for pair in mean_image(pairs, data_root):
        target = pair.direction[2]
        if target not in greys:
            images = Path(data_root) / f"train{target}"
            greys[target] = np.uint8(np.rint(_region_mean(images, images.with_name(f"train{target}_{region}"))))
        pair.fake[pair.mask] = greys[target]
        yield pair


def list_images(folder: Path, argument: str) -> tuple[str, ...]:
    """Sorted names of the PNG files in ``folder``.

    Raises:
        DataError: The folder is missing or holds none.
    """
    if not folder.is_dir():
        raise DataError(f"`{argument}` needs the folder {folder}, which is missing")
    names = tuple(sorted(path.name for path in folder.iterdir() if path.suffix.lower() == ".png" and path.is_file()))
    if not names:
        raise DataError(f"`{argument}` needs PNG images in {folder}; there are none")
    return names


def read_grey(path: Path) -> Grey:
    """An 8-bit image as uint8 [H, W]; colour is turned to grey.

    Raises:
        DataError: The file cannot be read or is not 8-bit (a 16-bit file would saturate silently).
    """
    values, mode = _read(path, DataError)
    if mode not in ("L", "RGB"):
        raise DataError(f"{path} must be an 8-bit grey or RGB image; got mode {mode}; write it as 8-bit grey PNG")
    return values


def read_mask(path: Path, shape: tuple[int, ...]) -> Mask:
    """A mask file as bool [H, W].

    Raises:
        MaskError: The file cannot be read, holds values other than 0 and 255, or has another shape than ``shape``.
    """
    values, mode = _read(path, MaskError)
    if mode not in ("L", "1") or not np.isin(values, (0, 255)).all():
        raise MaskError(
            f"{path} must be an 8-bit grey mask of 0 and 255; got mode {mode} and values up to {values.max()}"
        )
    if values.shape != shape:
        raise MaskError(f"{path} must have the size of its image, {_size(shape)}; got {_size(values.shape)}")
    return values > 0


def _read(path: Path, error: type[DataError] | type[MaskError]) -> tuple[Grey, str]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.array(image.convert("L"), dtype=np.uint8), image.mode
    except FileNotFoundError as cause:
        raise error(f"{path} is missing") from cause
    except (OSError, SyntaxError, ValueError) as cause:  # PIL reports a broken PNG as either
        raise error(f"{path} cannot be read as an image: {str(cause).splitlines()[0]}") from cause


def _same_size(image: Grey, like: Grey, path: Path) -> Grey:
    if image.shape != like.shape:
        raise DataError(f"{path} must have the size of the paired image, {_size(like.shape)}; got {_size(image.shape)}")
    return image


def _size(shape: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in reversed(shape)) + " px"


def _all_there(
    wanted: tuple[str, ...],
    present: tuple[str, ...],
    folder: Path,
    rule: str,
    error: Callable[[str], Exception] = DataError,
) -> None:
    missing = sorted(set(wanted) - set(present))
    if missing:
        raise error(
            f"{folder} lacks {missing[0]} and {len(missing) - 1} more of {len(wanted)}; {rule}"
            if missing[1:]
            else f"{folder} lacks {missing[0]}; {rule}"
        )


def _labels(root: Path, split: str, names: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    known = _manifest_labels(root / "manifest.json", split)
    return {name: known.get(Path(name).stem) or _parsed(name) for name in names}


def _manifest_labels(path: Path, split: str) -> dict[str, tuple[str, str]]:
    if not path.is_file():
        return {}
    try:
        slices: list[dict[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["slices"]
        return {
            row["name"].removesuffix(".png"): (str(row["patient"]), str(row["phase"]))
            for row in slices
            if row["split"] == split
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as cause:
        raise DataError(f"{path} must be a data set's manifest; {type(cause).__name__}: {cause}") from cause


def _parsed(name: str) -> tuple[str, str]:
    parts = Path(name).stem.rsplit("_", 2)
    if len(parts) != 3 or not all(parts) or not parts[2].isdigit():
        raise DataError(
            f"{name} must be named <patient>_<phase>_<slice index>.png or be listed in manifest.json; rename it"
        )
    return parts[0], parts[1]


def _mean_of(folder: Path) -> npt.NDArray[np.float64]:
    names = list_images(folder, "data_root")
    first = read_grey(folder / names[0])
    total = np.zeros(first.shape, dtype=np.float64)
    for name in names:
        total += _same_size(read_grey(folder / name), first, folder / name)
    return total / len(names)


def _region_mean(images: Path, masks: Path) -> float:
    total, count = 0.0, 0
    for name in list_images(images, "data_root"):
        image = read_grey(images / name)
        inside = image[read_mask(masks / name, image.shape)]
        total += float(inside.sum(dtype=np.float64))
        count += inside.size
    if not count:
        raise DataError(f"`region` must appear in the training images to know its mean; all masks in {masks} are empty")
    return total / count
