"""Training images turned, scaled, moved or bent at random, by TorchIO (Pérez-García et al. 2021).

All chance comes from torch's global stream, and where an image goes does not depend on what it shows: so a mask that is
read with the same random state goes there too.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from ..errors import ConfigError

NONE = "none"
DEGREES = 10.0
"""An image is turned by at most so much to either side."""
SCALE = 0.1
"""And scaled by at most so much more or less."""
SHIFT = 0.05
"""And moved by at most this share of its side."""
BEND = 0.03
"""``elastic``: the most that a point is moved, as a share of the side."""
CONTROL_POINTS = 7
BLACK = -1.0


def _affine(height_px: int, width_px: int) -> Any:
    import torchio

    shift = [SHIFT * height_px, SHIFT * width_px]
    return torchio.RandomAffine(
        scales=(1 - SCALE, 1 + SCALE, 1 - SCALE, 1 + SCALE, 1, 1),
        degrees=(0, 0, 0, 0, -DEGREES, DEGREES),
        translation=(-shift[0], shift[0], -shift[1], shift[1], 0, 0),
        default_pad_value=BLACK,
        image_interpolation="linear",
    )


def _elastic(height_px: int, width_px: int) -> Any:
    import torchio

    return torchio.RandomElasticDeformation(
        num_control_points=CONTROL_POINTS,
        max_displacement=(BEND * height_px, BEND * width_px, 0),
        locked_borders=2,
        image_interpolation="linear",
    )


_MAKERS: dict[str, Callable[[int, int], Any]] = {"affine": _affine, "elastic": _elastic}
AUGMENTATIONS = (NONE, *_MAKERS)
"""``affine`` turns, scales and moves; ``elastic`` bends."""


def augmentation(name: str) -> Callable[[Tensor], Tensor] | None:
    """From an image ``[C, H, W]`` in [-1, 1] to one of the same shape and range; ``None`` for ``none``.

    Args:
        name: One of ``AUGMENTATIONS``.

    Raises:
        ConfigError: TorchIO is not installed.
    """
    if name == NONE:
        return None
    if find_spec("torchio") is None:
        raise ConfigError(
            f"`augment` {name} needs TorchIO, which is not installed; pip install 'roi-progressive[augment]', or "
            f"leave it out"
        )
    return Augmentation(name)


class Augmentation:
    """One of the augmentations; it pickles, for the processes that load images.

    Args:
        name: ``affine`` or ``elastic``.
    """

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, image: Tensor) -> Tensor:
        """Give ``image`` as it comes out, ``[C, H, W]`` in [-1, 1]; what is moved in from outside is black."""
        transform = _transform(self._name, image.shape[-2], image.shape[-1])
        # TorchIO takes volumes [C, W, H, D]; a slice is one of a single layer, whichever side comes first.
        changed: Tensor = transform(image[..., None])[..., 0]
        return changed.clamp_(-1.0, 1.0)


@lru_cache(maxsize=16)
def _transform(name: str, height_px: int, width_px: int) -> Any:
    return _MAKERS[name](height_px, width_px)
