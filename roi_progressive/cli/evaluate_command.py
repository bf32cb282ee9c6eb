"""``roi-progressive evaluate``: prints the table."""

from __future__ import annotations

import argparse
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from .. import setting_checks as check
from ..errors import ConfigError, DataError
from ..saving.names import DIRECTIONS
from .command import add_command, add_device, device_line, show
from .progress import ProgressBar


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
    evaluate.add_argument("--region", help="the region of interest (of a run: tumor, or the data's last)")
    evaluate.add_argument("--split", choices=("test", "val"), help="which slices of a run (test)")
    evaluate.add_argument("--weights", type=Path, metavar="DIR", help="folder with weights of LPIPS, FID and KID")
    add_device(evaluate)
    evaluate.add_argument(
        "--uncertainty", action="store_true", help="how well the run's sigma tells the error; adds reliability.png"
    )
    evaluate.add_argument(
        "--volumes",
        action="store_true",
        help="of a run: score the references as volumes too, beside the run itself; with --real and --fake: their "
        "folders hold volumes (NIfTI, NRRD or MHA)",
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
    folders.add_argument("--body", type=Path, metavar="DIR", help="with --volumes: masks of the body (found otherwise)")
    folders.add_argument(
        "--value-range",
        type=float,
        nargs=2,
        metavar=("LOW", "HIGH"),
        help="with --volumes: the range of volumes that are not in HU (-1024 3071, in HU)",
    )
    folders.add_argument("--out", type=Path, metavar="DIR", help="folder for the results, new or empty")
    folders.add_argument("--force", action="store_true", help="replace earlier results in that folder")


def run(options: argparse.Namespace) -> None:
    """Carry it out.

    Raises:
        RoiProgressiveError: A mistake of the user's.
    """
    from ..saving.locks import only_writer

    _require_run_or_folders(options)
    check.whole("", "seed", options.seed, 0)
    out = options.out if options.run is None else options.run / (options.split or "test")
    written = out if options.run is None else options.run
    with only_writer(written) if options.run is None or written.is_dir() else nullcontext():  # else it is told below
        tables, files = _volumes(options, out) if options.run is None and options.volumes else _slices(options, out)
    show("\n\n".join(tables))
    images = "" if options.run is None else f"; images in {out}"
    show(f"also in {', '.join(map(str, files))}{images}")


def _slices(options: argparse.Namespace, out: Path) -> tuple[list[str], tuple[Path, ...]]:
    """The tables of slices and of a run's volumes, and the files they are in."""
    from ..evaluation.table import render_text
    from ..runs import volume_scores
    from ..runs.evaluate import MODEL, REFERENCES, evaluate_folders, evaluate_run, with_certainty
    from ..runs.scores import FILES, read_slices, write_scores
    from ..saving.whole_files import require_new_or_empty
    from ..saving.written import check_foreign

    other = None if options.compare is None else read_slices(options.compare)
    volumes_of_other = None if options.compare is None else volume_scores.read_volume_scores(options.compare)
    check_foreign(out, [out / name for name in (*FILES, *volume_scores.FILES)])
    with ProgressBar("evaluate", device_line(options.device)) as bar:
        given = {"weights_dir": options.weights, "device": options.device, "report": bar.step}
        if options.run is not None:
            given |= {"region": options.region, "split": options.split or "test", "uncertainty": options.uncertainty}
            given["volumes"] = (MODEL, *REFERENCES) if options.volumes else (MODEL,)
            scores = evaluate_run(options.run, **given)
        else:
            require_new_or_empty(out, force=options.force, remedy="replace its table and metrics.json with --force")
            chosen = {name: getattr(options, name) for name in ("white", "region", "organs", "sigma")}
            chosen["directions"] = options.direction
            chosen["array_range"] = None if options.array_range is None else tuple(options.array_range)
            given |= {name: value for name, value in chosen.items() if value is not None}
            scores = evaluate_folders(options.real, options.fake, options.masks, manifest=options.manifest, **given)
    scores = with_certainty(scores, other, options.seed, volumes_of_other)
    files = write_scores(out, scores)
    tables = [render_text(scores.results, scores.region, scores.notes, scores.domains).removesuffix("\n")]
    if scores.volumes is not None:
        files += volume_scores.write_volume_scores(out, scores.volumes)
        tables.append(volume_scores.volume_table(scores.volumes))
    return tables, files


def _volumes(options: argparse.Namespace, out: Path) -> tuple[list[str], tuple[Path, ...]]:
    """The table of folders of volumes, and the files it is in."""
    from ..runs.volume_scores import (
        FILES,
        evaluate_volume_folders,
        read_volume_scores,
        volume_table,
        volumes_with_certainty,
        write_volume_scores,
    )
    from ..saving.whole_files import require_new_or_empty
    from ..saving.written import check_foreign

    other = None
    if options.compare is not None:
        other = read_volume_scores(options.compare)
        if other is None:
            raise DataError(
                f"`compare` must hold scores of volumes; {str(options.compare)!r} has no {FILES[3]}; evaluate the "
                f"other one first"
            )
    check_foreign(out, [out / name for name in FILES])
    require_new_or_empty(out, force=options.force, remedy="replace its table and volumes.json with --force")
    given = {"region": options.region, "direction": options.direction and options.direction[0]}
    with ProgressBar("evaluate") as bar:
        scores = evaluate_volume_folders(
            options.real[0],
            options.fake[0],
            body=options.body,
            masks=options.masks and options.masks[0],
            value_range=None if options.value_range is None else tuple(options.value_range),
            report=bar.step,
            **{name: value for name, value in given.items() if value is not None},
        )
    scores = volumes_with_certainty(scores, other, options.seed)
    return [volume_table(scores)], write_volume_scores(out, scores)


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
    if options.run is None and options.uncertainty:
        raise ConfigError("`--uncertainty` must go with RUN; got folders; give their maps with --sigma instead")
    _require_what_volumes_take(options)


def _require_what_volumes_take(options: argparse.Namespace) -> None:
    """Check options that go with volumes alone, and those that do not go with folders of them."""
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
    several = [n for n in ("real", "fake", "masks", "direction") if len(getattr(options, n) or ()) > 1]
    if several:
        raise ConfigError(f"`--{several[0]}` must be one with --volumes; got several; evaluate one after the other")
