"""``examples/segmenter_metrics.py``: Dice and HD95 of a threshold, checked by hand, in the table of volumes."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from roi_progressive.evaluation.scoring import score_volumes
from roi_progressive.evaluation.volume_pairs import VolumePair
from roi_progressive.plugins.manager import Plugins
from roi_progressive.runs.volume_scores import columns_of

EXAMPLE = Path(__file__).resolve().parents[1] / "examples" / "segmenter_metrics.py"


@pytest.fixture(scope="module")
def example() -> ModuleType:
    pytest.importorskip("monai", reason="MONAI is not installed")
    spec = importlib.util.spec_from_file_location("segmenter_metrics", EXAMPLE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_block_that_was_moved_has_the_dice_and_distance_of_geometry(example: ModuleType) -> None:
    """Two blocks of 8 rows, one row apart: they share 7 of 8, and no surface is farther than a row's 2 mm."""
    real = np.full((6, 20, 20), -1000.0)
    real[1:5, 4:12, 4:12] = 300.0
    fake = np.roll(real, 1, axis=1)
    metrics = example.SegmenterMetrics(lambda volume, spacing_mm: volume > 100, {1: "bone", 2: "nothing"})
    pair = VolumePair("p", "p", "all", "B2A", real, fake, real > -500, -1024, 3071, "HU", spacing_mm=(3.0, 2.0, 1.0))
    [scored] = score_volumes([pair], columns_of(Plugins([metrics])))
    assert scored["scores"]["Dice bone"] == pytest.approx(7 / 8)
    assert scored["scores"]["HD95 bone"] == pytest.approx(2.0)
    assert "Dice nothing" not in scored["scores"]


def test_a_structure_that_vanished_has_no_distance(example: ModuleType) -> None:
    real: Any = np.zeros((4, 8, 8))
    real[1:3, 2:5, 2:5] = 1.0
    metrics = example.SegmenterMetrics(lambda volume, spacing_mm: volume > 0.5, {1: "lesion"})
    columns = metrics.roi_volume_metrics(real, np.zeros_like(real), {}, None)
    assert columns == {"Dice lesion": 0.0}
