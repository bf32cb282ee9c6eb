"""Scores of whole volumes: of a run's slices put together, or of folders of volumes, and their table on disk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data.compared_volumes import BODY, list_volumes, read_compared
from ..data.preprocessing import CT_BODY_HU, foreground_mask
from ..errors import ConfigError, DataError
from ..evaluation.aggregation import aggregate
from ..evaluation.intervals import DIFFERENCE, paired_difference, with_intervals
from ..evaluation.pairs import FolderPairs, ImagePair
from ..evaluation.scoring import RESERVED_NAMES, SliceScores, score_volumes
from ..evaluation.table import WIDTH, render_csv, render_latex, render_markdown, render_text, wrapped
from ..evaluation.volume_metrics import VOLUME_METRICS
from ..evaluation.volume_pairs import GREY_LEVELS, HU, Array, BoolArray, SlicedVolumes, VolumePair, sliced_volumes
from ..evaluation.volume_similarity import FULL_RANGE_HU
from ..evaluation.windows import Window, clipped, is_full
from ..plugins.manager import Plugins
from ..saving.names import ONE_PHASE, Domains
from ..saving.plain_text import in_markdown, printable
from ..saving.records import entry, fault_of, read_json, write_json
from ..saving.whole_files import write_text
from ..saving.written import recorded, remove_written
from .scores import FILES as SCORE_FILES
from .scores import (
    RunScores,
    VolumeScores,
    plain_rows,
    plain_scores,
    read_slices,
    slices_of,
    write_scores,
)
from .train import Report

FILES = ("volumes.md", "volumes.csv", "volumes.tex", "volumes.json")
EVALUATION_FILES = (*SCORE_FILES, *FILES)
"""All that an evaluation writes, but for the reliability diagram."""
TITLE = "Volumes, inside the body, by the definitions of SynthRAD (MAE; PSNR; MS-SSIM of five scales):"
_CT_PIECE = 0.1


def volume_table(scores: VolumeScores, width: int | None = None) -> str:
    """The table for a terminal below its heading; the heading alone where there are no volumes.

    Args:
        scores: Of volumes.
        width: Of its lines; ``None`` takes as much as the columns need.
    """
    if not scores.results:
        return "\n".join(scores.notes)
    notes = [line for note in scores.notes for line in wrapped(printable(note), width or WIDTH)]
    table = render_text(scores.results, None, (), scores.domains, width=width)
    return "\n".join([TITLE, *notes, "", table]).rstrip("\n")


# -- a run's slices ----------------------------------------------------------------------------------------------------


def score_sliced_volumes(
    root: Path,
    split: str,
    pairs: Mapping[str, FolderPairs],
    arms: Mapping[str, Mapping[str, Iterable[ImagePair]]],
    regions: tuple[str | None, str | None],
    domains: Domains,
    plugins: Plugins,
) -> VolumeScores:
    """Put a split's slices together to volumes and score them.

    Args:
        root: The data set.
        split: Of it.
        pairs: The slices of each direction.
        arms: Their images by arm and direction.
        regions: The names of the pairs' masks and organs.
        domains: What the domains are called.
        plugins: Who adds columns.

    Raises:
        DataError: The manifest cannot be used.
    """
    stacks = {direction: sliced_volumes(of, root, split, direction) for direction, of in pairs.items()}
    usable = {direction: stack for direction, stack in stacks.items() if stack.members}
    notes = _notes_of_slices(stacks, domains)
    if not usable:
        return VolumeScores({}, {}, tuple(notes), domains)
    scored: dict[str, list[SliceScores]] = {}
    windows: dict[str, Window | None] = {}
    for arm, of_arm in arms.items():
        scored[arm] = []
        for direction, stack in usable.items():
            volumes = _watched(stack.stacked(of_arm[direction], _body_of_slices, regions), windows)
            scored[arm] += score_volumes(volumes, columns_of(plugins))
    units = [_unit(domains.title(direction), window) for direction, window in windows.items()]
    results = {arm: aggregate(of_arm, VOLUME_METRICS) for arm, of_arm in scored.items()}
    return VolumeScores(results, scored, (*units, *notes), domains)


def _watched(volumes: Iterable[VolumePair], windows: dict[str, Window | None]) -> Iterable[VolumePair]:
    """The same volumes; writes down the window of each direction."""
    for volume in volumes:
        windows[volume.direction] = (volume.low, volume.high) if volume.unit == HU else None
        yield volume


def _body_of_slices(real: Array, unit: str, least: float) -> BoolArray:
    """As ``prepare`` finds the body; what was clipped to black is no body."""
    if unit == HU:
        return foreground_mask(real, max(CT_BODY_HU, least), _CT_PIECE)
    return foreground_mask(real, least)


def _notes_of_slices(stacks: Mapping[str, SlicedVolumes], domains: Domains) -> list[str]:
    if any(stack.places_unknown for stack in stacks.values()):
        return ["No volumes were scored: the manifest does not tell where in its scan each slice lies."]
    usable = [stack for stack in stacks.values() if stack.members]
    notes = []
    if usable:
        shortest, longest = min(s.n_slices[0] for s in usable), max(s.n_slices[1] for s in usable)
        count = f"{shortest}" if shortest == longest else f"{shortest} to {longest}"
        notes.append(
            f"A volume is the slices of a patient and phase that the data hold, {count} of them, at the pictures' "
            f"pixel size: no whole scan unless all of it was prepared."
        )
    left_out = sum(stack.n_left_out for stack in stacks.values())
    if left_out:
        notes.append(f"Left out: {left_out} volumes whose slices have gaps.")
    return notes or ["No volumes were scored: the slices of every patient have gaps."]


def _unit(title: str, window: Window | None) -> str:
    """One line of the heading: unit, range and peak of a direction."""
    if window is None:
        return f"{title}: in {GREY_LEVELS} 0 to 255 of the data; the peak is 255."
    low, high = window
    line = f"{title}: in HU, {clipped(window)}, the window of the data; the peak is {high - low:g} HU"
    if is_full(window):
        return f"{line}."
    full = f"[{FULL_RANGE_HU[0]:g}, {FULL_RANGE_HU[1]:g}]"
    return f"{line}. Not to be set beside SynthRAD's, which are on {full}: nothing beyond the window was seen."


# -- folders of volumes ------------------------------------------------------------------------------------------------


def evaluate_volume_folders(
    real: str | Path,
    fake: str | Path,
    *,
    body: str | Path | None = None,
    masks: str | Path | None = None,
    region: str = "region",
    direction: str = "A2B",
    value_range: tuple[float, float] | None = None,
    plugins: Iterable[Any] = (),
    report: Report | None = None,
) -> VolumeScores:
    """Score volumes that anything generated against the truth: MAE, PSNR and MS-SSIM as SynthRAD measures them.

    Args:
        real: A folder of NIfTI, NRRD or MHA volumes.
        fake: The generated ones, under the same names (endings aside), each on the grid of its real volume.
        body: Masks of the body, likewise; without them it is found in the real volume, as ``prepare`` finds it.
        masks: Masks of a region, likewise, for plugins.
        region: The region's name.
        direction: What the volumes are, ``A2B`` or ``B2A``; for the table.
        value_range: The least and the largest value that count, of volumes that are not in HU; ``None`` for HU and
            [-1024, 3071].
        plugins: Plugins that add columns (hook ``roi_volume_metrics``), besides those installed.
        report: Called after every volume.

    Raises:
        ConfigError: ``value_range`` is none.
        DataError: A folder or file cannot be used, names are not in all folders, or a pair has two grids.
        PluginError: A plugin's column has a name that is taken.
    """
    low, high = value_range or FULL_RANGE_HU
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ConfigError(f"`value_range` must be two rising numbers; got {low:g} and {high:g}")
    reals = list_volumes(Path(real), "real")
    given = {"fake": fake, BODY: body, region: masks}
    others = {name: list_volumes(Path(folder), name) for name, folder in given.items() if folder is not None}
    for name, found in others.items():
        _same_names(reals, found, name)
    notes: list[str] = []

    def pairs() -> Iterable[VolumePair]:
        for done, (name, path) in enumerate(reals.items(), start=1):
            files = {key: found[name] for key, found in others.items() if key != "fake"}
            read = read_compared(path, others["fake"][name], files, in_hounsfield=value_range is None)
            notes.extend(read.notes)
            yield VolumePair(
                name=name,
                patient=name,
                phase=ONE_PHASE,
                direction=direction,
                real=read.real,
                fake=read.fake,
                body=read.body,
                low=low,
                high=high,
                unit=HU if value_range is None else "their own unit",
                masks=read.masks,
                spacing_mm=read.spacing_mm,
            )
            if report is not None:
                report(done, len(reals), name)

    scored = score_volumes(pairs(), columns_of(Plugins(plugins)))
    unit = "HU" if value_range is None else "the volumes' own unit"
    heading = [
        f"In {unit}; PSNR and MS-SSIM on values clipped to [{low:g}, {high:g}], the peak is {high - low:g}. The body: "
        + ("as given." if body is not None else "found in the real volume, as `prepare` finds it."),
        "Every volume counts as a patient.",
    ]
    results = {"generated": aggregate(scored, VOLUME_METRICS)}
    return VolumeScores(results, {"generated": scored}, (*heading, *dict.fromkeys(notes)))


def _same_names(reals: Mapping[str, Path], others: Mapping[str, Path], argument: str) -> None:
    missing, extra = sorted(set(reals) - set(others)), sorted(set(others) - set(reals))
    if missing or extra:
        what = f"lacks {missing[0]}" if missing else f"has {extra[0]} too"
        raise DataError(
            f"`{argument}` must hold the names of `real`, {len(reals)} of them; it {what} (missing {len(missing)}, "
            f"extra {len(extra)}); make them agree"
        )


# -- columns, intervals and files --------------------------------------------------------------------------------------


def columns_of(plugins: Plugins) -> Callable[[VolumePair], dict[str, Any]]:
    """What plugins add to the scores of a volume (hook ``roi_volume_metrics``)."""

    def columns(pair: VolumePair) -> dict[str, Any]:
        given = {"real": pair.real, "fake": pair.fake, "masks": {BODY: pair.body, **pair.masks}}
        return plugins.merged("roi_volume_metrics", taken=RESERVED_NAMES, **given, spacing_mm=pair.spacing_mm)

    return columns


def volumes_with_certainty(
    scores: VolumeScores, compared_with: Sequence[SliceScores] | None = None, seed: int = 0
) -> VolumeScores:
    """The scores with 95 % intervals over patients, and with the difference to another evaluation's; as for slices."""
    if not scores.results:
        return scores
    results = {arm: with_intervals(scores.results[arm], scores.volumes[arm], seed) for arm in scores.volumes}
    if compared_with is not None:
        first = next(iter(scores.volumes))
        difference, _, against = paired_difference(scores.volumes[first], compared_with, seed, VOLUME_METRICS)
        results |= {"compared": with_intervals(against, compared_with, seed), DIFFERENCE: difference}
    return replace(scores, results=results)


def write_volume_scores(folder: Path, scores: VolumeScores) -> tuple[Path, ...]:
    """Write ``volumes.md``, ``.csv`` and ``.tex``, the table, and ``volumes.json`` with every volume too.

    Where there are no volumes, an earlier evaluation's files are removed.

    Returns:
        The files.

    Raises:
        DataError: A file cannot be written.
    """
    if not scores.results:
        remove_written(folder, FILES)
        return ()
    files = tuple(folder / name for name in FILES)
    heading = "".join(f"{in_markdown(line)}  \n" for line in (TITLE, *scores.notes))
    first, *others = scores.volumes
    content = {
        "notes": list(scores.notes),
        "rows": plain_rows(scores.results),
        "volumes": plain_scores(scores.volumes[first]),
        "reference_volumes": {arm: plain_scores(scores.volumes[arm]) for arm in others},
    }
    with recorded(folder, *files):
        write_text(files[0], f"{heading}\n{render_markdown(scores.results, None, (), scores.domains)}")
        write_text(files[1], render_csv(scores.results, None))
        write_text(files[2], render_latex(scores.results, None, (TITLE, *scores.notes), scores.domains))
        write_json(files[3], content)
    return files


def read_volume_scores(path: str | Path) -> list[SliceScores] | None:
    """The ``volumes`` that :func:`write_volume_scores` wrote; ``None`` where there are none.

    Args:
        path: A ``volumes.json``, its folder, a ``metrics.json`` beside it, or a run.

    Raises:
        DataError: It is damaged, or another file.
    """
    given = Path(path)
    places = (given, given / FILES[3], given / "test" / FILES[3], given.with_name(FILES[3]))
    file = next((place for place in places if place.is_file() and place.name == FILES[3]), None)
    if file is None:
        return None
    try:
        return slices_of(entry(read_json(file), "volumes", list))
    except (OSError, ValueError) as error:
        raise DataError(
            f"`compare` must be what `roi-progressive evaluate` wrote; {str(file)!r} cannot be used: "
            f"{fault_of(error)}; evaluate the other one again"
        ) from error


# -- all of an evaluation ----------------------------------------------------------------------------------------------


def write_evaluation(folder: str | Path, scores: RunScores) -> tuple[Path, ...]:
    """Write all files of an evaluation, of slices and, where there are any, of volumes; older ones are replaced.

    Returns:
        The files.

    Raises:
        DataError: A file cannot be written.
    """
    of_volumes = () if scores.volumes is None else write_volume_scores(Path(folder), scores.volumes)
    return write_scores(folder, scores) + of_volumes


def read_evaluation(path: str | Path) -> tuple[list[SliceScores], list[SliceScores] | None]:
    """What ``write_evaluation`` wrote to compare with: slices, and volumes where there are any.

    Raises:
        DataError: There is none, it is damaged, or it is another file.
    """
    return read_slices(path), read_volume_scores(path)
