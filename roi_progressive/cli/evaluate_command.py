"""``roi-progressive evaluate``: prints the table."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import setting_checks as check
from ..errors import ConfigError
from ..saving.names import DIRECTIONS
from .command import add_command, add_device, device_line, show
from .progress import ProgressBar

if TYPE_CHECKING:
    from ..evaluation.scoring import SliceScores
    from ..runs.scores import RunScores


def add(commands: Any) -> None:
    """Say what can be typed after ``roi-progressive evaluate``."""
    text = "Print the table of a run's test slices, or of any folders of real and generated images."
    epilog = "table.md, .csv and .tex and metrics.json are written into RUN/test, beside the images, or into --out."
    evaluate = add_command(commands, "evaluate", text, epilog)
    evaluate.add_argument("run", type=Path, nargs="?", metavar="RUN", help="folder that `train` wrote")
    evaluate.add_argument(
        "--compare",
        type=Path,
        metavar="OTHER",
        help="an earlier evaluation of the same slices: its folder, metrics.json or run; adds paired differences",
    )
    evaluate.add_argument("--seed", type=int, default=0, metavar="N", help="of the intervals' draws (%(default)s)")
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
        "--direction", choices=DIRECTIONS, nargs="+", help="what each folder is (A2B: real holds images of domain B)"
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
    folders.add_argument("--out", type=Path, metavar="DIR", help="folder for the results, new or empty")
    folders.add_argument("--force", action="store_true", help="replace earlier results in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..evaluation.table import render_text
    from ..runs.scores import FILES, read_slices
    from ..saving.locks import only_writer
    from ..saving.written import check_foreign

    _require_run_or_folders(options)
    check.whole("", "seed", options.seed, 0)
    other = None if options.compare is None else read_slices(options.compare)
    out = options.out if options.run is None else options.run / (options.split or "test")
    written = out if options.run is None else options.run
    with only_writer(written) if options.run is None or written.is_dir() else nullcontext():  # else it is told below
        check_foreign(out, [out / name for name in FILES])
        scores, files = _scored(options, out, other)
    show(render_text(scores.results, scores.region, scores.notes, scores.domains).removesuffix("\n"))
    images = "" if options.run is None else f"; images in {out}"
    show(f"also in {', '.join(map(str, files))}{images}")


def _scored(
    options: argparse.Namespace, out: Path, other: list[SliceScores] | None
) -> tuple[RunScores, tuple[Path, ...]]:
    from ..runs.evaluate import evaluate_folders, evaluate_run, with_certainty
    from ..runs.scores import write_scores
    from ..saving.whole_files import require_new_or_empty

    with ProgressBar("evaluate", device_line(options.device)) as bar:
        given = {"weights_dir": options.weights, "device": options.device, "report": bar.step}
        if options.run is not None:
            given |= {"data": options.data}
            given |= {"region": options.region, "split": options.split or "test", "uncertainty": options.uncertainty}
            scores = evaluate_run(options.run, **given)
        else:
            require_new_or_empty(out, force=options.force, remedy="replace its table and metrics.json with --force")
            chosen = {name: getattr(options, name) for name in ("white", "region", "organs", "sigma")}
            chosen["directions"] = options.direction
            chosen["array_range"] = None if options.array_range is None else tuple(options.array_range)
            given |= {name: value for name, value in chosen.items() if value is not None}
            scores = evaluate_folders(options.real, options.fake, options.masks, manifest=options.manifest, **given)
    scores = with_certainty(scores, other, options.seed)
    return scores, write_scores(out, scores)


def _require_run_or_folders(options: argparse.Namespace) -> None:
    needed = {f"--{name}": getattr(options, name) for name in ("real", "fake", "out")}
    optional = ("masks", "direction", "manifest", "white", "array_range", "organs", "sigma")
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
    if options.run is None and options.data is not None:
        raise ConfigError("`--data` must go with RUN; got folders; leave it out")
    if options.run is None and options.uncertainty:
        raise ConfigError("`--uncertainty` must go with RUN; got folders; give their maps with --sigma instead")
