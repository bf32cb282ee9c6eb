"""A training run of the bundled host in a folder: train it, stop it at any moment, go on with it.

A new run's folder is written to after its first step only, so that a mistake leaves nothing behind.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..check.data_check import check_folder, check_size, read_everything
from ..config import Config
from ..errors import CheckpointError, DataError, DivergenceError, ShapeError, first_line
from ..host import CycleGANModel, create_dataset, create_model
from ..host.dataset import worker_errors
from ..runtime.devices import choose_device, describe_device, deterministic
from ..runtime.distributed import from_every_process, is_main_process, n_processes
from ..runtime.finite import first_not_finite
from ..saving.checkpoint import checkpoint_name, load_checkpoint, save_checkpoint
from ..saving.locks import only_writer, resolved
from ..saving.state_checks import adam_state
from ..saving.whole_files import make_folder, require_new_or_empty
from ..saving.written import recorded, remove_written, written_names
from ..training.session import Session, attach
from .average import GENERATORS, AveragedGenerators, average_file
from .data_place import preparation_of
from .folder import (
    Run,
    add_device,
    add_to_history,
    check_place,
    clear,
    point_at,
    remove_leftovers,
    saved_epoch,
    set_data,
    truncate_history,
    write_description,
    write_image,
)
from .options import TrainOptions

__all__ = ["INERT", "Report", "TrainOptions", "resume", "train"]

INERT = Config(regions=(), ggd=None)
Report = Callable[[int, int, str], None]
"""Called after every step with steps done, steps in all, and what is being done."""


def train(
    data: str | Path,
    out: str | Path,
    options: TrainOptions | None = None,
    config: Config | None = None,
    *,
    plugins: Iterable[Any] = (),
    force: bool = False,
    report: Report | None = None,
) -> None:
    """Train from the beginning.

    Args:
        data: Folder with ``trainA``, ``trainB`` and, for every region, ``trainA_<region>``, ``trainB_<region>``.
        out: The run's folder; it must be new or empty.
        options: How the host trains; the defaults where ``None``.
        config: How the session guides it; ``None`` trains the host without guidance.
        plugins: Plugins of the session, besides those installed.
        force: Train into a folder that holds files; an earlier run in it is removed after the first step.
        report: Called after every step.

    Raises:
        ConfigError: This machine has no such device as the options name.
        DataError: ``data`` cannot be used, ``out`` holds files and ``force`` is not set, or files that are not ours
            under the names of ours, or another command is writing it.
        DivergenceError: A weight or a loss is infinite or NaN at an epoch's end.
        MaskError: Masks are missing, unreadable or of another size than their images.
    """
    options, settings = options or TrainOptions(), _kept(config or INERT, exact=n_processes() == 1)
    device = choose_device(options.device)
    folder, root = Path(out), resolved(data, "data")
    with _alone_in(folder):
        require_new_or_empty(folder, force=force, remedy="use --force or --resume")
        check_place(folder)
        check_folder(root)
        _train_anew(root, folder, options, settings, device, plugins, force, report)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """The first of the processes that train together keeps other commands away from the run."""
    with only_writer(folder) if is_main_process() else nullcontext(), worker_errors():
        yield


def _train_anew(
    root: Path,
    folder: Path,
    options: TrainOptions,
    settings: Config,
    device: torch.device,
    plugins: Iterable[Any],
    force: bool,
    report: Report | None,
) -> None:
    host_options = options.host_options(root, folder, force=force)
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    with attach(model, dataset, settings, plugins=plugins) as session:
        size_px = read_everything(dataset)
        check_size(size_px, settings.regions)
        preparation = preparation_of(root)

        def begin() -> None:
            if not is_main_process():
                return
            make_folder(folder)
            clear(folder)
            place = describe_device(device)
            write_description(folder, root, options, settings, size_px, place, preparation)

        averages = _averages(model, options, folder)
        try:
            _loop(model, dataset, session, averages, options, folder, report, begin)
        except ShapeError as error:
            raise DataError(
                f"`data` must hold images that the networks can take; {size_px[0]} x {size_px[1]} px do not suit "
                f"--depth {options.depth}, --discriminator-layers {options.discriminator_layers} or a region: {error}"
            ) from error


def resume(
    out: str | Path,
    *,
    device: str | None = None,
    data: str | Path | None = None,
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> None:
    """Continue a run from its last saved epoch; the result is that of the uninterrupted run.

    Where several processes train or trained it, networks, optimizers and stage continue, with any number of processes;
    pools and random streams, of which each process has its own, start anew.

    Args:
        out: The run's folder.
        device: Where to train from here on; as the run was told when it began, by default.
        data: Where its data set lies now, which the run remembers; where it lay before, by default.
        plugins: Plugins of the session, besides those installed.
        report: Called after every step.

    Raises:
        ConfigError: This machine has no such device.
        DataError: ``out`` is no run, its data are gone, ``data`` is another data set, or a record in it is damaged.
        CheckpointError: There is no saved epoch, or a file of it is missing or damaged.
        DivergenceError: A weight or a loss is infinite or NaN at an epoch's end.
    """
    Run.open(out, device=device, data=data)  # a folder that is no run gets no lock
    with _alone_in(Path(out)):
        _go_on(Run.open(out, device=device, data=data), plugins, report)


def _go_on(run: Run, plugins: Iterable[Any], report: Report | None) -> None:
    """All that is read is read, and verified, before anything is removed: the folder may be half of a copy."""
    written_names(run.folder)
    if run.epoch >= run.last_epoch:
        _verify_epoch(run)
        if is_main_process():
            remove_leftovers(run.folder, run.epoch)
        return
    exact = n_processes() == 1 and not optimizers_file(run.networks, run.epoch).exists()
    host_options = run.host_options(continue_train=True, epoch=str(run.epoch), epoch_count=run.epoch + 1)
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    with attach(model, dataset, _kept(run.config, exact=exact), plugins=plugins) as session:
        if not exact:
            load_optimizers(model, run.networks, run.epoch)
        read_everything(dataset)
        averages = _averages(model, run.options, run.folder)
        if is_main_process():
            truncate_history(run.folder, run.epoch)
            remove_leftovers(run.folder, run.epoch)
            set_data(run.folder, run.data)
            add_device(run.folder, run.epoch + 1, describe_device(choose_device(run.options.device)))
        _loop(model, dataset, session, averages, run.options, run.folder, report)


def _verify_epoch(run: Run) -> None:
    """Load all that a finished run saved.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    model = create_model(run.host_options(continue_train=True, epoch=str(run.epoch)))
    model.load_networks(run.epoch)
    if run.options.average_decay > 0:
        AveragedGenerators(model, run.options.average_decay).load(run.networks, run.epoch)
    load_checkpoint(run.networks / checkpoint_name(run.epoch))


def _loop(
    model: CycleGANModel,
    dataset: Any,
    session: Session,
    averages: AveragedGenerators | None,
    options: TrainOptions,
    folder: Path,
    report: Report | None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    with deterministic(options.deterministic):
        _train_epochs(model, dataset, session, averages, options, folder, report, begin)


def _train_epochs(
    model: CycleGANModel,
    dataset: Any,
    session: Session,
    averages: AveragedGenerators | None,
    options: TrainOptions,
    folder: Path,
    report: Report | None,
    begin: Callable[[], None],
) -> None:
    last = options.epochs + options.decay_epochs
    steps = len(dataset.dataloader)
    begun = False
    for epoch in range(model.opt.epoch_count, last + 1):
        stage = session.start_epoch(epoch)
        sums = EpochSums(steps)
        for step, batch in enumerate(dataset, start=1):
            model.set_input(batch)
            model.optimize_parameters()
            if averages is not None:
                averages.update((epoch - 1) * steps + step)
            if not begun:
                begin()
                begun = True
            sums.add(_losses(model, session))
            if report is not None:
                report((epoch - 1) * steps + step, last * steps, f"epoch {epoch} of {last}, {stage}")
        model.update_learning_rate()
        means = _mean_of(from_every_process(sums.read()))
        _require_finite(model, session, means, options, epoch)
        losses = {name: loss if math.isfinite(loss) else None for name, loss in means.items()}
        if not is_main_process():
            continue
        add_to_history(folder, epoch, stage.number, losses)
        if epoch % options.save_every_epochs == 0 or epoch == last:
            _save(model, session, averages, folder, epoch)


def _require_finite(
    model: CycleGANModel, session: Session, losses: Mapping[str, float], options: TrainOptions, epoch: int
) -> None:
    """Look at what an epoch left, whatever was active in it: nothing good comes after an infinite weight.

    Steps of ours that were not finite are left out and counted where they happen; with a scaler of the losses the host
    leaves out its own likewise.

    Raises:
        DivergenceError: A weight, or a loss of the host's, is infinite or NaN.
    """
    networks = {f"net{name}": getattr(model, f"net{name}") for name in model.model_names}
    networks |= {f"a network of ours, {type(network).__name__}": network for network in session.networks()}
    found = first_not_finite(
        (f"{name}, {key}", value) for name, network in networks.items() for key, value in network.state_dict().items()
    )
    if found is None and options.precision != "fp16":
        names = [name for name in model.loss_names if not name.startswith("roi_")]
        found = next((f"loss {name}" for name in names if not math.isfinite(losses.get(name, 0.0))), None)
    if found is not None:
        raise DivergenceError(
            f"`learning_rate` must let the run converge; after epoch {epoch} {found} is infinite or NaN; nothing of "
            f"this epoch was saved; lower it and start again with --force"
        )


def _averages(model: CycleGANModel, options: TrainOptions, folder: Path) -> AveragedGenerators | None:
    if options.average_decay == 0:
        return None
    averages = AveragedGenerators(model, options.average_decay)
    if model.opt.epoch_count > 1:
        averages.load(folder / "networks", model.opt.epoch_count - 1)
    return averages


class EpochSums:
    """Mean losses of an epoch, summed where they were computed: nobody waits for a GPU before the epoch's end.

    Args:
        steps: Of an epoch.
    """

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._sums: dict[tuple[str, ...], Tensor] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Take in the losses of one step, scalars on one device."""
        names, values = tuple(losses), torch.stack([loss.detach().float() for loss in losses.values()])
        # In double precision, as Python's own numbers are; MPS has none.
        shares = (values.double() if values.device.type != "mps" else values) / self._steps
        self._sums[names] = self._sums[names] + shares if names in self._sums else shares

    def read(self) -> dict[str, float]:
        """The sums by name; waits for the device."""
        sums: dict[str, float] = {}
        for names, values in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
        return sums


def _losses(model: CycleGANModel, session: Session) -> dict[str, Tensor]:
    """The host's terms and ours, on their device; the host's log also shows ours, as ``roi_...``."""
    host = {name: getattr(model, f"loss_{name}") for name in model.loss_names if not name.startswith("roi_")}
    return {**host, **session.loss_tensors()}


def _kept(config: Config, *, exact: bool) -> Config:
    """Pools and random streams are one process's: with several, our checkpoint holds the rest."""
    return replace(config, resume="exact" if exact else "networks")


def _mean_of(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for of_process in sums for name in of_process)
    return {name: sum(of_process.get(name, 0.0) for of_process in sums) / len(sums) for name in names}


def _save(
    model: CycleGANModel, session: Session, averages: AveragedGenerators | None, folder: Path, epoch: int
) -> None:
    """Save an epoch and its picture, then point at it, then drop the one before: a stop in between loses nothing."""
    before = saved_epoch(folder)
    networks, sample = folder / "networks", folder / "samples" / f"epoch_{epoch:04d}.png"
    with recorded(folder, *_files_of_epoch(model, networks, epoch), sample):
        model.save_networks(epoch)
        if session.config.resume != "exact":
            save_optimizers(model, networks, epoch)
        if averages is not None:
            averages.save(networks, epoch)
        _draw_sample(model, sample)
    point_at(folder, epoch)
    if before is not None and before != epoch:
        remove_written(folder, [f"networks/{path.name}" for path in _files_of_epoch(model, networks, before)])


def _files_of_epoch(model: CycleGANModel, networks: Path, epoch: int) -> list[Path]:
    """All that a run of any options writes of an epoch's networks."""
    own = [networks / f"{epoch}_net_{name}.pth" for name in model.model_names]
    own += [average_file(networks, epoch, name) for name in GENERATORS]
    return [*own, optimizers_file(networks, epoch), networks / checkpoint_name(epoch)]


def _draw_sample(model: CycleGANModel, path: Path) -> None:
    """One row an image of the last batch's first sample: source, generated, reconstructed, in both directions."""
    names = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    strip = torch.cat([getattr(model, name)[0].detach() for name in names], dim=-1)
    write_image(path, strip)


# -- the moments of the host's optimizers in a run of several processes ------------------------------------------------
#
# They are the same in all processes, whatever their number. A run of one process keeps them in our checkpoint
# (`resume = "exact"`), with its pools and random streams; those are each process's own, and there is one file.


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
