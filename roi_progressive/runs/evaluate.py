"""From a trained run, or from folders of images, to scores; a run's with the trivial references beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError, DataError, MaskError
from ..evaluation.aggregation import aggregate
from ..evaluation.file_pairs import FilePairs, pairs_from_files
from ..evaluation.intervals import DIFFERENCE, paired_difference, with_intervals
from ..evaluation.networks import load_inception, load_lpips
from ..evaluation.pairs import (
    FolderPairs,
    ImagePair,
    pairs_from_folders,
    read_domains,
    require_folders,
    with_sigma,
)
from ..evaluation.references import constant_fill, copy_source, mean_image
from ..evaluation.scoring import RESERVED_NAMES, SliceScores, score
from ..plugins.manager import Plugins
from ..runtime.devices import choose_device
from ..saving.locks import only_writer
from ..saving.names import CT_AND_MR, DIRECTIONS
from ..saving.records import entry, fault_of, of_kind, read_json
from ..saving.written import check_files
from .folder import Run
from .scores import RunScores
from .train import Report
from .translate import translate

PATIENTS_UNKNOWN = (
    "Neither a manifest nor the names tell patients: every image counts as one, and intervals may be too narrow."
)
ONLY_IMAGES = "No masks were given: whole images alone were scored."
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
    data: str | Path | None = None,
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> RunScores:
    """Translate a split with a run's last networks and score it against the truth.

    The contrast of a region ``tumor`` is measured against the region ``liver`` where the data have one.

    Args:
        run: A run, or its folder.
        region: The region of interest; the innermost one of the data by default. Of data without regions, whole images
            are scored.
        split: ``test`` or ``val``; its images must be paired.
        references: Which references to score too.
        uncertainty: Score the predicted sigma of the run too.
        weights_dir: The folder of the weights of LPIPS, FID and KID, where they are not in the usual caches.
        device: Where images, LPIPS, FID and KID are computed: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        data: Where the data set of a run lies now that is given by its folder; where it lay, by default.
        plugins: Plugins that add columns (hook ``roi_metrics``), besides those installed.
        report: Called after every translated image.

    Raises:
        ConfigError: This machine has no such device.
        DataError: The run, its data or the region is missing, or ``uncertainty`` is asked of a run without heads.
        PluginError: A plugin's column has a name that is taken.
        CheckpointError: A network is missing or damaged.
    """
    opened = run if isinstance(run, Run) else Run.open(run, data=data)
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
    organ = ORGAN if chosen == "tumor" and ORGAN in regions_of(root) else None
    sources = {d: _sources(root, split, d, chosen, organ) for d in DIRECTIONS}
    for _ in itertools.chain(*sources.values()):  # read, and looked at
        pass
    arms = {name: [_begun(_reference(name, pairs, root, chosen)) for pairs in sources.values()] for name in references}
    place = str(choose_device(device))
    lpips, inception = load_lpips(weights_dir, place), load_inception(weights_dir, device=place)
    with only_writer(opened.folder):  # until all was scored: nobody else makes the images anew
        images = translate(opened, split, device=device, report=report)
        pairs = {d: pairs_from_folders(root, split, d, images[d], chosen, organ) for d in DIRECTIONS}
        shown: dict[str, list[Iterable[ImagePair]]] = {"model": list(pairs.values())}
        if uncertainty:
            maps = {d: opened.sigma(split, d) for d in DIRECTIONS}
            shown["model"] = [with_sigma(of_direction, maps) for of_direction in pairs.values()]
        shown |= arms
        extra = _extra_columns(Plugins(plugins))
        slices = {
            arm: [scored for p in of_arm for scored in score(p, lpips, inception, extra)]
            for arm, of_arm in shown.items()
        }
    results = {arm: aggregate(scored) for arm, scored in slices.items()}
    return RunScores(results, slices, images, chosen, (), domains)


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
    every = _reported(pairs, report)
    if sigma is not None:
        maps = {direction: Path(folder) for direction, folder in zip(directions, sigma, strict=True)}
        require_folders(maps.values())
        every = with_sigma(every, maps)
    slices = score(every, lpips, inception, _extra_columns(Plugins(plugins)))
    images = {direction: Path(folder) for direction, folder in zip(directions, fake, strict=True)}
    notes = [PATIENTS_UNKNOWN] if any(of_direction.patients_unknown for of_direction in pairs) else []
    notes += [ONLY_IMAGES] if masks is None else []
    notes += dict.fromkeys(note for of_direction in pairs for note in of_direction.notes)
    domains = CT_AND_MR if manifest is None else read_domains(Path(manifest))
    of = None if masks is None else region
    return RunScores({"generated": aggregate(slices)}, {"generated": slices}, images, of, tuple(notes), domains)


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


def _sources(root: Path, split: str, direction: str, region: str | None, organ: str | None) -> FolderPairs:
    try:
        return pairs_from_folders(root, split, direction, None, region, organ)
    except MaskError as error:
        known = ", ".join(regions_of(root)) or "none"
        raise MaskError(f"{error}; regions of the data: {known}") from error


def regions_of(root: Path) -> list[str]:
    """The regions that a data set names in its manifest or, without one, has mask folders of.

    Raises:
        DataError: The manifest cannot be read, or is not as it was written.
    """
    manifest = root / "manifest.json"
    try:
        described = of_kind(read_json(manifest), "its content", dict) if manifest.exists() else {}
        if "regions" in described:
            return [str(name) for name in entry(described, "regions", list)]
    except (OSError, ValueError) as error:
        raise DataError(f"{manifest} must be a data set's manifest; {fault_of(error)}; prepare it anew") from error
    # The manifest of another program, or none.
    folders = [path.name for split in ("train", "test") for path in root.glob(f"{split}A_*") if path.is_dir()]
    return sorted({name.partition("A_")[2] for name in folders})


def default_region(root: Path) -> str | None:
    """``tumor`` where the data have it, otherwise the last region their manifest names; ``None`` where it names none.

    Raises:
        DataError: The data have no region although no manifest says so, or their manifest is not as it was written.
    """
    regions = regions_of(root)
    if not regions and _says_no_regions(root):
        return None
    if not regions:
        raise DataError(
            f"`data` must have a region; {str(root)!r} has no mask folder such as trainA_tumor; "
            f"prepare masks, or train with --no-regions"
        )
    return "tumor" if "tumor" in regions else regions[-1]


def _says_no_regions(root: Path) -> bool:
    try:
        return bool(read_json(root / "manifest.json")["regions"] == [])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _begun(pairs: Iterable[ImagePair]) -> Iterable[ImagePair]:
    """The same pairs, the first of them made already, so that a mistake in what they are made of comes to light now."""
    rest = iter(pairs)
    return itertools.chain(list(itertools.islice(rest, 1)), rest)


def _reference(name: str, pairs: FolderPairs, root: Path, region: str | None) -> Iterable[ImagePair]:
    if name == "copy_source":
        return copy_source(pairs)
    return constant_fill(pairs, root, region) if name == "constant_fill" and region else mean_image(pairs, root)
