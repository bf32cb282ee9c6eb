"""How alike a generated image and its truth are, pixel by pixel: PSNR, SSIM, texture and the error in HU.

Within a region the pixels are taken out first, then measured. (Library functions that accept numpy's masked arrays
ignore the mask; multiplying by the mask counts its edge and the empty rest.)
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError

Array = npt.NDArray[Any]

MAX_VALUE = 255.0


def psnr(real: Array, fake: Array) -> float:
    """Peak signal-to-noise ratio over the whole image, ``10 log10(255^2 / MSE)``, in dB.

    Args:
        real: [H, W], values 0..255.
        fake: The same shape and range.

    Returns:
        Decibels, higher is better; infinity if the two are equal.

    Raises:
        ShapeError: The arrays are not both [H, W] of one size.

    Example:
        >>> round(psnr(np.zeros((8, 8)), np.full((8, 8), 25.5)), 6)
        20.0
    """
    check_images(real, fake)
    return _decibels(real.astype(np.float64) - fake)


def region_psnr(real: Array, fake: Array, mask: Array) -> float | None:
    """Peak signal-to-noise ratio over the region's pixels alone (the paper's TPSNR), in dB.

    ``10 log10(255^2 / MSE)``: the peak stays that of the 8-bit range however small or dark the region is.

    Args:
        real: [H, W], values 0..255.
        fake: The same shape and range.
        mask: The region, bool [H, W].

    Returns:
        Decibels, higher is better; infinity if the region's pixels are equal; ``None`` if the region is empty.

    Raises:
        ShapeError: The arrays do not fit each other, or ``mask`` is not boolean.
    """
    check_images(real, fake, mask)
    return _decibels(real[mask].astype(np.float64) - fake[mask]) if mask.any() else None


def ssim(real: Array, fake: Array) -> float:
    """Mean structural similarity of the whole image, by scikit-image with its default 7 px window.

    Args:
        real: [H, W], values 0..255, sides of at least 7 px.
        fake: The same shape and range.

    Returns:
        -1..1, higher is better.

    Raises:
        ShapeError: The arrays are not both [H, W] of one size, or smaller than the window.
    """
    return ssim_map(real, fake)[0]


def region_ssim(real: Array, fake: Array, mask: Array) -> float | None:
    """Structural similarity averaged over the region (the paper's TSSIM).

    The map is that of the unmasked images, so windows at the region's edge see the true surroundings.

    Args:
        real: [H, W], values 0..255, sides of at least 7 px.
        fake: The same shape and range.
        mask: The region, bool [H, W].

    Returns:
        -1..1, higher is better; ``None`` if the region is empty.

    Raises:
        ShapeError: The arrays do not fit each other, are smaller than the window, or ``mask`` is not boolean.
    """
    check_images(real, fake, mask)
    return float(ssim_map(real, fake)[1][mask].mean()) if mask.any() else None


def texture_ratio(real: Array, fake: Array, mask: Array) -> float | None:
    """Standard deviation inside the region, generated over real.

    Args:
        real: [H, W].
        fake: The same shape and range.
        mask: The region, bool [H, W].

    Returns:
        1 for as much texture as in truth, less for blur, 0 for flat paint; ``None`` if the region is empty or
        the real one is flat.

    Raises:
        ShapeError: The arrays do not fit each other, or ``mask`` is not boolean.

    Example:
        >>> real = np.arange(64.0).reshape(8, 8)
        >>> texture_ratio(real, 100 + real / 2, real > 10)
        0.5
    """
    check_images(real, fake, mask)
    if not mask.any():
        return None
    truth = float(real[mask].astype(np.float64).std())
    return float(fake[mask].astype(np.float64).std()) / truth if truth > 0.0 else None


def mean_absolute_error_hu(real: Array, fake: Array, hu_per_grey: float, mask: Array | None = None) -> float | None:
    """Mean absolute error in HU, over the whole image or over a region.

    A data set's grey levels are a window of HU, ``a * grey + b``; what the window clipped counts as its border.

    Args:
        real: [H, W], values 0..255.
        fake: The same shape and range.
        hu_per_grey: The ``a``.
        mask: The region, bool [H, W]; ``None`` for the whole image.

    Returns:
        At least 0, lower is better; ``None`` if the region is empty.

    Raises:
        ShapeError: The arrays do not fit each other, or ``mask`` is not boolean.
    """
    check_images(real, fake, mask)
    error = np.abs(real.astype(np.float64) - fake) * hu_per_grey
    if mask is None:
        return float(error.mean())
    return float(error[mask].mean()) if mask.any() else None


def ssim_map(real: Array, fake: Array) -> tuple[float, npt.NDArray[np.float64]]:
    """Structural similarity by scikit-image with its default 7 px window: the mean, and the map [H, W].

    Args:
        real: [H, W], values 0..255, sides of at least 7 px.
        fake: The same shape and range.

    Raises:
        ShapeError: The arrays are not both [H, W] of one size, or smaller than the window.
    """
    check_images(real, fake)
    if min(real.shape) < 7:
        raise ShapeError(f"`real` must have sides of at least 7 px for SSIM's window; got {real.shape}")
    structural_similarity: Callable[..., Any] = importlib.import_module("skimage.metrics").structural_similarity
    mean, similarity = structural_similarity(
        real.astype(np.float64), fake.astype(np.float64), data_range=MAX_VALUE, full=True
    )
    return float(mean), similarity


def check_images(real: Array, fake: Array, mask: Array | None = None, organ: Array | None = None) -> None:
    """Check that images, and masks where there are any, fit each other.

    Raises:
        ShapeError: They are not [H, W] of one size, or a mask is not boolean.
    """
    if real.ndim != 2 or real.shape != fake.shape:
        raise ShapeError(f"`real` and `fake` must be [H, W] of one size; got {real.shape} and {fake.shape}")
    for name, values in (("mask", mask), ("organ", organ)):
        if values is not None and (values.dtype != np.bool_ or values.shape != real.shape):
            raise ShapeError(f"`{name}` must be bool {real.shape}, like the images; got {values.dtype} {values.shape}")


def _decibels(difference: npt.NDArray[np.float64]) -> float:
    mse = float(np.mean(difference**2))
    return 10.0 * math.log10(MAX_VALUE**2 / mse) if mse > 0.0 else math.inf
