"""A training run of the bundled host in a folder: train it, stop it at any moment, go on with it.

A new run's folder is written to after its first step only, so that a mistake leaves nothing behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from ..config import Config
from ..runtime.distributed import from_every_process, is_main_process, n_processes
from ..errors import DataError, ShapeError
from ..host import CycleGANModel, create_dataset, create_model
from ..check.data_check import check_folder, check_size, read_everything
from .average import AveragedGenerators
from .folder import (
    append_json,
    clear,
    make_folder,
    read_run,
    remove_leftovers,
    require_data,
    required_epoch,
    saved_epoch,
    truncate_history,
    write_image,
    write_json,
)
from .run_optimizers import load_optimizers, optimizers_file, save_optimizers
from ..training.session import Session, attach
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
        out: The run's folder; must be new or empty.
        options: The host's.
        config: The regions'; ``None`` trains the plain host.
        plugins: For the session.
        force: Train into a folder that holds something; an earlier run in it is removed after the first step.
        report: Told of every step.

    Raises:
        DataError: ``data`` is unusable, or ``out`` holds something and ``force`` is not set.
        MaskError: Masks are missing, unreadable or of another size than their images.
    """
    options, settings = options or TrainOptions(), _kept(config or INERT, exact=n_processes() == 1)
    folder, root = Path(out), Path(data).resolve()
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not force)):
        raise DataError(
            f"`out` must be a new or empty folder; {str(out)!r} is not; choose another, or use --force or --resume"
        )
    check_folder(root)
    host_options = options.host_options(root, folder, force=force)
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    with attach(model, dataset, settings, plugins=plugins) as session:
        size_px = read_everything(dataset)
        check_size(size_px, settings.regions)
        described = {"data": str(root), "options": asdict(options), "config": settings.to_mapping()}

        def begin() -> None:
            if not is_main_process():
                return
            make_folder(folder)
            clear(folder)
            write_json(folder / "run.json", {"format": 1, "size_px": list(size_px), **described})

        try:
            _loop(model, dataset, session, options, folder, report, begin)
        except ShapeError as error:
            raise DataError(
                f"`data` must hold images that the networks can take; {size_px[0]} x {size_px[1]} px do not suit "
                f"--depth {options.depth}, --discriminator-layers {options.discriminator_layers} or a region: {error}"
            ) from error


def resume(out: str | Path, *, plugins: Iterable[Any] = (), report: Report | None = None) -> None:
    """Continue a run from its last saved epoch; the result is the uninterrupted run's.

    Where several processes train or trained it, networks, optimizers and stage go on, by any number of processes;
    pools and random streams, of which each has its own, start anew.

    Raises:
        DataError: ``out`` is no run, or its data are gone.
        CheckpointError: There is no saved epoch, or a file of it is missing or damaged.
    """
    folder = Path(out)
    root, options, settings = read_run(folder)
    epoch = required_epoch(folder)
    exact = n_processes() == 1 and not optimizers_file(folder / "networks", epoch).exists()
    require_data(root, folder)
    host_options = options.host_options(root, folder, continue_train=True, epoch=str(epoch), epoch_count=epoch + 1)
    if epoch >= options.epochs + options.decay_epochs:
        if is_main_process():
            remove_leftovers(folder, epoch)
        return
    model = create_model(host_options)
    dataset = create_dataset(host_options)
    model.setup(host_options)
    with attach(model, dataset, _kept(settings, exact=exact), plugins=plugins) as session:
        if not exact:
            load_optimizers(model, folder / "networks", epoch)
        read_everything(dataset)
        if is_main_process():
            truncate_history(folder, epoch)
            remove_leftovers(folder, epoch)
        _loop(model, dataset, session, options, folder, report)


def _loop(
    model: CycleGANModel,
    dataset: Any,
    session: Session,
    options: TrainOptions,
    folder: Path,
    report: Report | None,
    begin: Callable[[], None] = lambda: None,
) -> None:
    last = options.epochs + options.decay_epochs
    steps = len(dataset.dataloader)
    averages = _averages(model, options, folder)
    begun = False
    for epoch in range(model.opt.epoch_count, last + 1):
        stage = session.start_epoch(epoch)
        sums: dict[str, float] = {}
        for step, batch in enumerate(dataset, start=1):
            model.set_input(batch)
            model.optimize_parameters()
            if averages is not None:
                averages.update((epoch - 1) * steps + step)
            if not begun:
                begin()
                begun = True
            for name, loss in _losses(model, session).items():
                sums[name] = sums.get(name, 0.0) + loss / steps
            if report is not None:
                report((epoch - 1) * steps + step, last * steps, f"epoch {epoch} of {last}, {stage}")
        model.update_learning_rate()
        means = _mean_of(from_every_process(sums))
        losses = {name: loss if math.isfinite(loss) else None for name, loss in means.items()}
        if not is_main_process():
            continue
        append_json(folder / "history.jsonl", {"epoch": epoch, "stage": stage.number, "losses": losses})
        if epoch % options.save_every_epochs == 0 or epoch == last:
            _save(model, session, averages, folder, epoch)


def _averages(model: CycleGANModel, options: TrainOptions, folder: Path) -> AveragedGenerators | None:
    if options.average_decay == 0:
        return None
    averages = AveragedGenerators(model, options.average_decay)
    if model.opt.epoch_count > 1:
        averages.load(folder / "networks", model.opt.epoch_count - 1)
    return averages


def _losses(model: CycleGANModel, session: Session) -> dict[str, float]:
    """The host's terms and ours; the host's log also shows ours, as ``roi_...``, and as 0 while they are not active."""
    host = {name: loss for name, loss in model.get_current_losses().items() if not name.startswith("roi_")}
    return {**host, **session.losses()}


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
    model.save_networks(epoch)
    if session.config.resume != "exact":
        save_optimizers(model, folder / "networks", epoch)
    if averages is not None:
        averages.save(folder / "networks", epoch)
    _draw_sample(model, folder / "samples" / f"epoch_{epoch:04d}.png")
    write_json(folder / "networks" / "latest.json", {"epoch": epoch})
    if before is not None and before != epoch:
        for path in (folder / "networks").glob(f"{before}_*.pth"):
            path.unlink()


def _draw_sample(model: CycleGANModel, path: Path) -> None:
    """One row an image of the last batch's first sample: source, generated, reconstructed, in both directions."""
    names = ("real_A", "fake_B", "rec_A", "real_B", "fake_A", "rec_B")
    strip = torch.cat([getattr(model, name)[0].detach() for name in names], dim=-1)
    write_image(path, strip)
