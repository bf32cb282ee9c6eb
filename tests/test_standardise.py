"""The common scale of MRs: numpy's percentiles say whether it did what it promises."""

from __future__ import annotations

import numpy as np
import pytest

from roi_progressive.data.standardise import PERCENTILES, fit_standard, landmarks_of, standardise
from roi_progressive.errors import DataError

BODY = np.ones((4, 50, 50), dtype=bool)


def _scan(seed: int, power: float = 1.0) -> np.ndarray:
    return (np.random.default_rng(seed).gamma(3.0, 40.0, BODY.shape) ** power).astype(np.float32)


def test_after_it_the_percentiles_of_every_volume_are_the_standards():
    scans = [_scan(0), _scan(1, 1.4), _scan(2, 0.7)]
    standard = fit_standard([landmarks_of(scan, BODY) for scan in scans[:2]])
    assert standard[0] == 0 and standard[-1] == pytest.approx(100) and (np.diff(standard) > 0).all()
    for scan in scans:
        moved = standardise(scan, landmarks_of(scan, BODY), standard)
        assert np.allclose(np.percentile(moved[BODY], PERCENTILES), standard, atol=0.05)
        assert (np.argsort(moved.ravel()[::97]) == np.argsort(scan.ravel()[::97])).all()


def test_gain_and_offset_of_a_scanner_do_not_matter():
    scan, other = _scan(3), _scan(4)
    standard = fit_standard([landmarks_of(scan, BODY), landmarks_of(other, BODY)])
    turned = 7 * scan + 300
    assert np.allclose(fit_standard([landmarks_of(turned, BODY), landmarks_of(other, BODY)]), standard, atol=1e-3)
    moved = [standardise(one, landmarks_of(one, BODY), standard) for one in (scan, turned)]
    assert np.allclose(*moved, atol=1e-2)


def test_exchanged_it_gives_the_values_back_also_beyond_the_landmarks():
    scan = _scan(5)
    source, standard = landmarks_of(scan, BODY), fit_standard([landmarks_of(_scan(6, 1.5), BODY)])
    moved = standardise(scan, source, standard)
    assert moved.min() < standard[0] and moved.max() > standard[-1]
    assert np.allclose(standardise(moved, standard, source), scan, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("body", [BODY, np.zeros_like(BODY)])
def test_a_body_of_one_value_or_none_is_refused(body):
    with pytest.raises(DataError, match="`image` must have a body"):
        landmarks_of(np.ones(BODY.shape, np.float32), body)
