"""A scan nobody has seen before, translated with the networks of a run or with any generator.

What does the work is imported when it is called: whoever uses another public name pays nothing for this one.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..data.preparation import Preparation
    from .train import Report
    from .volume_translator import Generator, TranslatedVolume


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
    the body of all its slices, the size of the pictures. A scan of the data set itself, where that still lies at its
    place, has its square there in the slices that it has there. What the generator makes of every slice goes back the
    same way, so that the result has origin, spacing, direction and size of the scan to the last digit that its format
    holds. Nothing else is needed: no mask, no second scan, no list.

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
    from .opened_translator import translator
    from .volume_translator import VolumeJob

    sigma_file, dicom_folder = (None if place is None else Path(place) for place in (sigma, dicom))
    job = VolumeJob(Path(scan), Path(out), sigma_file, dicom_folder)
    with translator(
        run=run, generator=generator, preparation=preparation, direction=direction, epoch=epoch, device=device
    ) as made:
        made.check(job, force)
        return made.translate(job, force=force, report=report)
