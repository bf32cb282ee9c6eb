"""A scan nobody has seen before, translated with the networks of a run or with any generator."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..data.preparation import Preparation, read_preparation
from ..errors import ConfigError, DataError
from ..plugins.adapter import Uncertainty
from ..saving.locks import resolved
from ..saving.names import DIRECTIONS
from .generators import TrainedNetworks, loaded_generators
from .train import Report
from .volume_translator import TranslatedVolume, Translator, VolumeJob

__all__ = ["TranslatedVolume", "Translator", "VolumeJob", "translate_volume", "translator"]

Generator = Callable[[Tensor], Any]
"""From ``[N, 1, size_px, size_px]`` in [-1, 1] to the same, or to an ``Uncertainty``."""


def translate_volume(
    scan: str | Path,
    out: str | Path,
    *,
    run: str | Path | None = None,
    generator: Generator | None = None,
    preparation: Preparation | str | Path | None = None,
    direction: str | None = None,
    sigma: str | Path | None = None,
    dicom: str | Path | None = None,
    epoch: int | str | None = None,
    device: str = "auto",
    force: bool = False,
    report: Report | None = None,
) -> TranslatedVolume:
    """Translate a scan with the networks of a run, or with any generator, onto the scan's own grid.

    The scan goes through the steps of ``prepare`` that the networks were trained after: intensities, a square around
    the body of all its slices, the size of the pictures. What the generator makes of every slice goes back the same
    way, so that the result has origin, spacing, direction and size of the scan to the last digit that its format holds.
    Nothing else is needed: no mask, no second scan, no list.

    Values are HU where the target domain is, within the window of the training; else grey levels, 0 to 255, of the
    training's normalisation. Sigma has the same units. Files hold 32-bit floats; the DICOM series whole numbers.

    Example:
        >>> import roi_progressive
        >>> roi_progressive.translate_volume("p07_mr.nii.gz", "p07_ct.nii.gz", run="run")  # doctest: +SKIP

    Args:
        scan: A NIfTI, NRRD or MHA file, a multi-frame DICOM file, or the folder of a DICOM series.
        out: Where the result goes: ``.nii``, ``.nii.gz``, ``.nrrd`` or ``.mha``.
        run: The folder of a run, or of its networks alone.
        generator: In place of ``run``: what makes images ``[N, C, H, W]`` in [-1, 1] of such images, of which the first
            channel is taken, such as the network of another code; or ``session.uncertainty`` of a session, which gives
            sigma too. A module computes where it is, in evaluation mode, and is left as it was.
        preparation: How the slices were made that the networks were trained on: the data set, or what was read from
            it. A run of this version knows it itself.
        direction: ``A2B`` or ``B2A``; of a DICOM scan the header tells it, where only one domain is of its modality.
        sigma: Where the volume of the standard deviation goes.
        dicom: A folder for the result as a DICOM series, new or empty.
        epoch: Whose networks of the run: a number, or ``last``, the default.
        device: Where the networks of a run compute: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        force: Replace earlier results in these places.
        report: Called after every few slices.

    Raises:
        ConfigError: Not one of ``run`` and ``generator`` is given, ``direction`` is not known, or this machine has no
            such device.
        DataError: The scan cannot be used or is of another modality, nothing says how the slices were made, or a result
            cannot be written or would replace something.
        CheckpointError: A network is missing or damaged.
        DivergenceError: A generated number is not finite.
        ShapeError: The generator makes no images of the size that it was given.
    """
    job = VolumeJob(Path(scan), Path(out), _path(sigma), _path(dicom))
    with translator(
        run=run, generator=generator, preparation=preparation, direction=direction, epoch=epoch, device=device
    ) as made:
        made.check(job, force)
        return made.translate(job, force=force, report=report)


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
    given = preparation if isinstance(preparation, Preparation) or preparation is None else _read(preparation)
    if run is None:
        assert generator is not None
        if given is None:
            raise ConfigError(
                "`preparation` must say how the slices were made that `generator` was trained on; got none; give the "
                "folder that `roi-progressive prepare` wrote"
            )
        with _as_is(generator) as place:
            yield Translator(given, direction, lambda _, source: _answer(generator(source)), place, None)
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
        yield Translator(known, direction, generators.translate, generators.device, generators.have_sigma)


def _read(place: str | Path) -> Preparation:
    return read_preparation(resolved(place, "data"))


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


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


def _answer(made: Any) -> tuple[Tensor, Tensor | None]:
    if isinstance(made, Uncertainty):
        return made.image, made.sigma
    return made, None
