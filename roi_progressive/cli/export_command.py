"""``roi-progressive export``: writes what of a run can be handed on."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..saving.names import DIRECTIONS
from .command import add_command, add_epoch, networks_line, show


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive export``."""
    text = (
        "Write a run's generators as programs that need nothing of this package, with a card that says what they are."
    )
    epilog = "A program takes slices in [-1, 1] and holds weights alone: no image, no pool of patients' windows."
    export = add_command(commands, "export", text, epilog)
    export.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote")
    export.add_argument("out", type=Path, metavar="OUT", help="folder to write, new or empty")
    export.add_argument(
        "--format",
        choices=("torch", "onnx"),
        default="torch",
        help="A2B.pt, a TorchScript program for torch from 2.1 on, or A2B.onnx (%(default)s)",
    )
    export.add_argument("--direction", choices=DIRECTIONS, nargs="+", default=DIRECTIONS, help="which (both)")
    export.add_argument("--sigma", action="store_true", help="let it return the predicted standard deviation too")
    add_epoch(export)
    export.add_argument("--data", type=Path, metavar="DIR", help="where the run's data set lies now, if it has moved")
    export.add_argument("--force", action="store_true", help="replace an earlier export in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..runs.export import export

    networks = networks_line(options.run, options.epoch)
    done = export(
        options.run,
        options.out,
        format=options.format,
        directions=options.direction,
        sigma=options.sigma,
        epoch=options.epoch,
        data=options.data,
        force=options.force,
    )
    print(networks, file=sys.stderr)
    for note in done.notes:
        show(f"note: {note}")
    show(f"wrote {', '.join(map(str, done.files))}")
