"""What training code in the junyanz dialect has in common: its step, files, rates and data sets.

The adapters beside this file add which images a model makes; an adapter of your own does the same in some ten lines
(docs/own-host.md). Nothing here is found as a plugin by itself.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, optim

from roi_progressive import (
    Adapter,
    Config,
    ConfigError,
    DatasetLayout,
    DomainMasks,
    GuidedSession,
    Patches,
    RandomState,
    RegionMask,
    checkpoint_name,
)

from ._host_log import report_errors, report_losses, show_sigma
from ._host_state import GRAD_SCALER, load_moments, load_pools, load_scales, moments_of, pools_of, scales_of

MODEL = ("opt", "set_input", "forward", "optimize_parameters")
"""What every model of the dialect has, besides its networks and a method that saves them."""
SAVING = ("save_networks", "save")
"""How that method is called, newest word first."""
PATHS = ("A_paths", "B_paths", "AB_paths")
"""Where its data sets list their image files."""
EPOCHS = (("n_epochs", "n_epochs_decay"), ("niter", "niter_decay"))


def lacking(host: Any, names: Sequence[str]) -> list[str]:
    """Those of the attributes that a host has not, in their order; and the method that saves, where it has none."""
    absent = [name for name in names if not hasattr(host, name)]
    return absent if any(hasattr(host, name) for name in SAVING) else [*absent, SAVING[0]]


def first_of(owner: Any, names: Sequence[str], default: Any = None) -> Any:
    """The first of some attributes that an object has: forks and older versions have other words for one thing."""
    return next((getattr(owner, name) for name in names if hasattr(owner, name)), default)


class DialectAdapter(Adapter):
    """Drives the session from around the model's own ``set_input``, ``forward`` and ``optimize_parameters``.

    A subclass answers ``generators`` and ``translations``; what a host lacks of the rest is done without.

    Args:
        model: The host's.
        config: The session's.

    Attributes:
        model: The host's.
        config: The session's.
        directions: What the model translates.
        pools: Names of its image pools.

    Example:
        For a model with one generator ``netG``, whose ``forward`` sets ``fake_B``:

        >>> from roi_progressive import Translation, hookimpl
        >>> from roi_progressive.adapters import DialectAdapter
        >>> class MyAdapter(DialectAdapter):
        ...     name = "my host"
        ...     def generators(self):
        ...         return {"A2B": self.model.netG}
        ...     def translations(self, masks):
        ...         a, b = self.masks_of_model(masks)
        ...         images = {"source": self.model.real_A, "fake": self.model.fake_B, "real": self.model.real_B}
        ...         return [Translation("A2B", **images, masks=a, real_masks=b)]
        >>> class MyPlugin:
        ...     @hookimpl
        ...     def roi_adapter(self, host, config):
        ...         return MyAdapter(host, config) if type(host).__name__ == "MyModel" else None
    """

    directions: tuple[str, ...] = ("A2B",)
    pools: tuple[str, ...] = ()

    def __init__(self, model: Any, config: Config) -> None:
        self.model = model
        self.config = config
        self._session: GuidedSession | None = None
        self._in_method = False
        """Whether ``optimize_parameters`` runs: its own beginning and end are the step's."""
        self._in_loop = False
        """Whether a forward of the user's own loop has begun a step, which the next batch ends."""
        self._setting_up = False
        self._before: dict[str, Any] = {}
        self._batch_images: dict[str, Any] = {}
        self._late_state: Mapping[str, Any] | None = None

    # -- what the model has made ----------------------------------------------------------------------------------

    def sources(self) -> Mapping[str, Tensor]:
        """The images the model last translated, by direction; what its visuals show."""
        return {"A2B": self.model.real_A}

    def batch_domains(self) -> tuple[str, str]:
        """The batch's own names of the model's A and B: ``direction`` swaps them when the batch is taken."""
        direction = first_of(self.model.opt, ("direction", "which_direction"), "AtoB")
        return ("A", "B") if direction == "AtoB" else ("B", "A")

    def masks_of_model(self, masks: DomainMasks) -> tuple[Mapping[str, RegionMask], Mapping[str, RegionMask]]:
        """The masks of the model's own A and B; of those images at hand, where the model takes its batch in parts."""
        own: list[Mapping[str, RegionMask]] = []
        for domain, name in zip(self.batch_domains(), ("real_A", "real_B"), strict=True):
            samples = _samples_of(self._batch_images.get(name), vars(self.model).get(name))
            of_all = masks[domain]
            own.append(of_all if samples is None else {name: of_all[name].of_samples(samples) for name in of_all})
        return own[0], own[1]

    def made(self, name: str) -> Tensor | None:
        """An image that the latest forward has made; ``None`` where it has not, though an earlier step may have."""
        image = vars(self.model).get(name)
        return image if isinstance(image, Tensor) and image is not self._before.get(name) else None

    def device(self) -> torch.device:
        """Where the model's images are, or before the first ones its generators."""
        image = first_of(self.model, ("real_A", "input_A", "real"))
        weights = (parameter for network in self.generators().values() for parameter in network.parameters())
        return image.device if isinstance(image, Tensor) else next(weights).device

    def is_training(self) -> bool:
        return bool(first_of(self.model, ("isTrain", "is_train"), True))

    # -- following its steps --------------------------------------------------------------------------------------

    def install(self, session: GuidedSession, patches: Patches) -> None:
        self._session = session
        if self.config.ggd is not None:
            show_sigma(self.model, session, self.sources, self.generators, patches, is_training=self.is_training())
        if not self.is_training():
            return
        if self.config.resume == "exact" and session.n_processes > 1:
            raise ConfigError(
                f'`resume` = "exact" needs a single process; got {session.n_processes}, each with its own pools and '
                f'random streams, and one file; use resume = "networks"'
            )
        report_losses(self.model, session, self.directions, patches)
        report_errors(self.model, session, patches)
        patches.wrap(self.model, "set_input", self._set_input)
        patches.wrap(self.model, "forward", self._forward)
        patches.wrap(self.model, "optimize_parameters", self._optimize_parameters)
        patches.wrap(self.model, next(name for name in SAVING if hasattr(self.model, name)), self._save)
        if hasattr(self.model, "data_dependent_initialize"):
            patches.wrap(self.model, "data_dependent_initialize", self._data_dependent_initialize)
        patches.on_undo(self._forget)

    def _set_input(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._end_of_loop_step()
        result = original(*args, **kwargs)
        self._batch_images = {name: vars(self.model).get(name) for name in ("real_A", "real_B")}
        batch = next((given for given in (*args, *kwargs.values()) if isinstance(given, Mapping)), None)
        if batch is not None and self._session is not None:
            self._session.masks_arrived(batch, self.device())
        return result

    def _forward(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not self._in_method and not self._setting_up and torch.is_grad_enabled() and self._session is not None:
            self._in_loop = True
            self._load_late_state()
            self._session.step_may_start()
        self._before = {name: value for name, value in vars(self.model).items() if isinstance(value, Tensor)}
        result = original(*args, **kwargs)
        if self._session is not None and (self._in_method or self._in_loop):
            if self.images_are_made():
                self._session.translated()
            else:
                self._await_images(self._session)
        return result

    def images_are_made(self) -> bool:
        """Whether the model's forward has made its images; some make them in the method that builds the loss."""
        return True

    def _await_images(self, session: GuidedSession) -> None:
        """Call ``session.translated`` when they are; asked where ``images_are_made`` says no."""

    def _optimize_parameters(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._end_of_loop_step()
        self._in_method = True
        try:
            self._load_late_state()
            if self._session is not None:
                self._session.step_started()
            result = original(*args, **kwargs)
        except BaseException:  # also of Ctrl-C: the step is forgotten, and the error goes on
            if self._session is not None:
                self._session.step_abandoned()
            raise
        finally:
            self._in_method, self._before = False, {}
            self._step_is_over()
        if self._session is not None:
            self._session.step_finished()
        return result

    def _step_is_over(self) -> None:
        """Called at the end of every step, also of one that failed."""

    def _load_late_state(self) -> None:
        if self._late_state is not None:
            late, self._late_state = self._late_state, None
            self._load_host_state(late)

    def _end_of_loop_step(self) -> None:
        """A loop that calls ``forward`` and the backwards itself has done with its batch when it takes the next one."""
        if self._in_loop and self._session is not None:
            self._in_loop, self._before = False, {}
            self._step_is_over()
            self._session.step_finished(if_trained=True)

    def epoch_begins(self) -> None:
        self._end_of_loop_step()

    def _save(self, original: Callable[..., Any], epoch: int | str, *args: Any, **kwargs: Any) -> Any:
        self._end_of_loop_step()
        result = original(epoch, *args, **kwargs)
        if self._session is not None:
            self._session.save_epoch(self.model.save_dir, epoch)
        return result

    def _data_dependent_initialize(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """A forward and backward at the first batch that make networks; no step, and none of a continued run's: that
        did this long ago, and its random streams must go on from where they stood."""
        before = RandomState.now() if self._late_state is not None else None
        self._setting_up = True
        try:
            result = original(*args, **kwargs)
        finally:
            self._setting_up = False
        if before is not None:
            before.restore()
        return result

    def _forget(self) -> None:
        self._session, self._in_loop, self._in_method = None, False, False
        self._before, self._batch_images = {}, {}
        self._step_is_over()

    # -- its loss, rates and length -------------------------------------------------------------------------------

    def generator_loss(self) -> Tensor | None:
        loss = vars(self.model).get("loss_G")
        return loss if isinstance(loss, Tensor) and loss.ndim == 0 else None

    def kept_losses(self) -> Mapping[str, Tensor]:
        found = {name: value for name, value in vars(self.model).items() if name.startswith("loss")}
        return {name: loss for name, loss in found.items() if isinstance(loss, Tensor) and loss.grad_fn is not None}

    def learning_rates(self) -> Mapping[str, float]:
        generator: optim.Optimizer = first_of(self.model, ("optimizer_G", "optimizer_G_A"))
        groups = {"generator": generator, "discriminator": self._optimizer_d() or generator}
        return {name: float(optimizer.param_groups[0]["lr"]) for name, optimizer in groups.items()}

    def betas(self) -> tuple[float, float]:
        optimizer: optim.Optimizer = self._optimizer_d() or self.model.optimizer_G
        first, second = optimizer.param_groups[0].get("betas", super().betas())
        return (float(first), float(second))

    def _optimizer_d(self) -> optim.Optimizer | None:
        found: optim.Optimizer | None = first_of(self.model, ("optimizer_D", "optimizer_D_A"))
        return found

    def n_epochs(self) -> int | None:
        for constant, decay in EPOCHS:
            if hasattr(self.model.opt, constant) and hasattr(self.model.opt, decay):
                return max(1, int(getattr(self.model.opt, constant)) + int(getattr(self.model.opt, decay)))
        return None if self.is_training() else 1

    def last_epoch(self) -> int | None:
        return self.n_epochs() if self.is_training() else None  # the dialect counts from 1

    # -- its data set and files -----------------------------------------------------------------------------------

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
        opt = self.model.opt
        if self.is_training() and not getattr(opt, "continue_train", False):
            return None
        iteration = int(getattr(opt, "load_iter", 0) or 0)
        epoch = first_of(opt, ("epoch", "which_epoch"), "latest")
        return self.load_folder() / checkpoint_name(f"iter_{iteration}" if iteration > 0 else epoch)

    def load_folder(self) -> Path:
        """The folder the host loads its own networks from."""
        pretrained = getattr(self.model.opt, "pretrained_name", None)
        own = Path(self.model.save_dir)
        return own.with_name(pretrained) if pretrained is not None and self.is_training() else own

    def host_state(self) -> dict[str, Any]:
        if not self.is_training():
            return {}
        pools = [name for name in self.pools if hasattr(self.model, name)]
        return {
            "moments": moments_of(self.model.optimizers),
            "pools": pools_of(self.model, pools),
            "scales": scales_of(self._scalers()),
        }

    def _scalers(self) -> dict[str, Any]:
        """The model's gradient scalers, by attribute."""
        return {name: value for name, value in vars(self.model).items() if isinstance(value, GRAD_SCALER)}

    def load_host_state(self, state: Mapping[str, Any]) -> None:
        if not self.is_training() or not state:
            return
        if hasattr(self.model, "data_dependent_initialize"):  # one optimizer is only made at the first batch
            self._late_state = state
        else:
            self._load_host_state(state)

    def _load_host_state(self, state: Mapping[str, Any]) -> None:
        load_moments(self.model.optimizers, state["moments"])
        load_pools(self.model, state["pools"], self.device())
        load_scales(self._scalers(), state.get("scales", {}))  # files of older versions have none


def _samples_of(whole: Tensor | None, part: Tensor | None) -> slice | None:
    """Which images of a batch a tensor holds; ``None`` for all of them, or where it is no part of it."""
    if whole is None or part is None or part is whole or len(part) == len(whole) or whole.stride(0) == 0:
        return None
    if part.untyped_storage().data_ptr() != whole.untyped_storage().data_ptr() or part.shape[1:] != whole.shape[1:]:
        return None
    first = (part.storage_offset() - whole.storage_offset()) // whole.stride(0)
    return slice(first, first + len(part))
