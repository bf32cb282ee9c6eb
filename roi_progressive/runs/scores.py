"""Scores on disk: the table as Markdown, CSV and LaTeX, every value of slices and patients as CSV, and all of it as
JSON that can be read again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from ..evaluation.aggregation import Results
from ..evaluation.calibration import reliability
from ..evaluation.figures import reliability_figure
from ..evaluation.metrics import LESION_COUNTS
from ..evaluation.scoring import LABELS, SliceScores
from ..evaluation.table import render_csv, render_latex, render_markdown
from ..evaluation.value_lists import patients_csv, slices_csv
from ..saving.names import CT_AND_MR, DOMAINS, Domains
from ..saving.records import NUMBER, entry, fault_of, of_kind, read_json, write_json
from ..saving.whole_files import write_text
from ..saving.written import recorded, remove_written

IDENTICAL = "identical pixels"
RELIABILITY_FILES = ("reliability.png", "reliability.pdf")
FILES = ("table.md", "table.csv", "table.tex", "slices.csv", "patients.csv", "metrics.json")


@dataclass(frozen=True)
class VolumeScores:
    """Scores of generated volumes and of what they are compared with.

    Args:
        results: The rows of the table by arm; the evaluated arm comes first. Empty where there are no volumes.
        volumes: One entry for each volume and direction, by arm, of the arms that were scored here.
        notes: The heading's lines: what the volumes are, their units and ranges; or why there are none.
        domains: What the domains are called.
    """

    results: Mapping[str, Results]
    volumes: Mapping[str, Sequence[SliceScores]]
    notes: tuple[str, ...]
    domains: Domains = CT_AND_MR


@dataclass(frozen=True)
class RunScores:
    """Scores of generated images and of what they are compared with.

    Args:
        results: The rows of the table by arm; the evaluated arm comes first.
        slices: One entry for each slice and direction, by arm, of the arms that were scored here.
        images: The folder of generated images by direction.
        region: The region of interest; ``None`` where whole images alone were scored.
        notes: Remarks that stand below the table.
        domains: What the domains are called.
        volumes: The scores of whole volumes, where they were asked for.
    """

    results: Mapping[str, Results]
    slices: Mapping[str, Sequence[SliceScores]]
    images: Mapping[str, Path]
    region: str | None
    notes: tuple[str, ...] = ()
    domains: Domains = CT_AND_MR
    volumes: VolumeScores | None = None


def write_scores(folder: str | Path, scores: RunScores) -> tuple[Path, ...]:
    """Write ``table.md``, ``table.csv``, ``table.tex``, ``slices.csv``, ``patients.csv`` and ``metrics.json``; older
    ones are replaced.

    ``metrics.json`` holds ``region``; ``notes``; ``rows``, as in the table, each with ``arm, direction, phase``, its
    values and counts, ``intervals`` and ``reasons``; ``slices``, those of the first arm; and ``reference_slices`` by
    arm. Domains that are not CT and MR are named by ``domains``. Where sigma was scored it holds ``reliability`` too:
    by direction, and ``image`` or the region, the points of
    :func:`~roi_progressive.evaluation.calibration.reliability`; they are drawn as ``reliability.png`` and ``.pdf``.

    Returns:
        The files.

    Raises:
        DataError: A file cannot be written.
    """
    place = Path(folder)
    files = tuple(place / name for name in FILES)
    pictures = tuple(place / name for name in RELIABILITY_FILES)
    first = next(iter(scores.slices))
    curves = _reliability(scores.slices[first], scores.region)
    with recorded(place, *files, *(pictures if curves else ())):
        _write_tables(files, scores, curves)
        if curves:
            reliability_figure(curves, *pictures, domains=scores.domains)
    if curves:
        return files + pictures
    remove_written(place, RELIABILITY_FILES)  # an earlier evaluation's
    return files


def _write_tables(files: Sequence[Path], scores: RunScores, curves: Mapping[str, Any]) -> None:
    texts = (
        render_markdown(scores.results, scores.region, scores.notes, scores.domains),
        render_csv(scores.results, scores.region),
        render_latex(scores.results, scores.region, scores.notes, scores.domains),
        slices_csv(scores.slices),
        patients_csv(scores.slices),
    )
    for file, text in zip(files, texts, strict=False):
        write_text(file, text)
    first, *others = scores.slices
    content: dict[str, Any] = {
        "region": scores.region,
        "notes": list(scores.notes),
        "rows": plain_rows(scores.results),
        "slices": plain_scores(scores.slices[first]),
        "reference_slices": {arm: plain_scores(scores.slices[arm]) for arm in others},
    }
    if scores.domains != CT_AND_MR:
        content["domains"] = {domain: scores.domains.name(domain) for domain in DOMAINS}
    write_json(files[-1], content | ({"reliability": curves} if curves else {}))


def _reliability(slices: Sequence[SliceScores], region: str | None) -> dict[str, dict[str, list[dict[str, float]]]]:
    """The reliability diagram's points by direction, and over the image or the region; empty without a sigma."""
    known: dict[str, list[npt.NDArray[np.float64]]] = {}
    for scored in slices:
        if "calibration" in scored:
            known.setdefault(scored["direction"], []).append(scored["calibration"])
    return {
        direction: {
            name: reliability(bins)
            for name, bins in zip(("image", region), np.sum(of, axis=0), strict=True)
            if name is not None
        }
        for direction, of in known.items()
    }


def plain_rows(results: Mapping[str, Results]) -> list[dict[str, Any]]:
    """Rows as JSON wants them, each with its arm, direction and phase."""
    return [
        {"arm": arm, "direction": direction, "phase": phase, **cell}
        for arm, directions in results.items()
        for direction, phases in directions.items()
        for phase, cell in phases.items()
    ]


def plain_scores(slices: Sequence[SliceScores]) -> list[dict[str, Any]]:
    """Slices as JSON wants them: no feature vectors, infinite values as ``null`` with a reason."""
    return [_plain(scored) for scored in slices]


def read_slices(path: str | Path) -> list[SliceScores]:
    """The ``slices`` that :func:`write_scores` wrote, without the features behind FID and KID.

    Args:
        path: A ``metrics.json``, its folder, or a run whose test slices were evaluated.

    Raises:
        DataError: There is none, it is damaged, or it is another file.
    """
    places = (Path(path), Path(path) / "metrics.json", Path(path) / "test" / "metrics.json")
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise DataError(
            f"`compare` must be a folder or metrics.json that `roi-progressive evaluate` wrote; {str(path)!r} has "
            f"none; evaluate the other one first"
        )
    try:
        return slices_of(entry(read_json(file), "slices", list))
    except (OSError, ValueError) as error:
        raise DataError(
            f"`compare` must be a folder or metrics.json that `roi-progressive evaluate` wrote; {str(file)!r} cannot "
            f"be used: {fault_of(error)}; evaluate the other one again"
        ) from error


def slices_of(found: Sequence[Any]) -> list[SliceScores]:
    """What :func:`plain_scores` made plain.

    Raises:
        EntryError: It is something else.
    """
    return [_scored(one) for one in found]


def _plain(scored: SliceScores) -> dict[str, Any]:
    given = scored["scores"]
    scores = {name: value if value is None or math.isfinite(value) else None for name, value in given.items()}
    reasons = dict(scored["reasons"])
    reasons.update({name: IDENTICAL for name, v in given.items() if v is not None and not math.isfinite(v)})
    labels = {key: scored[key] for key in (*LABELS, *LESION_COUNTS) if key in scored}  # type: ignore[literal-required]
    return {**labels, **scores, "reasons": reasons}


def _scored(found: Any) -> SliceScores:
    reasons = {name: str(reason) for name, reason in entry(found, "reasons", dict).items()}
    given = {name: value for name, value in found.items() if name not in (*LABELS, *LESION_COUNTS, "reasons")}
    scores = {
        name: math.inf if reasons.get(name) == IDENTICAL else None if value is None else float(value)
        for name, value in given.items()
        if of_kind(value, f"`{name}`", *NUMBER, type(None)) is value
    }
    counts = {key: entry(found, key, int) for key in LESION_COUNTS if key in found}
    return {
        **counts,  # type: ignore[typeddict-item]
        "name": entry(found, "name", str),
        "patient": entry(found, "patient", str),
        "phase": entry(found, "phase", str),
        "direction": entry(found, "direction", str),
        "region_px": entry(found, "region_px", int),
        "scores": scores,
        "reasons": {name: reason for name, reason in reasons.items() if reason != IDENTICAL},
        "fid_features": None,
    }
