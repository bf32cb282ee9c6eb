"""MAE, PSNR and MS-SSIM of volumes are SynthRAD's: by hand, by scikit-image, SimpleITK, and a literal writing-out."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import ndimage
from scipy.signal import fftconvolve
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from roi_progressive.evaluation.volume_similarity import SCALE_WEIGHTS, mean_absolute_error, ms_ssim, psnr

LOW, HIGH = -1024.0, 3071.0


def volumes(shape: tuple[int, int, int], seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A smooth volume partly beyond the range, a noisier one, and a body that touches no side of the planes."""
    rng = np.random.default_rng(seed)
    real = ndimage.gaussian_filter(rng.normal(0, 1, shape), 2) * 15000
    fake = real + ndimage.gaussian_filter(rng.normal(0, 1, shape), 1) * 800 + 40
    assert real.min() < LOW < 0 < HIGH < real.max() or min(shape) < 20
    _, y, x = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    return real, fake, np.hypot(y, x) < 0.8


def written_out(real: Any, fake: Any, body: Any, weights: Any = SCALE_WEIGHTS) -> float:
    """SynthRAD's MS-SSIM step by step on whole arrays."""
    first, second = (np.where(body, np.clip(v, LOW, HIGH), LOW) - LOW for v in (real, fake))
    least = 6 * 2 ** (len(weights) - 1) + 1
    pads = [((least - n) // 2, (least - n) - (least - n) // 2) if n < least else (0, 0) for n in body.shape]
    first, second, mask = (np.pad(v, pads, mode="edge") for v in (first, second, body))
    peak, product = HIGH - LOW, 1.0
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    for weight in weights:
        ux, uy = (ndimage.uniform_filter(v, 7) for v in (first, second))
        vx = (ndimage.uniform_filter(first * first, 7) - ux * ux) * 343 / 342
        vy = (ndimage.uniform_filter(second * second, 7) - uy * uy) * 343 / 342
        vxy = (ndimage.uniform_filter(first * second, 7) - ux * uy) * 343 / 342
        sxy = np.sqrt(np.clip(vx, 0, None)) * np.sqrt(np.clip(vy, 0, None))
        luminance = np.clip((2 * ux * uy + c1) / (ux**2 + uy**2 + c1), 0, None)
        contrast = np.clip((2 * sxy + c2) / (vx + vy + c2), 0, None)
        structure = np.clip((vxy + c2 / 2) / (sxy + c2 / 2), 0, None)
        whole = (luminance**weight * contrast**weight * structure**weight)[3:-3, 3:-3, 3:-3]
        product *= np.clip(whole[mask[3:-3, 3:-3, 3:-3]].mean(), 0, 1)
        kernel = np.full((2, 2, 2), 1 / 8)
        first, second = (fftconvolve(v, kernel, mode="same")[::2, ::2, ::2] for v in (first, second))
        mask = mask[::2, ::2, ::2]
    return float(product)


@pytest.mark.parametrize("shape", [(100, 101, 97), (9, 64, 60), (1, 40, 120), (33, 98, 30)])
def test_ms_ssim_is_synthrads_written_out(shape: tuple[int, int, int]) -> None:
    real, fake, body = volumes(shape)
    assert ms_ssim(real, fake, body, LOW, HIGH) == pytest.approx(written_out(real, fake, body), abs=1e-12)


def test_at_one_scale_it_is_the_mean_of_scikit_images_map_over_the_body() -> None:
    real, fake, body = volumes((20, 30, 26))
    seen = [np.where(body, np.clip(v, LOW, HIGH), LOW) - LOW for v in (real, fake)]
    _, whole = structural_similarity(*seen, data_range=HIGH - LOW, full=True)
    inner = (slice(3, -3),) * 3
    expected = np.maximum(whole, 0)[inner][body[inner]].mean()  # only the structure can be below 0
    assert ms_ssim(real, fake, body, LOW, HIGH, weights=(1.0,)) == pytest.approx(expected, abs=1e-9)


def test_it_lies_near_monais_with_windows_of_the_same_kind() -> None:
    """MONAI takes luminance at the coarsest scale alone, and halves otherwise."""
    metrics = pytest.importorskip("monai.metrics", reason="MONAI is not installed")
    import torch

    real, fake, body = volumes((112, 112, 112))
    body[:] = True
    theirs = metrics.MultiScaleSSIMMetric(3, data_range=HIGH - LOW, kernel_type="uniform", kernel_size=7)
    tensors = [torch.from_numpy(np.clip(v, LOW, HIGH) - LOW).float()[None, None] for v in (fake, real)]
    expected = float(theirs(*tensors))
    assert 0.5 < expected < 0.999
    assert ms_ssim(real, fake, body, LOW, HIGH) == pytest.approx(expected, abs=0.02)


def test_a_tiny_volume_by_hand() -> None:
    real = np.array([[[0.0, 100.0], [200.0, -3000.0]]])
    fake = np.array([[[10.0, 80.0], [200.0, 5000.0]]])
    body = np.array([[[True, True], [True, False]]])
    assert mean_absolute_error(real, fake, body) == pytest.approx((10 + 20 + 0) / 3)
    assert psnr(real, fake, body, LOW, HIGH) == pytest.approx(10 * math.log10(4095**2 / ((100 + 400) / 3)))
    everywhere = np.ones_like(body)
    assert mean_absolute_error(real, fake, everywhere) == pytest.approx((30 + 8000) / 4), "the error is not clipped"
    clipped = (100 + 400 + (3071 + 1024) ** 2) / 4
    assert psnr(real, fake, everywhere, LOW, HIGH) == pytest.approx(10 * math.log10(4095**2 / clipped))


def test_mae_and_psnr_are_those_of_simpleitk_and_scikit_image() -> None:
    sitk = pytest.importorskip("SimpleITK", reason="the extra `medical` is not installed")
    real, fake, body = volumes((12, 20, 18))
    images = [sitk.GetImageFromArray(v.astype(np.float64)) for v in (real, fake)]
    difference = sitk.Abs(images[0] - images[1])
    statistics = sitk.LabelStatisticsImageFilter()
    statistics.Execute(difference, sitk.GetImageFromArray(body.astype(np.uint8)))
    assert mean_absolute_error(real, fake, body) == pytest.approx(statistics.GetMean(1))
    clipped = [np.clip(v, LOW, HIGH)[body] for v in (real, fake)]
    assert psnr(real, fake, body, LOW, HIGH) == pytest.approx(peak_signal_noise_ratio(*clipped, data_range=HIGH - LOW))


def test_equal_volumes_are_perfect_and_without_a_body_there_is_nothing() -> None:
    real, _, body = volumes((9, 40, 40))
    assert mean_absolute_error(real, real, body) == 0
    assert psnr(real, real, body, LOW, HIGH) == math.inf
    assert ms_ssim(real, real, body, LOW, HIGH) == pytest.approx(1.0)
    nowhere = np.zeros_like(body)
    assert mean_absolute_error(real, real, nowhere) is None
    assert psnr(real, real, nowhere, LOW, HIGH) is None
    assert ms_ssim(real, real, nowhere, LOW, HIGH) is None
    speck = nowhere.copy()
    speck[4, 21, 21] = True  # an odd place, which the next scale drops
    assert ms_ssim(real, real, speck, LOW, HIGH) is None


def test_what_lies_outside_the_body_does_not_matter() -> None:
    real, fake, body = volumes((9, 50, 50))
    other = np.where(body, fake, 2000.0)
    for measure in (mean_absolute_error, lambda *v: psnr(*v, LOW, HIGH), lambda *v: ms_ssim(*v, LOW, HIGH)):
        assert measure(real, fake, body) == measure(real, other, body)
