"""Random streams: ours run beside the host's and never move them ("Inert is invisible")."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..saving.state_checks import number, python_stream, whole


@dataclass(frozen=True)
class RandomState:
    """A snapshot of every random stream a training script draws from: Python, NumPy, torch on CPU and CUDA.

    Example:
        >>> import torch
        >>> from roi_progressive import RandomState
        >>> before = RandomState.now()
        >>> first = torch.rand(3)
        >>> before.restore()
        >>> torch.equal(torch.rand(3), first)
        True
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    torch_cpu: Tensor
    torch_cuda: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> RandomState:
        """Take the snapshot without drawing anything."""
        numpy_state = np.random.get_state(legacy=False)
        assert isinstance(numpy_state, dict)
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()
        return cls(random.getstate(), numpy_state, torch.get_rng_state(), cuda)

    def restore(self) -> None:
        """Put every stream back to where it stood."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)
        torch.set_rng_state(self.torch_cpu)
        if self.torch_cuda:  # from a file it may be of a machine with more devices
            for device, state in enumerate(self.torch_cuda[: torch.cuda.device_count()]):
                torch.cuda.set_rng_state(state, device)

    def to_plain(self) -> dict[str, Any]:
        """Tensors, numbers and strings only, so that ``torch.load(weights_only=True)`` reads it back."""
        version, words, gauss = self.python
        inner = self.numpy["state"]
        return {
            "python": {"version": version, "words": torch.tensor(words, dtype=torch.int64), "gauss": gauss},
            "numpy": {
                "bit_generator": self.numpy["bit_generator"],
                "key": torch.from_numpy(inner["key"].astype(np.int64)),
                "pos": int(inner["pos"]),
                "has_gauss": int(self.numpy["has_gauss"]),
                "gauss": float(self.numpy["gauss"]),
            },
            "torch_cpu": self.torch_cpu,
            "torch_cuda": list(self.torch_cuda),
        }

    @classmethod
    def from_plain(cls, plain: dict[str, Any]) -> RandomState:
        """The snapshot that ``to_plain`` described.

        Raises:
            TypeError, ValueError, RuntimeError: It is not one; better now than when a stream is set to it.
        """
        numpy_state = plain["numpy"]
        state = cls(
            python=python_stream(plain["python"]),
            numpy={
                "bit_generator": numpy_state["bit_generator"],
                "state": {
                    "key": numpy_state["key"].cpu().numpy().astype(np.uint32),
                    "pos": whole("pos", numpy_state["pos"]),
                },
                "has_gauss": whole("has_gauss", numpy_state["has_gauss"]),
                "gauss": number("gauss", numpy_state["gauss"]),
            },
            # Generators take their states from the CPU, wherever the file was mapped to.
            torch_cpu=plain["torch_cpu"].cpu(),
            torch_cuda=tuple(state.cpu() for state in plain["torch_cuda"]),
        )
        if not 0 <= state.numpy["state"]["pos"] <= len(state.numpy["state"]["key"]):
            raise ValueError("pos of NumPy's stream lies outside it")  # NumPy itself would read beyond its memory
        np.random.RandomState().set_state(state.numpy)
        torch.Generator().set_state(state.torch_cpu)
        return state


@contextmanager
def undisturbed_streams() -> Iterator[None]:
    """Whatever draws in the block, every random stream stands afterwards where it stood before."""
    before = RandomState.now()
    try:
        yield
    finally:
        before.restore()


class ForkedStream:
    """A random stream of our own, started from a seed and continued each time it is entered."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._state: RandomState | None = None

    @contextmanager
    def active(self) -> Iterator[None]:
        """Draw from this stream inside the block; the host's streams stand afterwards where they stood before."""
        host = RandomState.now()
        try:
            if self._state is None:
                random.seed(self._seed)
                np.random.seed(self._seed % 2**32)
                torch.default_generator.manual_seed(self._seed)
                if torch.cuda.is_initialized():
                    # Otherwise CUDA would keep our seed for its start, which is the host's.
                    torch.cuda.manual_seed_all(self._seed)
            else:
                self._state.restore()
            yield
            self._state = RandomState.now()
        finally:
            host.restore()

    def state_dict(self) -> dict[str, Any]:
        """Where the stream stands; plain values only."""
        return {"seed": self._seed, "state": None if self._state is None else self._state.to_plain()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where ``state_dict`` was taken."""
        self._seed = whole("seed", state["seed"])
        self._state = None if state["state"] is None else RandomState.from_plain(state["state"])
