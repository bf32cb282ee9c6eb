"""A network's file: written aside and renamed, read without running anything, and refused where it does not fit."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError


def write_network(path: Path, net: nn.Module) -> None:
    """Write the weights; an older file stays whole until the new one is complete.

    Raises:
        CheckpointError: They cannot be written.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(aside, "wb") as file:
            torch.save({key: value.detach().cpu() for key, value in net.state_dict().items()}, file)
        os.replace(aside, path)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"`save_dir` must be a folder that can be written; {str(path)!r} cannot: {_system_reason(error)}; "
            f"an older file is untouched; free the space or take another folder"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def read_network(path: Path, net: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Read the weights of a network like ``net``, which stays as it is.

    Raises:
        CheckpointError: The file is missing, damaged, or of a network of another shape.
    """
    if not path.is_file():
        raise CheckpointError(
            f"`epoch` must name a saved checkpoint; there is no {str(path)!r}; check `name` and `epoch`"
        )
    try:
        state: Any = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types for a damaged file
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(f"`epoch` must name a readable checkpoint; {str(path)!r} is damaged: {reason}") from error
    expected = {key: value.shape for key, value in net.state_dict().items()}
    entries = state.items() if isinstance(state, Mapping) else ()
    found = {key: getattr(value, "shape", None) for key, value in entries}
    if found != expected:
        differing = sorted(map(str, {*expected.items()} ^ {*found.items()}))
        raise CheckpointError(
            f"`epoch` must name a checkpoint of the same networks; {str(path)!r} differs in {len(differing)} entries, "
            f"first {differing[0]}; use the options it was trained with"
        )
    return dict(state)


def _system_reason(error: BaseException) -> str:
    """What the system said; torch's writer, closed after a failed write, complains of itself on top of it."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):
        cause = cause.__context__
    return (isinstance(cause, OSError) and cause.strerror) or str(error).strip().partition("\n")[0]
