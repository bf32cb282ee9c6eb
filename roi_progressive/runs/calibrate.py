"""The sigma of a run calibrated on the few pairs there are, kept beside the networks as ``calibration.json``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import ConfigError, DataError
from ..evaluation.conformal import (
    COVERAGE,
    Correction,
    DirectionCalibration,
    fit_direction,
    from_record,
    to_record,
    with_sigma,
)
from ..evaluation.pairs import ImagePair, pairs_from_folders, read_domains
from ..evaluation.region_names import regions_of
from ..saving.locks import only_writer
from ..saving.names import DIRECTIONS, SPLITS, Domains
from ..saving.records import entry, fault_of, read_json, write_json
from ..saving.written import recorded
from .folder import Run
from .options import TrainOptions
from .train import Report
from .translate import networks_of, translate

FILE = "calibration.json"
FEW_PATIENTS = 5
"""Fewer say little about the next one."""


@dataclass(frozen=True)
class SigmaCalibration:
    """What a run's sigma is corrected by.

    Args:
        split: The split it was fitted on.
        epoch: The epoch whose networks it is of.
        networks: Their checksums by file.
        directions: The corrections by direction.
        domains: What the domains are called.
    """

    split: str
    epoch: int
    networks: Mapping[str, str]
    directions: Mapping[str, DirectionCalibration]
    domains: Domains

    @property
    def n_patients(self) -> int:
        """How many patients it was fitted on, in the direction that has fewest."""
        return min(of.image.n_patients for of in self.directions.values())

    def __str__(self) -> str:
        """A line for every correction, and what they are worth."""
        lines = []
        for direction, of_direction in self.directions.items():
            places = {"image": of_direction.image}
            places |= {f"inside {region}": correction for region, correction in of_direction.inside.items()}
            places |= {f"outside {region}": correction for region, correction in of_direction.outside.items()}
            lines += [f"{self.domains.title(direction)}, {name}: {_words(found)}" for name, found in places.items()]
        if self.n_patients < FEW_PATIENTS:
            one = "patient" if self.n_patients == 1 else "patients"
            lines.append(f"note: from {self.n_patients} {one}; calibrate on {FEW_PATIENTS} or more where you can")
        return "\n".join(lines)


def _words(found: Correction) -> str:
    interval = f"{COVERAGE:.0%} of the errors within {found.half_width / found.factor:.3g} calibrated sigmas"
    shares = found.left_out
    held = f"; of a patient left out, {min(shares):.0%} to {max(shares):.0%}" if shares else ""
    return f"sigma x {found.factor:.3g}; {interval}{held}"


def calibrate(
    run: str | Path | Run,
    *,
    split: str = "val",
    epoch: int | str | None = None,
    device: str = "auto",
    report: Report | None = None,
) -> SigmaCalibration:
    """Fit a run's sigma to the errors on a split's pairs, by direction and region, and keep it in the run.

    ``evaluate --uncertainty``, ``figure --sigma`` and whatever else shows this run's sigma use it from then on, for as
    long as the networks are the same. The maps that are written beside the images stay as the networks give them.

    Args:
        run: A run, or its folder.
        split: Whose pairs; ``val``, or ``test`` where there are no others, which then cannot be tested on any more.
        epoch: Whose networks: ``best``, ``last`` or a number; those of an opened run, or the last, by default.
        device: Where images are made: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        report: Called after every translated image.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run has no uncertainty heads, its split is empty or not paired, or its sigma is 0 where the
            errors are not.
        MaskError: A mask is missing, unreadable or of another size than its image.
        CheckpointError: A network is missing or damaged.
    """
    if split not in SPLITS[1:]:
        raise DataError(f"`split` must be {' or '.join(SPLITS[1:])}, slices that were not trained on; got {split!r}")
    opened = run.at_epoch(epoch) if isinstance(run, Run) else Run.open(run, epoch=epoch)
    if opened.config.ggd is None:
        raise DataError(f"`run` must have uncertainty heads to be calibrated; {str(opened.folder)!r} has none")
    regions: list[str | None] = [*regions_of(opened.data)] or [None]
    for direction in DIRECTIONS:  # mistakes come to light before anything is translated
        for region in regions:
            pairs_from_folders(opened.data, split, direction, None, region)
    with only_writer(opened.folder):
        images = translate(opened, split, device=device, report=report)
        found = {}
        for direction in DIRECTIONS:
            fitted = fit_direction({r: _pairs(opened, split, direction, images[direction], r) for r in regions})
            if fitted is None:
                raise DataError(f"`split` must have pairs to calibrate on; {split!r} has none; prepare with --align")
            found[direction] = fitted
        networks = networks_of(opened.networks, opened.options, opened.config, opened.epoch)
        calibration = SigmaCalibration(split, opened.epoch, networks, found, read_domains(opened.data))
        path = opened.networks / FILE
        with recorded(opened.folder, path):
            write_json(
                path,
                {
                    "format": 1,
                    "split": split,
                    "epoch": calibration.epoch,
                    "networks": dict(networks),
                    "domains": list(calibration.domains.names),
                    "directions": {direction: to_record(of) for direction, of in found.items()},
                },
            )
    return calibration


def _pairs(run: Run, split: str, direction: str, images: Path, region: str | None) -> Iterator[ImagePair]:
    pairs = pairs_from_folders(run.data, split, direction, images, region)
    return with_sigma(pairs, {direction: run.sigma(split, direction)})


def read_calibration(networks: Path, options: TrainOptions, config: Config, epoch: int) -> SigmaCalibration | None:
    """What :func:`calibrate` kept, if it is of the networks that are there now; ``None`` otherwise.

    Args:
        networks: The folder of a run's networks.
        options: How they are built.
        config: How they were guided.
        epoch: Whose they are.

    Raises:
        DataError: The record is damaged.
    """
    path = networks / FILE
    if not path.is_file():
        return None
    try:
        found = read_json(path)
        made_of = {name: str(checksum) for name, checksum in entry(found, "networks", dict).items()}
        by_direction = entry(found, "directions", dict)
        calibration = SigmaCalibration(
            entry(found, "split", str),
            entry(found, "epoch", int),
            made_of,
            {direction: from_record(entry(by_direction, direction, dict)) for direction in DIRECTIONS},
            Domains.of(entry(found, "domains", list)),
        )
    except (OSError, ValueError, ConfigError) as error:
        raise DataError(
            f"`run` must hold what was written; {str(path)!r} cannot be used: {fault_of(error)}; run "
            f"`roi-progressive calibrate` again"
        ) from error
    try:
        return calibration if networks_of(networks, options, config, epoch) == made_of else None
    except OSError:  # a network that is missing is found, and told, where it is loaded
        return None


def calibration_note(run: Run, calibration: SigmaCalibration | None, split: str) -> str:
    """What a reader of this run's sigma must know of it, in a line."""
    if calibration is None:
        return uncalibrated_note(run.networks, run.epoch) + "."
    seen = "these very slices" if split == calibration.split else f"the pairs of {calibration.split}"
    return f"Sigma is calibrated on {seen} ({calibration.n_patients} patients), by direction and region."


def uncalibrated_note(networks: Path, epoch: int) -> str:
    """What to know of a sigma that is not calibrated, and what puts it right.

    Args:
        networks: The folder of a run's networks.
        epoch: Whose they are.
    """
    as_given = "Sigma is as the networks give it: trained without pairs, it is not the size of the error"
    command = f"roi-progressive calibrate RUN --epoch {epoch}"
    if not (networks / FILE).is_file():
        return f"{as_given}; a few pairs put that right: {command}"
    of_epoch = entry(read_json(networks / FILE), "epoch", int)
    if of_epoch == epoch:
        return f"{as_given}; the run's calibration is of networks that it no longer has: {command}"
    return (
        f"{as_given}; the run is calibrated for epoch {of_epoch}, and these networks are those of epoch {epoch}: give "
        f"--epoch {of_epoch}, or calibrate these: {command}"
    )
