"""From a trained run to its scores, the trivial references beside it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DataError
from .evaluation.metrics import SliceScores, score
from .evaluation.networks import load_inception, load_lpips
from .evaluation.pairs import (
    DIRECTIONS,
    FolderPairs,
    ImagePair,
    constant_fill,
    copy_source,
    mean_image,
    pairs_from_folders,
)
from .evaluation.table import Results, aggregate
from .run import Report, read_run
from .translate import translate

REFERENCES = ("constant_fill", "copy_source", "mean_image")


@dataclass(frozen=True)
class RunScores:
    """Scores of a run and of the references on the same slices.

    Args:
        results: Aggregated, by arm: ``model`` and the references asked for.
        slices: Of every arm, one entry a slice and direction.
        images: The folder of generated images by direction.
    """

    results: Mapping[str, Results]
    slices: Mapping[str, Sequence[SliceScores]]
    images: Mapping[str, Path]


def evaluate_run(
    run: str | Path,
    *,
    region: str | None = None,
    split: str = "test",
    references: Sequence[str] = REFERENCES,
    weights_dir: str | Path | None = None,
    report: Report | None = None,
) -> RunScores:
    """Translate a split with a run's last networks and score it against the truth.

    Args:
        run: A run's folder.
        region: The region of interest; the innermost one of the data by default.
        split: ``test`` or ``val``; its images must be paired.
        references: Which references to score too.
        weights_dir: Where weights of LPIPS and FID lie, if not in the usual caches.
        report: Told of every translated image.

    Raises:
        DataError: The run, its data or the region is missing.
        CheckpointError: A network is missing or damaged.
    """
    root, _, _ = read_run(Path(run))
    region = region or default_region(root)
    lpips, inception = load_lpips(weights_dir), load_inception(weights_dir)
    images = translate(run, split, report=report)
    pairs = {d: pairs_from_folders(root, split, d, images[d], region) for d in DIRECTIONS}
    shown: dict[str, list[Iterable[ImagePair]]] = {"model": list(pairs.values())}
    for name in references:
        shown[name] = [_reference(name, of_direction, root, region) for of_direction in pairs.values()]
    slices = {arm: [one for p in chosen for one in score(p, lpips, inception)] for arm, chosen in shown.items()}
    return RunScores({arm: aggregate(scored) for arm, scored in slices.items()}, slices, images)


def default_region(root: Path) -> str:
    """``tumor`` where the data have it, otherwise the last region their manifest names.

    Raises:
        DataError: The data have no region.
    """
    try:
        regions = json.loads((root / "manifest.json").read_text(encoding="utf-8"))["regions"]
    except (OSError, ValueError, KeyError):
        regions = sorted(path.name.removeprefix("testA_") for path in root.glob("testA_*"))
    if not regions:
        raise DataError(f"`data` must have a region to evaluate; {str(root)!r} has no mask folder such as testA_tumor")
    return "tumor" if "tumor" in regions else str(regions[-1])


def plain_scores(slices: Sequence[SliceScores]) -> list[dict[str, Any]]:
    """Slices as JSON wants them: no feature vectors, infinite values as ``null`` with a reason."""
    return [_plain(one) for one in slices]


def _plain(one: SliceScores) -> dict[str, Any]:
    scores = {name: value if value is None or math.isfinite(value) else None for name, value in one["scores"].items()}
    reasons = dict(one["reasons"])
    reasons.update({n: "identical pixels" for n, v in one["scores"].items() if v is not None and not math.isfinite(v)})
    labels = {key: one[key] for key in ("name", "patient", "phase", "direction", "region_px")}
    return {**labels, **scores, "reasons": reasons}


def _reference(name: str, pairs: FolderPairs, root: Path, region: str) -> Iterable[ImagePair]:
    if name == "copy_source":
        return copy_source(pairs)
    return mean_image(pairs, root) if name == "mean_image" else constant_fill(pairs, root, region)
