"""What of a session outlives it: its state as plain values, saved and restored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config import Config
from ..errors import CheckpointError
from ..plugins.adapter import Adapter
from ..plugins.manager import Plugins
from ..runtime.rng import RandomState
from ..saving.checkpoint import check_config, fitting, save_checkpoint
from ..saving.state_checks import adam, whole
from .steps import Steps


class SessionState(Steps):
    """The part of a session that is saved and restored.

    Args:
        adapter: The host.
        config: The session's.
        plugins: As for ``Steps``; also told of every saved file.
        n_epochs: Length of the run.
    """

    def __init__(self, adapter: Adapter, config: Config, plugins: Plugins, n_epochs: int) -> None:
        super().__init__(adapter, config, plugins, n_epochs)
        self._host_random: RandomState | None = None

    def save(self, path: str | Path) -> None:
        """Write our checkpoint; an older file stays whole until the new one is complete.

        Raises:
            CheckpointError: It cannot be written.
        """
        save_checkpoint(Path(path), self.state_dict())
        self._plugins.call("roi_checkpoint_saved", path=Path(path))

    def state_dict(self) -> dict[str, Any]:
        """Everything of ours, and with ``resume = "exact"`` the host's moments, pools and random streams."""
        exact = self.config.resume == "exact"
        return {
            "config": json.dumps(self.config.to_mapping()),
            "guidance": self._guidance.state_dict(),
            "stages": self._stages.state_dict(),
            "epoch_means": self._epoch_means.state_dict(),
            "steps": self._steps,
            "host": self._adapter.host_state() if exact else None,
            "host_random": RandomState.now().to_plain() if exact else None,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken; networks not yet built are restored at the first step.

        Raises:
            CheckpointError: The state belongs to other regions, or lacks what ``resume = "exact"`` needs.
        """
        with fitting():
            check_config(Config.from_mapping(json.loads(state["config"])), self.config)
            if self.config.resume == "exact" and state["host"] is None:
                raise CheckpointError(
                    '`resume` is "exact", but the checkpoint was saved without it and lacks the host\'s state; '
                    'continue with resume = "networks"'
                )
            self._stages.load_state_dict(state["stages"])
            self._epoch_means.load_state_dict(state["epoch_means"])
            self._steps = whole("steps", state["steps"])
            _check_optimizers(state["guidance"]["learner"])
            self._guidance.load_state_dict(state["guidance"])
            if self.config.resume == "exact":
                self._adapter.load_host_state(state["host"])
                self._host_random = RandomState.from_plain(state["host_random"])

    def _restore_host_random(self) -> None:
        """Set the random streams that came with a loaded state: once, when its next epoch starts."""
        if self._host_random is not None:
            self._host_random.restore()
            self._host_random = None


def _check_optimizers(learner: Mapping[str, Any] | None) -> None:
    """Torch takes whatever it is given, and fails at the first step."""
    if learner is None:
        return
    for saved in (learner["bank_optimizer"], *learner["head_optimizers"].values()):
        if saved is not None:
            adam(saved)
