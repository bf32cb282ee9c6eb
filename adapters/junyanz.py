"""CycleGAN in the junyanz dialect: its own codebase, forks of it, and the bundled host."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from roi_progressive import Adapter, Config, Session, Translation, hookimpl
from roi_progressive.adapter import DatasetLayout, DomainMasks
from roi_progressive.checkpoint import checkpoint_name
from roi_progressive.patching import Patches

NEEDED = ("opt", "netG_A", "netG_B", "set_input", "forward", "optimize_parameters", "save_networks")


@hookimpl
def roi_adapter(host: Any, config: Config) -> Adapter | None:
    """Understands model objects that have what a junyanz CycleGAN has."""
    return CycleGANAdapter(host, config) if all(hasattr(host, name) for name in NEEDED) else None


class CycleGANAdapter(Adapter):
    """Drives the session from around the model's own ``set_input``, ``forward`` and ``optimize_parameters``."""

    name = "junyanz cycle_gan"

    def __init__(self, model: Any, config: Config) -> None:
        self._model = model
        self._config = config

    def generators(self) -> Mapping[str, nn.Module]:
        return {"A2B": self._model.netG_A, "B2A": self._model.netG_B}

    def translations(self, masks: DomainMasks) -> Sequence[Translation]:
        model = self._model
        # `direction` swaps the domains when the batch is taken; A and B are the model's from here on.
        a, b = ("A", "B") if model.opt.direction == "AtoB" else ("B", "A")
        return (
            Translation("A2B", model.real_A, model.fake_B, model.real_B, model.rec_A, None, masks[a], masks[b]),
            Translation("B2A", model.real_B, model.fake_A, model.real_A, model.rec_B, None, masks[b], masks[a]),
        )

    def install(self, session: Session, patches: Patches) -> None:
        model = self._model
        if not model.isTrain:
            return

        def set_input(original: Any, batch: Mapping[str, Any]) -> Any:
            result = original(batch)
            session.masks_arrived(batch, model.real_A.device)
            return result

        def forward(original: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            session.translated()
            return result

        def optimize_parameters(original: Any, *args: Any, **kwargs: Any) -> Any:
            session.step_started()
            try:
                result = original(*args, **kwargs)
            except BaseException:
                session.step_abandoned()
                raise
            session.step_finished()
            return result

        def save_networks(original: Any, epoch: int | str) -> Any:
            result = original(epoch)
            session.save(Path(model.save_dir) / checkpoint_name(epoch))
            return result

        patches.wrap(model, "set_input", set_input)
        patches.wrap(model, "forward", forward)
        patches.wrap(model, "optimize_parameters", optimize_parameters)
        patches.wrap(model, "save_networks", save_networks)

    def learning_rates(self) -> Mapping[str, float]:
        rates = {"generator": self._model.optimizer_G, "discriminator": self._model.optimizer_D}
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in rates.items()}

    def betas(self) -> tuple[float, float]:
        first, second = self._model.optimizer_D.param_groups[0].get("betas", super().betas())
        return (float(first), float(second))

    def n_epochs(self) -> int | None:
        opt = self._model.opt
        if not hasattr(opt, "n_epochs") or not hasattr(opt, "n_epochs_decay"):
            return None if self._model.isTrain else 1
        return max(1, int(opt.n_epochs) + int(opt.n_epochs_decay))

    def dataset_layout(self, dataset: Any) -> DatasetLayout | None:
        loader = getattr(dataset, "dataloader", dataset)
        inner = getattr(loader, "dataset", None)
        paths = [str(path) for name in ("A_paths", "B_paths") for path in getattr(inner, name, ())]
        # A fork's data set may inherit the method that opens images from the module of its parent.
        modules = dict.fromkeys(kind.__module__ for kind in type(inner).__mro__)
        opening = tuple(name for name in modules if hasattr(importlib.import_module(name), "Image"))
        return DatasetLayout(loader, opening, ("A", "B"), tuple(paths)) if paths and opening else None

    def resume_file(self) -> Path | None:
        opt = self._model.opt
        if self._model.isTrain and not getattr(opt, "continue_train", False):
            return None
        iteration = int(getattr(opt, "load_iter", 0) or 0)
        return Path(self._model.save_dir) / checkpoint_name(f"iter_{iteration}" if iteration > 0 else opt.epoch)

    def host_state(self) -> dict[str, Any]:
        model = self._model
        if not model.isTrain:
            return {}
        moments = [optimizer.state_dict()["state"] for optimizer in model.optimizers]
        pools = {name: list(getattr(model, name).images) if getattr(model, name).pool_size else [] for name in _POOLS}
        return {"moments": moments, "pools": pools}

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        model = self._model
        if not model.isTrain or not state:
            return
        for optimizer, moments in zip(model.optimizers, state["moments"], strict=True):
            # Moments only: rates and groups belong to the host's own schedule.
            optimizer.load_state_dict({**optimizer.state_dict(), "state": copy.deepcopy(moments)})
        for name in _POOLS:
            pool, images = getattr(model, name), [_moved(image, model.device) for image in state["pools"][name]]
            if pool.pool_size:
                pool.images, pool.num_imgs = images, len(images)


_POOLS = ("fake_A_pool", "fake_B_pool")


def _moved(image: Tensor, device: Any) -> Tensor:
    return image.to(device)
