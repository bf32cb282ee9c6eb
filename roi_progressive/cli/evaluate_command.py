"""``roi-progressive evaluate``: prints the table."""

from __future__ import annotations

import argparse
import sys
import textwrap
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import setting_checks as check
from ..errors import ConfigError
from ..saving.names import DIRECTIONS
from . import volume_evaluation
from .command import add_command, add_device, add_epoch, first_line, line_width, show
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..evaluation.scoring import SliceScores
    from ..runs.scores import RunScores

SHARE_OF_SCORES = 0.9
"""Of the progress bar; the rest is for the intervals."""


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive evaluate``."""
    text = "Print the table of a run's test slices, or of any folders of real and generated images."
    epilog = (
        "Into RUN/test, beside the images, or into --out: the table as table.md, .csv and .tex, every value as "
        "slices.csv and patients.csv, all of it as metrics.json. Those of an earlier evaluation of RUN are replaced, "
        "and it is said."
    )
    evaluate = add_command(commands, "evaluate", text, epilog)
    evaluate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder that `train` wrote")
    evaluate.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="an earlier evaluation of the same slices: its folder, metrics.json or run; adds paired differences",
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' draws (%(default)s)")
    evaluate.add_argument(
        "--columns",
        nargs="+",
        metavar="NAME",
        help="print these columns, by their names in metrics.json: tpsnr psnr lost n_slices (all that hold a value)",
    )
    evaluate.add_argument("--wide", action="store_true", help="print each row in one line, however long")
    add_epoch(evaluate)
    evaluate.add_argument("--data", type=Path, metavar="DIR", help="where the data set of a run lies now, if it moved")
    evaluate.add_argument("--region", help="the region of interest (of a run: tumor, or the data's last)")
    evaluate.add_argument("--split", choices=("test", "val"), help="which slices of a run (test)")
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights of LPIPS, FID and KID")
    add_device(evaluate)
    evaluate.add_argument(
        "--uncertainty", action="store_true", help="how well the run's sigma tells the error; adds reliability.png"
    )
    folders = evaluate.add_argument_group("folders instead of RUN", "one of each, or two for two directions")
    for name, shown in (
        ("real", "the true images: PNG or TIFF of 8 or 16 bits, or .npy"),
        ("fake", "the generated ones, under the same names"),
        ("masks", "the region of each, 0 and 255; without them whole images alone are scored"),
    ):
        folders.add_argument(f"--{name}", type=Path, nargs="+", metavar="DIR", help=shown)
    folders.add_argument(
        "--organs", type=Path, nargs="+", metavar="DIR", help="masks of what the regions lie in, for the lesion audit"
    )
    folders.add_argument(
        "--sigma", type=Path, nargs="+", metavar="DIR", help="their predicted sigma in grey levels, .npy or PNG"
    )
    folders.add_argument(
        "--direction",
        choices=DIRECTIONS,
        nargs="+",
        help="what each folder is: A2B, from domain A to domain B, where --real holds images of B, or B2A (A2B)",
    )
    folders.add_argument("--manifest", type=Path, metavar="JSON", help="tells patient, phase and HU of each name")
    folders.add_argument(
        "--white", type=float, metavar="N", help="value of 16-bit files that stands for 255 (65535); 12 bits: 4095"
    )
    folders.add_argument(
        "--array-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="values of floating-point .npy that stand for 0 and 255 (-1 1)",
    )
    volume_evaluation.add_options(evaluate, folders)
    folders.add_argument("--out", type=Path, metavar="DIR", help="folder for the results, new or empty")
    folders.add_argument("--force", action="store_true", help="replace earlier results in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..evaluation.table import WIDTH, render_text
    from ..runs import volume_scores
    from ..runs.scores import FILES
    from ..saving.locks import only_writer
    from ..saving.written import check_foreign

    _require_run_or_folders(options)
    check.whole("", "seed", options.seed, 0)
    if options.run is None and options.volumes:
        volume_evaluation.run(options)
        return
    _require_columns(options.columns)
    other = (None, None) if options.compare is None else volume_scores.read_evaluation(options.compare)
    out = options.out if options.run is None else options.run / (options.split or "test")
    written = out if options.run is None else options.run
    with only_writer(written) if options.run is None or written.is_dir() else nullcontext():  # else it is told below
        check_foreign(out, [out / name for name in volume_scores.EVALUATION_FILES])
        replaces = (out / FILES[-1]).exists()
        scores, files = _scored(options, out, other)
    _require_columns(options.columns, scores)
    width = None if options.wide else line_width()
    shown = {"width": width, "columns": options.columns}
    show(render_text(scores.results, scores.region, scores.notes, scores.domains, **shown).removesuffix("\n"))
    if scores.volumes is not None:
        show(f"\n{volume_scores.volume_table(scores.volumes, width)}")
    images = "" if options.run is None else ", beside the images"
    listed = textwrap.fill(", ".join(file.name for file in files), width or WIDTH, break_on_hyphens=False)
    show(f"\nin {out}{images}:\n{listed}")
    if replaces:
        print(f"note: they replace those of an earlier evaluation in {out}", file=sys.stderr)


def _require_columns(columns: Sequence[str] | None, scores: RunScores | None = None) -> None:
    """Before anything is scored, of a plugin's columns nothing is known but that there may be some."""
    from ..evaluation.metrics import COUNTS, METRICS
    from ..plugins.manager import Plugins

    if columns is None or (scores is None and Plugins().names("roi_metrics")):
        return
    further = {} if scores is None else {key for of in scores.slices.values() for one in of for key in one["scores"]}
    known = (*(metric.key for metric in METRICS), *COUNTS, *sorted(further))
    for name in columns:
        check.choice("", "columns", name, tuple(dict.fromkeys(known)))


def _scored(
    options: argparse.Namespace,
    out: Path,
    other: tuple[list[SliceScores] | None, list[SliceScores] | None],
) -> tuple[RunScores, tuple[Path, ...]]:
    with ProgressBar("evaluate", delay_s=1.0) as bar:
        from ..runs.evaluate import (  # takes seconds
            MODEL,
            REFERENCES,
            evaluate_folders,
            evaluate_run,
            with_certainty,
        )
        from ..runs.volume_scores import write_evaluation
        from ..saving.whole_files import require_new_or_empty

        bar.first_line = first_line(options.device, options.run, options.epoch)
        report = bar.part(0.0, SHARE_OF_SCORES)
        given = {"weights_dir": options.weights, "device": options.device, "report": report}
        if options.run is not None:
            given |= {"data": options.data}
            given |= {"region": options.region, "split": options.split or "test", "uncertainty": options.uncertainty}
            given |= {"epoch": options.epoch, "volumes": (MODEL, *REFERENCES) if options.volumes else (MODEL,)}
            scores = evaluate_run(options.run, **given)
        else:
            require_new_or_empty(out, force=options.force, remedy="replace its table and metrics.json with --force")
            chosen = {name: getattr(options, name) for name in ("white", "region", "organs", "sigma")}
            chosen["directions"] = options.direction
            chosen["array_range"] = None if options.array_range is None else tuple(options.array_range)
            given |= {name: value for name, value in chosen.items() if value is not None}
            scores = evaluate_folders(options.real, options.fake, options.masks, manifest=options.manifest, **given)
        report = bar.part(SHARE_OF_SCORES, 1.0)
        slices, volumes = other
        scores = with_certainty(scores, slices, options.seed, report, volumes_compared_with=volumes)
        return scores, write_evaluation(out, scores)


def _require_run_or_folders(options: argparse.Namespace) -> None:
    needed = {f"--{name}": getattr(options, name) for name in ("real", "fake", "out")}
    optional = ("masks", "direction", "manifest", "white", "array_range", "organs", "sigma", "body", "value_range")
    others = {f"--{name.replace('_', '-')}": getattr(options, name) for name in optional}
    others["--force"] = options.force or None
    given = [name for name, value in {**needed, **others}.items() if value is not None]
    if options.run is not None and given:
        raise ConfigError(f"`evaluate` takes RUN or folders; got RUN and {', '.join(given)}; leave one out")
    missing = [name for name, value in needed.items() if value is None]
    if options.run is None and missing:
        what = f"lacks {', '.join(missing)}" if given else "got neither"
        raise ConfigError(
            f"`evaluate` must have RUN, or --real, --fake, --out and most often --masks; {what}; add them"
        )
    if options.run is None and options.split is not None:
        raise ConfigError("`--split` must go with RUN; got folders; leave it out")
    if options.run is None and options.epoch is not None:
        raise ConfigError("`--epoch` must go with RUN; got folders; leave it out")
    if options.run is None and options.data is not None:
        raise ConfigError("`--data` must go with RUN; got folders; leave it out")
    if options.run is None and options.uncertainty:
        raise ConfigError("`--uncertainty` must go with RUN; got folders; give their maps with --sigma instead")
    volume_evaluation.check_options(options)
