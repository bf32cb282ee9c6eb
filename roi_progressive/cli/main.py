"""The command ``roi-progressive``: demo, scan, prepare, train, evaluate, figure, check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from typing import TYPE_CHECKING

from .. import setting_checks as check
from ..errors import ConfigError, DataError, RoiProgressiveError
from ..saving.plain_text import printable, printable_lines
from .parser import parser
from .progress import ProgressBar
from .streams import ended_by_signals, enduring_streams

if TYPE_CHECKING:
    from pathlib import Path

    from ..config import Config
    from ..evaluation.scoring import SliceScores
    from ..runs.scores import RunScores

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2, never a traceback."""
    with ended_by_signals() as signals, enduring_streams():
        status = _run(parser().parse_args(arguments))
        # As a shell reports it, so that who started us can tell an end from a failure.
        return 128 + signals[-1] if status == INTERRUPTED and signals else status


def _run(options: argparse.Namespace) -> int:
    try:
        COMMANDS[options.command](options)
    except RoiProgressiveError as error:
        return _mistake("; ".join([str(error), *getattr(error, "__notes__", ())]))
    except OSError as error:
        return _mistake(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (MemoryError, RuntimeError) as error:
        first = str(error).partition("\n")[0]
        if not isinstance(error, MemoryError) and "memory" not in first:
            raise
        return _mistake(f"not enough memory ({first}); use smaller images, batches or networks")
    except KeyboardInterrupt as interrupt:
        more = "".join(f"; {printable(str(text))}" for text in interrupt.args)
        print(f"\nroi-progressive: interrupted{more}", file=sys.stderr)
        return INTERRUPTED
    return 0


def _mistake(text: str) -> int:
    print(f"roi-progressive: error: {printable(' '.join(text.split()))}", file=sys.stderr)
    return 2


def _show(text: object) -> None:
    """Print a result; names in it are text, whatever is in them."""
    print(printable_lines(str(text)))


def _device_line(device: str) -> str:
    """The first line of a command that computes: where."""
    from ..runtime.devices import choose_device, describe_device

    return f"device: {describe_device(choose_device(device))}"


def _demo(options: argparse.Namespace) -> None:
    from ..runs.demo import run_demo
    from ..runs.demo_report import summary

    check.whole("", "processes", options.processes, 1)
    try:
        with ProgressBar("demo", _device_line(options.device)) as bar:
            metrics = run_demo(
                options.out,
                seed=options.seed,
                epochs=options.epochs,
                processes=options.processes,
                weights_dir=options.weights,
                device=options.device,
                force=options.force,
                report=bar.share,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"start again with: roi-progressive demo --force --out {options.out}") from None
    _show(summary(metrics, options.out))


def _scan(options: argparse.Namespace) -> None:
    from ..data.scan_lists import scan_list

    found = scan_list(
        options.folder,
        options.layout,
        domains=options.domains,
        regions=options.regions,
        totalsegmentator=options.totalsegmentator,
    )
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    print(found.csv(), end="")


def _prepare(options: argparse.Namespace) -> None:
    from ..data.options import PrepareOptions
    from ..data.prepare import prepare
    from ..data.splits import read_split_file

    chosen = PrepareOptions(
        size_px=options.size,
        ct_window=tuple(options.ct_window),
        mr_percentiles=tuple(options.mr_percentiles),
        slices_each_side=options.slices_each_side,
        split=tuple(options.split),
        split_seed=options.seed,
        split_of=None if options.split_file is None else read_split_file(options.split_file),
        align=options.align,
        paired=options.paired,
        dtype=options.dtype,
        field_of_view_mm=options.field_of_view,
        mr_steps=tuple(options.mr_steps),
        domains=tuple(options.domains),
        **({} if options.in_hu is None else {"hounsfield": tuple(options.in_hu)}),
    )
    try:
        with ProgressBar("prepare") as bar:
            given = {"processes": options.processes, "force": options.force, "report": bar.step}
            report = prepare(options.manifest, options.out, chosen, **given)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command again goes on where it stopped") from None
    _show(report)
    if options.strict and report.problems:
        raise DataError(
            f"`--strict` asks for every volume; got {len(report.problems)} left out, named above; "
            f"repair them, or take what was written without --strict"
        )


def _train(options: argparse.Namespace) -> None:
    from .launch import process_group

    with process_group():
        _train_here(options)


def _train_here(options: argparse.Namespace) -> None:
    import torch

    from ..runs.folder import Run
    from ..runs.options import TrainOptions
    from ..runs.train import resume, train
    from ..runtime.distributed import is_main_process

    given = {f.name: getattr(options, f.name) for f in fields(TrainOptions) if hasattr(options, f.name)}
    if options.threads is not None:
        check.whole("", "threads", options.threads, 1, 1024)
        torch.set_num_threads(options.threads)
    if options.resume:
        _refuse_with_resume(options, given)
    elif options.data is None:
        raise DataError("`--data` must be given for a new run; got none; give the folder that `prepare` wrote")
    device = given.get("device")
    place = device or (Run.open(options.out).options.device if options.resume else "auto")
    try:
        with ProgressBar("train", _device_line(place)) as bar:
            report = bar.step if is_main_process() else None
            if options.resume:
                resume(options.out, device=device, report=report)
            else:
                chosen, config = TrainOptions(**given), _region_config(options)
                train(options.data, options.out, chosen, config, force=options.force, report=report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(options, bar)) from None
    if is_main_process():
        _show(f"{options.out} is trained; for the table: roi-progressive evaluate {options.out}")


def _refuse_with_resume(options: argparse.Namespace, given: dict[str, object]) -> None:
    flags = {
        "--data": options.data is not None,
        "--config": options.config is not None,
        "--no-regions": options.no_regions,
        "--force": options.force,
        "--no-flip": "flip" in given,
        **{f"--{name.replace('_', '-')}": True for name in given if name not in ("flip", "device")},
    }
    names = ", ".join(flag for flag, is_given in flags.items() if is_given)
    if names:
        raise ConfigError(
            f"`--resume` continues a run as it was started; got {names} too; leave out all but --out and --device"
        )


def _region_config(options: argparse.Namespace) -> Config | None:
    from ..check.data_check import check_folder
    from ..config import Config, RegionConfig
    from ..runs.evaluate import default_region
    from ..runtime.distributed import is_main_process

    if options.no_regions:
        if options.config is not None:
            raise ConfigError("`--config` and `--no-regions` must not be given together; got both; leave one out")
        return None
    if options.config is not None:
        return Config.from_toml(options.config)
    check_folder(options.data)
    region = default_region(options.data)
    if region is None:
        if is_main_process():
            print(f"note: {options.data} has no regions; the plain CycleGAN is trained", file=sys.stderr)
        return None
    return Config(regions=(RegionConfig.studied(region),))


def _how_to_go_on(options: argparse.Namespace, bar: ProgressBar) -> str:
    from ..runs.folder import saved_epoch

    if not bar.started and not options.resume:
        return "nothing was written"
    epoch = saved_epoch(options.out)
    if epoch is not None:
        return f"go on after epoch {epoch} with: roi-progressive train --out {options.out} --resume"
    return "nothing was saved yet; start again with --force" if bar.started else "nothing was written"


def _evaluate(options: argparse.Namespace) -> None:
    from ..evaluation.table import render_text
    from ..runs.scores import FILES, read_slices
    from ..saving.locks import only_writer
    from ..saving.written import check_foreign

    _require_run_or_folders(options)
    check.whole("", "seed", options.seed, 0)
    other = None if options.compare is None else read_slices(options.compare)
    out = options.out if options.run is None else options.run / (options.split or "test")
    written = out if options.run is None else options.run
    with only_writer(written) if options.run is None or written.is_dir() else nullcontext():  # else it is told below
        check_foreign(out, [out / name for name in FILES])
        scores, files = _scored(options, out, other)
    _show(render_text(scores.results, scores.region, scores.notes, scores.domains).removesuffix("\n"))
    images = "" if options.run is None else f"; images in {out}"
    _show(f"also in {', '.join(map(str, files))}{images}")


def _scored(
    options: argparse.Namespace, out: Path, other: list[SliceScores] | None
) -> tuple[RunScores, tuple[Path, ...]]:
    from ..runs.evaluate import evaluate_folders, evaluate_run, with_certainty
    from ..runs.scores import write_scores
    from ..saving.whole_files import require_new_or_empty

    with ProgressBar("evaluate", _device_line(options.device)) as bar:
        given = {"weights_dir": options.weights, "device": options.device, "report": bar.step}
        if options.run is not None:
            given |= {"region": options.region, "split": options.split or "test", "uncertainty": options.uncertainty}
            scores = evaluate_run(options.run, **given)
        else:
            require_new_or_empty(out, force=options.force, remedy="replace its table and metrics.json with --force")
            chosen = {name: getattr(options, name) for name in ("white", "region", "organs", "sigma")}
            chosen["directions"] = options.direction
            chosen["array_range"] = None if options.array_range is None else tuple(options.array_range)
            given |= {name: value for name, value in chosen.items() if value is not None}
            scores = evaluate_folders(options.real, options.fake, options.masks, manifest=options.manifest, **given)
    scores = with_certainty(scores, other, options.seed)
    return scores, write_scores(out, scores)


def _require_run_or_folders(options: argparse.Namespace) -> None:
    needed = {f"--{name}": getattr(options, name) for name in ("real", "fake", "out")}
    optional = ("masks", "direction", "manifest", "white", "array_range", "organs", "sigma")
    others = {f"--{name.replace('_', '-')}": getattr(options, name) for name in optional}
    others["--force"] = options.force or None
    given = [name for name, value in {**needed, **others}.items() if value is not None]
    if options.run is not None and given:
        raise ConfigError(f"`evaluate` takes RUN or folders; got RUN and {', '.join(given)}; leave one out")
    missing = [name for name, value in needed.items() if value is None]
    if options.run is None and missing:
        what = f"lacks {', '.join(missing)}" if given else "got neither"
        raise ConfigError(
            f"`evaluate` must have RUN, or --real, --fake, --out and most often --masks; {what}; add them"
        )
    if options.run is None and options.split is not None:
        raise ConfigError("`--split` must go with RUN; got folders; leave it out")
    if options.run is None and options.uncertainty:
        raise ConfigError("`--uncertainty` must go with RUN; got folders; give their maps with --sigma instead")


def _figure(options: argparse.Namespace) -> None:
    from ..runs.figure import draw_run

    with ProgressBar("figure", _device_line(options.device)) as bar:
        drawn = draw_run(
            options.run,
            directions=options.direction,
            patient=options.patient,
            region=options.region,
            split=options.split,
            sigma=options.sigma,
            error=options.error,
            out=options.out,
            force=options.force,
            device=options.device,
            report=bar.step,
        )
    for figure in drawn:
        _show(f"{figure.title}: {', '.join(map(str, figure.files))}")
        _show("\n".join(f"  {row}" for row in figure.rows))


def _check(options: argparse.Namespace) -> None:
    from ..check.host_check import check_host
    from ..config import Config

    config = Config() if options.config is None else Config.from_toml(options.config)
    _show(check_host(options.host, options.data, config, options.host_options))


COMMANDS = {
    "demo": _demo,
    "scan": _scan,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "figure": _figure,
    "check": _check,
}
