"""The moments of the host's optimizers in a run of several processes.

They are the same in all processes, whatever their number. A run of one process keeps them in our checkpoint
(`resume = "exact"`), with its pools and random streams; those are each process's own, and there is one file.
"""

from __future__ import annotations

import copy
from pathlib import Path

import torch

from ..errors import CheckpointError, first_line
from ..host import CycleGANModel
from ..saving.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from ..saving.state_checks import adam_state


def optimizers_file(networks: Path, epoch: int) -> Path:
    """Where the moments of an epoch lie."""
    return networks / f"{epoch}_optimizers.pth"


def save_optimizers(model: CycleGANModel, networks: Path, epoch: int) -> None:
    """Write the moments, and the shapes of the parameters they belong to.

    Raises:
        CheckpointError: They cannot be written.
    """
    state = {
        "moments": [optimizer.state_dict()["state"] for optimizer in model.optimizers],
        "shapes": [_shapes(optimizer) for optimizer in model.optimizers],
    }
    save_checkpoint(optimizers_file(networks, epoch), state)


def load_optimizers(model: CycleGANModel, networks: Path, epoch: int) -> None:
    """Restore the moments, also those of a run of one process; rates and groups stay as they are.

    No optimizer changes unless all moments fit.

    Raises:
        CheckpointError: They are missing, damaged or of other networks.
    """
    path = optimizers_file(networks, epoch)
    if not path.is_file():
        path = networks / checkpoint_name(epoch)
    state = load_checkpoint(path)
    try:
        held = state["moments"] if "moments" in state else state["host"]["moments"]
        if "shapes" in state and state["shapes"] != [_shapes(optimizer) for optimizer in model.optimizers]:
            raise ValueError("the parameters are of other numbers or shapes")
        for optimizer, moments in zip(model.optimizers, held, strict=True):
            adam_state(moments, _parameters(optimizer))
        for optimizer, moments in zip(model.optimizers, held, strict=True):
            optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(moments)})
    except (AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"`run` must hold the moments of its own optimizers; those in {str(path)!r} do not fit: "
            f"{first_line(error)}; take another copy of the run"
        ) from error


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]


def _shapes(optimizer: torch.optim.Optimizer) -> list[list[int]]:
    return [list(parameter.shape) for parameter in _parameters(optimizer)]
