"""Does it help? The bundled CycleGAN on a phantom or on scans, with and without us: arm by arm, seed by seed.

    python benchmarks/run_study.py OUT [--arms plain regions ...] [--seeds 1 2 3] [--epochs N] [--processes N] [--quick]
    python benchmarks/run_study.py OUT --scans SCANS.csv
    python benchmarks/run_study.py OUT --gliomas FOLDER [--size-px 64] [--steps 1560] [--tuning] [--patients 5 10 20]

Every arm is trained from every seed on the same data (unpaired to train on, paired to test on) with the same budget:
a frozen phantom, scans that ``SCANS.csv`` lists as ``roi-progressive prepare`` reads them, every patient with a CT,
an MR and the column ``tumor``, or gliomas, a folder of ``NAME_t1.nii.gz``, ``NAME_flair.nii.gz`` and
``NAME_tumor.nii.gz`` on one grid. A finished run is a line of ``OUT/runs.jsonl``; the same command again goes on
where it stopped, and more arms and seeds may be added later. ``OUT/report.md`` and its pictures are written anew
after each run. Of runs on gliomas their lines alone are kept, scores by patient, and no image. ``--quick`` shows in
a minute that all of it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from study.arms import MAIN, Arm
from study.data import (
    CT_WINDOW,
    FIELD_OF_VIEW_MM,
    PHANTOM_SEED,
    SPLIT_SEED,
    make_phantom_data,
    make_scan_data,
)
from study.glioma_arms import GLIOMA_ARMS, STEPS
from study.glioma_data import SPLIT_SEED as GLIOMA_SPLIT_SEED
from study.glioma_data import read_gliomas
from study.glioma_report import write_glioma_report
from study.glioma_runs import REFERENCES as GLIOMA_REFERENCES
from study.glioma_runs import GliomaRun
from study.report import write_report
from study.scan_arms import SCAN_ARMS, arms_of, scan_options
from study.training import keep_generators

from roi_progressive.cli.progress import ProgressBar
from roi_progressive.data.phantom import PHANTOM_VERSION
from roi_progressive.errors import ConfigError, RoiProgressiveError
from roi_progressive.runs.demo import demo_options
from roi_progressive.runs.evaluate import REFERENCES, evaluate_run
from roi_progressive.runs.kept_epochs import saved_epoch
from roi_progressive.runs.scores import write_scores
from roi_progressive.runs.train import TrainOptions, resume, train
from roi_progressive.runtime.parallel import Report, run_parallel
from roi_progressive.saving.records import append_json, read_json, read_json_lines, write_json

QUICK = {"patients": (6, 3), "slices": 2, "size_px": 32, "epochs": 4}
FULL = {"patients": (24, 12), "slices": 9, "size_px": 64, "epochs": 14}
QUICK_SCANS = {"size_px": 32, "epochs": 4}
FULL_SCANS = {"size_px": 64, "epochs": 12}
QUICK_GLIOMA_STEPS = 8
GLIOMA_KEY = ("arm", "seed", "tuning", "patients_a_domain")
SHRUNK = {"channels": 4, "depth": 2, "discriminator_channels": 4}


@dataclass(frozen=True)
class Run:
    """One arm from one seed."""

    arm: str
    seed: int
    out: Path
    settings: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its key among the runs of the study."""
        return f"{self.arm}-{self.seed}"

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.out / "runs" / self.name

    def __call__(self, report: Report) -> None:
        """Train, or go on, then evaluate; what came out lies in its folder's ``test``."""
        arm = arms_of(self.settings)[self.arm]
        options = replace(options_of(arm, self.settings, self.seed), save_every_epochs=2)

        def count(step: int, steps: int, text: str) -> None:
            keep_generators(self.folder)
            if step % 5 == 0:
                report(0.97 * step / steps, text)

        with arm.context():
            if saved_epoch(self.folder) is None:
                config = arm.config and replace(arm.config, seed=self.seed)
                plugins = arm.plugins(self.seed)
                data = self.out / arm.data
                train(data, self.folder, options, config, plugins=plugins, force=True, report=count)
            else:
                resume(self.folder, plugins=arm.plugins(self.seed), report=count)
        keep_generators(self.folder)
        references = REFERENCES if self.arm == "plain" else ()
        write_scores(self.folder / "test", evaluate_run(self.folder, region="tumor", references=references))
        report(1.0, "done")


def options_of(arm: Arm, settings: Mapping[str, Any], seed: int) -> TrainOptions:
    """How an arm of the study with these settings trains from a seed."""
    base = scan_options if "scans" in settings else demo_options
    changed = (SHRUNK if settings["quick"] else {}) | dict(arm.options)
    return replace(base(seed, max(4, round(settings["epochs"] * arm.epochs_share))), **changed)


def study(chosen: argparse.Namespace) -> None:
    """Train what is not there yet, and write the report; arguments as on the command line."""
    out, settings = chosen.out, settings_of(chosen.scans, chosen.quick, chosen.epochs)
    _begin(out, settings, partial(make_data, out, settings, chosen.scans))
    done = {(line["arm"], line["seed"]) for line in finished(out)}
    arms = chosen.arms or (tuple(SCAN_ARMS) if chosen.scans else MAIN)
    unknown = sorted(set(arms) - set(arms_of(settings)))
    if unknown:
        raise ConfigError(f"`arms` must be any of {', '.join(arms_of(settings))}; got {', '.join(unknown)}")
    runs = [Run(arm, seed, out, settings) for seed in chosen.seeds for arm in arms if (arm, seed) not in done]
    started = {run.name: 0.0 for run in runs}
    shares = dict.fromkeys(started, 0.0)

    def report_run(bar: ProgressBar, name: str, share: float, text: str) -> None:
        started[name] = started[name] or time.monotonic()
        shares[name] = share
        bar.share(sum(shares.values()) / len(shares), f"{name}: {text}")
        if share == 1.0:
            (run,) = (run for run in runs if run.name == name)
            append_json(out / "runs.jsonl", _line(run, (time.monotonic() - started[name]) / 60))
            write_report(out, finished(out))

    if runs:
        with ProgressBar("study") as bar:
            run_parallel({run.name: run for run in runs}, chosen.processes, partial(report_run, bar))
    else:
        write_report(out, finished(out))
    print((out / "report.md").read_text(encoding="utf-8"))


def glioma_study(chosen: argparse.Namespace) -> None:
    """Train what is not there yet of the study on gliomas, and write its report; arguments as on the command line."""
    out, slices = chosen.out, chosen.out / "slices.npz"
    steps = QUICK_GLIOMA_STEPS if chosen.quick else chosen.steps
    settings = {"gliomas": chosen.gliomas.name, "split_seed": GLIOMA_SPLIT_SEED, "size_px": chosen.size_px}
    settings |= {"steps": steps, "quick": chosen.quick}

    def prepare() -> None:
        prepared = read_gliomas(chosen.gliomas, chosen.size_px)
        out.mkdir(parents=True, exist_ok=True)
        prepared.save(slices)

    arms = chosen.arms or (GLIOMA_REFERENCES, *GLIOMA_ARMS)
    known = (GLIOMA_REFERENCES, *GLIOMA_ARMS)
    unknown = sorted(set(arms) - set(known))
    if unknown:
        raise ConfigError(f"`arms` must be any of {', '.join(known)}; got {', '.join(unknown)}")
    _begin(out, settings, prepare)
    done = {tuple(line[name] for name in GLIOMA_KEY) for line in finished(out)}
    wanted = [
        GliomaRun(arm, seed, slices, out / f"line-{arm}-{seed}-{patients}.json", steps, chosen.tuning, patients,
                  chosen.device, chosen.quick)
        for patients in chosen.patients
        for seed in chosen.seeds
        for arm in arms
        if arm != GLIOMA_REFERENCES or (seed == chosen.seeds[0] and patients == 0)
    ]  # fmt: skip
    runs = {run.name: run for run in wanted if run.key not in done}
    shares = dict.fromkeys(runs, 0.0)

    def report_run(bar: ProgressBar, name: str, share: float, text: str) -> None:
        shares[name] = share
        bar.share(sum(shares.values()) / len(shares), f"{name}: {text}")
        if share == 1.0:
            append_json(out / "runs.jsonl", read_json(runs[name].line))
            runs[name].line.unlink()
            write_glioma_report(out, finished(out))

    if runs:
        with ProgressBar("study") as bar:
            run_parallel(runs, chosen.processes, partial(report_run, bar))
    else:
        write_glioma_report(out, finished(out))
    print((out / "report.md").read_text(encoding="utf-8"))


def settings_of(scans: Path | None, quick: bool, epochs: int | None = None) -> dict[str, Any]:
    """What decides the data and the length of a study's runs, as ``study.json`` has it."""
    if scans is None:
        settings = {**(QUICK if quick else FULL)}
        settings |= {"phantom_seed": PHANTOM_SEED, "phantom_version": PHANTOM_VERSION}
    else:
        settings = {**(QUICK_SCANS if quick else FULL_SCANS), "scans": scans.name}
        settings |= {"split_seed": SPLIT_SEED, "ct_window": CT_WINDOW, "field_of_view_mm": FIELD_OF_VIEW_MM}
    settings["epochs"] = settings["epochs"] if epochs is None else epochs
    plain: dict[str, Any] = json.loads(json.dumps({**settings, "quick": quick}))
    return plain


def _begin(out: Path, settings: dict[str, Any], prepare: Callable[[], None]) -> None:
    described = out / "study.json"
    if described.is_file():
        before = read_json(described)
        other = sorted(key for key in {*before, *settings} if before.get(key) != settings.get(key))
        if other:
            raise ConfigError(f"`OUT` holds a study with other {', '.join(other)}; got {out}; choose another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`OUT` must be a new or empty folder, or a study to go on with; got {out}; choose another")
    prepare()
    write_json(described, settings)


def make_data(out: Path, settings: Mapping[str, Any], scans: Path | None) -> None:
    """What a study with these settings trains and tests on."""
    if scans is None:
        make_phantom_data(out, **{key: settings[key] for key in ("patients", "slices", "size_px")})
    else:
        make_scan_data(out, scans, size_px=settings["size_px"])


def finished(out: Path) -> list[dict[str, Any]]:
    """The lines of ``runs.jsonl``; a last one that was cut off is left out, and its run made again."""
    path = out / "runs.jsonl"
    return read_json_lines(path) if path.is_file() else []


def _line(run: Run, minutes: float) -> dict[str, Any]:
    rows = read_json(run.folder / "test" / "metrics.json")["rows"]
    means = [row for row in rows if row["phase"] == "mean"]
    return {"arm": run.arm, "seed": run.seed, "minutes": round(minutes, 2), "means": means}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; a user's mistake is one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study, new or one to go on with")
    parser.add_argument("--scans", type=Path, metavar="CSV", help="a list of scans, in place of the phantom")
    parser.add_argument("--gliomas", type=Path, metavar="FOLDER", help="scans of gliomas, in place of the phantom")
    parser.add_argument("--size-px", type=int, default=64, help="side of the slices of gliomas (64)")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of every run on gliomas ({STEPS})")
    parser.add_argument("--tuning", action="store_true", help="look at the patients to tune on, gliomas alone")
    parser.add_argument(
        "--patients", nargs="+", type=int, default=(0,), help="a domain to train on, gliomas alone (all)"
    )
    parser.add_argument("--device", default="cpu", help="of the runs on gliomas (cpu)")
    parser.add_argument("--arms", nargs="+", help="which (of the phantom plain regions placebo, of scans all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3), help="of networks and data order (1 2 3)")
    parser.add_argument("--epochs", type=int, help="of every run (14 of the phantom, 12 of scans)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each (2)")
    parser.add_argument("--quick", action="store_true", help="a tiny study that shows that everything works")
    try:
        chosen = parser.parse_args(arguments)
        glioma_study(chosen) if chosen.gliomas else study(chosen)
    except RoiProgressiveError as error:
        print(f"run_study: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nrun_study: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
