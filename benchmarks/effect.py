"""Does it help? The bundled CycleGAN on a phantom, with and without us: arm by arm, seed by seed.

    python benchmarks/effect.py OUT [--arms plain regions ...] [--seeds 1 2 3] [--epochs N] [--processes N] [--quick]

Every arm is trained from every seed on the same frozen phantom (unpaired to train on, paired to test on) with the same
budget. A finished run is a line of ``OUT/runs.jsonl``; the same command again goes on where it stopped, and more arms
and seeds may be added later. ``OUT/report.md`` and its pictures are written anew after each run. ``--quick`` shows in
a minute that all of it works; its figures mean nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from effect_arms import ARMS, MAIN
from effect_report import write_report

from roi_progressive.data.phantom import PHANTOM_VERSION, make_phantom
from roi_progressive.demo import demo_options
from roi_progressive.errors import ConfigError, RoiProgressiveError
from roi_progressive.parallel import Report, run_parallel
from roi_progressive.progress import ProgressBar
from roi_progressive.results import REFERENCES, evaluate_run
from roi_progressive.run import resume, train
from roi_progressive.run_folder import append_json, saved_epoch, write_json
from roi_progressive.score_files import write_scores

PHANTOM_SEED = 7000
"""Frozen; tuning used other phantoms."""
QUICK = {"patients": (6, 3), "slices": 2, "size_px": 32, "epochs": 4}
FULL = {"patients": (24, 12), "slices": 9, "size_px": 64, "epochs": 14}


@dataclass(frozen=True)
class Run:
    """One arm from one seed."""

    arm: str
    seed: int
    folder: Path
    data: Path
    epochs: int
    quick: bool

    @property
    def name(self) -> str:
        """Its key among the runs of the study."""
        return f"{self.arm}-{self.seed}"

    def __call__(self, report: Report) -> None:
        """Train, or go on, then evaluate; what came out lies in its folder's ``test``."""
        arm = ARMS[self.arm]
        shrunk = {"channels": 4, "depth": 2, "discriminator_channels": 4} if self.quick else {}
        options = replace(demo_options(self.seed, self.epochs), **shrunk, **arm.options, save_every_epochs=2)

        def count(step: int, steps: int, text: str) -> None:
            if step % 5 == 0:
                report(0.97 * step / steps, text)

        with arm.context():
            if saved_epoch(self.folder) is None:
                config = arm.config and replace(arm.config, seed=self.seed)
                plugins = arm.plugins(self.seed)
                train(self.data, self.folder, options, config, plugins=plugins, force=True, report=count)
            else:
                resume(self.folder, plugins=arm.plugins(self.seed), report=count)
        references = REFERENCES if self.arm == "plain" else ()
        write_scores(self.folder / "test", evaluate_run(self.folder, region="tumor", references=references))
        report(1.0, "done")


def study(
    out: Path, arms: Sequence[str], seeds: Sequence[int], epochs: int | None, processes: int, *, quick: bool
) -> None:
    """Train what is not there yet, and write the report."""
    preset = QUICK if quick else FULL
    settings = {**preset, "phantom_seed": PHANTOM_SEED, "phantom_version": PHANTOM_VERSION, "quick": quick}
    settings["epochs"] = settings["epochs"] if epochs is None else epochs
    settings = json.loads(json.dumps(settings))
    _begin(out, settings)
    done = {(line["arm"], line["seed"]) for line in finished(out)}
    runs = [
        Run(arm, seed, out / "runs" / f"{arm}-{seed}", out / "data", settings["epochs"], quick)
        for seed in seeds
        for arm in arms
        if (arm, seed) not in done
    ]
    started = {run.name: 0.0 for run in runs}
    shares = dict.fromkeys(started, 0.0)

    def hear(bar: ProgressBar, name: str, share: float, text: str) -> None:
        started[name] = started[name] or time.monotonic()
        shares[name] = share
        bar.share(sum(shares.values()) / len(shares), f"{name}: {text}")
        if share == 1.0:
            (run,) = (run for run in runs if run.name == name)
            append_json(out / "runs.jsonl", _line(run, (time.monotonic() - started[name]) / 60))
            write_report(out, finished(out))

    if runs:
        with ProgressBar("effect") as bar:
            run_parallel({run.name: run for run in runs}, processes, partial(hear, bar))
    else:
        write_report(out, finished(out))
    print((out / "report.md").read_text(encoding="utf-8"))


def _begin(out: Path, settings: dict[str, Any]) -> None:
    described = out / "study.json"
    if described.is_file():
        before = json.loads(described.read_text(encoding="utf-8"))
        other = sorted(key for key in settings if before.get(key) != settings[key])
        if other:
            raise ConfigError(f"`OUT` holds a study with other {', '.join(other)}; got {out}; choose another folder")
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"`OUT` must be a new or empty folder, or a study to go on with; got {out}; choose another")
    (n_train, n_test), slices = settings["patients"], settings["slices"]
    out.mkdir(parents=True, exist_ok=True)
    sizes = {"n_train": n_train, "n_val": 0, "n_test": n_test, "slices_per_patient": slices}
    make_phantom(out / "data", **sizes, size_px=settings["size_px"], seed=PHANTOM_SEED)
    write_json(described, settings)


def finished(out: Path) -> list[dict[str, Any]]:
    """The lines of ``runs.jsonl``; a last one that was cut off is left out, and its run made again."""
    path, lines = out / "runs.jsonl", []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def _line(run: Run, minutes: float) -> dict[str, Any]:
    rows = json.loads((run.folder / "test" / "metrics.json").read_text(encoding="utf-8"))["rows"]
    means = [row for row in rows if row["phase"] == "mean"]
    return {"arm": run.arm, "seed": run.seed, "minutes": round(minutes, 2), "means": means}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; a user's mistake is one line and status 2."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder of the study, new or one to go on with")
    parser.add_argument("--arms", nargs="+", choices=tuple(ARMS), default=MAIN, help="which (plain regions placebo)")
    parser.add_argument("--seeds", nargs="+", type=int, default=(1, 2, 3), help="of networks and data order (1 2 3)")
    parser.add_argument("--epochs", type=int, help="of every run (14)")
    parser.add_argument("--processes", type=int, default=2, help="runs at a time, one thread each (2)")
    parser.add_argument("--quick", action="store_true", help="a tiny study that shows that everything works")
    chosen = parser.parse_args(arguments)
    try:
        study(chosen.out, chosen.arms, chosen.seeds, chosen.epochs, chosen.processes, quick=chosen.quick)
    except RoiProgressiveError as error:
        print(f"effect: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\neffect: interrupted; the same command goes on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
