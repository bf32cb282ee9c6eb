"""``roi-progressive evaluate --volumes --real ... --fake ...``: prints the table of folders of volumes."""

from __future__ import annotations

import argparse
from typing import Any

from ..errors import ConfigError, DataError
from .command import line_width, show
from .progress import ProgressBar


def add_options(evaluate: Any, folders: Any) -> None:
    """Add what volumes take to the options of ``evaluate``, and to those of its folders."""
    evaluate.add_argument(
        "--volumes",
        action="store_true",
        help="of a run: score the references as volumes too, beside the run itself; with --real and --fake: their "
        "folders hold volumes (NIfTI, NRRD or MHA)",
    )
    folders.add_argument("--body", metavar="DIR", help="with --volumes: masks of the body (found otherwise)")
    folders.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="with --volumes: the range of volumes that are not in HU (-1024 3071, in HU)",
    )


def check_options(options: argparse.Namespace) -> None:
    """Check options that go with volumes alone, and those that do not go with folders of them.

    Raises:
        ConfigError: One does not.
    """
    of_volumes = [name for name in ("body", "value_range") if getattr(options, name) is not None]
    if of_volumes and not options.volumes:
        raise ConfigError(
            f"`--{of_volumes[0].replace('_', '-')}` must go with --volumes; add it, or leave this one out"
        )
    if options.run is not None or not options.volumes:
        return
    of_slices = ("manifest", "white", "array_range", "organs", "sigma", "weights")
    wrong = [f"--{name.replace('_', '-')}" for name in of_slices if getattr(options, name) is not None]
    if wrong:
        raise ConfigError(f"`--volumes` takes --real, --fake, --body and --masks; got {', '.join(wrong)}; leave it out")
    several = [name for name in ("real", "fake", "masks", "direction") if len(getattr(options, name) or ()) > 1]
    if several:
        raise ConfigError(f"`--{several[0]}` must be one with --volumes; got several; evaluate one after the other")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..runs import volume_scores
    from ..saving.locks import only_writer
    from ..saving.whole_files import require_new_or_empty
    from ..saving.written import check_foreign

    other = None
    if options.compare is not None:
        other = volume_scores.read_volume_scores(options.compare)
        if other is None:
            raise DataError(
                f"`compare` must hold scores of volumes; {str(options.compare)!r} has no {volume_scores.FILES[3]}; "
                f"evaluate the other one first"
            )
    given = {
        "body": options.body,
        "masks": options.masks and options.masks[0],
        "region": options.region,
        "direction": options.direction and options.direction[0],
        "value_range": options.value_range and tuple(options.value_range),
    }
    with only_writer(options.out):
        check_foreign(options.out, [options.out / name for name in volume_scores.FILES])
        require_new_or_empty(options.out, force=options.force, remedy="replace its table and volumes.json with --force")
        with ProgressBar("evaluate") as bar:
            scores = volume_scores.evaluate_volume_folders(
                options.real[0],
                options.fake[0],
                report=bar.step,
                **{name: value for name, value in given.items() if value is not None},
            )
        scores = volume_scores.volumes_with_certainty(scores, other, options.seed)
        files = volume_scores.write_volume_scores(options.out, scores)
    show(volume_scores.volume_table(scores, line_width()))
    show(f"also in {', '.join(map(str, files))}")
