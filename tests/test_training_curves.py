"""The curves of a run: a panel a term with both directions, in units, with what joins when and the best epoch."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from roi_progressive.evaluation import training_curves as module
from roi_progressive.evaluation.training_curves import training_curves
from roi_progressive.saving.names import Domains

STAGES = {1: "", 2: "+ tumor"}


def epoch(number: int, stage: int, **losses: float | None) -> dict[str, Any]:
    host = {"D_A": 0.3, "G_A": 0.2, "cycle_A": 3.0, "idt_A": 0.0, "D_B": 0.3, "G_B": 0.25, "cycle_B": 2.0, "idt_B": 0.0}
    return {"epoch": number, "stage": stage, "losses": {**host, **losses}}


EPOCHS = [
    epoch(1, 1),
    epoch(2, 1, cycle_A=None),
    epoch(3, 2, G_tumor_A2B=0.5, D_tumor_A2B=0.4, ggd_B2A=-1.0),
    epoch(4, 2, G_tumor_A2B=0.6, D_tumor_A2B=0.3, ggd_B2A=-2.0),
]
VALIDATIONS = [
    {
        "epoch": n,
        "metric": "tpsnr",
        "value": 1.0,
        "scores": {d: {"tpsnr": 10.0 + n, "psnr": 20.0} for d in ("A2B", "B2A")},
    }
    for n in (2, 4)
]


@pytest.fixture
def axes(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Draws, and gives the axes by their titles."""

    def drawn(*args: Any, **kwargs: Any) -> dict[str, Any]:
        figures: list[Any] = []
        with monkeypatch.context() as patch:
            patch.setattr(module, "save_figure", lambda figure, *paths: figures.append(figure))
            training_curves(*args, Path("unused.png"), **{"stages": STAGES, **kwargs})
        figures[0].canvas.draw()
        return {axis.get_title(): axis for axis in figures[0].axes if axis.get_visible()}

    return drawn


def test_a_term_has_one_panel_with_both_directions(axes: Any) -> None:
    drawn = axes(EPOCHS, VALIDATIONS)
    assert list(drawn) == [
        *("validation: TPSNR ↑", "validation: PSNR ↑", "whole image, generator", "whole image, discriminator"),
        *("cycle: L1 times its weight", "tumor, generator", "tumor, discriminator"),
        "uncertainty: negative log-likelihood",
    ]
    generator = drawn["whole image, generator"].get_lines()
    assert [line.get_label() for line in generator[:2]] == ["CT → MR", "MR → CT"]
    assert [list(line.get_ydata()) for line in generator[:2]] == [[0.2] * 4, [0.25] * 4]
    assert list(drawn["tumor, generator"].get_lines()[0].get_xdata()) == [3, 4]


def test_units_scales_and_gaps(axes: Any) -> None:
    drawn = axes(EPOCHS, VALIDATIONS)
    cycle = drawn["cycle: L1 times its weight"]
    assert cycle.get_yscale() == "log" and drawn["whole image, generator"].get_yscale() == "linear"
    assert math.isnan(cycle.get_lines()[0].get_ydata()[1])
    assert not any(
        "10^" in label.get_text() for label in [*cycle.get_yticklabels(), *cycle.get_yticklabels(minor=True)]
    )
    assert drawn["validation: TPSNR ↑"].get_ylabel() == "dB" and cycle.get_ylabel() == "loss"
    assert all(axis.get_xlabel() == "epoch" for axis in drawn.values())


def test_what_joins_and_the_best_epoch_are_marked(axes: Any) -> None:
    drawn = axes(EPOCHS, VALIDATIONS, best=2, domains=Domains("T1", "FLAIR"))
    for axis in drawn.values():
        assert [(text.get_text(), text.xy[0]) for text in axis.texts] == [("+ tumor", 3)]
        assert any(list(line.get_xdata()) == [3, 3] for line in axis.get_lines())
    marked = [line for line in drawn["validation: TPSNR ↑"].get_lines() if line.get_label() == "best epoch, 2"]
    assert [list(line.get_xdata()) for line in marked] == [[2, 2]]
    assert drawn["whole image, generator"].get_lines()[0].get_label() == "T1 → FLAIR"


def test_without_validations_there_are_losses_alone(axes: Any) -> None:
    assert not any(title.startswith("validation") for title in axes(EPOCHS, []))


def test_the_picture_is_written(tmp_path: Path) -> None:
    training_curves(EPOCHS, VALIDATIONS, tmp_path / "curves.png", stages=STAGES, best=4)
    with Image.open(tmp_path / "curves.png") as image:
        assert abs(image.size[0] - 2400) < 10  # a layout engine rounds
