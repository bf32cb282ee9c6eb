"""Distances between two sets of features, where no pair is compared with its own truth: FID and KID."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import ShapeError


def frechet_distance(real: npt.NDArray[Any], fake: npt.NDArray[Any]) -> float:
    """Fréchet distance between Gaussians fitted to two sets of features (FID, Heusel et al. 2017).

    ``|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2)`` with unbiased covariances. With the centred features as
    ``S = X'X``, the last trace is the sum of the singular values of ``X1 X2'``: no square root of a matrix, exact
    where the covariances are singular (fewer images than dimensions).

    Args:
        real: [N, dims].
        fake: [M, dims].

    Returns:
        At least 0; lower is better. Below some thousand images it is biased upwards, so compare at equal N only.

    Raises:
        ShapeError: The features' lengths differ, or a set has fewer than two.

    Example:
        >>> real = np.array([[0.0, 0.0], [2.0, 0.0]])
        >>> frechet_distance(real, real + 3.0)
        18.0
    """
    _check(real, fake)
    shift = real.mean(axis=0, dtype=np.float64) - fake.mean(axis=0, dtype=np.float64)
    first, second = _root(real), _root(fake)
    overlap = np.linalg.svd(first @ second.T, compute_uv=False).sum()
    distance = shift @ shift + (first**2).sum() + (second**2).sum() - 2.0 * overlap
    return max(float(distance), 0.0)


def kernel_distance(real: npt.NDArray[Any], fake: npt.NDArray[Any]) -> float:
    """Squared maximum mean discrepancy under the kernel ``(x.y / dims + 1)^3`` (KID, Bińkowski et al. 2018).

    The unbiased estimate over all images at once, not over random subsets of them: it needs no seed, and a small
    set of images is judged as a large one is on average.

    Args:
        real: [N, dims].
        fake: [M, dims].

    Returns:
        Lower is better; about 0 for images of one distribution, and below 0 by chance.

    Raises:
        ShapeError: The features' lengths differ, or a set has fewer than two.
    """
    _check(real, fake)
    first, second = real.astype(np.float64), fake.astype(np.float64)
    return _mean_of_others(first) + _mean_of_others(second) - 2.0 * float(_kernel(first, second).mean())


def _mean_of_others(features: npt.NDArray[np.float64]) -> float:
    """The kernel's mean over all pairs of two different images."""
    n, kernel = len(features), _kernel(features, features)
    return float(kernel.sum() - np.trace(kernel)) / (n * (n - 1))


def _kernel(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    kernel: npt.NDArray[np.float64] = (first @ second.T / first.shape[1] + 1.0) ** 3
    return kernel


def _root(features: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """R with R'R the covariance, at most [dims, dims]."""
    centred: npt.NDArray[np.float64] = features - features.mean(axis=0, dtype=np.float64)
    centred /= np.sqrt(len(features) - 1)
    return np.asarray(np.linalg.qr(centred, mode="r")) if len(centred) > centred.shape[1] else centred


def _check(real: npt.NDArray[Any], fake: npt.NDArray[Any]) -> None:
    if real.ndim != 2 or fake.ndim != 2 or real.shape[1] != fake.shape[1] or min(len(real), len(fake)) < 2:
        raise ShapeError(
            f"`real` and `fake` must be [N, dims] with at least two rows each and equal dims; "
            f"got {real.shape} and {fake.shape}"
        )
