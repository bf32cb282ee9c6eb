"""``roi-progressive demo``: shows on a phantom what guiding by regions does."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from .command import add_command, add_device, device_line, show
from .progress import ProgressBar
from .streams import interrupted


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive demo``."""
    text = "Show on a phantom what guiding by regions does to the tumour, in minutes."
    demo = add_command(
        commands, "demo", text, "It ends with five lines; then look at figure.png and report.md in the folder."
    )
    demo.add_argument(
        "--out", type=Path, default=Path("roi-progressive-demo"), help="folder to fill, new or empty (%(default)s)"
    )
    demo.add_argument("--seed", type=int, default=0, help="of the phantom and the networks (%(default)s)")
    demo.add_argument("--epochs", type=int, default=14, help="of each of the three trainings (%(default)s)")
    demo.add_argument("--processes", type=int, default=2, help="trainings at a time, one thread each (%(default)s)")
    demo.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights of LPIPS, FID and KID")
    add_device(demo)
    demo.add_argument("--force", action="store_true", help="replace an earlier demo in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..runs.demo import run_demo
    from ..runs.demo_report import summary

    check.whole("", "processes", options.processes, 1)
    again = f"start again with: roi-progressive demo --force --out {options.out}"
    with interrupted(lambda: again), ProgressBar("demo", device_line(options.device)) as bar:
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
    show(summary(metrics, options.out))
