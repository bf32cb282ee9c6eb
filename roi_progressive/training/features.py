"""What the last convolution of any generator read, call by call, without touching the generator's class."""

from __future__ import annotations

import functools
import sys
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.weak import TensorWeakRef


class _Hook:
    """A hook whose copies do nothing: an EMA copy or ``torch.save(generator)`` must not drag the capture along.

    Deep copies and pickles become a call of ``sys.audit``, which takes anything and returns ``None``, so that
    they also load where this package is not installed.
    """

    def __init__(self, owner: FeatureCapture, method: str) -> None:
        self._owner = owner
        self._method = method

    def __call__(self, module: nn.Module, inputs: Any, output: Any = None) -> None:
        getattr(self._owner, self._method)(module, inputs, output)

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial, (sys.audit, "roi_progressive.inert_hook")


@dataclass(frozen=True)
class _ConvolutionCall:
    layer: nn.Module
    features: Tensor
    node: Any
    """The autograd node of the layer's output, kept so that its identity stays valid."""


class FeatureCapture:
    """Remembers, for every image a generator made, the features its last convolution read.

    The layer is found at the first call with gradients by the output's ancestry in the autograd graph, not by
    registration order. A generator is called several times a step (fake, reconstruction, identity), so features are
    kept per call and looked up by the very output tensor, for as long as somebody holds that output.

    Args:
        generator: Any module from images to images; its class, output, parameters and state-dict keys stay as they are.
        wrapper: What the host calls in its place, if that is another: DDP may return a copy of the output.

    Attributes:
        recording: Whether calls are remembered now.
        only_with_gradients: Whether calls under ``no_grad`` are passed over.
    """

    def __init__(self, generator: nn.Module, wrapper: nn.Module | None = None) -> None:
        self.generator = generator
        self.layer: nn.Module | None = None
        self.recording = False
        self.only_with_gradients = True
        self._calls: list[tuple[weakref.ref[Tensor], Callable[[], Tensor | None]]] = []
        self._convolutions: list[_ConvolutionCall] = []
        self._handles = [generator.register_forward_hook(_Hook(self, "_generator_returned"))]
        if wrapper is not None and wrapper is not generator:
            self._handles.append(wrapper.register_forward_hook(_Hook(self, "_wrapper_returned")))
        self._candidates = [
            module.register_forward_hook(_Hook(self, "_convolution_returned"))
            for module in generator.modules()
            if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d))
        ]

    @property
    def layer_is_known(self) -> bool:
        """Whether calls can be recorded without gradients: the layer was found, or there is none to find."""
        return self.layer is not None or not self._candidates

    def features_of(self, output: Tensor) -> Tensor | None:
        """The features ``[N, C, h, w]`` behind a recorded output, or behind the whole of which it is some samples;
        ``None`` where the output is not of this generator or no convolution was found."""
        return next((features() for made, features in reversed(self._calls) if _is_of(output, made())), None)

    def let_go(self, output: Tensor) -> None:
        """The features behind an output were read: keep them no longer than the host's own graph does, which frees them
        in its backward."""
        self._calls = [
            (made, _weakly(features()) if _is_of(output, made()) else features)
            for made, features in self._calls
            if made() is not None
        ]

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Record every call inside the block, without gradients too; forget them afterwards."""
        before = self.recording, self.only_with_gradients, self._calls
        self.recording, self.only_with_gradients, self._calls = True, False, []
        try:
            yield
        finally:
            self.recording, self.only_with_gradients, self._calls = before

    @property
    def _listening(self) -> bool:
        return self.recording and (torch.is_grad_enabled() or not self.only_with_gradients)

    def clear(self) -> None:
        """Forget all calls."""
        self._calls.clear()
        self._convolutions.clear()

    def remove(self) -> None:
        """Take all hooks off the generator."""
        for handle in (*self._handles, *self._candidates):
            handle.remove()
        self.clear()

    def _convolution_returned(self, layer: nn.Module, inputs: Any, output: Any) -> None:
        if self._listening and isinstance(output, Tensor) and (self.layer is None or layer is self.layer):
            self._convolutions.append(_ConvolutionCall(layer, inputs[0], output.grad_fn))

    def _generator_returned(self, generator: nn.Module, inputs: Any, output: Any) -> None:
        calls, self._convolutions = self._convolutions, []
        output = image_of(output)
        if not self._listening or not isinstance(output, Tensor):
            return
        if self.layer is None:
            nearest = _nearest(output, calls)
            if nearest is None:
                return
            self._settle(nearest.layer)
            calls = [nearest]
        # A script that never ends its step must not pile up the graphs of all earlier ones.
        self._calls = [call for call in self._calls if call[0]() is not None]
        if calls:
            self._calls.append((weakref.ref(output), functools.partial(_itself, calls[-1].features)))

    def _wrapper_returned(self, wrapper: nn.Module, inputs: Any, output: Any) -> None:
        output = image_of(output)
        if self._listening and isinstance(output, Tensor) and self._calls:
            self._calls.append((weakref.ref(output), self._calls[-1][1]))

    def _settle(self, layer: nn.Module) -> None:
        self.layer = layer
        for handle in self._candidates:
            handle.remove()
        self._candidates = [layer.register_forward_hook(_Hook(self, "_convolution_returned"))]


def _itself(features: Tensor) -> Tensor:
    return features


def _weakly(features: Tensor | None) -> Callable[[], Tensor | None]:
    if features is None:
        return lambda: None
    reference: Callable[[], Tensor | None] = TensorWeakRef(features)
    return reference


def image_of(output: Any) -> Any:
    """The image among what a generator returned: some return it first, with attention maps behind it."""
    return output[0] if isinstance(output, tuple) and output else output


def samples_within(output: Tensor, n_samples: int) -> slice:
    """Which samples of the whole it was cut from an output is; all of them where it is the whole itself.

    Args:
        output: ``[N, C, H, W]``, a whole batch or ``batch[first:last]``.
        n_samples: Of the whole.
    """
    whole = output._base
    if whole is None or len(output) == n_samples:
        return slice(None)
    first = (output.storage_offset() - whole.storage_offset()) // max(whole.stride(0), 1)
    return slice(first, first + len(output))


def _is_of(output: Tensor, made: Tensor | None) -> bool:
    if made is None or output is made:
        return made is not None
    return output._base is made and output.shape[1:] == made.shape[1:] and output.stride() == made.stride()


def _nearest(output: Tensor, calls: list[_ConvolutionCall]) -> _ConvolutionCall | None:
    """The convolution call closest to the output in the autograd graph."""
    by_node = {call.node: call for call in calls if call.node is not None}
    queue, seen = deque([output.grad_fn]), {output.grad_fn}
    while queue:
        node = queue.popleft()
        if node in by_node:
            return by_node[node]
        for following, _ in getattr(node, "next_functions", ()):
            if following is not None and following not in seen:
                seen.add(following)
                queue.append(following)
    return None
