"""Fixtures for the tests of people's own parts, found by pytest through the entry-point group ``pytest11``.

pytest imports this in every project of an environment that has roi-progressive, so it loads nothing until a fixture is
asked for.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .config import Config
    from .testing import ToyHost


@pytest.fixture
def roi_toy_host(tmp_path: Path) -> ToyHost:
    """A ``ToyHost`` that saves under the test's own folder."""
    from .testing import ToyHost

    return ToyHost(tmp_path / "toy_host")


@pytest.fixture
def roi_phantom_batch() -> dict[str, Any]:
    """``phantom_batch()``: two CT and two MR slices of 32 px with their masks."""
    from .testing import phantom_batch

    return phantom_batch()


@pytest.fixture
def roi_config() -> Config:
    """``phantom_config()``: the tumour from the first step on, its masks read from the batch."""
    from .testing import phantom_config

    return phantom_config()
