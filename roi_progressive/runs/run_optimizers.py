"""The moments of the host's optimizers in a run of several processes: the same on all, whatever their number.

A run of one process keeps them in our checkpoint (``resume = "exact"``), with its pools and random streams; those are
each process's own, and there is one file.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from ..saving.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from ..errors import CheckpointError, first_line
from ..host import CycleGANModel


def optimizers_file(networks: Path, epoch: int) -> Path:
    """Where the moments of an epoch lie."""
    return networks / f"{epoch}_optimizers.pth"


def save_optimizers(model: CycleGANModel, networks: Path, epoch: int) -> None:
    """Write the moments, aside and renamed.

    Raises:
        CheckpointError: They cannot be written.
    """
    moments = [optimizer.state_dict()["state"] for optimizer in model.optimizers]
    save_checkpoint(optimizers_file(networks, epoch), {"moments": moments})


def load_optimizers(model: CycleGANModel, networks: Path, epoch: int) -> None:
    """Restore the moments, also those of a run of one process; rates and groups stay as they are.

    Raises:
        CheckpointError: They are damaged or of other networks.
    """
    path = optimizers_file(networks, epoch)
    try:
        if path.is_file():
            moments = torch.load(path, map_location="cpu", weights_only=True)["moments"]
        else:
            moments = load_checkpoint(networks / checkpoint_name(epoch))["host"]["moments"]
        for optimizer, saved in zip(model.optimizers, moments, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(saved)})
    except CheckpointError:
        raise
    except Exception as error:  # torch raises half a dozen unrelated types for a damaged file
        raise CheckpointError(
            f"`run` must hold its optimizers' moments; {str(path)!r} is damaged: {first_line(error)}; "
            f"take another copy of the run"
        ) from error
