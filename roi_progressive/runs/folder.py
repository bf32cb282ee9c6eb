"""The folder of a training run: what lies in it, read and written so that a stop at any moment loses nothing.

``run.json`` (what was asked for), ``networks/`` (the host's checkpoints and ours beside them, of the last saved epoch
and of the best one; ``latest.json`` and ``best.json`` say which these are, and ``preparation.json`` how they are built
and how their data were made, so that this folder alone translates scans on another machine), ``history.jsonl`` (one
line an epoch), ``validation.jsonl`` (one line a validation), ``samples/`` and ``curves.png`` (pictures while it trains)
and, once translated, ``<split>/A2B/``, ``<split>/B2A/`` with the generated images and ``<split>/A2B_sigma/``, ... with
uncertainty maps. Whatever a command reads back carries a checksum, and ``written.json`` in each folder says what in it
is ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from ..config import Config
from ..data.preparation import Preparation
from ..errors import DataError, DivergenceError
from ..host import HostOptions
from ..runtime.finite import finite
from ..saving.names import DIRECTIONS, SPLITS
from ..saving.neighbour_slices import read_neighbours
from ..saving.records import (
    NUMBER,
    EntryError,
    append_json,
    entry,
    fault_of,
    of_kind,
    read_json,
    read_json_lines,
    write_json,
    write_json_lines,
)
from ..saving.whole_files import writing, written_whole
from ..saving.written import (
    check_foreign,
    put_away_leftovers,
    recorded,
    remove_half_written,
    remove_written,
    written_names,
)
from .data_place import fingerprint_of, moved_data
from .kept_epochs import best_pointer, chosen_epoch, pointer, why_ended
from .options import TrainOptions

PREPARATION_FILE = "preparation.json"
"""Beside the networks: how they are built, and how the slices were made that they were trained on."""
_NETWORKS = re.compile(r"(\d+)_(net_[GD]_[AB]|average_G_[AB]|roi_progressive|optimizers)\.pth")


def networks_of(place: Path) -> Path:
    """Where the networks lie of a run's folder, or of the folder of its networks alone."""
    alone = (place / PREPARATION_FILE).is_file() and not (place / "run.json").is_file()
    return place if alone else place / "networks"


@dataclass(frozen=True)
class Run:
    """The folder of a run that has saved an epoch, opened: what was asked for, and where everything lies.

    Args:
        folder: The run's folder.
        data: The data set it was trained on.
        options: How the host trains.
        config: How the session guides it.
        epoch: The epoch whose networks are used.
        ended: Why it is finished before its last epoch; ``None`` where it is not.
    """

    folder: Path
    data: Path
    options: TrainOptions
    config: Config
    epoch: int
    ended: str | None = None

    @classmethod
    def open(
        cls,
        folder: str | Path,
        *,
        epoch: int | str | None = None,
        device: str | None = None,
        data: str | Path | None = None,
    ) -> Run:
        """Read what a run's folder says of itself, and check that its data are still there.

        Args:
            folder: The run's folder.
            epoch: Whose networks to use, as for :func:`chosen_epoch`.
            device: Where to compute; as the run was told when it began, by default.
            data: Where its data set lies now; where it lay when the run began, by default.

        Raises:
            ConfigError: ``device`` is no name of a device, or ``epoch`` no way to name an epoch.
            DataError: ``folder`` is no run, its ``run.json`` is damaged, its data are gone, or ``data`` is another
                data set.
            CheckpointError: The epoch is not kept, none is saved yet, or the file that names it is damaged.
        """
        place = Path(folder)
        described = read_description(place)
        options = described.options if device is None else replace(described.options, device=device)
        chosen = chosen_epoch(place / "networks", epoch)
        root = described.data
        if data is not None:
            root = moved_data(data, root, described.fingerprint)
        elif not root.is_dir():
            raise DataError(
                f"`data` of the run must still be there; {str(root)!r} is not; bring it back, or say where it lies now "
                f"with --data DIR"
            )
        return cls(place, root, options, described.config, chosen, why_ended(place))

    def at_epoch(self, epoch: int | str | None) -> Run:
        """The same run with the networks of another epoch; with those it has where ``epoch`` is ``None``.

        Raises:
            ConfigError: ``epoch`` is no way to name an epoch.
            CheckpointError: The epoch is not kept.
        """
        return self if epoch is None else replace(self, epoch=chosen_epoch(self.networks, epoch))

    @property
    def neighbours(self) -> int:
        """Slices above, and below, that the networks take as further channels."""
        return self.options.neighbours or 0

    @property
    def is_finished(self) -> bool:
        """Whether there is nothing left to train."""
        return self.epoch >= self.last_epoch or self.ended is not None

    @property
    def networks(self) -> Path:
        """The folder of its networks."""
        return self.folder / "networks"

    @property
    def last_epoch(self) -> int:
        """The epoch after which it is finished, unless it ends before."""
        return self.options.epochs + self.options.decay_epochs

    def images(self, split: str, direction: str) -> Path:
        """The folder of what its networks made of a split in a direction."""
        return self.folder / split / direction

    def sigma(self, split: str, direction: str) -> Path:
        """The folder of the uncertainty maps that belong to :meth:`images`."""
        return self.folder / split / f"{direction}_sigma"

    def host_options(self, **changes: Any) -> HostOptions:
        """The host's own options for this run."""
        return self.options.host_options(self.data, self.folder, **changes)


# -- what was asked for ------------------------------------------------------------------------------------------------


def write_description(
    folder: Path,
    data: Path,
    options: TrainOptions,
    config: Config,
    size_px: tuple[int, int],
    device: str,
    preparation: Preparation | None = None,
) -> None:
    """Write ``run.json``, and beside the networks what they need on another machine.

    Args:
        folder: The run's folder.
        data: The data set.
        options: How the host trains.
        config: How the session guides it.
        size_px: Width and height of the images.
        device: What the run begins on, in words.
        preparation: How the data set was made, where ``prepare`` made it.

    Raises:
        DataError: It cannot be written.
    """
    made = None if preparation is None else preparation.to_record()
    networks = {"options": asdict(options), "config": config.to_mapping(), "preparation": made}
    described = {"data": str(data), "data_fingerprint": fingerprint_of(data), **networks}
    devices = [{"from_epoch": 1, "device": device}]
    beside = folder / "networks" / PREPARATION_FILE
    with recorded(folder, folder / "run.json", beside):
        write_json(folder / "run.json", {"format": 1, "size_px": list(size_px), **described, "devices": devices})
        write_json(beside, {"format": 1, **networks})


def add_device(folder: Path, from_epoch: int, device: str) -> None:
    """Write down that a run goes on on another device than it was on before; nothing where it is the same.

    Raises:
        DataError: ``run.json`` cannot be read or written.
    """
    path = folder / "run.json"
    try:
        described = of_kind(read_json(path), "its content", dict)
        known = entry({"devices": [], **described}, "devices", list)
        devices = [found for found in known if entry(found, "from_epoch", int) < from_epoch]
        if not devices or entry(devices[-1], "device", str) != device:
            devices.append({"from_epoch": from_epoch, "device": device})
        if devices != described.get("devices"):
            write_json(path, {**described, "devices": devices})
    except (OSError, ValueError) as error:
        raise unusable_description(path, error) from error


def set_data(folder: Path, data: Path) -> None:
    """Write down where the data set of a run lies now; nothing where it is the same.

    Raises:
        DataError: ``run.json`` cannot be read or written.
    """
    path = folder / "run.json"
    try:
        described = of_kind(read_json(path), "its content", dict)
        if described.get("data") != str(data):
            write_json(path, {**described, "data": str(data)})
    except (OSError, ValueError) as error:
        raise unusable_description(path, error) from error


@dataclass(frozen=True)
class _Description:
    data: Path
    options: TrainOptions
    config: Config
    fingerprint: Mapping[str, Any] | None


def read_description(folder: Path) -> _Description:
    """What ``run.json`` says.

    Raises:
        DataError: There is none, or it is damaged.
    """
    path = folder / "run.json"
    if not path.is_file():
        what = "has no run.json" if folder.is_dir() else "is no folder"
        raise DataError(f"`run` must be a folder that `roi-progressive train` wrote; {str(folder)!r} {what}")
    try:
        described = read_json(path)
        options, config = options_and_config(described)
        data = Path(entry(described, "data", str))
        return _Description(data, options, config, described.get("data_fingerprint"))
    except (OSError, ValueError) as error:
        raise unusable_description(path, error) from error


def options_and_config(described: Any) -> tuple[TrainOptions, Config]:
    """How networks are built and guided; of a newer version what this one does not know is left out."""
    known = {field.name for field in fields(TrainOptions)}
    chosen = entry(described, "options", dict)
    options = TrainOptions(**{key: value for key, value in chosen.items() if key in known})
    return options, Config.from_mapping(entry(described, "config", dict))


def unusable_description(path: Path, error: Exception) -> DataError:
    """What to tell of a record of a run that cannot be used."""
    return DataError(
        f"`run` must be a folder that `roi-progressive train` wrote; {str(path)!r} cannot be used: "
        f"{fault_of(error)}; take another copy of it"
    )


# -- the history -------------------------------------------------------------------------------------------------------


def history_file(folder: Path) -> Path:
    """Where a run keeps one line an epoch."""
    return folder / "history.jsonl"


def validation_file(folder: Path) -> Path:
    """Where a run keeps one line a validation."""
    return folder / "validation.jsonl"


def curves_file(folder: Path) -> Path:
    """Where a run draws its losses and validations."""
    return folder / "curves.png"


def add_to_history(folder: Path, epoch: int, stage: int, losses: Mapping[str, float | None]) -> None:
    """Write down an epoch that is done.

    Raises:
        DataError: It cannot be written.
    """
    with recorded(folder, history_file(folder)):
        append_json(history_file(folder), {"epoch": epoch, "stage": stage, "losses": dict(losses)})


def history(run: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run: number, stage, and mean losses by name; a line that was cut off is left out.

    Raises:
        DataError: A line is damaged.
    """

    def check(line: Any) -> None:
        entry(line, "epoch", int)
        entry(line, "stage", int)
        for name, loss in entry(line, "losses", dict).items():
            of_kind(loss, f"the loss {name!r}", *NUMBER, type(None))

    return checked_lines(history_file(Path(run)), check, "no epoch's")


def checked_lines(path: Path, check: Callable[[Any], None], otherwise: str) -> list[dict[str, Any]]:
    """The records of a file of lines in a run; a line that was cut off is left out, and without a file there are none.

    Args:
        path: The file.
        check: Raises an ``EntryError`` where a record is not as it was written.
        otherwise: Whose such a line is, for the message: ``no epoch's``.

    Raises:
        DataError: A line is damaged.
    """
    lines = read_json_lines(path) if path.is_file() else []
    try:
        for line in lines:
            check(line)
    except EntryError as error:
        raise DataError(
            f"`run` must hold what was written; {str(path)!r} has a line that is {otherwise}: {error}; take another "
            f"copy of it"
        ) from error
    return lines


def truncate_history(folder: Path, epoch: int) -> None:
    """Drop the epochs that will be trained again.

    Raises:
        DataError: A line is damaged, one of an epoch that stays is missing, or the file cannot be written.
    """
    path = history_file(folder)
    kept = [line for line in history(folder) if line["epoch"] <= epoch]
    if path.is_file() and [line["epoch"] for line in kept] != list(range(epoch + 1 - len(kept), epoch + 1) or [epoch]):
        raise DataError(
            f"`run` must hold what was written; {str(path)!r} must have a line for every epoch up to {epoch}, and "
            f"lacks one; take another copy of it, or remove it to go on without the epochs before"
        )
    write_json_lines(path, kept)


# -- what is left of others --------------------------------------------------------------------------------------------


def check_place(folder: Path) -> None:
    """Check that a new run in a folder would take the places of none but our own files.

    Raises:
        DataError: There is another file of such a name.
    """
    ours = [folder / "run.json", history_file(folder), validation_file(folder), curves_file(folder)]
    ours += [pointer(folder), best_pointer(folder), folder / "networks" / PREPARATION_FILE]
    ours += [path for path in folder.glob("networks/*") if _NETWORKS.fullmatch(path.name)]
    check_foreign(folder, [*ours, *folder.glob("samples/epoch_*.png")])


def remove_leftovers(folder: Path, epochs: Collection[int | None]) -> None:
    """Remove what a killed process could not: half-written files, and networks of other epochs than these.

    Raises:
        DataError: The record of what we wrote is damaged, or cannot be written.
    """
    remove_half_written(folder)
    found = ((name, _NETWORKS.fullmatch(Path(name).name)) for name in written_names(folder) or ())
    remove_written(folder, [name for name, of_epoch in found if of_epoch and int(of_epoch[1]) not in epochs])


def clear(folder: Path) -> None:
    """Remove what an earlier run left, by its records, and nothing else; its pointers to its networks first.

    Raises:
        DataError: A record of what we wrote is damaged.
    """
    remove_half_written(folder)  # found by the names in the record, so before any of these goes
    remove_written(folder, [f(folder).relative_to(folder).as_posix() for f in (pointer, best_pointer)])
    for split in SPLITS:
        for direction in DIRECTIONS:
            for name in (direction, f"{direction}_sigma"):
                put_away_leftovers(folder / split / name)
                remove_written(folder / split / name)
        remove_half_written(folder / split)
        remove_written(folder / split)
    remove_written(folder)


# -- images ------------------------------------------------------------------------------------------------------------


def as_batch(grey: npt.NDArray[Any], image: Path, neighbours: int, device: torch.device) -> Tensor:
    """A slice as a generator takes it: ``[1, 1 + 2 * neighbours, H, W]`` in [-1, 1], the slice itself first.

    Args:
        grey: It in 0..255, ``[H, W]``.
        image: Its file, beside which its neighbours are.
        neighbours: How many above and below it the generator takes.
        device: Where to put it.

    Raises:
        DataError: Its neighbours are missing or others.
    """
    planes = network_input(grey)[None]
    if neighbours:
        around = read_neighbours(image, neighbours, grey.shape)
        planes = torch.cat([planes, network_input(pictures_as_grey(around))])
    return planes.to(device)[None]


def pictures_as_grey(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Pixels of pictures of a data set in 0..255: 8 bits as they are, or float64 of float32 in [-1, 1]."""
    return pixels if pixels.dtype == np.uint8 else (pixels.astype(np.float64) + 1.0) * 127.5


def network_input(grey: npt.NDArray[Any]) -> Tensor:
    """Grey levels 0 to 255, any shape, as networks take them: float32 in [-1, 1]."""
    return (torch.from_numpy(grey) / 127.5 - 1.0).float()


def write_image(path: Path, image: Tensor) -> None:
    """Write the first channel of an image ``[C, H, W]`` in [-1, 1] as 8-bit grey PNG, or as float32 ``.npy``.

    Raises:
        DataError: It cannot be written.
        DivergenceError: A number of it is infinite or NaN.
    """
    require_finite(image, path.name)
    stored = stored_pixels(image, path.suffix)
    with writing(path), written_whole(path) as (aside,), open(aside, "wb") as file:
        if path.suffix == ".npy":
            np.save(file, stored)
        else:
            Image.fromarray(stored).save(file, format="PNG")


def stored_pixels(image: Tensor, suffix: str) -> npt.NDArray[Any]:
    """What a file of a generated image holds, [H, W]: float32 in [-1, 1] where it is ``.npy``, else 8-bit grey.

    Args:
        image: ``[C, H, W]`` in [-1, 1], of which the first channel counts.
        suffix: How the file's name ends.
    """
    limited = image[0].clamp(-1, 1)
    values = limited.float() if suffix == ".npy" else ((limited + 1) * 127.5).round().byte()
    stored: npt.NDArray[Any] = values.cpu().numpy()
    return stored


def require_finite(image: Tensor, name: str) -> None:
    """Check an image before anybody sees it: of a NaN a file of grey levels would make black.

    Raises:
        DivergenceError: A number of it is infinite or NaN.
    """
    if not bool(finite([image])):
        raise DivergenceError(
            f"`run` must make images of finite numbers; those of {name} are infinite or NaN: the training diverged; "
            f"train anew with a lower --learning-rate"
        )
