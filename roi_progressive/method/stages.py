"""Which terms are active when, and how strongly: a pure function of the epoch, with an optional plateau trigger.

The trigger looks at the mean loss of every term over an epoch, which ``EpochMeans`` gathers.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import Tensor

from .. import setting_checks as check
from ..config import Config
from ..errors import ConfigError
from ..runtime.distributed import from_every_process
from ..saving.state_checks import number, tensor, whole


@dataclass(frozen=True)
class Stage:
    """One stage of a run.

    Args:
        number: Counted from 1.
        terms: Names of all terms active in it: regions, and ``ggd``.
        from_fraction: Share of the run after which it begins, in [0, 1); ignored where ``from_epoch`` is given.
        from_epoch: Its first epoch in the host's own count.

    Example:
        >>> from roi_progressive import Stage
        >>> print(Stage(2, ("tumor",), from_fraction=0.5))
        stage 2 (whole + tumor)
    """

    number: int
    terms: tuple[str, ...]
    from_fraction: float = 0.0
    from_epoch: int | None = None

    def __str__(self) -> str:
        return f"stage {self.number} ({' + '.join(('whole', *self.terms))})"


def default_plan(config: Config) -> tuple[Stage, ...]:
    """Stage 1 is the host alone (and terms set to stage 1); regions join in their order, as ``stages`` says when.

    Raises:
        ConfigError: ``stages.from_epochs`` does not name one epoch for each stage after the first.
    """
    joins = {r.name: place + 2 if r.stage is None else r.stage for place, r in enumerate(config.regions)}
    if config.ggd is not None:
        joins["ggd"] = config.ggd.stage
    count = max(joins.values(), default=1)
    epochs = config.stages.from_epochs
    if epochs is not None and len(epochs) != count - 1:
        raise ConfigError(
            f"`stages.from_epochs` must name the first epoch of stages 2 to {count}, {count - 1} in all; "
            f"got {list(epochs)}"
        )
    joined_by = config.stages.joined_by_fraction
    step = 1 / count if joined_by is None else joined_by / max(1, count - 1)
    return tuple(
        Stage(
            number=number,
            terms=tuple(name for name, joined in joins.items() if joined <= number),
            from_fraction=(number - 1) * step,
            from_epoch=None if epochs is None or number == 1 else epochs[number - 2],
        )
        for number in range(1, count + 1)
    )


class StageController:
    """Says for each epoch which stage it is in and the weight, 0 to 1, of every term.

    Without the plateau trigger this is a pure function of the epoch. Progress counts from the first epoch seen
    (some hosts count from 1, scripts from 0).

    Args:
        config: Fade-in and trigger.
        n_epochs: Length of the whole run in epochs. A run that is first seen in a later epoch than its first (a plain
            one that goes on guided) is what is left of it: shares of the run are shares of that.
        plan: The stages; ``default_plan(config)`` where not given.
        last_epoch: The run's last epoch in the host's own count, where the host says; otherwise ``n_epochs`` tells it,
            counted from 0.

    Raises:
        ConfigError: ``n_epochs`` or the plan is unusable.

    Example:
        >>> from roi_progressive import Config
        >>> stages = StageController(Config.paper(), n_epochs=30)
        >>> str(stages.start_epoch(0))
        'stage 1 (whole + ggd)'
        >>> str(stages.start_epoch(10))
        'stage 2 (whole + liver + ggd)'
        >>> stages.weights()  # a third of the way into the fade of 3 epochs
        {'liver': 0.3333333333333333, 'ggd': 1.0}
    """

    def __init__(
        self, config: Config, n_epochs: int, plan: Sequence[Stage] | None = None, *, last_epoch: int | None = None
    ) -> None:
        check.whole("", "n_epochs", n_epochs, low=1)
        self._n_epochs_in_all = n_epochs
        self._told_last_epoch = last_epoch
        self.plan = tuple(plan) if plan is not None else default_plan(config)
        if [stage.number for stage in self.plan] != list(range(1, len(self.plan) + 1)):
            raise ConfigError(
                f"`plan` must number its stages 1, 2, 3, ...; got {[stage.number for stage in self.plan]}"
            )
        _check_rising(self.plan)
        self._config = config.stages
        self._regions = frozenset(region.name for region in config.regions)
        self.first_epoch: int | None = None
        self.epoch: int | None = None
        self._early: dict[int, int] = {}
        self._best: float | None = None
        self._stale_epochs = 0

    def start_epoch(self, epoch: int) -> Stage:
        """Move to an epoch and return its stage.

        Raises:
            ConfigError: The epoch is no whole number, or lies before the one the run already stood at.
        """
        try:
            epoch = operator.index(epoch)  # a plain int, whatever the host counts with: it goes into the checkpoint
        except TypeError as error:
            raise ConfigError(f"`epoch` must be a whole number, the host's own count; got {epoch!r}") from error
        if self.epoch is not None and epoch < self.epoch:
            raise ConfigError(
                f"`epoch` must not go back: this run already stood at epoch {self.epoch}; got {epoch}; "
                f"continue from epoch {self.epoch} or start a fresh run"
            )
        if self.first_epoch is None:
            self.first_epoch = epoch
        before = self.stage
        self.epoch = epoch
        if self._stale_epochs >= self._config.patience_epochs and before.number < len(self.plan):
            # Counted from the stage that stalled: one that begins here by plan must not be skipped.
            self._early.setdefault(before.number + 1, epoch)
        if self.stage != before:
            self._best, self._stale_epochs = None, 0
        return self.stage

    @property
    def n_epochs(self) -> int:
        """Length of the run in epochs, from the first one seen."""
        first, in_all = self.first_epoch, self._n_epochs_in_all
        if first is None:
            return in_all
        if self._told_last_epoch is not None:
            return max(1, self._told_last_epoch - first + 1)
        # Counts begin at 0 or 1; who says a length that ends before the first epoch seen means what is left.
        return in_all - first if 1 < first < in_all else in_all

    @property
    def last_epoch(self) -> int:
        """The run's last epoch, in the host's own count."""
        return (self.first_epoch or 0) + self.n_epochs - 1

    def never_reached(self) -> list[Stage]:
        """The stages that would begin after the run's last epoch."""
        return [stage for stage in self.plan if self.first_epoch_of(stage) > self.last_epoch]

    @property
    def stage(self) -> Stage:
        """The stage of the current epoch; the first one before any epoch."""
        return self.stage_at(self.epoch) if self.epoch is not None else self.plan[0]

    def stage_at(self, epoch: int) -> Stage:
        """The stage an epoch lies in."""
        return [stage for stage in self.plan if stage.number == 1 or self.first_epoch_of(stage) <= epoch][-1]

    def first_epoch_of(self, stage: Stage) -> int:
        """The epoch a stage begins with, in the host's own count."""
        first = self.first_epoch or 0
        if stage.number == 1:
            return first
        planned = first + round(stage.from_fraction * self.n_epochs) if stage.from_epoch is None else stage.from_epoch
        return min(planned, self._early.get(stage.number, planned))

    def weights(self) -> dict[str, float]:
        """Every active term's weight in the current epoch: rising from its stage's first epoch on, then 1.

        A term that a plan drops in a later stage is no longer active there.
        """
        fade_epochs = max(1.0, self._config.fade_fraction * self.n_epochs)
        weights: dict[str, float] = {}
        for stage in self.plan[: self.stage.number]:
            since = 0 if self.epoch is None else self.epoch - self.first_epoch_of(stage) + 1
            for term in stage.terms:
                weights.setdefault(term, 1.0 if stage.number == 1 else min(1.0, since / fade_epochs))
        return {term: weights[term] for term in self.stage.terms}

    def observe(self, losses: Mapping[str, float]) -> None:
        """Tell the plateau trigger the last epoch's mean loss of every term.

        It looks at the regions that joined with the current stage; an epoch without any of them does not count, and
        a stage that brings none lasts as planned.
        """
        stage = self.stage
        earlier = self.plan[stage.number - 2].terms if stage.number > 1 else ()
        newest = [losses[t] for t in stage.terms if t in self._regions and t not in earlier and t in losses]
        if self._config.trigger != "plateau" or not newest:
            return
        loss = sum(newest) / len(newest)
        if self._best is None or loss < self._best - abs(self._best) * self._config.min_improvement:
            self._best, self._stale_epochs = loss, 0
        else:
            self._stale_epochs += 1

    def state_dict(self) -> dict[str, Any]:
        """Where the run stands; plain values only."""
        return {
            "first_epoch": self.first_epoch,
            "epoch": self.epoch,
            "early": dict(self._early),
            "best": self._best,
            "stale_epochs": self._stale_epochs,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            TypeError: A value is of another kind.
        """
        first, epoch = (None if state[key] is None else whole(key, state[key]) for key in ("first_epoch", "epoch"))
        early = {whole("a stage", number): whole("its epoch", epoch) for number, epoch in state["early"].items()}
        best = None if state["best"] is None else number("best", state["best"])
        self._stale_epochs = whole("stale_epochs", state["stale_epochs"])
        self.first_epoch, self.epoch, self._early, self._best = first, epoch, early, best


def _check_rising(plan: Sequence[Stage]) -> None:
    later = plan[1:]
    for kind in ([s.from_epoch for s in later], [s.from_fraction for s in later if s.from_epoch is None]):
        known = [begin for begin in kind if begin is not None]
        if any(begin > following for begin, following in pairwise(known)):
            raise ConfigError(f"`plan` must begin its stages one after another; got {known}; put them in order")


class EpochMeans:
    """Sums the losses of an epoch's steps on their own device; reading the means is the only wait."""

    def __init__(self) -> None:
        self._sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, losses: Mapping[str, Tensor]) -> None:
        """Count the losses of one step: detached scalars by name, ``G_tumor_A2B``, ``ggd_A2B``, ..."""
        for name, loss in losses.items():
            total, count = self._sums.get(name, (loss.new_zeros(()), 0))
            self._sums[name] = total + loss, count + 1

    def take(self) -> dict[str, float]:
        """Means so far by term (``tumor``, ``ggd``, ...), over steps, directions and processes, and start anew."""
        own = {name: (float(total), count) for name, (total, count) in self._sums.items()}
        self._sums.clear()
        sums: dict[str, tuple[float, int]] = {}
        for of_process in from_every_process(own):  # so that all processes change stage together
            for name, (total, count) in of_process.items():
                before, counted = sums.get(name, (0.0, 0))
                sums[name] = before + total, counted + count
        means: dict[str, list[float]] = {}
        for name, (total, count) in sums.items():
            term = name.removeprefix("G_").rsplit("_", 1)[0]
            means.setdefault(term, []).append(total / count)
        return {term: sum(values) / len(values) for term, values in means.items()}

    def state_dict(self) -> dict[str, Any]:
        """Sums and counts; tensors and plain values only."""
        return {name: {"total": total, "count": count} for name, (total, count) in self._sums.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where ``state_dict`` was taken.

        Raises:
            TypeError, ValueError: A value is of another kind.
        """
        self._sums = {
            str(name): (tensor("total", saved["total"], ndim=0), whole("count", saved["count"]))
            for name, saved in state.items()
        }
