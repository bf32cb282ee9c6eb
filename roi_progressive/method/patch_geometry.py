"""The sizes of a PatchGAN: its convolutions, and the smallest image that they leave a logit of."""

from __future__ import annotations


def patch_geometry(layers: int, all_strided: bool = False) -> tuple[tuple[int, int, int], ...]:
    """Kernel, stride and padding of every convolution of a ``PatchDiscriminator``."""
    last = 2 if all_strided else 1
    return ((4, 2, 1),) * layers + ((4, last, 1),) * 2


def min_size_px(layers: int, all_strided: bool = False) -> int:
    """The smallest input side whose map of logits is not empty.

    Every normalised map then has the two pixels a side that InstanceNorm asks for, since the 4 x 4 convolution after it
    needs them too.
    """
    geometry = patch_geometry(layers, all_strided)

    def fits(side: int) -> bool:
        for kernel, stride, padding in geometry:
            side = (side + 2 * padding - kernel) // stride + 1
            if side < 1:
                return False
        return True

    return next(side for side in range(1, 2 ** (layers + 6)) if fits(side))
