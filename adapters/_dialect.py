"""What training code in the junyanz dialect has in common: its step, files, rates and data sets.

The adapters beside this file add which images a model makes. Nothing here is found as a plugin by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from roi_progressive import Adapter, Config, ConfigError, DatasetLayout, GuidedSession, Patches, checkpoint_name

from ._host_log import report_losses, show_sigma
from ._host_state import load_moments, load_pools, moments_of, pools_of
from ._loss_scale import LossScale

MODEL = ("opt", "set_input", "forward", "optimize_parameters", "save_networks")
"""What every model of the dialect has, besides its networks."""
PATHS = ("A_paths", "B_paths", "AB_paths")
"""Where its data sets list their image files."""


def lacking(host: Any, names: Sequence[str]) -> list[str]:
    """Those of the attributes that a host has not, in their order."""
    return [name for name in names if not hasattr(host, name)]


class DialectAdapter(Adapter):
    """Drives the session from around the model's own ``set_input``, ``forward`` and ``optimize_parameters``.

    Args:
        model: The host's.
        config: The session's.

    Attributes:
        directions: What the model translates.
        pools: Names of its image pools.
    """

    directions: tuple[str, ...] = ("A2B",)
    pools: tuple[str, ...] = ()

    def __init__(self, model: Any, config: Config) -> None:
        self._model = model
        self._config = config
        self._loss_scale = LossScale(model)

    def sources(self) -> Mapping[str, Tensor]:
        """The images the model last translated, by direction; what its visuals show."""
        return {"A2B": self._model.real_A}

    def batch_domains(self) -> tuple[str, str]:
        """The batch's own names of the model's A and B: ``direction`` swaps them when the batch is taken."""
        return ("A", "B") if self._model.opt.direction == "AtoB" else ("B", "A")

    def is_training(self) -> bool:
        return bool(self._model.isTrain)

    def install(self, session: GuidedSession, patches: Patches) -> None:
        if self._config.ggd is not None:
            show_sigma(self._model, session, self.sources, patches)
        if not self.is_training():
            return
        if self._config.resume == "exact" and session.n_processes > 1:
            raise ConfigError(
                f'`resume` = "exact" needs a single process; got {session.n_processes}, each with its own pools and '
                f'random streams, and one file; use resume = "networks"'
            )
        report_losses(self._model, session, self.directions, patches)
        self._loss_scale.install(patches)
        self._follow_steps(session, patches)

    def _follow_steps(self, session: GuidedSession, patches: Patches) -> None:
        model = self._model

        def set_input(original: Callable[..., Any], batch: Mapping[str, Any]) -> Any:
            result = original(batch)
            session.masks_arrived(batch, model.real_A.device)
            return result

        def forward(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            session.translated()
            return result

        def optimize_parameters(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            self.step_begins()
            session.step_started()
            try:
                result = original(*args, **kwargs)
            except BaseException:
                session.step_abandoned()
                raise
            session.step_finished()
            return result

        def save_networks(original: Callable[..., Any], epoch: int | str) -> Any:
            result = original(epoch)
            session.save_epoch(model.save_dir, epoch)
            return result

        patches.wrap(model, "set_input", set_input)
        patches.wrap(model, "forward", forward)
        patches.wrap(model, "optimize_parameters", optimize_parameters)
        patches.wrap(model, "save_networks", save_networks)

    def step_begins(self) -> None:
        """Called before every training step."""
        self._loss_scale.step_begins()

    def loss_scale(self) -> float:
        return self._loss_scale.now()

    def learning_rates(self) -> Mapping[str, float]:
        rates = {"generator": self._model.optimizer_G, "discriminator": self._model.optimizer_D}
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in rates.items()}

    def betas(self) -> tuple[float, float]:
        first, second = self._model.optimizer_D.param_groups[0].get("betas", super().betas())
        return (float(first), float(second))

    def n_epochs(self) -> int | None:
        opt = self._model.opt
        for constant, decay in (("n_epochs", "n_epochs_decay"), ("niter", "niter_decay")):  # older forks say niter
            if hasattr(opt, constant) and hasattr(opt, decay):
                return max(1, int(getattr(opt, constant)) + int(getattr(opt, decay)))
        return None if self.is_training() else 1

    def dataset_layout(self, dataset: Any) -> DatasetLayout | None:
        loader = getattr(dataset, "dataloader", dataset)
        inner = getattr(loader, "dataset", None)
        paths = [str(path) for name in PATHS for path in getattr(inner, name, ())]
        # A fork's data set may inherit the method that opens images from the module of its parent.
        modules = dict.fromkeys(kind.__module__ for kind in type(inner).__mro__)
        opening = tuple(name for name in modules if hasattr(importlib.import_module(name), "Image"))
        return DatasetLayout(loader, opening, ("A", "B"), tuple(paths)) if paths and opening else None

    def image_files(self, batch: Mapping[str, Any]) -> Iterable[tuple[str, Tensor]]:
        for domain in ("A", "B"):
            paths, images = batch.get(f"{domain}_paths", ()), batch.get(domain, ())
            yield from zip(paths, images, strict=False)

    def resume_file(self) -> Path | None:
        opt = self._model.opt
        if self.is_training() and not getattr(opt, "continue_train", False):
            return None
        iteration = int(getattr(opt, "load_iter", 0) or 0)
        return self.load_folder() / checkpoint_name(f"iter_{iteration}" if iteration > 0 else opt.epoch)

    def load_folder(self) -> Path:
        """The folder the host loads its own networks from."""
        return Path(self._model.save_dir)

    def host_state(self) -> dict[str, Any]:
        if not self.is_training():
            return {}
        return {"moments": moments_of(self._model.optimizers), "pools": pools_of(self._model, self.pools)}

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        if self.is_training() and state:
            load_moments(self._model.optimizers, state["moments"])
            load_pools(self._model, state["pools"])
