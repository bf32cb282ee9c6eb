"""The uncertainty head around any generator: scale and shape maps beside every image it makes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .config import GGDConfig
from .errors import ShapeError
from .features import FeatureCapture
from .ggd import GGDHead, ggd_nll, ggd_variance


class Uncertainty(NamedTuple):
    """What a generator says of an image; each ``[N, C, H, W]``.

    Attributes:
        image: The generated image, in [-1, 1].
        scale: α of every pixel, in the image's units.
        shape: β of every pixel (2 Gaussian, 1 Laplace).
        sigma: The standard deviation the two stand for, in the image's units.
    """

    image: Tensor
    scale: Tensor
    shape: Tensor
    sigma: Tensor


class GGDTerm(NamedTuple):
    """The loss of one output, and the leaf its gradient on the generator's features is taken at."""

    loss: Tensor
    features: Tensor
    leaf: Tensor


class GGDWrapper:
    """Predicts scale and shape maps from the features behind a generator's image.

    A generator that brings a ``ggd_head`` of its own (``UNetGenerator``) keeps it; any other gets one, built at its
    first recorded call when its features are known. Over several DataParallel devices, and where no convolution
    leads to the output, the head reads the output image itself.

    Args:
        generator: The module the host calls, DataParallel or DDP wrappers included.
        config: The head's width and bounds, and the loss's epsilon.
    """

    def __init__(self, generator: nn.Module, config: GGDConfig) -> None:
        self.config = config
        self._generator = generator
        self._module = generator
        replicated = False
        while isinstance(self._module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            replicated |= isinstance(self._module, nn.DataParallel) and len(self._module.device_ids) > 1
            self._module = self._module.module
        own = getattr(self._module, "ggd_head", None)
        self.head: GGDHead | None = own if isinstance(own, GGDHead) else None
        self.owns_head = self.head is None
        self._capture = None if replicated else FeatureCapture(self._module)

    def start_recording(self) -> None:
        """Record the generator's calls from here on."""
        if self._capture is not None:
            self._capture.recording = True

    def stop_recording(self) -> None:
        """Stop recording and forget what was recorded."""
        if self._capture is not None:
            self._capture.recording = False
            self._capture.clear()

    def term(self, output: Tensor, residual: Tensor) -> GGDTerm:
        """The loss of an output under the maps predicted for it (paper eq. 1), with its features cut off the graph.

        Args:
            output: An image the generator made while recording.
            residual: Predicted minus true image; a leaf, or made from one.
        """
        features = self._features(output)
        leaf = features.detach().requires_grad_()
        scale, shape = self._maps(leaf, output.shape)
        loss = ggd_nll(residual, scale, shape, epsilon=self.config.epsilon)
        return GGDTerm(loss, features, leaf)

    @torch.no_grad()
    def uncertainty(self, source: Tensor) -> Uncertainty:
        """Translate images and say how sure.

        Args:
            source: ``[N, C, H, W]`` in [-1, 1], on the generator's device.
        """
        known = self._capture is None or self._capture.layer is not None
        listening = nullcontext() if self._capture is None else self._capture.listening()
        with listening, torch.set_grad_enabled(not known):
            image = self._generator(source)
            if not isinstance(image, Tensor) or image.ndim != 4:
                raise ShapeError(
                    f"`generator` must return images [N, C, H, W]; {type(self._module).__name__} returned "
                    f"{list(image.shape) if isinstance(image, Tensor) else type(image).__name__}"
                )
            scale, shape = self._maps(self._features(image).detach(), image.shape)
        sigma = ggd_variance(scale, shape).sqrt()
        return Uncertainty(image.detach(), scale.detach(), shape.detach(), sigma.detach())

    def build_head(self, output: Tensor) -> None:
        """Make the head where the generator brings none; a second call changes nothing.

        Args:
            output: An image this generator made while recording.
        """
        if self.head is None:
            self.head = self._head(self._features(output).shape[1], output.shape[1]).to(output.device)

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """Restore a head that this class made; it is built to the sizes of its weights where there is none yet."""
        if self.head is None:
            first = state.get("trunk.0.weight", state["scale.weight"])
            device = next(self._module.parameters()).device
            self.head = self._head(first.shape[1], state["scale.weight"].shape[0]).to(device)
        self.head.load_state_dict(dict(state))

    def _head(self, in_channels: int, out_channels: int) -> GGDHead:
        return GGDHead(
            in_channels,
            out_channels,
            hidden_channels=self.config.hidden_channels,
            min_scale=self.config.min_scale,
            shape_range=self.config.shape_range,
        )

    def _features(self, output: Tensor) -> Tensor:
        found = None if self._capture is None else self._capture.features_of(output)
        return output if found is None else found

    def _maps(self, features: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
        if self.head is None:
            self.head = self._head(features.shape[1], shape[1]).to(features.device)
        scale, beta = self.head(features)
        return _fit(scale, shape), _fit(beta, shape)

    def remove(self) -> None:
        """Take all hooks off the generator."""
        if self._capture is not None:
            self._capture.remove()


def _fit(maps: Tensor, shape: torch.Size) -> Tensor:
    """Bring maps to the image's size: padded features are cropped at the centre, coarser ones interpolated."""
    height, width = shape[-2:]
    beyond = maps.shape[-2] - height, maps.shape[-1] - width
    if beyond == (0, 0):
        return maps
    if min(beyond) >= 0:
        top, left = beyond[0] // 2, beyond[1] // 2
        return maps[..., top : top + height, left : left + width]
    return F.interpolate(maps, size=(height, width), mode="bilinear", align_corners=False)
