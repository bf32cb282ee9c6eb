"""``roi-progressive train``: trains the bundled CycleGAN."""

from __future__ import annotations

import argparse
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import setting_checks as check
from ..errors import ConfigError, DataError
from .command import add_command, add_device, device_line, show
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..config import Config


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive train``."""
    text = "Train the bundled CycleGAN on prepared slices, guided by regions."
    several = "torchrun --nproc_per_node N -m roi_progressive.cli train ..."
    epilog = f"Several processes: {several} Then: roi-progressive evaluate RUN"
    train = add_command(commands, "train", text, epilog)
    train.add_argument("--data", type=Path, help="folder that `prepare` wrote; with --resume, if it moved")
    train.add_argument("--out", type=Path, required=True, metavar="RUN", help="folder of the run, new or empty")
    train.add_argument("--config", type=Path, metavar="TOML", help="regions, stages, uncertainty (one region)")
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
        ("discriminator-channels", int, "of the whole-image discriminators' first layer (32)"),
        ("discriminator-layers", int, "their layers of stride 2 (3)"),
        ("epochs", int, "at the full learning rate (100)"),
        ("decay-epochs", int, "over which it falls to zero (100)"),
        ("batch-size", int, "images of each domain a step and process (1)"),
        ("learning-rate", float, "Adam's (0.0002)"),
        ("cycle", float, "weight of the cycle terms (10)"),
        ("identity", float, "weight of the identity terms, as a share of the cycle's (0.5)"),
        ("average-decay", float, "of the generators' moving average, which then makes the images, e.g. 0.99 (0.0)"),
        ("seed", int, "of networks and data order (0)"),
        ("workers", int, "processes that load images (0)"),
        ("save-every-epochs", int, "how often networks are saved (10)"),
    ):
        host.add_argument(f"--{name}", type=kind, metavar="N", default=absent, help=shown)
    host.add_argument(
        "--precision",
        metavar="NAME",
        default=absent,
        help="fp32, or mixed precision: bf16, or fp16 with a scaler of the losses (fp32)",
    )
    host.add_argument("--compile", action="store_true", default=absent, help="compile the networks; pays in long runs")
    host.add_argument(
        "--deterministic", action="store_true", default=absent, help="on a GPU, the same bits every time; slower"
    )
    host.add_argument(
        "--no-flip", dest="flip", action="store_false", default=absent, help="do not mirror images at random"
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
    elif options.data is None:
        raise DataError("`--data` must be given for a new run; got none; give the folder that `prepare` wrote")
    device = given.get("device")
    place = device or (Run.open(options.out, data=options.data).options.device if options.resume else "auto")
    try:
        with ProgressBar("train", device_line(place)) as bar:
            report = bar.step if is_main_process() else None
            if options.resume:
                resume(options.out, device=device, data=options.data, report=report)
            else:
                chosen, config = TrainOptions(**given), _region_config(options)
                train(options.data, options.out, chosen, config, force=options.force, report=report)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(_how_to_go_on(options, bar)) from None
    if is_main_process():
        show(f"{options.out} is trained; for the table: roi-progressive evaluate {options.out}")


def _refuse_with_resume(options: argparse.Namespace, given: dict[str, object]) -> None:
    flags = {
        "--config": options.config is not None,
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
    return Config(regions=(RegionConfig(region),))


def _how_to_go_on(options: argparse.Namespace, bar: ProgressBar) -> str:
    from ..runs.folder import saved_epoch

    if not bar.started and not options.resume:
        return "nothing was written"
    epoch = saved_epoch(options.out)
    if epoch is not None:
        return f"go on after epoch {epoch} with: roi-progressive train --out {options.out} --resume"
    return "nothing was saved yet; start again with --force" if bar.started else "nothing was written"
