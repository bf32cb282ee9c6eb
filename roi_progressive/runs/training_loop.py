"""The loop of a training run: its epochs, and what is saved, validated, drawn and logged after each."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import DataError, DivergenceError
from ..evaluation.training_curves import training_curves
from ..host import CycleGANModel
from ..loggers import LOGGERS, Logger, curve_name
from ..loggers.names import HOST, OURS, VALIDATION
from ..method.stages import Stage
from ..runtime.devices import deterministic
from ..runtime.distributed import from_every_process, is_main_process
from ..runtime.finite import first_not_finite
from ..runtime.rng import undisturbed_streams
from ..saving.checkpoint import checkpoint_name
from ..saving.names import DIRECTIONS
from ..saving.written import record_written, recorded, remove_written
from ..training.session import Session
from .average import GENERATORS, AveragedGenerators, average_file, copy_of_generator
from .folder import Run, add_to_history, curves_file, history, history_file
from .kept_epochs import best_epoch, point_at, point_at_best, saved_epoch
from .moments import optimizers_file, save_optimizers
from .options import TrainOptions
from .preview import Preview
from .validation import Generators, Validator, add_validation, best_of, is_out_of_patience, validations

Report = Callable[[int, int, str], None]
"""Called after every step with steps done, steps in all, and what is being done."""


class TrainingLoop:
    """The epochs of a run that are left, and what is saved, validated, drawn and logged of them.

    Args:
        model: The host, set up.
        dataset: Its loader.
        session: What guides it, attached.
        options: How it trains.
        data: The data set.
        folder: The run's folder; with ``epoch_count`` above 1 it holds the epoch before.
        loggers: Those of the user; the loop has its own for ``options.logger``.
        report: Called after every step and every validated slice.

    Raises:
        ConfigError: A validation cannot be scored by the chosen metric, or a logger's package is not installed.
        DataError: The slices to validate on cannot be used.
    """

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
        neighbours = options.neighbours or 0
        validates = options.validate_every > 0
        self._validator = Validator(data, options.metric, model.device, neighbours) if validates else None
        self._preview = Preview(data, [region.name for region in session.config.regions], neighbours)
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
            self._report_progress(epoch, step, f"epoch {epoch} of {self._last}, {stage}")
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

    def _report_progress(self, epoch: int, step: int, text: str) -> None:
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
            self._report_progress(epoch, self._steps, f"validating epoch {epoch}, {done} of {len(validator)}")

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
                best=best_epoch(self._folder) if best is None else best,
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


def repeat_rates(model: CycleGANModel, run: Run) -> None:
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


def _mean_of(sums: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = dict.fromkeys(name for of_process in sums for name in of_process)
    return {name: sum(of_process.get(name, 0.0) for of_process in sums) / len(sums) for name in names}


def _files_of_epoch(model: CycleGANModel, networks: Path, epoch: int) -> list[Path]:
    """All that a run of any options writes of an epoch's networks."""
    own = [networks / f"{epoch}_net_{name}.pth" for name in model.model_names]
    own += [average_file(networks, epoch, name) for name in GENERATORS]
    return [*own, optimizers_file(networks, epoch), networks / checkpoint_name(epoch)]
