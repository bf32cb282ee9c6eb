"""``roi-progressive prepare``: turns volumes into slices."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..data.ct_windows import CT_WINDOWS
from ..errors import DataError
from ..saving.names import CT_AND_MR
from .command import add_command, show
from .progress import ProgressBar
from .streams import interrupted


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive prepare``."""
    text = "Turn volumes of two modalities (NIfTI, NRRD, MHA or DICOM) with masks into slices to train on."
    prepare = add_command(
        commands,
        "prepare",
        text,
        "A stopped run goes on when it is started again. Then: roi-progressive train --data OUT --out RUN",
    )
    prepare.add_argument(
        "manifest",
        type=Path,
        help="CSV: patient, modality, image, and if wanted phase (any word, e.g. ART, PV or NC), split (train, val, "
        "test) and a column of masks for each region; paths are relative to the CSV's own folder; see `scan`",
    )
    prepare.add_argument("out", type=Path, help="folder to write, new or empty")
    prepare.add_argument(
        "--domains",
        nargs=2,
        default=CT_AND_MR.names,
        metavar=("A", "B"),
        help="what the column modality calls the two domains, e.g. T1 FLAIR (CT MR)",
    )
    prepare.add_argument(
        "--in-hu",
        nargs="*",
        metavar="MODALITY",
        help="modalities whose values are HU, which are windowed; all others are treated as an MR is (CT CBCT)",
    )
    prepare.add_argument("--size", type=int, default=256, metavar="PX", help="side of the slices (%(default)s)")
    prepare.add_argument(
        "--ct-window",
        type=float,
        nargs=2,
        default=CT_WINDOWS["soft"],
        metavar=("WIDTH", "LEVEL"),
        help="of what is in HU; or one word: soft (400 40), bone (1800 400), full (all of -1024 to 3071 HU, best "
        "with --dtype float32); default soft",
    )
    prepare.words["--ct-window"] = {name: [f"{number:g}" for number in ends] for name, ends in CT_WINDOWS.items()}
    prepare.add_argument(
        "--mr-percentiles",
        type=float,
        nargs=2,
        default=(0.5, 99.5),
        metavar=("LOW", "HIGH"),
        help="of the foreground, to which what is not in HU is clipped (0.5 99.5)",
    )
    prepare.add_argument(
        "--mr-steps",
        nargs="*",
        choices=("denoise", "bias", "standardise", "clip", "zscore"),
        default=("clip", "zscore"),
        metavar="STEP",
        help="what is done to an MR, and all else that is not in HU: denoise bias standardise clip zscore, the paper "
        "takes all five (clip zscore)",
    )
    prepare.add_argument(
        "--slices-each-side",
        type=int,
        default=4,
        metavar="N",
        help="slices on each side of the one with the largest tumour (%(default)s)",
    )
    prepare.add_argument(
        "--neighbours",
        type=int,
        default=0,
        metavar="N",
        help="2.5-D: with each slice N above and N below, which `train` then gives the networks too (%(default)s)",
    )
    prepare.add_argument(
        "--split",
        type=float,
        nargs=3,
        default=(0.6, 0.2, 0.2),
        metavar=("TRAIN", "VAL", "TEST"),
        help="shares of patients, the first above 0 to train on (0.6 0.2 0.2)",
    )
    prepare.add_argument("--seed", type=int, default=0, help="of the split (%(default)s)")
    prepare.add_argument(
        "--split-file", type=Path, metavar="CSV", help="patient,split with train, val or test, in place of --split"
    )
    prepare.add_argument(
        "--align",
        action="store_true",
        help="resample a patient's volume of B onto the grid of A; `evaluate` and `figure` need such pairs",
    )
    prepare.add_argument(
        "--paired", action="store_true", help="--align, and each pair side by side too, as pix2pix reads them"
    )
    prepare.add_argument(
        "--dtype",
        choices=("uint8", "float32"),
        default="uint8",
        help="8-bit PNGs, or .npy in [-1, 1] for `train` and `evaluate` (%(default)s)",
    )
    prepare.add_argument(
        "--field-of-view", type=float, metavar="MM", help="side of the square that is cut out (the body's longer side)"
    )
    prepare.add_argument("--processes", type=int, default=1, metavar="N", help="volumes at a time (%(default)s)")
    prepare.add_argument("--strict", action="store_true", help="exit with status 2 where a volume was left out")
    prepare.add_argument("--force", action="store_true", help="replace an earlier data set in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..data.options import PrepareOptions
    from ..data.prepare import prepare
    from ..data.splits import read_split_file

    chosen = PrepareOptions(
        size_px=options.size,
        ct_window=tuple(options.ct_window),
        mr_percentiles=tuple(options.mr_percentiles),
        slices_each_side=options.slices_each_side,
        neighbours=options.neighbours,
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
    with interrupted(lambda: "the same command again goes on where it stopped"), ProgressBar("prepare") as bar:
        given = {"processes": options.processes, "force": options.force, "report": bar.step}
        report = prepare(options.manifest, options.out, chosen, **given)
    show(report)
    if options.strict and report.problems:
        raise DataError(
            f"`--strict` asks for every volume; got {len(report.problems)} left out, named above; "
            f"repair them, or take what was written without --strict"
        )
