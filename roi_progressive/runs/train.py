"""A training run of the bundled host in a folder: train it, stop it at any moment, go on with it.

A new run's folder is written to after its first step only, so that a mistake leaves nothing behind.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..check.data_check import check_folder, check_size, read_everything
from ..config import Config
from ..errors import DataError, DivergenceError, ShapeError
from ..evaluation.training_curves import training_curves
from ..host import CycleGANModel, create_dataset, create_model
from ..host.dataset import worker_errors
from ..loggers import LOGGERS, Logger, curve_name
from ..loggers.names import HOST, OURS, VALIDATION
from ..method.stages import Stage
from ..runtime.devices import choose_device, describe_device, deterministic
from ..runtime.distributed import from_every_process, is_main_process, n_processes
from ..runtime.finite import first_not_finite
from ..runtime.rng import undisturbed_streams
from ..saving.checkpoint import checkpoint_name, load_checkpoint
from ..saving.locks import only_writer, resolved
from ..saving.names import DIRECTIONS
from ..saving.whole_files import make_folder, require_new_or_empty
from ..saving.written import record_written, recorded, remove_written, written_names
from ..training.session import Session, attach
from .average import GENERATORS, AveragedGenerators, average_file, copy_of_generator
from .folder import (
    Run,
    add_device,
    add_to_history,
    best_epoch,
    check_place,
    clear,
    curves_file,
    history,
    history_file,
    point_at,
    point_at_best,
    remove_leftovers,
    saved_epoch,
    truncate_history,
    write_description,
)
from .moments import load_optimizers, optimizers_file, save_optimizers
from .options import TrainOptions
from .preview import Preview
from .validation import (
    Generators,
    Validator,
    add_validation,
    best_of,
    is_out_of_patience,
    require_every_validation,
    truncate_validations,
    validations,
)

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
        plugins: Plugins of the session, besides those installed; loggers among them are given the host's losses and
            validations too.
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
    others, loggers = _apart(plugins)
    with attach(model, dataset, settings, plugins=others) as session:
        size_px = read_everything(dataset)
        check_size(size_px, settings.regions)

        def begin() -> None:
            if not is_main_process():
                return
            make_folder(folder)
            clear(folder)
            write_description(folder, root, options, settings, size_px, describe_device(device))

        try:
            _Training(model, dataset, session, options, root, folder, loggers, report).run(begin)
        except ShapeError as error:
            raise DataError(
                f"`data` must hold images that the networks can take; {size_px[0]} x {size_px[1]} px do not suit "
                f"--depth {options.depth}, --discriminator-layers {options.discriminator_layers} or a region: {error}"
            ) from error


def resume(
    out: str | Path, *, device: str | None = None, plugins: Iterable[Any] = (), report: Report | None = None
) -> None:
    """Continue a run from its last saved epoch; the result is that of the uninterrupted run.

    Where several processes train or trained it, networks, optimizers and stage continue, with any number of processes;
    pools and random streams, of which each process has its own, start anew.

    Args:
        out: The run's folder.
        device: Where to train from here on; as the run was told when it began, by default.
        plugins: Plugins of the session, besides those installed.
        report: Called after every step.

    Raises:
        ConfigError: This machine has no such device.
        DataError: ``out`` is no run, its data are gone, or a record in it is damaged.
        CheckpointError: There is no saved epoch, or a file of it is missing or damaged.
        DivergenceError: A weight or a loss is infinite or NaN at an epoch's end.
    """
    Run.open(out, device=device)  # a folder that is no run gets no lock
    with _alone_in(Path(out)):
        _go_on(Run.open(out, device=device), plugins, report)


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
        _repeat_rates(model, run)
        training = _Training(model, dataset, session, run.options, run.data, run.folder, loggers, report)
        if is_main_process():
            truncate_history(run.folder, run.epoch)
            truncate_validations(run.folder, run.epoch)
            point_at_best(run.folder, best)
            remove_leftovers(run.folder, (run.epoch, best))
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


class _Training:
    """The epochs of a run that are left, and what is saved, validated and shown of them."""

    def __init__(
        self,
        model: CycleGANModel,
        dataset: Any,
        session: Session,
        options: TrainOptions,
        data: Path,
        folder: Path,
        loggers: Sequence[Logger],
        report: Report | None,
    ) -> None:
        self._model, self._dataset, self._session = model, dataset, session
        self._options, self._folder, self._report = options, folder, report
        self._averages = _averages(model, options, folder)
        self._validator = Validator(data, options.metric, model.device) if options.validate_every else None
        self._preview = Preview(data, [region.name for region in session.config.regions])
        self._own_loggers = [
            LOGGERS[name](folder / "logs" / name, options.log_every) for name in options.logger if is_main_process()
        ]
        self._loggers = [*loggers, *self._own_loggers]
        self._last = options.epochs + options.decay_epochs
        self._steps = len(dataset.dataloader)

    def run(self, begin: Callable[[], None] = lambda: None) -> None:
        """Train to the end; ``begin`` is called after the first step."""
        with deterministic(self._options.deterministic), self._logging():
            for epoch in range(self._model.opt.epoch_count, self._last + 1):
                stage = self._session.start_epoch(epoch)
                losses = self._epoch(epoch, stage, begin)
                begin = _nothing
                if self._epoch_over(epoch, stage, losses) is not None:
                    return

    @contextmanager
    def _logging(self) -> Iterator[None]:
        """However the training ends, its loggers write what is on its way, and their files are known as ours."""
        try:
            yield
        finally:
            for logger in self._own_loggers:
                logger.close()
            self._record_logs()

    def _record_logs(self) -> None:
        files = [file for logger in self._own_loggers for file in logger.files()]
        if files:
            record_written(self._folder, files)

    def _epoch(self, epoch: int, stage: Stage, begin: Callable[[], None]) -> dict[str, float]:
        """The mean losses of an epoch, which is trained."""
        sums = EpochSums(self._steps)
        for step, batch in enumerate(self._dataset, start=1):
            self._model.set_input(batch)
            self._model.optimize_parameters()
            if self._averages is not None:
                self._averages.update((epoch - 1) * self._steps + step)
            if step == 1:
                begin()
            losses = _losses(self._model, self._session)
            sums.add(losses)
            self._log(epoch, step, losses)
            self._tell(epoch, step, f"epoch {epoch} of {self._last}, {stage}")
        means = _mean_of(from_every_process(sums.read()))
        self._model.metric = _generators_loss(means)
        self._model.update_learning_rate()
        _require_finite(self._model, self._session, means, self._options, epoch)
        return means

    def _log(self, epoch: int, step: int, losses: Mapping[str, Tensor]) -> None:
        ours = self._session.loss_tensors()
        named = {curve_name(name, OURS if name in ours else HOST): loss for name, loss in losses.items()}
        for logger in self._loggers:
            logger.log((epoch - 1) * self._steps + step, named)

    def _tell(self, epoch: int, step: int, text: str) -> None:
        if self._report is not None:
            self._report((epoch - 1) * self._steps + step, self._last * self._steps, text)

    def _epoch_over(self, epoch: int, stage: Stage, losses: Mapping[str, float]) -> str | None:
        """Validate, write down and save what is due after an epoch; returns why the run ends here, if it does.

        An epoch that is the best so far is saved like any other, so that the run can go on from it too.
        """
        if is_main_process():
            finite = {name: loss if math.isfinite(loss) else None for name, loss in losses.items()}
            add_to_history(self._folder, epoch, stage.number, finite)
        generators = _generators(self._model, self._averages) if self._is_looked_at(epoch) else {}
        best, ended = None, None
        if self._validator is not None and self._is_validated(epoch):
            best, ended = self._validate(self._validator, generators, epoch, stage)
        if is_main_process() and (self._is_saved(epoch) or best == epoch or ended is not None):
            self._save(epoch, stage, generators, best, ended)
        return ended

    def _validate(
        self, validator: Validator, generators: Generators, epoch: int, stage: Stage
    ) -> tuple[int | None, str | None]:
        """The best epoch so far, where the best is kept, and why the run ends here, if it does."""

        def seen(done: int) -> None:
            self._tell(epoch, self._steps, f"validating epoch {epoch}, {done} of {len(validator)}")

        found = validator.validate(generators, seen)
        best, ended = None, None
        if is_main_process():
            in_last_stage = stage.number == self._session.stages.plan[-1].number
            add_validation(
                self._folder, {"epoch": epoch, "stage": stage.number, "in_last_stage": in_last_stage, **found}
            )
            if self._options.keeps_best:
                lines = validations(self._folder)
                best = (best_of(lines) or {}).get("epoch")
                if is_out_of_patience(lines, self._options.patience) and epoch < self._last:
                    ended = f"no better {validator.metric.key} in {self._options.patience} validations"
            for logger in self._loggers:
                logger.log_now(epoch * self._steps, _curves_of(found))
        decision: tuple[int | None, str | None] = from_every_process((best, ended))[0]
        return decision

    def _is_saved(self, epoch: int) -> bool:
        return epoch % self._options.save_every_epochs == 0 or epoch == self._last

    def _is_validated(self, epoch: int) -> bool:
        return epoch % self._options.validate_every == 0 or epoch == self._last

    def _is_looked_at(self, epoch: int) -> bool:
        is_validated = self._validator is not None and self._is_validated(epoch)
        return is_main_process() and (self._is_saved(epoch) or is_validated)

    def _save(self, epoch: int, stage: Stage, generators: Generators, best: int | None, ended: str | None) -> None:
        """Save an epoch and its picture, then point at it, then drop those before that are neither the last nor the
        best: a stop in between loses nothing."""
        folder, model = self._folder, self._model
        before = {saved_epoch(folder), best_epoch(folder)}
        networks, sample = folder / "networks", folder / "samples" / f"epoch_{epoch:04d}.png"
        with recorded(folder, *_files_of_epoch(model, networks, epoch), sample, curves_file(folder)):
            model.save_networks(epoch)
            if self._session.config.resume != "exact":
                save_optimizers(model, networks, epoch)
            if self._averages is not None:
                self._averages.save(networks, epoch)
            self._preview.draw(sample, generators, model.device, f"epoch {epoch} of {self._last}, {stage}")
            self._draw_curves(best)
        self._record_logs()
        point_at(folder, epoch, ended)
        if best is not None:
            point_at_best(folder, best)
        kept = {epoch, best_epoch(folder)}
        for other in before - kept - {None}:
            assert other is not None
            names = [f"networks/{path.name}" for path in _files_of_epoch(model, networks, other)]
            remove_written(folder, names)

    def _draw_curves(self, best: int | None) -> None:
        epochs = history(self._folder)
        if len(epochs) < 2:  # a point is no curve
            return
        plan = self._session.stages.plan
        joins = {now.number: [t for t in now.terms if t not in before.terms] for before, now in pairwise(plan)}
        with undisturbed_streams():
            training_curves(
                epochs,
                validations(self._folder),
                curves_file(self._folder),
                stages={number: f"+ {' + '.join(terms)}" for number, terms in joins.items() if terms},
                best=best,
                domains=self._preview.domains,
            )


def _curves_of(found: Mapping[str, Any]) -> dict[str, float]:
    """The values of a validation by the names of their curves."""
    return {
        curve_name(f"{key}_{direction}", VALIDATION): float(value)
        for direction, scores in found["scores"].items()
        for key, value in scores.items()
    }


def _generators_loss(losses: Mapping[str, float | None]) -> float:
    """The host's loss of both generators in an epoch, of which a plateau ends in a lower learning rate."""
    found = [losses.get(f"{term}_{side}") for term in ("G", "cycle", "idt") for side in "AB"]
    return math.fsum(math.inf if loss is None else loss for loss in found)


def _repeat_rates(model: CycleGANModel, run: Run) -> None:
    """Bring learning rates that wait for a plateau to where the epochs so far have brought them.

    Raises:
        DataError: The history lacks an epoch.
    """
    if run.options.lr_policy != "plateau":
        return
    lines = [line for line in history(run.folder) if line["epoch"] <= run.epoch]
    if [line["epoch"] for line in lines] != list(range(1, run.epoch + 1)):
        raise DataError(
            f"`run` must hold the losses of all its epochs, by which `lr_policy` plateau goes; "
            f"{str(history_file(run.folder))!r} lacks some of {run.epoch}; take another copy of it"
        )
    for line in lines:
        model.metric = _generators_loss(line["losses"])
        model.update_learning_rate()


def _nothing() -> None:
    """What is left to begin after the first epoch."""


def _generators(model: CycleGANModel, averages: AveragedGenerators | None) -> Generators:
    """By direction what makes a run's images: the moving averages where there are any, or copies as they are now."""
    networks = averages.networks if averages is not None else {n: copy_of_generator(model, n) for n in GENERATORS}
    return dict(zip(DIRECTIONS, (networks[name] for name in GENERATORS), strict=True))


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


def _files_of_epoch(model: CycleGANModel, networks: Path, epoch: int) -> list[Path]:
    """All that a run of any options writes of an epoch's networks."""
    own = [networks / f"{epoch}_net_{name}.pth" for name in model.model_names]
    own += [average_file(networks, epoch, name) for name in GENERATORS]
    return [*own, optimizers_file(networks, epoch), networks / checkpoint_name(epoch)]
