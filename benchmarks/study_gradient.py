"""What the region terms do to the gradient: how large it is beside the host's in the tumour, and whether they agree.

    python benchmarks/study_gradient.py [--scans CSV] [--arm NAME] [--rounds SEEDS] [--json FILE] [--quick]

An arm of the study (the preset, on the phantom; the tumour alone, on scans) is trained as there, a seed a round. In
every step and direction two gradients meet on the generated image: the host's and ours. Noted is their ratio over the
pixels that ours reaches, and the cosine between them: at 1 both want the same change, at -1 the opposite.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from measure import Spread, parsed, parser, table, write
from run_study import make_data, options_of, settings_of
from study.arms import Arm
from study.scan_arms import arms_of
from torch import Tensor

from roi_progressive.runs.train import train
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS
from roi_progressive.training.passes import Pass
from roi_progressive.training.tap import Injection

PARTS = ("first", "second", "last")
"""Thirds of the steps in which the region terms are there."""


@dataclass
class Meetings:
    """Ratio and cosine of the two gradients on the generated images, by direction, step by step."""

    ratios: dict[str, list[float]] = field(default_factory=dict)
    cosines: dict[str, list[float]] = field(default_factory=dict)

    def note(self, direction: str, ours: Tensor, host: Tensor) -> None:
        """Take down one meeting; nothing where ours is zero."""
        inside = ours != 0
        own, other = ours[inside].double(), host[inside].double()
        if own.numel() and other.norm() > 0:
            self.ratios.setdefault(direction, []).append(float(own.norm() / other.norm()))
            self.cosines.setdefault(direction, []).append(float(own @ other / own.norm() / other.norm()))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """While this is open, the sessions' gradients are looked at on their way."""
        meetings = self

        class Noted(Injection):
            def arrives(self, passing: Pass, host_gradient: Tensor | None) -> Tensor | None:
                if host_gradient is not None and self.name.startswith("the generated image"):
                    meetings.note(self.name[-3:], self.gradient, host_gradient)
                return super().arrives(passing, host_gradient)

        with mock.patch("roi_progressive.training.guidance.Injection", Noted):
            yield


def thirds(values: list[float]) -> list[float]:
    """The medians of the first, the second and the last third."""
    size = len(values)
    return [statistics.median(values[size * k // 3 : max(size * (k + 1) // 3, size * k // 3 + 1)]) for k in range(3)]


def meetings_of(arm: Arm, settings: Mapping[str, Any], data: Path, seed: int) -> Meetings:
    """Train an arm from a seed on the study's data."""
    meetings = Meetings()
    with meetings.noted(), arm.context():
        config = None if arm.config is None else replace(arm.config, seed=seed)
        options = options_of(arm, settings, seed)
        train(data / arm.data, data / f"run-{seed}", options, config, plugins=arm.plugins(seed))
    return meetings


def main() -> None:
    """Print the table."""
    arguments = parser(__doc__, rounds=1)
    arguments.add_argument("--scans", type=Path, metavar="CSV", help="a list of scans, in place of the phantom")
    arguments.add_argument("--arm", default="regions", metavar="NAME", help="an arm with regions (regions)")
    chosen = parsed(arguments)
    if chosen.threads is None:
        torch.set_num_threads(1)
    settings = settings_of(chosen.scans, chosen.quick)
    guided = {name: arm for name, arm in arms_of(settings).items() if arm.config is not None}
    if chosen.arm not in guided:
        arguments.error(f"--arm must be any of {', '.join(guided)}; got {chosen.arm}")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "study"
        make_data(data, settings, chosen.scans)
        seeds = range(1, chosen.rounds + 1)
        found = [meetings_of(guided[chosen.arm], settings, data, seed) for seed in seeds]
    rows, figures = [], dict[str, Any]()
    for direction in DIRECTIONS:
        ratios = [thirds(one.ratios[direction]) for one in found]
        cosines = [thirds(one.cosines[direction]) for one in found]
        for place, part in enumerate(PARTS):
            ratio, cosine = (Spread.of([of[place] for of in every]) for every in (ratios, cosines))
            rows.append([CT_AND_MR.title(direction), part, ratio.text(), cosine.text()])
            figures[f"{direction} {part}"] = {"ratio": ratio, "cosine": cosine}
    print(table(["direction", "third of the steps", "ours / host's", "cosine"], rows))
    write(figures, chosen.json)


if __name__ == "__main__":
    main()
