"""``roi-progressive scan``: writes a list of scans from a public layout."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .command import add_command


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive scan``."""
    text = "Write the list of scans that `prepare` reads from a folder in a public layout."
    scan = add_command(
        commands,
        "scan",
        text,
        "The list goes to standard output, its paths absolute, what to know to standard error: roi-progressive scan "
        "FOLDER --layout bids > scans.csv. Then: roi-progressive prepare scans.csv OUT",
    )
    scan.add_argument("folder", type=Path, help="the data set, the folder that holds dataset.json or the subjects")
    scan.add_argument(
        "--layout",
        metavar="NAME",
        required=True,
        help="bids; nnunet (imagesTr, labelsTr, dataset.json; version 1 or 2); msd (Medical Segmentation Decathlon)",
    )
    scan.add_argument(
        "--domains", nargs=2, metavar=("A", "B"), help="take scans of these two modalities alone, e.g. T1 FLAIR"
    )
    scan.add_argument(
        "--regions",
        nargs="+",
        metavar="NAME",
        help="the regions to take, NAME or NAME=LABEL or NAME=LABEL+LABEL, e.g. tumor=edema+enhancing (all)",
    )
    scan.add_argument(
        "--totalsegmentator",
        type=Path,
        metavar="DIR",
        help="take masks from its output: a folder of liver.nii.gz, ... or one label map for each scan or patient",
    )


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
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
