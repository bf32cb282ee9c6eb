"""Whether a program is being made of what runs (``torch.jit.trace``), which sees plain operations alone."""

from __future__ import annotations

import torch


def is_tracing() -> bool:
    """True within ``torch.jit.trace``: what depends on the example's sizes or values would be fixed in the program."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined, no-untyped-call]
