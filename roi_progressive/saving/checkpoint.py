"""Our one file beside the host's: written aside and renamed, read without running anything."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..errors import CheckpointError, first_line, one_line, system_reason
from .whole_files import written_whole

FORMAT = 1
_DOS_FOLDER = 0x10


def checkpoint_name(epoch: int | str) -> str:
    """The name of our checkpoint of an epoch, as it lies beside the host's own files.

    Args:
        epoch: In the host's own count, or its own word, such as ``latest``.

    Example:
        >>> from roi_progressive import checkpoint_name
        >>> checkpoint_name(7), checkpoint_name("latest")
        ('7_roi_progressive.pth', 'latest_roi_progressive.pth')
    """
    return f"{epoch}_roi_progressive.pth"


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a checkpoint; an older file stays whole until the new one is complete.

    Args:
        path: The file.
        state: Tensors, numbers, strings and containers of them.

    Raises:
        CheckpointError: It cannot be written.
    """
    try:
        with written_whole(path) as (aside,), open(aside, "wb") as file:
            torch.save({**state, "format": FORMAT}, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"`path` must be writable; {str(path)!r} is not: {system_reason(error)}; an older file is untouched; "
            f"free the space or give another path"
        ) from error


def load_checkpoint(path: Path, device: torch.device | str = "cpu") -> dict[str, Any]:
    """Read a checkpoint with ``weights_only=True``: nothing in it is executed ("Loading is safe").

    Raises:
        CheckpointError: The file is missing, damaged, or of a newer format.
    """
    if not path.is_file():
        raise CheckpointError(
            f"`path` must name one of our checkpoints; there is no {str(path)!r}; check the epoch, "
            f'or set resume = "fresh" to start the regions anew'
        )
    try:
        _check_bytes(path)
        state = torch.load(path, map_location=device, weights_only=True)
    except pickle.UnpicklingError as error:  # its text tells how to run the file all the same; ours does not
        raise CheckpointError(
            f"`path` must name a checkpoint of tensors and plain values; {str(path)!r} is damaged or holds other "
            f"objects, which are never loaded; take another copy of it"
        ) from error
    except Exception as error:  # torch raises half a dozen unrelated types for a damaged file
        raise CheckpointError(
            f"`path` must name a readable checkpoint; {str(path)!r} is damaged: {first_line(error)}; "
            f"take another copy of it"
        ) from error
    version = state.get("format") if isinstance(state, dict) else None
    if not isinstance(version, int) or version != FORMAT:
        raise CheckpointError(
            f"`path` must name a checkpoint of format {FORMAT}; {str(path)!r} is of format "
            f"{version if isinstance(version, int) else 'unknown'}; "
            f"use the version of roi-progressive that wrote it"
        )
    return dict(state)


def _check_bytes(path: Path) -> None:
    """Compare the file with the checksums in it: torch would read flipped bits of a weight as if they were the weight.

    Raises:
        zipfile.BadZipFile: They differ.
    """
    if not zipfile.is_zipfile(path):
        return  # torch says what else it may be
    with zipfile.ZipFile(path) as archive:
        # Checksums cover contents only. torch stores without compression and makes no folders; where the table of
        # contents says otherwise, it would take whatever the memory holds for the weights.
        entries = archive.infolist()
        torn = [e.filename for e in entries if e.compress_size != e.file_size or e.external_attr & _DOS_FOLDER]
        broken = torn[0] if torn else archive.testzip()
    if broken is not None:
        raise zipfile.BadZipFile(f"bad checksum of {broken}")


@contextmanager
def fitting() -> Iterator[None]:
    """What a state of other keys, types or shapes raises in the block becomes a ``CheckpointError`` of one line."""
    try:
        yield
    except CheckpointError:
        raise
    except (AttributeError, LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"[:200]
        raise CheckpointError(
            f"`state` must come from `state_dict`; it does not fit: {reason}; take another copy of the file, or set "
            f'resume = "fresh"'
        ) from error


def check_config(saved: Config, current: Config) -> None:
    """Refuse a checkpoint of other regions or another adversarial loss; anything else may change in a run.

    Raises:
        CheckpointError: It was trained for something else.
    """
    for name in ("regions", "adversarial"):
        if getattr(saved, name) != getattr(current, name):
            raise CheckpointError(
                f"`config` must be the one the checkpoint was trained with; `{name}` differs: saved "
                f'{getattr(saved, name)!r}; train with the saved configuration or set resume = "fresh"'
            )
