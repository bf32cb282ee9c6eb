"""The paper's Figures 3 and 4 from a run: a row a phase, with the source, what was made of it, and the truth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import ConfigError, DataError
from ..evaluation.aggregation import phase_order
from ..evaluation.conformal import with_sigma
from ..evaluation.figures import ComparisonRow, comparison_figure, slice_to_show
from ..evaluation.metrics import TPSNR
from ..evaluation.pairs import FolderPairs, ImagePair, pairs_from_folders, read_domains
from ..evaluation.region_names import default_region
from ..evaluation.scoring import SliceScores
from ..evaluation.similarity import region_psnr
from ..saving.locks import only_writer
from ..saving.names import DIRECTIONS, ONE_PHASE, Domains, source_of, target_of
from ..saving.whole_files import make_folder
from ..saving.written import check_files, check_foreign, made_by, recorded, written_names
from .calibrate import SigmaCalibration, read_calibration
from .folder import Run
from .steps import Steps
from .train import Report
from .translate import origin_of, translate

FORMATS = ("png", "pdf")
SLICES_A_FIGURE_TAKES = 20
"""How many slices are read while a figure is drawn, about; for the progress."""


@dataclass(frozen=True)
class RunFigure:
    """A figure that was drawn.

    Args:
        direction: ``A2B`` or ``B2A``.
        files: The same figure as PNG and as PDF.
        rows: What each row shows, one line a row.
        title: The direction by the names of its domains.
    """

    direction: str
    files: tuple[Path, ...]
    rows: tuple[str, ...]
    title: str


def draw_run(
    run: str | Path | Run,
    *,
    epoch: int | str | None = None,
    directions: Sequence[str] = DIRECTIONS,
    patient: str | None = None,
    region: str | None = None,
    split: str = "test",
    sigma: bool = False,
    error: bool = False,
    out: str | Path | None = None,
    force: bool = False,
    device: str = "auto",
    data: str | Path | None = None,
    report: Report | None = None,
) -> list[RunFigure]:
    """Draw real source, generated image and real target of a run, the region boxed and enlarged.

    Each row shows a phase: of the patient whose tumour PSNR in it is the median, the slice with the largest region.
    Images of the run's networks are taken where they are there already, and made otherwise.

    Args:
        run: A run, or its folder.
        epoch: Whose networks: ``best``, ``last`` or a number; those of an opened run, or the last saved ones, by
            default.
        directions: One figure each: ``A2B`` is boxed in blue, ``B2A`` in red.
        patient: Show this one instead.
        region: The region to box; the innermost one of the data by default.
        split: ``test`` or ``val``; its images must be paired.
        sigma: Add the predicted standard deviation.
        error: Add the absolute difference of generated and real target. Both are in HU where the target's map from grey
            levels to HU is known, in grey levels elsewhere.
        out: Where ``figure_A2B.png``, ``figure_A2B.pdf``, ... go; ``<run>/<split>`` by default, where older ones are
            replaced.
        force: Replace figures in ``out`` too.
        device: Where images are made: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        data: Where the data set of a run lies now that is given by its folder; where it lay, by default.
        report: Called with steps done, steps in all and what is being done.

    Raises:
        ConfigError: A direction is unknown or comes twice, or this machine has no such device.
        DataError: The run, its data, the patient or the region is missing, ``sigma`` is asked of a run without
            uncertainty heads, or ``out`` holds figures and ``force`` is false.
        CheckpointError: A network is missing or damaged.
    """
    if not directions or not set(directions) <= set(DIRECTIONS) or len(set(directions)) != len(directions):
        raise ConfigError(f"`direction` must be A2B, B2A or both, each once; got {', '.join(directions) or 'none'}")
    opened = run.at_epoch(epoch) if isinstance(run, Run) else Run.open(run, epoch=epoch, data=data)
    root = opened.data
    if sigma and opened.config.ggd is None:
        raise DataError(f"`--sigma` must go with a run that has uncertainty heads; {str(opened.folder)!r} has none")
    target = opened.folder / split if out is None else Path(out)
    files = {d: tuple(target / f"figure_{d}.{ending}" for ending in FORMATS) for d in directions}
    if out is not None and not force:
        _require_absent([file for of_direction in files.values() for file in of_direction])
    chosen_region = region or default_region(root)
    if chosen_region is None:
        raise DataError(
            f"`data` must have a region to box and enlarge; {str(root)!r} has none; look at the images that "
            f"`roi-progressive evaluate` leaves in {str(opened.folder / split)!r}"
        )
    sources = [pairs_from_folders(root, split, direction, None, chosen_region) for direction in directions]
    n_slices = sum(map(len, sources))
    n_translated = n_slices * len(DIRECTIONS) // len(directions)
    steps = Steps(report, n_slices + n_translated + n_slices + SLICES_A_FIGURE_TAKES * len(directions))
    for pairs in sources:  # mistakes come to light before anything is translated
        _require_region(steps.after_each(pairs, "looking for the region"), patient, chosen_region)
    every_file = [file for of_direction in files.values() for file in of_direction]
    check_foreign(target, every_file)
    with only_writer(target), only_writer(opened.folder):
        make_folder(target)
        with recorded(target, *every_file):
            images = _images(opened, split, sigma, device, steps.following)
            steps.done += n_translated
            return _drawn(opened, files, images, chosen_region, split, patient, sigma, error, steps)


def _drawn(
    opened: Run,
    files: Mapping[str, tuple[Path, ...]],
    images: Mapping[str, Path],
    region: str,
    split: str,
    patient: str | None,
    sigma: bool,
    error: bool,
    steps: Steps,
) -> list[RunFigure]:
    domains = read_domains(opened.data)
    for folder in (*images.values(), *(opened.sigma(split, direction) for direction in files if sigma)):
        check_files(folder)
    calibration = read_calibration(opened.networks, opened.options, opened.config, opened.epoch) if sigma else None
    drawn = []
    for direction in files:
        pairs = pairs_from_folders(opened.data, split, direction, images[direction], region)
        chosen = _slices_to_show(steps.after_each(pairs, "choosing patients"), patient)
        steps.following(0, 0, f"drawing {domains.title(direction)}")
        sigma_dir = opened.sigma(split, direction) if sigma else None
        rows = [_row(pairs, scored, region, sigma_dir, calibration, error, domains) for scored in chosen]
        comparison_figure(rows, *files[direction], region=region, domains=domains)
        steps.done += SLICES_A_FIGURE_TAKES
        steps.following(0, 0, f"{domains.title(direction)} is drawn")
        texts = tuple(_row_text(scored, patient) for scored in chosen)
        drawn.append(RunFigure(direction, files[direction], texts, domains.title(direction)))
    return drawn


def _require_absent(files: Sequence[Path]) -> None:
    present = next((file for file in files if file.exists()), None)
    if present is not None:
        raise DataError(f"`out` must not hold the figures yet; {str(present)!r} exists; choose another, or use --force")


def _images(run: Run, split: str, sigma: bool, device: str, report: Report) -> dict[str, Path]:
    """The generated images by direction, those of an earlier translation of the same files by the same networks."""
    found = {direction: run.images(split, direction) for direction in DIRECTIONS}
    folders = [*found.values(), *(run.sigma(split, direction) for direction in DIRECTIONS if sigma)]
    try:
        origin = origin_of(run, split, run.epoch)
    except OSError:  # a network that is missing is found, and told, where it is loaded
        return translate(run, split, device=device, report=report)
    current = all(made_by(folder) == origin and _complete(folder) for folder in folders)
    return found if current else translate(run, split, device=device, report=report)


def _complete(folder: Path) -> bool:
    return all((folder / name).is_file() for name in written_names(folder) or ())


def _require_region(pairs: Iterable[ImagePair], patient: str | None, region: str) -> None:
    known = sorted({pair.patient for pair in pairs if pair.mask.any()})
    if not known:
        raise DataError(f"`region` must be in one slice at least to be shown; no mask of {region!r} marks any")
    if patient is not None and patient not in known:
        raise DataError(f"`patient` must be one whose slices show {region!r}: {', '.join(known)}; got {patient!r}")


def _slices_to_show(pairs: Iterable[ImagePair], patient: str | None) -> list[SliceScores]:
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


def _row(
    pairs: FolderPairs,
    shown: SliceScores,
    region: str,
    sigma_dir: Path | None,
    calibration: SigmaCalibration | None,
    error: bool,
    domains: Domains,
) -> ComparisonRow:
    pair = pairs[shown["name"]]
    source, target = (domains.name(domain_of(pair.direction)) for domain_of in (source_of, target_of))
    assert pair.source is not None
    panels = {f"real {source}": pair.source, f"generated {target}": pair.fake, f"real {target}": pair.real}
    maps = {}
    per_grey = 1.0 if pair.hu_per_grey is None else pair.hu_per_grey
    if sigma_dir is not None:
        [pair] = with_sigma([pair], {pair.direction: sigma_dir})
        assert pair.sigma is not None
        # Another factor inside of the region would draw the mask into what the networks know nothing of.
        factor = 1.0 if calibration is None else calibration.directions[pair.direction].image.factor
        maps["predicted σ" if calibration is None else "calibrated σ"] = per_grey * factor * pair.sigma
    if error:
        maps["|generated − real|"] = per_grey * np.abs(pair.fake.astype(np.float64) - pair.real)
    unit = "grey levels (0 to 255)" if pair.hu_per_grey is None else "HU"
    label = pair.patient if pair.phase == ONE_PHASE else f"{pair.phase}, {pair.patient}"
    return ComparisonRow(label, pair.direction, panels, pair.mask, maps, unit)


def _row_text(shown: SliceScores, patient: str | None) -> str:
    why = "the median patient" if patient is None else "as asked"
    tpsnr = shown["scores"][TPSNR.key]
    return f"{shown['phase']}: {shown['patient']}, {why}; {shown['name']}, tumour PSNR {tpsnr:.2f} dB"
