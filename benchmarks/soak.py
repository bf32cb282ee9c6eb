"""Many steps of a toy host, attached, through all stages: does memory, do open files, do warnings grow?

    python benchmarks/soak.py
    python benchmarks/soak.py --quick

Twenty thousand steps in epochs of a hundred, through three stages, with the uncertainty heads, pools and a checkpoint
every thousand steps. Memory is the process's resident set, read every hundred steps after the first thousand, and told
stage by stage: a stage that begins brings its networks, moments and pools, once. Within each, the median of the last
tenth of the readings over that of the first. Status 1 where it grew by 2 % or more in any, where files or tensors were
left over, or where a warning came more often than once.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from roi_progressive import Config, RegionConfig, Session, StageConfig, attach
from roi_progressive.testing import ToyHost, phantom_config

STEPS_PER_EPOCH = 100
SAVED_EVERY_EPOCHS = 10
MOST_GROWTH = 0.02
TENSORS_IN_FLIGHT = 4  # flags of a step that the next one reads; what is left over of every step would be hundreds
LAST_STAGE = 3


@dataclass
class Readings:
    """What was seen along the run.

    Args:
        resident_kib: Resident memory at the end of every epoch after the first steps, by stage.
        open_files: Open file descriptors at the same moments.
        tensors: Tensors that Python holds, at the same moments of the last stage.
        stages: Numbers of the stages that began.
        warned: How often each warning came.
    """

    resident_kib: dict[int, list[int]] = field(default_factory=dict)
    open_files: list[int] = field(default_factory=list)
    tensors: list[int] = field(default_factory=list)
    stages: list[int] = field(default_factory=list)
    warned: Counter[str] = field(default_factory=Counter)

    @property
    def growth(self) -> float:
        """Of memory, within the stage in which it grew most, from its first tenth to its last, as a share."""
        return max(map(_growth, self.resident_kib.values()))

    @property
    def joined(self) -> float:
        """Of memory, over the whole run: what the stages brought, and what grew within them."""
        return _growth([kib for of_stage in self.resident_kib.values() for kib in of_stage])

    def faults(self) -> list[str]:
        """What is not as it should be, a line each."""
        found = [f"memory grew by {100 * self.growth:.2f} % within a stage"] if self.growth >= MOST_GROWTH else []
        if self.open_files[-1] != self.open_files[0]:
            found.append(f"open files went from {self.open_files[0]} to {self.open_files[-1]}")
        if self.tensors[-1] > self.tensors[0] + TENSORS_IN_FLIGHT:
            found.append(f"tensors went from {self.tensors[0]} to {self.tensors[-1]}")
        return found + [f"{count} times: {text}" for text, count in self.warned.items() if count > 1]


def _growth(readings: list[int]) -> float:
    """From the median of the first tenth to that of the last; in the first epoch of a stage its pools fill."""
    settled = readings[1:] or readings
    tenth = max(1, len(settled) // 10)
    return statistics.median(settled[-tenth:]) / statistics.median(settled[:tenth]) - 1


def soak(n_steps: int, unmeasured_steps: int, folder: Path) -> Readings:
    """Train so many steps.

    Args:
        n_steps: In all.
        unmeasured_steps: The first ones, in which memory still settles.
        folder: For checkpoints.
    """
    n_epochs = n_steps // STEPS_PER_EPOCH
    host = ToyHost(folder, n_epochs=n_epochs)
    batches = list(host.batches(10))
    seen = Readings()
    with warnings.catch_warnings(record=True) as caught, attach(host, None, config()) as session:
        warnings.simplefilter("always")
        for step, batch in _steps(session, host, batches, n_epochs, seen):
            host.step(batch)
            if step > unmeasured_steps and step % STEPS_PER_EPOCH == 0:
                gc.collect()
                seen.resident_kib.setdefault(session.stage.number, []).append(resident_kib())
                seen.open_files.append(len(os.listdir("/proc/self/fd")))
                if session.stage.number == LAST_STAGE and step * 6 > n_steps * 5:  # the pools are full by then
                    seen.tensors.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
            seen.warned.update(str(warning.message).partition("\n")[0] for warning in caught)
            caught.clear()
    return seen


def _steps(
    session: Session, host: ToyHost, batches: list[Any], n_epochs: int, seen: Readings
) -> Iterator[tuple[int, Any]]:
    """The user's loop: step from 1, batch."""
    for epoch in range(1, n_epochs + 1):
        stage = session.start_epoch(epoch)
        if stage.number not in seen.stages:
            seen.stages.append(stage.number)
        for place in range(STEPS_PER_EPOCH):
            yield (epoch - 1) * STEPS_PER_EPOCH + place + 1, batches[place % len(batches)]
        if epoch % SAVED_EVERY_EPOCHS == 0:
            session.save(Path(host.save_dir) / "latest_roi_progressive.pth")


def config() -> Config:
    """The tumour from stage 2 on, the liver from stage 3, small networks."""
    small: dict[str, Any] = {"scales": 1, "windows_px": (16, 32), "base_channels": 2, "layers": 1}
    regions = tuple(RegionConfig(name, batch_key=f"{{domain}}_{name}", **small) for name in ("tumor", "liver"))
    return phantom_config(regions=regions, stages=StageConfig(fade_fraction=0.05), pool_size=10, resume="exact")


def resident_kib() -> int:
    """Of this process, as Linux counts it."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS:")).split()[1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000, help="in all, a multiple of a thousand (%(default)s)")
    parser.add_argument("--quick", action="store_true", help="twelve hundred steps: it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    n_steps, unmeasured_steps = (1200, 400) if options.quick else (options.steps, 1000)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        seen = soak(n_steps, unmeasured_steps, Path(folder))
    print("| steps | stages | resident memory, KiB | in all | most within a stage | open files | tensors | warnings |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    resident = [kib for of_stage in seen.resident_kib.values() for kib in of_stage]
    ends = [f"{kind[0]} to {kind[-1]}" for kind in (resident, seen.open_files, seen.tensors)]
    growth = [f"{100 * share:+.2f} %" for share in (seen.joined, seen.growth)]
    cells = [str(n_steps), ", ".join(map(str, seen.stages)), ends[0], *growth, *ends[1:], str(seen.warned.total())]
    print(f"| {' | '.join(cells)} |")
    print("".join(f"fault: {fault}\n" for fault in seen.faults()), end="")
    if options.json is not None:
        figures = {
            "steps": n_steps,
            "growth": seen.growth,
            "joined": seen.joined,
            "stages": seen.stages,
            "faults": seen.faults(),
        }
        options.json.write_text(json.dumps(figures) + "\n", encoding="utf-8")
    return 1 if seen.faults() and not options.quick else 0


if __name__ == "__main__":
    if main():
        sys.exit(1)
