"""What was asked of the study, and what it shows: every line computed from the runs, met or not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from roi_progressive.evaluation.metrics import INVERTED, LOST, PSNR, TEXTURE, TPSNR, TSSIM
from roi_progressive.saving.names import CT_AND_MR, DIRECTIONS

from .gains import Lines, Slices, gains, interval, seeds_of, values_by_seed
from .tables import COLUMNS, markdown


@dataclass(frozen=True)
class Seen:
    """The runs, asked one direction at a time."""

    lines: Lines
    slices: Slices
    direction: str

    def gain(self, arm: str, metric: str) -> tuple[float, float, float]:
        """Mean and interval of an arm's gain over plain."""
        gain = gains(self.slices, arm, "plain", self.direction, metric)
        return (float("nan"),) * 3 if gain is None else (float(gain.mean()), *interval(gain))

    def value(self, name: str, metric: str) -> float:
        """A score, the mean over seeds."""
        return float(np.mean(values_by_seed(self.lines, name, self.direction, metric)))

    def failed(self, name: str) -> float:
        """Share of lesions lost or inverted."""
        return self.value(name, LOST.key) + self.value(name, INVERTED.key)

    def seeds_differ(self, arm: str) -> list[str]:
        """The columns of which the seeds give different signs."""
        found = {metric: gains(self.slices, arm, "plain", self.direction, metric) for metric in COLUMNS}
        return [COLUMNS[key][0] for key, of in found.items() if of is None or len(set(of.mean(axis=1) > 0)) > 1]


def _gain(seen: Seen) -> tuple[str, bool]:
    mean, low, _ = seen.gain("regions", TPSNR.key)
    return f"{mean:+.2f}, from {low:+.2f}", mean >= 6 and low > 4


def _similarity(seen: Seen) -> tuple[str, bool]:
    mean, low, _ = seen.gain("regions", TSSIM.key)
    return f"{mean:+.3f}, from {low:+.3f}", low > 0


def _texture(seen: Seen) -> tuple[str, bool]:
    ratio = seen.value("regions", TEXTURE.key)
    return f"{ratio:.2f}", 0.5 <= ratio <= 2


def _lesions(seen: Seen) -> tuple[str, bool]:
    ours, plain = seen.failed("regions"), seen.failed("plain")
    return f"{ours:.2f} of plain's {plain:.2f}", ours <= plain / 4


def _whole(seen: Seen) -> tuple[str, bool]:
    mean, low, _ = seen.gain("regions", PSNR.key)
    return f"{mean:+.2f}, from {low:+.2f}", mean >= 0


def _placebo(seen: Seen) -> tuple[str, bool]:
    mean, _, high = seen.gain("placebo", TPSNR.key)
    return f"{mean:+.2f}, to {high:+.2f}", mean <= 1


def _fill(seen: Seen) -> tuple[str, bool]:
    ours, fill = seen.value("regions", TPSNR.key), seen.value("constant_fill", TPSNR.key)
    return f"{ours:.2f} against {fill:.2f}", ours > fill


def _signs(seen: Seen) -> tuple[str, bool]:
    if len(seeds_of(seen.slices, "regions", "plain")) < 2:
        return "one seed alone", False
    differ = seen.seeds_differ("regions")
    return f"differ in {', '.join(differ)}" if differ else "all alike", not differ


def _fair(seen: Seen) -> tuple[str, bool]:
    plain, *others = (seen.value(name, PSNR.key) for name in ("plain", "copy_source", "mean_image"))
    return f"{plain:.2f} against {others[0]:.2f} and {others[1]:.2f}", plain > max(others)


def _stable(seen: Seen) -> tuple[str, bool]:
    values = values_by_seed(seen.lines, "plain", seen.direction, PSNR.key)
    spread = max(values) - min(values)
    return f"{spread:.2f} dB over {len(values)} seeds", len(values) > 1 and spread <= 1


def _above_placebo(seen: Seen) -> tuple[str, bool]:
    mean, low, high = seen.gain("regions", TPSNR.key)
    placebo = seen.gain("placebo", TPSNR.key)[0]
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}], placebo {placebo:+.2f}", low > 0 and mean > placebo


def _share(seen: Seen) -> tuple[str, None]:
    ours, ceiling = seen.gain("regions", TPSNR.key)[0], seen.gain("ceiling", TPSNR.key)[0]
    return f"{ours:+.2f} of {ceiling:+.2f}", None


Question = Callable[[Seen], tuple[str, bool | None]]
"""What is seen, in words, and whether it is what was asked for; ``None`` where no mark was set."""
MARKS = {True: ": met", False: ": **not met**", None: ""}
PHANTOM_QUESTIONS: dict[str, Question] = {
    "tumour PSNR gained: at least +6 dB, the interval above +4": _gain,
    "tumour SSIM higher, the interval above 0": _similarity,
    "lesion texture within a factor of 2 of the real one": _texture,
    "lesions lost or inverted: at most a quarter of plain's": _lesions,
    "whole-image PSNR not worse": _whole,
    "placebo's tumour PSNR gain: at most +1 dB": _placebo,
    "every sign the same from every seed": _signs,
    "aim: tumour PSNR above constant fill": _fill,
}
SCAN_QUESTIONS: dict[str, Question] = {
    "plain's whole-image PSNR above copy-source and mean image": _fair,
    "plain stable: whole-image PSNR within 1 dB over seeds": _stable,
    "aim: tumour PSNR gained, the interval above 0 and the placebo below": _above_placebo,
    "tumour PSNR gained, of the way from plain to the ceiling": _share,
    "placebo's tumour PSNR gain: at most +1 dB": _placebo,
    "every sign the same from every seed": _signs,
}


def check_table(lines: Lines, slices: Slices, questions: dict[str, Question], needed: Sequence[str]) -> list[str]:
    """What was asked and what is seen, in each direction; nothing until the arms it needs have run."""
    if not set(needed) <= {name for name, _ in slices}:
        return []
    rows = []
    for asked, question in questions.items():
        answers = [question(Seen(lines, slices, direction)) for direction in DIRECTIONS]
        rows.append([asked, *(text + MARKS[met] for text, met in answers)])
    return markdown(["asked", *(CT_AND_MR.title(direction) for direction in DIRECTIONS)], rows, 3)
