"""From a trained run, or from folders of images, to scores; a run's with the trivial references beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError, DataError, MaskError
from ..evaluation.aggregation import Results, aggregate
from ..evaluation.conformal import with_sigma
from ..evaluation.file_pairs import pairs_from_files
from ..evaluation.intervals import DIFFERENCE, paired_difference, with_intervals
from ..evaluation.metrics import REGION_SIGMA_RANK
from ..evaluation.networks import load_inception, load_lpips
from ..evaluation.pairs import (
    FolderPairs,
    ImagePair,
    pairs_from_folders,
    read_domains,
    require_folders,
)
from ..evaluation.references import constant_fill, copy_source, mean_image
from ..evaluation.region_names import default_region, organ_of, regions_of
from ..evaluation.scoring import RESERVED_NAMES, SliceScores, score
from ..evaluation.windows import hu_windows, window_notes
from ..plugins.manager import Plugins
from ..runtime.devices import choose_device
from ..saving.locks import only_writer
from ..saving.names import CT_AND_MR, DIRECTIONS, Domains
from ..saving.written import check_files
from .calibrate import calibration_note, read_calibration
from .folder import Run
from .scores import RunScores
from .steps import Steps
from .train import Report
from .translate import translate
from .volume_scores import score_sliced_volumes, volumes_with_certainty

PATIENTS_UNKNOWN = (
    "Neither a manifest nor the names tell patients: every image counts as one, and intervals may be too narrow."
)
ONLY_IMAGES = "No masks were given: whole images alone were scored."
LEAST_RANK = 0.1
"""A smaller rank correlation of sigma with the error says nothing about where the errors are."""
MODEL = "model"
REFERENCES = ("constant_fill", "copy_source", "mean_image")


def evaluate_run(
    run: str | Path | Run,
    *,
    epoch: int | str | None = None,
    region: str | None = None,
    split: str = "test",
    references: Sequence[str] = REFERENCES,
    uncertainty: bool = False,
    volumes: Sequence[str] = (MODEL,),
    weights_dir: str | Path | None = None,
    device: str = "auto",
    data: str | Path | None = None,
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> RunScores:
    """Translate a split with a run's networks and score it against the truth.

    The contrast of a region ``tumor`` is measured against the region ``liver`` where the data have one.

    Args:
        run: A run, or its folder.
        epoch: Whose networks: ``best``, ``last`` or a number; those of an opened run, or the last saved ones, by
            default.
        region: The region of interest; the innermost one of the data by default. Of data without regions, whole images
            are scored.
        split: ``test`` or ``val``; its images must be paired.
        references: Which references to score too.
        uncertainty: Score the predicted sigma of the run too.
        volumes: Of which arms to score whole volumes too, where the slices make any: ``model`` and ``references``.
        weights_dir: The folder of the weights of LPIPS, FID and KID, where they are not in the usual caches.
        device: Where images, LPIPS, FID and KID are computed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        data: Where the data set of a run lies now that is given by its folder; where it lay, by default.
        plugins: Plugins that add columns (hooks ``roi_metrics`` and ``roi_volume_metrics``), besides those installed.
        report: Called with steps done, steps in all and what is being done: after every image that was read, translated
            or scored.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run, its data or the region is missing, or ``uncertainty`` is asked of a run without heads.
        PluginError: A plugin's column has a name that is taken.
        CheckpointError: A network is missing or damaged.
    """
    opened = run.at_epoch(epoch) if isinstance(run, Run) else Run.open(run, epoch=epoch, data=data)
    root = opened.data
    if uncertainty and opened.config.ggd is None:
        raise DataError(
            f"`uncertainty` must be asked of a run with [ggd] in its config; {str(opened.folder)!r} has no heads; "
            f"leave it out"
        )
    if weights_dir is not None and not Path(weights_dir).is_dir():
        raise DataError(f"`weights` must be a folder; {str(weights_dir)!r} is not one; give one, or leave it out")
    domains, chosen = read_domains(root), region or default_region(root)
    if chosen is None:
        references = [name for name in references if name != "constant_fill"]
    # Mistakes in the data come to light before anything is translated.
    organ = organ_of(root, chosen)
    sources = {d: _sources(root, split, d, chosen, organ) for d in DIRECTIONS}
    n_slices = sum(map(len, sources.values()))
    steps = Steps(report, n_slices * (3 + len(references)))  # read, translated, scored; each reference scored
    for _ in steps.after_each(itertools.chain(*sources.values()), "reading"):  # and looked at
        pass
    arms = {name: [_begun(_reference(name, pairs, root, chosen)) for pairs in sources.values()] for name in references}
    calibration = (
        read_calibration(opened.networks, opened.options, opened.config, opened.epoch) if uncertainty else None
    )
    place = str(choose_device(device))
    lpips, inception = load_lpips(weights_dir, place), load_inception(weights_dir, device=place)
    with only_writer(opened.folder):  # until all was scored: nobody else makes the images anew
        images = translate(opened, split, device=device, report=steps.following)
        steps.done = 2 * n_slices
        pairs = {d: pairs_from_folders(root, split, d, images[d], chosen, organ) for d in DIRECTIONS}
        shown: dict[str, list[Iterable[ImagePair]]] = {MODEL: list(pairs.values())}
        if uncertainty:
            maps = {d: opened.sigma(split, d) for d in DIRECTIONS}
            known = None if calibration is None else calibration.directions
            shown[MODEL] = [with_sigma(of_direction, maps, known, chosen) for of_direction in pairs.values()]
        shown |= arms
        manager = Plugins(plugins)
        extra = _extra_columns(manager)
        slices = {
            arm: [
                scored
                for of_direction in of_arm
                for scored in score(steps.after_each(of_direction, f"scoring {arm}"), lpips, inception, extra)
            ]
            for arm, of_arm in shown.items()
        }
        stacked = {
            arm: {d: of if arm == MODEL else _reference(arm, of, root, chosen) for d, of in pairs.items()}
            for arm in (MODEL, *references)
            if arm in volumes
        }
        of_volumes = None
        if stacked:
            of_volumes = score_sliced_volumes(root, split, pairs, stacked, (chosen, organ), domains, manager)
    results = {arm: aggregate(scored) for arm, scored in slices.items()}
    notes = window_notes(hu_windows(root / "manifest.json", pairs), domains)
    if uncertainty:
        notes = [*notes, calibration_note(opened, calibration, split), *_blind(results[MODEL], chosen, domains)]
    return RunScores(results, slices, images, chosen, tuple(notes), domains, of_volumes)


def _blind(results: Results, region: str | None, domains: Domains) -> Iterator[str]:
    """A line for each direction in which sigma does not say where in the region the errors are."""
    for direction, cells in results.items():
        rank = cells["mean"].get(REGION_SIGMA_RANK.key)
        if rank is not None and rank < LEAST_RANK:
            yield (
                f"{domains.title(direction)}: sigma does not rank the errors inside {region} (rank correlation "
                f"{rank:+.2f}); read it there as how large the error is, not as where it is."
            )


def _extra_columns(manager: Plugins) -> Callable[[ImagePair], dict[str, Any]]:
    def columns(pair: ImagePair) -> dict[str, Any]:
        return manager.merged("roi_metrics", taken=RESERVED_NAMES, real=pair.real, fake=pair.fake, mask=pair.mask)

    return columns


def evaluate_folders(
    real: Sequence[str | Path],
    fake: Sequence[str | Path],
    masks: Sequence[str | Path] | None,
    *,
    directions: Sequence[str] = ("A2B",),
    manifest: str | Path | None = None,
    organs: Sequence[str | Path] | None = None,
    sigma: Sequence[str | Path] | None = None,
    region: str = "region",
    white: float | None = None,
    array_range: tuple[float, float] | None = None,
    weights_dir: str | Path | None = None,
    device: str = "auto",
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> RunScores:
    """Score images that anything generated against the truth; arguments as in :func:`pairs_from_files`.

    Args:
        real: The folder of true images, one for each direction.
        fake: The folder of generated ones, likewise.
        masks: The folder of masks, likewise; ``None`` scores whole images alone.
        directions: What the folders are, ``A2B`` or ``B2A``.
        manifest: Tells patients, phases, HU, and what the domains are called.
        organs: The folder of masks of what the region lies in, likewise, for the lesion audit.
        sigma: The folder of predicted standard deviations in grey levels, likewise, where there are any.
        region: The name of what the masks show, for the table's legend.
        white: The value of 16-bit files that stands for 255; ``None`` takes 65535, where the files use that range.
        array_range: The values of floating-point arrays that stand for 0 and 255; ``None`` takes -1 and 1, likewise.
        weights_dir: The folder of the weights of LPIPS, FID and KID, where they are not in the usual caches.
        device: Where LPIPS, FID and KID are computed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        plugins: Plugins that add columns (hook ``roi_metrics``), besides those installed.
        report: Called with pairs done, pairs in all and what is being done.

    Returns:
        With the one arm ``generated``.

    Raises:
        ConfigError: There are not as many folders of each kind as directions, a direction comes twice, or this machine
            has no such device.
        DataError: A folder, image or manifest cannot be used.
        MaskError: A mask cannot be used.
        PluginError: A plugin's column has a name that is taken.
    """
    given = {"real": len(real), "fake": len(fake), "direction": len(directions)}
    given |= {} if masks is None else {"masks": len(masks)}
    given |= {name: len(more) for name, more in (("organs", organs), ("sigma", sigma)) if more is not None}
    if len(set(given.values())) != 1 or len(set(directions)) != len(directions):
        counts = ", ".join(f"{count} for --{name}" for name, count in given.items())
        raise ConfigError(f"`direction` must come once for each of the folders, each another; got {counts}; match them")
    nowhere: Sequence[str | Path | None] = [None] * len(directions)
    folders = zip(real, fake, masks or nowhere, organs or nowhere, directions, strict=True)
    scale = {"white": white, "array_range": array_range}
    pairs = [
        pairs_from_files(*of_direction, organs=organ, direction=direction, manifest=manifest, **scale)  # type: ignore[arg-type]
        for *of_direction, organ, direction in folders
    ]
    for folder in (*fake, *(sigma or ())):  # what a run wrote carries checksums
        check_files(Path(folder))
    place = str(choose_device(device))
    lpips, inception = load_lpips(weights_dir, place), load_inception(weights_dir, device=place)
    every: Iterable[ImagePair] = itertools.chain(*pairs)
    if sigma is not None:
        maps = {direction: Path(folder) for direction, folder in zip(directions, sigma, strict=True)}
        require_folders(maps.values())
        every = with_sigma(every, maps)
    steps = Steps(report, sum(map(len, pairs)))
    slices = score(steps.after_each(every, "scoring"), lpips, inception, _extra_columns(Plugins(plugins)))
    images = {direction: Path(folder) for direction, folder in zip(directions, fake, strict=True)}
    notes = [PATIENTS_UNKNOWN] if any(of_direction.patients_unknown for of_direction in pairs) else []
    notes += [ONLY_IMAGES] if masks is None else []
    notes += dict.fromkeys(note for of_direction in pairs for note in of_direction.notes)
    domains = CT_AND_MR if manifest is None else read_domains(Path(manifest))
    notes += [] if manifest is None else window_notes(hu_windows(Path(manifest), images), domains)
    of = None if masks is None else region
    return RunScores({"generated": aggregate(slices)}, {"generated": slices}, images, of, tuple(notes), domains)


def with_certainty(
    scores: RunScores,
    compared_with: Sequence[SliceScores] | None = None,
    seed: int = 0,
    report: Report | None = None,
    *,
    volumes_compared_with: Sequence[SliceScores] | None = None,
) -> RunScores:
    """The scores with 95 % intervals over patients, and with the difference to another evaluation's.

    Args:
        scores: Of a run or of folders.
        compared_with: The slices of another evaluation, from :func:`read_slices`. Its rows are added as the arm
            ``compared``, and the paired differences of the first arm to it as the arm ``difference``, in the directions
            that both have; a note says where one was left out.
        seed: Seed of the draws of patients.
        report: Called after the intervals of every arm.
        volumes_compared_with: The volumes of that evaluation, from :func:`read_volume_scores`.

    Raises:
        ConfigError: ``seed`` is negative.
        DataError: ``compared_with`` holds other slices, or no direction of these.
    """
    check.whole("", "seed", seed, 0)
    results: dict[str, Results] = {}
    notes: list[str] = []
    steps = Steps(report, len(scores.slices) + (compared_with is not None))
    for arm in steps.after_each(scores.slices, "intervals"):
        results[arm] = with_intervals(scores.results[arm], scores.slices[arm], seed)
    of_volumes = scores.volumes
    if of_volumes is not None:
        of_volumes = volumes_with_certainty(of_volumes, volumes_compared_with, seed)
    if compared_with is not None:
        steps.following(0, 0, "paired differences")
        ours, others, notes = _in_both_directions(next(iter(scores.slices.values())), compared_with)
        difference, _, against = paired_difference(ours, others, seed)
        results |= {"compared": with_intervals(against, others, seed), DIFFERENCE: difference}
        steps.done += 1
    steps.following(0, 0, "the table")
    return replace(scores, results=results, notes=(*scores.notes, *notes), volumes=of_volumes)


def _in_both_directions(
    ours: Sequence[SliceScores], others: Sequence[SliceScores]
) -> tuple[list[SliceScores], list[SliceScores], list[str]]:
    """The slices of the directions that both have, and what is said of the others."""
    directions = [{scored["direction"] for scored in slices} for slices in (ours, others)]
    both = directions[0] & directions[1]
    if not both:
        wanted, there = (" and ".join(sorted(found)) or "none" for found in directions)
        raise DataError(
            f"`compare` must hold the scores of {wanted}; it holds {there} alone; evaluate the other one in the same "
            f"direction (--direction)"
        )
    alone = [
        f"Compared in {', '.join(sorted(both))} alone: {whose} has no {', '.join(sorted(missing))}."
        for whose, missing in (
            ("the other evaluation", directions[0] - both),
            ("this evaluation", directions[1] - both),
        )
        if missing
    ]
    kept, against = ([s for s in slices if s["direction"] in both] for slices in (ours, others))
    return kept, against, alone


def _sources(root: Path, split: str, direction: str, region: str | None, organ: str | None) -> FolderPairs:
    try:
        return pairs_from_folders(root, split, direction, None, region, organ)
    except MaskError as error:
        known = ", ".join(regions_of(root)) or "none"
        raise MaskError(f"{error}; regions of the data: {known}") from error


def _begun(pairs: Iterable[ImagePair]) -> Iterable[ImagePair]:
    """The same pairs, the first of them made already, so that a mistake in what they are made of comes to light now."""
    rest = iter(pairs)
    return itertools.chain(list(itertools.islice(rest, 1)), rest)


def _reference(name: str, pairs: FolderPairs, root: Path, region: str | None) -> Iterable[ImagePair]:
    if name == "copy_source":
        return copy_source(pairs)
    return constant_fill(pairs, root, region) if name == "constant_fill" and region else mean_image(pairs, root)
