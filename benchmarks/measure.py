"""How the benchmarks here measure: variants side by side in one run, so that a busy machine troubles all alike."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from roi_progressive.check.step_cost import flop_counter

Step = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value or more."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(median, low, high)

    def text(self, digits: int = 2) -> str:
        """``median [low, high]``."""
        return f"{self.median:.{digits}f} [{self.low:.{digits}f}, {self.high:.{digits}f}]"

    def percent(self) -> str:
        """``+median % [low, high]`` of what exceeds 1."""
        low, high = 100 * (self.low - 1), 100 * (self.high - 1)
        return f"{100 * (self.median - 1):+.1f} % [{low:+.1f}, {high:+.1f}]"


@dataclass
class Times:
    """Seconds of one variant, round by round: on the clock, and of the processor on all threads.

    The processor's are what an idle machine with one thread would show on the clock, even where this one is busy.
    """

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def clock_of(device: torch.device) -> Callable[[Step], float]:
    """What tells the seconds of a step: on a CUDA device its own events, between which the CPU may run ahead."""
    return _seconds_between_events if device.type == "cuda" else _wall_seconds


def _wall_seconds(step: Step) -> float:
    begin = time.perf_counter()
    step()
    return time.perf_counter() - begin


def _seconds_between_events(step: Step) -> float:
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    step()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def times_side_by_side(
    variants: Mapping[str, Step], rounds: int, *, warm: bool = False, clock: Callable[[Step], float] = _wall_seconds
) -> dict[str, Times]:
    """Seconds of every variant in every round; each runs once before, unmeasured, unless they are warm.

    The order is turned round from one round to the next, so that none always follows the same other.
    """
    for step in () if warm else variants.values():
        step()
    times = {name: Times() for name in variants}
    for number in range(rounds):
        for name in sorted(variants, reverse=number % 2 == 1):
            cpu = time.process_time()
            times[name].wall.append(clock(variants[name]))
            times[name].cpu.append(time.process_time() - cpu)
    return times


def ratios(of: Sequence[float], to: Sequence[float]) -> Spread:
    """The ratio within each round, over the rounds."""
    return Spread.of([a / b for a, b in zip(of, to, strict=True)])


def flops_of(step: Step) -> int:
    """Floating-point operations of the convolutions and matrix products of one call."""
    with flop_counter() as counter:
        step()
    return int(counter.get_total_flops())


_ALLOCATIONS = {
    torch.ops.aten.empty.memory_format,
    torch.ops.aten.empty_like.default,
    torch.ops.aten.empty_strided.default,
}


class _LaunchCounter(TorchDispatchMode):
    """Counts the aten operations that are dispatched to a device, views left out."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not self.paused and func.namespace == "aten" and not _is_view(func) and func not in _ALLOCATIONS:
            self.counts[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))

    def pause(self, *_: Any) -> None:
        """From here on nothing is counted: an optimizer is at work."""
        self.paused = True

    def go_on(self, *_: Any) -> None:
        """The optimizer is done."""
        self.paused = False


def _is_view(func: Any) -> bool:
    """Whether an operator gives another look at its input, and starts nothing."""
    return any(result.alias_info is not None and not result.alias_info.is_write for result in func._schema.returns)


def launches_of(step: Step) -> Counter[str]:
    """The aten operations that one call dispatches, by operator; views and what optimizers do are left out."""
    counter = _LaunchCounter()
    hooks = [
        register_optimizer_step_pre_hook(counter.pause),
        register_optimizer_step_post_hook(counter.go_on),
    ]
    try:
        with counter:
            step()
    finally:
        for hook in hooks:
            hook.remove()
    return counter.counts


# What makes the CPU wait for a CUDA device, by the names that torch's profiler gives.
SYNCHRONISATIONS = ("cudaDeviceSynchronize", "cudaStreamSynchronize", "cudaMemcpy", "aten::_local_scalar_dense")
LATE_READS = ("cudaEventSynchronize",)
"""Waits for a number that was sent off earlier."""


def waits_among(names: Iterable[str], kinds: Sequence[str] = SYNCHRONISATIONS) -> Counter[str]:
    """How often each kind of wait occurs among the names of a profile's events."""
    return Counter(name for name in names if name in kinds)


# By which a CUDA kernel is started; the latter ones are the libraries' own.
LAUNCHES = ("cudaLaunchKernel", "cudaLaunchKernelExC", "cuLaunchKernel", "cuLaunchKernelEx")


def kernels_among(names: Iterable[str]) -> int:
    """How many CUDA kernels were started, by the names of a profile's events."""
    return sum(name in LAUNCHES for name in names)


def kernels_of(step: Step) -> int:
    """How many CUDA kernels one call starts."""
    return kernels_among(profiled(step))


def profiled(step: Step, trace: Path | None = None) -> list[str]:
    """The names of all events of one call; its trace is written to a file for chrome://tracing where one is named."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    with profile(activities=activities) as of_step:
        step()
    if trace is not None:
        of_step.export_chrome_trace(str(trace))
    return [event.name for event in of_step.events() or ()]


def peak_bytes_of(step: Step, device: torch.device | None = None) -> int:
    """Most bytes of tensors that were alive at once in one call, beyond those alive before it.

    On the CPU taken from the allocator's own events, which do not jitter; what a convolution library allocates for
    itself within one of its calls is not among them. On a CUDA device the allocator's own figure.
    """
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    roots: Any = profiled.profiler.kineto_results.experimental_event_tree()  # type: ignore[union-attr]  # set once profiled
    alive: dict[int, int] = {}
    now = peak = 0
    for address, change in sorted_allocations(roots):
        if change > 0:
            alive[address] = change
            now += change
            peak = max(peak, now)
        else:  # what was there before the call is not counted when it goes either
            now -= alive.pop(address, 0)
    return peak


def sorted_allocations(roots: Any) -> list[tuple[int, int]]:
    """Address and bytes of every allocation (positive) and release (negative) in a profile, in time."""
    found, waiting = [], list(roots)
    while waiting:
        node = waiting.pop()
        waiting += node.children
        size = getattr(node.extra_fields, "alloc_size", None)
        if size is not None:
            found.append((node.start_time_ns, node.extra_fields.ptr, size))
    return [(address, size) for _, address, size in sorted(found)]


def saved_tensors_of(step: Step) -> list[int]:
    """Bytes of each tensor that autograd keeps for the backward pass of one call, views of one storage once."""
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        result = step()
    del result  # held until here, lest its storage be used again and counted once
    return sorted(kept.values())


def table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, its columns aligned."""
    widths = [max(len(row[column]) for row in (heading, *rows)) for column in range(len(heading))]
    lines = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in (heading, *rows)]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def parser(description: str | None, *, rounds: int) -> argparse.ArgumentParser:
    """The arguments every benchmark has."""
    made = argparse.ArgumentParser(description=(description or "").partition("\n")[0])
    made.add_argument("--rounds", type=int, default=rounds, help=f"measurements of every variant (default {rounds})")
    made.add_argument("--threads", type=int, default=None, help="threads of torch (default: its own choice)")
    made.add_argument(
        "--quick", action="store_true", help="a smoke test: tiny networks, one round; figures mean nothing"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures to FILE as well")
    return made


def parsed(arguments: argparse.ArgumentParser) -> argparse.Namespace:
    """Read the command line, and give torch the threads it asks for."""
    chosen = arguments.parse_args()
    if chosen.rounds < 1:
        arguments.error("--rounds must be at least 1")
    if chosen.threads is not None:
        torch.set_num_threads(chosen.threads)
    if chosen.quick:
        chosen.rounds = 1
        torch.set_num_threads(1)
    return chosen


def name_of(device: torch.device) -> str:
    """What a device calls itself."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def write(figures: Mapping[str, Any], file: Path | None, device: torch.device | None = None) -> None:
    """Write the figures as JSON, with the machine's side of them, where a file is named."""
    if file is None:
        return
    name = "cpu" if device is None else name_of(device)
    machine = {"torch": torch.__version__, "threads": torch.get_num_threads(), "device": name}
    plain = json.dumps({"machine": machine, **figures}, indent=2, default=asdict)
    file.write_text(plain + "\n", encoding="utf-8")
