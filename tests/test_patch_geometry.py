"""The sizes of a PatchGAN against the network itself."""

from __future__ import annotations

import pytest
import torch

from roi_progressive.method.discriminators import PatchDiscriminator
from roi_progressive.method.patch_geometry import min_size_px, patch_geometry


@pytest.mark.parametrize(("layers", "smallest"), [(1, 6), (2, 12), (3, 24)])
def test_one_two_and_three_layers_need_6_12_and_24_pixels(layers: int, smallest: int) -> None:
    assert min_size_px(layers) == smallest


@pytest.mark.parametrize("all_strided", [False, True])
@pytest.mark.parametrize("layers", [1, 2, 3, 4])
def test_the_smallest_side_is_found_by_running_the_network(layers: int, all_strided: bool) -> None:
    network = PatchDiscriminator(base_channels=1, layers=layers, all_strided=all_strided)
    smallest = min_size_px(layers, all_strided)
    assert min(network.model(torch.rand(1, 1, smallest, smallest)).shape) == 1
    with pytest.raises((RuntimeError, ValueError)):
        network.model(torch.rand(1, 1, smallest - 1, smallest - 1))


def test_three_layers_see_70_pixels() -> None:
    field = 1
    for kernel, stride, _ in reversed(patch_geometry(3)):
        field = (field - 1) * stride + kernel
    assert field == 70


def test_all_strided_gives_every_convolution_stride_2() -> None:
    assert patch_geometry(2, all_strided=True) == ((4, 2, 1),) * 4
    assert [stride for _, stride, _ in patch_geometry(2)] == [2, 2, 1, 1]
