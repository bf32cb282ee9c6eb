"""Images with their masks, for data sets of one's own: what a plain script's loader needs beside its transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from ..config import RegionConfig
from .masks import Lookup, find_masks, roi_masks
from .replay import MaskedDataset


class MaskReader:
    """Reads an image through a transform, and its masks through the same one, drawn alike.

    The masks lie in folders beside the images', ``trainA/x.png`` and ``trainA_tumor/x.png``. The transform may draw
    from any generator that can be found; on its first images the masks are proved to follow, and a transform whose
    crops depend on the picture is refused. Pickles with its transform, so that workers take it along.

    Args:
        transform: From a PIL image to a tensor ``[C, H, W]``.
        regions: Names, or configurations where a mask may be missing (``missing = "skip"``).
        lookup: Where an image's masks are, as the hook ``roi_masks`` says it; the folders beside by default.

    Raises:
        MaskError: When an image is read: a mask is missing, unreadable or of another size, or cannot follow.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> import numpy as np, torch
        >>> from PIL import Image
        >>> from roi_progressive import MaskReader
        >>> def transform(image):
        ...     pixels = torch.from_numpy(np.asarray(image.convert("L"), dtype=np.float32) / 127.5 - 1)[None]
        ...     return pixels.flip(2) if torch.rand(()) < 0.5 else pixels
        >>> root = Path(tempfile.mkdtemp())
        >>> for folder in ("trainA", "trainA_tumor"):
        ...     (root / folder).mkdir()
        ...     Image.new("L", (32, 32), 255).save(root / folder / "x.png")
        >>> read = MaskReader(transform, ["tumor"])
        >>> image, masks = read(root / "trainA" / "x.png")
        >>> image.shape, masks["tumor"].shape, masks["tumor"].dtype
        (torch.Size([1, 32, 32]), torch.Size([1, 32, 32]), torch.bool)
    """

    def __init__(
        self,
        transform: Callable[[Image.Image], Tensor],
        regions: Sequence[str | RegionConfig] = ("tumor",),
        *,
        lookup: Lookup = roi_masks,
    ) -> None:
        self._regions = [RegionConfig(region) if isinstance(region, str) else region for region in regions]
        self._lookup = lookup
        self._files: dict[str, dict[str, str | None]] = {}
        names = [region.name for region in self._regions]
        self._reading = MaskedDataset(_OneImage(transform), [__name__], ["image"], self._files, names)

    def __call__(self, path: str | Path) -> tuple[Tensor, dict[str, Tensor]]:
        """The image ``[C, H, W]`` as the transform makes it, and its masks by region, bool ``[1, H, W]``."""
        key = str(path)
        if key not in self._files:
            self._files.update(find_masks([key], self._regions, self._lookup))
        sample: dict[str, Any] = self._reading[key]
        return sample["image"], sample["roi_masks"]["image"]


class _OneImage:
    """A data set of files by their paths."""

    def __init__(self, transform: Callable[[Image.Image], Tensor]) -> None:
        self.transform = transform

    def __getitem__(self, path: str) -> dict[str, Any]:
        with Image.open(path) as image:
            return {"image": self.transform(image)}
