"""A training run of the bundled host in a folder: train it, stop it at any moment, go on with it.

A new run's folder is written to after its first step only, so that a mistake leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..check.data_check import check_folder, check_size, read_everything
from ..config import Config
from ..errors import DataError, ShapeError
from ..host import create_dataset, create_model
from ..host.dataset import worker_errors
from ..loggers import Logger
from ..runtime.devices import choose_device, describe_device
from ..runtime.distributed import is_main_process, n_processes
from ..saving.checkpoint import checkpoint_name, load_checkpoint
from ..saving.locks import only_writer, resolved
from ..saving.whole_files import make_folder, require_new_or_empty
from ..saving.written import written_names
from ..training.session import attach
from .average import AveragedGenerators
from .data_place import neighbours_of, preparation_of
from .folder import Run, add_device, check_place, clear, remove_leftovers, set_data, truncate_history, write_description
from .kept_epochs import point_at_best
from .moments import load_optimizers, optimizers_file
from .options import TrainOptions
from .training_loop import Report, TrainingLoop, repeat_rates
from .validation import best_of, require_every_validation, truncate_validations, validations

__all__ = ["INERT", "Report", "TrainOptions", "resume", "train"]

INERT = Config(regions=(), ggd=None)


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
        plugins: Plugins of the session, besides those installed; loggers among them are given the host's losses and
            validations too.
        force: Train into a folder that holds files; an earlier run in it is removed after the first step.
        report: Called after every step.

    Raises:
        ConfigError: This machine has no such device as the options name, or the data set has other neighbours than
            they ask for.
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
        options = replace(options, neighbours=neighbours_of(root, options.neighbours))
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
    others, loggers = _apart(plugins)
    with attach(model, dataset, settings, plugins=others) as session:
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

        try:
            TrainingLoop(model, dataset, session, options, root, folder, loggers, report).run(begin)
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
    lines = [line for line in validations(run.folder) if line["epoch"] <= run.epoch]
    require_every_validation(run.folder, lines, run.epoch, run.options.validate_every)
    best = (best_of(lines) or {}).get("epoch") if run.options.keeps_best else None
    if best is not None and best != run.epoch:
        _verify_epoch(replace(run, epoch=best))
    if run.is_finished:
        _verify_epoch(run)
        if is_main_process():
            point_at_best(run.folder, best)
            remove_leftovers(run.folder, (run.epoch, best))
        return
    exact = n_processes() == 1 and not optimizers_file(run.networks, run.epoch).exists()
    host_options = run.host_options(continue_train=True, epoch=str(run.epoch), epoch_count=run.epoch + 1)
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    others, loggers = _apart(plugins)
    with attach(model, dataset, _kept(run.config, exact=exact), plugins=others) as session:
        if not exact:
            load_optimizers(model, run.networks, run.epoch)
        read_everything(dataset)
        repeat_rates(model, run)
        training = TrainingLoop(model, dataset, session, run.options, run.data, run.folder, loggers, report)
        if is_main_process():
            truncate_history(run.folder, run.epoch)
            truncate_validations(run.folder, run.epoch)
            point_at_best(run.folder, best)
            remove_leftovers(run.folder, (run.epoch, best))
            set_data(run.folder, run.data)
            add_device(run.folder, run.epoch + 1, describe_device(choose_device(run.options.device)))
        training.run()


def _verify_epoch(run: Run) -> None:
    """Load all that was saved of an epoch.

    Raises:
        CheckpointError: A file is missing or damaged.
    """
    model = create_model(run.host_options(continue_train=True, epoch=str(run.epoch)))
    model.load_networks(run.epoch)
    if run.options.average_decay > 0:
        AveragedGenerators(model, run.options.average_decay).load(run.networks, run.epoch)
    load_checkpoint(run.networks / checkpoint_name(run.epoch))


def _apart(plugins: Iterable[Any]) -> tuple[list[Any], list[Logger]]:
    """The loggers are called by the loop: by its own count of steps, and with the host's losses beside ours."""
    given = list(plugins)
    loggers = [plugin for plugin in given if isinstance(plugin, Logger)]
    return [plugin for plugin in given if not isinstance(plugin, Logger)], loggers


def _kept(config: Config, *, exact: bool) -> Config:
    """Pools and random streams are one process's: with several, our checkpoint holds the rest."""
    return replace(config, resume="exact" if exact else "networks")
