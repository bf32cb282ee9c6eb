"""What translates scans, opened: the networks of a run, or a generator of another code."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.framed_scans import FramedScans
from ..data.preparation import Preparation, read_preparation
from ..errors import ConfigError, DataError
from ..plugins.adapter import Uncertainty
from ..saving.locks import resolved
from ..saving.names import DIRECTIONS
from .calibrate import SigmaCalibration, read_calibration, uncalibrated_note
from .generators import TrainedNetworks, loaded_generators
from .volume_translator import Generator, Translator

Make = Callable[[str, Tensor], tuple[Tensor, Tensor | None]]


@contextmanager
def translator(
    *,
    run: str | Path | None = None,
    generator: Generator | None = None,
    preparation: Preparation | str | Path | None = None,
    direction: str | None = None,
    epoch: int | str | None = None,
    device: str = "auto",
) -> Iterator[Translator]:
    """What translates any number of scans, its networks loaded once; arguments as for :func:`translate_volume`.

    Raises:
        As :func:`translate_volume`.
    """
    if (run is None) == (generator is None):
        raise ConfigError(
            f"`run` or `generator` must be given; got {'both' if run is not None else 'neither'}; give one"
        )
    if direction is not None and direction not in DIRECTIONS:
        raise ConfigError(f"`direction` must be one of {', '.join(DIRECTIONS)}; got {direction!r}")
    data, given = None, None
    if isinstance(preparation, Preparation):
        given = preparation
    elif preparation is not None:
        data = resolved(preparation, "data")
        given = read_preparation(data)
    if run is None:
        assert generator is not None
        if given is None:
            raise ConfigError(
                "`preparation` must say how the slices were made that `generator` was trained on; got none; give the "
                "folder that `roi-progressive prepare` wrote"
            )
        with _as_is(generator) as place:
            yield Translator(
                given,
                direction,
                lambda _, source: _answer(generator(source)),
                place,
                has_sigma=None,
                neighbours=given.options.neighbours,
                framed=_framed(data),
            )
        return
    trained = TrainedNetworks.open(run, epoch=epoch)
    known = trained.preparation or given
    if given is not None and known is not None and given.to_record() != known.to_record():
        raise DataError(
            "`data` must be the data set that the run was trained on; its slices were made in another way; leave it out"
        )
    if known is None:
        raise DataError(
            f"`run` must know how its slices were made; {str(run)!r} is of an older version, or of data that "
            f"`roi-progressive prepare` did not write; give the data set it was trained on with --data DIR"
        )
    loaded = loaded_generators(trained.folder, trained.options, trained.config, trained.epoch, device)
    with loaded as generators:
        calibration, note = None, None
        make: Make = generators.translate
        if generators.have_sigma:
            calibration = read_calibration(trained.folder, trained.options, trained.config, trained.epoch)
            note = uncalibrated_note(trained.folder, trained.epoch)
        if calibration is not None:
            make = _calibrated(generators.translate, calibration)
            note = (
                f"Sigma is calibrated on {calibration.n_patients} patients, by the factor of whole images: nothing "
                f"tells where a new scan's regions are"
            )
        yield Translator(
            known,
            direction,
            make,
            generators.device,
            generators.have_sigma,
            neighbours=trained.options.neighbours or 0,
            sigma_note=note,
            framed=_framed(data or trained.data),
        )


def _framed(data: Path | None) -> FramedScans | None:
    return None if data is None else FramedScans(data)


@contextmanager
def _as_is(generator: Generator) -> Iterator[torch.device]:
    """Where a generator computes; in the block it is in evaluation mode and records no gradients."""
    modules = list(generator.modules()) if isinstance(generator, nn.Module) else []
    first = next(generator.parameters(), None) if isinstance(generator, nn.Module) else None
    training = [module.training for module in modules]
    for module in modules:
        module.training = False
    try:
        with torch.no_grad():
            yield torch.device("cpu") if first is None else first.device
    finally:
        for module, before in zip(modules, training, strict=True):
            module.training = before


def _calibrated(make: Make, calibration: SigmaCalibration) -> Make:
    """The same networks, their sigma corrected as that of a whole image: a new scan has no masks."""

    def made(direction: str, source: Tensor) -> tuple[Tensor, Tensor | None]:
        image, sigma = make(direction, source)
        return image, None if sigma is None else calibration.directions[direction].image.factor * sigma

    return made


def _answer(made: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(made, Uncertainty):
        return made.image, made.sigma
    return made, None
