"""Denoising and bias-field correction of an MR, for series that come raw from the scanner."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from .medical_packages import simpleitk
from .preprocessing import BoolArray, FloatArray


def noise_level(volume: FloatArray, body: BoolArray) -> float:
    """The standard deviation of the noise, from how far pixels stray from their 3x3 surroundings.

    Immerkær's operator (Fast noise variance estimation, 1996) with a median in place of the mean, so that
    edges count little.

    Args:
        volume: ``(slices, rows, columns)``.
        body: Where to measure; the same shape.
    """
    rows = volume[:, :-2] - 2 * volume[:, 1:-1] + volume[:, 2:]
    strays = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    inside = np.abs(strays)[body[:, 1:-1, 1:-1]]
    # The operator's weights have the norm 6; 0.6745 is the median of |x| for a standard normal x.
    return float(np.median(inside)) / (6 * 0.6745) if inside.size else 0.0


def denoise_mr(volume: FloatArray, body: BoolArray) -> FloatArray:
    """Non-local means (Buades et al. 2005) in three dimensions, as strong as the measured noise.

    Args:
        volume: ``(slices, rows, columns)``.
        body: Where the noise is measured; the same shape.
    """
    from skimage import restoration

    sigma = noise_level(volume, body)
    if sigma <= 0:
        return volume
    denoise: Any = restoration.denoise_nl_means
    # Patches of Coupé and Manjón (2008), 3 voxels wide; slices are thick, so that farther ones hold little alike.
    settings = {"patch_size": 3, "patch_distance": 3, "h": 0.8 * sigma, "sigma": sigma, "fast_mode": True}
    return np.asarray(denoise(volume.astype(np.float32), **settings), dtype=np.float32)


def correct_bias(volume: FloatArray, body: BoolArray, grid: Any) -> FloatArray:
    """N4 (Tustison et al. 2010): divide by the smooth field that makes one tissue unevenly bright.

    Args:
        volume: ``(slices, rows, columns)``, values above 0 in the body.
        body: Where the field is fitted; the same shape.
        grid: The SimpleITK image the arrays come from.

    Returns:
        The corrected volume, scaled so that the body keeps its mean.
    """
    sitk = simpleitk()
    floor = min(0.0, float(volume.min()))
    image, mask = sitk.GetImageFromArray(volume - floor), sitk.GetImageFromArray(body.astype(np.uint8))
    for part in (image, mask):
        part.CopyInformation(grid)
    # The field is smooth, so it is fitted on a coarse grid; thin directions are left as they are.
    shrink = [max(1, min(4, length // 16)) for length in image.GetSize()]
    n4 = sitk.N4BiasFieldCorrectionImageFilter()
    n4.SetMaximumNumberOfIterations([50, 50, 50])
    with _one_thread(sitk.ProcessObject):
        n4.SetNumberOfWorkUnits(1)
        n4.Execute(sitk.Shrink(image, shrink), sitk.Shrink(mask, shrink))
        field = np.exp(sitk.GetArrayFromImage(n4.GetLogBiasFieldAsImage(image)).astype(np.float64))
    corrected = (volume - floor) / field
    gain = (volume[body] - floor).mean() / corrected[body].mean()
    return np.asarray(corrected * gain + floor, dtype=np.float32)


@contextmanager
def _one_thread(settings: Any) -> Iterator[None]:
    """For the filters inside N4 too: sums in another order would give other last digits on another machine."""
    before = settings.GetGlobalDefaultNumberOfThreads()
    settings.SetGlobalDefaultNumberOfThreads(1)
    try:
        yield
    finally:
        settings.SetGlobalDefaultNumberOfThreads(before)
