"""``roi-progressive calibrate``: fits the size of a run's sigma to the errors on a few pairs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .command import add_command, add_device, add_epoch, first_line, show
from .progress import ProgressBar


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive calibrate``."""
    text = "Fit a run's sigma to the errors on a few pairs: a factor and a 90 % interval by direction and region."
    epilog = (
        "Kept in RUN/networks/calibration.json; evaluate --uncertainty and figure, translate and export with --sigma "
        "use it, of the same networks: the same --epoch."
    )
    calibrate = add_command(commands, "calibrate", text, epilog)
    calibrate.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote")
    calibrate.add_argument(
        "--split", choices=("val", "test"), default="val", help="whose pairs; test only if never scored (%(default)s)"
    )
    add_epoch(calibrate)
    add_device(calibrate)


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..runs.calibrate import FILE, calibrate

    with ProgressBar("calibrate", first_line(options.device, options.run, options.epoch)) as bar:
        given = {"split": options.split, "epoch": options.epoch, "device": options.device}
        calibration = calibrate(options.run, **given, report=bar.step)
    show(calibration)
    path = options.run / "networks" / FILE
    show(f"kept in {path}")
