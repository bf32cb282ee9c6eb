"""FID and KID of two sets of features equal what SciPy, pytorch-fid and the defining sums give."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from roi_progressive.errors import ShapeError
from roi_progressive.evaluation.distances import frechet_distance, kernel_distance


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
@pytest.mark.parametrize("shapes", [((1, 4), (5, 4)), ((5, 4), (1, 4)), ((5, 4), (5, 3)), ((5,), (5,))])
def test_too_few_images_and_unequal_features_are_refused(distance: Any, shapes: Any) -> None:
    with pytest.raises(ShapeError, match="at least two rows"):
        distance(np.zeros(shapes[0]), np.zeros(shapes[1]))


def by_square_root(real: Any, fake: Any) -> float:
    shift = real.mean(axis=0) - fake.mean(axis=0)
    first, second = np.cov(real, rowvar=False), np.cov(fake, rowvar=False)
    root = np.asarray(scipy.linalg.sqrtm(first @ second))
    return float(shift @ shift + np.trace(first) + np.trace(second) - 2 * np.trace(root).real)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(12, 60), st.integers(12, 60), st.floats(0.3, 3.0))
def test_frechet_distance_is_the_matrix_square_roots(seed: int, n: int, m: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    real = rng.normal(size=(n, 6)) @ rng.normal(size=(6, 6))
    fake = scale * rng.normal(size=(m, 6)) @ rng.normal(size=(6, 6)) + rng.normal(size=6)
    assert frechet_distance(real, fake) == pytest.approx(by_square_root(real, fake), abs=1e-4)


def test_frechet_distance_is_pytorch_fids_on_the_same_statistics() -> None:
    fid_score = pytest.importorskip("pytorch_fid.fid_score")
    rng = np.random.default_rng(5)
    real, fake = rng.normal(size=(300, 64)), rng.normal(size=(200, 64)) * 1.5 + 0.2
    statistics = [f(x) for x in (real, fake) for f in (lambda x: x.mean(0), lambda x: np.cov(x, rowvar=False))]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            expected = fid_score.calculate_frechet_distance(*statistics)
    except TypeError:
        pytest.skip("this SciPy has no sqrtm(disp=), which pytorch-fid calls")
    assert frechet_distance(real, fake) == pytest.approx(expected, abs=1e-4)


def test_frechet_distance_is_exact_with_fewer_images_than_features() -> None:
    """Rotating a small full-rank problem into many dimensions leaves the distance and makes covariances singular."""
    rng = np.random.default_rng(6)
    real, fake = rng.normal(size=(20, 5)), rng.normal(size=(15, 5)) * 2 + 1
    into, _ = np.linalg.qr(rng.normal(size=(400, 5)))
    assert frechet_distance(real @ into.T, fake @ into.T) == pytest.approx(by_square_root(real, fake), abs=1e-8)
    assert frechet_distance(real @ into.T, real @ into.T) == pytest.approx(0.0, abs=1e-10)


def test_frechet_distance_of_diagonal_gaussians_is_the_textbook_formula() -> None:
    rng = np.random.default_rng(7)
    white = rng.normal(size=(50, 3))
    white = np.linalg.solve(np.linalg.cholesky(np.cov(white, rowvar=False)), (white - white.mean(0)).T).T
    real, fake = white * [1.0, 2.0, 3.0], white[::-1] * [2.0, 2.0, 5.0] + [1.0, 0.0, 2.0]
    assert frechet_distance(real, fake) == pytest.approx(5.0 + 1.0 + 0.0 + 4.0, abs=1e-10)


def by_sums(real: Any, fake: Any) -> float:
    """The definition, pair by pair (Gretton et al. 2012, eq. 3)."""

    def kernel(x: Any, y: Any) -> float:
        return float((sum(a * b for a, b in zip(x, y, strict=True)) / len(x) + 1) ** 3)

    n, m = len(real), len(fake)
    within_real = sum(kernel(real[i], real[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_fake = sum(kernel(fake[i], fake[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    between = sum(kernel(x, y) for x in real for y in fake) / (n * m)
    return within_real + within_fake - 2 * between


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9), st.floats(0.3, 3.0))
def test_kernel_distance_is_the_definition_pair_by_pair(seed: int, n: int, m: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    real, fake = rng.normal(size=(n, 4)), scale * rng.normal(size=(m, 4)) + 0.5
    expected = by_sums(real, fake)
    assert kernel_distance(real, fake) == pytest.approx(expected, rel=1e-9, abs=1e-9)
    assert kernel_distance(fake, real) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_kernel_distance_of_one_distribution_is_zero_on_average_and_grows_with_a_shift() -> None:
    rng = np.random.default_rng(8)
    draws = [kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(40, 8))) for _ in range(200)]
    assert abs(np.mean(draws)) < 4 * np.std(draws) / np.sqrt(len(draws))
    assert min(draws) < 0.0 < kernel_distance(rng.normal(size=(40, 8)), rng.normal(size=(40, 8)) + 1.0)


def test_features_in_single_precision_are_summed_in_double() -> None:
    rng = np.random.default_rng(9)
    real, fake = (rng.normal(size=(50, 16)).astype(np.float32) for _ in range(2))
    assert kernel_distance(real, fake) == kernel_distance(real.astype(np.float64), fake.astype(np.float64))
