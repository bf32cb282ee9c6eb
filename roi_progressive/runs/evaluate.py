"""From a trained run, or from folders of images, to scores; a run's with the trivial references beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError, DataError, MaskError
from ..evaluation.aggregation import aggregate
from ..evaluation.file_pairs import FilePairs, pairs_from_files
from ..evaluation.image_files import WHITE_16_BIT
from ..evaluation.intervals import DIFFERENCE, paired_difference, with_intervals
from ..evaluation.networks import load_inception, load_lpips
from ..evaluation.pairs import FolderPairs, ImagePair, pairs_from_folders, require_folders, with_sigma
from ..evaluation.references import constant_fill, copy_source, mean_image
from ..evaluation.scoring import RESERVED_NAMES, SliceScores, score
from ..plugins.manager import Plugins
from ..runtime.devices import choose_device
from ..saving.names import DIRECTIONS
from ..saving.records import ChangedRecordError, check_files, read_json
from .folder import Run
from .scores import RunScores
from .train import Report
from .translate import translate

PATIENTS_UNKNOWN = (
    "Neither a manifest nor the names tell patients: every image counts as one, and intervals may be too narrow."
)
ORGAN = "liver"
REFERENCES = ("constant_fill", "copy_source", "mean_image")


def evaluate_run(
    run: str | Path | Run,
    *,
    region: str | None = None,
    split: str = "test",
    references: Sequence[str] = REFERENCES,
    uncertainty: bool = False,
    weights_dir: str | Path | None = None,
    device: str = "auto",
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> RunScores:
    """Translate a split with a run's last networks and score it against the truth.

    The contrast of a region ``tumor`` is measured against the region ``liver`` where the data have one.

    Args:
        run: A run, or its folder.
        region: The region of interest; the innermost one of the data by default.
        split: ``test`` or ``val``; its images must be paired.
        references: Which references to score too.
        uncertainty: Score the predicted sigma of the run too.
        weights_dir: The folder of the weights of LPIPS, FID and KID, where they are not in the usual caches.
        device: Where images, LPIPS, FID and KID are computed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        plugins: Plugins that add columns (hook ``roi_metrics``), besides those installed.
        report: Called after every translated image.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run, its data or the region is missing, or ``uncertainty`` is asked of a run without heads.
        PluginError: A plugin's column has a name that is taken.
        CheckpointError: A network is missing or damaged.
    """
    opened = run if isinstance(run, Run) else Run.open(run)
    root = opened.data
    if uncertainty and opened.config.ggd is None:
        raise DataError(
            f"`uncertainty` must be asked of a run with [ggd] in its config; {str(opened.folder)!r} has no heads; "
            f"leave it out"
        )
    if weights_dir is not None and not Path(weights_dir).is_dir():
        raise DataError(f"`weights` must be a folder; {str(weights_dir)!r} is not one; give one, or leave it out")
    chosen = region or default_region(root)
    # Mistakes in the data come to light before anything is translated.
    organ = ORGAN if chosen == "tumor" and ORGAN in regions_of(root) else None
    sources = {d: _sources(root, split, d, chosen, organ) for d in DIRECTIONS}
    place = str(choose_device(device))
    lpips, inception = load_lpips(weights_dir, place), load_inception(weights_dir, device=place)
    images = translate(opened, split, device=device, report=report)
    pairs = {d: pairs_from_folders(root, split, d, images[d], chosen, organ) for d in DIRECTIONS}
    shown: dict[str, list[Iterable[ImagePair]]] = {"model": list(pairs.values())}
    if uncertainty:
        maps = {d: opened.sigma(split, d) for d in DIRECTIONS}
        shown["model"] = [with_sigma(of_direction, maps) for of_direction in pairs.values()]
    for name in references:
        shown[name] = [_reference(name, of_direction, root, chosen) for of_direction in sources.values()]
    extra = _extra_columns(Plugins(plugins))
    slices = {
        arm: [scored for p in of_arm for scored in score(p, lpips, inception, extra)] for arm, of_arm in shown.items()
    }
    return RunScores({arm: aggregate(scored) for arm, scored in slices.items()}, slices, images, chosen)


def _extra_columns(manager: Plugins) -> Callable[[ImagePair], dict[str, Any]]:
    def columns(pair: ImagePair) -> dict[str, Any]:
        return manager.merged("roi_metrics", taken=RESERVED_NAMES, real=pair.real, fake=pair.fake, mask=pair.mask)

    return columns


def evaluate_folders(
    real: Sequence[str | Path],
    fake: Sequence[str | Path],
    masks: Sequence[str | Path],
    *,
    directions: Sequence[str] = ("A2B",),
    manifest: str | Path | None = None,
    organs: Sequence[str | Path] | None = None,
    sigma: Sequence[str | Path] | None = None,
    region: str = "region",
    white: float = WHITE_16_BIT,
    weights_dir: str | Path | None = None,
    device: str = "auto",
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> RunScores:
    """Score images that anything generated against the truth; arguments as in :func:`pairs_from_files`.

    Args:
        real: The folder of true images, one for each direction.
        fake: The folder of generated ones, likewise.
        masks: The folder of masks, likewise.
        directions: What the folders are, ``A2B`` or ``B2A``.
        manifest: Tells patients, phases and HU.
        organs: The folder of masks of what the region lies in, likewise, for the lesion audit.
        sigma: The folder of predicted standard deviations in grey levels, likewise, where there are any.
        region: The name of what the masks show, for the table's legend.
        white: The value of 16-bit files that stands for 255.
        weights_dir: The folder of the weights of LPIPS, FID and KID, where they are not in the usual caches.
        device: Where LPIPS, FID and KID are computed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        plugins: Plugins that add columns (hook ``roi_metrics``), besides those installed.
        report: Called after every pair.

    Returns:
        With the one arm ``generated``.

    Raises:
        ConfigError: There are not as many folders of each kind as directions, a direction comes twice, or this machine
            has no such device.
        DataError: A folder, image or manifest cannot be used.
        MaskError: A mask cannot be used.
        PluginError: A plugin's column has a name that is taken.
    """
    given = {"real": len(real), "fake": len(fake), "masks": len(masks), "direction": len(directions)}
    given |= {name: len(more) for name, more in (("organs", organs), ("sigma", sigma)) if more is not None}
    if len(set(given.values())) != 1 or len(set(directions)) != len(directions):
        counts = ", ".join(f"{count} for --{name}" for name, count in given.items())
        raise ConfigError(f"`direction` must come once for each of the folders, each another; got {counts}; match them")
    around: Sequence[str | Path | None] = [None] * len(directions) if organs is None else organs
    pairs = [
        pairs_from_files(*folders, organs=organ, direction=direction, manifest=manifest, white=white)
        for *folders, organ, direction in zip(real, fake, masks, around, directions, strict=True)
    ]
    for folder in (*fake, *(sigma or ())):  # what a run wrote carries checksums
        check_files(Path(folder))
    place = str(choose_device(device))
    lpips, inception = load_lpips(weights_dir, place), load_inception(weights_dir, device=place)
    every = _reported(pairs, report)
    if sigma is not None:
        maps = {direction: Path(folder) for direction, folder in zip(directions, sigma, strict=True)}
        require_folders(maps.values())
        every = with_sigma(every, maps)
    slices = score(every, lpips, inception, _extra_columns(Plugins(plugins)))
    images = {direction: Path(folder) for direction, folder in zip(directions, fake, strict=True)}
    notes = (PATIENTS_UNKNOWN,) if any(of_direction.patients_unknown for of_direction in pairs) else ()
    return RunScores({"generated": aggregate(slices)}, {"generated": slices}, images, region, notes)


def _reported(pairs: Sequence[FilePairs], report: Report | None) -> Iterator[ImagePair]:
    total = sum(len(of_direction) for of_direction in pairs)
    for done, pair in enumerate((pair for of_direction in pairs for pair in of_direction), start=1):
        yield pair
        if report is not None:
            report(done, total, pair.direction)


def with_certainty(scores: RunScores, compared_with: Sequence[SliceScores] | None = None, seed: int = 0) -> RunScores:
    """The scores with 95 % intervals over patients, and with the difference to another evaluation's.

    Args:
        scores: Of a run or of folders.
        compared_with: The slices of another evaluation, from :func:`read_slices`. Its rows are added as the arm
            ``compared``, and the paired differences of the first arm to it as the arm ``difference``.
        seed: Seed of the draws of patients.

    Raises:
        ConfigError: ``seed`` is negative.
        DataError: ``compared_with`` holds other slices.
    """
    check.whole("", "seed", seed, 0)
    results = {arm: with_intervals(scores.results[arm], scores.slices[arm], seed) for arm in scores.slices}
    if compared_with is not None:
        first = next(iter(scores.slices))
        difference, _, against = paired_difference(scores.slices[first], compared_with, seed)
        results |= {"compared": with_intervals(against, compared_with, seed), DIFFERENCE: difference}
    return replace(scores, results=results)


def _sources(root: Path, split: str, direction: str, region: str, organ: str | None) -> FolderPairs:
    try:
        return pairs_from_folders(root, split, direction, None, region, organ)
    except MaskError as error:
        known = ", ".join(regions_of(root)) or "none"
        raise MaskError(f"{error}; regions of the data: {known}") from error


def regions_of(root: Path) -> list[str]:
    """The regions that a data set names in its manifest or, without one, has mask folders of.

    Raises:
        DataError: The manifest is not as it was written.
    """
    try:
        return [str(name) for name in read_json(root / "manifest.json")["regions"]]
    except ChangedRecordError as error:
        raise DataError(f"{root / 'manifest.json'} must be a data set's manifest; {error}") from error
    except (OSError, ValueError, KeyError, TypeError):
        folders = [path.name for split in ("train", "test") for path in root.glob(f"{split}A_*") if path.is_dir()]
        return sorted({name.partition("A_")[2] for name in folders})


def default_region(root: Path) -> str:
    """``tumor`` where the data have it, otherwise the last region their manifest names.

    Raises:
        DataError: The data have no region, or their manifest is not as it was written.
    """
    regions = regions_of(root)
    if not regions:
        raise DataError(
            f"`data` must have a region; {str(root)!r} has no mask folder such as trainA_tumor; "
            f"prepare masks, or train with --no-regions"
        )
    return "tumor" if "tumor" in regions else regions[-1]


def _reference(name: str, pairs: FolderPairs, root: Path, region: str) -> Iterable[ImagePair]:
    if name == "copy_source":
        return copy_source(pairs)
    return mean_image(pairs, root) if name == "mean_image" else constant_fill(pairs, root, region)
