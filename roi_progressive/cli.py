"""The command ``roi-progressive``: demo, prepare, train, evaluate."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from . import __version__
from .errors import DataError, RoiProgressiveError

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and status 2, never a traceback."""
    options = _parser().parse_args(arguments)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # tables hold arrows that an ASCII terminal cannot print
            stream.reconfigure(errors="replace")
    try:
        options.command(options)
    except RoiProgressiveError as error:
        print(f"roi-progressive: error: {' '.join(str(error).split())}", file=sys.stderr)
        for note in getattr(error, "__notes__", ()):
            print(f"roi-progressive: note: {note}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"roi-progressive: error: {error.filename or 'file'}: {error.strerror or error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nroi-progressive: interrupted", file=sys.stderr)
        return INTERRUPTED
    return 0


def _demo(options: argparse.Namespace) -> None:
    from .demo import run_demo, summary

    with _Bar("demo") as bar:
        metrics = run_demo(
            options.out,
            seed=options.seed,
            epochs=options.epochs,
            processes=options.processes,
            weights_dir=options.weights,
            force=options.force,
            report=bar.share,
        )
    print(summary(metrics, options.out))


def _prepare(options: argparse.Namespace) -> None:
    from .data.options import PrepareOptions
    from .data.prepare import prepare

    chosen = PrepareOptions(
        size_px=options.size,
        ct_window=tuple(options.ct_window),
        mr_percentiles=tuple(options.mr_percentiles),
        slices_each_side=options.slices_each_side,
        split=tuple(options.split),
        split_seed=options.seed,
        align=options.align,
        field_of_view_mm=options.field_of_view,
    )
    report = prepare(options.manifest, options.out, chosen, force=options.force, progress=True)
    print(report)


def _train(options: argparse.Namespace) -> None:
    import torch

    from .config import Config
    from .run import TrainOptions, resume, train

    if options.threads:
        torch.set_num_threads(options.threads)
    with _Bar("train") as bar:
        if options.resume:
            _refuse_with_resume(options)
            resume(options.out, report=bar.step)
        else:
            if options.data is None:
                raise DataError("`--data` must be given for a new run; got none; give the folder `prepare` wrote")
            given = {
                f.name: getattr(options, f.name) for f in fields(TrainOptions) if getattr(options, f.name) is not None
            }
            config = None if options.no_regions else _region_config(options, Config)
            train(
                options.data,
                options.out,
                replace(TrainOptions(), **given),
                config,
                force=options.force,
                report=bar.step,
            )
    print(f"{options.out}: trained; `roi-progressive evaluate {options.out}` prints the table")


def _refuse_with_resume(options: argparse.Namespace) -> None:
    given = [name for name in ("data", "config") if getattr(options, name) is not None]
    if given or options.no_regions or options.force:
        names = ", ".join(
            [
                *(f"--{n}" for n in given),
                *(["--no-regions"] if options.no_regions else []),
                *(["--force"] if options.force else []),
            ]
        )
        raise DataError(f"`--resume` continues a run as it was started; got {names} too; leave them out")


def _region_config(options: argparse.Namespace, config: Any) -> Any:
    if options.config is not None:
        return config.from_toml(options.config)
    from .config import RegionConfig
    from .results import default_region

    return config(regions=(RegionConfig(default_region(Path(options.data))),))


def _evaluate(options: argparse.Namespace) -> None:
    from .evaluation.table import render_markdown, render_text
    from .results import evaluate_run, plain_scores

    with _Bar("evaluate") as bar:
        scores = evaluate_run(
            options.run, region=options.region, split=options.split, weights_dir=options.weights, report=bar.step
        )
    region = options.region or "tumor"
    folder = Path(options.run) / options.split
    (folder / "table.md").write_text(render_markdown(scores.results, region), encoding="utf-8")
    content = {"arms": scores.results, "slices": {arm: plain_scores(s) for arm, s in scores.slices.items()}}
    (folder / "metrics.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(render_text(scores.results, region), end="")
    print(f"also in {folder / 'table.md'} and {folder / 'metrics.json'}; images in {folder}")


class _Bar:
    """A progress bar with its stage and the time left."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._bar: Any = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def share(self, share: float, text: str) -> None:
        """Progress as a share, 0 to 1."""
        self.step(round(1000 * share), 1000, text)

    def step(self, done: int, total: int, text: str) -> None:
        """Progress in steps."""
        if self._bar is None:
            from tqdm import tqdm

            form = "{desc}: {percentage:3.0f}%|{bar:24}| {elapsed}, {remaining} left {postfix}"
            self._bar = tqdm(total=total, initial=0, desc=self._title, bar_format=form, mininterval=0.5)
        self._bar.set_postfix_str(text, refresh=False)
        self._bar.update(done - self._bar.n)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="roi-progressive", description="Make the regions that matter right in CT-to-MR image translation."
    )
    parser.add_argument("--version", action="version", version=f"roi-progressive {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_demo(commands)
    _add_prepare(commands)
    _add_train(commands)
    _add_evaluate(commands)
    return parser


def _add(commands: Any, name: str, command: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=text, description=text, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.set_defaults(command=command)
    return parser


def _add_demo(commands: Any) -> None:
    parser = _add(commands, "demo", _demo, "Show on a phantom what guiding by regions does to the tumour, in minutes.")
    parser.add_argument("--out", type=Path, default=Path("roi-progressive-demo"), help="folder to fill; new or empty")
    parser.add_argument("--seed", type=int, default=0, help="of the phantom and the networks")
    parser.add_argument("--epochs", type=int, default=20, help="of each of the three trainings")
    parser.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each")
    parser.add_argument("--weights", type=Path, help="folder with weights of LPIPS and FID")
    parser.add_argument("--force", action="store_true", help="use a folder that holds something")


def _add_prepare(commands: Any) -> None:
    parser = _add(commands, "prepare", _prepare, "Turn NIfTI volumes and masks into slices to train on.")
    parser.add_argument("manifest", type=Path, help="CSV: patient, phase, modality, image, one column a region")
    parser.add_argument("out", type=Path, help="folder to write; new or empty")
    parser.add_argument("--size", type=int, default=256, help="side of the slices in pixels")
    parser.add_argument(
        "--ct-window", type=float, nargs=2, default=(400.0, 40.0), metavar=("WIDTH", "LEVEL"), help="in HU"
    )
    parser.add_argument(
        "--mr-percentiles", type=float, nargs=2, default=(0.5, 99.5), metavar=("LOW", "HIGH"), help="of the foreground"
    )
    parser.add_argument(
        "--slices-each-side", type=int, default=4, help="slices on each side of the largest-tumour slice"
    )
    parser.add_argument(
        "--split",
        type=float,
        nargs=3,
        default=(0.6, 0.2, 0.2),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of patients",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the split")
    parser.add_argument("--align", action="store_true", help="resample a patient's MR onto the CT grid")
    parser.add_argument("--field-of-view", type=float, metavar="MM", help="side of the square that is cut out, in mm")
    parser.add_argument("--force", action="store_true", help="replace an earlier data set in that folder")


def _add_train(commands: Any) -> None:
    parser = _add(commands, "train", _train, "Train the bundled CycleGAN on prepared slices, guided by regions.")
    parser.add_argument("--data", type=Path, help="folder that `prepare` wrote")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run; new or empty")
    parser.add_argument("--config", type=Path, metavar="TOML", help="regions, stages, uncertainty; default: one region")
    parser.add_argument("--no-regions", action="store_true", help="train the plain CycleGAN, for comparison")
    parser.add_argument("--resume", action="store_true", help="continue an interrupted run exactly")
    parser.add_argument("--force", action="store_true", help="train into a folder that holds something")
    parser.add_argument(
        "--generator", choices=("unet", "resnet"), help="the paper's UNet, or a small ResNet (default: unet)"
    )
    for name, kind, text in (
        ("channels", int, "of the generators at full resolution (32)"),
        ("depth", int, "how often the UNet halves the image (4)"),
        ("discriminator-channels", int, "of the whole-image discriminators (32)"),
        ("discriminator-layers", int, "their layers of stride 2 (3)"),
        ("epochs", int, "at the full learning rate (100)"),
        ("decay-epochs", int, "over which it falls to zero (100)"),
        ("batch-size", int, "images of each domain a step (1)"),
        ("learning-rate", float, "Adam's (2e-4)"),
        ("identity", float, "weight of the identity terms, as a share of the cycle's (0.5)"),
        ("seed", int, "of networks and data order (0)"),
        ("workers", int, "processes that load images (0)"),
        ("save-every-epochs", int, "how often networks are saved (10)"),
    ):
        parser.add_argument(f"--{name}", type=kind, metavar="N", help=text)
    parser.set_defaults(cycle=None, flip=None)
    parser.add_argument("--threads", type=int, help="threads of torch")


def _add_evaluate(commands: Any) -> None:
    parser = _add(commands, "evaluate", _evaluate, "Translate a run's test slices and print the table.")
    parser.add_argument("run", type=Path, help="folder that `train` wrote")
    parser.add_argument("--region", help="the region of interest (default: tumor, or the data's last)")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="which slices")
    parser.add_argument("--weights", type=Path, help="folder with weights of LPIPS and FID")


if __name__ == "__main__":
    sys.exit(main())
