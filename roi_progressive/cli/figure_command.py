"""``roi-progressive figure``: draws real, generated and real target."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..saving.names import DIRECTIONS
from .command import add_command, add_device, add_epoch, first_line, show
from .progress import ProgressBar


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive figure``."""
    text = "Draw real source, generated image and real target of a run by contrast phase, the region enlarged."
    epilog = "Each row shows the patient whose tumour PSNR is the median, never the best, and says so."
    figure = add_command(commands, "figure", text, epilog)
    figure.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote")
    add_epoch(figure)
    figure.add_argument(
        "--direction",
        choices=DIRECTIONS,
        nargs="+",
        default=DIRECTIONS,
        help="one figure each: A2B, from domain A to domain B, B2A back (both)",
    )
    figure.add_argument("--patient", metavar="NAME", help="show this one instead of the median")
    figure.add_argument("--sigma", action="store_true", help="add the predicted standard deviation")
    figure.add_argument(
        "--error", action="store_true", help="add the absolute error of the generated image, a CT's in HU"
    )
    figure.add_argument("--region", help="the region to box (tumor, or the data's last)")
    figure.add_argument("--split", choices=("test", "val"), default="test", help="which slices (%(default)s)")
    figure.add_argument("--data", type=Path, metavar="DIR", help="where the data set of the run lies now, if it moved")
    add_device(figure)
    figure.add_argument("--out", type=Path, metavar="DIR", help="folder for figure_A2B.png, .pdf, ... (RUN/test)")
    figure.add_argument("--force", action="store_true", help="replace figures in --out")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    with ProgressBar("figure", delay_s=1.0) as bar:
        from ..runs.figure import draw_run  # takes seconds

        bar.first_line = first_line(options.device, options.run, options.epoch)
        drawn = draw_run(
            options.run,
            epoch=options.epoch,
            directions=options.direction,
            patient=options.patient,
            region=options.region,
            split=options.split,
            sigma=options.sigma,
            error=options.error,
            out=options.out,
            force=options.force,
            device=options.device,
            data=options.data,
            report=bar.step,
        )
    for figure in drawn:
        show(f"{figure.title}: {', '.join(map(str, figure.files))}")
        show("\n".join(f"  {row}" for row in figure.rows))
