"""The hooks this package implements; the entry point in setup.cfg names this module."""

import roi_progressive

from . import edges, masks, metric
from .discriminator import SpectralDiscriminator


@roi_progressive.hookimpl
def roi_discriminator(region, in_channels, smallest_px):
    return SpectralDiscriminator.that_fits(smallest_px, in_channels, region.base_channels, region.layers)


@roi_progressive.hookimpl
def roi_generator_losses(translation):
    loss = edges.edge_loss(translation)
    return None if loss is None else {"edges": edges.WEIGHT * loss}


@roi_progressive.hookimpl
def roi_masks(path, regions):
    return masks.in_one_folder(path, regions)


@roi_progressive.hookimpl
def roi_metrics(real, fake, mask):
    return {"EDGE": metric.edge_error(real, fake, mask)} if mask.any() else None
