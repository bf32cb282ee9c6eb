"""The folder of a training run: what lies in it, read and written so that a stop at any moment loses nothing.

``run.json`` (what was asked for), ``networks/`` (the host's checkpoints, ours beside them, and ``latest.json``, which
says whose they are), ``history.jsonl`` (one line an epoch), ``samples/`` (pictures while it trains) and, once
translated, ``<split>/A2B/``, ``<split>/B2A/`` with the generated images and ``<split>/A2B_sigma/``, ... with
uncertainty maps.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from ..config import Config
from ..errors import CheckpointError, DataError
from .options import TrainOptions
from ..saving.names import DIRECTIONS, SPLITS
from ..saving.whole_files import writing, written_whole

_HALF_WRITTEN = re.compile(r"\.?.+\.(pth|json|jsonl)\.\d+\.tmp")
_NETWORKS = re.compile(r"(\d+)_(net_[GD]_[AB]|average_G_[AB]|roi_progressive|optimizers)\.pth")


def read_run(folder: Path) -> tuple[Path, TrainOptions, Config]:
    """Data folder, host options and session configuration of a run.

    Raises:
        DataError: ``folder`` is no run.
    """
    path = folder / "run.json"
    if not path.is_file():
        what = "has no run.json" if folder.is_dir() else "is no folder"
        raise DataError(f"`run` must be a folder that `roi-progressive train` wrote; {str(folder)!r} {what}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        known = {field.name for field in fields(TrainOptions)}
        options = TrainOptions(**{key: value for key, value in described["options"].items() if key in known})
        return Path(described["data"]), options, Config.from_mapping(described["config"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"`run` must be a folder that `roi-progressive train` wrote; {str(path)!r} cannot be used "
            f"({type(error).__name__}: {error}); check the path"
        ) from error


def require_data(root: Path, folder: Path) -> None:
    """Check that the data of a run are where they were.

    Raises:
        DataError: They are not.
    """
    if not root.is_dir():
        raise DataError(
            f"`data` of the run must still be there; {str(root)!r} is not; "
            f"bring it back, or correct `data` in {str(folder / 'run.json')!r}"
        )


def history(run: str | Path) -> list[dict[str, Any]]:
    """The epochs of a run: number, stage, and mean losses by name."""
    path, epochs = Path(run) / "history.jsonl", list[dict[str, Any]]()
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            epochs.append(json.loads(line))
        except ValueError:  # the process was killed while it wrote; everything after is of epochs not saved
            break
    return epochs


def saved_epoch(folder: Path) -> int | None:
    """The epoch whose networks a run holds, or ``None`` before the first is saved."""
    try:
        return int(json.loads((folder / "networks" / "latest.json").read_text(encoding="utf-8"))["epoch"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def required_epoch(folder: Path) -> int:
    """The epoch whose networks a run holds.

    Raises:
        CheckpointError: There is none.
    """
    epoch = saved_epoch(folder)
    if epoch is None:
        raise CheckpointError(
            f"`run` must hold a saved epoch; {str(folder)!r} has none yet; train it from the beginning with --force"
        )
    return epoch


def make_folder(folder: Path) -> None:
    """Make a folder to write into.

    Raises:
        DataError: It cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"`out` must be a folder that can be written; {str(folder)!r} cannot be made: {error.strerror}; "
            f"choose another"
        ) from error


def remove_leftovers(folder: Path, epoch: int | None) -> None:
    """Remove what a killed process could not: half-written files, and networks of other epochs than the saved one."""
    for path in [*folder.glob("*"), *folder.glob("networks/*")]:
        of_epoch = _NETWORKS.fullmatch(path.name) if path.parent.name == "networks" else None
        if _HALF_WRITTEN.fullmatch(path.name) or (of_epoch and int(of_epoch[1]) != epoch):
            path.unlink(missing_ok=True)


def clear(folder: Path) -> None:
    """Remove what an earlier run left, and nothing else; its pointer to its networks first."""
    (folder / "networks" / "latest.json").unlink(missing_ok=True)
    remove_leftovers(folder, None)
    for pattern in ("run.json", "history.jsonl", "networks/*.pth", "samples/epoch_*.png"):
        for path in folder.glob(pattern):
            path.unlink()
    for split in SPLITS:
        for name in (*DIRECTIONS, *(f"{direction}_sigma" for direction in DIRECTIONS)):
            shutil.rmtree(folder / split / name, ignore_errors=True)
        for name in ("table.md", "table.csv", "table.tex", "metrics.json", "reliability.png", "reliability.pdf"):
            (folder / split / name).unlink(missing_ok=True)


def write_image(path: Path, image: Tensor) -> None:
    """Write the first channel of an image ``[C, H, W]`` in [-1, 1] as 8-bit grey PNG, or as float32 ``.npy``.

    Raises:
        DataError: It cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".npy":
            np.save(path, image[0].clamp(-1, 1).float().cpu().numpy())
            return
        grey = ((image[0].clamp(-1, 1) + 1) * 127.5).round().byte().cpu().numpy()
        Image.fromarray(grey).save(path)


def write_text(path: Path, text: str) -> None:
    """Write a file aside and rename it; an older one stays whole until then.

    Raises:
        DataError: It cannot be written.
    """
    with writing(path), written_whole(path) as (aside,):
        aside.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON without NaN or Infinity, aside and renamed."""
    write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")


def append_json(path: Path, content: Mapping[str, Any]) -> None:
    """Add one line of JSON.

    Raises:
        DataError: It cannot be written.
    """
    with writing(path), open(path, "a", encoding="utf-8") as file:
        file.write(json.dumps(content, allow_nan=False) + "\n")


def truncate_history(folder: Path, epoch: int) -> None:
    """Drop the epochs that will be trained again."""
    kept = [json.dumps(line) + "\n" for line in history(folder) if line["epoch"] <= epoch]
    write_text(folder / "history.jsonl", "".join(kept))
