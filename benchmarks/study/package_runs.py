"""Many runs of the package at a time, each a process of one thread, within a wall-clock budget.

    python benchmarks/study/package_runs.py OUT --slices gliomas64.npz --runs plain:101 regions:101 ...
        [--processes 16] [--seconds 270] [--device cpu] [--test] [--epochs N]

A run is trained by ``roi_progressive.runs.train``, translates the patients that are scored, and becomes a line of
``OUT/package.jsonl``: scores by patient, no image. A line that is there already is not made again; a run that
fails is named in ``OUT/package_log.txt`` with its traceback, and the others go on. After the budget no run starts, and
those still under way are ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

METRICS = ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio", "lost", "inverted", "invented")

TRIAL_STEPS = 40
SLACK = 1.08
"""How much longer than in the trial a step may take."""


class _Stopped(Exception):
    """The run was only to show how long a step lasts."""


def made(job: dict[str, Any], agree: Callable[[float], int] | None = None) -> dict[str, Any]:
    """Train and score one run: its line.

    Args:
        job: What is run.
        agree: Takes the seconds of a step and gives the number of steps that all runs of the budget can take; ``None``
            takes as many as the job asks for.
    """
    import torch

    from roi_progressive import Config, StageConfig
    from roi_progressive.evaluation.aggregation import patient_values
    from roi_progressive.evaluation.pairs import DIRECTIONS, pairs_from_folders
    from roi_progressive.evaluation.references import constant_fill, copy_source, mean_image
    from roi_progressive.evaluation.scoring import score
    from roi_progressive.runs.train import train
    from roi_progressive.runs.translate import translate
    from study.glioma_arms import GLIOMA_ARMS, glioma_options
    from study.glioma_data import Gliomas, test_fold, tuning_fold, write_folders

    torch.set_num_threads(1)
    slices, seed = Gliomas.load(Path(job["slices"])), job["seed"]
    fold = test_fold(slices.patients) if job["test"] else tuning_fold(slices.patients, seed)
    if job["per_domain"]:
        fold = fold.shortened(job["per_domain"])
    line = {key: job[key] for key in ("arm", "seed", "test", "per_domain", "device")}

    def by_patient(pairs: Any) -> dict[str, dict[str, float]]:
        found = score(pairs)
        values = {metric: patient_values(found, metric) for metric in METRICS}
        return {metric: {p: round(v, 4) for p, v in of.items() if np.isfinite(v)} for metric, of in values.items()}

    with tempfile.TemporaryDirectory() as place:
        write_folders(Path(place), slices, fold)
        if job["arm"] == "references":
            root = Path(place) / "data"
            makers = {
                "constant fill": lambda pairs: constant_fill(pairs, root, "tumor"),
                "copy of the source": copy_source,
                "mean image": lambda pairs: mean_image(pairs, root),
            }
            scores = {
                name: {d: by_patient(make(pairs_from_folders(root, "test", d, None))) for d in DIRECTIONS}
                for name, make in makers.items()
            }
            return {**line, "scores": scores}
        arm = GLIOMA_ARMS[job["arm"]]
        root, run, size_px = Path(place) / arm.data, Path(place) / "run", slices.masks.shape[1]
        n_slices = len(list((root / "trainA").iterdir()))
        config = arm.config and replace(arm.config, seed=seed)

        def train_for(steps: int, stop_after: int = 0, config: Config | None = config) -> list[float]:
            times = list[float]()

            def count(step: int, steps: int, text: str) -> None:
                times.append(time.monotonic())
                if step == stop_after:
                    raise _Stopped

            options = replace(glioma_options(seed, n_slices, job["device"], size_px, steps), **dict(arm.options))
            with suppress(_Stopped), arm.context():
                train(root, run, options, config, plugins=arm.plugins(seed), force=True, report=count)
            return times

        if job["stop_after"]:
            times = train_for(job["steps"], job["stop_after"])
            return {**line, "seconds_a_step": round(float(np.median(np.diff(times)[-40:])), 4), "steps": len(times)}
        steps = job["steps"]
        if agree:
            at_once = config and replace(
                config,
                regions=tuple(replace(region, stage=1) for region in config.regions),
                stages=StageConfig(fade_fraction=0.0),
            )
            steps = agree(float(np.mean(np.diff(train_for(steps, TRIAL_STEPS, at_once))[5:])))
        begun = time.monotonic()
        times = train_for(steps)
        trained = time.monotonic()
        images = translate(run)
        scores = {d: by_patient(pairs_from_folders(root, "test", d, images[d])) for d in DIRECTIONS}
        return {
            **line,
            "size_px": size_px,
            "steps": len(times),
            "seconds_a_step": round(float(np.median(np.diff(times))), 4),
            "seconds_trained": round(trained - begun, 1),
            "seconds_scored": round(time.monotonic() - trained, 1),
            "scores": scores,
        }


def _work(job: dict[str, Any], told: Any, agreed: Any) -> None:
    def agree(seconds_a_step: float) -> int:
        told.put((job, seconds_a_step, "rate"))
        while agreed.value == 0:
            time.sleep(0.1)
        return int(agreed.value)

    try:
        os.nice(5 if job["device"] == "cpu" else 0)
        told.put((job, made(job, agree if agreed is not None else None), None))
    except BaseException:
        told.put((job, None, traceback.format_exc()))


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    """What tells runs apart."""
    return tuple(line[name] for name in ("arm", "seed", "test", "per_domain"))


def main() -> int:
    """Run a list of runs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slices", required=True)
    parser.add_argument("--runs", nargs="+", required=True, help="ARM:SEED, or ARM:SEED:PATIENTS_A_DOMAIN")
    parser.add_argument("--processes", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--steps", type=int, default=1560)
    parser.add_argument("--stop-after", type=int, default=0, help="steps after which only their duration is told")
    parser.add_argument("--test", action="store_true", help="score the test patients, not those to tune on")
    parser.add_argument("--name", default="package", help="of the files written")
    parser.add_argument(
        "--agree",
        type=float,
        default=0.0,
        metavar="SECONDS",
        help="all runs begin at once and take the steps that the budget holds, less so many seconds to score them",
    )
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    deadline = begun + chosen.seconds
    results = chosen.out / f"{chosen.name}.jsonl"
    log = open(chosen.out / f"{chosen.name}_log.txt", "a", encoding="utf-8", buffering=1)

    def note(text: str) -> None:
        log.write(f"{time.monotonic() - begun:7.1f} s  {text}\n")
        print(f"{time.monotonic() - begun:7.1f} s  {text.splitlines()[-1]}", flush=True)

    done = {key(json.loads(line)) for line in results.read_text().splitlines()} if results.is_file() else set()
    jobs = []
    for run in chosen.runs:
        arm, seed, *patients = run.replace("_", " ").split(":")
        job = {"arm": arm, "seed": int(seed), "test": chosen.test, "per_domain": int(patients[0]) if patients else 0}
        job |= {
            "slices": chosen.slices,
            "device": chosen.device,
            "steps": chosen.steps,
            "stop_after": chosen.stop_after,
        }
        jobs += [job] if key(job) not in done else []
    context = get_context("spawn")
    told, running = context.Queue(), dict[tuple[Any, ...], Any]()
    agreed = context.Value("i", 0) if chosen.agree else None
    rates, asked = list[float](), len(jobs)
    with open(results, "a", encoding="utf-8", buffering=1) as lines:
        while (jobs or running) and time.monotonic() < deadline:
            while jobs and len(running) < chosen.processes:
                job = jobs.pop(0)
                running[key(job)] = context.Process(target=_work, args=(job, told, agreed), daemon=True)
                running[key(job)].start()
            try:
                job, line, error = told.get(timeout=0.5)
            except Exception:
                for name, process in list(running.items()):
                    if not process.is_alive() and process.exitcode:
                        note(f"{name} was ended with status {process.exitcode}")
                        del running[name]
                continue
            if error == "rate":
                rates.append(line)
            else:
                running.pop(key(job), None)
                asked -= error is not None and agreed is not None and agreed.value == 0
            if agreed is not None and agreed.value == 0 and len(rates) >= min(asked, chosen.processes):
                left = deadline - chosen.agree - time.monotonic()
                agreed.value = max(1, min(chosen.steps, int(left / (SLACK * max(rates, default=1.0)))))
                note(f"{sorted(rates)} s a step; {left:.0f} s left: {agreed.value} steps")
            if error == "rate":
                continue
            if line is None:
                note(f"{key(job)} failed:\n{error}")
            else:
                lines.write(json.dumps(line) + "\n")
                note(
                    f"{key(job)}: {line.get('steps')} steps of {line.get('seconds_a_step')} s, "
                    f"{line.get('seconds_trained')} s, scored in {line.get('seconds_scored')} s"
                )
    for name, process in running.items():
        process.terminate()
        note(f"{name} was not finished in time")
    note(f"{len(jobs)} runs not begun")
    return 0


if __name__ == "__main__":
    sys.exit(main())
