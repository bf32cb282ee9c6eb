"""The command ``roi-progressive``: demo, prepare, train, evaluate, figure, check."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING

from .. import setting_checks as check
from ..errors import ConfigError, DataError, RoiProgressiveError
from .parser import parser
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..config import Config

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2, never a traceback."""
    options = parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # tables hold arrows that an ASCII terminal cannot print
            stream.reconfigure(errors="replace")
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
        print("\nroi-progressive: interrupted" + "".join(f"; {text}" for text in interrupt.args), file=sys.stderr)
        return INTERRUPTED
    return 0


def _mistake(text: str) -> int:
    print(f"roi-progressive: error: {' '.join(text.split())}", file=sys.stderr)
    return 2


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
    print(summary(metrics, options.out))


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
    )
    try:
        with ProgressBar("prepare") as bar:
            given = {"processes": options.processes, "force": options.force, "report": bar.step}
            report = prepare(options.manifest, options.out, chosen, **given)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the same command again goes on where it stopped") from None
    print(report)
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
        print(f"{options.out} is trained; for the table: roi-progressive evaluate {options.out}")


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

    if options.no_regions:
        if options.config is not None:
            raise ConfigError("`--config` and `--no-regions` must not be given together; got both; leave one out")
        return None
    if options.config is not None:
        return Config.from_toml(options.config)
    check_folder(options.data)
    return Config(regions=(RegionConfig(default_region(options.data)),))


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
    from ..runs.evaluate import evaluate_folders, evaluate_run, with_certainty
    from ..runs.scores import read_slices, write_scores
    from ..saving.whole_files import require_new_or_empty

    _require_run_or_folders(options)
    check.whole("", "seed", options.seed, 0)
    other = None if options.compare is None else read_slices(options.compare)
    out = options.out if options.run is None else options.run / (options.split or "test")
    with ProgressBar("evaluate", _device_line(options.device)) as bar:
        given = {"weights_dir": options.weights, "device": options.device, "report": bar.step}
        if options.run is not None:
            given |= {"region": options.region, "split": options.split or "test", "uncertainty": options.uncertainty}
            scores = evaluate_run(options.run, **given)
        else:
            require_new_or_empty(out, force=options.force, remedy="replace its table and metrics.json with --force")
            chosen = {name: getattr(options, name) for name in ("white", "region", "organs", "sigma")}
            chosen["directions"] = options.direction
            given |= {name: value for name, value in chosen.items() if value is not None}
            scores = evaluate_folders(options.real, options.fake, options.masks, manifest=options.manifest, **given)
    scores = with_certainty(scores, other, options.seed)
    files = write_scores(out, scores)
    print(render_text(scores.results, scores.region, scores.notes), end="")
    images = "" if options.run is None else f"; images in {out}"
    print(f"also in {', '.join(map(str, files))}{images}")


def _require_run_or_folders(options: argparse.Namespace) -> None:
    needed = {f"--{name}": getattr(options, name) for name in ("real", "fake", "masks", "out")}
    others = {f"--{name}": getattr(options, name) for name in ("direction", "manifest", "white", "organs", "sigma")}
    others["--force"] = options.force or None
    given = [name for name, value in {**needed, **others}.items() if value is not None]
    if options.run is not None and given:
        raise ConfigError(f"`evaluate` takes RUN or folders; got RUN and {', '.join(given)}; leave one out")
    missing = [name for name, value in needed.items() if value is None]
    if options.run is None and missing:
        what = f"lacks {', '.join(missing)}" if given else "got neither"
        raise ConfigError(f"`evaluate` must have RUN, or --real, --fake, --masks and --out; {what}; add them")
    if options.run is None and options.split is not None:
        raise ConfigError("`--split` must go with RUN; got folders; leave it out")
    if options.run is None and options.uncertainty:
        raise ConfigError("`--uncertainty` must go with RUN; got folders; give their maps with --sigma instead")


def _figure(options: argparse.Namespace) -> None:
    from ..runs.figure import draw_run
    from ..saving.names import CT_AND_MR

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
        print(f"{CT_AND_MR.title(figure.direction)}: {', '.join(map(str, figure.files))}")
        print("\n".join(f"  {row}" for row in figure.rows))


def _check(options: argparse.Namespace) -> None:
    from ..check.host_check import check_host
    from ..config import Config

    config = Config() if options.config is None else Config.from_toml(options.config)
    print(check_host(options.host, options.data, config, options.host_options))


COMMANDS = {
    "demo": _demo,
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "figure": _figure,
    "check": _check,
}
