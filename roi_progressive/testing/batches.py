"""Batches of the phantom in memory, for tests that want images with a region and no files."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..config import Config, GGDConfig, RegionConfig
from ..data.phantom import REGIONS, phantom_patient
from ..errors import ConfigError
from ..saving.names import DOMAINS


def phantom_batch(n: int = 2, *, size_px: int = 32, seed: int = 0, paired: bool = False) -> dict[str, Any]:
    """A batch as a loader gives it: CT, MR and the masks of both, one patient a domain; the tumour is in every slice.

    Args:
        n: Images a domain.
        size_px: Side of the square images, at least 32.
        seed: Fixes the patients; the random streams are left alone.
        paired: Whether ``B`` shows the patient of ``A``, pixel by pixel.

    Returns:
        ``A`` and ``B``: float32 ``[n, 1, size_px, size_px]`` in [-1, 1]. ``A_liver``, ``A_tumor``, ``B_liver`` and
        ``B_tumor``: their masks, 0 or 1, of the same shape. ``A_paths`` and ``B_paths``: n names of no file.

    Raises:
        ConfigError: A number is out of range.

    Example:
        >>> from roi_progressive.testing import phantom_batch
        >>> batch = phantom_batch(n=3)
        >>> batch["A"].shape, batch["A_tumor"].flatten(1).any(dim=1)
        (torch.Size([3, 1, 32, 32]), tensor([True, True, True]))
    """
    if n < 1:
        raise ConfigError(f"`n` must be at least 1; got {n}; give the number of images a domain")
    patients = [phantom_patient((seed, place), slices=n, size_px=size_px) for place in (0, 0 if paired else 1)]
    batch: dict[str, Any] = {}
    for domain, patient, images in zip(DOMAINS, patients, (patients[0].ct, patients[1].mr), strict=True):
        batch[domain] = _tensor(images)
        batch |= {f"{domain}_{region}": _tensor(patient.masks[region]) for region in REGIONS}
        batch[f"{domain}_paths"] = [f"phantom{domain}/{seed}_{place}.png" for place in range(n)]
    return batch


def phantom_config(**changes: Any) -> Config:
    """A configuration for ``phantom_batch``: the tumour from the first step on, in networks that train in a blink.

    Args:
        **changes: Arguments of ``Config`` to change.

    Example:
        >>> from roi_progressive.testing import phantom_config
        >>> [region.name for region in phantom_config(ggd=None).regions]
        ['tumor']
    """
    tumor = RegionConfig(
        "tumor", scales=1, stage=1, windows_px=(16, 32), base_channels=2, layers=1, batch_key="{domain}_tumor"
    )
    small: dict[str, Any] = {"regions": (tumor,), "ggd": GGDConfig(hidden_channels=2), "pool_size": 2}
    return Config(**{**small, **changes})


def _tensor(images: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(images.astype(np.float32))[:, None]
