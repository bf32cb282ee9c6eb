"""Weak scaling of our part of a step, from one process to two.

    python benchmarks/ranks.py [--runs N] [--quick] [--json FILE]

Each process has a core, a batch of its own, a liver of 100 x 90 px and a tumour of 24 px. Measured is what we add to a
plain script, ``generator_loss`` and ``discriminator_step`` with their exchanges between the processes; the host's own
networks are next to nothing. One process and two are started in turn, N times; the efficiency is the time of one
process over that of two: 1 is perfect.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

from roi_progressive import Config, RegionConfig, attach
from roi_progressive.runtime.distributed import leave_processes

WARM_UP = 3


def our_seconds(side_px: int, steps: int) -> float:
    """Median seconds a step that this process spends in our two calls."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    generators = {direction: nn.Conv2d(1, 1, 3, padding=1) for direction in ("A2B", "B2A")}
    optimizer = torch.optim.Adam([p for generator in generators.values() for p in generator.parameters()])
    real = 2 * torch.rand(1, 1, side_px, side_px) - 1
    liver, tumour = torch.zeros_like(real), torch.zeros_like(real)
    liver[..., 8 : min(108, side_px - 8), 8 : min(98, side_px - 8)] = 1
    tumour[..., 20:44, 20:44] = 1
    masks = {"liver": liver, "tumor": tumour}
    regions = (RegionConfig("liver", scales=2, stage=1), RegionConfig("tumor", scales=3, stage=1))
    seconds = []
    with attach(generators, config=Config(regions=regions), n_epochs=1) as session:
        session.start_epoch(0)
        for _ in range(WARM_UP + steps):
            made = {"fake_B": generators["A2B"](real), "fake_A": generators["B2A"](real)}
            made |= {"rec_A": generators["B2A"](made["fake_B"]), "rec_B": generators["A2B"](made["fake_A"])}
            start = time.perf_counter()
            loss = session.generator_loss(real_A=real, real_B=real, masks_A=masks, masks_B=masks, **made)
            middle = time.perf_counter()
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            resumed = time.perf_counter()
            session.discriminator_step()
            seconds.append(time.perf_counter() - resumed + middle - start)
    return statistics.median(seconds[WARM_UP:])


def start(processes: int, arguments: argparse.Namespace) -> float:
    """Seconds of the slowest of so many new processes."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    size = ["--quick"] if arguments.quick else []
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*launcher, str(Path(__file__).resolve()), "--worker", *size]
    done = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env=env)
    return max(float(line) for line in done.stdout.split())


def work(quick: bool) -> None:
    """One of the processes."""
    dist.init_process_group("gloo")
    seconds = our_seconds(64 if quick else 256, 5 if quick else 20)
    # In one piece: the processes share their output.
    sys.stdout.write(f"{seconds}\n")
    sys.stdout.flush()
    dist.barrier()
    leave_processes()


def main() -> None:
    parser = argparse.ArgumentParser(description="Weak scaling of our part of a step, from one process to two.")
    parser.add_argument("--runs", type=int, default=5, help="measurements of either kind (default 5)")
    parser.add_argument("--quick", action="store_true", help="64 px and few steps: only whether it runs")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.runs < 1:
        parser.error("--runs must be at least 1")
    if arguments.worker:
        work(arguments.quick)
        return
    pairs = [(start(1, arguments), start(2, arguments)) for _ in range(arguments.runs)]
    ratios = sorted(one / two for one, two in pairs)
    one_s, two_s = (statistics.median(column) for column in zip(*pairs, strict=True))
    figures = {
        "runs": arguments.runs,
        "quick": arguments.quick,
        "one_process_s": one_s,
        "two_processes_s": two_s,
        "efficiency": statistics.median(ratios),
        "lowest": ratios[0],
        "highest": ratios[-1],
    }
    print(
        f"our part of a step: one process {one_s:.3f} s, two processes {two_s:.3f} s, weak-scaling efficiency "
        f"{figures['efficiency']:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f} in {arguments.runs} runs)"
    )
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
