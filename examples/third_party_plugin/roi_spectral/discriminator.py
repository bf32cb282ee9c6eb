"""A PatchGAN whose layers cannot amplify by more than 1: spectral normalisation (Miyato et al. 2018)."""

from itertools import pairwise

from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

LAYER = (4, 2, 1)
LAST = (3, 1, 1)


class SpectralDiscriminator(nn.Module):
    """Strided 4 x 4 convolutions and a 3 x 3 one to the logits, all under spectral norm, without any other norm.

    Shape:
        ``[N, in_channels, H, W]`` in [-1, 1] to logits ``[N, 1, h, w]``; H and W at least ``min_size_px``.
    """

    def __init__(self, in_channels, base_channels, layers):
        super().__init__()
        widths = [in_channels, *(base_channels * min(2**level, 8) for level in range(layers))]
        modules = []
        for before, after in pairwise(widths):
            modules += [spectral_norm(nn.Conv2d(before, after, *LAYER)), nn.LeakyReLU(0.2)]
        self.model = nn.Sequential(*modules, spectral_norm(nn.Conv2d(widths[-1], 1, *LAST)))
        # With the geometry, each logit counts by exactly what it sees of the region.
        self.geometry = (*((LAYER,) * layers), LAST)
        self.min_size_px = 2**layers

    @classmethod
    def that_fits(cls, smallest_px, in_channels, base_channels, most_layers):
        """The deepest one whose map of logits keeps two a side for the smallest window it will see."""
        fitting = [layers for layers in range(1, most_layers + 1) if 2 ** (layers + 1) <= smallest_px]
        return cls(in_channels, base_channels, fitting[-1] if fitting else 1)

    def forward(self, windows):
        if min(windows.shape[2:]) < self.min_size_px:
            raise ValueError(
                f"`windows` must have sides of at least {self.min_size_px} px; got {list(windows.shape)}; "
                f"use fewer `layers` for small windows"
            )
        return self.model(windows)
