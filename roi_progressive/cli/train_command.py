"""``roi-progressive train``: trains the bundled CycleGAN."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import setting_checks as check
from ..errors import ConfigError
from .command import add_command, add_device, device_line, show
from .progress import ProgressBar
from .streams import interrupted

if TYPE_CHECKING:
    from ..config import Config
    from ..runs.options import TrainOptions


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive train``."""
    text = "Train the bundled CycleGAN on prepared slices, guided by regions."
    several = "torchrun --nproc_per_node N -m roi_progressive.cli train ..."
    epilog = f"Several processes: {several} Then: roi-progressive evaluate RUN"
    train = add_command(commands, "train", text, epilog)
    train.add_argument("--data", type=Path, help="folder that `prepare` wrote; with --resume, if it moved")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, new or empty")
    train.add_argument(
        "--config", type=Path, metavar="TOML", help="regions, stages, uncertainty (one region); all below as [train]"
    )
    train.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="set one key of the file, e.g. train.learning_rate=1e-4, regions.tumor.scales=2; options come after it",
    )
    train.add_argument("--no-regions", action="store_true", help="train the plain CycleGAN, for comparison")
    train.add_argument("--resume", action="store_true", help="continue an interrupted run (exactly, in one process)")
    train.add_argument("--force", action="store_true", help="replace an earlier run in that folder")
    train.add_argument("--threads", type=int, metavar="N", help="threads of torch (as many as cores)")
    add_device(train, argparse.SUPPRESS)
    host = train.add_argument_group("the CycleGAN")
    absent = argparse.SUPPRESS
    host.add_argument(
        "--generator",
        choices=("unet", "resnet"),
        default=absent,
        help="the paper's UNet, or a small ResNet (unet)",
    )
    for name, kind, shown in (
        ("channels", int, "of the generators at full resolution (32)"),
        ("depth", int, "how often the UNet halves the image (4)"),
        ("residual-blocks", int, "of the ResNet (6)"),
        ("discriminator-channels", int, "of the whole-image discriminators' first layer (32)"),
        ("discriminator-layers", int, "their layers of stride 2 (3)"),
        ("epochs", int, "at the full learning rate; decay epochs follow (100)"),
        ("decay-epochs", int, "over which it falls to zero (100)"),
        ("batch-size", int, "images of each domain a step and process (1)"),
        ("learning-rate", float, "Adam's (0.0002)"),
        ("lr-step-epochs", int, "epochs between two falls of the policy step (50)"),
        ("beta1", float, "Adam's first momentum (0.5)"),
        ("pool-size", int, "generated images kept for each whole-image discriminator (50)"),
        ("cycle", float, "weight of the cycle terms (10)"),
        ("identity", float, "weight of the identity terms, as a share of the cycle's (0.5)"),
        ("average-decay", float, "of the generators' moving average, which then makes the images, 0 for none (0.99)"),
        ("crop-px", int, "side of random windows to train on; 0 takes whole slices (0)"),
        ("neighbours", int, "slices above, and below, as further channels; 0 for none (as many as the data have)"),
        ("seed", int, "of networks and data order (0)"),
        ("workers", int, "processes that load images (0)"),
    ):
        host.add_argument(f"--{name}", type=kind, metavar="N", default=absent, help=shown)
    host.add_argument(
        "--lr-policy", metavar="NAME", default=absent, help="linear, constant, step, cosine or plateau (linear)"
    )
    host.add_argument(
        "--gan-mode",
        metavar="NAME",
        default=absent,
        help="loss of the whole-image discriminators: lsgan, vanilla (lsgan)",
    )
    host.add_argument(
        "--precision",
        metavar="NAME",
        default=absent,
        help="fp32, or mixed precision: bf16, or fp16 with a scaler of the losses (fp32)",
    )
    host.add_argument(
        "--augment",
        metavar="NAME",
        default=absent,
        help="what is done to training images at random, their masks with them: none, affine or elastic (none)",
    )
    host.add_argument("--compile", action="store_true", default=absent, help="compile the networks; pays in long runs")
    host.add_argument(
        "--deterministic", action="store_true", default=absent, help="on a GPU, the same bits every time; slower"
    )
    host.add_argument(
        "--no-flip",
        dest="flip",
        action="store_false",
        default=absent,
        help="do not mirror images at random, left to right: for abdomens and chests, whose organs have a side",
    )
    _add_watching(train.add_argument_group("watching it, and its best epoch"))


def _add_watching(watching: argparse._ArgumentGroup) -> None:
    absent = argparse.SUPPRESS
    for name, shown in (
        ("save-every-epochs", "how often networks are saved and pictures drawn (10)"),
        ("validate-every", "after how many epochs the slices of `val` are scored; 0 never (0)"),
        ("patience", "end after so many validations, in the last stage, without a better one; 0 never (0)"),
        ("log-every", "steps between two that are logged (50)"),
    ):
        watching.add_argument(f"--{name}", type=int, metavar="N", default=absent, help=shown)
    watching.add_argument(
        "--keep",
        metavar="WHAT",
        default=absent,
        help="where it validates: best:METRIC keeps the best epoch too, by any metric of evaluate; or last alone "
        "(best:region_psnr)",
    )
    watching.add_argument(
        "--logger",
        nargs="+",
        metavar="NAME",
        default=absent,
        help="log losses to RUN/logs too: csv, tensorboard, wandb (offline) or mlflow (none)",
    )


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
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
        device = given.get("device")
        place = device or Run.open(options.out, data=options.data).options.device
    else:
        chosen, config, data = _settings(options, given)
        place = chosen.device
    notes = [] if options.resume else _notes(chosen, given)
    bar = ProgressBar("train", "\n".join([device_line(place), *notes]))
    with interrupted(lambda: _how_to_go_on(options, bar)), bar:
        report = bar.step if is_main_process() else None
        if options.resume:
            resume(options.out, device=device, data=options.data, report=report)
        else:
            train(data, options.out, chosen, config, force=options.force, report=report)
    if is_main_process():
        show(_what_now(options.out))


def _what_now(folder: Path) -> str:
    from ..runs.data_place import is_paired
    from ..runs.folder import Run
    from ..runs.kept_epochs import best_epoch

    run, best = Run.open(folder), best_epoch(folder)
    ended = "" if run.ended is None else f" (ended after epoch {run.epoch}: {run.ended})"
    which = "" if best is None else f" --epoch best (its best epoch is {best}; or last)"
    now = f"for the table: roi-progressive evaluate {folder}{which}"
    if not is_paired(run.data):
        command = f"roi-progressive translate {folder} SCAN OUT"
        now = f"for a new scan: {command}{which}; its data are not in pairs, so that nothing can be scored"
    return f"{folder} is trained{ended}; {now}"


def _notes(chosen: TrainOptions, given: dict[str, object]) -> list[str]:
    """What the defaults do that may surprise, said as the training begins."""
    notes = []
    if "epochs" in given and "decay_epochs" not in given:
        notes.append(
            f"note: {chosen.epochs} epochs at the full learning rate, then {chosen.decay_epochs} over which it falls "
            f"to zero, {chosen.epochs + chosen.decay_epochs} in all; --decay-epochs sets the second number"
        )
    if chosen.flip:
        notes.append(
            "note: images are mirrored at random, left to right; for an abdomen or a chest, whose organs have a side, "
            "give --no-flip"
        )
    return notes


def _refuse_with_resume(options: argparse.Namespace, given: dict[str, object]) -> None:
    flags = {
        "--config": options.config is not None,
        "--set": bool(options.set),
        "--no-regions": options.no_regions,
        "--force": options.force,
        "--no-flip": "flip" in given,
        **{f"--{name.replace('_', '-')}": True for name in given if name not in ("flip", "device")},
    }
    names = ", ".join(flag for flag, is_given in flags.items() if is_given)
    if names:
        raise ConfigError(
            f"`--resume` continues a run as it was started; got {names} too; leave out all but --out, --device and "
            f"--data, where the data set has moved"
        )


def _settings(options: argparse.Namespace, given: dict[str, object]) -> tuple[TrainOptions, Config | None, str]:
    """What a new run is told, and the data set."""
    from ..runs.commands import settings_of_training
    from ..runtime.distributed import is_main_process

    if options.data is not None:
        given = {**given, "data": str(options.data)}
    chosen, config, data = settings_of_training(
        options.config, options.set, given, no_regions=options.no_regions, name_of_data="--data"
    )
    if config is None and not options.no_regions and is_main_process():
        print(f"note: {data} has no regions; the plain CycleGAN is trained", file=sys.stderr)
    return chosen, config, data


def _how_to_go_on(options: argparse.Namespace, bar: ProgressBar) -> str:
    from ..runs.kept_epochs import saved_epoch

    if not bar.started and not options.resume:
        return "nothing was written"
    epoch = saved_epoch(options.out)
    if epoch is not None:
        return f"go on after epoch {epoch} with: roi-progressive train --out {options.out} --resume"
    return "nothing was saved yet; start again with --force" if bar.started else "nothing was written"
