"""The uncertainty head around any generator: scale and shape maps beside every image it makes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import GGDConfig
from ..errors import ShapeError
from ..method.ggd import GGDHead, ggd_nll, ggd_variance
from ..plugins.adapter import Uncertainty
from ..runtime.rng import ForkedStream, RandomState
from .features import FeatureCapture, image_of, samples_within
from .tap import leaf as leaf_of
from .terms import joined


class GGDTerm(NamedTuple):
    """The loss of one output, and the leaf its gradient on the generator's features is taken at."""

    loss: Tensor
    features: Tensor
    leaf: Tensor


class GGDWrapper:
    """Predicts scale and shape maps from the features behind a generator's image.

    A generator that brings a ``ggd_head`` of its own (``UNetGenerator``) keeps it; any other gets one, built at its
    first recorded call when its features are known. Over several DataParallel devices, and where no convolution
    leads to the output, a head of ours reads the output image itself.

    Args:
        generator: The module the host calls, DataParallel or DDP wrappers included.
        config: The head's width and bounds, and the loss's epsilon.
        seed: Of the head's first weights, which are drawn in a stream of their own: they depend neither on the
            moment at which the head is built nor on the host's random state.
    """

    def __init__(self, generator: nn.Module, config: GGDConfig, *, seed: int = 0) -> None:
        self.config = config
        self._seed = seed
        self._generator = generator
        self._said_unread = False
        self._module = generator
        replicated = False
        while isinstance(self._module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            replicated |= isinstance(self._module, nn.DataParallel) and len(self._module.device_ids) > 1
            self._module = self._module.module
        own = None if replicated else getattr(self._module, "ggd_head", None)
        self.head: GGDHead | None = own if isinstance(own, GGDHead) else None
        self.owns_head = self.head is None
        self._capture = None if replicated else FeatureCapture(self._module, generator)

    def start_recording(self) -> None:
        """Record the generator's calls from here on."""
        if self._capture is not None:
            self._capture.recording = True

    def stop_recording(self) -> None:
        """Stop recording and forget what was recorded."""
        if self._capture is not None:
            self._capture.recording = False
            self._capture.clear()

    def can_read(self, output: Tensor) -> bool:
        """Whether what the head reads of an output is known.

        Of a generator that stands still, and was never called with a graph, it is not; nor where a host trains on
        something else than the generator returned. The latter is said, once.
        """
        if self._capture is None or self._capture.features_of(output) is not None:
            return True
        if self._capture.layer is None and (self._capture.layer_is_known or output.requires_grad):
            return True  # no convolution leads to its images
        if output.requires_grad and not self._said_unread:
            self._said_unread = True
            warnings.warn(
                f"uncertainty is left out for an image of {type(self._module).__name__}: what the host trains on is "
                f"not the tensor that the generator returned; give that one, or set ggd = false",
                RuntimeWarning,
                stacklevel=2,
            )
        return False

    def let_go(self, outputs: Iterable[Tensor]) -> None:
        """All terms of these outputs are computed: what they were read from is the host's alone again."""
        if self._capture is not None:
            for output in outputs:
                self._capture.let_go(output)

    def term(self, output: Tensor, residual: Tensor, leaf: Tensor | None = None) -> GGDTerm:
        """The loss of an output under the maps predicted for it (paper eq. 1), with its features cut off the graph.

        Args:
            output: An image the generator made while recording.
            residual: Predicted minus true image; a leaf, or made from one.
            leaf: The leaf that ``residual`` was made from; the head reads it where the image is all it has.
        """
        (term,) = terms([(self, output, residual, leaf)])
        return term

    @torch.no_grad()
    def uncertainty(self, source: Tensor) -> Uncertainty:
        """Translate images and say how sure; weights, running statistics and random streams stay as they are.

        Args:
            source: ``[N, C, H, W]`` in [-1, 1], on the generator's device.

        Raises:
            ShapeError: The generator returns anything but images.
        """
        random_state = RandomState.now()
        statistics = [(buffer, buffer.clone()) for buffer in self._module.buffers()]
        listening = nullcontext() if self._capture is None else self._capture.listening()
        try:
            with listening:
                image = self._image(source)
                features = leaf_of(self._features(image))
                scale, shape = (_fit(of, image.shape) for of in self._built_head(features, image.shape)(features))
        finally:
            random_state.restore()
            for buffer, before in statistics:
                buffer.copy_(before)
        sigma = ggd_variance(scale, shape).sqrt()
        return Uncertainty(image.detach(), scale.detach(), shape.detach(), sigma.detach())

    def standalone(self, example: Tensor) -> ImageAndSigma:
        """A copy of generator and head as one module, without anything of a session.

        Args:
            example: An image that the generator takes, ``[N, C, H, W]``.
        """
        self.uncertainty(example)  # from here on the head is built, and what it reads is known
        assert self.head is not None
        layer = None if self._capture is None else self._capture.layer
        return ImageAndSigma(self._module, self.head, layer).eval()

    def _image(self, source: Tensor) -> Tensor:
        if self._capture is None or self._capture.layer_is_known:
            image = image_of(self._generator(source))
        else:
            # The layer is found by the graph, so this once there must be one, even in inference mode or where
            # all parameters are frozen.
            with torch.inference_mode(False), torch.enable_grad():
                image = image_of(self._generator(source.detach().clone().requires_grad_()))
        if not isinstance(image, Tensor) or image.ndim != 4:
            raise ShapeError(
                f"`generator` must return images [N, C, H, W]; {type(self._module).__name__} returned "
                f"{list(image.shape) if isinstance(image, Tensor) else type(image).__name__}"
            )
        return image

    def build_head(self, output: Tensor) -> None:
        """Make the head where the generator brings none; a second call changes nothing.

        Args:
            output: An image this generator made while recording.
        """
        if self.head is None:
            features = self._features(output)
            if features is output and self._capture is not None:
                warnings.warn(
                    f"no convolution was found that leads to the image of {type(self._module).__name__}: its "
                    f"uncertainty is read off the image alone",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self.head = self._head_for(leaf_of(features), output.shape[1])

    def load_head(self, state: Mapping[str, Tensor]) -> None:
        """Restore a head that this class made; it is built to the sizes of its weights where there is none yet."""
        if self.head is None:
            first = state.get("trunk.0.weight", state["scale.weight"])
            like = next(self._module.parameters(), first).new_empty(0, first.shape[1], dtype=first.dtype)
            self.head = self._head_for(like, state["scale.weight"].shape[0])
        self.head.load_state_dict(dict(state))

    def _head_for(self, features: Tensor, out_channels: int) -> GGDHead:
        # What is made in inference mode could never be trained.
        with ForkedStream(self._seed).active(), torch.inference_mode(False):
            head = GGDHead(
                features.shape[1],
                out_channels,
                hidden_channels=self.config.hidden_channels,
                min_scale=self.config.min_scale,
                shape_range=self.config.shape_range,
            )
            return head.to(features.device, features.dtype)

    def _features(self, output: Tensor) -> Tensor:
        found = None if self._capture is None else self._capture.features_of(output)
        return output if found is None else found

    def _built_head(self, features: Tensor, shape: torch.Size) -> GGDHead:
        if self.head is None:
            self.head = self._head_for(features, shape[1])
        return self.head

    def remove(self) -> None:
        """Take all hooks off the generator."""
        if self._capture is not None:
            self._capture.remove()


class ImageAndSigma(nn.Module):
    """A generator and its uncertainty head as one module, which can be traced (``torch.jit.trace``).

    Args:
        generator: Makes the images; it is copied.
        head: Predicts both maps; likewise.
        layer: The layer of ``generator`` whose input the head reads; ``None`` where it reads the image.
    """

    def __init__(self, generator: nn.Module, head: GGDHead, layer: nn.Module | None) -> None:
        super().__init__()
        # Together, so that a head or layer that is part of the generator is so in the copy.
        self.generator, self.head, copied_layer = copy.deepcopy((generator, head, layer))
        self._layer = (copied_layer,)  # in a tuple it is no second child of this module

    def forward(self, source: Tensor) -> tuple[Tensor, Tensor]:
        """Image in [-1, 1], and standard deviation in its units, from ``source``, all ``[N, C, H, W]``."""
        read: list[Tensor] = []
        (layer,) = self._layer
        handle = None if layer is None else layer.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
        try:
            image: Tensor = image_of(self.generator(source))
        finally:
            if handle is not None:
                handle.remove()
        scale, shape = (_fit(of, image.shape) for of in self.head(read[-1] if read else image))
        return image, ggd_variance(scale, shape).sqrt()


def terms(of: Sequence[tuple[GGDWrapper, Tensor, Tensor, Tensor | None]]) -> list[GGDTerm]:
    """``GGDWrapper.term`` of several wrappers and outputs; what has the same shapes and bounds is computed together.

    Args:
        of: A wrapper, and the arguments of its ``term``.
    """
    cut_offs: list[tuple[Tensor, Tensor]] = []
    together: dict[Any, list[tuple[int, GGDHead, Tensor]]] = {}
    residuals = [residual for _, _, residual, _ in of]
    for place, (wrapper, output, _, leaf) in enumerate(of):
        features = wrapper._features(output)
        cut_off = leaf if leaf is not None and features is output else leaf_of(features)
        cut_offs.append((features, cut_off))
        # A host may translate both domains in one call, and go on with parts of what it got.
        rows = slice(None) if features is output else samples_within(output, len(features))
        head = wrapper._built_head(cut_off, output.shape)
        # The gradient of a slice, even of one that holds all, is a second tensor of the whole's size, that of a view is
        # none; and hooks on modules, such as torch's FLOP counter's, fail where an input is what is differentiated by.
        logits = head.logits(cut_off.view_as(cut_off) if rows == slice(None) else cut_off[rows])
        alike = (head.min_scale, head.shape_range, wrapper.config.epsilon, logits.shape, logits.dtype, output.shape)
        together.setdefault(alike, []).append((place, head, logits))
    losses: dict[int, Tensor] = {}
    for (_, _, epsilon, *_, size), found in together.items():
        scales, shapes = _fit(found[0][1].bounded(joined([logits for *_, logits in found])), size).chunk(2, dim=1)
        residual = joined([residuals[place] for place, *_ in found])
        each = ggd_nll(residual, scales, shapes, reduction="none", epsilon=epsilon).view(len(found), -1)
        # mean()'s own backward fills a whole tensor
        for (place, *_), loss in zip(found, (each.sum(dim=1) / each.shape[1]).unbind(), strict=True):
            losses[place] = loss
    return [GGDTerm(losses[place], *cut_off) for place, cut_off in enumerate(cut_offs)]


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
