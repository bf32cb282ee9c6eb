"""Files of networks: written aside and renamed, read without running anything."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import CheckpointError, first_line, system_reason
from .whole_files import written_whole


def write_network(path: Path, network: nn.Module) -> None:
    """Write a network's state; an older file stays whole until the new one is complete.

    Raises:
        CheckpointError: It cannot be written.
    """
    state = {key: value.detach().cpu() for key, value in network.state_dict().items()}
    try:
        with written_whole(path) as (aside,), open(aside, "wb") as file:
            torch.save(state, file)
    except (OSError, RuntimeError) as error:
        raise CheckpointError(
            f"`checkpoints_dir` must be a folder that can be written; {str(path)!r} cannot: {system_reason(error)}; "
            f"an older file is untouched; free the space or choose another folder"
        ) from error


def read_network(path: Path, network: nn.Module, device: torch.device) -> Mapping[str, Tensor]:
    """The state that ``write_network`` wrote, for a network of the same shape.

    Raises:
        CheckpointError: The file is missing, damaged, or belongs to a network of another shape.
    """
    if not path.is_file():
        raise CheckpointError(
            f"`epoch` must name a saved checkpoint; there is no {str(path)!r}; check `name` and `epoch`"
        )
    try:
        state = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises half a dozen unrelated types for a damaged file
        raise CheckpointError(
            f"`epoch` must name a readable checkpoint; {str(path)!r} is damaged: {first_line(error)}"
        ) from error
    expected = {key: value.shape for key, value in network.state_dict().items()}
    found = {key: getattr(value, "shape", None) for key, value in state.items()} if isinstance(state, dict) else {}
    if found != expected:
        differing = sorted(map(str, {*expected.items()} ^ {*found.items()}))
        raise CheckpointError(
            f"`epoch` must name a checkpoint of the same networks; {str(path)!r} differs in {len(differing)} entries, "
            f"first {differing[0]}; use the options it was trained with"
        )
    return dict(state)
