"""Validation while a run trains: the slices of the part ``val``, scored as ``evaluate`` scores them.

It leaves no trace in the training: it looks at copies of the generators, and every random stream stands afterwards
where it stood before. What it finds lies in ``validation.jsonl``, a line a validation, from which the best epoch and
whether patience is over follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from ..errors import ConfigError, DataError, MaskError
from ..evaluation.aggregation import Results, aggregate, metrics_of
from ..evaluation.metrics import PSNR, TPSNR, Metric, SetMetric
from ..evaluation.networks import Unavailable, load_inception, load_lpips
from ..evaluation.pairs import FolderPairs, ImagePair, pairs_from_folders
from ..evaluation.region_names import default_region, organ_of
from ..evaluation.scoring import score
from ..runtime.distributed import is_main_process, sums_over_processes
from ..runtime.rng import undisturbed_streams
from ..saving.names import DIRECTIONS, source_of
from ..saving.records import NUMBER, append_json, entry, of_kind, write_json_lines
from ..saving.written import recorded, remove_written
from .best_metric import closeness
from .folder import as_batch, checked_lines, require_finite, stored_pixels, validation_file

SPLIT = "val"
Generators = Mapping[str, nn.Module]
"""The network of each direction."""


# -- the lines ---------------------------------------------------------------------------------------------------------


def validations(run: str | Path) -> list[dict[str, Any]]:
    """The validations of a run: epoch, stage, whether the plan's last stage had begun, metric, value and scores.

    ``value`` is the mean of both directions; ``scores`` holds by direction what ``evaluate`` prints in its row
    ``mean``. A line that was cut off is left out.

    Raises:
        DataError: A line is damaged.
    """

    def check(line: Any) -> None:
        entry(line, "epoch", int)
        entry(line, "metric", str)
        entry(line, "value", *NUMBER, type(None))
        entry(line, "in_last_stage", bool)
        for direction, scores in entry(line, "scores", dict).items():
            of_kind(scores, f"the scores of {direction!r}", dict)

    return checked_lines(validation_file(Path(run)), check, "no validation's")


def truncate_validations(folder: Path, epoch: int) -> None:
    """Drop the validations of epochs that will be trained again.

    Raises:
        DataError: A line is damaged, or the file cannot be written.
    """
    path = validation_file(folder)
    if not path.is_file():
        return
    kept = [line for line in validations(folder) if line["epoch"] <= epoch]
    if kept:
        write_json_lines(path, kept)
    else:  # an uninterrupted run would have none yet
        remove_written(folder, [path.relative_to(folder).as_posix()])


def require_every_validation(folder: Path, lines: Iterable[Mapping[str, Any]], epoch: int, every: int) -> None:
    """Check that no validation is missing: which epoch is the best would be told by the others.

    Args:
        folder: The run's folder.
        lines: Its validations.
        epoch: The last epoch that counts.
        every: After how many epochs it validates; 0 for never.

    Raises:
        DataError: One is missing, as where the last line's end was hit: that line looks cut off.
    """
    if every and not set(range(every, epoch + 1, every)) <= {line["epoch"] for line in lines}:
        raise DataError(
            f"`run` must hold what was written; {str(validation_file(folder))!r} must have a line for every {every} "
            f"epochs up to {epoch}, and lacks one; take another copy of it"
        )


def best_of(lines: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The best validation, the first of equals; ``None`` where none has a value."""
    with_value = [line for line in lines if line["value"] is not None]
    return max(with_value, key=lambda line: closeness(line["metric"], line["value"]), default=None)


def is_out_of_patience(lines: Sequence[Mapping[str, Any]], patience: int) -> bool:
    """Whether the last ``patience`` validations in the plan's last stage brought no better one than there was before.

    Earlier stages do not count: what joins later has not had its say. With a patience of 0 nothing is over.
    """
    best = best_of(lines)
    since = [line for line in lines if line["in_last_stage"] and (best is None or line["epoch"] > best["epoch"])]
    return 0 < patience <= len(since)


# -- a validation ------------------------------------------------------------------------------------------------------


class Validator:
    """Scores the generators of a training on the slices of ``val``, both directions.

    Args:
        data: The data set.
        metric: By which epochs are compared; ``None`` takes the tumour PSNR, or without regions the image's.
        device: Where LPIPS, FID and KID are computed, where ``metric`` needs them.
        neighbours: Slices above, and below, that the generators take as further channels.

    Raises:
        ConfigError: The weights of the network that ``metric`` needs are not there, or no slice has a value of it.
        DataError: The part is missing, not paired, or a file of it cannot be read.
        MaskError: A mask is missing or cannot be used.
    """

    def __init__(self, data: Path, metric: Metric | None, device: torch.device, neighbours: int = 0) -> None:
        region = default_region(data)
        self.metric = metric or (PSNR if region is None else TPSNR)
        self._data, self._device, self._neighbours = data, device, neighbours
        self._pairs = {direction: _pairs_of(data, direction, region) for direction in DIRECTIONS}
        with undisturbed_streams():
            needs_features = isinstance(self.metric, SetMetric)
            self._lpips = load_lpips(None, str(device)) if self.metric.needs == "lpips" else None
            self._inception = load_inception(None, device=str(device)) if needs_features else None
            for network in (self._lpips, self._inception):
                if isinstance(network, Unavailable):
                    raise ConfigError(
                        f"`keep` must be a metric that can be computed here; {self.metric.key} cannot: "
                        f"{network.reason}; take another, e.g. best:region_psnr"
                    )
            # Every file is read, and mistakes come to light before the first step.
            self._require_value(self._scored(lambda pair: pair.fake))

    def __len__(self) -> int:
        """Images of one validation."""
        return sum(map(len, self._pairs.values()))

    def validate(self, generators: Generators, seen: Callable[[int], None] = lambda done: None) -> dict[str, Any]:
        """Score the generators; of several processes the first one does, and the others wait for it.

        Args:
            generators: By direction; copies that nobody trains, in evaluation mode.
            seen: Called with the number of images done.

        Returns:
            ``metric``, ``value`` and ``scores`` of a line; nothing on the processes that wait.

        Raises:
            DataError: A file cannot be read.
            DivergenceError: An image has a number that is not finite.
        """
        if not is_main_process():
            while sums_over_processes([0])[0]:  # at every image, so that no wait outlasts the processes' patience
                pass
            return {}

        def translated(pair: ImagePair) -> Any:
            sums_over_processes([1])
            assert pair.source is not None
            with torch.no_grad():
                source = as_batch(pair.source, self._file(pair), self._neighbours, self._device)
                image = generators[pair.direction](source)[0]
            require_finite(image, pair.name)
            return _as_read_back(image, Path(pair.name).suffix)

        with undisturbed_streams():
            results = self._scored(translated, seen)
        sums_over_processes([0])
        scores = {
            direction: {
                key: cells["mean"][key] for key in metrics_of([cells["mean"]]) if cells["mean"].get(key) is not None
            }
            for direction, cells in results.items()
        }
        return {"metric": self.metric.key, "value": self._value(results), "scores": scores}

    def _file(self, pair: ImagePair) -> Path:
        return self._data / f"{SPLIT}{source_of(pair.direction)}" / pair.name

    def _scored(self, fake_of: Callable[[ImagePair], Any], seen: Callable[[int], None] = lambda done: None) -> Results:
        def made() -> Iterator[ImagePair]:
            every = (pair for of_direction in self._pairs.values() for pair in of_direction)
            for done, pair in enumerate(every, start=1):
                yield replace(pair, fake=fake_of(pair))
                seen(done)

        return aggregate(score(made(), self._lpips, self._inception))

    def _value(self, results: Results) -> float | None:
        values = [cells["mean"].get(self.metric.key) for cells in results.values()]
        known = [value for value in values if value is not None]
        return self.metric.averaged.mean(known) if known else None

    def _require_value(self, results: Results) -> None:
        if self._value(results) is None:
            reasons = (cells["mean"]["reasons"].get(self.metric.key, "") for cells in results.values())
            raise ConfigError(
                f"`keep` must be a metric that the slices of {SPLIT} have; they have no {self.metric.key}: "
                f"{next(iter(reasons))}; take another, e.g. best:psnr"
            )


def add_validation(folder: Path, line: Mapping[str, Any]) -> None:
    """Write down a validation.

    Raises:
        DataError: It cannot be written.
    """
    with recorded(folder, validation_file(folder)):
        append_json(validation_file(folder), line)


def _pairs_of(data: Path, direction: str, region: str | None) -> FolderPairs:
    try:
        return pairs_from_folders(data, SPLIT, direction, None, region, organ_of(data, region))
    except (DataError, MaskError) as error:
        raise type(error)(
            f"`validate_every` needs paired slices to validate on, {SPLIT}A and {SPLIT}B of the data: {error}; prepare "
            f"some, or leave it out"
        ) from error


def _as_read_back(image: torch.Tensor, suffix: str) -> np.ndarray[Any, Any]:
    """A generated image in grey levels, as ``evaluate`` reads it from the file that ``translate`` writes."""
    stored = stored_pixels(image, suffix)
    return (stored.astype(np.float64) + 1.0) * 127.5 if suffix == ".npy" else stored
