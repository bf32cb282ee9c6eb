"""Stacks side by side on one device within a wall-clock budget; what came out is one file of lines, run by run.

    python benchmarks/study/stacked_runs.py OUT --slices gliomas64.npz --batch tuning [--seconds 270] [--device cuda]

Every stack is a process. All of them first take a few steps together, so that it is known how long a step lasts; where
the budget does not hold the steps that were asked for, all take as many as it does. Images are scored as soon as
they are made, by a few processes more, with the functions behind ``roi-progressive evaluate``; no image is kept.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from roi_progressive.evaluation.aggregation import patient_values
from roi_progressive.evaluation.pairs import ImagePair
from roi_progressive.evaluation.scoring import score
from study.glioma_data import Gliomas
from study.stacked_arms import Stack
from study.stacked_batches import BATCHES
from study.stacked_networks import StackedConv
from study.stacked_training import DECAYS, StackedTraining, healthy_places, train_stack

METRICS = ("tpsnr", "tssim", "psnr", "ssim", "texture_ratio", "lost", "inverted", "invented")
TRIAL_STEPS = 12
SECONDS_FOR_THE_END = 27.0

_slices: Gliomas | None = None


def _load(path: str) -> None:
    global _slices
    torch.set_num_threads(1)
    _slices = Gliomas.load(Path(path))


def scored(direction: str, chosen: Sequence[int], fakes: np.ndarray) -> dict[str, dict[str, float]]:
    """Scores of generated slices by metric and patient."""
    assert _slices is not None
    source, target = direction[0], direction[2]

    def pair(index: int, fake: np.ndarray) -> ImagePair:
        images = _slices.images
        return ImagePair(
            _slices.names[index],
            _slices.patients[index],
            "NC",
            direction,
            images[source][index],
            images[target][index],
            fake,
            _slices.masks[index],
        )

    found = score([pair(index, fake) for index, fake in zip(chosen, fakes, strict=True)])
    by_metric = {metric: patient_values(found, metric) for metric in METRICS}
    return {metric: {p: round(v, 4) for p, v in of.items() if np.isfinite(v)} for metric, of in by_metric.items()}


def _train(
    stack: Stack, slices: str, device_name: str, unfolded: bool, barrier: Any, told: Any, agreed: Any, deadline: float
) -> None:
    """One stack in a process of its own."""
    try:
        torch.set_num_threads(1)
        torch.backends.cuda.matmul.allow_tf32 = True
        StackedConv.unfolded = unfolded
        device, data = torch.device(device_name), Gliomas.load(Path(slices))
        places = healthy_places(data)
        trial = StackedTraining(stack, data, device, places)

        def step(number: int) -> float:
            begun = time.monotonic()
            trial.step(number)
            if device.type == "cuda":
                torch.cuda.synchronize()
            return time.monotonic() - begun

        took = [step(stack.steps - TRIAL_STEPS + number) for number in range(2)]
        with suppress(threading.BrokenBarrierError):  # another one failed; this one goes on
            barrier.wait(60)
        took += [step(stack.steps - TRIAL_STEPS + number) for number in range(2, TRIAL_STEPS)]
        told.put(("rate", stack.name, float(np.median(took[4:]))))
        del trial
        while agreed.value == 0 and time.monotonic() < deadline:
            time.sleep(0.05)
        stack = Stack(**{**stack.__dict__, "steps": int(agreed.value * stack.steps)})
        training = StackedTraining(stack, data, device, places)

        def report(number: int) -> bool:
            if number % 200 == 0:
                told.put(("log", stack.name, f"step {number} of {stack.steps}"))
            return time.monotonic() < deadline

        if not train_stack(training, report):
            told.put(("log", stack.name, "out of time"))
            return
        for average in list(DECAYS)[:1] if stack.test else DECAYS:
            for slot, (chosen, fakes) in training.generated(average).items():
                arm, seed = stack.runs[slot % training.n_runs]
                direction = "A2B" if slot < training.n_runs else "B2A"
                told.put(("made", stack.name, (arm, seed, average, direction, stack.steps, chosen, fakes)))
        told.put(("log", stack.name, "done"))
    except BaseException:
        told.put(("failed", stack.name, traceback.format_exc()))
        barrier.abort()


def faster_convolution(device: torch.device, slots: int = 96) -> tuple[bool, dict[str, float]]:
    """Whether unfolded patches are faster than grouped convolutions here, and what both take, in seconds."""
    from study.stacked_networks import StackedUNet

    network = StackedUNet(range(slots)).to(device)
    images = torch.randn(2, slots, 64, 64, device=device)
    took = {}
    for name, unfolded in (("unfolded", True), ("grouped", False)):
        StackedConv.unfolded = unfolded
        for _ in range(4):
            begun = time.monotonic()
            network(images).square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            took[name] = time.monotonic() - begun
    return took["unfolded"] < took["grouped"], took


def main() -> int:
    """Run a batch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--slices", required=True)
    parser.add_argument("--batch", choices=sorted(BATCHES), required=True)
    parser.add_argument("--seconds", type=float, default=270.0)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--scorers", type=int, default=12)
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    deadline = begun + chosen.seconds
    log = open(chosen.out / "log.txt", "a", encoding="utf-8", buffering=1)

    def note(text: str) -> None:
        line = f"{time.monotonic() - begun:7.1f} s  {text}"
        print(line, flush=True)
        log.write(line + "\n")

    stacks: list[Stack] = BATCHES[chosen.batch]
    unfolded, took = faster_convolution(torch.device(chosen.device), 96 if chosen.device == "cuda" else 2)
    note(f"a generator forward and backward: {took}; unfolded: {unfolded}")
    if chosen.device == "cuda":
        torch.cuda.empty_cache()
    context = get_context("spawn")
    told, barrier, agreed = context.Queue(), context.Barrier(len(stacks)), context.Value("d", 0.0)
    processes = {
        stack.name: context.Process(
            target=_train,
            args=(stack, chosen.slices, chosen.device, unfolded, barrier, told, agreed, deadline - SECONDS_FOR_THE_END),
            daemon=True,
        )
        for stack in stacks
    }
    for process in processes.values():
        process.start()
    rates: dict[str, float] = {}
    failed: set[str] = set()
    waiting: list[tuple[dict[str, Any], Any]] = []
    lines = open(chosen.out / "results.jsonl", "a", encoding="utf-8", buffering=1)
    pool = ProcessPoolExecutor(chosen.scorers, mp_context=context, initializer=_load, initargs=(chosen.slices,))
    arms = {stack.name: {arm: knobs.plain_values() for arm, knobs in stack.arms.items()} for stack in stacks}
    (chosen.out / "arms.json").write_text(json.dumps(arms, indent=1), encoding="utf-8")
    count = 0

    def collect(patience: float) -> None:
        nonlocal waiting, count
        for label, future in waiting:
            if future.done():
                try:
                    lines.write(json.dumps({**label, "scores": future.result()}) + "\n")
                    count += 1
                except BaseException as error:
                    note(f"scoring {label} failed: {error!r}")
        waiting = [(label, future) for label, future in waiting if not future.done()]
        if patience:
            time.sleep(patience)

    while time.monotonic() < deadline - 3:
        collect(0.0)
        alive = any(process.is_alive() for process in processes.values())
        try:
            kind, name, content = told.get(timeout=0.2)
        except queue.Empty:
            if not alive and not waiting:
                break
            if agreed.value == 0 and rates and len(rates) + len(failed) >= len(stacks):
                left = deadline - SECONDS_FOR_THE_END - 8 - time.monotonic()
                slowest = max(rates[stack.name] * stack.steps for stack in stacks if stack.name in rates)
                agreed.value = min(1.0, left / (1.1 * slowest))
                note(f"seconds a step: {rates}; {left:.0f} s left; share of the steps: {agreed.value:.2f}")
            continue
        if kind == "rate":
            rates[name] = content
        elif kind == "made":
            arm, seed, average, direction, steps, indices, fakes = content
            label = {
                "stack": name,
                "arm": arm,
                "seed": seed,
                "average": average,
                "direction": direction,
                "steps": steps,
            }
            waiting.append((label, pool.submit(scored, direction, indices, fakes)))
        else:
            failed |= {name} if kind == "failed" else set()
            note(f"{name}: {content}")
    while waiting and time.monotonic() < deadline:
        collect(0.1)
    note(f"{count} lines; {len(waiting)} left unscored")
    for process in processes.values():
        if process.is_alive():
            process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    log.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
