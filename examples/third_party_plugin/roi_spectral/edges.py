"""An extra loss of the generator: inside the regions, edges lie where the source has its own."""

import torch

WEIGHT = 0.1


def edge_loss(translation):
    """One less the correlation of edge strength in source and generated image, over all regions; ``None`` without any.

    CT and MR differ in grey levels and even in the sign of an edge, but not in where it lies.
    """
    inside = [mask.mask for mask in translation.masks.values() if not mask.is_empty]
    if not inside:
        return None
    region = torch.stack(inside).any(dim=0)
    one, other = (_edges(image)[region] for image in (translation.source, translation.fake))
    one, other = one - one.mean(), other - other.mean()
    return 1 - (one * other).mean() / ((one**2).mean() * (other**2).mean() + 1e-8).sqrt()


def _edges(image):
    """Edge strength, ``[N, 1, H, W]``: the smoothed length of the grey-level gradient by central differences."""
    rows, columns = torch.gradient(image.float(), dim=(2, 3))
    return (rows**2 + columns**2 + 1e-6).sqrt().mean(dim=1, keepdim=True)
