"""The images of a batch that hold a region, for terms that look at whole images."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..runtime.uploads import upload
from .regions import Bools, RegionMask, grow


class HeldImages(NamedTuple):
    """The images of a batch that hold the region.

    Attributes:
        places: Which of the batch; ``None`` for all of them.
        inside: The region in them, ``[n, H, W]``.
        visible: What counts of them, ``[n, H, W]``; ``None`` for every pixel.
    """

    places: list[int] | None
    inside: Bools
    visible: Bools | None

    @classmethod
    def of(cls, masks: RegionMask, reach_px: int | None) -> HeldImages | None:
        """Those of a batch; ``None`` where no image holds the region.

        Args:
            masks: The batch's.
            reach_px: How far around the region pixels count; ``None`` for the whole image.
        """
        places = [place for place, box in enumerate(masks.boxes) if box is not None]
        if not places:
            return None
        every = len(places) == len(masks.boxes)
        inside = masks.inside if every else masks.inside[places]
        return cls(None if every else places, inside, None if reach_px is None else grow(inside, reach_px))

    def __len__(self) -> int:
        return len(self.inside)

    def chosen(self, images: Tensor) -> Tensor:
        """These of the batch's images; the gradient reaches visible pixels alone."""
        found = images
        if self.places is not None:
            (places,) = upload([np.asarray(self.places)], images.device)
            found = images.index_select(0, places)
        if self.visible is None:
            return found
        (visible,) = upload([self.visible[:, None]], found.device)
        return torch.where(visible, found, found.detach())
