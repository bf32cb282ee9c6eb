"""The commands as functions: ``roi_progressive.prepare``, ``train``, ``evaluate`` and ``figure``.

Their arguments are the options of the command line with underscores for hyphens, and what they write is the same.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import setting_checks as check
from ..config import Config
from ..errors import ConfigError, DataError
from ..saving.names import DIRECTIONS

# What a command needs is imported when it is called: whoever guides a host of their own needs none of it.
if TYPE_CHECKING:
    from ..data.job_runner import Progress
    from ..data.prepare import PrepareReport
    from .figure import RunFigure
    from .options import TrainOptions
    from .scores import RunScores
    from .train import Report

_OF_RUN = (
    *("epoch", "data", "region", "split", "references", "uncertainty", "volumes", "weights", "device", "plugins"),
    "report",
)
_OF_FOLDERS = (
    *("direction", "manifest", "organs", "sigma", "region", "white", "array_range", "weights", "device", "plugins"),
    "report",
)
_OF_FIGURE = ("epoch", "data", "patient", "region", "split", "sigma", "error", "out", "force", "device", "report")
_OF_EVALUATE = {"weights": "weights_dir", "direction": "directions"}
_OF_PREPARE = {
    "size": "size_px",
    "seed": "split_seed",
    "field_of_view": "field_of_view_mm",
    "in_hu": "hounsfield",
}
"""Options that are called otherwise on the command line than where they are taken."""


def prepare(
    manifest: str | Path,
    out: str | Path,
    *,
    split_file: str | Path | None = None,
    processes: int = 1,
    force: bool = False,
    report: Progress | None = None,
    **options: Any,
) -> PrepareReport:
    """Turn volumes of two modalities with masks into slices to train on, as ``roi-progressive prepare`` does.

    Args:
        manifest: CSV: patient, modality, image, and if wanted phase, split, and a column a region.
        out: Folder to write, new or empty.
        split_file: CSV of patient and split, in place of ``split``.
        processes: Volumes at a time.
        force: Replace an earlier data set in that folder.
        report: Called with what is done, all, and in words.
        **options: Those of the command line: ``size``, ``domains``, ``in_hu``, ``ct_window``, ``mr_percentiles``,
            ``mr_steps``, ``slices_each_side``, ``neighbours``, ``split``, ``seed``, ``align``, ``paired``, ``dtype``,
            ``field_of_view``.

    Returns:
        What was written, left out and noted; ``print`` shows it as the command does.

    Raises:
        ConfigError: An option is unknown (the nearest is named) or wrong.
        DataError: The list or a file cannot be used, or ``out`` holds files and ``force`` is not set.
    """
    from ..data.options import PrepareOptions
    from ..data.prepare import prepare as prepare_volumes
    from ..data.splits import read_split_file

    known = [_shown_name(field.name) for field in dataclasses.fields(PrepareOptions) if field.name != "split_of"]
    check.known_names(options, known)
    given: dict[str, Any] = {
        _OF_PREPARE.get(name, name): tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }
    if split_file is not None:
        given["split_of"] = read_split_file(Path(split_file))
    chosen = PrepareOptions(**given)
    return prepare_volumes(manifest, out, chosen, processes=processes, force=force, report=report)


def _shown_name(field: str) -> str:
    return next((shown for shown, name in _OF_PREPARE.items() if name == field), field)


def train(
    data: str | Path | None = None,
    out: str | Path | None = None,
    *,
    config: Config | Mapping[str, Any] | str | Path | None = None,
    no_regions: bool = False,
    resume: bool = False,
    force: bool = False,
    plugins: Iterable[Any] = (),
    report: Report | None = None,
    **options: Any,
) -> Path:
    """Train the bundled CycleGAN on prepared slices, guided by regions, as ``roi-progressive train`` does.

    Args:
        data: Folder that ``prepare`` wrote; it may stand in the file of ``config`` instead.
        out: Folder of the run, new or empty.
        config: Regions, stages and uncertainty: a ``Config``, or a TOML file or its content, which may hold all
            ``options`` too, in its table ``train``. The data's region alone by default.
        no_regions: Train the plain CycleGAN.
        resume: Continue the run in ``out`` from its last saved epoch; nothing else may be given but ``device``.
        force: Replace an earlier run in that folder.
        plugins: Plugins of the session, besides those installed; loggers are given the host's losses too.
        report: Called after every step with steps done, steps in all, and in words.
        **options: Those of the command line, the fields of ``TrainOptions``: ``epochs``, ``learning_rate``,
            ``validate_every``, ...

    Returns:
        The run's folder, for ``evaluate`` and ``figure``.

    Raises:
        ConfigError: An option is unknown (the nearest is named) or wrong, or some do not go together.
        DataError: ``data`` or ``out`` cannot be used.
        CheckpointError: Nothing to resume is saved, or a file of it is damaged.
        MaskError: Masks are missing or cannot be used.
        DivergenceError: A weight or a loss is infinite or NaN at an epoch's end.
    """
    from .options import TrainOptions
    from .train import resume as resume_run
    from .train import train as train_run

    if out is None:
        raise DataError("`out` must be given; got none; give the folder of the run")
    if resume:
        others = {"data": data, "config": config, "no_regions": no_regions or None, "force": force or None, **options}
        given = [name for name, value in others.items() if value is not None and name != "device"]
        if given:
            raise ConfigError(
                f"`resume` continues a run as it was started; got {', '.join(given)} too; leave out all but out and "
                f"device"
            )
        resume_run(out, device=options.get("device"), plugins=plugins, report=report)
        return Path(out)
    check.known_names(options, [field.name for field in dataclasses.fields(TrainOptions)])
    named = options if data is None else {**options, "data": str(data)}
    if isinstance(config, Config):
        config = config.to_mapping()
    chosen, guidance, root = settings_of_training(config, (), named, no_regions=no_regions, name_of_data="data")
    train_run(root, out, chosen, guidance, plugins=plugins, force=force, report=report)
    return Path(out)


def settings_of_training(
    config: str | Path | Mapping[str, Any] | None,
    sets: Sequence[str],
    given: Mapping[str, Any],
    *,
    no_regions: bool,
    name_of_data: str,
) -> tuple[TrainOptions, Config | None, str]:
    """What a new run is told, from all that may tell it: :func:`~roi_progressive.runs.settings.read_settings`.

    Args:
        config: The file, or its content.
        sets: Single settings.
        given: Options by name, ``data`` among them.
        no_regions: Train the plain CycleGAN.
        name_of_data: What the caller's user calls the data set.

    Returns:
        How the host trains, how it is guided (``None`` for a plain training), and the data set.

    Raises:
        ConfigError: A setting is unknown or wrong, or guidance is configured and ``no_regions`` set.
        DataError: The data set is not named or cannot be used.
    """
    from ..check.data_check import check_folder
    from ..evaluation.region_names import default_region
    from .settings import read_settings

    first = read_settings(config, [text for text in sets if text.startswith("train.")], given)
    if first.data is None:
        raise DataError(f"`{name_of_data}` must be given for a new run; got none; give the folder that `prepare` wrote")
    says_guidance = first.guidance is not None or any(not text.startswith("train.") for text in sets)
    if no_regions:
        if says_guidance:
            raise ConfigError(
                "`--config` and `--no-regions` must not be given together where the file has other tables than "
                "[train]; got both; leave one out"
            )
        return first.options, None, first.data
    region = None
    if first.guidance is None:
        check_folder(Path(first.data))
        region = default_region(Path(first.data))
    chosen = read_settings(config, sets, given, default_region=region)
    return chosen.options, chosen.config(region), first.data


def evaluate(
    run: str | Path | None = None,
    *,
    real: Sequence[str | Path] = (),
    fake: Sequence[str | Path] = (),
    masks: Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    compare: str | Path | None = None,
    seed: int = 0,
    force: bool = False,
    **options: Any,
) -> RunScores:
    """Score a run's slices, or folders of images, and write the table, as ``roi-progressive evaluate`` does.

    Args:
        run: Folder that ``train`` wrote; the results go into its part that was scored.
        real: Instead of a run: the folder of true images of each direction.
        fake: The folder of generated ones, likewise.
        masks: The folder of masks, likewise; ``None`` scores whole images alone.
        out: The folder for the results of folders, new or empty.
        compare: An earlier evaluation of the same slices; adds paired differences.
        seed: Of the intervals' draws.
        force: Replace earlier results in ``out``.
        **options: Of a run ``epoch``, ``data``, ``region``, ``split``, ``references``, ``uncertainty``, ``volumes``,
            ``weights``, ``device``, ``plugins`` and ``report``, as for
            :func:`~roi_progressive.runs.evaluate.evaluate_run`; of folders
            ``direction``, ``manifest``, ``organs``, ``sigma``, ``region``, ``white``, ``array_range``, ``weights``,
            ``device``, ``plugins`` and ``report``, as for :func:`~roi_progressive.runs.evaluate.evaluate_folders`.

    Returns:
        The scores: rows by arm, slices, and where the images lie.

    Raises:
        ConfigError: Neither a run nor folders are given, or both, or an option is unknown (the nearest is named).
        DataError: Something of it cannot be used.
        CheckpointError: A network is missing or damaged, or the epoch is not kept.
    """
    from ..saving.locks import only_writer
    from ..saving.whole_files import require_new_or_empty
    from ..saving.written import check_foreign
    from .evaluate import evaluate_folders, evaluate_run, with_certainty
    from .folder import Run
    from .volume_scores import EVALUATION_FILES, read_evaluation, write_evaluation

    if (run is None) == (not real or not fake or out is None):
        raise ConfigError("`evaluate` must have a run, or real, fake and out; got neither or both; give one of them")
    check.known_names(options, _OF_FOLDERS if run is None else _OF_RUN)
    options = {_OF_EVALUATE.get(name, name): value for name, value in options.items()}
    slices, volumes = (None, None) if compare is None else read_evaluation(compare)
    if run is not None:
        place = Path(run) / options.get("split", "test")
        opened = Run.open(run, epoch=options.pop("epoch", None), data=options.pop("data", None))
        with only_writer(Path(run)):
            check_foreign(place, [place / name for name in EVALUATION_FILES])
            scores = with_certainty(evaluate_run(opened, **options), slices, seed, volumes_compared_with=volumes)
            write_evaluation(place, scores)
        return scores
    assert out is not None
    with only_writer(out):
        require_new_or_empty(Path(out), force=force)
        check_foreign(Path(out), [Path(out) / name for name in EVALUATION_FILES])
        scores = with_certainty(evaluate_folders(real, fake, masks, **options), slices, seed)
        write_evaluation(out, scores)
    return scores


def figure(
    run: str | Path,
    *,
    direction: Sequence[str] = DIRECTIONS,
    **options: Any,
) -> list[RunFigure]:
    """Draw real source, generated image and real target of a run, as ``roi-progressive figure`` does.

    Args:
        run: Folder that ``train`` wrote.
        direction: One figure each.
        **options: ``epoch``, ``data``, ``patient``, ``region``, ``split``, ``sigma``, ``error``, ``out``, ``force``,
            ``device`` and ``report``, as for :func:`~roi_progressive.runs.figure.draw_run`.

    Returns:
        For each direction the files, and what each row shows.

    Raises:
        ConfigError: A direction is unknown or comes twice, or an option is unknown (the nearest is named).
        DataError: Something cannot be used, or ``out`` holds figures and ``force`` is not set.
        CheckpointError: A network is missing or damaged, or the epoch is not kept.
    """
    from .figure import draw_run

    check.known_names(options, _OF_FIGURE)
    return draw_run(run, directions=direction, **options)
