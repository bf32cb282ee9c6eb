"""The paper's Figures 3 and 4 from a run: a row a phase, with the source, what was made of it, and the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..evaluation.aggregation import phase_order
from ..evaluation.figures import ComparisonRow, comparison_figure, slice_to_show
from ..evaluation.image_files import read_sigma
from ..evaluation.metrics import TPSNR
from ..evaluation.pairs import FolderPairs, pairs_from_folders
from ..evaluation.scoring import SliceScores
from ..evaluation.similarity import region_psnr
from ..saving.names import CT_AND_MR, DIRECTIONS, source_of, target_of
from ..saving.records import check_files
from ..saving.whole_files import make_folder
from .evaluate import default_region
from .folder import Run
from .train import Report
from .translate import translate

FORMATS = ("png", "pdf")


@dataclass(frozen=True)
class RunFigure:
    """A figure that was drawn.

    Args:
        direction: ``A2B`` or ``B2A``.
        files: The same figure as PNG and as PDF.
        rows: What each row shows, one line a row.
    """

    direction: str
    files: tuple[Path, ...]
    rows: tuple[str, ...]


def draw_run(
    run: str | Path | Run,
    *,
    directions: Sequence[str] = DIRECTIONS,
    patient: str | None = None,
    region: str | None = None,
    split: str = "test",
    sigma: bool = False,
    error: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    report: Report | None = None,
) -> list[RunFigure]:
    """Draw real source, generated image and real target of a run, the region boxed and enlarged.

    Each row shows a phase: of the patient whose tumour PSNR in it is the median, the slice with the largest region.
    Images of the run's last networks are taken where they are there already, and made otherwise.

    Args:
        run: A run, or its folder.
        directions: One figure each: ``A2B`` is boxed in blue, ``B2A`` in red.
        patient: Show this one instead.
        region: The region to box; the innermost one of the data by default.
        split: ``test`` or ``val``; its images must be paired.
        sigma: Add the predicted standard deviation.
        error: Add the absolute difference of generated and real target.
        out: Where ``figure_A2B.png``, ``figure_A2B.pdf``, ... go; ``<run>/<split>`` by default, where older ones are
            replaced.
        force: Replace figures in ``out`` too.
        device: Where images are made: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        report: Called after every image that is made.

    Raises:
        ConfigError: A direction is unknown or comes twice, or this machine has no such device.
        DataError: The run, its data, the patient or the region is missing, ``sigma`` is asked of a run without
            uncertainty heads, or ``out`` holds figures and ``force`` is false.
        CheckpointError: A network is missing or damaged.
    """
    if not directions or not set(directions) <= set(DIRECTIONS) or len(set(directions)) != len(directions):
        raise ConfigError(f"`direction` must be A2B, B2A or both, each once; got {', '.join(directions) or 'none'}")
    opened = run if isinstance(run, Run) else Run.open(run)
    root = opened.data
    if sigma and opened.config.ggd is None:
        raise DataError(f"`--sigma` must go with a run that has uncertainty heads; {str(opened.folder)!r} has none")
    target = opened.folder / split if out is None else Path(out)
    files = {d: tuple(target / f"figure_{d}.{ending}" for ending in FORMATS) for d in directions}
    if out is not None and not force:
        _require_absent([file for of_direction in files.values() for file in of_direction])
    chosen_region = region or default_region(root)
    for direction in directions:  # mistakes come to light before anything is translated
        _require_region(pairs_from_folders(root, split, direction, None, chosen_region), patient, chosen_region)
    make_folder(target)
    images = _images(opened, split, device, report)
    for folder in (*images.values(), *(opened.sigma(split, direction) for direction in directions if sigma)):
        check_files(folder)
    drawn = []
    for direction in directions:
        pairs = pairs_from_folders(root, split, direction, images[direction], chosen_region)
        chosen = _slices_to_show(pairs, patient)
        sigma_dir = opened.sigma(split, direction) if sigma else None
        rows = [_row(pairs, scored, sigma_dir, error) for scored in chosen]
        comparison_figure(rows, *files[direction], inset=True)
        drawn.append(RunFigure(direction, files[direction], tuple(_row_text(scored, patient) for scored in chosen)))
    return drawn


def _require_absent(files: Sequence[Path]) -> None:
    present = next((file for file in files if file.exists()), None)
    if present is not None:
        raise DataError(f"`out` must not hold the figures yet; {str(present)!r} exists; choose another, or use --force")


def _images(run: Run, split: str, device: str, report: Report | None) -> dict[str, Path]:
    """The generated images by direction, those of an earlier translation by the same networks where all are there."""
    found = {direction: run.images(split, direction) for direction in DIRECTIONS}
    saved = run.saved_at()
    current = all(
        images.is_dir()
        and images.stat().st_mtime >= saved
        and _stems(run.data / f"{split}{direction[0]}") <= _stems(images)
        for direction, images in found.items()
    )
    return found if current else translate(run, split, device=device, report=report)


def _stems(folder: Path) -> set[str]:
    return {path.stem for path in folder.iterdir()} if folder.is_dir() else set()


def _require_region(pairs: FolderPairs, patient: str | None, region: str) -> None:
    known = sorted({pair.patient for pair in pairs if pair.mask.any()})
    if not known:
        raise DataError(f"`region` must be in one slice at least to be shown; no mask of {region!r} marks any")
    if patient is not None and patient not in known:
        raise DataError(f"`patient` must be one whose slices show {region!r}: {', '.join(known)}; got {patient!r}")


def _slices_to_show(pairs: FolderPairs, patient: str | None) -> list[SliceScores]:
    """One a phase, in the paper's order; of a given patient, in the phases in which it shows the region."""
    slices = [
        SliceScores(
            name=pair.name,
            patient=pair.patient,
            phase=pair.phase,
            direction=pair.direction,
            region_px=int(pair.mask.sum()),
            scores={TPSNR.key: region_psnr(pair.real, pair.fake, pair.mask)},
            reasons={},
            fid_features=None,
        )
        for pair in pairs
        if pair.mask.any()
    ]
    of_phase: dict[str, list[SliceScores]] = {}
    for scored in slices:
        of_phase.setdefault(scored["phase"], []).append(scored)
    phases = [
        phase for phase, scores in of_phase.items() if patient is None or patient in {s["patient"] for s in scores}
    ]
    return [slice_to_show(of_phase[phase], patient) for phase in sorted(phases, key=phase_order)]


def _row(pairs: FolderPairs, shown: SliceScores, sigma_dir: Path | None, error: bool) -> ComparisonRow:
    pair = pairs[shown["name"]]
    source, target = (CT_AND_MR.name(domain_of(pair.direction)) for domain_of in (source_of, target_of))
    assert pair.source is not None
    panels = {f"real {source}": pair.source, f"generated {target}": pair.fake, f"real {target}": pair.real}
    maps = {}
    if sigma_dir is not None:
        maps["predicted σ"] = read_sigma(sigma_dir, Path(pair.name).stem, pair.real.shape)
    if error:
        maps["|generated − real|"] = np.abs(pair.fake.astype(np.float64) - pair.real)
    return ComparisonRow(f"{pair.phase}, {pair.patient}", pair.direction, panels, pair.mask, maps)


def _row_text(shown: SliceScores, patient: str | None) -> str:
    why = "the median patient" if patient is None else "as asked"
    tpsnr = shown["scores"][TPSNR.key]
    return f"{shown['phase']}: {shown['patient']}, {why}; {shown['name']}, tumour PSNR {tpsnr:.2f} dB"
