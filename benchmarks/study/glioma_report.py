"""What the study on gliomas found, as Markdown and one figure; every number is computed from its lines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from roi_progressive.evaluation.figures import DIRECTION_COLORS, save_figure
from roi_progressive.saving.names import DIRECTIONS, Domains
from roi_progressive.saving.whole_files import write_text

from .gains import Matrix, interval
from .glioma_arms import GLIOMA_ARMS
from .glioma_runs import METRICS
from .tables import markdown

DOMAIN_NAMES = Domains("T1", "FLAIR")
TITLES = tuple(DOMAIN_NAMES.title(direction) for direction in DIRECTIONS)
GAINS = {"tpsnr": ("tumour PSNR, dB", 2), "tssim": ("tumour SSIM", 3), "psnr": ("whole PSNR, dB", 2)}
SEEDS_ASKED = 5
MARKS = {True: "met", False: "**missed**", None: "not known"}

Lines = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Found:
    """The finished runs of one size and one set of patients, by arm and seed.

    Args:
        lines: As ``GliomaRun`` writes them.
    """

    lines: Lines

    def scores(self, arm: str) -> dict[int, Any]:
        """Of every seed, by direction, metric and patient."""
        return {line["seed"]: line["scores"] for line in self.lines if line["arm"] == arm}

    def arms(self) -> list[str]:
        """Those that have run, in the order of ``GLIOMA_ARMS``."""
        return [arm for arm in GLIOMA_ARMS if self.scores(arm)]

    def values(self, arm: str, direction: str, metric: str) -> list[float]:
        """Means over patients, seed by seed; of a reference, the one there is."""
        for line in self.lines:
            if arm in line.get("references", {}):
                return [float(np.mean(list(line["references"][arm][direction][metric].values())))]
        return [float(np.mean(list(of[direction][metric].values()))) for of in self.scores(arm).values()]

    def value(self, arm: str, direction: str, metric: str) -> float:
        """The mean over seeds; NaN where nothing has run."""
        values = self.values(arm, direction, metric)
        return float(np.mean(values)) if values else float("nan")

    def failed(self, arm: str, direction: str) -> float:
        """Share of lesions lost or inverted."""
        return self.value(arm, direction, "lost") + self.value(arm, direction, "inverted")

    def gain(self, arm: str, direction: str, metric: str, other: str = "plain") -> Matrix | None:
        """An arm's gain ``[seeds, patients]`` over another, from the seeds that both have."""
        ours, theirs = self.scores(arm), self.scores(other)
        both = [(ours[s][direction][metric], theirs[s][direction][metric]) for s in sorted(ours.keys() & theirs.keys())]
        if not both:
            return None
        patients = sorted(set.intersection(*(set(of) for pair in both for of in pair)))
        return np.array([[of[p] - base[p] for p in patients] for of, base in both])

    def mean_gain(self, arm: str, direction: str, metric: str = "tpsnr") -> tuple[float, float, float]:
        """Mean and 95 % interval; NaN where nothing can be compared."""
        gain = self.gain(arm, direction, metric)
        return (float("nan"),) * 3 if gain is None else (float(gain.mean()), *interval(gain))


def gain_table(found: Found) -> list[str]:
    """Every arm against plain, or against the plain of its own options, with intervals, and tumour PSNR by seed."""
    rows = []
    for arm in found.arms():
        other = GLIOMA_ARMS[arm].against
        for direction, title in zip(DIRECTIONS, TITLES, strict=True):
            of_metric = {metric: found.gain(arm, direction, metric, other) for metric in GAINS}
            tumour = of_metric["tpsnr"]
            if arm == "plain" or tumour is None:
                continue
            cells = [arm if other == "plain" else f"{arm}, over {other}", title, str(len(tumour))]
            for (_, digits), gain in zip(GAINS.values(), of_metric.values(), strict=True):
                assert gain is not None
                cells.append(with_interval((float(gain.mean()), *interval(gain)), digits))
            rows.append([*cells, ", ".join(f"{mean:+.1f}" for mean in tumour.mean(axis=1))])
    headings = ["arm", "direction", "seeds", *(title for title, _ in GAINS.values()), "tumour PSNR by seed"]
    return markdown(headings, rows, 2) if rows else []


def score_table(found: Found) -> list[str]:
    """The scores themselves, means over seeds and patients."""
    references = [name for line in found.lines for name in line.get("references", {})]
    rows = [
        [arm, title, *(f"{found.value(arm, direction, metric):.2f}" for metric in METRICS)]
        for arm in (*references, *found.arms())
        for direction, title in zip(DIRECTIONS, TITLES, strict=True)
    ]
    return markdown(["arm", "direction", *METRICS], rows, 2) if rows else []


def with_interval(of: tuple[float, float, float], digits: int = 2) -> str:
    """A mean and its interval, as they stand in a table."""
    mean, low, high = of
    return f"{mean:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"


Answer = tuple[str, bool | None]
"""What is reached, in words, and whether it is what was asked for; ``None`` where it is not known."""


def _is(known: float, met: bool) -> bool | None:
    return None if np.isnan(known) else met


def _gained(found: Found, direction: str, least: float, low: float) -> Answer:
    of = found.mean_gain("regions", direction)
    return with_interval(of), _is(of[0], of[0] >= least and of[1] > low)


def _share(found: Found, direction: str, least: float) -> Answer:
    ours, ceiling = (found.mean_gain(arm, direction)[0] for arm in ("regions", "ceiling"))
    share = ours / ceiling
    return f"{share:.2f} ({ours:+.2f} of {ceiling:+.2f})", _is(share, share >= least)


def _placebo(found: Found, direction: str, most: float) -> Answer:
    of, ours = found.mean_gain("placebo", direction), found.mean_gain("regions", direction)[0]
    return with_interval(of), _is(of[0] + ours, of[0] <= most and of[0] < ours / 5)


def _failed(found: Found, direction: str, most: float) -> Answer:
    plain, ours, ceiling = (found.failed(arm, direction) for arm in ("plain", "regions", "ceiling"))
    return f"{plain:.2f} → {ours:.2f} (ceiling {ceiling:.2f})", _is(ours, ours <= most)


def _invented(found: Found, direction: str) -> Answer:
    plain, ours = (found.value(arm, direction, "invented") for arm in ("plain", "regions"))
    return f"{plain:.2f} → {ours:.2f}", _is(ours, ours <= plain)


def _whole(found: Found, direction: str, least: float) -> Answer:
    of = found.mean_gain("regions", direction, "psnr")
    return with_interval(of), _is(of[0], of[0] >= least)


def _texture(found: Found, direction: str) -> Answer:
    ratio = found.value("regions", direction, "texture_ratio")
    return f"{ratio:.2f}", _is(ratio, 0.8 <= ratio <= 1.25)


def _fill(found: Found, direction: str, least: float) -> Answer:
    ours, fill = (found.value(arm, direction, "tpsnr") for arm in ("regions", "constant fill"))
    return f"{ours - fill:+.2f} ({ours:.2f} against {fill:.2f})", _is(ours - fill, ours - fill > least)


def _signs(found: Found, direction: str) -> Answer:
    gain = found.gain("regions", direction, "tpsnr")
    if gain is None:
        return "", None
    higher = int((gain.mean(axis=1) > 0).sum())
    return f"{higher} of {len(gain)}", False if higher < len(gain) else len(gain) >= SEEDS_ASKED or None


Question = tuple[str, Callable[[Found, str], Answer], Callable[[Found, str], Answer]]
ASKED: Sequence[Question] = (
    ("tumour PSNR gained: ≥ +1.4 dB, interval above +0.8; ≥ +5.0 dB, interval above +4",
     lambda f, d: _gained(f, d, 1.4, 0.8), lambda f, d: _gained(f, d, 5.0, 4.0)),
    ("share of the way from plain to the ceiling: ≥ 0.9; ≥ 1.05",
     lambda f, d: _share(f, d, 0.9), lambda f, d: _share(f, d, 1.05)),
    ("placebo's gain: ≤ +0.5 dB; ≤ +0.8 dB, and under a fifth of guidance's",
     lambda f, d: _placebo(f, d, 0.5), lambda f, d: _placebo(f, d, 0.8)),
    ("lesions lost or inverted: ≤ 0.55; ≤ 0.45", lambda f, d: _failed(f, d, 0.55), lambda f, d: _failed(f, d, 0.45)),
    ("lesions invented, per real one: not more than plain's", _invented, _invented),
    ("whole-image PSNR against plain: not below -0.2 dB",
     lambda f, d: _whole(f, d, -0.2), lambda f, d: _whole(f, d, -0.2)),
    ("lesion texture: 0.8 to 1.25", _texture, _texture),
    ("tumour PSNR against constant fill: within 1.5 dB; above it",
     lambda f, d: _fill(f, d, -1.5), lambda f, d: _fill(f, d, 0.0)),
    ("tumour PSNR gained from every seed of five", _signs, _signs),
)  # fmt: skip
"""The figures that the study was to reach, T1 → FLAIR and FLAIR → T1."""


def asked_table(found: Found) -> list[str]:
    """Asked for, reached, met or missed; nothing without plain and regions."""
    if not {"plain", "regions"} <= set(found.arms()):
        return []
    rows = []
    for asked, *questions in ASKED:
        answers = [question(found, direction) for question, direction in zip(questions, DIRECTIONS, strict=True)]
        rows.append([asked, *(f"{text}: {MARKS[met]}" if text else MARKS[met] for text, met in answers)])
    return markdown(["asked for", *TITLES], rows, 3)


def draw_gains(path: Path, found: Found) -> bool:
    """Tumour PSNR gained by each arm, with its interval and every seed; ``False`` where nothing can be compared."""
    from matplotlib.figure import Figure

    arms = [arm for arm in found.arms() if arm != "plain" and found.gain(arm, "A2B", "tpsnr") is not None]
    if not arms:
        return False
    figure = Figure(figsize=(6.4, 0.9 + 0.42 * len(arms)), layout="constrained")
    axis = figure.subplots()
    for shift, direction, title in zip((-0.14, 0.14), DIRECTIONS, TITLES, strict=True):
        for place, arm in enumerate(arms):
            gain, color = found.gain(arm, direction, "tpsnr"), DIRECTION_COLORS[direction]
            assert gain is not None
            low, high = interval(gain)
            axis.plot([low, high], [place + shift] * 2, color=color, linewidth=2)
            axis.plot(gain.mean(axis=1), [place + shift] * len(gain), "|", color=color, alpha=0.7)
            axis.plot(gain.mean(), place + shift, "o", color=color, label=title if place == 0 else None)
    axis.axvline(0, color="0.4", linewidth=0.9)
    axis.set_yticks(range(len(arms)), arms, fontsize=8)
    axis.invert_yaxis()
    axis.set_xlabel("tumour PSNR gained over plain, dB", fontsize=9)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    save_figure(figure, path)
    return True


def write_glioma_report(out: Path, lines: Lines) -> None:
    """Write ``report.md`` and ``gains.png`` of all runs on the patients to test on, and tables of those to tune on and
    of fewer patients."""
    text = ["# Gliomas, T1 and FLAIR", "", f"{sum('scores' in line for line in lines)} runs."]
    sets = {
        "Test patients": [line for line in lines if not line["tuning"] and not line["patients_a_domain"]],
        "Patients to tune on": [line for line in lines if line["tuning"] and not line["patients_a_domain"]],
    }
    for count in sorted({line["patients_a_domain"] for line in lines} - {0}):
        sets[f"Test patients, {count} a domain to train on"] = [
            line for line in lines if line["patients_a_domain"] == count and not line["tuning"]
        ]
    for title, chosen in sets.items():
        if chosen:
            found = Found(chosen)
            tables = {
                "Asked for and reached": asked_table(found),
                "Gains": gain_table(found),
                "Scores": score_table(found),
            }
            text += ["", f"## {title}", "", *_joined((f"### {head}", of) for head, of in tables.items() if of)]
    if draw_gains(out / "gains.png", Found(sets["Test patients"])):
        text += ["", "![Tumour PSNR gained](gains.png)"]
    write_text(out / "report.md", "\n".join(text).rstrip() + "\n")


def _joined(parts: Iterable[tuple[str, list[str]]]) -> list[str]:
    return [line for head, table in parts for line in (head, "", *table, "")]
