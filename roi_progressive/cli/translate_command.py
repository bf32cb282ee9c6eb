"""``roi-progressive translate``: makes a volume of the other kind of a new scan."""

from __future__ import annotations

import argparse
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, DataError
from ..saving.names import DIRECTIONS
from .command import add_command, add_device, add_epoch, first_line, show
from .progress import ProgressBar
from .streams import interrupted

if TYPE_CHECKING:
    from ..data.given_scans import GivenScan
    from ..runs.volume_translator import Translator


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive translate``."""
    text = "Translate a patient's whole scan with a trained run, onto the scan's own grid; no masks, no second scan."
    epilog = (
        "Values are HU where the target is in HU, within the window of the training, else grey levels. Of several "
        "scans OUT is a folder, and so are those of --sigma and --dicom."
    )
    translate = add_command(commands, "translate", text, epilog)
    translate.add_argument("run", type=Path, metavar="RUN", help="folder that `train` wrote, or its networks/ alone")
    translate.add_argument(
        "scan",
        type=Path,
        nargs="+",
        metavar="SCAN",
        help="NIfTI, NRRD, MHA or a folder with a DICOM series; or several, a folder of them, or a list (.csv with a "
        "column scan or image, .txt)",
    )
    translate.add_argument("out", type=Path, metavar="OUT", help="volume to write: .nii.gz, .nii, .nrrd or .mha")
    translate.add_argument("--direction", choices=DIRECTIONS, help="which way (told by a DICOM header or a list)")
    translate.add_argument("--sigma", type=Path, metavar="FILE", help="write the predicted standard deviation too")
    translate.add_argument("--dicom", type=Path, metavar="DIR", help="write a derived DICOM series too, new or empty")
    add_epoch(translate)
    translate.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="the data set it was trained on, where the run is of an older version or of another code",
    )
    add_device(translate)
    translate.add_argument(
        "--host",
        type=Path,
        metavar="CHECKOUT",
        help="RUN is a folder of checkpoints of this code, trained on --data; goes with --host-options, which go last",
    )
    translate.add_argument(
        "--host-options", nargs=argparse.REMAINDER, default=(), metavar="...", help="as given to the host's train.py"
    )
    translate.add_argument("--force", action="store_true", help="replace earlier results")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's, or a scan was left out.
    """
    from ..data.given_scans import given_scans

    scans, several = given_scans(options.scan)
    opened = _opened(options)
    ours = options.run if options.host is None else None
    with ProgressBar("translate", first_line(options.device, ours, options.epoch)) as bar, opened as made:
        done, problems = _several(made, scans, options, bar) if several else (_single(made, scans[0], options, bar), 0)
    show(done)
    if problems:
        raise DataError(
            f"`scan` must be usable; {problems} of {len(scans)} {'was' if problems == 1 else 'were'} left out, named "
            f"above; the others were written"
        )


def _opened(options: argparse.Namespace) -> AbstractContextManager[Translator]:
    """The networks, of a run or of a host."""
    from ..runs.host_translator import host_translator
    from ..runs.opened_translator import translator

    given = {"direction": options.direction, "epoch": options.epoch or "last", "device": options.device}
    if options.host is None:
        if options.host_options:
            raise ConfigError("`--host-options` must go with --host; got none; give the checkout")
        return translator(run=options.run, preparation=options.data, **given)
    if options.data is None:
        raise ConfigError(
            "`--data` must be given with --host; got none; give the data set that the host was trained on"
        )
    return host_translator(options.host, options.run, options.data, options.host_options, **given)


def _single(made: Translator, scan: GivenScan, options: argparse.Namespace, bar: ProgressBar) -> str:
    from ..runs.volume_translator import VolumeJob

    job = VolumeJob(scan.path, options.out, options.sigma, options.dicom)
    made.check(job, options.force)
    with interrupted(lambda: "nothing was written"):
        return str(made.translate(job, force=options.force, report=bar.step))


def _several(
    made: Translator, scans: list[GivenScan], options: argparse.Namespace, bar: ProgressBar
) -> tuple[str, int]:
    """What became of several scans, and how many were left out."""
    from ..runs.many_volumes import translate_scans

    if options.sigma is not None and options.sigma.resolve() == options.out.resolve():
        raise ConfigError("`sigma` must be another folder than OUT; got the same; give another")
    places = {"sigma": options.sigma, "dicom": options.dicom, "force": options.force}
    with interrupted(lambda: f"what was finished lies in {options.out}"):
        done = translate_scans(made, scans, options.out, **places, report=bar.step)
    return str(done), len(done.problems)
